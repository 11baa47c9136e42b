"""What encoders read of a sequence, and how one reads it: which positions, and where they stand.

The encoders themselves are in `encoders`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepfm.models.layers.lookup import Part, Vectors
from deepfm.models.layers.tables import EMBEDDING
from deepfm.models.layers.views import end_to_end

FIELDS = "fields"  # the group of an encoder that stands in for pooled vectors


class SequenceFields(NamedTuple):
    """The fields of a sequence of events and of what it is asked about, by name.

    Attributes:
        query: Of the query, in its order; a raw dense field stands there as its numbers.
        sequence: Of an event, in its order; sequence fields of equal lengths in each row.
        suffix: Of the tables that all of them read.
        known_by: Those of an event's fields of which one must know it; none: any of them.
    """

    query: Sequence[str]
    sequence: Sequence[str]
    suffix: str = EMBEDDING
    known_by: Sequence[str] = ()


class SequenceView(NamedTuple):
    """A sequence of events in B rows.

    Attributes:
        query: What it is asked about, (B, Dq).
        sequence: The events, (B, L, Ds); zeros where a field knows nothing.
        mask: Which positions hold an event that is known, (B, L).
        lengths: How many positions each row has, (B,).
    """

    query: Tensor
    sequence: Tensor
    mask: Tensor
    lengths: Tensor


def only_encoded(
    sequences: Mapping[str, SequenceFields], encodings: "Sequence[Encoding]"
) -> set[str]:
    """The sequence fields that a flat view shows as what is made of them, not pooled besides.

    Args:
        sequences: Those that somebody reads: encoders, or else the model.
    """
    in_place = {e.sequence for e in encodings if e.group == FIELDS}
    behind = {e.sequence for e in encodings if e.group != FIELDS}
    names = [name for name in sequences if name in behind or name not in in_place]
    return {field for name in names for field in sequences[name].sequence}


def sequence_view(
    vectors: Vectors, fields: SequenceFields, query: Sequence[Part], lengths: Tensor
) -> SequenceView:
    """The view of a sequence of the vectors of a batch.

    Args:
        query: The parts that stand end to end in the query.
        lengths: Of the first field, (B,), which are those of all.
    """
    own = {
        name: vectors.sequences.get((fields.suffix, name)) or vectors.sequences[EMBEDDING, name]
        for name in fields.sequence
    }
    first, *others = fields.known_by or fields.sequence
    mask = own[first].valid
    for name in others:
        mask = mask | own[name].valid
    parts = [one.vectors for one in own.values()]
    asked = end_to_end(vectors, query, fields.suffix)
    return SequenceView(
        torch.cat(asked, dim=1) if asked else vectors.dense[:, :0],
        parts[0] if len(parts) == 1 else torch.cat(parts, dim=2),
        mask,
        lengths,
    )


class Encoding(NamedTuple):
    """An encoder, what it reads, and where its output stands.

    Attributes:
        name: Of its output among the parts of a view.
        encoder: The encoder.
        sequence: Name of the sequence that it reads.
        group: The flat view whose end its output stands at; `fields`: it stands in for the pooled
            vectors of the sequence's fields.
    """

    name: str
    encoder: "SequenceEncoder"
    sequence: str
    group: str


class SequenceEncoder(nn.Module):
    """An encoder with what it is to read of a view, (B, output_dim).

    Args:
        encoder: One of `deepfm.models.layers.encoders`.
        sequence_dim: Ds.
        places: How many places have a learned vector, (Ds,), that is added to an event: counted
            from the last position on, those beyond share the last vector. 0: there are none.
        attends_unknown: Whether a position below the length counts that no field knows; its event
            is zero.
        max_length: How many positions are read, the first ones; 0: all of them.

    NOTE[DIFF]: Natively an event that nothing is known of is no event. TorchEasyRec has a row for
    it, or the zero vector, and lets it attend: `attends_unknown=True`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        sequence_dim: int,
        *,
        places: int = 0,
        attends_unknown: bool = False,
        max_length: int = 0,
    ) -> None:
        super().__init__()
        self.encoder, self.sequence_dim = encoder, sequence_dim
        self.attends_unknown, self.max_length = attends_unknown, max_length
        self.places = nn.Parameter(torch.zeros(places, sequence_dim)) if places else None

    @property
    def output_dim(self) -> int:
        """Width of the output."""
        width = self.encoder.output_dim
        assert isinstance(width, int)
        return width

    def forward(self, view: SequenceView) -> Tensor:
        query, sequence, mask, lengths = view
        position = torch.arange(mask.shape[1], device=mask.device)
        if self.attends_unknown:
            mask = position < lengths.unsqueeze(1)
        if self.places is not None:
            place = (lengths.unsqueeze(1) - 1 - position).clamp(0, len(self.places) - 1)  # (B, L)
            sequence = sequence + F.embedding(place, self.places) * mask.unsqueeze(2)
        if self.max_length:
            sequence, mask = sequence[:, : self.max_length], mask[:, : self.max_length]
        encoded: Tensor = self.encoder(query, sequence, mask)
        return encoded
