"""Experts that several tasks share, and the gates that mix them.

Experts of one input are networks of their own and no product over all of them: on a core, three
experts of 256 and 128 units take 0.8 of the time of one wide product with a batched one behind it,
and the weighted sums below a quarter of that of `torch.bmm`, whose matrices are tiny here.

Shapes: B rows, E experts, T tasks, H width of an expert.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from deepfm.errors import ArgumentError
from deepfm.models.layers.dnn import MLP
from deepfm.models.layers.precision import ProductLinear

# Makes a network for an input of some width.
NetworkMaker: TypeAlias = Callable[[int], MLP]


class Gate(nn.Module):
    """Shares of the experts for each row, (B, in_features) -> (B, E): softmax(W g(x) + b).

    Args:
        in_features: Width of the input.
        num_experts: E.
        network: Makes g; None: g is the input itself.
    """

    def __init__(
        self, in_features: int, num_experts: int, network: NetworkMaker | None = None
    ) -> None:
        super().__init__()
        self.network = None if network is None else network(in_features)
        width = in_features if self.network is None else self.network.output_dim
        self.linear = ProductLinear(width, num_experts)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.linear(x if self.network is None else self.network(x))
        return scores.softmax(1)


def mixed(shares: Tensor, experts: Sequence[Tensor]) -> Tensor:
    """sum_e shares_e * expert_e, of (B, E) and E times (B, H) -> (B, H).

    Example:
        >>> mixed(torch.tensor([[0.25, 0.75]]), [torch.tensor([[4.0]]), torch.tensor([[8.0]])])
        tensor([[7.]])
    """
    first, *others = experts
    total = first * shares[:, :1]
    for place, expert in enumerate(others, 1):
        total = torch.addcmul(total, expert, shares[:, place : place + 1])
    return total


class MultiGateExperts(nn.Module):
    r"""One mixture of shared experts per task, (B, in_features) -> T times (B, H).

        f^k(x) = sum_e g^k(x)_e f_e(x),   g^k(x) = softmax(W_k x + b_k)

    Costs E networks for all tasks, and a product with E columns per task.

    Source: J. Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate
    Mixture-of-Experts", KDD 2018, section 4.2.

    NOTE[DIFF]: The paper's gates have no bias and no network; here they have the bias of
    TorchEasyRec's, and its optional network.

    Args:
        in_features: Width of the input.
        num_tasks, num_experts: T and E.
        expert: Makes an expert.
        gate: Makes the network of a gate; None: gates are linear.
    """

    def __init__(
        self,
        in_features: int,
        *,
        num_tasks: int,
        num_experts: int,
        expert: NetworkMaker,
        gate: NetworkMaker | None = None,
    ) -> None:
        super().__init__()
        experts = [expert(in_features) for _ in range(num_experts)]
        self.experts = nn.ModuleList(experts)
        self.gates = nn.ModuleList([Gate(in_features, num_experts, gate) for _ in range(num_tasks)])
        self.output_dim = experts[0].output_dim

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = [expert(x) for expert in self.experts]
        return [mixed(gate(x), outputs) for gate in self.gates]


class ExtractionLevel(nn.Module):
    r"""A level of experts of each task's own beside shared ones: customized gate control.

    Each task mixes its own experts with the shared ones; unless the level is the last, the shared
    part mixes the experts of all tasks with the shared ones, in this order.

        h^k = sum_e softmax(W_k x^k + b_k)_e [own experts of x^k; shared experts of x^s]_e

    Source: H. Tang et al., "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning
    (MTL) Model for Personalized Recommendations", RecSys 2020, sections 4.1 and 4.2.

    NOTE[DIFF]: The paper's gates have no bias; here they have that of TorchEasyRec's.
    NOTE[DIFF]: Like in TorchEasyRec the shared gate of a level reads the experts of all tasks, as
    in the paper; FuxiCTR's reads shared experts only.

    Args:
        task_inputs: Width of each task's input, T in all.
        shared_input: Width of the shared part's input.
        task_experts: Experts of each task.
        shared_experts: Shared experts.
        task_expert, shared_expert: Make an expert.
        is_last: Whether there is no further level, which would read the shared part.

    Raises:
        ArgumentError: The two kinds of experts differ in width.
    """

    def __init__(
        self,
        task_inputs: Sequence[int],
        shared_input: int,
        *,
        task_experts: int,
        shared_experts: int,
        task_expert: NetworkMaker,
        shared_expert: NetworkMaker,
        is_last: bool,
    ) -> None:
        super().__init__()
        shared = [shared_expert(shared_input) for _ in range(shared_experts)]
        own = [[task_expert(width) for _ in range(task_experts)] for width in task_inputs]
        widths = {network.output_dim for networks in (shared, *own) for network in networks}
        if len(widths) > 1:
            raise ArgumentError(
                "shared_expert", f"experts that are mixed have one width, found {sorted(widths)}"
            )
        (self.output_dim,) = widths
        self.shared = nn.ModuleList(shared)
        self.own = nn.ModuleList([nn.ModuleList(networks) for networks in own])
        mixes = task_experts + shared_experts
        self.gates = nn.ModuleList([Gate(width, mixes) for width in task_inputs])
        every = len(task_inputs) * task_experts + shared_experts
        self.shared_gate = None if is_last else Gate(shared_input, every)

    def forward(self, tasks: Sequence[Tensor], shared: Tensor) -> tuple[list[Tensor], Tensor]:
        """T times (B, in) and (B, in) -> T times (B, H), and (B, H); the last level's shared part
        is its input."""
        of_all = [expert(shared) for expert in self.shared]
        of_tasks: list[list[Tensor]] = []
        for x, experts in zip(tasks, self.own, strict=True):
            assert isinstance(experts, nn.ModuleList)
            of_tasks.append([expert(x) for expert in experts])
        mixtures = [
            mixed(gate(x), [*own, *of_all])
            for gate, x, own in zip(self.gates, tasks, of_tasks, strict=True)
        ]
        if self.shared_gate is not None:
            every = [expert for own in of_tasks for expert in own]
            shared = mixed(self.shared_gate(shared), [*every, *of_all])
        return mixtures, shared
