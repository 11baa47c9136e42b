"""Whether products in bf16 cost quality: paired differences bf16 - fp32, seed by seed.

    python benchmarks/precision.py --frappe DIR --movielens DIR --table adult.yaml --seeds 5

A seed decides initial weights, order of rows, dropout and negatives, so the two runs of a pair
differ in `training.precision` only; both are scored in fp32. W1 and W3 are the workloads of
`workloads.py`, an epoch each; Frappe is `configs/deepfm_frappe.yaml`; MovieLens-100K is the ranking
of `configs/deepfm_movielens.yaml`; `--table` is a config that nobody tuned, such as `deepfm
describe` writes. Figures are of the test split, or of validation rows where there is no other.

Finished runs are kept in a JSON file and not done again, so more seeds cost only their own runs.
Prints for each task and figure the mean difference with its 95 % t-interval, and whether that lies
within the bounds; LogLoss is in percent of that of fp32.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import ours
import workloads
from peers.measure import Task
from scipy import stats
from sklearn.metrics import log_loss, roc_auc_score
from workloads import WORKLOADS

from deepfm import experiment
from deepfm.config import load_config

PRECISIONS = ("fp32", "bf16")
CONFIGS = Path(__file__).resolve().parents[1] / "configs"
# the half-width of what a difference may be, by figure; LogLoss in percent
BOUNDS = {"auc": 0.001, "logloss": 0.5, "ndcg@10": 0.01, "ndcg@10 of 100": 0.01}
OWN_BOUNDS = {("W3", "auc"): 0.003, ("Frappe", "logloss"): 4.0}
Figures = dict[str, float]


def of_workload(name: str, precision: str, seed: int, *, rows: int, score_rows: int) -> Figures:
    """AUC and LogLoss after an epoch on a workload."""
    train, score = workloads.load(name, rows=rows, score_rows=score_rows)
    task = Task(WORKLOADS[name], train, score, epochs=1)
    prepared = ours.prepare(task, "lazy_adam", seed=seed, precision=precision)
    prepared.model.scoring_precision = "fp32"
    prepared.fit()
    probability = np.asarray(prepared.predict(), np.float64)
    return {
        "auc": float(roc_auc_score(score.label, probability)),
        "logloss": float(log_loss(score.label, probability)),
    }


def of_config(config: Path, overrides: list[str], precision: str, seed: int) -> Figures:
    """What a config reaches."""
    settings = [f"training.precision={precision}", f"seed={seed}", "evaluation.precision=fp32"]
    metrics = experiment.train(load_config(config, [*overrides, *settings]), overwrite=True)
    found = metrics.get("test", metrics["valid"])
    if "ndcg@10" in found:
        short = found.get("ranking_99", found)
        return {"ndcg@10": found["ndcg@10"], "ndcg@10 of 100": short["ndcg@10"]}
    return {name: found[name] for name in ("auc", "logloss")}


def interval(differences: list[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % t-interval; infinite for fewer than two."""
    count = len(differences)
    if count < 2:
        return statistics.mean(differences), math.inf
    deviation = statistics.stdev(differences) / math.sqrt(count)
    return statistics.mean(differences), float(stats.t.ppf(0.975, count - 1)) * deviation


def pairs(runs: dict[str, Figures], task: str) -> Iterator[tuple[Figures, Figures]]:
    """The figures of both precisions, of each seed that has both."""
    for key, fp32 in runs.items():
        name, precision, seed = key.split("/")
        other = runs.get(f"{name}/bf16/{seed}")
        if name == task and precision == "fp32" and other is not None:
            yield fp32, other


def table(runs: dict[str, Figures]) -> list[str]:
    """A line per task and figure."""
    lines = []
    for task in dict.fromkeys(key.split("/")[0] for key in runs):
        found = list(pairs(runs, task))
        for name in found[0][0] if found else ():
            base = statistics.mean(fp32[name] for fp32, _ in found)
            scale = 100 / base if name == "logloss" else 1.0
            mean, half = interval([scale * (bf16[name] - fp32[name]) for fp32, bf16 in found])
            bound = OWN_BOUNDS.get((task, name), BOUNDS[name])
            verdict = "within" if abs(mean) + half <= bound else "NOT within"
            unit = " %" if name == "logloss" else ""
            lines.append(
                f"{task:<10} {name:<15} fp32 {base:.5f}  bf16 - fp32 {mean:+.5f} ± {half:.5f}{unit}"
                f"  {verdict} ± {bound}{unit}  ({len(found)} seeds)"
            )
    return lines


def main() -> None:
    """Runs what is missing, seed by seed, and prints the table after each seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frappe", type=Path, help="folder of Frappe_x1")
    parser.add_argument("--movielens", type=Path, help="folder of MovieLens-100K")
    parser.add_argument("--table", type=Path, help="a config, its data where it says")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", help="names of tasks")
    parser.add_argument("--rows", type=int, default=400_000, help="of W1 and W3")
    parser.add_argument("--score-rows", type=int, default=100_000, help="of W1 and W3")
    parser.add_argument("--frappe-override", nargs="*", default=[], help="settings of its config")
    parser.add_argument("--runs", type=Path, default=workloads.CACHE.parent / "precision.json")
    arguments = parser.parse_args()
    output = f"output_dir={arguments.runs.with_suffix('')}"
    tasks: dict[str, Callable[[str, int], Figures]] = {}
    for name in ("W1", "W3"):
        tasks[name] = lambda precision, seed, name=name: of_workload(
            name, precision, seed, rows=arguments.rows, score_rows=arguments.score_rows
        )
    folders = {
        "Adult": (arguments.table, arguments.table, []),
        "MovieLens": (
            arguments.movielens,
            CONFIGS / "deepfm_movielens.yaml",
            [f"data.data_dir={arguments.movielens}"],
        ),
        "Frappe": (
            arguments.frappe,
            CONFIGS / "deepfm_frappe.yaml",
            [f"data.data_dir={arguments.frappe}", *arguments.frappe_override],
        ),
    }
    for name, (given, config, overrides) in folders.items():
        if given is not None:
            tasks[name] = lambda precision, seed, config=config, overrides=overrides: of_config(
                config, [output, *overrides], precision, seed
            )
    arguments.runs.parent.mkdir(parents=True, exist_ok=True)
    runs = json.loads(arguments.runs.read_text()) if arguments.runs.exists() else {}
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        for name, run in tasks.items():
            if arguments.only and name not in arguments.only:
                continue
            for precision in PRECISIONS:
                key = f"{name}/{precision}/{seed}"
                if key not in runs:
                    runs[key] = run(precision, seed)
                    arguments.runs.write_text(json.dumps(runs, indent=1) + "\n")
        print("\n".join(table(runs)), flush=True)


if __name__ == "__main__":
    main()
