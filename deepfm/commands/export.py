"""A trained model for other runtimes: export."""

import argparse

from deepfm.commands.arguments import Commands, add_checkpoints
from deepfm.utils.logging import LOGGER


def add(commands: Commands) -> None:
    """Add the command."""
    added = commands.add("export", _export, "a directory that is served without torch")
    add_checkpoints(added)
    added.add_argument("--output", required=True, help="the directory to write")
    added.add_argument(
        "--format",
        default="onnx",
        help="onnx, which deepfm.runtime reads, or pt2, a program of torch.export (default: onnx)",
    )
    added.add_argument("--overwrite", action="store_true", help="replace an export that is there")


def _export(arguments: argparse.Namespace) -> None:
    from deepfm.export.exporting import export
    from deepfm.several import expanded

    parity = export(
        expanded(arguments.checkpoint),
        arguments.output,
        format=arguments.format,
        overwrite=arguments.overwrite,
    )
    entries = [*parity["rows"], *parity.get("lists", [])]
    largest = max(value for entry in entries for name, value in entry.items() if name not in _SIZES)
    LOGGER.info(f"{arguments.output}: the logits are those of the model within {largest:.1e}")
    if arguments.format == "onnx":
        LOGGER.info(f"python -m deepfm serve --export {arguments.output}")


_SIZES = ("rows", "items")  # of an entry, beside the differences
