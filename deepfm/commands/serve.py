"""A trained model behind HTTP."""

import argparse
import os
import sys
from pathlib import Path

from deepfm.commands.arguments import Commands
from deepfm.errors import CheckpointError, ConfigError
from deepfm.utils.extras import needed

_TOKEN = "DEEPFM_SERVE_TOKEN"


def add(commands: Commands) -> None:
    """Add `serve`."""
    from deepfm.serving.options import ServeOptions

    default = ServeOptions()
    added = commands.add("serve", _serve, "predictions and lists over HTTP")
    model = added.add_mutually_exclusive_group(required=True)
    model.add_argument(
        "--checkpoint",
        nargs="+",
        help="best_model.pt of a run, a path or a URI; of several, or of a pattern, the logits are "
        "averaged",
    )
    model.add_argument("--export", help="directory of `deepfm export`, which needs no torch")
    added.add_argument(
        "--host", default=default.host, help=f"where to listen (default: {default.host})"
    )
    added.add_argument(
        "--port", type=int, default=default.port, help=f"0: any (default: {default.port})"
    )
    added.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    added.add_argument(
        "--token-file",
        help=f"file of a token that requests must bring; {_TOKEN} of the environment may hold it",
    )
    added.add_argument(
        "--queue",
        type=int,
        default=default.queue,
        help=f"requests that may wait in a worker (default: {default.queue})",
    )
    added.add_argument(
        "--deadline",
        type=float,
        default=default.deadline,
        help=f"seconds that a request may take (default: {default.deadline:g})",
    )
    added.add_argument(
        "--max-body",
        type=int,
        default=default.max_body,
        help=f"bytes of a request (default: {default.max_body})",
    )
    added.add_argument(
        "--max-rows",
        type=int,
        default=default.max_rows,
        help=f"rows of a request (default: {default.max_rows})",
    )
    added.add_argument(
        "--drain",
        type=float,
        default=default.drain,
        help=f"seconds to end what has begun when stopped (default: {default.drain:g})",
    )


def _serve(arguments: argparse.Namespace) -> None:
    from deepfm.serving.options import ServeOptions
    from deepfm.serving.supervisor import is_loopback, serve
    from deepfm.utils.places import path_of, refuse_remote

    for library in ("uvicorn", "httptools", "orjson", "prometheus_client"):
        needed(library, extra="serve", wanted_by="deepfm serve")
    for name in ("workers", "queue", "max_body", "max_rows"):
        if (value := getattr(arguments, name)) < 1:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option}: expected at least 1, found {value}")
    for name in ("deadline", "drain"):
        if not 0 < (seconds := getattr(arguments, name)) < 1e6:
            raise ConfigError(f"--{name}: expected seconds above 0, found {seconds:g}")
    if not 0 <= arguments.port < 2**16:
        raise ConfigError(f"--port: expected 0 to 65535, found {arguments.port}")
    options = ServeOptions(
        host=arguments.host,
        port=arguments.port,
        workers=arguments.workers,
        token=_token(arguments.token_file),
        queue=arguments.queue,
        deadline=arguments.deadline,
        max_body=arguments.max_body,
        max_rows=arguments.max_rows,
        drain=arguments.drain,
    )
    if not is_loopback(options.host) and not options.token:
        _say(f"warning: {options.host} can be reached from elsewhere, and no token is asked for")
    if arguments.export is not None:
        needed("onnxruntime", extra="onnx", wanted_by="deepfm serve --export")
        refuse_remote(arguments.export, "--export", "an export is mapped from a disk")
        if not Path(arguments.export).is_dir():
            raise CheckpointError(f"{arguments.export}: expected a directory of `deepfm export`")
        sources = [arguments.export]
    else:
        sources = _files(arguments.checkpoint)
        for path in map(path_of, sources):
            if isinstance(path, Path) and path.is_dir():
                raise CheckpointError(f"{path}: expected a file; --export takes a directory")
    serve([path_of(path) for path in sources], options, _say)


def _files(patterns: list[str]) -> list[str]:
    """As `deepfm.several.expanded`, which imports torch where there is a pattern alone."""
    from glob import has_magic

    if not any(map(has_magic, patterns)):
        return patterns
    from deepfm.several import expanded

    return expanded(patterns)


def _token(path: str | None) -> str:
    if path is None:
        return os.environ.get(_TOKEN, "").strip()
    try:
        token = Path(path).read_text().strip()
    except OSError as error:
        raise ConfigError(f"--token-file {path}: {error.strerror or error}") from None
    if not token or not token.isascii() or not token.isprintable():
        raise ConfigError(f"--token-file {path}: expected a line of ASCII characters")
    return token


def _say(line: str) -> None:
    """Lines for people; stdout has those of requests."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
