"""What surrounds a training step: ranking, drawing negatives, loading batches.

    python benchmarks/micro.py --threads 1

Each task is done by our public call and by the plain ways of doing it, alternating, each
`REPEATS` times; the medians are printed, one line of JSON per task. The data have the sizes of
MovieLens-100K.

- Ranking: 1,000 candidates for each of 943 users, scored by the model of W3 through
  `scoring.score_items`; against flat batches of (user, item) rows, and against a call per user.
  The scores must agree to 1e-5.
- Negatives: 4 for each of 80,000 positives, never an item the user knows, by
  `sampling.draw_negatives`; against a loop over a set of pairs. The set of known pairs is built
  before the clock starts.
- Loading: an epoch of W1 in shuffled batches, by `TabularDataset.epoch`; against torch's
  DataLoader over a dataset that returns a row per index, which is what most peers do.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import ours
import torch
from torch.utils.data import DataLoader, Dataset
from workloads import BATCH_SIZE, WORKLOADS, Split, generate

from deepfm.data.batch import Inputs
from deepfm.data.dataset import Catalogue
from deepfm.data.sampling import Interactions, draw_negatives
from deepfm.evaluation.scoring import score, score_items
from deepfm.models import build_model
from deepfm.models.base import BaseCTRModel

REPEATS = 3
NUM_USERS, NUM_ITEMS = WORKLOADS["W3"].cardinalities[:2]
INTERACTIONS = 100_000
SCORING_BATCH = 16_384


class Way(NamedTuple):
    """One way of doing a task."""

    name: str
    run: Callable[[], object]


def ranking(*, users: int = NUM_USERS, candidates: int = 1000) -> list[Way]:
    """Ways of scoring `candidates` items for each user; checked against each other."""
    workload, rng = WORKLOADS["W3"], np.random.default_rng(0)
    schema = ours.schema_of(workload)
    rows = ours.dataset_of(schema, generate(workload, NUM_ITEMS)).inputs
    model = build_model(schema, ours.config_of(workload, "lazy_adam"))
    rows.sparse[:, 1] = torch.arange(1, NUM_ITEMS + 1)  # every item once, and every user
    rows.sparse[:users, 0] = torch.arange(1, users + 1)
    in_catalogue = Inputs(rows.sparse[:, 1:2], rows.dense, rows.sequence_ids, rows.sequence_lengths)
    catalogue = Catalogue.of(schema, in_catalogue)
    inputs = rows.select(slice(0, users))
    items = rng.integers(NUM_ITEMS, size=(users, candidates))

    def public_call() -> np.ndarray:
        return score_items(model, inputs, items, catalogue, batch_size=SCORING_BATCH)

    def flat() -> np.ndarray:
        return _in_batches(model, inputs, items, catalogue, SCORING_BATCH)

    def per_user() -> np.ndarray:
        return _in_batches(model, inputs, items, catalogue, candidates)

    expected = flat()
    for way in (public_call, per_user):
        np.testing.assert_allclose(way(), expected, atol=1e-5)
    return [Way("ours", public_call), Way("flat batches", flat), Way("a call per user", per_user)]


def _in_batches(
    model: BaseCTRModel, inputs: Inputs, items: np.ndarray, catalogue: Catalogue, size: int
) -> np.ndarray:
    """Scores of all pairs, (U, C), from `size` assembled rows at a time."""
    wanted = torch.from_numpy(items.ravel())
    user = torch.arange(len(items)).repeat_interleave(items.shape[1])
    parts = []
    for start in range(0, len(wanted), size):
        pairs = inputs.select(user[start : start + size])
        part = wanted[start : start + size]
        catalogue.place(pairs, torch.arange(len(part)), part)
        parts.append(score(model, pairs, batch_size=size))
    return np.concatenate(parts).reshape(items.shape)


def negatives(*, positives: int = 80_000, count: int = 4) -> list[Way]:
    """Ways of drawing `count` unknown items for each positive."""
    rng = np.random.default_rng(0)
    user = rng.integers(NUM_USERS, size=INTERACTIONS)
    item = rng.integers(NUM_ITEMS, size=INTERACTIONS)
    known = Interactions(user, item, num_users=NUM_USERS, num_items=NUM_ITEMS)
    pairs = set(zip(user.tolist(), item.tolist(), strict=True))
    wanted = user[:positives]

    def loop() -> list[list[int]]:
        plain, drawn = random.Random(0), []
        for of_user in wanted.tolist():
            own: list[int] = []
            while len(own) < count:
                candidate = plain.randrange(NUM_ITEMS)
                if (of_user, candidate) not in pairs:
                    own.append(candidate)
            drawn.append(own)
        return drawn

    return [
        Way("ours", lambda: draw_negatives(wanted, count, known, np.random.default_rng(1))),
        Way("a Python loop", loop),
    ]


class _Rows(Dataset):
    """A row per index."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split.label)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.float32]:
        return self.split.sparse[index], self.split.dense[index], self.split.label[index]


def loading(*, rows: int = 65_536) -> list[Way]:
    """Ways of going through the shuffled batches of an epoch."""
    split = generate(WORKLOADS["W1"], rows)
    dataset = ours.dataset_of(ours.schema_of(WORKLOADS["W1"]), split)
    loader = DataLoader(_Rows(split), batch_size=BATCH_SIZE, shuffle=True)
    return [
        Way("ours", lambda: _drain(dataset.epoch(BATCH_SIZE, seed=0, epoch=0).batches())),
        Way("a DataLoader of rows", lambda: _drain(iter(loader))),
    ]


def _drain(batches: Iterator) -> None:
    for _ in batches:
        pass


TASKS = {
    f"ranking {NUM_USERS} users x 1,000 candidates": ranking,
    "4 negatives for 80,000 positives": negatives,
    "loading 65,536 rows of W1": loading,
}


def measure(ways: list[Way], *, repeats: int = REPEATS) -> dict[str, dict[str, float]]:
    """Median wall and CPU seconds of each way."""
    seconds: dict[str, list[tuple[float, float]]] = {way.name: [] for way in ways}
    for _ in range(repeats):
        for way in ways:
            start = time.perf_counter(), time.process_time()
            way.run()
            end = time.perf_counter(), time.process_time()
            seconds[way.name].append((end[0] - start[0], end[1] - start[1]))
    return {
        name: {
            "wall_s": round(statistics.median(wall for wall, _ in taken), 5),
            "cpu_s": round(statistics.median(cpu for _, cpu in taken), 5),
        }
        for name, taken in seconds.items()
    }


def main() -> None:
    """Prints a line of JSON per task."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for task, ways in TASKS.items():
        result = {"task": task, "threads": arguments.threads, "ways": measure(ways())}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
