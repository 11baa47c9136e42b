"""The commands, a module per purpose: each adds its parsers, and calls and prints when one runs.

Nothing is imported here that a command needs when it runs: `--help` answers at once.
"""

from deepfm.commands import data, reference, training, tuning, use

MODULES = (data, training, tuning, use, reference)  # in the order of `--help`
