"""What commands share: how they are added, and how they name a config or checkpoints."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from deepfm.errors import ConfigError

if TYPE_CHECKING:
    from deepfm.config import ExperimentConfig


class Commands:
    """The commands of a parser."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._commands = parser.add_subparsers(required=True, metavar="command")

    def add(
        self, name: str, run: Callable[[argparse.Namespace], None], description: str
    ) -> argparse.ArgumentParser:
        """Add a command that calls `run`, and return its parser."""
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
        help="best_model.pt of a run; of several, or of a pattern such as 'runs/*/best_model"
        ".pt', the logits are averaged",
    )


@contextmanager
def config_of(path: str, overrides: Sequence[str] = ()) -> "Iterator[ExperimentConfig]":
    """A config in YAML, or a pipeline of TorchEasyRec; while it lasts, errors name its lines."""
    from deepfm.config import load_config
    from deepfm.easyrec import is_pipeline

    if not is_pipeline(path):
        yield load_config(path, overrides)
        return
    from deepfm.easyrec.pipelines import lines_in_errors, load_pipeline

    loaded = load_pipeline(path, overrides)
    with lines_in_errors(loaded):
        yield loaded.config


def config_if_given(
    arguments: argparse.Namespace,
) -> "AbstractContextManager[ExperimentConfig | None]":
    """The config that takes the place of a checkpoint's own."""
    if arguments.config:
        return config_of(arguments.config, arguments.override)
    if arguments.override:
        raise ConfigError("--override changes a config: name it with --config")
    return nullcontext()
