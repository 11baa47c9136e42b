"""Sequences of events and their encoders, by the names that a config gives them."""

from dataclasses import dataclass, fields

from deepfm.errors import ArgumentError, nearest
from deepfm.utils.named import Named, beyond_limits, by_name
from deepfm.utils.settings import chosen, limited

HISTORY = "history"  # the sequence of what a user did before, where the data builds one


@dataclass(frozen=True, kw_only=True)
class SequenceConfig:
    """A sequence of events, and what it is asked about.

    Attributes:
        query: Fields that events are compared with, such as those of the item.
        sequence: Sequence fields that tell of an event; none: those of this `sequence` in the
            table's fields.
    """

    query: tuple[str, ...] = ()
    sequence: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(Named):
    """What every encoder has.

    Attributes:
        input: The sequence of `feature.sequences` that it reads; empty: the only one there is.
        group: The flat group that its output is appended to; `fields`: it stands in for the pooled
            vectors of the sequence's fields, in every view.
        unknown: What an event is that no field knows: no event (`mask`), or a zero vector
            (`attend`).
        positions: Whether a learned vector is added to an event, by its place from the last one.
        max_length: How many positions are read, the first ones; 0: all of them.
    """

    input: str = ""
    group: str = "deep"
    unknown: str = chosen("mask", ("mask", "attend"))
    positions: bool = False
    max_length: int = 0

    def __post_init__(self) -> None:
        for option in fields(self):
            choices, value = option.metadata.get("choices", ()), getattr(self, option.name)
            if choices and value not in choices:
                raise ArgumentError(
                    option.name,
                    f"expected one of {', '.join(choices)}, found {value!r}; "
                    f"{nearest(str(value), choices)}",
                )
        for name, expected, number in beyond_limits(self):
            raise ArgumentError(name, f"expected a number {expected}, found {number}")


@dataclass(frozen=True, kw_only=True)
class AttentionEncoder(EncoderConfig):
    """An encoder whose weights a network computes.

    Attributes:
        hidden_units: Width of each layer of that network.
        activation: As in `dnn`.
        norm: Of each layer's output before the activation: `batch`, `layer` or `none`.
        dropout: Share of hidden units left out in training.
        bias: Whether the layers have biases.
        init: Of the weights: `xavier_uniform`, or `torch`.
        statistics: Whether norms and Dice count `valid` positions, or `padded` ones besides.
    """

    hidden_units: tuple[int, ...] = limited((64, 32), at_least=1)
    activation: str = "Dice"
    norm: str = chosen("none", ("batch", "layer", "none"))
    dropout: float = limited(0.0, at_least=0, below=1)
    bias: bool = True
    init: str = chosen("xavier_uniform", ("xavier_uniform", "torch"))
    statistics: str = chosen("valid", ("valid", "padded"))


@dataclass(frozen=True, kw_only=True)
class DINEncoder(AttentionEncoder):
    """Target attention of DIN.

    Attributes:
        softmax: Whether weights are normalized over the events.
    """

    name = "din"
    softmax: bool = False


@dataclass(frozen=True, kw_only=True)
class MultiWindowDINEncoder(AttentionEncoder):
    """Target attention in windows, and the query.

    Attributes:
        windows: Events of each window, one after the other.
        newest: The end of the sequence at which the first window begins: `first` or `last`.
    """

    name = "multi_window_din"
    windows: tuple[int, ...] = limited((5, 15, 30), at_least=1)
    newest: str = chosen("last", ("first", "last"))


@dataclass(frozen=True, kw_only=True)
class SimpleAttentionEncoder(EncoderConfig):
    """The softmax of inner products with the query."""

    name = "simple_attention"


@dataclass(frozen=True, kw_only=True)
class PoolingEncoder(EncoderConfig):
    """The mean or sum of the events.

    Attributes:
        combiner: `mean` or `sum`.
    """

    name = "pooling"
    combiner: str = chosen("mean", ("mean", "sum"))


@dataclass(frozen=True, kw_only=True)
class SelfAttentionEncoder(EncoderConfig):
    """The mean of multi-head self-attention over the events.

    Attributes:
        attention_dim: Width of the output, of all heads together.
        num_heads: Heads.
        dropout: Of the attention weights, in training.
    """

    name = "self_attention"
    attention_dim: int = limited(64, at_least=1)
    num_heads: int = limited(4, at_least=1)
    dropout: float = limited(0.0, at_least=0, below=1)


ENCODERS: dict[str, type[EncoderConfig]] = by_name(
    DINEncoder,
    SimpleAttentionEncoder,
    PoolingEncoder,
    MultiWindowDINEncoder,
    SelfAttentionEncoder,
)
