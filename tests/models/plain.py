"""The textbook embedding layer: one parameter per logical table, one lookup per field."""

import torch
import torch.nn.functional as F
from torch import nn

from deepfm.models.layers.embedding import FeatureEmbedding, Views
from deepfm.models.layers.fields import DenseField
from deepfm.models.layers.named_weights import NamedWeights


class PlainEmbedding(nn.Module):
    """The layer's weights under the same names in `state_dict`, used field by field."""

    def __init__(self, layer: FeatureEmbedding) -> None:
        super().__init__()
        self.fields = layer.fields
        self.total_dim, self.rest_dim = layer.total_dim, layer.rest_dim
        self.fm_embedding_dim = layer.fm_embedding_dim
        self.dense_first_order = layer.dense_first_order
        names = list(layer.tables.places)
        self.tables = NamedWeights({name: layer.tables[name].shape for name in names})
        for name in names:
            self.tables[name].data = layer.tables[name].clone()
        self.dense_vectors, self.projections = layer.dense_vectors, layer.projections

    def forward(self, sparse, dense, sequence_ids, sequence_lengths):
        vectors, raw, first_order = [], [], 0
        columns, numbers = iter(sparse.unbind(1)), iter(dense.unbind(1))
        bags = iter(zip(sequence_ids, sequence_lengths, strict=True))
        for field in self.fields:
            if isinstance(field, DenseField):
                number = next(numbers).unsqueeze(1)
                if field.dim is None:
                    raw.append(number)
                else:
                    vectors.append((field.name, number * self.dense_vectors[field.name]))
            elif field.combiner is None:
                ids = next(columns)
                vectors.append((field.name, self.row(field, field.table, ids)))
                first_order = first_order + self.row(field, f"{field.table}_wide", ids)
            else:
                bag = next(bags)
                vectors.append((field.name, self.pooled(field, field.table, *bag)))
                first_order = first_order + self.pooled(field, f"{field.table}_wide", *bag)
        if self.dense_first_order is not None:
            first_order = first_order + (dense * self.dense_first_order).sum(1, keepdim=True)
        aligned = [
            F.linear(vector, self.projections[name]) if name in self.projections else vector
            for name, vector in vectors
        ]
        flat = torch.cat([vector for _, vector in vectors] + raw, 1)
        return Views(first_order, torch.stack(aligned, 1), flat)

    def row(self, field, table, ids):
        return F.embedding(ids, self.tables[table], field.padding_idx)

    def pooled(self, field, table, ids, lengths):
        bags = []
        for row, length in zip(ids, lengths.tolist(), strict=True):
            valid = row[:length]
            if field.padding_idx is not None:
                valid = valid[valid != field.padding_idx]
            rows = self.tables[table][valid]
            if not len(valid):
                bags.append(rows.new_zeros(rows.shape[1]))
            else:
                pool = {"mean": rows.mean, "sum": rows.sum, "max": rows.amax}[field.combiner]
                bags.append(pool(0))
        return torch.stack(bags)

    def l2_reg(self, sparse, dense, sequence_ids, sequence_lengths, *, rate):
        total = 0
        for name, rows in self.touched(sparse, sequence_ids, sequence_lengths).items():
            for table in (name, f"{name}_wide"):
                total = total + rate / 2 * self.tables[table][rows].square().sum()
        return total

    def touched(self, sparse, sequence_ids, sequence_lengths) -> dict[str, torch.Tensor]:
        """The distinct rows of each table that a batch refers to, without padding."""
        columns, result = iter(sparse.unbind(1)), {}
        bags = iter(zip(sequence_ids, sequence_lengths, strict=True))
        for field in self.fields:
            if isinstance(field, DenseField):
                continue
            if field.combiner is None:
                ids = next(columns)
            else:
                ids = torch.cat([row[:length] for row, length in zip(*next(bags), strict=True)])
            if field.padding_idx is not None:
                ids = ids[ids != field.padding_idx]
            result[field.table] = torch.cat([ids, result.get(field.table, ids[:0])]).unique()
        return result
