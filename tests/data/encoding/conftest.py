"""Whenever these tests encode few rows, `FewRows` does it too, and must give equal arrays."""

import pytest

from deepfm.data.encoding.encoders import Encoders
from deepfm.data.encoding.few_rows import NotPlain
from deepfm.data.encoding.few_rows_spec import few_rows
from deepfm.data.encoding.tensors import inputs_of
from deepfm.data.sources.rows_given import plain_columns

FEW = 200


def same(first, second):
    """Whether inputs are equal, bit for bit."""

    def arrays(inputs):
        tensors = inputs.sparse, inputs.dense, *inputs.sequence_ids, *inputs.sequence_lengths
        return [tensor.numpy() for tensor in tensors]

    return all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        for a, b in zip(arrays(first), arrays(second), strict=True)
    )


@pytest.fixture(autouse=True, scope="module")
def few_rows_agree():
    through_arrow = Encoders.encode

    def checked(self, columns, group=None):
        outcome = None
        if len(columns) <= FEW:
            try:
                plain = few_rows(self)
                outcome = plain.encode(*plain_columns(columns), group)
                again = plain.encode(*plain_columns(columns), group)
                assert same(inputs_of(outcome), inputs_of(again))
            except NotPlain:
                pass
        inputs = through_arrow(self, columns, group)  # an error of this path is no result of that
        assert outcome is None or same(inputs_of(outcome), inputs), (columns, outcome, inputs)
        return inputs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Encoders, "encode", checked)
        yield
