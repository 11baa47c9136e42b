"""Encoded arrays as the tensors that a model sees; the only part of the encoding with torch."""

import numpy as np
import torch
from torch import Tensor

from deepfm.data.batch import Inputs, Ragged
from deepfm.data.encoding.arrays import EncodedArrays, FlatLists


def inputs_of(arrays: EncodedArrays) -> Inputs:
    """The arrays as tensors, which share their memory."""
    return Inputs(
        torch.from_numpy(arrays.sparse),
        torch.from_numpy(arrays.dense),
        tuple(map(torch.from_numpy, arrays.sequence_ids)),
        tuple(map(torch.from_numpy, arrays.sequence_lengths)),
    )


def arrays_of(inputs: Inputs) -> EncodedArrays:
    """The inverse of `inputs_of`, of inputs on the CPU that hold no `Ragged` ids."""
    return EncodedArrays(
        inputs.sparse.numpy(),
        inputs.dense.numpy(),
        tuple(ids.numpy() for ids in inputs.padded_ids),
        tuple(lengths.numpy() for lengths in inputs.sequence_lengths),
    )


def sequence_of(ids: np.ndarray | FlatLists) -> Tensor | Ragged:
    """The ids of a sequence field as a batch holds them, cut lists as they are, others flat."""
    if isinstance(ids, FlatLists):
        return Ragged.of(torch.from_numpy(ids.ids), torch.from_numpy(ids.lengths))
    return torch.from_numpy(ids)
