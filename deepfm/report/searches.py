"""What `deepfm tune` left of a search, read for its page: `trials.json`, as plain data."""

import json
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from deepfm.errors import CheckpointError

NAME = "trials.json"
STATES = ("finished", "pruned", "failed", "running")


class SearchTrial(NamedTuple):
    """A trial of a search.

    Attributes:
        number: From 0.
        state: One of `STATES`.
        settings: Values of the keys of the space.
        value: The metric at its end, or where it was cut; None where there is no number.
        evaluations: Epochs so far and the metric, those that are numbers.
        seconds: That it took; None while it is running.
        reason: Why it was pruned or has failed.
    """

    number: int
    state: str
    settings: Mapping[str, Any]
    value: float | None
    evaluations: tuple[tuple[float, float], ...]
    seconds: float | None
    reason: str

    @property
    def epochs(self) -> float:
        """How far it came, as far as an evaluation tells."""
        return self.evaluations[-1][0] if self.evaluations else 0.0


class Search(NamedTuple):
    """A search.

    Attributes:
        folder: Where it stands.
        metric: What was compared on the validation rows.
        maximize: Whether more of it is better.
        sampler, seed: How settings were chosen.
        space: What each key may be: a list, or a range with `low` and `high`.
        trials: By number.
        best: The finished trial with the best value; None without any.
        as_it_stands: The trial of the config that nothing was changed in; None if there is none.
    """

    folder: Path
    metric: str
    maximize: bool
    sampler: str
    seed: int
    space: Mapping[str, Any]
    trials: tuple[SearchTrial, ...]
    best: SearchTrial | None
    as_it_stands: SearchTrial | None

    def gain(self, value: float, other: float) -> float:
        """By how much a value is better than another; below 0 where it is worse."""
        return value - other if self.maximize else other - value

    def of(self, state: str) -> list[SearchTrial]:
        """The trials in a state."""
        return [trial for trial in self.trials if trial.state == state]

    def counts(self) -> str:
        """How many trials are in which state."""
        return ", ".join(f"{len(self.of(state))} {state}" for state in STATES if self.of(state))


def is_search(path: str | Path) -> bool:
    """Whether a folder is one that `deepfm tune` writes to."""
    return (Path(path) / NAME).is_file() or (Path(path) / "study.yaml").is_file()


def read_search(folder: str | Path) -> Search:
    """The search in a folder.

    Raises:
        CheckpointError: It has not ended yet, or its file is damaged.
    """
    path = Path(folder) / NAME
    if not path.is_file():
        raise CheckpointError(
            f"{path} is not there yet: deepfm tune writes it when all trials have ended, and the "
            "same command goes on with them"
        )
    try:
        raw = json.loads(path.read_text())
        trials = tuple(_trial(one) for one in raw["trials"])
        by_number: dict[int | None, SearchTrial] = {one.number: one for one in trials}
        return Search(
            folder=Path(folder),
            metric=str(raw["metric"]),
            maximize=bool(raw["maximize"]),
            sampler=str(raw["sampler"]),
            seed=int(raw["seed"]),
            space=dict(raw["space"]),
            trials=trials,
            best=by_number.get(raw["best"]),
            as_it_stands=by_number.get(raw["as_it_stands"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: damaged: {type(error).__name__}: {error}") from None


def _trial(raw: Mapping[str, Any]) -> SearchTrial:
    return SearchTrial(
        number=int(raw["number"]),
        state=str(raw["state"]),
        settings=dict(raw["settings"]),
        value=_number(raw["value"]),
        evaluations=tuple((e, v) for e, v in raw["evaluations"] if _number(v) is not None),
        seconds=_number(raw["seconds"]),
        reason=str(raw["reason"]),
    )


def _number(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None
