"""The commands, a module per purpose: each adds its parsers, and calls and prints when one runs.

Nothing is imported here that a command needs when it runs: `--help` answers at once.
"""

from deepfm.commands import data, export, reference, serve, training, use

MODULES = (data, training, use, export, serve, reference)  # in the order of `--help`
