"""Several tasks against single ones, on real and on generated rows; AUC, LogLoss and calibration.

    python benchmarks/tasks.py adult --data DIR     # DIR holds adult.parquet
    python benchmarks/tasks.py esmm
    python benchmarks/tasks.py esmm --write DIR     # the rows of configs/esmm_impressions.yaml

`adult`: income and never married, by the configs `configs/*_adult.yaml`, beside two models of one
task each with the layers of the shared bottom. AUC on the test split, mean and deviation over
seeds.

`esmm`: the probability of a conversion after a click, of all impressions, clicked or not. Whoever
generates the rows knows it, so LogLoss is the expected one, and what it is above the entropy has no
noise of labels. Three models: ESMM; a network of clicked rows alone; the same network on clicked
rows that count 1 / p(click), at most 20, with p(click) of a model of clicks (inverse propensity
weighting). All have the same tables and towers and stop by their own validation rows; batches of
clicked rows are smaller, since there are few.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch

from deepfm.config import config_from_dict, load_config
from deepfm.data.dataset import TabularDataset
from deepfm.data.schema import DatasetSchema, FieldSchema
from deepfm.evaluation.scoring import score_tasks
from deepfm.experiment import train
from deepfm.models import build_model
from deepfm.training.initial_bias import start_at_base_rate
from deepfm.training.trainer import Trainer

CONFIGS = Path(__file__).parents[1] / "configs"

# --- Adult as two tasks --------------------------------------------------------------------------

TASKS = ("income", "unmarried")


def adult(data: Path, seeds: int) -> None:
    rows: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        common = [f"data.data_dir={data}", f"data.store_dir={folder}/stores"]
        for name in ("shared_bottom", "mmoe", "ple", "dbmtl", "single"):
            for seed in range(1, seeds + 1):
                for task, auc in _adult_run(name, [*common, f"seed={seed}"], Path(folder)):
                    rows.setdefault(name, {}).setdefault(task, []).append(auc)
            shown = (
                f"{task} {np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"
                for task, values in rows[name].items()
            )
            print(f"{name:<14}{'   '.join(shown)}", flush=True)


def _adult_run(name: str, overrides: list[str], folder: Path) -> Iterator[tuple[str, float]]:
    """Test AUC by task."""
    if name != "single":
        path = CONFIGS / f"{name}_adult.yaml"
        config = load_config(path, [*overrides, f"output_dir={folder}/run"])
        found = train(config, overwrite=True)["test"]
        yield from ((task, found[task]["auc"]) for task in TASKS)
        return
    for task in TASKS:
        other = next(one for one in TASKS if one != task)
        raw = load_config(
            CONFIGS / "shared_bottom_adult.yaml", [*overrides, f"output_dir={folder}/run"]
        ).to_dict()
        del raw["tasks"][other]
        raw["training"]["metric"] = "logloss"
        yield task, train(config_from_dict(raw), overwrite=True)["test"]["auc"]


# --- ESMM ----------------------------------------------------------------------------------------

# Fixed before any result was looked at.
USERS, ADS, SLOTS, LATENT = 2000, 1000, 20, 4
TRAIN, VALID, TEST = 200_000, 50_000, 100_000
CLICK_RATE, CONVERSION_RATE = 0.05, 0.10  # about, as the sigmoid of the mean logit
STRENGTHS = {"weak": 0.5, "medium": 1.0, "strong": 2.0}  # deviation of the click's logit
CONVERSION_SPREAD = 1.0  # deviation of the conversion's logit
SHARED = 0.6  # correlation of the two logits
LARGEST_WEIGHT = 20.0


def impressions(strength: float, seed: int) -> dict[str, np.ndarray]:
    """Rows with true probabilities: what decides on a click decides on a conversion too, in part.

    Both logits are sums of a user's, an ad's and a slot's effect and of a product of latent
    vectors, of unit deviation in all, with a correlation of `SHARED`. Nothing is hidden: the
    fields say all that there is to know about either probability.
    """
    rng = np.random.default_rng(seed)
    count = TRAIN + VALID + TEST
    user, ad, slot = (rng.integers(0, size, count) for size in (USERS, ADS, SLOTS))

    def effect() -> np.ndarray:
        sizes = ((USERS, user), (ADS, ad), (SLOTS, slot))
        parts = [rng.normal(size=size)[ids] for size, ids in sizes]
        vectors = [rng.normal(size=(size, LATENT)) for size in (USERS, ADS)]
        parts.append((vectors[0][user] * vectors[1][ad]).sum(1) / LATENT**0.5)
        return np.sum(parts, axis=0) / len(parts) ** 0.5

    shared, own = effect(), effect()
    logit = np.log(CLICK_RATE / (1 - CLICK_RATE)) + strength * shared
    click_probability = 1 / (1 + np.exp(-logit))
    mixed = SHARED * shared + (1 - SHARED**2) ** 0.5 * own
    logit = np.log(CONVERSION_RATE / (1 - CONVERSION_RATE)) + CONVERSION_SPREAD * mixed
    conversion_probability = 1 / (1 + np.exp(-logit))
    click = rng.random(count) < click_probability
    buy = click & (rng.random(count) < conversion_probability)
    return {
        "user": user, "ad": ad, "slot": slot, "click": click, "buy": buy,
        "probability": conversion_probability, "click_probability": click_probability,
    }  # fmt: skip


def write_impressions(folder: Path) -> None:
    rows = impressions(STRENGTHS["medium"], seed=0)
    folder.mkdir(parents=True, exist_ok=True)
    start = 0
    for name, count in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        part = slice(start, start + count)
        names = ("user", "ad", "slot", "click", "buy")
        columns = {key: rows[key][part].astype(np.int64) for key in names}
        pa.parquet.write_table(pa.table(columns), folder / f"{name}.parquet")
        start += count


def encoded(
    rows: dict[str, np.ndarray], part: np.ndarray, labels: tuple[str, ...], weight=None
) -> TabularDataset:
    """Some rows, with the labels of these names."""
    columns = {"clicked": "click", "bought": "buy"}
    schema = DatasetSchema(
        fields={
            name: FieldSchema(name, "sparse", vocabulary_size=size + 1, embedding_dim=8)
            for name, size in (("user", USERS), ("ad", ADS), ("slot", SLOTS))
        },
        label_field="click",
        label_columns=labels if len(labels) > 1 else (),
    )
    label = np.column_stack([rows[columns[name]][part] for name in labels]).astype(np.float32)
    inputs = {name: rows[name][part] + 1 for name in schema.fields}  # 0 is unknown
    label = label if len(labels) > 1 else label[:, 0]
    return TabularDataset.from_arrays(schema, inputs, label, weight=weight)


def config_of(seed: int, label: str | None) -> dict:
    """`configs/esmm_impressions.yaml`; with a label, of the model of one task with its layers."""
    raw = load_config(CONFIGS / "esmm_impressions.yaml", [f"seed={seed}"]).to_dict()
    if label is not None:
        raw["model_name"] = "shared_bottom"
        raw["shared_bottom"] = {"bottom": None, "tower": raw.pop("esmm")["tower"]}
        raw["tasks"] = {"only": {"label": label}}
        raw["training"] |= {"metric": "logloss"}
        raw["training"] |= {"batch_size": 128} if label == "bought" else {}  # of few rows
    return raw


def fitted(raw: dict, train_rows: TabularDataset, valid: TabularDataset):
    config = config_from_dict(raw)
    model = build_model(train_rows.schema, config)
    start_at_base_rate(model, train_rows)
    Trainer(config.training, config.evaluation, seed=config.seed).fit(model, train_rows, valid)
    return model


def logits_of(model, rows: TabularDataset) -> dict[str, np.ndarray]:
    found = score_tasks(model, rows.inputs, batch_size=16384)
    return {name: values.astype(np.float64) for name, values in found.items()}


def figures(probability: np.ndarray, logit: np.ndarray) -> tuple[float, float, float]:
    """Expected LogLoss above the entropy, predicted over true ones, and the mean distance."""
    loss = probability * np.logaddexp(0, -logit) + (1 - probability) * np.logaddexp(0, logit)
    p = np.clip(probability, 1e-12, 1 - 1e-12)
    entropy = -(p * np.log(p) + (1 - p) * np.log1p(-p))
    predicted = 1 / (1 + np.exp(-logit))
    return (
        float((loss - entropy).mean()),
        float(predicted.mean() / probability.mean()),
        float(np.abs(predicted - probability).mean()),
    )


def esmm_run(strength: float, seed: int) -> Iterator[tuple[str, str, tuple[float, float, float]]]:
    """Model, rows and figures."""
    rows, every = impressions(strength, seed), np.arange(TRAIN + VALID + TEST)
    train_rows, valid, test = np.split(every, [TRAIN, TRAIN + VALID])
    both = ("clicked", "bought")
    known = encoded(rows, test, both)
    model = fitted(
        config_of(seed, None), encoded(rows, train_rows, both), encoded(rows, valid, both)
    )
    found = {"esmm": logits_of(model, known)["cvr"]}
    clicks = fitted(
        config_of(seed, "clicked"),
        encoded(rows, train_rows, ("clicked",)),
        encoded(rows, valid, ("clicked",)),
    )
    propensity = 1 / (1 + np.exp(-logits_of(clicks, encoded(rows, train_rows, both))[""]))
    clicked, valid = (part[rows["click"][part]] for part in (train_rows, valid))
    weight = np.minimum(1 / propensity[rows["click"][train_rows]], LARGEST_WEIGHT)
    for name, of_rows in (("clicked rows", None), ("inverse propensity", torch.from_numpy(weight))):
        model = fitted(
            config_of(seed, "bought"),
            encoded(rows, clicked, ("bought",), of_rows),
            encoded(rows, valid, ("bought",)),
        )
        found[name] = logits_of(model, known)[""]
    constant = rows["buy"][clicked].mean()
    found["base rate of clicks"] = np.full(len(test), np.log(constant / (1 - constant)))
    inside = rows["click"][test]
    for name, logit in found.items():
        yield name, "all", figures(rows["probability"][test], logit)
        yield name, "clicked", figures(rows["probability"][test][inside], logit[inside])


def esmm(seeds: int) -> None:
    for title, strength in STRENGTHS.items():
        found: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
        for seed in range(1, seeds + 1):
            for name, where, values in esmm_run(strength, seed):
                found.setdefault((name, where), []).append(values)
        print(f"{title} selection (deviation of the click's logit {strength:g})")
        print(
            f"  {'':<22}{'rows':<9}{'LogLoss - entropy':>22}{'predicted / true':>20}{'|p - q|':>10}"
        )
        for (name, where), runs in found.items():
            mean, spread = np.mean(runs, axis=0), np.std(runs, axis=0, ddof=1)
            print(
                f"  {name:<22}{where:<9}{mean[0]:>14.5f} ± {spread[0]:.5f}"
                f"{mean[1]:>12.3f} ± {spread[1]:.3f}{mean[2]:>10.4f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("adult", "esmm"))
    parser.add_argument("--data", type=Path, help="where adult.parquet is")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--write", type=Path, help="write impressions of medium strength there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "adult":
        adult(options.data or Path("data/adult"), options.seeds or 3)
    elif options.write is not None:
        write_impressions(options.write)
    else:
        esmm(options.seeds or 5)


if __name__ == "__main__":
    main()
