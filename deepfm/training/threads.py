"""How many threads a training step runs on: decided by its work, never by the load or a clock.

Sums over rows are cut by thread, so another number of threads gives other roundings: a run
writes its number down, and a run that is resumed has that of its beginning.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from deepfm.config import TrainingConfig
from deepfm.data.batch import Inputs
from deepfm.models.base import BaseCTRModel, evaluation_mode
from deepfm.utils.logging import LOGGER

# What a thread has to do in a step before another one is worth its waking and waiting.
MULTIPLICATIONS_PER_THREAD = 2**30


def threads_for(model: BaseCTRModel, inputs: Inputs, batch_size: int) -> int:
    """The threads of a training step, at most as many as torch has now.

    Counted are the multiplications of linear maps, once forward and twice backward. Where a model
    is on another device than the CPU, threads have little to do, and there are as many as before.

    Args:
        inputs: Of one row or more, of which the first is run through the model.
        batch_size: Rows of a step.
    """
    there = torch.get_num_threads()
    if model.device.type != "cpu":
        return there
    work = 3 * batch_size * multiplications(model, inputs.select(slice(0, 1)))
    return max(1, min(work // MULTIPLICATIONS_PER_THREAD, there))


def settle_threads(
    config: TrainingConfig,
    begun: TrainingConfig | None,
    model: BaseCTRModel,
    inputs: Inputs,
    *,
    processes: int = 1,
) -> int:
    """The threads of a run: those that are asked for, those that it began with, or by the work.

    A run that is resumed keeps its number, so that it goes on exactly; another one that is asked
    for, and one that this machine has no cores for, is one warning.

    Args:
        config: With the number of the beginning where it asks for none.
        begun: What the run began with that is resumed; None: it begins now.
        inputs: As in `threads_for`.
        processes: Among which a batch is shared.
    """
    found, there = config.threads, torch.get_num_threads()
    if found is None:
        found = threads_for(model, inputs, max(1, config.batch_size // processes))
    if begun is not None:
        if begun.threads != found:
            before = "an unknown number of" if begun.threads is None else begun.threads
            LOGGER.warning(
                f"the run began with {before} threads and goes on with {found}: what follows may "
                "differ in the last digits from a run without a break"
            )
        elif found > there:
            LOGGER.warning(
                f"the run began with {found} threads, and {there} run at a time here; "
                f"training.threads: {there} is faster and may differ in the last digits"
            )
    return found


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
