"""The trials of a search, shared by any number of processes through a folder.

    <folder>/study.yaml     the config, the space, and how trials are chosen
    <folder>/journal.log    what Optuna knows: settings, values, states
    <folder>/trials/<n>     the run directory of each trial

A trial is claimed under a lock of the folder, and held by a lock of its own for as long as its
process lives: both are the kernel's, so that what a killed process held is free at once. A trial
that nobody holds and that has not ended is taken up by whoever comes next, from its `last.pt` if it
has one. One whose processes were killed twice without a checkpoint in between has failed: it might
be what kills them.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from deepfm.checkpoint import RunDirectory, flatten
from deepfm.errors import ConfigError, DeepFMError
from deepfm.tuning.space import Choices, Range, Space
from deepfm.utils.io import atomic_write_bytes, make_directory
from deepfm.utils.locks import HeldElsewhere, SoleLock, exclusive_lock
from deepfm.utils.seeding import derive_seed

_NAME = "deepfm"  # of the one study in a journal
_REASON, _KILLED, _LEFT = "reason", "killed", "left"  # attributes of a trial
_STARTUP = 5  # trials that are never pruned: there is nothing to compare them with
_PER_EPOCH = 1000  # Optuna counts progress in whole steps: thousandths of an epoch

SAMPLERS = ("tpe", "random")


@dataclass(frozen=True)
class Plan:
    """What a search is: equal plans have equal trials.

    Attributes:
        config: The experiment as plain data, without its `output_dir`.
        space: What may change.
        metric: What is compared, a name in `metrics.json`.
        maximize: Whether more of it is better.
        sampler: One of `SAMPLERS`.
        seed: Of the choices.
        first: Settings of the first trial, if any.
    """

    config: dict[str, Any]
    space: Space
    metric: str
    maximize: bool
    sampler: str
    seed: int
    first: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As `study.yaml` has it."""
        space = {key: dimension.plain() for key, dimension in self.space.items()}
        return vars(self) | {"space": space}


@dataclass(frozen=True)
class Trial:
    """What is known of a trial.

    Attributes:
        number: From 0.
        state: `running`, `finished`, `pruned` or `failed`.
        settings: Its values of the keys of the space.
        value: The metric at its end, or where it was pruned; None if it has none.
        evaluations: The epochs so far and the metric, of each in the course of training.
        seconds: Between its beginning and its end, as a clock on the wall has them.
        reason: Why it was pruned or failed.
        run: Its directory.
    """

    number: int
    state: str
    settings: dict[str, Any]
    value: float | None
    evaluations: tuple[tuple[float, float], ...]
    seconds: float | None
    reason: str
    run: Path

    @property
    def epochs(self) -> float:
        """How far it came, as far as an evaluation tells."""
        return self.evaluations[-1][0] if self.evaluations else 0.0


_STATES = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


class Study:
    """The trials in a folder.

    Raises:
        ConfigError: Another search stands there.
        DeepFMError: The disk refuses.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        make_directory(folder, f"{folder}: cannot be written")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with self._locked():
            self._check(plan)
            lock: Any = _JournalLock(folder)  # Optuna names no public type for it
            backend = JournalFileBackend(str(folder / "journal.log"), lock_obj=lock)
            self._storage = JournalStorage(backend)
            self._study = optuna.create_study(
                storage=self._storage,
                study_name=_NAME,
                direction="maximize" if plan.maximize else "minimize",
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(
                    n_startup_trials=_STARTUP, n_warmup_steps=_PER_EPOCH
                ),
            )
        self._distributions = {key: _distribution(item) for key, item in plan.space.items()}

    def trials(self) -> list[Trial]:
        """All trials so far, in their order."""
        return [self._trial(found) for found in self._study.get_trials(deepcopy=False)]

    def best(self) -> Trial | None:
        """The finished trial with the best value, the first of equal ones; None without any."""
        finished = [t for t in self.trials() if t.state == "finished" and t.value is not None]
        sign = -1 if self.plan.maximize else 1
        return min(finished, key=lambda trial: sign * (trial.value or 0.0), default=None)

    @contextlib.contextmanager
    def claimed(self, total: int, *, may_begin: bool = True) -> "Iterator[Claim | None]":
        """A trial that this process alone works on while the block lasts; None: nobody's is left.

        One that was left by its process comes first, then a new one.

        Args:
            total: Trials of all processes together.
            may_begin: Whether a new one may begin.
        """
        with self._locked():
            claim = self._left_behind()
            if claim is None and may_begin and len(self._study.get_trials(deepcopy=False)) < total:
                claim = self._added()
        if claim is None:
            yield None
            return
        try:
            yield claim
        finally:
            if not claim.has_ended:  # stopped in order: that is no death
                claim.note(_LEFT, True)
            claim.release()

    def is_running(self) -> bool:
        """Whether a trial has not ended."""
        return any(trial.state == "running" for trial in self.trials())

    def _left_behind(self) -> "Claim | None":
        """A trial that has not ended and is held by nobody; it is this process's now."""
        for found in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            with contextlib.suppress(HeldElsewhere):
                claim = Claim(self, found.number)
                attributes = found.user_attrs
                if attributes.get(_LEFT):
                    claim.note(_LEFT, False)
                elif attributes.get(_KILLED) == claim.progress():
                    claim.end("failed", None, "its process was killed twice at the same place")
                    claim.release()
                    continue
                else:
                    claim.note(_KILLED, claim.progress())
                return claim
        return None

    def _added(self) -> "Claim":
        """A new trial, with settings that depend on the seed, its number, and those before it."""
        before = self._study.get_trials(deepcopy=False)
        drawn = self._drawn(before)
        # The lock comes first: a trial that has begun is held by somebody at every moment. It is
        # written at once, so that a kill leaves no trial with some of its settings.
        claim = Claim(self, len(before))
        begun = optuna.trial.create_trial(
            state=TrialState.RUNNING, params=drawn, distributions=self._distributions
        )
        try:
            self._study.add_trial(begun)
        except BaseException:
            claim.release()
            raise
        return claim

    def _drawn(self, before: list[FrozenTrial]) -> dict[str, Any]:
        """Settings of the next trial, drawn in a copy of the study that is in memory only."""
        plan = self.plan
        seed = derive_seed(plan.seed, "trial", len(before)) % 2**32
        sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=seed)
        if plan.sampler == "tpe":
            sampler = optuna.samplers.TPESampler(seed=seed)
        copy = optuna.create_study(direction=self._study.direction, sampler=sampler)
        copy.add_trials(before)
        if not before and plan.first:
            copy.enqueue_trial({k: _stored(plan.space[k], v) for k, v in plan.first.items()})
        drawn: dict[str, Any] = copy.ask(self._distributions).params
        return drawn

    def _trial(self, found: FrozenTrial) -> Trial:
        settings = {k: _given(self.plan.space[k], v) for k, v in found.params.items()}
        begun, ended = found.datetime_start, found.datetime_complete
        seconds = (ended - begun).total_seconds() if begun and ended else None
        steps = sorted(found.intermediate_values.items())
        value = steps[-1][1] if found.value is None and steps else found.value
        return Trial(
            number=found.number,
            state=_STATES[found.state],
            settings=settings,
            value=value,
            evaluations=tuple((step / _PER_EPOCH, reported) for step, reported in steps),
            seconds=seconds,
            reason=found.user_attrs.get(_REASON, ""),
            run=self._run(found.number),
        )

    def _run(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:04}"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with exclusive_lock(self.folder / ".lock"):
            yield

    def _check(self, plan: Plan) -> None:
        """Write down what is searched, or refuse another search in the same folder."""
        path = self.folder / "study.yaml"
        text = yaml.safe_dump(plan.to_dict(), sort_keys=False, allow_unicode=True)
        if not path.exists():
            atomic_write_bytes(path, text.encode())
            return
        try:
            before = yaml.safe_load(path.read_text())
            old, new = flatten(before), flatten(yaml.safe_load(text))
        except (OSError, ValueError, AttributeError, yaml.YAMLError):
            raise ConfigError(f"{path} cannot be read; --output names another folder") from None
        changed = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
        if changed:
            first = changed[0]
            raise ConfigError(
                f"{self.folder} holds the trials of another search ({', '.join(changed[:5])} "
                f"changed: {first} was {old.get(first)!r}, is {new.get(first)!r}); --output names "
                "another folder"
            )


class Claim:
    """A trial that this process alone works on.

    Raises:
        HeldElsewhere: Another process does.
        DeepFMError: The disk refuses.
    """

    def __init__(self, study: Study, number: int) -> None:
        self._study, self.number = study, number
        self.run = RunDirectory(study._run(number))
        self.run.make()
        try:
            self._lock = SoleLock(self.run.path / ".trial")
        except OSError as error:
            raise DeepFMError(f"{self.run.path}: cannot be written: {error.strerror}") from None
        self.has_ended = False

    def release(self) -> None:
        """Let others take it up, if it has not ended."""
        self._lock.release()

    def trial(self) -> Trial:
        """What is known of it."""
        return self._study._trial(self._found())

    def progress(self) -> int:
        """Changes with each checkpoint; 0 where there is none."""
        try:
            return os.stat(self.run.last).st_mtime_ns
        except FileNotFoundError:
            return 0

    def note(self, name: str, value: Any) -> None:
        """Keep an attribute of the trial."""
        self._study._storage.set_trial_user_attr(self._id(), name, value)

    def report(self, epochs: float, value: float) -> bool:
        """Note a value after so many epochs; whether the trial should be pruned.

        A value of a moment that was noted before a kill is the same again.
        """
        storage, study = self._study._storage, self._study._study
        step = round(epochs * _PER_EPOCH)
        if step not in self._found().intermediate_values:
            storage.set_trial_intermediate_value(self._id(), step, value)
        return bool(study.pruner.prune(study, self._found()))

    def end(self, state: str, value: float | None, reason: str = "") -> None:
        """The trial has ended, for all processes.

        Args:
            state: `finished`, `pruned` or `failed`.
            value: Of one that has finished.
            reason: Why it has not.
        """
        if reason:
            self.note(_REASON, reason)
        states = {name: found for found, name in _STATES.items() if name != "running"}
        self._study._study.tell(self.number, value, state=states[state])
        self.has_ended = True

    def _found(self) -> FrozenTrial:
        return self._study._study.get_trials(deepcopy=False)[self.number]

    def _id(self) -> int:
        return self._found()._trial_id


class _JournalLock:
    """The kernel's lock of Optuna's journal; who gets it cuts off a line that a kill left half."""

    def __init__(self, folder: Path) -> None:
        self._path, self._journal = folder / ".journal", folder / "journal.log"
        self._held = contextlib.ExitStack()

    def acquire(self) -> bool:
        self._held.enter_context(exclusive_lock(self._path))
        with contextlib.suppress(FileNotFoundError), self._journal.open("rb+") as file:
            content = file.seek(0, os.SEEK_END)
            while content:  # from the end: a line is short
                start = max(content - 4096, 0)
                file.seek(start)
                if (newline := file.read(content - start).rfind(b"\n")) >= 0:
                    content = start + newline + 1
                    break
                content = start
            file.truncate(content)
        return True

    def release(self) -> None:
        self._held.close()


def _distribution(dimension: Choices | Range) -> BaseDistribution:
    """What Optuna draws from; choices are kept as JSON, since it knows no lists."""
    if isinstance(dimension, Choices):
        return CategoricalDistribution([json.dumps(value) for value in dimension.values])
    if dimension.is_whole:
        low, high, step = int(dimension.low), int(dimension.high), int(dimension.step or 1)
        return IntDistribution(low, high, log=dimension.log, step=step)
    return FloatDistribution(
        float(dimension.low), float(dimension.high), log=dimension.log, step=dimension.step
    )


def _stored(dimension: Choices | Range, value: Any) -> Any:
    """A value of a config as Optuna has it."""
    return json.dumps(value) if isinstance(dimension, Choices) else value


def _given(dimension: Choices | Range, value: Any) -> Any:
    """The inverse."""
    return json.loads(value) if isinstance(dimension, Choices) else value
