"""A step asks no device for a number: torch's meta device has none, so whatever asks is an error.

What a GPU would be waited for (`item`, a condition, `nonzero`, `unique`, a boolean index, a copy to
the host) raises there, and so does most of what mixes tensors of host and device. The code is that
of any accelerator, and batches take the same way: prepared on the host, packed, and moved.
"""

from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from deepfm import experiment
from deepfm.config import config_from_dict, load_config
from deepfm.data.batch import Batch
from deepfm.models import build_model
from deepfm.models.layers.batch_norm import sharing_batch_norm
from deepfm.objectives import LOSSES, PairLogits, Targets
from deepfm.training.optimizers import assign_optimizers
from deepfm.training.options import OPTIMIZERS, SPARSE_OPTIMIZERS
from deepfm.training.schedules import build_schedules
from deepfm.training.steps import TrainingStep
from tests.models.conftest import OF_ONE_TASK, random_inputs

META = torch.device("meta")
ASKING = {  # what has a result whose size or value only the device knows
    "_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "unique_consecutive",
    "masked_select", "equal",
}  # fmt: skip


class NothingIsAsked(TorchDispatchMode):
    """Names what would be waited for, where a tensor of the device has a part in it."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        tensors = torch.utils._pytree.tree_leaves((args, kwargs))
        if any(isinstance(t, torch.Tensor) and t.device == META for t in tensors):
            assert name not in ASKING, name
            if name == "repeat_interleave":
                assert (kwargs or {}).get("output_size") is not None, name
        return function(*args, **(kwargs or {}))


def step_of(model, config):
    assigned = assign_optimizers(model, config.training)
    for item in assigned:
        for group in item.optimizer.param_groups:
            if "fused" in group:
                group["fused"] = None  # which this device has not
    schedules = build_schedules(assigned, config.training, maximize=True)
    return TrainingStep(model, config.training, assigned, schedules)


def config_of(model_name="deepfm", dnn=None, feature=None, **training):
    return config_from_dict(
        {
            "model_name": model_name,
            "feature": {"fm_embedding_dim": 4, "embedding_l2_reg": 0.01, **(feature or {})},
            "dnn": {"hidden_units": [8, 4], "dropout": 0.1, **(dnn or {})},
            "cin": {"layer_sizes": [4, 4]},
            "attention": {"num_heads": 2, "attention_dim": 4},
            "training": training,
        }
    )


def run_steps(schema, config, *, steps=2, prepare=True, shares_norms=False):
    """Steps of a model on the device, which the schedules follow."""
    model = build_model(schema, config).to(META).train()
    step = step_of(model, config)
    done = 0
    sharing = sharing_batch_norm(model, lambda own: own.unsqueeze(0))
    with step.gradient_mode(), NothingIsAsked(), sharing if shares_norms else nullcontext():
        for number in range(steps):
            inputs = random_inputs(schema, 16, seed=number)
            weight = torch.rand(16)
            batch = Batch(inputs, (torch.arange(16) % 2).float(), weight)
            batch = step.prepared(batch) if prepare else batch
            logits, losses, _ = step.add(batch.packed(pin=False).to(META))
            assert all(value.device == META for value in [*logits.values(), *losses.values()])
            if (number + 1) % step.every == 0:
                step.update()
                done += 1
            step.advance_schedules()
    assert done == steps // step.every
    return step


@pytest.mark.parametrize("name", OF_ONE_TASK)
@pytest.mark.parametrize("sparse", [None, *SPARSE_OPTIMIZERS])
@pytest.mark.parametrize("every", [1, 2])
def test_every_model_and_sparse_optimizer(schema, name, sparse, every):
    run_steps(
        schema,
        config_of(name, sparse_optimizer=sparse, gradient_accumulation_steps=every, ema_decay=0.9),
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("scope", ["batch", "table"])
def test_every_dense_optimizer_and_scope_of_l2(schema, optimizer, scope):
    for sparse in (None, optimizer):
        options = {"optimizer": optimizer, "sparse_optimizer": {"name": sparse} if sparse else None}
        if optimizer == sparse == "adagrad":  # of tables, this name is the sparse one
            options["sparse_optimizer"] = None
        run_steps(schema, config_of(feature={"embedding_l2_scope": scope}, **options))


@pytest.mark.parametrize("sparse", [None, "lazy_adam"])
@pytest.mark.parametrize("scope", ["all", "dense"])
@pytest.mark.parametrize(("norm", "kind", "value"), [(0.1, 2.0, None), (0.1, 1.0, 0.01)])
def test_clipping(schema, sparse, scope, norm, kind, value):
    clipping = {"norm": norm, "norm_type": kind, "value": value, "scope": scope}
    options = {f"gradient_clip_{key}": option for key, option in clipping.items()}
    run_steps(schema, config_of(sparse_optimizer=sparse, **options))


@pytest.mark.parametrize("scheduler", ["cosine", "reduce_on_plateau", "exponential"])
def test_schedules(schema, scheduler):
    run_steps(schema, config_of(scheduler=scheduler, sparse_optimizer="lazy_adam"))


@pytest.mark.parametrize("sparse_update", ["step", "backward"])
def test_several_batches_of_one_step(schema, sparse_update):
    run_steps(
        schema,
        config_of(
            sparse_optimizer="adagrad",
            sparse_update=sparse_update,
            gradient_accumulation_steps=2,
            gradient_clip_scope="dense",
        ),
    )


@pytest.mark.parametrize("statistics", ["valid", "padded"])
@pytest.mark.parametrize("name", ["deepfm", "multi_tower_din"])
@pytest.mark.parametrize("shares_norms", [False, True])
def test_encoders_of_sequences(schema, name, statistics, shares_norms):
    sequences = {
        "bought": {"query": ["item"], "sequence": ["items"]},
        "opened": {"query": ["children"], "sequence": ["locks"]},
    }
    network = {"norm": "batch", "statistics": statistics}
    encoders = [
        {"name": "din", "input": "bought", "positions": True, "group": "fields", **network},
        {"name": "multi_window_din", "input": "opened", "windows": [1, 2], **network},
        {"name": "simple_attention", "input": "opened"},
        {"name": "self_attention", "input": "bought", "attention_dim": 4, "num_heads": 2},
    ]
    config = config_of(name, feature={"sequences": sequences, "encoders": encoders})
    run_steps(schema, config, shares_norms=shares_norms)


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
@pytest.mark.parametrize("activation", ["relu", "PReLU", "Dice", "GELU"])
def test_every_kind_of_network(schema, norm, activation):
    config = config_of(dnn={"norm": norm, "activation": activation})
    run_steps(schema, config)
    run_steps(schema, config, shares_norms=True)


def test_variational_dropout(schema):
    run_steps(schema, config_of(feature={"variational_dropout": 0.1}, sparse_optimizer="lazy_sgd"))


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss(name):
    classes = 2 if name in ("softmax_cross_entropy", "jrc") else 1
    shape = (16, 2) if classes == 2 else (16,)
    loss = LOSSES[name](session="s") if name == "jrc" else LOSSES[name]()

    def leaf(*shape):
        return torch.zeros(shape, device=META, requires_grad=True)

    def constant(*shape, dtype=torch.float32):
        return torch.zeros(shape, device=META, dtype=dtype)

    logits, negatives = leaf(*shape), leaf(16, 5)
    pairs = PairLogits(
        logits, negatives, constant(16, 5, dtype=torch.bool), constant(16), constant(5)
    )
    group = constant(16, 1, dtype=torch.int64)
    targets = Targets(constant(16), constant(16), group, ("s",), pairs if loss.by_pairs else None)
    branches = {f"branch_{k}": leaf(*shape) for k in range(loss.min_branches)}
    with NothingIsAsked():
        loss.loss({"": logits} | branches, targets).backward()
    read = list(branches.values()) or [logits]
    assert all(leaf.grad is not None for leaf in read)


@pytest.mark.parametrize("name", ["fm", "deepfm", "wide_and_deep"])
@pytest.mark.parametrize("loss", ["sampled_softmax", "bpr"])
@pytest.mark.parametrize("sparse", [None, "lazy_adam"])
def test_losses_by_pairs(tiny_config, name, loss, sparse):
    path = tiny_config(
        model_name=name,
        training__losses=loss,
        training__sparse_optimizer=sparse,
        training__gradient_accumulation_steps=2,
        data__num_neg_train=20,
        data__negatives_from="popularity",
        dnn__norm="none",
    )
    config = load_config(path)
    data = experiment.load_data(config)
    model = build_model(data.encoders.schema, config).to(META).train()
    step = step_of(model, config)
    batches = data.train.epoch(64, seed=1, epoch=0).batches()
    with step.gradient_mode(), NothingIsAsked():
        for _ in range(2):
            step.add(step.prepared(next(batches)).packed(pin=False).to(META))
        step.update()


def test_what_is_not_prepared_is_asked(schema):
    """So that the tests above see something."""
    with pytest.raises((AssertionError, NotImplementedError, RuntimeError)):
        run_steps(schema, config_of(sparse_optimizer="lazy_adam"), prepare=False)
    with pytest.raises((AssertionError, NotImplementedError, RuntimeError)):
        run_steps(schema, config_of(), prepare=False)  # the L2 of a batch
