"""The search for better settings: tune."""

import argparse
from pathlib import Path

from deepfm.commands.arguments import Commands, add_override
from deepfm.errors import ConfigError
from deepfm.utils.extras import needed
from deepfm.utils.progress import working


def add(commands: Commands) -> None:
    """Add this command."""
    added = commands.add(
        "tune", _tune, "search for better settings of a config, by its validation rows"
    )
    added.add_argument("--config", required=True, help="YAML, see configs/")
    added.add_argument(
        "--space", metavar="FILE", help="keys with what they may be (default: that of the model)"
    )
    added.add_argument(
        "--trials",
        type=int,
        default=30,
        metavar="N",
        help="of all processes and calls together (default: 30)",
    )
    added.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="no trial begins after that"
    )
    added.add_argument(
        "--output", metavar="FOLDER", help="of the trials (default: outputs/tune/<config name>)"
    )
    added.add_argument(
        "--sampler",
        choices=("tpe", "random"),
        default="tpe",
        help="learn from the trials so far (default), or do not",
    )
    added.add_argument("--seed", type=int, default=0, help="of what is tried (default: 0)")
    add_override(added)


def _tune(arguments: argparse.Namespace) -> None:
    from deepfm.config import load_config
    from deepfm.easyrec import is_pipeline

    if is_pipeline(arguments.config):
        raise ConfigError(f"{arguments.config}: tune takes YAML; deepfm convert writes it")
    if arguments.seed < 0:
        raise ConfigError(f"--seed: expected at least 0, found {arguments.seed}")
    config = load_config(arguments.config, arguments.override)
    with working("loading torch and Optuna"):
        needed("optuna", extra="tune", wanted_by="deepfm tune")
        from deepfm.report.search_page import write_after_search
        from deepfm.tuning.space import default_space, load_space
        from deepfm.tuning.tune import tune

    space = load_space(arguments.space, config) if arguments.space else default_space(config)
    folder = arguments.output or Path("outputs/tune") / Path(arguments.config).stem
    tune(
        config,
        space,
        folder=folder,
        trials=arguments.trials,
        timeout=arguments.timeout,
        sampler=arguments.sampler,
        seed=arguments.seed,
    )
    write_after_search(folder)
