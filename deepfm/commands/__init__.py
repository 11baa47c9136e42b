"""The commands, a module per purpose: each adds its parsers, and calls and prints when one runs.

Nothing is imported here that a command needs when it runs: `--help` answers at once.
"""

from deepfm.commands import data, explore, reference, report, serve, training, tuning, use

MODULES = (data, training, tuning, report, use, explore, serve, reference)  # the order of `--help`
