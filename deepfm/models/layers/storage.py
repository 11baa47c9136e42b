"""How embedding tables are stored: many logical tables packed into a few physical ones.

Decided here: the layout, what a lookup costs, and the two ways in which gradients arrive. Outside,
only logical tables are visible: `<name>`, and `<name>_wide` for the first-order weights.
"""

import math
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from deepfm.models.layers.options import check_arguments, parse_call

# Up to this many table rows per lookup, ticking them off costs less than sorting the lookups: 5
# times less with a tenth of a row per lookup, as much with 9 (measured on one core).
_SMALL = 4

# Functions of `torch.nn.init` that a text may name, with the arguments that they take.
_KAIMING = {"a": float, "mode": str, "nonlinearity": str}
_TORCH_INITIALIZERS: dict[str, dict[str, type]] = {
    "nn.init.uniform_": {"a": float, "b": float},
    "nn.init.normal_": {"mean": float, "std": float},
    "nn.init.trunc_normal_": {"mean": float, "std": float, "a": float, "b": float},
    "nn.init.constant_": {"val": float},
    "nn.init.zeros_": {},
    "nn.init.ones_": {},
    "nn.init.xavier_uniform_": {"gain": float},
    "nn.init.xavier_normal_": {"gain": float},
    "nn.init.kaiming_uniform_": _KAIMING,
    "nn.init.kaiming_normal_": _KAIMING,
}
INITIALIZERS = ("xavier_uniform", "uniform_rows", "normal(STD)", *_TORCH_INITIALIZERS)


class TableSpec(NamedTuple):
    """A categorical field and the table that it reads.

    Attributes:
        name: Name of the field.
        rows, dim: Shape of the table.
        padding_idx: The id whose row is zero and never trained; None: every row is ordinary.
        combiner: How a sequence is pooled (`mean`, `sum`, `max`); None: one id per row.
        initializer: Of the table, as `initializer_from` reads it.
        table: Name of the table, which fields may share; None: the field's own name.
        wide_initializer: Of the first-order weights; None: the same.
        trainable: Whether training changes the table and its first-order weights.
    """

    name: str
    rows: int
    dim: int
    padding_idx: int | None
    combiner: str | None
    initializer: str
    table: str | None = None
    wide_initializer: str | None = None
    trainable: bool = True


class Layout(NamedTuple):
    """A physical table: what a row of it holds, and who reads it.

    Attributes:
        dim: Width of the embedding, which stands first; 0: there is none.
        wide: Width of the first-order weights; 0: there are none.
        trainable: Whether training changes it.
        fields: Names of the fields that read its rows, all of each row.
        null: The row of every id that means "nothing".
    """

    dim: int
    wide: int
    trainable: bool
    fields: tuple[str, ...]
    null: int

    @property
    def blocks(self) -> list[int]:
        """Widths of the logical tables that share a row, in column order."""
        return [width for width in (self.dim, self.wide) if width]


class Place(NamedTuple):
    """Where a logical table lies: a rectangle of a physical one."""

    parameter: str
    rows: slice
    columns: slice


class Capabilities(NamedTuple):
    """What a storage can do in compact mode; anything else is refused before training.

    Attributes:
        optimizers: Names of the sparse optimizers that can update it.
        global_clipping: Whether its gradients count in a global norm.
        table_l2: Whether rows that no id refers to can be decayed.
    """

    optimizers: tuple[str, ...]
    global_clipping: bool
    table_l2: bool


class PackedTables(nn.Module):
    """Embedding tables, those of equal dim end to end in one parameter.

    A row holds the embedding and, in further columns, the first-order weights, so that a batch
    costs one lookup per dim. Fields that name the same table read the same rows, and their
    gradients add up there. `state_dict` has an entry per logical table, `<name>.weight` and
    `<name>_wide.weight`, whatever the layout; `tables[name]` is a view of one.

    A table that no field reads does not exist. Where some fields read the embedding only, or the
    first-order weights only, the two lie in separate parameters: a row is touched by those alone
    that read all of it. Tables that training does not change lie in parameters without gradient.

    Every id that means "nothing" (padding, -1 in a table without, or a position beyond the length
    of its sequence) reads one null row per parameter: the padding row of the first table that has
    one, otherwise an extra row at the end.

    Gradients: by default autograd fills `.grad` of the parameters, so any optimizer works, at
    a cost that grows with the tables. In `compact_mode` a lookup reads a copy of the distinct
    rows of its batch, and the gradient arrives on that copy: see `touched`.

    Args:
        fields: What reads the tables. A table stands where its first field stands.
        wide: Width of the first-order weights of a row; 0: there are none.
        embedded, first_order: Names of the fields that read embeddings, and first-order weights;
            None: all.

    Attributes:
        capabilities: Of compact mode.
        layouts: The physical tables, by the names of their parameters.
        places: Where each logical table lies, by its name.
        embedded: Names of those that hold embeddings.

    Raises:
        ValueError: Two fields disagree about the table that they share.

    Example:
        >>> tables = PackedTables(
        ...     [TableSpec(name, 10, 4, 0, None, "uniform_rows") for name in "ab"], wide=1
        ... )
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

    def __init__(
        self,
        fields: Sequence[TableSpec],
        *,
        wide: int,
        embedded: Collection[str] | None = None,
        first_order: Collection[str] | None = None,
    ) -> None:
        super().__init__()
        self._fields = tuple(fields)
        self._specs = logical_tables(fields)
        self._table = {field.name: field.table or field.name for field in fields}
        self._batches: list[CompactRows] | None = None  # a list in compact mode
        self._closed = 0  # entries of it that `close_batch` has given
        self._starts: dict[tuple[str, str], int] = {}  # first rows, by parameter and sequence
        kinds: dict[tuple[int, int, bool], dict[str, list[str]]] = {}  # tables, with their readers
        for name, spec in self._specs.items():
            readers = [field for field, table in self._table.items() if table == name]
            deep = [field for field in readers if embedded is None or field in embedded]
            linear = [field for field in readers if first_order is None or field in first_order]
            linear = linear if wide else []
            parts = [(spec.dim, wide, deep)]
            if deep != linear:
                parts = [(spec.dim, 0, deep), (0, wide, linear)]
            for dim, width, own in parts:
                if own:
                    kinds.setdefault((dim, width, spec.trainable), {})[name] = own
        self.layouts: dict[str, Layout] = {}
        self.places: dict[str, Place] = {}
        for kind, tables in kinds.items():
            self._lay_out(*kind, tables)
        names = [*self._specs, *map(wide_name, self._specs)]
        self.places = {name: self.places[name] for name in names if name in self.places}
        self.embedded = tuple(name for name in self._specs if name in self.places)

    def _lay_out(self, dim: int, wide: int, trainable: bool, tables: dict[str, list[str]]) -> None:
        """Make the physical table of these logical ones, each given with its readers."""
        parameter = f"packed_{dim}_{wide}{'' if trainable else '_frozen'}"
        start, offsets, padding = 0, {}, {}
        for name in tables:
            spec = self._specs[name]
            rows = slice(start, start + spec.rows)
            if dim:
                self.places[name] = Place(parameter, rows, slice(0, dim))
            if wide:
                self.places[wide_name(name)] = Place(parameter, rows, slice(dim, dim + wide))
            offsets[name], start = start, start + spec.rows
            if spec.padding_idx is not None:
                padding[name] = spec.padding_idx
        first = next(iter(padding), None)
        null = start if first is None else offsets[first] + padding[first]
        weight = torch.zeros(start + (first is None), dim + wide)
        self.register_parameter(parameter, nn.Parameter(weight, requires_grad=trainable))
        readers = {field for own in tables.values() for field in own}
        fields = [field for field in self._fields if field.name in readers]
        names = tuple(field.name for field in fields)
        self.layouts[parameter] = Layout(dim, wide, trainable, names, null)
        sparse = [self._table[field.name] for field in fields if field.combiner is None]
        for what, values in (
            ("offsets", [offsets[name] for name in sparse]),
            ("padding", [padding.get(name, -1) for name in sparse]),
        ):
            numbers = torch.tensor(values, dtype=torch.int64)
            self.register_buffer(f"{parameter}_{what}", numbers, persistent=False)
        for field in fields:
            if field.combiner is not None:
                self._starts[parameter, field.name] = offsets[self._table[field.name]]

    def reset_parameters(self) -> None:
        """Initialize each logical table by its own shape; the padding row is zero."""
        for name in self.places:
            spec = self._specs.get(name)
            if spec is None:
                spec = self._specs[name.removesuffix("_wide")]
                spec = spec._replace(initializer=spec.wide_initializer or spec.initializer)
            view = self._view(name)
            weight = torch.empty_like(view, memory_format=torch.contiguous_format)
            initializer_from(spec.initializer)(weight)
            if spec.padding_idx is not None:
                weight[spec.padding_idx] = 0.0
            view.copy_(weight)

    def __getitem__(self, name: str) -> Tensor:
        """A logical table, (rows, dim): a view, so writing to it changes the table.

        Its `.grad` is the view of the gradient that autograd left in default mode, or None.
        """
        parameter, rows, columns = self.places[name]
        view, gradient = self._view(name), getattr(self, parameter).grad
        if gradient is not None:
            view.grad = gradient[rows, columns]
        return view

    def _view(self, name: str) -> Tensor:
        parameter, rows, columns = self.places[name]
        return getattr(self, parameter).detach()[rows, columns]

    def locate(
        self, layout: str, sparse: Tensor, bags: Sequence[tuple[str, Tensor, Tensor]]
    ) -> Tensor:
        """Rows of a physical table for the ids of all fields that read it, (B, C).

        Args:
            layout: A key of `layouts`.
            sparse: Ids of its fields without a combiner, (B, n), in the order of the fields.
            bags: Field, ids (B, L) and mask of valid ids (B, L) of the others.
        """
        null = self.layouts[layout].null
        offsets, padding = getattr(self, f"{layout}_offsets"), getattr(self, f"{layout}_padding")
        parts = [(sparse + offsets).masked_fill(sparse == padding, null)]
        for name, ids, valid in bags:
            located = ids + self._starts[layout, name]
            parts.append(located.masked_fill(~valid, null))
        return torch.cat(parts, dim=1) if bags else parts[0]

    def lookup(self, layout: str, rows: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Embeddings (B, C, dim) and first-order weights (B, C, wide) of located rows (B, C).

        The null row receives no gradient. None stands for what the rows do not hold.
        """
        weight, (dim, wide, trainable, _, null) = getattr(self, layout), self.layouts[layout]
        if self._batches is None or not trainable or not torch.is_grad_enabled():
            found = F.embedding(rows, weight, padding_idx=null)  # (B, C, dim + wide)
            return found[..., :dim] if dim else None, found[..., dim:] if wide else None
        distinct, inverse = distinct_rows(rows.flatten(), null, len(weight))
        values = weight.detach().index_select(0, distinct).requires_grad_()  # (U, dim + wide)
        self._batches.append(CompactRows(weight, distinct, values))
        trained = values.masked_fill((distinct == null).unsqueeze(1), 0.0)

        def gather(columns: Tensor, width: int) -> Tensor | None:
            return columns.index_select(0, inverse).view(*rows.shape, width) if width else None

        # Separate gathers: index_add_, their backward pass, is 2 to 4 times slower on odd widths,
        # and on one column slower than on none.
        return gather(trained[:, :dim], dim), gather(
            trained[:, dim] if wide == 1 else trained[:, dim:], wide
        )

    def squared_norm(self, layout: str, rows: Tensor) -> Tensor:
        """Sum of squares of the distinct located rows, each counted once, without the null row."""
        distinct = torch.unique(rows)
        distinct = distinct[distinct != self.layouts[layout].null]
        return F.embedding(distinct, getattr(self, layout)).square().sum()

    def blocks(self, weight: Tensor) -> list[int]:
        """Widths of the logical tables that share a row of a physical table, in column order."""
        return next(
            layout.blocks
            for parameter, layout in self.layouts.items()
            if getattr(self, parameter) is weight
        )

    @contextmanager
    def compact_mode(self, optimizer: Optimizer) -> Iterator[None]:
        """While it lasts, gradients arrive on compact rows, which `optimizer` must apply.

        Any other optimizer that holds these tables would find no gradient and do nothing, so a
        step of one is a RuntimeError.
        """
        own = {id(parameter) for parameter in self.parameters()}

        def refuse_others(stepping: Optimizer, args: tuple, kwargs: dict) -> None:
            held = (p for group in stepping.param_groups for p in group["params"])
            if stepping is not optimizer and any(id(parameter) in own for parameter in held):
                raise RuntimeError(
                    f"{type(stepping).__name__} holds embedding tables, which are in compact mode "
                    f"for {type(optimizer).__name__}: their gradients are not in .grad"
                )

        before, self._batches = self._batches, []
        hook = register_optimizer_step_pre_hook(refuse_others)
        try:
            yield
        finally:
            hook.remove()
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

    def close_batch(self) -> "list[CompactRows]":
        """Of the rows that `touched` gives, those since the last call, with their gradients alone.

        What is done to these gradients stays done; it is how a batch's penalty is added.
        """
        return self._merge_from(self._closed)

    def _merge_from(self, first: int) -> "list[CompactRows]":
        fresh = (self._batches or [])[first:]
        reached = [batch for batch in fresh if batch.values.grad is not None]
        merged = []
        for weight in self.parameters():
            batches = [batch for batch in reached if batch.weight is weight]
            merged += [_merged(batches)] if len(batches) > 1 else batches
        if self._batches:
            self._batches[first:] = merged
            self._closed = len(self._batches)
        return merged

    def forget_touched(self) -> None:
        """Drop the rows and gradients of all batches so far."""
        self._closed = 0
        if self._batches:
            self._batches.clear()

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        for name in self.places:
            destination[f"{prefix}{name}.weight"] = self._view(name)

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ) -> None:
        known = {f"{prefix}{name}.weight": self._view(name) for name in self.places}
        missing_keys += [key for key in known if key not in state_dict]
        unexpected_keys += [k for k in state_dict if k.startswith(prefix) and k not in known]
        for key, table in known.items():
            saved = state_dict.get(key, table)
            if saved.shape != table.shape:
                error_msgs.append(
                    f"size mismatch for {key}: {tuple(saved.shape)} was saved, the table has "
                    f"{tuple(table.shape)}"
                )
            else:
                table.copy_(saved)


class CompactRows(NamedTuple):
    """The rows of a physical table that a batch touched.

    Attributes:
        weight: The physical table, (R, stride).
        rows: Their numbers, (U,), distinct; where the number of distinct rows is not known
            without a device's answer, the null row fills the tail.
        values: A copy of them, (U, stride), with the gradient in `.grad`. A row of the tail
            has the gradient zero, as the null row has.
    """

    weight: nn.Parameter
    rows: Tensor
    values: Tensor


def distinct_rows(rows: Tensor, null: int, total: int) -> tuple[Tensor, Tensor]:
    """The distinct numbers among `rows` (N,), ascending, and the place of each row there, (N,).

    On the CPU (U,) numbers; elsewhere always N of them, filled with `null`, because the size of
    U would cost a synchronisation in every step. The numbers are below `total`.
    """
    if rows.device.type != "cpu":
        return padded_distinct_rows(rows, null, total)
    if total > _SMALL * len(rows):
        return torch.unique(rows, return_inverse=True)
    seen = torch.zeros(total, dtype=torch.uint8).index_fill_(0, rows, 1)
    distinct = seen.nonzero().squeeze(1)
    place = torch.empty(total, dtype=torch.int64)
    place.index_copy_(0, distinct, torch.arange(len(distinct)))
    return distinct, place.index_select(0, rows)


def padded_distinct_rows(rows: Tensor, null: int, total: int) -> tuple[Tensor, Tensor]:
    """`distinct_rows` at a fixed size of N, by a stable sort."""
    ordered, order = rows.sort(stable=True)
    is_new = torch.ones_like(ordered)
    is_new[1:] = ordered[1:] != ordered[:-1]
    place = is_new.cumsum(0) - 1
    distinct = torch.full_like(rows, null).scatter_(0, place, ordered)  # equal places, equal values
    return distinct, torch.empty_like(rows).scatter_(0, order, place)


def _merged(batches: Sequence[CompactRows]) -> CompactRows:
    """One entry whose rows are those of all batches, with the sum of their gradients."""
    weight = batches[0].weight
    numbers = torch.cat([batch.rows for batch in batches])
    rows, inverse = torch.unique(numbers, return_inverse=True)
    values = weight.detach().index_select(0, rows).requires_grad_()
    gradients = torch.cat([batch.values.grad for batch in batches])
    values.grad = torch.zeros_like(values).index_add_(0, inverse, gradients)
    return CompactRows(weight, rows, values)


def logical_tables(fields: Sequence[TableSpec]) -> dict[str, TableSpec]:
    """The tables that the fields read, by name, each as its first field describes it.

    Raises:
        ValueError: Two fields disagree about the table that they share; names both.
    """
    tables: dict[str, TableSpec] = {}
    for field in fields:
        name = field.table or field.name
        first = tables.setdefault(name, field)
        keys = ("rows", "dim", "padding_idx", "initializer", "wide_initializer", "trainable")
        for key in keys:
            if (mine := getattr(field, key)) != (theirs := getattr(first, key)):
                raise ValueError(
                    f"fields {first.name} and {field.name} share the table {name}, but have "
                    f"{key} {theirs} and {mine}"
                )
    return tables


def wide_name(name: str) -> str:
    """Name of the table with the first-order weights that belong to a table."""
    return f"{name}_wide"


def initializer_from(text: str) -> Callable[[Tensor], Tensor]:
    """The in-place initializer that a text names.

    `xavier_uniform`: uniform in ±sqrt(6 / (rows + dim)), X. Glorot and Y. Bengio, AISTATS 2010.
    `uniform_rows`: uniform in ±1 / sqrt(rows). `normal(STD)`: mean 0, deviation STD. Others name
    a function of `torch.nn.init` and its arguments, as `nn.init.uniform_,a=-0.01,b=0.01`; the
    text is read, not evaluated.

    Raises:
        ValueError: The text is none of these, STD is not a number above 0, or an argument is
            unknown or of another type.

    Example:
        >>> torch.all(initializer_from("uniform_rows")(torch.empty(4, 3)).abs() <= 0.5)
        tensor(True)
    """
    if text == "xavier_uniform":
        return nn.init.xavier_uniform_
    if text == "uniform_rows":
        return lambda weight: nn.init.uniform_(
            weight, -(weight.shape[0] ** -0.5), weight.shape[0] ** -0.5
        )
    if match := re.fullmatch(r"normal\(([0-9.eE+-]+)\)", text):
        try:
            std = float(match[1])
        except ValueError:
            std = math.nan
        if 0 < std < math.inf:
            return lambda weight: nn.init.normal_(weight, 0.0, std)
    name, arguments = parse_call(text) if "nn.init." in text else (text, {})
    if name in _TORCH_INITIALIZERS:
        return _torch_initializer(name, arguments)
    raise ValueError(f"initializer: expected one of {', '.join(INITIALIZERS)}, got {text!r}")


def _torch_initializer(name: str, arguments: dict) -> Callable[[Tensor], Tensor]:
    """A function of `torch.nn.init` with arguments, which are tried on one number here."""
    function = getattr(nn.init, name.rpartition(".")[2])
    try:
        check_arguments(name, arguments, _TORCH_INITIALIZERS[name])
        with torch.random.fork_rng(devices=[]):
            function(torch.empty(1, 1, device="cpu"), **arguments)
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        reason = str(error).removeprefix(name).lstrip(": ")
        raise ValueError(f"initializer: {name}: {reason}") from None
    return lambda weight: function(weight, **arguments)
