"""Does a search find what was chosen by hand? 30 trials from a bare config, then new seeds.

    python benchmarks/tuning.py configs/deepfm_adult.yaml --override data.data_dir=data/adult
    python benchmarks/tuning.py configs/deepfm_movielens.yaml

The bare config has the data of the shipped one, its epochs, batches and metric, and all else as the
model has it by default. `deepfm tune` searches it in the model's packaged space, once with each
sampler and the same number of trials; then the shipped config and what was found are trained with
seeds that no trial has seen, and their test figures stand side by side.
"""

import argparse
from pathlib import Path

import yaml

from deepfm import comparison
from deepfm.config import load_config
from deepfm.tuning.space import default_space
from deepfm.tuning.tune import tune
from deepfm.utils.logging import configure_logging

KEPT = ("epochs", "batch_size", "metric", "early_stopping_patience", "precision")


def bare(path: Path, folder: Path) -> Path:
    """Write the shipped config without what a search is to find."""
    raw = yaml.safe_load(path.read_text())
    kept = {key: raw[key] for key in ("model_name", "data", "tasks", "evaluation") if key in raw}
    kept["training"] = {key: value for key, value in raw["training"].items() if key in KEPT}
    written = folder / f"{path.stem}_bare.yaml"
    written.write_text(yaml.safe_dump(kept, sort_keys=False))
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("outputs/tuning"))
    parser.add_argument("--override", nargs="+", default=[], metavar="a.b=c", help="of all runs")
    arguments = parser.parse_args()
    configure_logging()
    arguments.output.mkdir(parents=True, exist_ok=True)
    config = load_config(bare(arguments.config, arguments.output), arguments.override)
    found = [str(arguments.config)]
    for sampler in ("tpe", "random"):
        folder = arguments.output / f"{arguments.config.stem}_{sampler}"
        space = default_space(config)
        tune(config, space, folder=folder, trials=arguments.trials, sampler=sampler)
        best = folder.with_suffix(".yaml")
        best.write_text((folder / "best.yaml").read_text())
        found.append(str(best))
    new = ["seed=1000", *arguments.override]  # trials have the config's own
    print("\n".join(comparison.compare(found, seeds=arguments.seeds, overrides=new)))


if __name__ == "__main__":
    main()
