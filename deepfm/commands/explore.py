"""A page on this machine about a trained model: explore."""

import argparse
import socket

from deepfm.commands.arguments import Commands, add_checkpoints, add_override, config_if_given
from deepfm.errors import ConfigError
from deepfm.utils.extras import needed
from deepfm.utils.logging import LOGGER

PORT = 8377


def add(commands: Commands) -> None:
    """Add this command."""
    added = commands.add(
        "explore", _explore, "a page on this machine: lists and predictions, and what moves them"
    )
    add_checkpoints(added)
    added.add_argument(
        "--config", help="where the training data is now, if not where the checkpoint says"
    )
    add_override(added)
    added.add_argument(
        "--port", type=int, default=PORT, help=f"of 127.0.0.1; 0: a free one (default: {PORT})"
    )


def _explore(arguments: argparse.Namespace) -> None:
    uvicorn = needed("uvicorn", extra="serve", wanted_by="deepfm explore")
    needed("starlette.applications", extra="serve", wanted_by="deepfm explore")
    from deepfm.explore.app import app_of
    from deepfm.explore.draws import draws_of
    from deepfm.explore.examples import example_rows
    from deepfm.explore.explorer import Explorer
    from deepfm.several import expanded, load_several
    from deepfm.utils.startup import leave_pandas_out

    leave_pandas_out()
    with listening(arguments.port) as listener, config_if_given(arguments) as config:
        checkpoints = load_several(expanded(arguments.checkpoint))
        draws = draws_of(checkpoints[0], config)
        examples = example_rows(config or checkpoints[0].config)
        app = app_of(Explorer(checkpoints, draws, examples))
        host, port = listener.getsockname()
        LOGGER.info(f"http://{host}:{port}/ (this machine only; Ctrl-C ends it)")
        options = uvicorn.Config(app, log_level="warning", server_header=False)
        uvicorn.Server(options).run(sockets=[listener])


def listening(port: int) -> socket.socket:
    """A socket of the loopback address, which no other machine reaches.

    Raises:
        ConfigError: The port is none, or taken.
    """
    if not 0 <= port < 2**16:
        raise ConfigError(f"--port: expected 0 to 65535, found {port}")
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen()  # who reads the address may connect before the server runs
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"--port {port} cannot be used ({error.strerror}); name another, or 0 for a free one"
        ) from None
    return listener
