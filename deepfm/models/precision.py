"""What `auto` means for the precision of matrix products on a device, and what it refuses."""

import functools
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch

from deepfm.errors import ConfigError
from deepfm.models.layers.precision import Precision, has_bf16_products, products_in
from deepfm.utils.logging import LOGGER

if TYPE_CHECKING:
    from deepfm.models.base import BaseCTRModel


def resolve_precision(name: str, device: torch.device, *, key: str) -> Precision:
    """Return `bf16` where it is asked for, or with `auto` where a device has units for it.

    A processor without them computes in bf16 too, which is said once.

    Args:
        name: `auto`, `fp32` or `bf16`.
        key: The setting, for messages.

    Raises:
        ConfigError: The device has no products in bf16.

    Example:
        >>> resolve_precision("fp32", torch.device("cpu"), key="training.precision")
        'fp32'
    """
    if name == "fp32" or (name == "auto" and not has_bf16_products(device)):
        return "fp32"
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"bf16 needs cpu or cuda, found {device.type}; take fp32", key=key)
    if not has_bf16_products(device):
        _warn_of_slow(device.type, key)
    return "bf16"


def products_of_scoring(model: "BaseCTRModel") -> AbstractContextManager[None]:
    """Return the context in which a model's networks compute as `evaluation.precision` says."""
    name = model.scoring_precision
    return products_in(resolve_precision(name, model.device, key="evaluation.precision"))


@functools.cache
def _warn_of_slow(device: str, key: str) -> None:
    what = "processor" if device == "cpu" else "GPU"
    LOGGER.warning(f"{key}: this {what} has no units for bf16, which is slower here than fp32")
