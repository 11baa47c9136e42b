"""Every config with a declared table trains, on generated rows of the shape that it declares."""

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from deepfm import experiment
from deepfm.config import ExperimentConfig, SourceConfig, TableConfig, config_from_dict, load_config
from deepfm.data.options import DataConfig
from deepfm.prediction import Predictor

CONFIGS = Path(__file__).parents[1] / "configs"
DECLARED = [
    path for path in sorted(CONFIGS.glob("*.yaml")) if load_config(path).data.table is not None
]
ROWS, IDS = 900, 30


def column(
    name: str, table: TableConfig, rng: np.random.Generator, rows: int, num_class: int = 1
) -> list:
    """Values of a raw column that its field, or its role, can read."""
    label = table.labels.get(table.label)
    if label and name == label.column and label.kind == "class":
        return rng.choice(label.classes or range(num_class), rows).tolist()
    if name == (label.column if label else table.label):
        if label and label.positive is not None:
            return rng.choice([label.positive, "something else"], rows).tolist()
        choices = [2, 5] if label else [0, 1]
        return rng.choice(choices, rows).tolist()
    if name == table.time_column:
        return rng.permutation(rows).tolist()
    for key, field in table.fields.items():
        if name == (field.column or key):
            break
    else:
        return [f"text {k}" for k in rng.integers(9, size=rows)]
    if field.transform and field.transform.startswith("hour"):
        days, hours = rng.integers(21, 31, rows), rng.integers(24, size=rows)
        return [f"1410{day:02d}{hour:02d}" for day, hour in zip(days, hours, strict=True)]
    if field.type == "sequence" and field.numbers:
        return ["|".join(f"{x:.2f}" for x in rng.normal(size=2)) for _ in range(rows)]
    if field.type == "sequence":
        return ["|".join(rng.choice(list("abcde"), 2, replace=False)) for _ in range(rows)]
    if field.transform == "criteo_log()":
        values = rng.integers(-1, 500, rows).tolist()
        return [None if k % 7 == 0 else value for k, value in enumerate(values)]
    if field.type == "dense":
        return rng.integers(0, 90, rows).tolist()
    return rng.integers(IDS, size=rows).tolist()


def write(source: SourceConfig, pattern: str, columns: dict[str, list], folder: Path) -> None:
    """A file that a pattern of the config finds."""
    ending = ".parquet" if pattern.endswith(".*") else ""
    path = folder / (pattern.removesuffix(".*").removesuffix("*").replace("*", "1") + ending)
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".parquet":
        pa.parquet.write_table(pa.table(columns), path)
        return
    delimiter = source.delimiter or ","
    lines = [] if source.columns else [delimiter.join(columns)]
    rows = zip(*columns.values(), strict=True)
    lines += [delimiter.join("" if v is None else str(v) for v in row) for row in rows]
    content = ("\n".join(lines) + "\n").encode(source.encoding)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def generate(table: TableConfig, folder: Path, num_class: int = 1) -> None:
    """Files of every source of a table."""
    rng = np.random.default_rng(0)
    label = table.labels.get(table.label)
    needed = [field.column or name for name, field in table.fields.items()]
    needed += [*table.group_columns, *filter(None, [table.time_column])]
    needed = [*dict.fromkeys([label.column if label else table.label, *needed])]
    pairs = rng.permutation(IDS * IDS)[:ROWS]
    test = pairs[np.unique(pairs // IDS, return_index=True)[1]]  # one of each user
    if table.test_files:
        pairs = pairs[~np.isin(pairs, test)][: ROWS // 2]
    for role, of in (("files", pairs), ("valid_files", pairs), ("test_files", test)):
        ids = {table.user_field: of // IDS, table.item_field: of % IDS}
        for pattern in getattr(table, role):
            names = table.columns or needed
            columns = {name: column(name, table, rng, len(of), num_class) for name in names}
            columns |= {name: ids[name].tolist() for name in names if name in ids}
            write(table, pattern, columns, folder)
    for source, key in ((table.users, table.user_field), (table.items, table.item_field)):
        if source is not None:
            columns = {name: column(name, table, rng, IDS) for name in source.columns}
            write(source, source.files[0], columns | {key: list(range(IDS))}, folder)


def generate_candidates(data: DataConfig, folder: Path) -> None:
    """A line of the form `ncf` for each test row; items that the user never took, repeated."""

    def pairs(pattern: str) -> list[tuple[str, str]]:
        lines = (folder / pattern).read_text().splitlines()
        rows = [line.split(data.table.delimiter) for line in lines]
        return [(row[0], row[1]) for row in rows]

    trained, tested = pairs(data.table.files[0]), pairs(data.table.test_files[0])
    taken = {*trained, *tested}
    lines = []
    for user, positive in tested:
        free = [str(item) for item in range(IDS) if (user, str(item)) not in taken]
        negatives = (free * data.num_neg_eval)[: data.num_neg_eval]
        lines.append("\t".join([f"({user},{positive})", *negatives]))
    (folder / data.candidates.files[0]).write_text("\n".join(lines) + "\n")


def generate_tasks(config: ExperimentConfig, folder: Path) -> None:
    """Files of a table whose labels are those of tasks; whoever buys has clicked."""
    table, rng = config.data.table, np.random.default_rng(0)
    names = [field.column or name for name, field in table.fields.items()]
    columns = {name: column(name, table, rng, ROWS) for name in [*names, *table.group_columns]}
    for rule in config.label_rules().values():
        if rule.kind == "weight":
            columns[rule.column] = rng.random(ROWS).tolist()
        elif rule.positive is not None:
            columns[rule.column] = rng.choice([rule.positive, "other"], ROWS).tolist()
        else:
            columns[rule.column] = rng.integers(0, 2, ROWS).tolist()
    if config.model_name == "esmm":
        click, buy = (
            config.label_rules()[config.tasks[name].label].column for name in ("ctr", "cvr")
        )
        columns[buy] = np.minimum(columns[click], columns[buy]).tolist()
    for role in ("files", "valid_files", "test_files"):
        for pattern in getattr(table, role):
            write(table, pattern, columns, folder)


@pytest.mark.parametrize("path", DECLARED, ids=lambda path: path.stem)
def test_the_config_trains(path, tmp_path):
    changed = load_config(path).to_dict()
    changed["data"] |= {"data_dir": str(tmp_path), "store_dir": str(tmp_path / "stores")}
    changed["training"] |= {"epochs": 1, "batch_size": 128}
    changed["output_dir"] = str(tmp_path / "run")
    config = config_from_dict(changed)
    (generate_tasks(config, tmp_path) if config.tasks else generate(config.data.table, tmp_path))
    if config.data.candidates is not None:
        generate_candidates(config.data, tmp_path)
    metrics = experiment.train(config)
    last = metrics.get("test", metrics["valid"])
    if len(config.tasks) > 1:
        assert set(last) == set(config.tasks)
        assert all(0 <= last[name]["auc"] <= 1 for name in config.tasks)
        return
    if config.data.table.trained_label.present:  # rows of one class only
        assert 0 <= last["ndcg@10"] <= 1
        return
    assert 0 <= last["auc"] <= 1
    assert np.isfinite(last.get("logloss_prior_corrected", last.get("logloss")))


def test_there_is_one_for_each_data_set():
    assert {path.stem.split("_", 1)[1] for path in DECLARED if path.stem.startswith("deepfm")} == {
        "adult",
        "avazu",
        "criteo",
        "frappe",
        "movielens_1m",
    }


SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data is not here")
def test_real_criteo_rows_are_served_as_they_were_trained(tmp_path):
    changed = load_config(CONFIGS / "deepfm_criteo.yaml").to_dict()
    changed["data"] |= {"data_dir": str(SHARED / "criteo"), "store_dir": str(tmp_path / "stores")}
    changed["data"]["table"]["files"] = ["train_sample.tsv"]
    changed["training"] |= {"epochs": 1, "batch_size": 256}
    changed["output_dir"] = str(tmp_path / "run")
    experiment.train(config_from_dict(changed))
    evaluated = pa.parquet.read_table(tmp_path / "run" / "predictions.parquet")
    predictor = Predictor(tmp_path / "run" / "best_model.pt")
    parts = predictor.predict_file(SHARED / "criteo" / "train_sample.tsv")
    served = np.concatenate([np.asarray(part.predictions["probability"]) for part in parts])
    rows = evaluated["row"].to_numpy()
    assert len(served) == 2000
    np.testing.assert_allclose(served[rows], evaluated["probability"].to_numpy(), atol=1e-7)
