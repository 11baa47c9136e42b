"""What embedding tables are to those who use them, however they are stored.

Decided here: how a table is addressed, what one call of a lookup carries, and what tables can be
asked for in training. A field may have several tables, which differ in their suffix: "" is its
embedding, `wide` its first-order weights, any other one a further embedding, for a view that has
tables of its own. A suffix that begins with `wide_` is of first-order weights too.

A lookup is three steps, so that each can be taken apart: `located` finds the rows of all fields,
one call reads them, and after the backward pass their gradients are added up and applied. Only
tables and the optimizer of their rows know how they are stored; views, models and the trainer do
not. Another storage is a subclass of `Tables` that `FeatureEmbedding(..., tables=...)` is given.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, NamedTuple

from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from deepfm.models.layers.fields import IdField, first_readers
from deepfm.models.layers.initializers import initializer_from

EMBEDDING, WIDE = "", "wide"


class Read(NamedTuple):
    """A field and one of its tables.

    Attributes:
        field: Name of the field.
        suffix: Which of its tables.
        dim: Width of the table; None: the field's own.
    """

    field: str
    suffix: str = EMBEDDING
    dim: int | None = None


class Table(NamedTuple):
    """A table that some fields read, whatever it is stored in.

    Attributes:
        base, suffix: The two parts of its name: `IdField.table_name`, and which of those tables.
        rows, dim: Its shape.
        padding_idx: The row that is zero and never trained; None: there is none.
        initializer: As `initializers.initializer_from` reads it.
        trainable: Whether training changes it.
        readers: Names of the fields that read it, in their order.
    """

    base: str
    suffix: str
    rows: int
    dim: int
    padding_idx: int | None
    initializer: str
    trainable: bool
    readers: tuple[str, ...]

    @property
    def name(self) -> str:
        return table_name(self.base, self.suffix)

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.dim


def is_wide(suffix: str) -> bool:
    """Whether tables of a suffix hold first-order weights.

    Example:
        >>> is_wide("wide"), is_wide("wide_user"), is_wide("wider")
        (True, True, False)
    """
    return suffix == WIDE or suffix.startswith(f"{WIDE}_")


def table_name(base: str, suffix: str) -> str:
    """Name of a table in `state_dict`.

    Example:
        >>> table_name("city", ""), table_name("city", "wide")
        ('city', 'city_wide')
    """
    return f"{base}_{suffix}" if suffix else base


def tables_of(fields: Sequence[IdField], reads: Sequence[Read]) -> dict[str, Table]:
    """The tables that are read, by name: those of a suffix together, in the order of the fields.

    Raises:
        ValueError: Two fields disagree about the tables that they share.
    """
    described = first_readers(fields)
    found: dict[str, Table] = {}
    for suffix in dict.fromkeys(read.suffix for read in reads):
        dims = {read.field: read.dim for read in reads if read.suffix == suffix}
        readers: dict[str, list[IdField]] = {base: [] for base in described}
        for field in fields:
            if field.name in dims:
                readers[field.table_name].append(field)
        for base, own in readers.items():
            if own:
                widths = {field.name: dims[field.name] or field.dim for field in own}
                table = _table(described[base], suffix, widths)
                found[table.name] = table
    return found


def _table(field: IdField, suffix: str, widths: Mapping[str, int]) -> Table:
    """The table of a suffix as a field describes it, with the widths that its readers expect."""
    dim, *others = set(widths.values())
    if others:
        raise ValueError(f"table {table_name(field.table_name, suffix)}: two dims, {widths}")
    initializer = field.wide_initializer if is_wide(suffix) else None
    return Table(
        field.table_name,
        suffix,
        field.rows,
        dim,
        field.padding_idx,
        initializer or field.initializer,
        field.trainable,
        tuple(widths),
    )


class Bag(NamedTuple):
    """Ids of a sequence field, and which of them count, both (B, L)."""

    ids: Tensor
    valid: Tensor


class Located(NamedTuple):
    """The rows of a parameter that the ids of a batch refer to.

    Attributes:
        rows: Their numbers, (U,) int64, distinct and ascending.
        place: Of each lookup among them, (B, C).
        host: `rows` on the host, where several batches are merged without asking a device.
    """

    rows: Tensor
    place: Tensor
    host: Tensor


class Ids(NamedTuple):
    """The ids of a batch.

    Attributes:
        sparse: Of the fields with one id per row, (B, n); `padding_idx` or -1 means none.
        bags: Of the sequence fields.
        located: What `Tables.located` gave for them; None: it was not asked.
    """

    sparse: Tensor
    bags: Sequence[Bag]
    located: "Mapping[str, Located] | None" = None


class Answer(NamedTuple):
    """Vectors that a lookup gives in one tensor, (B, C, dim).

    Attributes:
        suffix: Of the tables that they come from.
        sparse: Fields with one id per row, one of the C columns each.
        sequences: Sequence fields, L columns each, behind those.
    """

    suffix: str
    sparse: tuple[str, ...]
    sequences: tuple[str, ...]


class Capabilities(NamedTuple):
    """What tables can do under a sparse optimizer; anything else is refused before training.

    Attributes:
        optimizers: Names of the sparse optimizers that can update them.
        global_clipping: Whether their gradients count in a global norm.
        table_l2: Whether rows that no id refers to can be decayed.
        only_own_optimizers: Whether backward passes update them by an optimizer that they bring
            along, and leave no gradient to any other. So there is none that is gathered over
            several batches, penalized, or added up over processes outside the tables, and every
            process makes equally many lookups.
    """

    optimizers: tuple[str, ...]
    global_clipping: bool
    table_l2: bool
    only_own_optimizers: bool = False


class Tables(nn.Module, ABC):
    """Embedding tables of some fields; a parameter per table, unless a subclass says otherwise.

    `state_dict` has an entry per table that is read, `<name>.weight`, whatever the storage.

    Gradients: by default autograd fills `.grad` of the parameters, so any optimizer of torch
    works. A sparse optimizer is either one that the tables bring along (`own_optimizer`), or one
    of the trainer's, which needs a storage with a compact mode.

    Args:
        fields: The id fields in the order of the inputs: the k-th without a combiner reads
            `Ids.sparse[:, k]`, the k-th with one reads `Ids.bags[k]`.
        reads: Which of them read which tables. One that no field reads does not exist.

    Attributes:
        capabilities: Under a sparse optimizer.
        logical: The tables by their names, in the order of `state_dict`.
        answers: What `lookup` gives, in this order.

    Raises:
        ValueError: Two fields disagree about the tables that they share.
    """

    capabilities: ClassVar[Capabilities]
    answers: Sequence[Answer]

    def __init__(self, fields: Sequence[IdField], reads: Sequence[Read]) -> None:
        super().__init__()
        self.fields = tuple(fields)
        self.logical = tables_of(fields, reads)

    @abstractmethod
    def lookup(self, ids: Ids) -> list[Tensor]:
        """The vectors of all ids of a batch from all tables: of each of `answers`, (B, C, dim).

        An id that means "nothing" has the zero vector, through which no gradient passes.
        """

    def located(self, ids: Ids) -> Mapping[str, Located] | None:
        """What can be found of these ids, on the CPU, before a lookup; None: nothing.

        How many rows a batch reads is known then, and no device has to be asked.
        """
        return None

    @abstractmethod
    def squared_norms(self, ids: Ids) -> list[Tensor]:
        """Sums of squares of the rows that the ids refer to, () each, to be added up; each row of
        each trainable table counts once."""

    def squared_norms_of_all(self) -> list[Tensor]:
        """Sums of squares of all trainable tables, () each, to be added up."""
        return [weight.square().sum() for weight in self.parameters() if weight.requires_grad]

    @abstractmethod
    def parameter_of(self, name: str) -> nn.Parameter:
        """The parameter that holds a table, alone or with others."""

    def part_of(self, name: str, value: Tensor) -> Tensor:
        """A view of what belongs to a table in its parameter, or in a tensor that an optimizer
        keeps for that parameter."""
        return value

    def __getitem__(self, name: str) -> Tensor:
        """A table, (rows, dim): a view, so writing to it changes the table.

        Its `.grad` is the view of the gradient that autograd left in default mode, or None.
        """
        view, gradient = self._view(name), self.parameter_of(name).grad
        if gradient is not None:
            view.grad = self.part_of(name, gradient)
        return view

    def _view(self, name: str) -> Tensor:
        return self.part_of(name, self.parameter_of(name).detach())

    def reset_parameters(self) -> None:
        """Initialize each table by its own shape, in the order of the names; the padding row is
        zero."""
        for name, table in self.logical.items():
            view = self._view(name)
            weight = view.new_empty(table.shape)
            initializer_from(table.initializer)(weight)
            if table.padding_idx is not None:
                weight[table.padding_idx] = 0.0
            view.copy_(self.own_part(name, weight))

    def held(self, name: str) -> tuple[slice, slice]:
        """The rows and columns of a table that are held here: all, unless several processes share
        it out."""
        table = self.logical[name]
        return slice(0, table.rows), slice(0, table.dim)

    def own_part(self, name: str, whole: Tensor) -> Tensor:
        """What is held here of a whole table, or of its first rows; the same of what an optimizer
        keeps for it.

        Args:
            whole: (rows, dim), or (rows, 1) of what is kept once per row; any object that gives
                tensors of rows and columns will do.
        """
        return whole[self.held(name)]

    def gathered(
        self, name: str, own: Tensor, joined: Callable[[Sequence[Tensor]], list[Tensor]]
    ) -> Tensor:
        """A whole table, or what an optimizer keeps for it, of what each process holds; all of
        them ask for it together.

        Args:
            joined: Gives of each tensor those of all processes, end to end.
        """
        return own

    def own_optimizer(self, name: str, options: Mapping[str, object]) -> Optimizer | None:
        """The sparse optimizer of a name and options (`lr` among them), if the tables bring it.

        Its `param_groups` and `state` are about `parameters()`, as those of any optimizer.
        """
        return None

    @property
    def is_compact(self) -> bool:
        """Whether gradients arrive elsewhere than in `.grad` of the parameters."""
        return False

    def compact_mode(self, optimizer: Optimizer) -> AbstractContextManager[None]:
        """While it lasts, gradients arrive where `optimizer` applies them, if there is such a
        mode."""
        return nullcontext()

    def gradients(self) -> list[Tensor]:
        """In compact mode the tensors whose `.grad` is what training has gathered for a step."""
        return []

    def share(self, joined: Callable[[Sequence[Tensor]], list[Tensor]]) -> None:
        """In compact mode: add up with other processes what backward passes reached since the last
        call, so that each has the rows and gradients of all.

        Args:
            joined: Gives of each tensor those of all processes, end to end.
        """

    def add_l2(self, rate: float) -> None:
        """In compact mode: add `rate` times each row to its gradient, for the rows that backward
        passes reached since the last call."""

    def _save_to_state_dict(
        self, destination: dict[str, Tensor], prefix: str, keep_vars: bool
    ) -> None:
        for name in self.logical:
            destination[f"{prefix}{name}.weight"] = self._view(name)

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Tensor],
        prefix: str,
        local_metadata: dict[str, object],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        known = {f"{prefix}{name}.weight": self._view(name) for name in self.logical}
        missing_keys += [key for key in known if key not in state_dict]
        unexpected_keys += [k for k in state_dict if k.startswith(prefix) and k not in known]
        for (name, table), (key, view) in zip(self.logical.items(), known.items(), strict=True):
            saved = state_dict.get(key, view)
            if saved.shape == view.shape:  # perhaps a part, which this process has held before
                view.copy_(saved[:])
            elif saved.shape == table.shape:
                view.copy_(self.own_part(name, saved))
            else:
                error_msgs.append(
                    f"size mismatch for {key}: {tuple(saved.shape)} was saved, the table has "
                    f"{table.shape}"
                )
