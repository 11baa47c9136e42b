"""The commands, a module per purpose: each adds its parsers, and calls and prints when one runs.

Nothing is imported here that a command needs when it runs: `--help` answers at once.
"""

from deepfm.commands import (
    data,
    explore,
    export,
    plan,
    reference,
    report,
    serve,
    training,
    tuning,
    upload,
    use,
)

MODULES = (  # in the order of `--help`
    data,
    training,
    plan,
    tuning,
    report,
    use,
    explore,
    export,
    upload,
    serve,
    reference,
)
