"""What the environment says of the processes of a run, in the variables that `torchrun` sets."""

import os

from deepfm.errors import ConfigError, shown


def started_processes() -> int:
    """How many processes this run has.

    Raises:
        ConfigError: `WORLD_SIZE` is no such number.
    """
    return whole_number("WORLD_SIZE", 1, least=1)


def restarts() -> int:
    """How often `torchrun` has started this process anew."""
    return whole_number("TORCHELASTIC_RESTART_COUNT", 0)


def whole_number(variable: str, default: int, *, least: int = 0) -> int:
    """What a variable says, or the default where it is not there.

    Raises:
        ConfigError: It is no whole number from `least` on.
    """
    text = os.environ.get(variable, str(default))
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise ConfigError(
            f"{variable}, a variable of the environment: expected a whole number from {least} on, "
            f"found {shown(text)}; processes are started by --processes N or torchrun"
        )
    return int(text)
