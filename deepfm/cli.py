"""Command line: parses arguments, runs a command. A user's mistake is one line, never a traceback.

Exit codes: 0 done; 1 network, disk or a loss that is not a number; 2 a mistake in what was given;
128 + n stopped by signal n (130 is Ctrl-C), with a checkpoint that `--resume` continues.
"""

import argparse
import contextlib
import os
import sys
from typing import NoReturn

import deepfm
from deepfm.commands import MODULES
from deepfm.commands.arguments import Commands
from deepfm.errors import DeepFMError
from deepfm.utils.heartbeat import end_now
from deepfm.utils.interrupt import Interrupted
from deepfm.utils.logging import LOGGER, configure_logging
from deepfm.utils.openmp import wait_passively


def command() -> NoReturn:
    """Run the command that this process was started for, and end the process.

    One of several ends without taking Python down. Threads of torch's process group outlive
    `destroy_process_group` (seen in 2.13), and one that asks for the interpreter while that is
    being taken down aborts the process, whose work is done.
    """
    exit_code = main()
    if os.environ.get("WORLD_SIZE", "1") == "1":
        sys.exit(exit_code)
    with contextlib.suppress(OSError, ValueError):  # nobody reads any more
        sys.stdout.flush()
        sys.stderr.flush()
    end_now(exit_code)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    configure_logging()
    wait_passively()
    arguments = sys.argv[1:] if arguments is None else arguments
    parsed = _parser().parse_args(arguments)
    parsed.arguments = arguments
    try:
        exit_code: int = parsed.run(parsed) or 0
        sys.stdout.flush()
    except DeepFMError as error:
        LOGGER.error(" ".join(str(error).splitlines()))
        return error.exit_code
    except Interrupted as stop:
        LOGGER.warning("stopped and saved; train --resume, compare and tune go on")
        return 128 + stop.reason
    except KeyboardInterrupt:
        return 130
    except MemoryError:
        LOGGER.error("the memory is full; smaller batches or dims need less")
        return 1
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="deepfm", description="Train, evaluate and use CTR models."
    )
    parser.add_argument("--version", action="version", version=f"deepfm {deepfm.__version__}")
    commands = Commands(parser)
    for module in MODULES:
        module.add(commands)
    return parser
