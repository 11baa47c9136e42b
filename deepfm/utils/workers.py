"""The processes that work on one run together; with one process nothing here does anything.

Decided here: which rows of a batch a process has, how tensors of all of them come together, and
what becomes of a run one of whose processes is gone. The processes and their connections are
torch's: whoever starts them says so by the variables that `torchrun` sets.
"""

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from deepfm.errors import ConfigError, DeepFMError, cut
from deepfm.utils.environment_of_processes import restarts, started_processes, whole_number
from deepfm.utils.heartbeat import Heartbeat, end_now
from deepfm.utils.interrupt import Interrupted
from deepfm.utils.logging import LOGGER, quiet

_ALIGNED = 8  # bytes, of each tensor in a message, so that any type can be read there
# An exchange waits for a process that is busy as long as that lives, which its heartbeat tells.
_PATIENCE = timedelta(days=7)
_VARIABLES = ("RANK", "MASTER_ADDR", "MASTER_PORT")
_LONGEST_REASON = 160
_CONNECTING = timedelta(minutes=5)  # hosts need not begin at once
_SILENCE = 60.0  # seconds, as long as no config says another number
_TICK = 0.05
_WORD = 2.0  # seconds in which another process says its error, before this one ends
_Found = TypeVar("_Found")


class Workers:
    """The processes of a run, of which this is one.

    Every batch is that of one process alone; a process has the rows `part` of it. Draws and orders
    do not depend on the process, so that what is learned does not depend on how many there are.

    Args:
        rank: Number of this process, from 0.
        world: How many there are.
        give_up_after: Sets after how many seconds a process that says nothing is lost.
    """

    def __init__(
        self,
        rank: int = 0,
        world: int = 1,
        *,
        give_up_after: Callable[[float], None] = lambda silence: None,
    ) -> None:
        self.rank, self.world, self.give_up_after = rank, world, give_up_after

    @property
    def is_alone(self) -> bool:
        return self.world == 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    @property
    def are_on_several_hosts(self) -> bool:
        return whole_number("LOCAL_WORLD_SIZE", self.world, least=1) < self.world

    def own_device(self, device: torch.device) -> torch.device:
        """Of several GPUs of a host the one that is this process's."""
        if self.is_alone or device.type != "cuda" or device.index is not None:
            return device
        return torch.device("cuda", whole_number("LOCAL_RANK", 0))

    def counts(self, rows: int) -> list[int]:
        """How many of so many rows each process has.

        Example:
            >>> Workers(0, 4).counts(10)
            [2, 3, 2, 3]
        """
        ends = [rows * rank // self.world for rank in range(self.world + 1)]
        return [end - start for start, end in itertools.pairwise(ends)]

    def part(self, rows: int) -> slice:
        """The rows of this process; where it has none, the first one, which it does not count.

        Example:
            >>> Workers(1, 2).part(5), Workers(0, 2).part(1)
            (slice(2, 5, None), slice(0, 1, None))
        """
        start = rows * self.rank // self.world
        end = rows * (self.rank + 1) // self.world
        return slice(start, end) if start < end else slice(0, 1)

    def share(self, items: Sequence[_Found]) -> list[_Found]:
        """The items of this process, equally many in each: one that has fewer repeats its last,
        and one that has none the first of all, which others count.

        For work that processes do together, such as the batches of an evaluation.

        Example:
            >>> [Workers(rank, 2).share("abc") for rank in (0, 1)]
            [['a', 'a'], ['b', 'c']]
        """
        if not items:
            return []
        own = list(items[self.part(len(items))])
        return own + own[-1:] * (max(self.counts(len(items))) - len(own))

    def joined(
        self, tensors: Sequence[Tensor], counts: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Of each tensor those of all processes, end to end in their order.

        Args:
            tensors: Of equal shapes in all processes but for the number of rows, and as many.
            counts: Of each process, how many of the first rows of each tensor are taken; None: all
                rows, whose number the processes tell each other first.

        Returns:
            Tensors without gradients, equal in all processes.
        """
        if self.is_alone or not tensors:
            return list(tensors)
        if counts is None:
            rows = self._exchanged(torch.tensor([len(tensor) for tensor in tensors]))
            by_rank = [row.tolist() for row in rows]
        else:
            by_rank = [[count] * len(tensors) for count in counts]
        own = [
            tensor.detach()[:count]
            for tensor, count in zip(tensors, by_rank[self.rank], strict=True)
        ]
        layouts = [_Message.of(own, of_one) for of_one in by_rank]
        packed = layouts[self.rank].packed(own, max(layout.size for layout in layouts))
        received = self._exchanged(packed)
        parts = [
            layout.unpacked(message, own) for layout, message in zip(layouts, received, strict=True)
        ]
        return [torch.cat(of_one) for of_one in zip(*parts, strict=True)]

    def joined_rows(self, tensors: Sequence[Tensor], rows: int) -> list[Tensor]:
        """`joined` of a batch of so many rows, of which each process has its `part`.

        Gradients pass to the rows of this process.
        """
        counts = self.counts(rows)
        start, count = sum(counts[: self.rank]), counts[self.rank]
        whole = self.joined(tensors, counts)
        return [
            torch.cat([found[:start], own[:count], found[start + count :]])
            if own.requires_grad
            else found
            for own, found in zip(tensors, whole, strict=True)
        ]

    def _exchanged(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all processes, which have one shape."""
        received = list(tensor.new_empty(self.world, *tensor.shape))
        with self.exchanging():
            torch.distributed.all_gather(received, tensor)
        return received

    def gathered(self, own: Tensor) -> Tensor:
        """The tensors of all processes, (world, K) of equally long ones (K,).

        The gradient of each is the sum of those that all processes have for it.
        """
        if self.is_alone:
            return own.unsqueeze(0)
        found: Tensor = _Gathered.apply(own, self)  # type: ignore[no-untyped-call]
        return found

    def agree(self, number: int) -> int:
        """The largest of the numbers that the processes give."""
        if self.is_alone:
            return number
        return int(torch.stack(self._exchanged(torch.tensor(number))).max())

    def refuse_unless_equal(self, value: str, problem: Callable[[], DeepFMError]) -> None:
        """Raise, in all processes, what `problem` gives, if they do not have one value."""
        if len(set(self.texts(value))) > 1:
            raise problem()

    def texts(self, own: str) -> list[str]:
        """The texts of all processes."""
        if self.is_alone:
            return [own]
        data = torch.frombuffer(bytearray(f"{own}\n".encode()), dtype=torch.uint8)
        counts = [int(count) for count in self._exchanged(torch.tensor(len(data)))]
        parts = self.joined([data], counts)[0].split(counts)
        return [bytes(part.numpy()).decode()[:-1] for part in parts]

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Make each tensor, in place, the mean of those of all processes."""
        if self.is_alone or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        mean = torch.stack(self._exchanged(flat)).mean(0)
        parts = mean.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def counted_once(self, value: Tensor) -> Tensor:
        """A value that all processes compute alike, with a gradient that is the whole one when
        those of the processes are added up."""
        if self.is_alone:
            return value
        constant = value.detach()
        return constant + (value - constant) / self.world

    def first_before_others(self, work: Callable[[], _Found]) -> _Found:
        """What each process gets of work that leaves something behind which the next ones find."""
        if self.is_first:
            found = work()
        self.wait()
        if not self.is_first:
            found = work()
        return found

    def wait(self) -> None:
        """Go on when all processes have come here."""
        self.agree(0)

    def parallel(
        self, module: nn.Module, *, ignored: nn.Module | None, may_be_unused: bool
    ) -> nn.Module:
        """A module whose backward passes add up the gradients of all processes.

        Args:
            ignored: A part of it whose gradients stay in the process.
            may_be_unused: Whether some parameters have no part in what it gives.
        """
        if self.is_alone:
            return module
        own = set() if ignored is None else {id(parameter) for parameter in ignored.parameters()}
        names = [name for name, value in module.named_parameters() if id(value) in own]
        names += [name for name, _ in module.named_buffers()]  # else rank 0's replace all others'
        parallel = nn.parallel.DistributedDataParallel
        parallel._set_params_and_buffers_to_ignore_for_model(module, names)
        found = parallel(module, find_unused_parameters=may_be_unused)
        found.register_comm_hook(None, lambda _, bucket: _added_up(bucket.buffer()))
        return found

    def not_yet(self, module: nn.Module) -> AbstractContextManager[None]:
        """While it lasts, backward passes of a `parallel` module keep gradients to themselves."""
        if self.is_alone:
            return nullcontext()
        module = cast(nn.parallel.DistributedDataParallel, module)
        return cast(AbstractContextManager[None], module.no_sync())

    @contextmanager
    def exchanging(self) -> Iterator[None]:
        """While it lasts, what fails is the connection to another process.

        Raises:
            DeepFMError: It has failed.
        """
        try:
            yield
        except RuntimeError as error:  # as torch says whatever happens to a connection
            if self.is_alone:
                raise
            reason = cut(str(error).splitlines()[0], _LONGEST_REASON)
            raise DeepFMError(
                f"another of the {self.world} processes is gone or cannot be reached, so all of "
                f"them end; train --resume goes on from the last checkpoint ({reason})"
            ) from error


ALONE = Workers()


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, workers: Workers) -> Tensor:
        ctx.workers = workers
        return torch.stack(workers._exchanged(own))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        whole = gradient.clone(memory_format=torch.contiguous_format)
        with ctx.workers.exchanging():
            torch.distributed.all_reduce(whole)
        return whole[ctx.workers.rank], None


class _Message(NamedTuple):
    """Where tensors stand in the bytes that a process sends.

    Attributes:
        rows: Of each tensor.
        ends: Of their places, the first of which begins at 0.
    """

    rows: Sequence[int]
    ends: list[int]

    @classmethod
    def of(cls, tensors: Sequence[Tensor], rows: Sequence[int]) -> "_Message":
        """Of tensors as these are, but for the number of rows."""
        ends, end = [], 0
        for tensor, count in zip(tensors, rows, strict=True):
            size = count * _numbers_per_row(tensor) * tensor.element_size()
            end += -(-size // _ALIGNED) * _ALIGNED
            ends.append(end)
        return cls(rows, ends)

    @property
    def size(self) -> int:
        """In bytes."""
        return self.ends[-1]

    def packed(self, tensors: Sequence[Tensor], size: int) -> Tensor:
        """The bytes of the tensors, (size,)."""
        message = torch.zeros(size, dtype=torch.uint8, device=tensors[0].device)
        for tensor, start in zip(tensors, [0, *self.ends], strict=False):
            end = start + tensor.numel() * tensor.element_size()
            message[start:end].view(tensor.dtype).copy_(tensor.flatten())
        return message

    def unpacked(self, message: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
        """The tensors that stand in a message; `like` has their types and the shapes of rows."""
        found = []
        for tensor, rows, start in zip(like, self.rows, [0, *self.ends], strict=False):
            size = rows * _numbers_per_row(tensor) * tensor.element_size()
            part = message[start : start + size].view(tensor.dtype)
            found.append(part.view(rows, *tensor.shape[1:]))
        return found


def _numbers_per_row(tensor: Tensor) -> int:
    count = 1
    for width in tensor.shape[1:]:
        count *= width
    return count


def _added_up(gradients: Tensor) -> "torch.futures.Future[Tensor]":
    """The sum of gradients over all processes, where DDP would take their mean."""
    work = torch.distributed.all_reduce(gradients, async_op=True)
    done = work.get_future().then(lambda future: future.value()[0])
    return cast("torch.futures.Future[Tensor]", done)


@contextmanager
def workers_of_environment() -> Iterator[Workers]:
    """The processes that the environment names, connected while this context lasts.

    All but the first are quiet, and of an error that several have one speaks.

    Raises:
        ConfigError: A variable is missing.
        DeepFMError: They cannot be connected.
    """
    if started_processes() == 1:
        yield ALONE
        return
    if missing := [name for name in _VARIABLES if name not in os.environ]:
        raise ConfigError(
            f"WORLD_SIZE says that there are {started_processes()} processes, and "
            f"{', '.join(missing)} is not there: start them by --processes N or torchrun"
        )
    rank, world = whole_number("RANK", 0), started_processes()
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        torch.distributed.init_process_group(
            backend, timeout=_PATIENCE, store=_store(rank), rank=rank, world_size=world
        )
        named = _store(None)
    except (RuntimeError, ValueError) as error:
        raise DeepFMError(
            f"process {rank + 1} of {world} cannot reach the others: {str(error).splitlines()[0]}"
        ) from None

    def lost(other: int) -> None:
        _end_with(
            f"process {other + 1} of {world} says nothing any more (distributed.timeout), so "
            f"process {rank + 1} ends; train --resume goes on from the last checkpoint",
            1,
        )

    heartbeat = Heartbeat(named, rank=rank, world=world, silence=_SILENCE, lost=lost)
    workers = Workers(rank, world, give_up_after=heartbeat.give_up_after)

    def leave() -> None:
        workers.wait()  # for the one that writes
        heartbeat.end()
        torch.distributed.destroy_process_group()

    try:
        with nullcontext() if workers.is_first else quiet(warnings=False):
            yield workers
        leave()
    except Interrupted:
        leave()
        LOGGER.disabled = not workers.is_first
        raise
    except DeepFMError as error:
        message, code = " ".join(str(error).splitlines()), error.exit_code
        unanswered = threading.Timer(2 * _WORD, _end_with, [message, code])
        unanswered.daemon = True
        unanswered.start()  # the host of the store may be the one that is gone
        heartbeat.end(within=_TICK)
        speaks = _speaks(named)
        unanswered.cancel()
        if not speaks:
            time.sleep(_WORD)
            end_now(code)
        LOGGER.error(message)
        _wait_for_questions(named, world)
        sys.stderr.flush()
        end_now(code)  # connections that are broken cannot be taken down in order


def _store(rank: int | None) -> Any:
    """A connection to what all processes share, under names of this attempt: `torchrun` keeps its
    store when it starts processes anew, and what stands there is of those that are gone.

    Args:
        rank: The first process holds the store, unless `torchrun` does; None: another connection.
    """
    is_held = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    stores: Any = torch.distributed  # whose type hints leave them out
    store = stores.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=rank == 0 and not is_held,
        wait_for_workers=False,
        timeout=_CONNECTING,
    )
    return stores.PrefixStore(f"deepfm/{restarts()}", store)


def _end_with(message: str, code: int) -> None:
    LOGGER.error(message)
    sys.stderr.flush()
    end_now(code)


def _wait_for_questions(store: Any, world: int) -> None:
    """Keep the store, which may end with this process, until the others have asked who speaks; one
    that waits for something else does not."""
    with suppress(RuntimeError):
        until = time.monotonic() + _WORD
        while store.add("errors", 0) < world and time.monotonic() < until:
            time.sleep(_TICK)


def _speaks(store: Any) -> bool:
    """Whether no other process has an error to tell of, or none can be asked."""
    try:
        return bool(store.add("errors", 1) == 1)
    except RuntimeError:
        return True
