"""How many weights a model has, without making it."""

import json

import torch

from deepfm.config import DNNConfig, FeatureConfig
from deepfm.data.schema import DatasetSchema, FieldSchema
from deepfm.models import build_model, count_parameters, parameters_of
from tests.models.conftest import OF_ONE_TASK, changed, experiment

# Rows of the 26 categorical fields of Criteo 1TB, the largest capped at 40 million.
CRITEO = (
    40000000, 39060, 17295, 7424, 20265, 3, 7122, 1543, 63, 40000000, 3067956, 405282, 10, 2209,
    11938, 155, 4, 976, 14, 40000000, 40000000, 40000000, 590152, 12973, 108, 36,
)  # fmt: skip


def test_counts_are_those_of_the_model(schema, config):
    for name in OF_ONE_TASK:
        classes = 1 if name in ("lr", "fm", "fwfm") else 3
        for model_config in (
            experiment(model_name=name, cin=config.model.cin, feature=config.feature),
            changed(
                experiment(model_name=name, num_class=classes, final=DNNConfig(hidden_units=(4,))),
                "feature",
                wide_embedding_dim=3,
                variational_dropout=0.1,
            ),
        ):
            count = count_parameters(schema, model_config)
            model = build_model(schema, model_config)
            state, tables = dict(model.named_parameters()), model.embedding.tables.state_dict()
            sizes = {key.removesuffix(".weight"): table.numel() for key, table in tables.items()}
            wide = sum(size for key, size in sizes.items() if key.endswith("_wide"))
            assert count.wide == wide
            assert (wide > 0) == model.uses_first_order
            assert count.embedding == sum(sizes.values()) - wide
            dense = [p for key, p in state.items() if not key.startswith("embedding.tables.")]
            assert count.dense == sum(p.numel() for p in dense)


def test_the_row_that_stands_for_no_value_is_no_weight():
    fields = [
        FieldSchema(
            name=name, feature_type="sparse", vocabulary_size=10, embedding_dim=4, padding_idx=None
        )
        for name in "ab"
    ]
    schema = DatasetSchema(fields={f.name: f for f in fields}, label_field="label")
    model = build_model(schema, experiment(model_name="deepfm"))
    count = parameters_of(model)
    assert (count.embedding, count.wide) == (80, 20)
    assert count == count_parameters(schema, experiment(model_name="deepfm"))
    assert sum(count) < sum(p.numel() for p in model.parameters())


def test_the_deepfm_of_criteo_has_the_published_numbers_of_weights():
    ids, numbers = [f"cat_{k}" for k in range(26)], [f"int_{k}" for k in range(13)]
    fields = [FieldSchema(name=name, feature_type="dense") for name in numbers]
    fields += [
        FieldSchema(
            name=name, feature_type="sparse", vocabulary_size=rows, embedding_dim=16,
            padding_idx=None,
        )
        for name, rows in zip(ids, CRITEO, strict=True)
    ]  # fmt: skip
    schema = DatasetSchema(fields={f.name: f for f in fields}, label_field="label")
    groups = {"wide": tuple(ids), "fm": tuple(ids), "deep": (*numbers, *ids)}
    config = experiment(
        feature=FeatureConfig(
            groups=groups, wide_embedding_dim=4, unequal_dims="error", init="uniform_rows"
        ),
        dnn=DNNConfig(hidden_units=(512, 256, 128), use_batch_norm=False),
        final=DNNConfig(hidden_units=(64,), use_batch_norm=False),
        global_bias=False,
    )
    state = torch.get_rng_state()
    assert json.dumps(count_parameters(schema, config)) == "[393793, 3266953408, 816738352]"
    assert torch.equal(torch.get_rng_state(), state)
