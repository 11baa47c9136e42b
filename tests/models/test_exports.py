"""Every model as an ONNX graph: its logits are those of the model."""

import numpy as np
import pytest

from deepfm.data.schema import DatasetSchema, FieldSchema
from deepfm.evaluation.members import Members
from deepfm.export.graphs import RowsGraph
from deepfm.export.onnx_files import WeightsFile, write_onnx
from deepfm.export.parity import rows_parity
from deepfm.export.programs import program_of, row_dimensions
from deepfm.exported.layout import InputLayout
from deepfm.models import MODELS
from deepfm.models.frozen import frozen
from tests.models.conftest import OF_ONE_TASK, random_inputs, replaced, shaken
from tests.models.test_conformance_of_tasks import with_tasks

# Of sums, of products of fields, of attention, of gates, of experts; the others take a while.
SHORT = ("deepfm", "xdeepfm", "attention_deepfm")
SMALL = DatasetSchema(
    fields={
        field.name: field
        for field in (
            FieldSchema(name="user", feature_type="sparse", vocabulary_size=12, embedding_dim=4),
            FieldSchema(name="price", feature_type="dense"),
            FieldSchema(
                name="items",
                feature_type="sequence",
                vocabulary_size=9,
                embedding_dim=4,
                max_length=5,
            ),
        )
    },
    label_field="label",
)


@pytest.mark.parametrize(
    "name",
    [name if name in SHORT else pytest.param(name, marks=pytest.mark.slow) for name in MODELS],
)
def test_the_graph_of_a_model_gives_its_logits(name, config, tmp_path):
    """At few and at many rows, lists of one element and empty ones among them."""
    import onnxruntime

    config = replaced(config, model_name=name)
    model = frozen(shaken(SMALL, config if name in OF_ONE_TASK else with_tasks(config)))
    members, layout = Members((model,)), InputLayout(SMALL)
    graph = RowsGraph((model,), {})
    inputs = random_inputs(SMALL, 3)
    example = [inputs.sparse, inputs.dense, *inputs.sequence_ids, *inputs.sequence_lengths]
    outputs = graph.outputs(example)
    program = program_of(graph, example, row_dimensions(example, layout.names))
    write_onnx(program, tmp_path / "m.onnx", WeightsFile(tmp_path), layout.names, outputs.names)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")

    def run(arrays):
        return session.run(outputs.names, dict(zip(layout.names, arrays, strict=True)))

    found = rows_parity(members, layout, outputs, run)
    assert [entry["rows"] for entry in found] == [1, 7, 4096]
    arrays = layout.random(5, np.random.default_rng(1))
    one = arrays._replace(
        sequence_ids=tuple(ids[:, :1] for ids in arrays.sequence_ids),
        sequence_lengths=tuple(np.minimum(n, 1) for n in arrays.sequence_lengths),
    )
    short = one._replace(sequence_ids=tuple(np.pad(i, ((0, 0), (0, 4))) for i in one.sequence_ids))
    for few, many in zip(run(layout.given(one)), run(layout.given(short)), strict=True):
        np.testing.assert_allclose(few, many, rtol=0, atol=1e-5)
