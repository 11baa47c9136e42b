"""How embedding tables are stored: many of them packed into a few parameters.

Decided here: what a lookup costs, and how gradients arrive in compact mode. Which tables lie in one
parameter, `layouts` says.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from deepfm.models.layers.fields import IdField
from deepfm.models.layers.layouts import LaidOutTables
from deepfm.models.layers.tables import Capabilities, Ids, Located, Read


class PackedTables(LaidOutTables):
    """Embedding tables, those of equal dim end to end in one parameter.

    A row holds the embedding and, in further columns, the other tables of the same fields, such
    as the first-order weights, so that a batch costs one lookup per dim. Fields that name the
    same table read the same rows, and their gradients add up there.

    Where a field reads only some of the tables that others read, these lie in separate
    parameters: a row is touched by those alone that read all of it. Tables that training does not
    change lie in parameters without gradient.

    Every id that means "nothing" (padding, -1 in a table without, or a position beyond the length
    of its sequence) reads one null row per parameter: the padding row of the first table that has
    one, otherwise an extra row at the end.

    Gradients: by default autograd fills `.grad` of the parameters, at a cost that grows with the
    tables. In `compact_mode` a lookup reads a copy of the distinct rows of its batch, and the
    gradient arrives on that copy: see `touched`.

    Example:
        >>> fields = [IdField(name, 10, 4, 0, None, "uniform_rows") for name in "ab"]
        >>> reads = [
        ...     Read(name, suffix, 1 if suffix else 4) for suffix in ("", "wide") for name in "ab"
        ... ]
        >>> tables = PackedTables(fields, reads)
        >>> [tuple(parameter.shape) for parameter in tables.parameters()]
        [(20, 5)]
        >>> list(tables.state_dict())
        ['a.weight', 'b.weight', 'a_wide.weight', 'b_wide.weight']
    """

    capabilities = Capabilities(
        optimizers=("lazy_adam", "lazy_sgd", "adagrad", "rowwise_adagrad"),
        global_clipping=True,
        table_l2=False,
    )

    def __init__(self, fields: Sequence[IdField], reads: Sequence[Read]) -> None:
        super().__init__(fields, reads)
        self._batches: list[CompactRows] | None = None  # a list in compact mode
        self._closed = 0  # entries of it that `add_l2` has seen
        self._shared = 0  # and `share`
        for name, layout in self.layouts.items():
            weight = torch.zeros(layout.height, sum(layout.widths))
            self.register_parameter(name, nn.Parameter(weight, requires_grad=layout.trainable))

    def parameter_of(self, name: str) -> nn.Parameter:
        """The packed parameter in which a table lies."""
        return self._weight(self.places[name].layout)

    def _weight(self, layout: str) -> nn.Parameter:
        weight: nn.Parameter = getattr(self, layout)
        return weight

    def part_of(self, name: str, value: Tensor) -> Tensor:
        """The rectangle of a table, or its column of what is kept once per row and table."""
        parameter, rows, columns = self.places[name]
        if value.shape != self._weight(parameter).shape:
            column = list(self.layouts[parameter].columns.values()).index(columns)
            columns = slice(column, column + 1)
        return value[rows, columns]

    def lookup(self, ids: Ids) -> list[Tensor]:
        """The vectors of all ids of a batch, (B, C, dim) for each of `answers`."""
        compact = self._batches is not None and torch.is_grad_enabled()
        found: list[Tensor] = []
        for name, layout in self.layouts.items():
            if compact and layout.trainable:
                found += self._read_compact(name, self._located(name, ids))
            else:
                found += self._read(name, self._rows(name, ids))
        return found

    def _read(self, name: str, rows: Tensor) -> list[Tensor]:
        """The vectors in rows (B, C) of one parameter, (B, C, dim) for each table in a row.

        The null row receives no gradient.
        """
        layout = self.layouts[name]
        found = F.embedding(rows, self._weight(name), padding_idx=layout.null)  # (B, C, stride)
        return [found[..., own] for own in layout.columns.values()]

    def _read_compact(self, name: str, located: Located) -> list[Tensor]:
        """The same from a copy of the distinct rows, on which the gradient arrives."""
        assert self._batches is not None
        weight, layout = self._weight(name), self.layouts[name]
        rows, place, host = located
        values = weight.detach().index_select(0, rows).requires_grad_()  # (U, stride)
        self._batches.append(CompactRows(weight, rows, values, host))
        trained = values.masked_fill((rows == layout.null).unsqueeze(1), 0.0)

        def gather(own: slice, width: int) -> Tensor:
            part = trained[:, own.start] if width == 1 else trained[:, own]
            return part.index_select(0, place.flatten()).view(*place.shape, width)

        # Separate gathers: index_add_, their backward pass, is 2 to 4 times slower on odd widths,
        # and on one column slower than on none.
        return [gather(*part) for part in zip(layout.columns.values(), layout.widths, strict=True)]

    def squared_norms(self, ids: Ids) -> list[Tensor]:
        """Of each trainable parameter, the sum of squares of the rows that the ids refer to, ();
        null rows do not count."""
        norms = []
        for name, (rows, _, _) in (ids.located or self.located(ids)).items():
            is_null = (rows == self.layouts[name].null).unsqueeze(1)
            vectors = F.embedding(rows, self._weight(name))  # (U, stride)
            norms.append(vectors.masked_fill(is_null, 0.0).square().sum())
        return norms

    def widths(self, weight: Tensor) -> list[int]:
        """Widths of the tables that share a row of a packed parameter, in column order."""
        return next(
            layout.widths for name, layout in self.layouts.items() if self._weight(name) is weight
        )

    @contextmanager
    def compact_mode(self, optimizer: Optimizer) -> Iterator[None]:
        """While it lasts, gradients arrive on compact rows, which `optimizer` must apply.

        Any other optimizer that holds these tables would find no gradient and do nothing, so a
        step of one is a RuntimeError.
        """
        before, self._batches = self._batches, []
        try:
            with _only(optimizer, list(self.parameters())):
                yield
        finally:
            self._batches = before

    @property
    def is_compact(self) -> bool:
        """Whether compact mode is on."""
        return self._batches is not None

    def touched(self) -> "list[CompactRows]":
        """The rows that lookups since `forget_touched` read and backward passes reached.

        At most one entry per parameter: the gradients of several batches are added up.
        """
        return self._merge_from(0)

    def gradients(self) -> list[Tensor]:
        """The values of `touched`, whose `.grad` is what a step applies."""
        return [rows.values for rows in self.touched()]

    def share(self, joined: Callable[[Sequence[Tensor]], list[Tensor]]) -> None:
        """Add up with other processes what backward passes reached since the last call; the sums
        are equal in all of them to the last bit."""
        if self._batches is None:
            return
        first = self._shared
        own = self._merge_from(first)
        parts = joined([part for touched in own for part in (touched.rows, touched.gradient)])
        self._batches[first:] = [
            _added_up(touched.weight, rows.cpu(), gradients)
            for touched, rows, gradients in zip(own, parts[::2], parts[1::2], strict=True)
        ]
        self._closed = first

    def add_l2(self, rate: float) -> None:
        """Add `rate` times each row to its gradient, for the rows that backward passes reached
        since the last call: the gradient of the penalty, without autograd."""
        for rows in self._merge_from(self._closed):
            rows.gradient.add_(rows.values.detach(), alpha=rate)

    def _merge_from(self, first: int) -> "list[CompactRows]":
        fresh = (self._batches or [])[first:]
        reached = [batch for batch in fresh if batch.values.grad is not None]
        merged = []
        for weight in self.parameters():
            batches = [batch for batch in reached if batch.weight is weight]
            merged += [_merged(batches)] if len(batches) > 1 else batches
        if self._batches:
            self._batches[first:] = merged
            self._closed = self._shared = len(self._batches)
        return merged

    def forget_touched(self) -> None:
        """Drop the rows and gradients of all batches so far."""
        self._closed = self._shared = 0
        if self._batches:
            self._batches.clear()


@contextmanager
def _only(optimizer: Optimizer, weights: Sequence[Tensor]) -> Iterator[None]:
    """While it lasts, a step of another optimizer that holds one of these is a RuntimeError.

    A tensor does not know its optimizers, and the one to refuse may have been made long before:
    torch's hook in front of every step is where all of them pass.
    """
    own = {id(weight) for weight in weights}

    def refuse(stepping: Optimizer, args: object, kwargs: object) -> None:
        held = (p for group in stepping.param_groups for p in group["params"])
        if stepping is not optimizer and any(id(parameter) in own for parameter in held):
            raise RuntimeError(
                f"{type(stepping).__name__} holds embedding tables, which are in compact mode "
                f"for {type(optimizer).__name__}: their gradients are not in .grad"
            )

    hook = register_optimizer_step_pre_hook(refuse)
    try:
        yield
    finally:
        hook.remove()


class CompactRows(NamedTuple):
    """The rows of a packed parameter that a batch touched.

    Attributes:
        weight: The parameter, (R, stride).
        rows: Their numbers, (U,), distinct.
        values: A copy of them, (U, stride), with the gradient in `.grad`; the null row's is zero.
        host: `rows` on the host, or where they were found.
    """

    weight: nn.Parameter
    rows: Tensor
    values: Tensor
    host: Tensor

    @property
    def gradient(self) -> Tensor:
        """What a backward pass left in `values.grad`, (U, stride)."""
        gradient = self.values.grad
        if gradient is None:
            raise RuntimeError("no backward pass has reached these rows")
        return gradient


def _merged(batches: Sequence[CompactRows]) -> CompactRows:
    """One entry whose rows are those of all batches, with the sum of their gradients."""
    numbers = torch.cat([batch.host.cpu() for batch in batches])  # mostly there already
    gradients = torch.cat([batch.gradient for batch in batches])
    return _added_up(batches[0].weight, numbers, gradients)


def _added_up(weight: nn.Parameter, numbers: Tensor, gradients: Tensor) -> CompactRows:
    """The rows of these numbers, which stand on the host, each once, with the sum of its
    gradients."""
    host, inverse = torch.unique(numbers, return_inverse=True)
    rows = _sent(host, weight.device)
    values = weight.detach().index_select(0, rows).requires_grad_()
    inverse = _sent(inverse, weight.device)
    values.grad = torch.zeros_like(values).index_add_(0, inverse, gradients)
    return CompactRows(weight, rows, values, host)


def _sent(numbers: Tensor, device: torch.device) -> Tensor:
    """The numbers on a device, which nobody waits for."""
    if device.type != "cuda":
        return numbers.to(device)
    return numbers.pin_memory().to(device, non_blocking=True)
