"""What crosses between host and device: batches on their way there, results on their way back.

Decided here: for an accelerator, batches are made ahead by one thread, which shares no state with
the steps: what a batch holds is a function of its number. On the CPU nothing is copied, and there
is no thread. A GPU fetches a batch by itself from memory that cannot be swapped out, and brings
small results there, while the host goes on.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from deepfm.data.batch import Batch

AHEAD = 3  # batches that are ready, or being made, while a step runs
_SMALL = 2**20  # bytes; of a larger tensor, the copy takes much longer than to wait for it


def batches_on(
    device: torch.device,
    batches: Iterator[Batch],
    prepare: Callable[[Batch], Batch],
    *,
    ahead: int | None = None,
) -> Generator[Batch, None, None]:
    """The batches on a device, prepared.

    What a thread that makes them raises is raised here. The iterator must be closed, or gone
    through, so that the thread ends.

    Args:
        prepare: What is done to each on the host.
        ahead: Batches that the thread makes ahead of the one that is given; 0: there is no thread.
            None: `AHEAD`, on the CPU 0.
    """
    ahead = (AHEAD if device.type != "cpu" else 0) if ahead is None else ahead
    if not ahead:
        for batch in batches:
            yield prepare(batch).to(device)
        return
    is_cuda = device.type == "cuda"

    def make() -> Batch | None:
        batch = next(batches, None)
        return None if batch is None else prepare(batch).packed(pin=is_cuda)

    maker = ThreadPoolExecutor(1, thread_name_prefix="batches")
    try:
        pending: deque[Future[Batch | None]] = deque(maker.submit(make) for _ in range(ahead))
        while (ready := pending.popleft().result()) is not None:
            pending.append(maker.submit(make))
            yield ready.to(device, non_blocking=is_cuda)
    finally:
        maker.shutdown(cancel_futures=True)


def on_host(value: Any) -> Any:
    """A copy on the CPU of what mappings and lists hold of tensors elsewhere; the rest as it is.

    However many tensors there are, small ones cost one synchronisation.
    """
    devices: set[torch.device] = set()

    def copied(value: Any) -> Any:
        if isinstance(value, dict):
            return type(value)((key, copied(item)) for key, item in value.items())
        if isinstance(value, list):
            return [copied(item) for item in value]
        if isinstance(value, Tensor):
            found = to_host(value)
            if found is not value:
                devices.add(value.device)
            return found
        return value

    found = copied(value)
    for device in devices:
        wait_for(device)
    return found


def to_host(tensor: Tensor) -> Tensor:
    """A tensor on the CPU; of a small one on a GPU, it is complete after `wait_for`."""
    small = tensor.nbytes <= _SMALL  # for large ones, memory would be pinned that stays pinned
    return tensor.to("cpu", non_blocking=small and tensor.device.type == "cuda")


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done all that it was told to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
