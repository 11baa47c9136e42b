"""Textbooks: an embedding layer that works field by field, and tables with a parameter each.

`PlainEmbedding` is an oracle of views and gradients. `PlainTables` is a whole second storage: put
in `models.features.STORAGES`, or given to `FeatureEmbedding` as `tables`, it serves every model
and the trainer.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from deepfm.models.layers.embedding import FeatureEmbedding, Views
from deepfm.models.layers.fields import DenseField
from deepfm.models.layers.named_weights import NamedWeights
from deepfm.models.layers.tables import Answer, Capabilities, Tables


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
        self.dense_vectors, self.encoded = layer.dense_vectors, layer.encoded
        self.projections = layer.projections

    def forward(self, sparse, dense, sequence_ids, sequence_lengths, located=None):
        vectors, raw, first_order = [], [], 0
        columns, column, plain = iter(sparse.unbind(1)), 0, []
        bags = iter(zip(sequence_ids, sequence_lengths, strict=True))
        for field in self.fields:
            if isinstance(field, DenseField):
                numbers = dense[:, column : column + field.value_dim]
                column, term = column + field.value_dim, None
                if field.is_encoded:
                    vector, term = self.encoded_alone(field, numbers)
                    vectors.append((field.name, vector))
                elif field.dim is None:
                    raw.append(numbers)
                else:
                    vectors.append((field.name, numbers @ self.dense_vectors[field.name]))
                if term is not None:
                    first_order = first_order + term
                else:
                    plain.append(numbers)
            elif field.combiner is None:
                ids = next(columns)
                vectors.append((field.name, self.row(field, field.table, ids)))
                first_order = first_order + self.row(field, f"{field.table}_wide", ids)
            else:
                bag = next(bags)
                vectors.append((field.name, self.pooled(field, field.table, *bag)))
                first_order = first_order + self.pooled(field, f"{field.table}_wide", *bag)
        if self.dense_first_order is not None:
            weighted = torch.cat(plain, 1) * self.dense_first_order
            first_order = first_order + weighted.sum(1, keepdim=True)
        aligned = [
            F.linear(vector, self.projections[name]) if name in self.projections else vector
            for name, vector in vectors
        ]
        flat = torch.cat([vector for _, vector in vectors] + raw, 1)
        return Views(first_order, torch.stack(aligned, 1), flat)

    def encoded_alone(self, field, numbers):
        """Vector and first-order term of one field, through the weights of its group."""
        group = self.encoded[field.shape]
        k, width = group.names.index(field.name), group.encoding.num_features
        own = slice(k * field.value_dim, (k + 1) * field.value_dim)
        term = None
        if field.edges:
            low, high = torch.tensor(field.edges[:-1]), torch.tensor(field.edges[1:])
            encoded = ((numbers.unsqueeze(2) - low) / (high - low)).clamp(0, 1)
            encoded = F.pad(encoded / math.sqrt(len(low)), (0, width - len(low)))
            if group.first_order is not None:
                term = (encoded * group.first_order[own]).sum((1, 2)).unsqueeze(1)
        else:
            angle = 2 * math.pi * numbers.unsqueeze(2) * group.encoding.frequency[own]
            encoded = torch.cat([angle.sin(), angle.cos()], 2)
        vector = encoded.flatten(1) @ group.weight[k] + group.bias[k]
        return (vector if field.edges else vector.relu()), term

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

    def l2_reg(self, sparse, dense, sequence_ids, sequence_lengths, located=None, *, rate):
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


class PlainTables(Tables):
    """One parameter per table, looked up field by field; gradients are torch's, and dense."""

    capabilities = Capabilities(optimizers=(), global_clipping=True, table_l2=True)

    def __init__(self, fields, reads):
        super().__init__(fields, reads)
        self.answers = []
        for name, table in self.logical.items():
            weight = torch.zeros(table.rows, table.dim)
            self.register_parameter(
                f"{name}_weight", nn.Parameter(weight, requires_grad=table.trainable)
            )
            for field in self.fields:
                if field.name in table.readers:
                    kind = ((field.name,), ()) if field.combiner is None else ((), (field.name,))
                    self.answers.append(Answer(table.suffix, *kind))

    def parameter_of(self, name):
        return getattr(self, f"{name}_weight")

    def lookup(self, ids):
        of_fields = self.ids_of_fields(ids)
        found = []
        for suffix, sparse, sequences in self.answers:
            (field,) = sparse or sequences
            (table,) = (
                t for t in self.logical.values() if t.suffix == suffix and field in t.readers
            )
            rows, valid = of_fields[field]
            vectors = F.embedding(rows.masked_fill(~valid, 0), self.parameter_of(table.name))
            found.append(vectors.masked_fill(~valid.unsqueeze(-1), 0.0))
        return found

    def ids_of_fields(self, ids):
        """By field its ids and which of them count, (B, 1) or (B, L)."""
        columns, bags, found = iter(ids.sparse.split(1, dim=1)), iter(ids.bags), {}
        for field in self.fields:
            if field.combiner is not None:
                found[field.name] = tuple(next(bags))
            else:
                nothing = -1 if field.padding_idx is None else field.padding_idx
                column = next(columns)
                found[field.name] = column, column != nothing
        return found

    def squared_norms(self, ids):
        of_fields, norms = self.ids_of_fields(ids), []
        for name, table in self.logical.items():
            if table.trainable:
                rows = [of_fields[reader][0][of_fields[reader][1]] for reader in table.readers]
                norms.append(self.parameter_of(name)[torch.cat(rows).unique()].square().sum())
        return norms


class SelfUpdatingTables(PlainTables):
    """Tables that bring an optimizer of their own for two of the sparse optimizers."""

    capabilities = PlainTables.capabilities._replace(optimizers=("adagrad", "lazy_sgd"))
    made = 0

    def own_optimizer(self, name, options):
        type(self).made += 1
        options = dict(options)
        assert options.pop("max_gradient") is None
        trained = [weight for weight in self.parameters() if weight.requires_grad]
        classes = {"adagrad": torch.optim.Adagrad, "lazy_sgd": torch.optim.SGD}
        return classes[name](trained, **options)
