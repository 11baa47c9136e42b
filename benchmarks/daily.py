"""What training on each day's rows brings where data drifts: against anew on all rows, and none.

    python benchmarks/daily.py --days 8 --rows 20000

Clicks of a feed are drawn day by day. Each day has users and items that nobody has seen before,
and the qualities of items and the tastes of users walk at random from day to day. What a day's
model predicts is the next day:

- `append`: the new day is appended to the store (`prepare --append`), and training goes on from the
  last checkpoint with the statistics of its optimizers, for one epoch of the new rows;
- `anew`: all days are prepared and trained on from scratch;
- `never`: the model of the first day stays.

A line per day has the LogLoss of each, that of the clicks' own probabilities, which no model can
beat but by chance, and the CPU seconds that preparing and training took.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv

from deepfm import experiment, preparing
from deepfm.config import ExperimentConfig, config_from_dict
from deepfm.prediction import Predictor

DIMS = 4  # of tastes
BASE = -1.5  # logit of a click where nothing else is known


class Day(NamedTuple):
    """The rows of a day, and the probability of each click, (N,)."""

    rows: pa.Table
    probability: np.ndarray


class Feed:
    """Users and items of a feed, which come and change day by day.

    Args:
        users, items: How many there are on the first day; one in ten is new on each later one.
        rows: Impressions per day.
        drift: Deviation of what changes in a day, of effects with a deviation of about 1.
        seed: Of all draws.
    """

    def __init__(self, users: int, items: int, rows: int, drift: float, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._rows, self._drift = rows, drift
        self._new = users // 10, items // 10
        self._tastes = self._drawn(users, DIMS)
        self._kinds, self._qualities = self._drawn(items, DIMS), self._drawn(items)
        self._hours = self._drawn(24)

    def _drawn(self, *shape: int) -> np.ndarray:
        return self._rng.normal(size=shape)

    def day(self) -> Day:
        """The next day."""
        rng, count = self._rng, self._rows
        user = rng.integers(0, len(self._tastes), count)
        # newer items are shown more often
        item = (len(self._kinds) * rng.beta(2, 1, count)).astype(int)
        hour = rng.integers(0, 24, count)
        match = (self._tastes[user] * self._kinds[item]).sum(1) / np.sqrt(DIMS)
        logit = BASE + match + self._qualities[item] + 0.5 * self._hours[hour]
        probability = 1 / (1 + np.exp(-logit))
        click = (rng.random(count) < probability).astype(int)
        rows = pa.table({"user": user, "item": item, "hour": hour, "click": click})
        self._pass()
        return Day(rows, probability)

    def _pass(self) -> None:
        """A night passes."""
        for effects in (self._tastes, self._kinds, self._qualities, self._hours):
            keeps = np.sqrt(1 - self._drift**2)  # so that deviations stay
            effects[:] = keeps * effects + self._drift * self._rng.normal(size=effects.shape)
        users, items = self._new
        self._tastes = np.concatenate([self._tastes, self._drawn(users, DIMS)])
        self._kinds = np.concatenate([self._kinds, self._drawn(items, DIMS)])
        self._qualities = np.concatenate([self._qualities, self._drawn(items)])


def config(folder: Path, days: int, way: str, **training: Any) -> ExperimentConfig:
    """Of the first days, for a way to train."""
    fields = {name: {"type": "sparse", "embedding_dim": 8} for name in ("user", "item", "hour")}
    return config_from_dict(
        {
            "device": "cpu",
            "output_dir": str(folder / f"{way}{days}"),
            "data": {
                "dataset_name": "tabular",
                "data_dir": str(folder),
                "store_dir": str(folder / f"stores of {way}"),
                "split_strategy": "random",
                "split_fractions": [0.95, 0.05, 0.0],
                "rows": "appended" if training.pop("newest", False) else "all",
                "table": {
                    "files": [f"day{day:02d}.csv" for day in range(1, days + 1)],
                    "label": "click",
                    "fields": fields,
                },
            },
            "dnn": {"hidden_units": [32, 16]},
            "training": {
                "batch_size": 512,
                "lr": 0.003,
                "sparse_optimizer": "lazy_adam",
                "metric": "logloss",
                "keep": "last",
                "threads": 1,
            }
            | training,
        }
    )


class Cost:
    """CPU seconds of what is done within `counted`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def counted(self) -> Iterator[None]:
        begun = time.process_time()
        yield
        self.seconds += time.process_time() - begun


def logloss(folder: Path, rows: pa.Table) -> float:
    """Of what the last checkpoint of a run says of some rows."""
    found = Predictor(folder / "last.pt").predict(rows)
    return entropy(np.asarray(found, np.float64), rows["click"].to_numpy())


def entropy(probability: np.ndarray, click: np.ndarray) -> float:
    """The LogLoss of probabilities."""
    return float(-np.log(np.where(click == 1, probability, 1 - probability)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--days", type=int, default=8, help="the last one is only predicted")
    parser.add_argument("--rows", type=int, default=20_000, help="per day")
    parser.add_argument("--users", type=int, default=500, help="on the first day")
    parser.add_argument("--items", type=int, default=100, help="on the first day")
    parser.add_argument("--drift", type=float, default=0.25, help="of effects, in a day")
    parser.add_argument("--epochs", type=int, default=3, help="of training from scratch")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    feed = Feed(given.users, given.items, given.rows, given.drift, given.seed)
    losses: list[list[float]] = []
    print("| day | append | anew | never | at best | append, s | anew, s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _write(folder, 1, feed.day())
        # imports and first calls are nobody's cost
        experiment.train(config(folder, 1, "warm-up", epochs=1))
        for day in range(1, given.days):
            append, anew = Cost(), Cost()
            with append.counted():
                if day == 1:
                    experiment.train(config(folder, 1, "append", epochs=given.epochs))
                else:
                    used = config(folder, day, "append", epochs=1, newest=True)
                    preparing.append_data(used)
                    last = folder / f"append{day - 1}" / "last.pt"
                    experiment.train(used, init_from=last, with_optimizer=True)
            with anew.counted():
                experiment.train(config(folder, day, "anew", epochs=given.epochs))
            following = feed.day()
            _write(folder, day + 1, following)
            rows, click = following.rows, following.rows["click"].to_numpy()
            runs = [f"append{day}", f"anew{day}", "anew1"]
            losses.append([logloss(folder / run, rows) for run in runs])
            losses[-1].append(entropy(following.probability, click))
            figures = " | ".join(f"{value:.4f}" for value in losses[-1])
            print(
                f"| {day + 1} | {figures} | {append.seconds:.1f} | {anew.seconds:.1f} |", flush=True
            )
    means = " | ".join(f"{value:.4f}" for value in np.mean(losses[1:], axis=0))
    print(f"| 3 to {given.days} | {means} | | |")


def _write(folder: Path, number: int, day: Day) -> None:
    pyarrow.csv.write_csv(day.rows, folder / f"day{number:02d}.csv")


if __name__ == "__main__":
    main()
