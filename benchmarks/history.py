"""What a history brings on MovieLens-100K, and whether it is the order that brings it.

    python benchmarks/history.py --config configs/deepfm_movielens.yaml --seeds 3

Trains a config whose `data` has a history in four ways: without it; with `ties: exclude`, where a
row sees no event of its own second; with `ties: order`, which trusts the file within a second; and
with `ties: order` after each user's training rows have changed places with each other at random.
In that control every row keeps its time, held-out rows and candidates stay what they are, and what
a row sees says nothing about order any more.

Figures are of the validation split, means over seeds; `--test` adds the test split.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa

from deepfm import data as package
from deepfm import experiment
from deepfm.config import ExperimentConfig, load_config
from deepfm.data import Adapter
from deepfm.data.schema import DatasetSchema
from deepfm.data.sources.tables import RawTables, id_field
from deepfm.data.splits import leave_one_out

SHUFFLED = "shuffled"
METRICS = ("hr@10", "ndcg@10")


class Shuffled:
    """An adapter's data, in which each user's training rows have changed places at random."""

    def __init__(self, adapter: Adapter, *, min_interactions: int) -> None:
        self._adapter = adapter
        self._min_interactions = min_interactions

    def schema(self) -> DatasetSchema:
        return self._adapter.schema()

    def load(self, data_dir: Path, auto_download: bool) -> RawTables:
        tables = self._adapter.load(data_dir, auto_download)
        rows, schema = tables.interactions, self.schema()
        user = tables.positions(schema, rows, "user").to_numpy()
        time = rows[schema.time_column].to_numpy()
        train = leave_one_out(user, time, min_interactions=self._min_interactions).train
        places = np.arange(len(user))
        rng = np.random.default_rng(0)
        for own in np.split(train[np.argsort(user[train], kind="stable")], _ends(user[train])):
            places[own] = rng.permutation(own)
        kept = {id_field(schema, "user").column, schema.time_column}
        moved = rows.take(pa.array(places))
        columns = {n: (rows if n in kept else moved)[n] for n in rows.column_names}
        return tables._replace(interactions=pa.table(columns))


def _ends(user: np.ndarray) -> np.ndarray:
    """Where each user's rows end, in the order of users, but for the last one's."""
    return np.cumsum(np.unique(user, return_counts=True)[1])[:-1]


def variants(config: ExperimentConfig) -> Iterator[tuple[str, ExperimentConfig]]:
    """The config in four ways."""
    data = config.data
    if data.history is None:
        raise SystemExit("the config has no data.history")
    for name, ties in (("ties: exclude", "exclude"), ("ties: order", "order")):
        history = replace(data.history, ties=ties)
        yield name, replace(config, data=replace(data, history=history))
    shuffled = replace(data, dataset_name=SHUFFLED, history=replace(data.history, ties="order"))
    yield "ties: order, shuffled", replace(config, data=shuffled)
    yield "no history", replace(config, data=replace(data, history=None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", default="configs/deepfm_movielens.yaml")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--test", action="store_true", help="show the test split too")
    parser.add_argument("--override", nargs="+", default=[], metavar="a.b=c")
    arguments = parser.parse_args()
    config = load_config(arguments.config, arguments.override)
    adapter = package.ADAPTERS[config.data.dataset_name]
    package.ADAPTERS[SHUFFLED] = Shuffled(adapter, min_interactions=config.data.min_interactions)
    splits = ("valid", "test") if arguments.test else ("valid",)
    protocols = {"of 100": lambda found: found["ranking_99"], "of 1,000": lambda found: found}
    titles = [f"{s} {m} {p}" for s in splits for p in protocols for m in METRICS]
    print(f"{'':24}" + "".join(f"{title:>24}" for title in titles))
    for name, variant in variants(config):
        found = []
        for seed in range(config.seed, config.seed + arguments.seeds):
            with TemporaryDirectory() as folder:
                run = replace(variant, seed=seed, output_dir=folder)
                metrics = experiment.train(run, overwrite=True)
            found.append(
                [of(metrics[s])[m] for s in splits for of in protocols.values() for m in METRICS]
            )
        mean, deviation = np.mean(found, axis=0), np.std(found, axis=0, ddof=min(1, len(found) - 1))
        cells = (f"{m:.4f} ± {d:.4f}" for m, d in zip(mean, deviation, strict=True))
        print(f"{name:24}" + "".join(f"{cell:>24}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
