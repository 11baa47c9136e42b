"""Losses by pairs and their gradients against whole rows in float64, one model call per pair."""

import math
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
import torch

from deepfm.config import DNNConfig
from deepfm.data.batch import Batch
from deepfm.data.negatives import PairSampling
from deepfm.data.sampling import Interactions
from deepfm.errors import ConfigError
from deepfm.models import build_model, training_pairs
from deepfm.models.training_pairs import TrainingPairs
from deepfm.objectives import LOSSES, Task
from tests.models.conftest import OF_ONE_TASK, changed, random_inputs, replaced
from tests.models.test_pairs import ITEM_FIELDS, catalogue_of, with_items

ROWS, ITEMS, DRAWS = 6, 9, 5
DRAWN = {  # source, shared
    "uniform": ("uniform", False),
    "uniform-shared": ("uniform", True),
    "popularity": ("popularity", False),
    "popularity-shared": ("popularity", True),
    "in_batch": ("in_batch", False),
}


class Case:
    """A batch of positive rows with negatives, and what it was made of."""

    def __init__(self, schema, source="uniform", shared=True):
        self.inputs = random_inputs(schema, ROWS, seed=1)
        self.inputs = self.inputs._replace(dense=self.inputs.dense.double())
        items = random_inputs(schema, ITEMS, seed=2)
        self.catalogue = catalogue_of(schema, items._replace(dense=items.dense.double()))
        rng = np.random.default_rng(4)
        self.item = np.array([0, 3, 3, 8, 1, 0])
        self.user = np.array([0, 1, 2, 2, 1, 3])
        known = {(0, 0), (1, 3), (1, 1), (1, 7), (2, 3), (2, 8), (3, 0), (3, 2), (3, 4)}
        self.known = known
        self.counts = np.array([5, 2, 3, 4, 1, 0, 2, 3, 6])
        user, item = map(np.array, zip(*sorted(known), strict=True))
        self.sampling = PairSampling(
            count=DRAWS,
            source=source,
            shared=shared,
            item=self.item,
            counts=self.counts,
            excluded=Interactions(user, item, num_users=4, num_items=ITEMS),
            items=self.catalogue.inputs,
        )
        self.inputs = self.catalogue.with_room(self.inputs)
        self.catalogue.overwrite(self.inputs, torch.arange(ROWS), torch.from_numpy(self.item))
        self.pairs = self.sampling.pairs(np.arange(ROWS), self.user, rng)
        self.source = source

    def positions(self):
        """Item position of every negative, (B, N), told by the features of the catalogue."""
        items = [self.features(self.pairs.items, place) for place in range(len_of(self.pairs))]
        known = [self.features(self.catalogue.inputs, position) for position in range(ITEMS)]
        assert len(set(known)) == ITEMS
        negatives = self.pairs.negatives.expand(ROWS, -1)
        return [[known.index(items[place]) for place in row] for row in negatives.tolist()]

    @staticmethod
    def features(inputs, row):
        one = inputs.select(slice(row, row + 1))
        lists = zip(one.sequence_ids, one.sequence_lengths, strict=True)
        sequences = [tuple(ids[0, : int(length)].tolist()) for ids, length in lists]
        return (tuple(one.sparse[0].tolist()), tuple(one.dense[0].tolist()), *sequences)

    def logit(self, model, row, position):
        whole = self.inputs.select(torch.tensor([row]))
        self.catalogue.overwrite(whole, torch.tensor([0]), torch.tensor([position]))
        return model(whole)[0]

    def log_share(self, position):
        """ln of an item's share of the draws in float32, 0 where all are drawn alike."""
        if self.source == "uniform":
            return 0.0
        return float(np.float32(math.log(self.counts[position] / sum(self.counts))))

    def loss(self, model, name):
        """The mean over rows, a model call per pair."""
        losses = []
        for row, negatives in enumerate(self.positions()):
            own = self.logit(model, row, self.item[row])
            allowed = [p for p in negatives if (self.user[row], p) not in self.known]
            others = [self.logit(model, row, p) for p in allowed]
            if name == "bpr":
                terms = [torch.log1p(torch.exp(other - own)) for other in others]
                losses.append(sum(terms) / max(len(terms), 1) + 0 * own)
            else:
                top = own - self.log_share(self.item[row])
                total = torch.exp(top)
                for p, other in zip(allowed, others, strict=True):
                    total = total + torch.exp(other - self.log_share(p))
                losses.append(torch.log(total) - top)
        return sum(losses) / len(losses)


def len_of(pairs):
    return pairs.items.num_rows


def loss_of(model, case, name):
    """The loss as training computes it."""
    task = Task(objectives=(LOSSES[name](),))
    found = TrainingPairs(model)(case.inputs, case.pairs)
    batch = Batch(case.inputs, torch.ones(ROWS, dtype=torch.float64))
    targets = task.targets(batch, model.schema)._replace(pairs=found)
    return task.losses({"": found.own}, targets)[name]


def without_norms(value):
    """Options whose networks, wherever they stand, have no norm."""
    if isinstance(value, DNNConfig):
        return replace(value, norm="none")
    if isinstance(value, dict):
        return {key: without_norms(own) for key, own in value.items()}
    if not is_dataclass(value):
        return value
    return replace(value, **{f.name: without_norms(getattr(value, f.name)) for f in fields(value)})


def double_model(schema, config, name):
    config = replaced(config, model_name=name)
    config = replace(config, model=without_norms(config.model))
    model = build_model(schema, config).double().train()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in (p for n, p in model.named_parameters() if "tables" not in n):
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator).double()
    return model


def gradients(loss, model):
    """Of every parameter by its name; zeros where there is none."""
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(named.items(), found, strict=True)
    }


def check(model, case, name):
    expected, found = case.loss(model, name), loss_of(model, case, name)
    torch.testing.assert_close(found, expected)
    of_rows, of_pairs = gradients(expected, model), gradients(found, model)
    for key, gradient in of_rows.items():
        torch.testing.assert_close(
            of_pairs[key],
            gradient,
            rtol=1e-7,
            atol=1e-10,
            msg=lambda text, key=key: f"{key}: {text}",
        )
    least = 1 if model.config.name == "lr" else 2  # there what is a user's alone cancels out
    assert sum(bool(gradient.abs().max() > 1e-6) for gradient in of_rows.values()) >= least


@pytest.mark.parametrize("drawn", DRAWN)
@pytest.mark.parametrize("loss", ["sampled_softmax", "bpr"])
@pytest.mark.parametrize("name", ["fm", "deepfm", "xdeepfm"])
def test_loss_and_gradients_are_those_of_whole_rows(schema, config, name, loss, drawn):
    schema = with_items(schema, ITEM_FIELDS)
    check(double_model(schema, config, name), Case(schema, *DRAWN[drawn]), loss)


@pytest.mark.parametrize(
    "items", [{"type", "tags"}, {"item", "items"}, {"children", "keys", "price"}]
)
@pytest.mark.parametrize("name", OF_ONE_TASK)
def test_any_field_may_be_an_items(schema, config, name, items):
    schema = with_items(schema, items)
    case = Case.__new__(Case)
    try:
        case.__init__(schema)
        case.positions()
    except AssertionError:
        pytest.skip("two items of the catalogue are alike")
    check(double_model(schema, config, name), case, "sampled_softmax")


@pytest.mark.parametrize("drawn", ["uniform", "uniform-shared"])
@pytest.mark.parametrize("name", ["deepfm", "attention_deepfm"])
def test_tiles_that_are_computed_twice_change_nothing(schema, config, name, drawn, monkeypatch):
    said = []
    monkeypatch.setattr(training_pairs.LOGGER, "info", said.append)
    monkeypatch.setattr(training_pairs, "HELD", 0)
    monkeypatch.setattr(training_pairs, "CPU_TILE", 3000)
    monkeypatch.setattr(training_pairs, "TILE", 3000)
    schema = with_items(schema, ITEM_FIELDS)
    check(double_model(schema, config, name), Case(schema, *DRAWN[drawn]), "sampled_softmax")
    assert len(said) == 1
    assert "computed twice" in said[0]


def test_dropout_masks_are_the_same_in_both_computations(schema, config, monkeypatch):
    schema = with_items(schema, ITEM_FIELDS)
    config = changed(config, "dnn", norm="none", dropout=0.5)
    model, case = build_model(schema, config).train(), Case(schema)
    case.inputs = case.inputs._replace(dense=case.inputs.dense.float())
    case.pairs = case.pairs._replace(
        items=case.pairs.items._replace(dense=case.pairs.items.dense.float())
    )
    monkeypatch.setattr(training_pairs, "CPU_TILE", 10**9)  # one tile, as without computing twice
    found = []
    for held in (10**9, 0):
        monkeypatch.setattr(training_pairs, "HELD", held)
        torch.manual_seed(1)
        found.append(gradients(loss_of(model, case, "sampled_softmax"), model))
    for key, gradient in found[0].items():
        assert torch.equal(gradient, found[1][key]), key


@pytest.mark.parametrize("rows", [2, 5, 100])
def test_what_a_pair_holds_is_measured(rows):
    """The exponential keeps its result of 3 numbers for each pair; what comes before, and is there
    once, is not of a pair."""
    users = torch.randn(rows, 3, requires_grad=True)
    items = (torch.randn(4, 3, requires_grad=True) ** 2).exp()

    def tile(row, column):
        return (users[row].unsqueeze(1) + items[column]).exp().sum(2)

    assert training_pairs._bytes_of_pair(tile, rows) == 3 * 4


@pytest.mark.parametrize("values", [{"norm": "batch"}, {"norm": "none", "activation": "Dice"}])
def test_batch_norm_is_refused(schema, config, values):
    schema = with_items(schema, ITEM_FIELDS)
    with pytest.raises(ConfigError, match=r"^dnn\.norm: batch norm .*Dice"):
        TrainingPairs(build_model(schema, changed(config, "dnn", **values)))


def test_a_row_without_negatives_has_no_loss(schema, config):
    schema = with_items(schema, ITEM_FIELDS)
    case, model = Case(schema), double_model(schema, config, "fm")
    case.pairs = case.pairs._replace(allowed=torch.zeros_like(case.pairs.allowed))
    for name in ("sampled_softmax", "bpr"):
        loss = loss_of(model, case, name)
        assert loss.item() == 0
        assert not any(gradient.any() for gradient in gradients(loss, model).values())


@pytest.mark.parametrize("name", ["fm", "xdeepfm"])
def test_the_rows_read_refer_to_every_row_of_a_table(schema, config, name):
    """L2 of scope `batch` counts each row of a table once that a row or a negative refers to."""
    schema = with_items(schema, ITEM_FIELDS)
    case, model = Case(schema), double_model(schema, config, name)
    with torch.no_grad():
        for table in model.embedding.tables.parameters():
            table.copy_(torch.randn(table.shape, dtype=torch.float64))
    rows = TrainingPairs(model).rows_read(case.inputs, case.pairs)
    whole = [case.inputs.select(slice(row, row + 1)) for row in range(ROWS)]
    for place in {p for row in case.positions() for p in row}:
        one = case.inputs.select(torch.tensor([0]))
        case.catalogue.overwrite(one, torch.tensor([0]), torch.tensor([place]))
        whole.append(one)
    touched = {}
    tables = model.embedding.tables
    for one in whole:
        for field, ids in zip(schema.sparse_fields, one.sparse[0].tolist(), strict=True):
            touched.setdefault(field.embedding_name, set()).add((ids, field.padding_idx))
        lists = zip(schema.sequence_fields, one.sequence_ids, one.sequence_lengths, strict=True)
        for field, ids, length in lists:
            for value in ids[0, : int(length)].tolist():
                touched.setdefault(field.embedding_name, set()).add((value, field.padding_idx))
    expected = 0.0
    for table, ids in touched.items():
        for value in {value for value, padding in ids if value != padding}:
            for suffix in ("", "_wide"):
                expected += float(tables[f"{table}{suffix}"][value].square().sum())
    rate = config.model.feature.embedding_l2_reg
    assert model.get_l2_reg_loss(rows).item() == pytest.approx(rate / 2 * expected)
