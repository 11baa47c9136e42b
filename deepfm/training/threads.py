"""How many threads a training step runs on: decided by its work, never by the load or a clock.

Sums over rows are cut by thread, so another number of threads gives other roundings: a run
writes its number down, and a run that is resumed has that of its beginning.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from deepfm.data.batch import Inputs
from deepfm.models.base import BaseCTRModel, evaluation_mode

# What a thread has to do in a step before another one is worth its waking and waiting.
MULTIPLICATIONS_PER_THREAD = 2**30


def threads_for(model: BaseCTRModel, row: Inputs, batch_size: int) -> int:
    """The threads of a training step on the CPU, at most as many as torch has now.

    Counted are the multiplications of linear maps, once forward and twice backward.

    Args:
        row: Inputs of one row or more, of which the first is run through the model.
        batch_size: Rows of a step.
    """
    work = 3 * batch_size * multiplications(model, row.select(slice(0, 1)))
    return max(1, min(work // MULTIPLICATIONS_PER_THREAD, torch.get_num_threads()))


def multiplications(model: BaseCTRModel, inputs: Inputs) -> int:
    """Multiplications of all linear maps in a forward pass."""
    count = 0

    def add(linear: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal count
        assert isinstance(linear, nn.Linear)
        count += output.numel() * linear.in_features

    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    hooks = [linear.register_forward_hook(add) for linear in linears]
    try:
        with evaluation_mode(model), torch.no_grad():
            model(inputs.to(model.device))
    finally:
        for hook in hooks:
            hook.remove()
    return count


@contextmanager
def running_on(threads: int) -> Iterator[None]:
    """While it lasts, torch's kernels use so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
