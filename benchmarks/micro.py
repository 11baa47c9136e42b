"""What surrounds a training step: ranking, drawing negatives, loading batches.

    python benchmarks/micro.py --threads 1

Each task is done by our public call and by the plain ways of doing it, alternating, each
`REPEATS` times; the medians are printed, one line of JSON per task, and for each other way the
median of ours over its own. The data have the sizes of MovieLens-100K.

- Ranking: 1,000 candidates for each of 943 users, scored by the model of W3 through
  `scoring.score_items`; against forward passes of flat batches of (user, item) rows, 4,096 at
  once, the fastest size, and 16,384, and against a forward pass per user. The scores must agree
  to 1e-5.
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
from functools import partial
from typing import NamedTuple

import numpy as np
import ours
import torch
from torch.utils.data import DataLoader, Dataset
from workloads import BATCH_SIZE, WORKLOADS, Split, generate

from deepfm.data.batch import Inputs
from deepfm.data.dataset import Catalogue
from deepfm.data.sampling import Interactions, draw_negatives
from deepfm.evaluation.scoring import score_items
from deepfm.models import build_model
from deepfm.models.base import BaseCTRModel

REPEATS = 3
NUM_USERS, NUM_ITEMS = WORKLOADS["W3"].cardinalities[:2]
INTERACTIONS = 100_000
SCORING_BATCH = 16_384
FLAT_BATCHES = {"flat batches": 4096, "flat batches of 16,384": SCORING_BATCH}


class Way(NamedTuple):
    """One way of doing a task."""

    name: str
    run: Callable[[], object]


def ranking(*, users: int = NUM_USERS, candidates: int = 1000) -> list[Way]:
    """Ways of scoring `candidates` items for each user; checked against each other."""
    workload, rng = WORKLOADS["W3"], np.random.default_rng(0)
    schema = ours.schema_of(workload)
    rows = ours.dataset_of(schema, generate(workload, NUM_ITEMS)).inputs
    model = build_model(schema, ours.config_of(workload, "lazy_adam")).eval()
    rows.sparse[:, 1] = torch.arange(1, NUM_ITEMS + 1)  # every item once, and every user
    rows.sparse[:users, 0] = torch.arange(1, users + 1)
    in_catalogue = Inputs(rows.sparse[:, 1:2], rows.dense, rows.sequence_ids, rows.sequence_lengths)
    catalogue = Catalogue.of(schema, in_catalogue)
    inputs = rows.select(slice(0, users))
    items = rng.integers(NUM_ITEMS, size=(users, candidates))

    def public_call() -> np.ndarray:
        return score_items(model, inputs, items, catalogue, batch_size=SCORING_BATCH)

    def in_batches(size: int) -> np.ndarray:
        return _in_batches(model, inputs, items, catalogue, size)

    sizes = FLAT_BATCHES | {"a pass per user": candidates}
    ways = [Way("ours", public_call)]
    ways += [Way(name, partial(in_batches, size)) for name, size in sizes.items()]
    expected = in_batches(SCORING_BATCH)
    for way in ways:
        np.testing.assert_allclose(way.run(), expected, atol=1e-5)
    return ways


@torch.inference_mode()
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
        catalogue.overwrite(pairs, torch.arange(len(part)), part)
        parts.append(model(pairs))
    return torch.cat(parts).numpy().reshape(items.shape)


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
    """Median wall and CPU seconds of each way, and how many times its CPU time the first takes."""
    seconds: dict[str, list[tuple[float, float]]] = {way.name: [] for way in ways}
    for _ in range(repeats):
        for way in ways:
            start = time.perf_counter(), time.process_time()
            way.run()
            end = time.perf_counter(), time.process_time()
            seconds[way.name].append((end[0] - start[0], end[1] - start[1]))
    medians = {
        name: [statistics.median(clock) for clock in zip(*taken, strict=True)]
        for name, taken in seconds.items()
    }
    first = medians[ways[0].name][1]
    return {
        name: {
            "wall_s": round(wall, 5),
            "cpu_s": round(cpu, 5),
            "ours_takes": round(first / cpu, 3),
        }
        for name, (wall, cpu) in medians.items()
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
