"""Raw rows that were read for a request as the tensors that a model sees."""

from deepfm.data.batch import Inputs
from deepfm.data.encoding.tensors import inputs_of
from deepfm.data.served_histories import ServedHistories
from deepfm.data.served_rows import FEW, ReadRows


def served_inputs(read: ReadRows, histories: ServedHistories | None) -> Inputs:
    """The tensors of rows, with the fields of their histories.

    Args:
        read: The rows, and the events that each has seen.
        histories: Of a model that reads some.
    """
    if read.seen is None:
        return inputs_of(read.arrays)
    assert histories is not None
    if read.arrays.num_rows <= FEW:
        return inputs_of(histories.added(read.arrays, read.seen))
    return histories.added_to_inputs(inputs_of(read.arrays), read.seen)
