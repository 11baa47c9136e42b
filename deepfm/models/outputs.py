"""What a model's logits are called and become, by the losses that it is trained with.

Shapes: B rows, C classes.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepfm.errors import ConfigError

Losses = Iterable[Mapping[str, Any]]  # as in `training.losses`


def named_outputs(logits: Tensor, losses: Losses) -> dict[str, Tensor]:
    """The outputs that each loss, and the metrics that go with it, read.

    Binary losses: `logits` and `probs` = sigmoid, (B,). Losses of classes: `logits` and `probs` =
    softmax, (B, C), and of two classes `probs1`, the probability of class 1, (B,). L2: `y`, (B,).

    Args:
        logits: (B,), or (B, C) for several classes.

    Raises:
        ConfigError: The logits' shape is not that of a loss.
    """
    found: dict[str, Tensor] = {}
    for loss in losses:
        name = loss["name"]
        classes = name in ("softmax_cross_entropy", "jrc")
        if logits.dim() != 1 + classes:
            expected = "(B, C)" if classes else "(B,)"
            raise ConfigError(
                f"training.losses: {name} needs logits {expected}, got {tuple(logits.shape)}; "
                "see num_class"
            )
        if name == "l2":
            found["y"] = logits
            continue
        found["logits"] = logits
        found["probs"] = logits.softmax(1) if classes else logits.sigmoid()
        if classes and logits.shape[1] == 2:
            found["probs1"] = found["probs"][:, 1]
    return found


def prediction(logits: Tensor, losses: Losses) -> Tensor:
    """What is predicted: (B,), or (B, C) of three classes or more.

    The probability of class 1 of two, however many logits stand for it; the probabilities of
    more classes; the number itself where L2 is the only loss.
    """
    if logits.dim() == 2:
        probabilities = logits.softmax(1)
        return probabilities[:, 1] if logits.shape[1] == 2 else probabilities
    return logits if is_regression(losses) else logits.sigmoid()


def predicted(logits: np.ndarray, losses: Losses) -> np.ndarray:
    """`prediction` in float64, so that small probabilities keep their digits."""
    return prediction(torch.from_numpy(logits).double(), losses).numpy()


def is_regression(losses: Losses) -> bool:
    """Whether numbers are predicted, and no probabilities."""
    return all(loss["name"] == "l2" for loss in losses)


def prediction_columns(values: np.ndarray, losses: Losses) -> dict[str, np.ndarray]:
    """`predicted` values as columns (N,): `probability`, `prediction`, or `probability_0`, ….

    Example:
        >>> list(prediction_columns(np.zeros((2, 3)), [{"name": "softmax_cross_entropy"}]))
        ['probability_0', 'probability_1', 'probability_2']
    """
    if values.ndim == 2:
        return {f"probability_{k}": values[:, k] for k in range(values.shape[1])}
    return {"prediction" if is_regression(losses) else "probability": values}
