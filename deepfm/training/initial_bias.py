"""Where training starts: at the base rate of the rows as trained.

The output bias is the base rate's logit, and what is added to it is small. Without that the
untrained model is worse than a constant by far: first-order weights of few values or numbers, the
output layer behind batch norm, and the products of field vectors of small vocabularies each spread
the logits by 1 or more when they begin as Xavier says.
"""

import torch
from torch import Tensor

from deepfm.data.batch import Inputs
from deepfm.data.dataset import TabularDataset, epoch_weights
from deepfm.data.store.held_rows import FIRST_ROWS
from deepfm.models.base import BaseCTRModel, evaluation_mode
from deepfm.models.layers.bilinear import BilinearFusion
from deepfm.objectives import Task, logits_by_name

SPREAD = 0.1  # of the logits of an untrained model, their deviation at most
_MEASURED = FIRST_ROWS  # it is measured on so many
_OUTPUT_FACTOR = 0.1  # of the output layers' weights, whose inputs batch norm may make large
_HALVINGS = 20  # at most


def start_at_base_rate(model: BaseCTRModel, train: TabularDataset) -> dict[str, Tensor]:
    """Set a model's output biases to the logits of a prediction that knows no features, and
    make what is added to them small.

    For one logit that is ln(P / N) with the weights P of positives and N of negatives, sampled
    ones counted; for one logit per class the logarithm of each class's share. The rows of a task
    that has a meaning in its space only are those of its space. Label smoothing and
    the factors of a focal loss are not accounted for. With them the best constant is another one,
    and this one is still near it.

    Args:
        model: Fresh from `build_model`.
        train: The rows that it will be trained on.

    Returns:
        The biases, () or (C,), by task; without those that stay zero: there is none, a loss
        learns no probabilities of its labels, or a class has no weight.
    """
    biases, found = model.output_biases, {}
    for task in model.tasks:
        start = _base_rate(task, train)
        if task.name in biases and start is not None:
            with torch.no_grad():
                found[task.name] = biases[task.name].copy_(start.expand_as(biases[task.name]))
    if found:
        with torch.no_grad(), evaluation_mode(model):
            _quieten(model, train[: min(len(train), _MEASURED)].inputs)
    return {name: bias.detach() for name, bias in found.items()}


def _base_rate(task: Task, train: TabularDataset) -> Tensor | None:
    """The logits of a prediction that knows no features, () or (C,); None where there are none."""
    if not all(loss.learns_base_rate for loss in task.objectives):
        return None
    label = task.label_of(train.label, train.schema)
    weight = task.measured_weight(train.label, train.weight, train.schema)
    of_class = torch.from_numpy(epoch_weights(train, label, task.num_class, weight))
    if not (of_class > 0).all():
        return None
    share = of_class.log() - of_class.sum().log()
    return share[1] - share[0] if task.num_class == 1 else share


def _quieten(model: BaseCTRModel, inputs: Inputs) -> None:
    """Make what a model adds to its bias small, so that it does not matter before it has learnt.

    First-order weights that are added to the logit become 0, and output layers a tenth; one that
    multiplies two networks' outputs, a hundredth. Where the
    logits still differ by more than `SPREAD`, field vectors and output layers are halved until
    they do not.
    """
    for weight in model.first_order_weights():
        weight.zero_()
    layers = [layer.weight for layer in model.output_layers]
    for layer in model.output_layers:
        degree = 2 if isinstance(layer, BilinearFusion) else 1
        layer.weight.mul_(_OUTPUT_FACTOR**degree)
    for _ in range(_HALVINGS):
        every = logits_by_name(model(inputs)).values()
        if not any((one - one.mean(0)).square().mean().sqrt() > SPREAD for one in every):
            return
        for weight in (*layers, *model.embedding.vector_weights()):
            weight.mul_(0.5)
