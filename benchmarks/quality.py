"""Whether updating touched rows only costs quality: AUC and LogLoss on W1 per optimizer and seed.

    python benchmarks/quality.py --rows 400000 --optimizers adam lazy_adam rowwise_adagrad

Each optimizer trains the model of `ours.py` for an epoch on the same rows, with seeds 0, 1 and 2,
and scores the same other rows. Prints a line of JSON per optimizer with mean and standard
deviation over the seeds.
"""

import argparse
import json
import statistics

import ours
import workloads
from peers.measure import Task
from sklearn.metrics import log_loss, roc_auc_score
from workloads import WORKLOADS

SEEDS = (0, 1, 2)


def main() -> None:
    """Trains, scores, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--score-rows", type=int, default=100_000)
    parser.add_argument(
        "--optimizers", nargs="+", choices=ours.OPTIMIZERS, default=list(ours.OPTIMIZERS)
    )
    arguments = parser.parse_args()
    train, score = workloads.load("W1", rows=arguments.rows, score_rows=arguments.score_rows)
    task = Task(WORKLOADS["W1"], train, score, epochs=1)
    for optimizer in arguments.optimizers:
        found: dict[str, list[float]] = {"auc": [], "logloss": []}
        for seed in SEEDS:
            prepared = ours.prepare(task, optimizer, seed=seed)
            prepared.fit()
            probability = prepared.predict()
            found["auc"].append(float(roc_auc_score(score.label, probability)))
            found["logloss"].append(float(log_loss(score.label, probability)))
        line = {"optimizer": optimizer, "rows": arguments.rows}
        for name, values in found.items():
            line[name] = [round(value, 5) for value in values]
            line[f"{name}_mean"] = round(statistics.mean(values), 5)
            line[f"{name}_std"] = round(statistics.stdev(values), 5)
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
