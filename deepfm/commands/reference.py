"""What can be configured: config, models."""

import argparse
import sys

from deepfm.commands.arguments import Commands
from deepfm.errors import ConfigError, nearest


def add(commands: Commands) -> None:
    """Add these commands."""
    added = commands.add("config", _config_help, "print every key that a model reads, as YAML")
    added.add_argument("--model", help="a model_name")
    added.add_argument(
        "--json-schema", action="store_true", help="print a JSON schema for editors instead"
    )

    added = commands.add(
        "models", _models, "list the models: what each is, its options, its source"
    )
    added.add_argument("name", nargs="?", help="one of them, in full")


def _config_help(arguments: argparse.Namespace) -> None:
    from deepfm.config_help import commented_yaml, json_schema

    if arguments.json_schema:
        text = json_schema(arguments.model)
    elif arguments.model is not None:
        text = commented_yaml(arguments.model)
    else:
        from deepfm.models import MODELS

        raise ConfigError(f"--model: a value is needed; {nearest('', MODELS)}")
    sys.stdout.write(text)


def _models(arguments: argparse.Namespace) -> None:
    from deepfm.model_help import in_full, listed

    sys.stdout.write(listed() if arguments.name is None else in_full(arguments.name))
