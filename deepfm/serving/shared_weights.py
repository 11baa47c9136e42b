"""Large weights that all workers read from one file, mapped into their memory.

The first worker that loads a model writes them; pages that nobody writes to are held once for all.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from deepfm.utils.io import atomic_writer

LARGE = 2**20  # bytes; smaller weights stay each process's own


def map_large_weights(models: Iterable[nn.Module], folder: Path) -> None:
    """Replace the large parameters of models by what a file per parameter holds.

    Args:
        models: On the CPU; their weights must stay as they are from now on.
        folder: Of files of these very weights, which are written if they are not there.
    """
    folder.mkdir(exist_ok=True)
    for own, model in enumerate(models):
        for name, parameter in model.named_parameters():
            if parameter.nbytes < LARGE or parameter.dtype != torch.float32:
                continue
            path = folder / f"{own}-{name}.weights"
            if not path.exists():
                with atomic_writer(path) as file:
                    file.write(parameter.detach().contiguous().numpy().data)
            mapped = torch.from_file(
                str(path), shared=False, size=parameter.numel(), dtype=parameter.dtype
            )
            parameter.data = mapped.view(parameter.shape)
