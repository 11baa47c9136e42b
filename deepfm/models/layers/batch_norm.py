"""Batch norm of rows that several processes have, with the statistics of all of them.

Decided here: no process sends rows. Each sends how many it has, their mean and their summed squared
deviations from it, and all of them merge what they get alike.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Gather = Callable[[Tensor], Tensor]


class SharedBatchNorm(nn.BatchNorm1d):
    r"""Batch norm of (N, H), whose statistics are those of the rows of all processes.

    With n_p rows in process p, their mean m_p and squared deviations from it S_p:

        m = sum_p n_p m_p / n,    S = sum_p S_p + n_p (m_p - m)^2,    variance = S / n

    In training it costs an exchange forward and one backward, and all processes have to compute
    it, each as often as the others and those without a row too. In evaluation it is torch's.
    Where all processes together have fewer than two rows, the running statistics stand in and
    stay as they are.

    Source: T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating Formulae and a Pairwise Algorithm for
    Computing Sample Variances", 1979, for the merged sums.

    Args:
        norm: Whose parameters and statistics it has, not copies of them.
        gather: Gives the tensors of all processes, (P, K) of one's own (K,), and adds up the
            gradients of all processes for each.
    """

    def __init__(self, norm: nn.BatchNorm1d, gather: Gather) -> None:
        super().__init__(
            norm.num_features, norm.eps, norm.momentum, affine=norm.affine, device="meta"
        )
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self._gather = gather
        self.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return self.of_counted(x, None)

    def of_counted(self, x: Tensor, counts: Tensor | None) -> Tensor:
        """Of rows of which some do not count in the statistics, in training.

        Args:
            x: (N, H).
            counts: Which rows do, (N,) bool; None: all of them.
        """
        values = x.float() if x.dtype is torch.bfloat16 else x
        number, mean, deviations = self._of_all(values, counts)
        assert self.running_mean is not None  # each norm of a network keeps them
        assert self.running_var is not None
        is_enough = number > 1
        variance = deviations / number.clamp(min=1)
        with torch.no_grad():
            step = (self.momentum or 0.0) * is_enough
            unbiased = deviations / (number - 1).clamp(min=1)
            self.running_mean.add_(step * (mean - self.running_mean))
            self.running_var.add_(step * (unbiased - self.running_var))
        mean = torch.where(is_enough, mean, self.running_mean.clone())
        variance = torch.where(is_enough, variance, self.running_var.clone())
        y = (values - mean) * (variance + self.eps).rsqrt()
        if self.weight is not None:
            y = torch.addcmul(self.bias, y, self.weight)
        return y.to(x.dtype)

    def _of_all(self, x: Tensor, counts: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Number of rows that count (), their mean (H,) and summed squared deviations (H,)."""
        if counts is None:
            share = x.new_ones(len(x), 1)
        else:
            share = counts.unsqueeze(1).to(x.dtype)  # (N, 1)
        number = share.sum().unsqueeze(0)
        mean = (x * share).sum(0) / number.clamp(min=1)
        deviations = ((x - mean).square() * share).sum(0)
        found = self._gather(torch.cat([number, mean, deviations]))  # (P, 1 + 2 H)
        numbers, means, squares = found.split([1, *2 * [self.num_features]], dim=1)
        all_rows = numbers.sum()
        mean = (numbers * means).sum(0) / all_rows.clamp(min=1)
        return all_rows, mean, (squares + numbers * (means - mean).square()).sum(0)


@contextmanager
def sharing_batch_norm(model: nn.Module, gather: Gather) -> Iterator[None]:
    """While it lasts, each batch norm of a model is a `SharedBatchNorm` with its parameters, under
    its name; afterwards it is the one that it was."""
    own = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm1d)
    }
    for name, norm in own.items():
        _put(model, name, SharedBatchNorm(norm, gather))
    try:
        yield
    finally:
        for name, norm in own.items():
            norm.train(model.get_submodule(name).training)
            _put(model, name, norm)


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
