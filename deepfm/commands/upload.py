"""A run taken elsewhere: upload."""

import argparse

from deepfm.commands.arguments import Commands
from deepfm.utils.logging import LOGGER


def add(commands: Commands) -> None:
    """Add the command."""
    added = commands.add("upload", _upload, "copy a run or an export to an object store")
    added.add_argument("folder", metavar="RUN", help="folder of a run, or of `deepfm export`")
    added.add_argument("uri", metavar="URI", help="where to: s3://bucket/folder")
    added.add_argument("--overwrite", action="store_true", help="replace an upload that is there")


def _upload(arguments: argparse.Namespace) -> None:
    from deepfm.upload import MANIFEST, upload

    content = upload(arguments.folder, arguments.uri, overwrite=arguments.overwrite)
    files = content["files"].values()
    size = sum(one["bytes"] for one in files) / 2**20
    LOGGER.info(
        f"{len(files)} files, {size:,.1f} MiB, are in {arguments.uri}; {MANIFEST} names them"
    )
