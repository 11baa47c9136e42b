"""The arrays of a store as data sets: those of a split, and the events that its rows share."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deepfm.data.batch import Inputs, Ragged
from deepfm.data.dataset import TabularDataset
from deepfm.data.history import Histories
from deepfm.data.last_events import LastEvents
from deepfm.data.schema import ITEMS, DatasetSchema
from deepfm.data.store.arrays import ArrayShape
from deepfm.data.store.checked_inputs import CheckedInputs, checks_of
from deepfm.data.store.checks import BlockChecks
from deepfm.data.store.held_rows import OF_ALL_ROWS, HeldRows
from deepfm.data.store.mapped import open_arrays
from deepfm.data.store.part_of_inputs import PartOfInputs


class SharedEvents(NamedTuple):
    """The events that histories are made of, mapped into memory, by user and the oldest first.

    Attributes:
        ids: By built field, (E,).
        time: (E,) float64.
        user: Hashes of the users that have any, ascending, (U,) uint64.
        counts: How many each has, (U,) int64.
        later: Checks of the arrays that are not compared yet.
    """

    ids: dict[str, Tensor]
    time: Tensor
    user: np.ndarray
    counts: np.ndarray
    later: dict[str, BlockChecks]

    def last(self, max_length: int) -> LastEvents:
        """The last `max_length` events of each user, read into memory.

        Raises:
            DamagedStore: An array differs from its checksums.
        """
        counts = np.minimum(self.counts, max_length)
        first = np.cumsum(self.counts) - counts  # of each user's last ones, among all
        starts = np.concatenate([[0], np.cumsum(counts)])
        for checks in self.later.values():
            checks.check_ranges(first, counts)
        places = np.repeat(first - starts[:-1], counts) + np.arange(starts[-1])
        return LastEvents(
            np.array(self.user),
            starts,
            self.time.numpy()[places],
            {name: ids.numpy()[places].astype(np.int64) for name, ids in self.ids.items()},
        )


def open_events(
    folder: Path, shapes: Mapping[str, ArrayShape], schema: DatasetSchema, *, check_all: bool
) -> SharedEvents:
    """The events that stand in a folder; arguments and errors are those of `open_split`."""
    arrays, later = open_arrays(folder, shapes, ("user", "user_events"), check_all=check_all)
    names = [field.name for field in schema.built_fields if field.built == ITEMS]
    return SharedEvents(
        {name: _as_tensor(arrays[f"ids{k}"]) for k, name in enumerate(names)},
        _as_tensor(arrays["time"]),
        arrays["user"],
        arrays["user_events"],
        {f"events of {name}": checks for name, checks in later.items()},
    )


def open_split(
    folder: Path,
    shapes: Mapping[str, ArrayShape],
    schema: DatasetSchema,
    events: SharedEvents | None = None,
    first: int = 0,
    *,
    check_all: bool,
    held: HeldRows | None = None,
    at_random: bool = False,
) -> TabularDataset:
    """The split that stands in a folder, mapped into memory.

    Args:
        shapes: As `ArrayWriter.shapes` gave them.
        schema: With vocabulary sizes.
        events: Those that the histories of rows are of, if the schema has any.
        first: The first row that is given; those before it are left out.
        check_all: Compare all checksums now. Else those of features are compared when rows are
            first read; labels, weights, groups and row numbers are compared now in any case.
        held: The rows whose features are there; None: all.
        at_random: As in `open_arrays`.

    Raises:
        DamagedStore: A file is missing, has another size, or differs from its checksums.
    """
    arrays, later = open_arrays(
        folder, shapes, OF_ALL_ROWS, check_all=check_all, at_random=at_random
    )
    sequences = range(sum(not field.built for field in schema.sequence_fields))
    flat = {f"sequence{k}_ids" for k in sequences if f"sequence{k}_starts" in arrays}
    tensors = {
        name: _as_tensor(array if name in flat else array[first:])
        for name, array in arrays.items()
        if name != "row"
    }
    inputs = Inputs(
        tensors["sparse"],
        tensors["dense"],
        tuple(_sequence_ids(tensors, k) for k in sequences),
        tuple(tensors[f"sequence{k}_lengths"] for k in sequences),
    )
    ragged = {
        f"sequence{k}_ids": ids
        for k, ids in enumerate(inputs.sequence_ids)
        if isinstance(ids, Ragged)
    }
    if events is not None:
        ranges = (tensors[f"history_{name}"] for name in ("starts", "lengths", "time"))
        histories = Histories(events.ids, events.time, *ranges)
        inputs = histories.added_to(inputs, schema)
        later |= events.later
        ragged |= dict.fromkeys(events.later, Ragged(events.time, *histories[2:4]))
    if later:
        inputs = CheckedInputs.of(inputs, checks_of(later, ragged, first))
    if held is not None:
        inputs = PartOfInputs.of(inputs, held)
    found = TabularDataset(
        schema,
        inputs,
        tensors["label"],
        weight=tensors.get("weight"),
        group=tensors.get("group"),
        row=arrays["row"][first:],
    )
    found.held = None if held is None else range(held.start, held.end)
    return found


def _sequence_ids(tensors: Mapping[str, Tensor], number: int) -> Tensor | Ragged:
    ids, starts = tensors[f"sequence{number}_ids"], tensors.get(f"sequence{number}_starts")
    return ids if starts is None else Ragged(ids, starts, tensors[f"sequence{number}_lengths"])


def _as_tensor(array: np.ndarray) -> Tensor:
    """A mapped array, which stays where it is."""
    with warnings.catch_warnings():
        # Nothing writes to the rows of a data set: batches are copies.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)
