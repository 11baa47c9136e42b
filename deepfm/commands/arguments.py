"""What commands share: how they are added, and how they name a config or checkpoints."""

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from deepfm.errors import ConfigError
from deepfm.given_config import config_of as config_of  # which commands take from here

if TYPE_CHECKING:
    from deepfm.config import ExperimentConfig


class Commands:
    """The commands of a parser."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._commands = parser.add_subparsers(required=True, metavar="command")

    def add(
        self, name: str, run: Callable[[argparse.Namespace], int | None], description: str
    ) -> argparse.ArgumentParser:
        """Add a command that calls `run`, whose number is the exit code, and return its parser."""
        added = self._commands.add_parser(name, help=description, description=description)
        added.set_defaults(run=run)
        return added


def add_override(added: argparse.ArgumentParser) -> None:
    """Add `--override`."""
    added.add_argument(
        "--override",
        action="extend",
        nargs="+",
        default=[],
        metavar="a.b=c",
        help="change settings; may be given several times",
    )


def add_checkpoints(added: argparse.ArgumentParser) -> None:
    """Add `--checkpoint`, of one or several."""
    added.add_argument(
        "--checkpoint",
        required=True,
        nargs="+",
        help="best_model.pt of a run, a path or a URI; of several, or of a pattern such as "
        "'runs/*/best_model.pt', the logits are averaged",
    )


def config_if_given(
    arguments: argparse.Namespace,
) -> "AbstractContextManager[ExperimentConfig | None]":
    """The config that takes the place of a checkpoint's own."""
    if arguments.config:
        return config_of(arguments.config, arguments.override)
    if arguments.override:
        raise ConfigError("--override changes a config: name it with --config")
    return nullcontext()
