"""A first declaration of an unknown file: what is guessed, and that it trains."""

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml

from deepfm.config import config_from_dict
from deepfm.data.sources import tabular
from deepfm.data.sources.describe import describe, to_lines, to_yaml
from deepfm.errors import DataError

CRITEO = Path(__file__).parents[4] / "shared" / "data" / "criteo" / "train_sample.tsv"


def shop(rows: int = 300) -> dict[str, list]:
    rng = np.random.default_rng(0)
    return {
        "row_id": list(range(1, rows + 1)),
        "click": rng.integers(2, size=rows).tolist(),
        "user_id": rng.integers(80, size=rows).tolist(),
        "colour": rng.choice(["red", "green", "blue"], rows).tolist(),
        "price": [None if k % 10 == 0 else k / 7 + 0.25 for k in range(rows)],
        "tags": ["|".join(rng.choice(list("abcdef"), 3, replace=False)) for _ in range(rows)],
        "seen at": [f"2024-03-{1 + k % 28:02d} {k % 24:02d}:00:00" for k in range(rows)],
        "nothing": ["same"] * rows,
    }  # fmt: skip


def write_csv(path: Path, columns: dict[str, list], delimiter: str = ",", header: bool = True):
    lines = [delimiter.join(columns)] if header else []
    lines += [
        delimiter.join("" if v is None else str(v) for v in row)
        for row in zip(*columns.values(), strict=True)
    ]
    text = "\n".join(lines) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def declared(path: Path) -> dict:
    """The YAML that describes a file, as data; it must be a valid experiment."""
    raw = yaml.safe_load(to_yaml(describe(path)))
    tabular.schema(config_from_dict(raw).data.table)
    return raw["data"]["table"]


@pytest.mark.parametrize("name", ["shop.csv", "shop.tsv", "shop.csv.gz"])
def test_guesses_types_of_text(tmp_path, name):
    path = write_csv(tmp_path / name, shop(), "\t" if "tsv" in name else ",")
    table = declared(path)
    fields = table["fields"]
    assert table["label"] == "click"
    assert fields["user_id"]["type"] == "sparse"
    assert fields["colour"]["type"] == "sparse"
    assert fields["price"] == {
        "type": "dense", "scale": "standard", "dense_embedding": "piecewise", "bins": 16,
        "missing": "indicator",
    }  # fmt: skip
    assert fields["tags"] == {"type": "sequence", "max_length": 3, "separator": "|"}
    for name in ("hour", "weekday"):
        time = {"type": "sparse", "transform": f"{name}()", "column": "seen at"}
        assert fields[f"seen_at_{name}"] == time
    assert table["time_column"] == "seen at"
    assert "row_id" not in fields  # only proposed, in a comment
    assert "nothing" not in fields
    assert "columns" not in table


def test_guesses_types_of_parquet(tmp_path):
    columns = shop() | {"tags": [text.split("|") for text in shop()["tags"]]}
    pa.parquet.write_table(pa.table(columns), tmp_path / "shop.parquet")
    table = declared(tmp_path / "shop.parquet")
    assert table["fields"]["tags"] == {"type": "sequence", "max_length": 3}
    assert "delimiter" not in table


def test_a_file_without_header_gets_made_up_names(tmp_path):
    path = write_csv(tmp_path / "shop.csv", shop(), header=False)
    table = declared(path)
    assert table["columns"] == [f"column_{k}" for k in range(1, 9)]
    assert table["label"] == "column_2"


def test_numbers_that_name_things_are_categories(tmp_path):
    rng = np.random.default_rng(1)
    columns = {
        "click": rng.integers(2, size=2000),
        "item": rng.integers(957, 1400, 2000),  # most of a long range
        "town": rng.integers(5069, 5149, 2000),  # far from zero
        "age": rng.integers(17, 91, 2000),
        "views": rng.integers(0, 100, 2000) ** 2,
    }
    pa.parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    types = {
        name: field["type"] for name, field in declared(tmp_path / "a.parquet")["fields"].items()
    }
    assert types == {"item": "sparse", "town": "sparse", "age": "dense", "views": "dense"}


def test_two_texts_may_be_a_label(tmp_path):
    columns = {key: value for key, value in shop().items() if key != "click"}
    columns["bought"] = ["no", "yes"] * 150
    table = declared(write_csv(tmp_path / "shop.csv", columns))
    assert table["labels"] == {table["label"]: {"column": "bought", "positive": "yes"}}
    assert "bought" not in table["fields"]


def test_encoding_is_kept(tmp_path):
    (tmp_path / "a.csv").write_bytes("click,caf\u00e9\n1,\u00e9\n0,x\n1,y\n".encode("latin-1"))
    text = to_yaml(describe(tmp_path / "a.csv", encoding="latin-1"))
    assert yaml.safe_load(text)["data"]["table"]["encoding"] == "latin-1"
    with pytest.raises(DataError, match="UTF-8"):
        describe(tmp_path / "a.csv")


def test_reads_the_head_only(tmp_path):
    path = write_csv(tmp_path / "shop.csv", shop())
    found = describe(path, max_rows=100)
    assert found.rows == 100
    assert not found.is_whole_file
    assert "the first 100 rows" in to_yaml(found)


def test_lines_show_every_column(tmp_path):
    lines = to_lines(describe(write_csv(tmp_path / "shop.csv", shop())))
    assert len(lines) == 1 + len(shop())
    price = next(line for line in lines if line.startswith("price"))
    assert "number" in price
    assert "10.0%" in price


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(DataError, match="empty"):
        describe(tmp_path / "empty.csv")


@pytest.mark.skipif(not CRITEO.exists(), reason="the Criteo sample is not here")
def test_real_criteo_rows():
    table = declared(CRITEO)
    assert len(table["columns"]) == 40
    assert table["delimiter"] == "\t"
    assert table["label"] == "column_1"
    assert table["fields"]["column_15"]["type"] == "sparse"
    assert table["fields"]["column_3"]["type"] == "dense"


def test_guesses_vectors(tmp_path):
    rng = np.random.default_rng(0)
    vectors = [None if k == 3 else [float(v) for v in rng.random(3)] for k in range(50)]
    ids = [[int(v) for v in rng.integers(9, size=3)] for _ in range(50)]
    label = [k % 2 for k in range(50)]
    columns = {"click": label, "place": vectors, "seen": ids}
    pa.parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    fields = declared(tmp_path / "a.parquet")["fields"]
    expected = {
        "type": "dense", "value_dim": 3, "scale": "standard", "dense_embedding": "linear",
        "missing": "indicator",
    }  # fmt: skip
    assert fields["place"] == expected
    assert fields["seen"]["type"] == "sequence"
    texts = [None if row is None else "|".join(map(str, row)) for row in vectors]
    path = write_csv(tmp_path / "a.csv", {"click": label, "place": texts})
    assert declared(path)["fields"]["place"] == expected | {"separator": "|"}
    assert "vector" in "\n".join(to_lines(describe(path)))


def test_control_characters_in_names_and_cells_give_yaml_that_can_be_read(tmp_path):
    path = tmp_path / "odd.csv"
    rows = "".join(f"u{k % 9},\0{k % 3},{k % 2}\n" for k in range(40))
    path.write_text(f"us\0er,a\x07b,click\n{rows}")
    raw = yaml.safe_load(to_yaml(describe(path)))
    columns = [field.get("column", name) for name, field in raw["data"]["table"]["fields"].items()]
    assert columns == ["us\0er", "a\x07b"]
    config_from_dict(raw)
