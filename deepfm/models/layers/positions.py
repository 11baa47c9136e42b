"""A network over the positions of sequences: which its norms count, and how few it computes.

Decided here: batch norm, that of Dice too, takes its statistics of the positions that count, and
gives the same numbers whether those that do not are left out (on the CPU) or carried along (where
leaving them out would make the host wait for the device, and in an exported program).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepfm.models.layers.batch_norm import SharedBatchNorm
from deepfm.models.layers.dnn import MLP, Dice


def counted_positions(mask: Tensor) -> Tensor | None:
    """The numbers of the positions of a mask (B, L) that count, (N,), as if they stood end to end.

    None: all B * L are to be computed.
    """
    if mask.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    return mask.flatten().nonzero().squeeze(1)


def after_first_product(mlp: MLP, x: Tensor, counts: Tensor | None) -> Tensor:
    """What a network makes of the sums of its first linear map, (N, H) -> (N, output_dim).

    Args:
        counts: Which rows count in the statistics of norms, (N,) bool; None: all of them.
    """
    for number, layer in enumerate(mlp.layers):
        assert isinstance(layer, nn.Sequential)
        for module in list(layer)[1:] if number == 0 else layer:
            if isinstance(module, nn.BatchNorm1d):
                x = normalized(module, x, counts)
            elif isinstance(module, Dice):
                p = torch.sigmoid(normalized(module.norm, x, counts))
                x = module.bent(x, p)
            else:
                x = module(x)
    return x


def normalized(norm: nn.BatchNorm1d, x: Tensor, counts: Tensor | None) -> Tensor:
    """Batch norm of rows, (N, H), with the statistics of those that count.

    In training, the mean and the variance of a batch with fewer than two such rows mean nothing:
    the running ones stand in for them, and stay as they are.

    Args:
        counts: Which rows count, (N,) bool; None: all of them.
    """
    if isinstance(norm, SharedBatchNorm) and norm.training:
        return norm.of_counted(x, counts)
    if not norm.training or (counts is None and len(x) > 1):
        normal: Tensor = norm(x)
        return normal
    assert norm.running_mean is not None  # each norm of an `MLP` keeps them
    assert norm.running_var is not None
    if counts is None:
        return F.batch_norm(
            x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps
        )
    share = counts.unsqueeze(1).to(x.dtype)  # (N, 1)
    number = share.sum()
    is_enough, divisor = number > 1, number.clamp(min=2)
    mean = (x * share).sum(0) / divisor
    variance = ((x - mean).square() * share).sum(0) / divisor
    with torch.no_grad():
        step = (norm.momentum or 0.0) * is_enough
        norm.running_mean.add_(step * (mean - norm.running_mean))
        unbiased = variance * (divisor / (divisor - 1))
        norm.running_var.add_(step * (unbiased - norm.running_var))
    mean = torch.where(is_enough, mean, norm.running_mean.clone())
    variance = torch.where(is_enough, variance, norm.running_var.clone())
    x = (x - mean) * (variance + norm.eps).rsqrt()
    return x if norm.weight is None else torch.addcmul(norm.bias, x, norm.weight)
