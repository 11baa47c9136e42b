"""What is refused before any data is read: sizes beyond memory, leaks, batches of one row."""

import pytest

from deepfm import preflight
from deepfm.config import config_from_dict
from deepfm.errors import ConfigError
from deepfm.preflight import check_settings

FIELDS = {
    "user": {"type": "sparse"},
    "price": {"type": "dense"},
    "tags": {"type": "sequence", "max_length": 4},
}

NUMBER = {"type": "dense"}


def config(fields=(), *, table=(), **changes):
    table = {"files": "x.csv", "label": "y", "fields": FIELDS | dict(fields)} | dict(table)
    data = {"dataset_name": "tabular", "split_strategy": "random", "table": table}
    return config_from_dict({"data": data} | changes)


def refusal(*arguments, **changes) -> str:
    with pytest.raises(ConfigError) as caught:
        check_settings(config(*arguments, **changes))
    return str(caught.value)


@pytest.fixture(autouse=True)
def of_8_gib(monkeypatch):
    monkeypatch.setattr(preflight, "total_memory", lambda: 8 << 30)


@pytest.mark.parametrize(
    "changes",
    [
        {"dnn": {"hidden_units": [10**9, 10**9]}},
        {"dnn": {"hidden_units": [10**18]}},
        {"feature": {"embedding_dim": 10**12}},
        {"feature": {"embedding_dim": 10**18}},
        {"feature": {"fm_embedding_dim": 10**12, "embedding_dims": {"user": 4}}},
        {"model_name": "xdeepfm", "cin": {"layer_sizes": [10**9, 10**9]}},
        {"model_name": "attention_deepfm", "attention": {"attention_dim": 10**12}},
        {"fields": {"user": {"type": "sparse", "embedding_dim": 10**12}}},
        {"fields": {"user": {"type": "sparse", "hash_buckets": 10**18}}},
        {"fields": {"user": {"type": "sparse", "num_buckets": 2**63 - 1}}},
        {"fields": {"price": {"type": "dense", "value_dim": 10**12}}},
        {"fields": {"price": NUMBER | {"dense_embedding": "linear", "value_dim": 10**12}}},
        {"fields": {"price": NUMBER | {"dense_embedding": "piecewise", "value_dim": 10**12}}},
        {"fields": {"price": NUMBER | {"dense_embedding": "piecewise", "embedding_dim": 10**8}}},
        {"fields": {"price": NUMBER | {"dense_embedding": "periodic", "frequencies": 10**12}}},
        {"fields": {"price": NUMBER | {"dense_embedding": "periodic", "frequencies": 10**18}}},
        {"fields": {"tags": {"type": "sequence", "max_length": 10**12}}},
    ],
    ids=str,
)
def test_a_model_that_no_memory_holds_is_refused_before_anything_is_made(changes):
    message = refusal(**changes)
    assert "does not fit into" in message
    assert "memory" in message


def test_what_fits_is_not_refused():
    check_settings(config())
    check_settings(config({"tags": {"type": "sequence", "max_length": 2000}}))
    check_settings(config({"user": {"type": "sparse", "hash_buckets": 10**7}}))


def test_what_fits_with_encoded_numbers_is_not_refused():
    check_settings(config({"price": NUMBER | {"dense_embedding": "piecewise"}}))
    check_settings(config({"price": NUMBER | {"dense_embedding": "periodic"}}))


def test_the_number_of_bins_has_a_limit():
    with pytest.raises(ConfigError, match=r"price\.bins: expected at most 10000"):
        config({"price": NUMBER | {"dense_embedding": "piecewise", "bins": 10**12}})


def test_the_number_of_classes_has_a_limit():
    with pytest.raises(ConfigError, match="num_class: expected at most 100000"):
        config(num_class=10**12)


@pytest.mark.parametrize(
    ("field", "table"),
    [
        ({"y": {"type": "sparse"}}, {}),
        ({"z": {"type": "dense", "column": "y"}}, {}),
        ({"z": {"type": "sparse", "columns": ["user", "y"]}}, {}),
        ({"z": {"type": "sparse", "column": "y", "transform": "prefix(1)"}}, {}),
        ({"y": {"type": "sparse"}}, {"label": "l", "labels": {"l": {"column": "y"}}}),
    ],
    ids=str,
)
def test_a_field_that_reads_the_label_is_refused(field, table):
    name = next(iter(field))
    message = refusal(field, table=table)
    assert message.startswith(f"data.table.fields.{name}: reads y, of which the label is made")


def test_a_label_that_nothing_is_trained_on_may_be_a_field():
    labels = {"l": {"column": "y"}, "other": {"column": "stars", "kind": "number"}}
    check_settings(config({"stars": {"type": "dense"}}, table={"label": "l", "labels": labels}))


@pytest.mark.parametrize("dnn", [{"norm": "batch"}, {"activation": "Dice"}])
def test_batch_norm_needs_batches_of_more_than_one_row(dnn):
    message = refusal(dnn=dnn, training={"batch_size": 1})
    assert message.startswith("training.batch_size: batch norm cannot train on batches of one row")
    check_settings(config(dnn=dnn, training={"batch_size": 2}))
    check_settings(config(dnn={"norm": "layer"}, training={"batch_size": 1}))


@pytest.mark.parametrize("side", ["user", "item"])
def test_a_side_table_needs_the_field_that_it_is_looked_up_by(side):
    with pytest.raises(ConfigError, match=rf"^data\.table\.{side}_field: data\.table\.{side}s is"):
        config(table={f"{side}s": {"files": "u.csv"}})


def test_a_table_without_fields_is_not_blamed_on_the_split():
    with pytest.raises(ConfigError, match=r"^data\.table\.fields: expected at least one field"):
        config(table={"fields": {}})
