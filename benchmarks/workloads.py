"""The synthetic workloads on which every engine is measured; needs numpy only.

    python benchmarks/workloads.py --workload W1 --rows 400000 --score-rows 100000

Ids follow a Zipf law, p(k) ~ k^-1.05 for k = 1 ... cardinality: 1 is the most frequent id of its
field, as an encoder that sorts by count assigns them, and **0 is reserved for padding and unknown
values and never drawn**, so a table has cardinality + 1 rows. Dense values are uniform in [0, 1).
Labels are drawn from a hidden logistic model with one weight per id, one per dense field, and the
dot products of hidden vectors of rank 4 for all pairs of fields: there is something for both the
first-order and the interaction part to learn, and the AUC means something.

Arrays are written once as .npy under outputs/benchmarks/data, in a folder named by a hash of the
request and of this file.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

CACHE = Path(__file__).resolve().parents[1] / "outputs" / "benchmarks" / "data"
SEED = 20261122
ZIPF_EXPONENT = 1.05
HIDDEN_RANK = 4

EMBEDDING_DIM = 16
BATCH_SIZE = 4096
LEARNING_RATE = 1e-3


class Workload(NamedTuple):
    """The fields of a workload and the DNN that is trained on it."""

    name: str
    dense: int  # number of dense fields
    cardinalities: tuple[int, ...]  # ids of each sparse field, without the reserved 0
    sequence_cardinality: int  # ids of the multi-hot field; 0 if there is none
    sequence_length: int  # what its rows are padded to
    hidden: tuple[int, ...]
    batch_norm: bool
    dropout: float
    stretch: int = 1  # table rows per id that can occur; the others are never read

    @property
    def vocabulary_sizes(self) -> list[int]:
        """Rows of each sparse field's table, the reserved 0 included."""
        return [self.stretch * cardinality + 1 for cardinality in self.cardinalities]

    @property
    def sequence_vocabulary_size(self) -> int:
        """Rows of the multi-hot field's table, the reserved 0 included; 0 without such a field."""
        return self.sequence_cardinality and self.sequence_cardinality + 1


class Split(NamedTuple):
    """Rows of a workload, as arrays of N rows."""

    dense: np.ndarray  # (N, 13) float32, (N, 0) on W3
    sparse: np.ndarray  # (N, F) int64, ids from 1
    sequence: np.ndarray  # (N, 6) int64, padded with 0 at the end; (N, 0) on W1 and W2
    lengths: np.ndarray  # (N,) int64, at least 1 where there is a sequence field, else 0
    label: np.ndarray  # (N,) float32


# fmt: off
# a geometric series from 10 to 341,329; 1,000,000 in all
_W1 = (
    10, 15, 23, 35, 53, 81, 122, 186, 282, 427, 651, 988, 1499, 2276, 3456,
    5247, 7966, 12094, 18361, 27875, 42319, 64249, 97542, 148088, 224826, 341329,
)
# fmt: on

WORKLOADS = {
    "W1": Workload("W1", 13, _W1, 0, 0, (400, 400, 400), False, 0.0),
    "W2": Workload("W2", 13, tuple(10 * n for n in _W1), 0, 0, (400, 400, 400), False, 0.0),
    # 50 million table rows: W1's ids spread over them, and as many ids as that
    "W1-spread": Workload("W1-spread", 13, _W1, 0, 0, (400, 400, 400), False, 0.0, stretch=50),
    "W1x50": Workload("W1x50", 13, tuple(50 * n for n in _W1), 0, 0, (400, 400, 400), False, 0.0),
    "W3": Workload("W3", 0, (943, 1682, 2, 7, 21, 800), 19, 6, (256, 128, 64), True, 0.1),
}


def zipf_probabilities(cardinality: int) -> np.ndarray:
    """P(id = k + 1) for k = 0 ... cardinality - 1."""
    weights = np.arange(1, cardinality + 1, dtype=np.float64) ** -ZIPF_EXPONENT
    return weights / weights.sum()


def _zipf_ids(random: np.random.Generator, cardinality: int, rows: int) -> np.ndarray:
    cumulative = np.cumsum(zipf_probabilities(cardinality))
    ids = np.searchsorted(cumulative, random.random(rows), side="right") + 1
    return np.minimum(ids, cardinality)  # the last cumulative sum may be just below 1


def _multi_hot(
    random: np.random.Generator, cardinality: int, length: int, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Distinct Zipf ids per row, by the Gumbel top-k draw, and how many of them are kept."""
    keys = np.log(zipf_probabilities(cardinality)) + random.gumbel(size=(rows, cardinality))
    ids = np.argsort(-keys, axis=1)[:, :length] + 1
    lengths = random.integers(1, length + 1, rows)
    ids[np.arange(length) >= lengths[:, None]] = 0
    return ids, lengths


def _standardized(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / (values.std() or 1.0)


def generate(workload: Workload, rows: int) -> Split:
    """Draws rows of a workload and their labels; the same for the same arguments."""
    random = np.random.default_rng([SEED, 0])
    dense = random.random((rows, workload.dense), dtype=np.float32)
    sparse = np.empty((rows, len(workload.cardinalities)), np.int64)
    first_order = np.zeros(rows)
    total, squares = np.zeros((rows, HIDDEN_RANK)), np.zeros((rows, HIDDEN_RANK))

    def add(weights: np.ndarray, vectors: np.ndarray) -> None:
        nonlocal first_order, total, squares
        first_order += weights
        total += vectors
        squares += vectors**2

    for field, cardinality in enumerate(workload.cardinalities):
        # hidden weights have a generator per field: they do not depend on the number of rows
        hidden = np.random.default_rng([SEED, 1, field])
        ids = sparse[:, field] = _zipf_ids(random, cardinality, rows)
        add(
            hidden.standard_normal(cardinality + 1)[ids],
            hidden.standard_normal((cardinality + 1, HIDDEN_RANK))[ids],
        )
    if workload.sequence_cardinality:
        hidden = np.random.default_rng([SEED, 2])
        ids, lengths = _multi_hot(
            random, workload.sequence_cardinality, workload.sequence_length, rows
        )
        weights = hidden.standard_normal(workload.sequence_cardinality + 1)
        vectors = hidden.standard_normal((workload.sequence_cardinality + 1, HIDDEN_RANK))
        weights[0], vectors[0] = 0.0, 0.0
        add(weights[ids].sum(1) / lengths, vectors[ids].sum(1) / lengths[:, None])
    else:
        ids, lengths = np.empty((rows, 0), np.int64), np.zeros(rows, np.int64)
    if workload.dense:
        first_order += dense @ np.random.default_rng([SEED, 3]).standard_normal(workload.dense)

    interaction = (total**2 - squares).sum(1)
    logit = 1.5 * _standardized(first_order) + 0.8 * _standardized(interaction) - 1.0
    label = (random.random(rows) < 1.0 / (1.0 + np.exp(-logit))).astype(np.float32)
    sparse *= workload.stretch
    return Split(dense, sparse, ids, lengths, label)


def load(name: str, *, rows: int, score_rows: int) -> tuple[Split, Split]:
    """The training and the score split of a workload, from the cache.

    A missing entry is written by a process of its own: drawing rows needs more memory than
    holding them, and the caller's peak memory is what is being measured.
    """
    folder = _folder(name, rows, score_rows)
    if not folder.is_dir():
        sizes = ["--rows", str(rows), "--score-rows", str(score_rows)]
        subprocess.run([sys.executable, __file__, "--workload", name, *sizes], check=True)
    train, score = (
        Split(*(np.load(folder / f"{split}_{array}.npy") for array in Split._fields))
        for split in ("train", "score")
    )
    return train, score


def _folder(name: str, rows: int, score_rows: int) -> Path:
    settings = f"{name} {rows} {score_rows}".encode() + Path(__file__).read_bytes()
    digest = hashlib.sha256(settings).hexdigest()[:12]
    return CACHE / f"{name}-{rows}-{score_rows}-{digest}"


def _write(name: str, rows: int, score_rows: int) -> None:
    folder = _folder(name, rows, score_rows)
    drawn = generate(WORKLOADS[name], rows + score_rows)
    CACHE.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=CACHE))  # renamed when complete: no half-written entry
    for array, values in zip(Split._fields, drawn, strict=True):
        np.save(scratch / f"train_{array}.npy", values[:rows])
        np.save(scratch / f"score_{array}.npy", values[rows:])
    scratch.rename(folder)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that choose a workload and its size."""
    parser.add_argument("--workload", choices=WORKLOADS, required=True)
    parser.add_argument("--rows", type=int, default=400_000, help="rows to train on")
    parser.add_argument("--score-rows", type=int, default=100_000, help="rows to score")


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(_parser)
    _arguments = _parser.parse_args()
    _write(_arguments.workload, _arguments.rows, _arguments.score_rows)
