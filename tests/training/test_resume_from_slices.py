"""A run whose tables lie in slices goes on with tables that one process holds."""

import pytest
import torch

from deepfm import experiment
from deepfm.config import load_config
from deepfm.models import build_model
from deepfm.training.trainer import Trainer, TrainingState
from deepfm.utils.interrupt import Interrupted
from deepfm.utils.slices import Slice, SlicedTensor, open_slices, write_manifest, write_slices
from tests import tiny

TABLES = "embedding.tables."


def in_slices(weights, folder):
    """The weights, those of tables as two files each."""
    slices = []
    for name, weight in weights.items():
        if name.startswith(TABLES):
            rows, columns = weight.shape
            for part in ((0, rows // 2), (rows // 2, rows)):
                own = weight[slice(*part)]
                slices.append(Slice([[name]], (rows, columns), part, (0, columns), own))
    digest = write_manifest(folder, write_slices(folder, 0, slices))
    return weights | {str(at[0]): tensor for at, tensor in open_slices(folder, digest)}


@pytest.mark.parametrize("stop_after", [10, 40])
def test_the_kept_weights_are_read(tmp_path, stop_after):
    tiny.register()
    config = load_config(tiny.write_config(tmp_path, dnn__dropout=0.0))
    data = experiment.load_data(config)
    trainer = Trainer(config.training, config.evaluation)

    def fit(state=None, **options):
        model = build_model(data.encoders.schema, config)
        return model, trainer.fit(model, data.train, data.valid, state=state, **options)

    expected, last = fit()
    states, steps = [], iter(range(1, 1000))
    with pytest.raises(Interrupted):
        fit(
            save=lambda state, is_best: states.append(state),
            should_stop=lambda: 15 if next(steps) == stop_after else 0,
        )
    state = TrainingState(**vars(states[-1]))
    assert bool(state.best_model) == (stop_after == 40)
    state.model = in_slices(state.model, tmp_path / "model")
    if state.best_model:
        state.best_model = in_slices(state.best_model, tmp_path / "best")
        assert any(isinstance(weight, SlicedTensor) for weight in state.best_model.values())
    model, resumed = fit(state)
    for name, weight in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], weight, rtol=0, atol=0, msg=name)
    for name, weight in last.best_model.items():
        assert torch.equal(resumed.best_model[name], weight), name
