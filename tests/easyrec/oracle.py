"""The format's models as slow float64 arithmetic on weights under the names of the original.

Written from the description of the format: `p` maps the original's names of parameters, without
`model.` before them, to arrays; inputs are what the groups of features give.
"""

import numpy as np

Weights = dict[str, np.ndarray]


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def linear(p: Weights, name: str, x: np.ndarray) -> np.ndarray:
    y = x @ p[f"{name}.weight"].T
    return y + p[f"{name}.bias"] if f"{name}.bias" in p else y


def layer_norm(p: Weights, name: str, x: np.ndarray) -> np.ndarray:
    centered = x - x.mean(-1, keepdims=True)
    normed = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5)
    return normed * p[f"{name}.weight"] + p[f"{name}.bias"]


def perceptron(p: Weights, name: str, x: np.ndarray, activation=relu) -> np.ndarray:
    """Linear, then batch norm with the statistics of all rows or layer norm, then activation."""
    return activation(linear(p, f"{name}.perceptron.0", x))


def mlp(p: Weights, name: str, x: np.ndarray, activation=relu) -> np.ndarray:
    """Hidden layers; the activation gets the layer's name, if it wants one."""
    layer = 0
    while f"{name}.mlp.{layer}.perceptron.0.weight" in p:
        x = perceptron(p, f"{name}.mlp.{layer}", x, activation)
        layer += 1
    assert layer, f"no layer {name}"
    return x


def optional_mlp(p: Weights, name: str, x: np.ndarray) -> np.ndarray:
    return mlp(p, name, x) if f"{name}.mlp.0.perceptron.0.weight" in p else x


def dice_over_all(x: np.ndarray) -> np.ndarray:
    """Dice in training, before its slopes have moved: statistics of all positions, padding too."""
    mean, variance = x.mean((0, 1)), x.var((0, 1))
    return sigmoid((x - mean) / np.sqrt(variance + 1e-5)) * x


def din(
    p: Weights, name: str, query: np.ndarray, steps: np.ndarray, lengths, activation=relu
) -> np.ndarray:
    """Target attention of (B, Dq) over (B, L, Ds), whose rows end after `lengths` steps."""
    rows, longest, width = steps.shape
    q = np.zeros((rows, width))
    q[:, : query.shape[1]] = query
    q = np.repeat(q[:, None], longest, 1)
    z = np.concatenate([q, steps, q - steps, q * steps], -1)
    scores = linear(p, f"{name}.linear", mlp(p, f"{name}.mlp", z, activation))[..., 0]
    found = np.zeros((rows, width))
    for row, length in enumerate(lengths):
        if length:
            weights = softmax(scores[row, :length], 0)
            found[row] = weights @ steps[row, :length]
    return found


def simple_attention(query: np.ndarray, steps: np.ndarray, lengths) -> np.ndarray:
    found = np.zeros((len(steps), steps.shape[2]))
    for row, length in enumerate(lengths):
        if length:
            weights = softmax(steps[row, :length] @ query[row], 0)
            found[row] = weights @ steps[row, :length]
    return found


def pooling(steps: np.ndarray, lengths, kind: str) -> np.ndarray:
    found = np.stack([steps[row, :length].sum(0) for row, length in enumerate(lengths)])
    return found / np.maximum(lengths, 1)[:, None] if kind == "mean" else found


def mixtures(p: Weights, x: np.ndarray, tasks: int) -> list[np.ndarray]:
    """What each task reads of shared experts."""
    experts, number = [], 0
    while f"mmoe.expert_mlps.{number}.mlp.0.perceptron.0.weight" in p:
        experts.append(mlp(p, f"mmoe.expert_mlps.{number}", x))
        number += 1
    found = []
    for task in range(tasks):
        gate = optional_mlp(p, f"mmoe.gate_mlps.{task}", x)
        shares = softmax(linear(p, f"mmoe.gate_finals.{task}", gate), 1)
        found.append(sum(shares[:, e : e + 1] * own for e, own in enumerate(experts)))
    return found


def task_tower(p: Weights, task: int, x: np.ndarray) -> np.ndarray:
    return linear(
        p, f"_task_tower.{task}.linear", optional_mlp(p, f"_task_tower.{task}.tower_mlp", x)
    )


def mmoe(p: Weights, x: np.ndarray, tasks: int) -> list[np.ndarray]:
    return [task_tower(p, k, own) for k, own in enumerate(mixtures(p, x, tasks))]


def _experts(p: Weights, name: str, x: np.ndarray) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    while f"{name}.{len(found)}.mlp.0.perceptron.0.weight" in p:
        found.append(mlp(p, f"{name}.{len(found)}", x))
    return found


def _mixed(p: Weights, gate: str, x: np.ndarray, experts: list[np.ndarray]) -> np.ndarray:
    shares = softmax(linear(p, gate, x), 1)
    return sum(shares[:, e : e + 1] * own for e, own in enumerate(experts))


def ple(p: Weights, x: np.ndarray, tasks: int) -> list[np.ndarray]:
    """Levels of experts; the last one has no gate for what is shared."""
    own, shared, level = [x] * tasks, x, 0
    while f"_extraction_nets.{level}._task_gates.0.weight" in p:
        name = f"_extraction_nets.{level}"
        of_all = _experts(p, f"{name}._shared_layers", shared)
        of_tasks = [_experts(p, f"{name}._task_layers.{k}", own[k]) for k in range(tasks)]
        following = [
            _mixed(p, f"{name}._task_gates.{k}", own[k], of_tasks[k] + of_all) for k in range(tasks)
        ]
        if f"{name}._shared_gate.weight" in p:
            every = [expert for experts in of_tasks for expert in experts]
            shared = _mixed(p, f"{name}._shared_gate", shared, every + of_all)
        own, level = following, level + 1
    return [task_tower(p, k, own[k]) for k in range(tasks)]


def dbmtl(p: Weights, x: np.ndarray, towers: list[str], relations: dict) -> list[np.ndarray]:
    """Towers, some of which read those of related towers."""
    if "mask_net.ln_emb.weight" in p:
        x = mask_blocks(p, "mask_net", x, 2, parallel=False)
    x = optional_mlp(p, "bottom_mlp", x)
    has_experts = "mmoe.gate_finals.0.weight" in p
    inputs = mixtures(p, x, len(towers)) if has_experts else [x] * len(towers)
    own = {
        name: optional_mlp(p, f"task_mlps.{name}", part)
        for name, part in zip(towers, inputs, strict=True)
    }
    read: dict[str, np.ndarray] = {}
    for name in towers:
        read[name] = own[name]
        if name in relations:
            joined = np.concatenate([own[name], *(read[other] for other in relations[name])], 1)
            read[name] = mlp(p, f"relation_mlps.{name}", joined)
    return [linear(p, f"task_outputs.{k}", read[name]) for k, name in enumerate(towers)]


def mask_blocks(p: Weights, name: str, x: np.ndarray, blocks: int, parallel: bool) -> np.ndarray:
    """Blocks that weigh the normed embedding, or the output of the block before."""

    def block(number: int, h: np.ndarray) -> np.ndarray:
        own = f"{name}.mask_blocks.{number}"
        mask = linear(p, f"{own}.mask_generator.2", relu(linear(p, f"{own}.mask_generator.0", x)))
        return relu(layer_norm(p, f"{own}.ffn.1", linear(p, f"{own}.ffn.0", h * mask)))

    normed = layer_norm(p, f"{name}.ln_emb", x)
    if parallel:
        hidden = np.concatenate([block(k, normed) for k in range(blocks)], 1)
    else:
        hidden = normed
        for k in range(blocks):
            hidden = block(k, hidden)
    return mlp(p, f"{name}.top_mlp", hidden)


def masknet(p: Weights, x: np.ndarray, blocks: int, parallel: bool) -> np.ndarray:
    """An output layer on the blocks."""
    return linear(p, "output_linear", mask_blocks(p, "mask_net_layer", x, blocks, parallel))


def dlrm(p: Weights, sparse: np.ndarray, dense: np.ndarray | None, with_sparse: bool) -> np.ndarray:
    """Dot products of all pairs of (B, N, D), the dense vector first."""
    vectors, more = sparse, []
    if dense is not None:
        hidden = mlp(p, "dense_mlp", dense)
        vectors, more = np.concatenate([hidden[:, None], sparse], 1), [hidden]
    number = vectors.shape[1]
    pairs = [
        (vectors[:, i] * vectors[:, j]).sum(1) for i in range(number) for j in range(i + 1, number)
    ]
    if with_sparse:
        more.append(sparse.reshape(len(sparse), -1))
    joined = np.concatenate([np.stack(pairs, 1), *more], 1)
    return linear(p, "output_mlp", mlp(p, "final_mlp", joined))


def wukong(p: Weights, sparse: np.ndarray, dense: np.ndarray | None) -> np.ndarray:
    x = sparse
    if dense is not None:
        x = np.concatenate([mlp(p, "dense_mlp", dense)[:, None], sparse], 1)
    level = 0
    while f"_wukong_layers.{level}.norm.weight" in p:
        name = f"_wukong_layers.{level}"
        rows, _, width = x.shape
        lcb = np.einsum("bnd,nl->bld", x, p[f"{name}.lcb.weight"])
        pairs = np.einsum("bnd,bmd,mk->bnk", x, x, p[f"{name}.fmb.weight"]).reshape(rows, -1)
        hidden = mlp(p, f"{name}.fmb.mlp", layer_norm(p, f"{name}.fmb.norm", pairs))
        fmb = linear(p, f"{name}.fmb.feature_out_liner", hidden).reshape(rows, -1, width)
        joined = np.concatenate([fmb, lcb], 1)
        if f"{name}.residual_projection.weight" in p:
            x = np.einsum("bnd,nl->bld", x, p[f"{name}.residual_projection.weight"])
        x = layer_norm(p, f"{name}.norm", joined + x)
        level += 1
    return linear(p, "output_mlp", mlp(p, "final_mlp", x.reshape(len(x), -1)))


def multi_tower(p: Weights, towers: dict[str, np.ndarray], encoded=()) -> np.ndarray:
    """Towers, what encoders gave behind them, a final network if there is one."""
    outputs = [mlp(p, f"towers.{name}", x) for name, x in towers.items()]
    joined = np.concatenate([*outputs, *encoded], 1)
    return linear(p, "output_mlp", optional_mlp(p, "final_mlp", joined))


def dcn_v1(p: Weights, x: np.ndarray) -> np.ndarray:
    crossed, layer = x, 0
    while f"cross.w.{layer}.weight" in p:
        crossed = linear(p, f"cross.w.{layer}", crossed) * x + p[f"cross.b.{layer}"] + crossed
        layer += 1
    joined = np.concatenate([crossed, mlp(p, "deep", x)], 1)
    return linear(p, "output_linear", mlp(p, "final", joined))


def dcn_v2(p: Weights, x: np.ndarray) -> np.ndarray:
    first = optional_mlp(p, "backbone", x)
    crossed, layer = first, 0
    while f"cross.u_kernels.{layer}.weight" in p:
        inner = linear(p, f"cross.u_kernels.{layer}", crossed)
        crossed = first * linear(p, f"cross.v_kernels.{layer}", inner) + crossed
        layer += 1
    parts = [crossed]
    if "deep.mlp.0.perceptron.0.weight" in p:
        parts.append(mlp(p, "deep", x))
    return linear(p, "output_mlp", mlp(p, "final", np.concatenate(parts, 1)))
