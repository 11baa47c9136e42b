"""What every loss answers: the labels and logits that it reads, and what these logits mean.

Decided here: every loss is one value per row, and a batch's loss is their weighted mean
sum(w * l) / sum(w), so that equal weights of any size give the mean.

Shapes: B rows, C classes, G group columns.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeAlias

from deepfm.errors import ConfigError, nearest
from deepfm.utils.named import Named

if TYPE_CHECKING:
    from torch import Tensor

# What a forward pass gave, by name: the logits of each task under its name, which is "" where
# there is one task only; in training perhaps those of branches under names of their own.
Logits: TypeAlias = Mapping[str, "Tensor"]


def logits_by_name(logits: "Tensor | dict[str, Tensor]") -> "dict[str, Tensor]":
    """What a model returned, as `Logits`: it returns one tensor where it has one task."""
    return logits if isinstance(logits, dict) else {"": logits}


def branch_logits(logits: Logits, task: str = "") -> "dict[str, Tensor]":
    """Those of the branches of a model with one task, (B,) each; there are some in training."""
    return {name: values for name, values in logits.items() if name != task}


class PairLogits(NamedTuple):
    """Logits of the items that each of B positive rows is compared with.

    Attributes:
        own: Of the row's own item, (B,).
        negatives: Of N sampled items for each row, (B, N).
        allowed: Which of these are negatives of the row, (B, N) bool.
        own_log_q, negatives_log_q: Logarithm of the share of each item among those drawn, (B,)
            and (N,) or (B, N); None: all are drawn alike.
    """

    own: "Tensor"
    negatives: "Tensor"
    allowed: "Tensor"
    own_log_q: "Tensor | None" = None
    negatives_log_q: "Tensor | None" = None

    def by_row(self) -> "dict[str, Tensor]":
        """What there is of each row, by name."""
        found = self._asdict()
        if self.negatives_log_q is not None and self.negatives_log_q.dim() == 1:  # of all rows
            del found["negatives_log_q"]
        return {name: value for name, value in found.items() if value is not None}


class Targets(NamedTuple):
    """What a loss compares the logits of B rows with.

    Attributes:
        label: Of the loss's own task, (B,): 0 or 1, the number of a class, or any number.
        weight: How much each row counts, at least 0, (B,); None: all alike.
        group: The groups that each row belongs to, (B, G) int64; None without any.
        group_columns: Names of the columns of `group`.
        pairs: Of losses that compare a positive row with its negatives; None of any other.
    """

    label: "Tensor"
    weight: "Tensor | None" = None
    group: "Tensor | None" = None
    group_columns: tuple[str, ...] = ()
    pairs: PairLogits | None = None


@dataclass(frozen=True, kw_only=True)
class Objective(Named):
    """A loss, and what the logits mean that are trained by it.

    A subclass says all that there is to say about it. Its fields are its options; limits beyond
    those of the option's kind stand in `limited`. It may read any logits: those of its own task,
    of other tasks, and in training those of branches.

    Attributes:
        label_kinds: Kinds of label that it takes; see `label_kinds_of`.
        min_class, max_class: The `num_class` that it works with; `max_class` None: any from
            `min_class` on. 1 stands for one logit per row, (B,), anything above for (B, C).
        gives_numbers: Whether what it predicts is the number itself, and no probability.
        ranks: Whether items can be ordered by its logit.
        group_option: The option that names the group column it reads; empty: it reads none.
        learns_base_rate: Whether the best constant prediction is the share of each class.
        only_in_training: Whether it reads logits that exist in training only, so that evaluation
            does not report it.
        min_branches: How many branches must have logits of their own for it.
        by_pairs: Whether it compares each positive row with negatives that are drawn for it; what
            is predicted then is a score that puts items in order, and no probability.
    """

    label_kinds: ClassVar[tuple[str, ...]]
    min_class: ClassVar[int] = 1
    max_class: ClassVar[int | None] = 1
    gives_numbers: ClassVar[bool] = False
    ranks: ClassVar[bool] = False
    group_option: ClassVar[str] = ""
    learns_base_rate: ClassVar[bool] = False
    only_in_training: ClassVar[bool] = False
    min_branches: ClassVar[int] = 0
    by_pairs: ClassVar[bool] = False

    @classmethod
    def label_kinds_of(cls, num_class: int) -> tuple[str, ...]:
        """Kinds of label that it takes for so many classes."""
        return cls.label_kinds

    @classmethod
    def fits_classes(cls, num_class: int) -> bool:
        """Whether it works with so many classes."""
        return cls.min_class <= num_class and (cls.max_class is None or num_class <= cls.max_class)

    @classmethod
    def gives(cls, num_class: int) -> frozenset[str]:
        """What metrics can be computed of: `numbers`; `probability`, of class 1; `probabilities`,
        of each class; `classes`, of two or more."""
        if cls.gives_numbers:
            return frozenset({"numbers"})
        found = {"probabilities"}
        found |= {"probability"} if num_class <= 2 else set()
        return frozenset(found | ({"classes"} if num_class > 1 else set()))

    @property
    def equal_metric(self) -> str:
        """The metric that this is over a whole split; empty if there is none."""
        return ""

    @abstractmethod
    def row_losses(self, logits: Logits, targets: Targets, task: str = "") -> "Tensor":
        """The loss of each row, (B,).

        Args:
            logits: By name.
            task: Name of the loss's own task.

        Raises:
            ConfigError: The shape of the logits is not the loss's, or its group is none.
        """

    def loss(self, logits: Logits, targets: Targets, task: str = "") -> "Tensor":
        """The weighted mean of `row_losses`, ()."""
        return weighted_mean(self.row_losses(logits, targets, task), targets.weight)

    @abstractmethod
    def prediction(self, logits: Logits, task: str = "") -> "Tensor":
        """What is predicted: (B,), or (B, C) of three classes or more.

        The probability of class 1 of two, however many logits stand for it; the probabilities of
        more classes; the number itself; or the logit where it only puts items in order.
        """

    def class_probabilities(self, logits: Logits, task: str = "") -> "Tensor | None":
        """The probability of each class, (B, C), where each has a logit of its own."""
        return None

    def log_odds(self, logits: Logits, task: str = "") -> "Tensor | None":
        """The logit of class 1 of two, (B,), whose sigmoid is `prediction`; None of any other."""
        return None

    @abstractmethod
    def outputs(self, logits: Logits, task: str = "") -> "dict[str, Tensor]":
        """The logits and what they mean, by the names that exported models call them."""

    def own_logits(self, logits: Logits, task: str, targets: Targets | None = None) -> "Tensor":
        """The logits of the loss's own task, of the shape that it needs, (B,) or (B, C).

        Raises:
            ConfigError: They have another one, and would broadcast against the labels.
        """
        own, of_classes = logits[task], self.min_class > 1
        fits, found = own.dim() == 1 + of_classes, f"got {tuple(own.shape)}"
        if targets is not None:
            rows = tuple(targets.label.shape)
            fits = fits and len(rows) == 1 and own.shape[:1] == rows
            found += f" for labels {rows}"
        if not fits:
            expected = "(B, C)" if of_classes else "(B,)"
            raise ConfigError(
                f"{self.name} needs logits {expected}, {found}; see num_class",
                key=f"tasks.{task}.losses" if task else "training.losses",
            )
        return own

    def group_of(self, targets: Targets) -> "Tensor":
        """The group of each row by the column that `group_option` names, (B,).

        Raises:
            ConfigError: There is no such column.
        """
        column, known = getattr(self, self.group_option), targets.group_columns
        if targets.group is None or column not in known:
            hint = nearest(column, known) if known else "there are none"
            raise ConfigError(
                f"{self.name}: {self.group_option} {column!r} is none of "
                f"data.table.group_columns; {hint}",
                key="training.losses",
            )
        return targets.group[:, known.index(column)]


def weighted_mean(values: "Tensor", weight: "Tensor | None") -> "Tensor":
    """sum(w * v) / sum(w) of (B,) values, (); 0 where all weights are 0."""
    if weight is None:
        return values.mean()
    divisor = weight.sum()
    return (weight * values).sum() / (divisor + (divisor == 0))
