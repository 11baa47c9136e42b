"""TorchRec, which is imported when sharded tables are asked for: that takes seconds.

It is no extra of the package, since its own metadata names torch for CUDA.
"""

import logging
import warnings
from functools import cache
from importlib import import_module

from deepfm.errors import ConfigError

INSTALL = "make install-torchrec"
_TALKATIVE = ("torchrec", "torch.fx._symbolic_trace")  # about what is no concern of a user


@cache
def import_torchrec() -> None:
    """Import the library, quietly.

    Raises:
        ConfigError: It is not installed.
    """
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # kernels for SSDs that the CPU build leaves out
            import_module("torchrec")
            comm_ops = import_module("torchrec.distributed.comm_ops")
    except ImportError as error:
        raise ConfigError(
            f"torchrec needs the library of that name ({error}): {INSTALL}",
            key="feature.storage",
        ) from None
    # Else a gradient is divided by the number of processes; ours add up to that of the batch.
    comm_ops.set_gradient_division(False)
