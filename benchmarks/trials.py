"""Settings of a config tried on the validation split, each trial a line of JSON in a log.

    python benchmarks/trials.py --config configs/finalmlp_frappe.yaml --log outputs/finalmlp.jsonl \
        --try 'dnn.dropout=0.3' --try 'dnn.dropout=0.5 training.lr=1e-3'
    python benchmarks/trials.py … --space space.yaml --draws 20   # drawn at random, seed 0
    python benchmarks/trials.py … --seeds 11 12 13                # the config as it stands

A space is a YAML file of keys with what they may be: a list is of choices, `{low: 1e-4, high:
1e-2}` is drawn with an even logarithm. The first trial is the config as it stands, unless `--try`
is given. A trial that stands in the log is not repeated, so that a search that was interrupted
goes on. Figures are of the weights that the config keeps (`training.keep`) on validation rows; the
test split is not read.
"""

import argparse
import json
import math
import random
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from deepfm import experiment
from deepfm.config import load_config


def drawn(space: dict[str, Any], draws: int) -> list[str]:
    """Settings of a space, drawn at random, always the same ones."""
    generator = random.Random(0)
    found = []
    for _ in range(draws):
        settings = []
        for key, values in space.items():
            if isinstance(values, dict):
                low, high = (math.log(float(values[end])) for end in ("low", "high"))
                value = f"{math.exp(generator.uniform(low, high)):.3g}"
            else:
                value = json.dumps(generator.choice(values))
            settings.append(f"{key}={value}")
        found.append(" ".join(settings))
    return found


def run(path: str, overrides: list[str], seed: int | None) -> dict[str, Any]:
    """Train once, and return the metrics of the validation rows."""
    config = load_config(path, overrides)
    assert config.data.table is None or not config.data.table.test_files, (
        "the test split is not read"
    )
    config = config if seed is None else replace(config, seed=seed)
    begun = time.process_time()
    with TemporaryDirectory() as folder:
        metrics = experiment.train(replace(config, output_dir=folder), overwrite=True)
    seconds = round(time.process_time() - begun)
    figures = {name: round(v, 5) for name, v in metrics["valid"].items() if isinstance(v, float)}
    return {
        "seed": config.seed,
        "cpu_seconds": seconds,
        **figures,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", required=True)
    parser.add_argument("--log", type=Path, required=True, help="lines of JSON are added to it")
    parser.add_argument("--override", nargs="+", default=[], metavar="a.b=c", help="of all trials")
    parser.add_argument("--try", action="append", default=[], dest="trials", metavar="'a=1 b=2'")
    parser.add_argument("--space", type=Path)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[None])
    arguments = parser.parse_args()
    trials = arguments.trials or [""]
    if arguments.space is not None:
        trials += drawn(yaml.safe_load(arguments.space.read_text()), arguments.draws)
    lines = arguments.log.read_text().splitlines() if arguments.log.exists() else []
    known = {(line["settings"], line["wanted_seed"]) for line in map(json.loads, lines)}
    arguments.log.parent.mkdir(parents=True, exist_ok=True)
    for settings in trials:
        for seed in arguments.seeds:
            if (settings, seed) in known:
                continue
            found = run(arguments.config, [*arguments.override, *settings.split()], seed)
            line = json.dumps({"settings": settings, "wanted_seed": seed, **found})
            with arguments.log.open("a") as file:
                file.write(line + "\n")
            print(line, flush=True)


if __name__ == "__main__":
    main()
