"""What TorchEasyRec calls things that this program has, too; and nowhere else are its names.

Decided here: some of its names are the only ones that a thing has, for native runs as for
converted ones: of a loss of variational dropout, of the file with what it found, of the
probability of class 1 as an output. So the parts that write them import this module, which
imports nothing, and a run does not depend on the form of its config. The parameters of a model
have names of our own; patterns of `training.part_optimizers` may use either.

The names of the format's own fields, features, losses and metrics stand where they are converted.
"""

import re
from collections.abc import Sequence

# By model: what a parameter's name of ours begins with, and what it is in the original, with or
# without `model.` before. `{0}` is the task, or the group, whose number the first parenthesis
# holds. What ends in a slash is a network, and layers of one follow. Read in the original's code.
Rules = tuple[tuple[str, str], ...]
_OUTPUT: Rules = ((r"(dnn|final)\.1\.", "output_mlp."),)
_NO_BIAS: Rules = ((r"(dnn|final)\.1\.", "output_linear."),)
_FUSION: Rules = (*_OUTPUT, (r"dnn\.0\.", "deep_mlp./"), (r"final\.0\.", "final_mlp./"))
_SPARSE_DENSE: Rules = (*_OUTPUT, (r"dnn\.0\.", "final_mlp./"), (r"dense\.", "dense_mlp./"))
_TOWERS: Rules = (*_FUSION, (r"towers\.(\d+)\.", "towers.{0}./"))
_EXPERTS: Rules = (
    (r"mixtures\.experts\.(\d+)\.", r"mmoe.expert_mlps.\1./"),
    (r"mixtures\.gates\.(\d+)\.network\.", r"mmoe.gate_mlps.\1./"),
    (r"mixtures\.gates\.(\d+)\.linear\.", r"mmoe.gate_finals.\1."),
)
_TASK_TOWERS: Rules = (
    (r"towers\.(\d+)\.", r"_task_tower.\1.tower_mlp./"),
    (r"task_outputs\.(\d+)\.", r"_task_tower.\1.linear."),
)


def _masks(module: str) -> Rules:
    """Mask blocks, as a part of a model."""
    block = rf"{module}.mask_blocks.\1"
    return (
        (r"masks\.norm\.", f"{module}.ln_emb."),
        (r"masks\.blocks\.(\d+)\.aggregation\.", f"{block}.mask_generator.0."),
        (r"masks\.blocks\.(\d+)\.mask\.", f"{block}.mask_generator.2."),
        (r"masks\.blocks\.(\d+)\.hidden\.", f"{block}.ffn.0."),
        (r"masks\.blocks\.(\d+)\.norm\.", f"{block}.ffn.1."),
    )


_LEVEL, _WUKONG = r"_extraction_nets.\1", r"_wukong_layers.\1"
_MODELS: dict[str, Rules] = {
    "deepfm": _FUSION,
    "wide_and_deep": _FUSION,
    "xdeepfm": (
        *_OUTPUT,
        (r"dnn\.0\.", "deep./"),
        (r"final\.0\.", "final./"),
        *_FUSION[1:],  # what earlier releases of this program took for their names
        (r"cin\.layers\.(\d+)\.", r"cin.cin_layers.\1."),
    ),
    "dcn": (
        *_NO_BIAS,
        (r"cross\.weights\.(\d+)", r"cross.w.\1.weight"),
        (r"cross\.biases\.(\d+)", r"cross.b.\1"),
        (r"dnn\.0\.", "deep./"),
        (r"final\.0\.", "final./"),
        (r"final\.0\.", "final_dnn./"),
    ),
    "dcn_v2": (
        *_OUTPUT,
        (r"backbone\.", "backbone./"),
        (r"cross\.maps\.(\d+)\.0\.", r"cross.u_kernels.\1."),
        (r"cross\.maps\.(\d+)\.1\.", r"cross.v_kernels.\1."),
        (r"dnn\.0\.", "deep./"),
        (r"final\.0\.", "final./"),
    ),
    "masknet": (
        *_NO_BIAS,
        (r"dnn\.0\.", "mask_net_layer.top_mlp./"),
        *_masks("mask_net_layer"),
    ),
    "dlrm": _SPARSE_DENSE,
    "wukong": (
        *_SPARSE_DENSE,
        (r"layers\.(\d+)\.linear", f"{_WUKONG}.lcb.weight"),
        (r"layers\.(\d+)\.compress", f"{_WUKONG}.fmb.weight"),
        (r"layers\.(\d+)\.products_norm\.", f"{_WUKONG}.fmb.norm."),
        (r"layers\.(\d+)\.mlp\.", f"{_WUKONG}.fmb.mlp./"),
        (r"layers\.(\d+)\.output\.", f"{_WUKONG}.fmb.feature_out_liner."),
        (r"layers\.(\d+)\.norm\.", f"{_WUKONG}.norm."),
        (r"layers\.(\d+)\.residual", f"{_WUKONG}.residual_projection.weight"),
    ),
    "multi_tower": _TOWERS,
    "multi_tower_din": (
        *_TOWERS,
        (r"encoders\.(\d+)\.encoder\.mlp\.", r"din_towers.\1.mlp./"),
        (r"encoders\.(\d+)\.encoder\.linear\.", r"din_towers.\1.linear."),
    ),
    "mmoe": (*_EXPERTS, *_TASK_TOWERS),
    "ple": (
        *_TASK_TOWERS,
        (r"levels\.(\d+)\.shared\.(\d+)\.", rf"{_LEVEL}._shared_layers.\2./"),
        (r"levels\.(\d+)\.own\.(\d+)\.(\d+)\.", rf"{_LEVEL}._task_layers.\2.\3./"),
        (r"levels\.(\d+)\.gates\.(\d+)\.linear\.", rf"{_LEVEL}._task_gates.\2."),
        (r"levels\.(\d+)\.shared_gate\.linear\.", f"{_LEVEL}._shared_gate."),
    ),
    "dbmtl": (
        *_EXPERTS,
        *_masks("mask_net"),
        (r"masks_dnn\.", "mask_net.top_mlp./"),
        (r"bottom\.", "bottom_mlp./"),
        (r"towers\.(\d+)\.", "task_mlps.{0}./"),
        (r"relations\.(\d+)\.", "relation_mlps.{0}./"),
        (r"task_outputs\.(\d+)\.", r"task_outputs.\1."),
    ),
}
_ENCODER = r"embedding_group._group_name_to_seq_encoders.deep.\1"  # where the group is called so
_EMBEDDING: Rules = (
    (r"embedding\.dropouts\.(\w+)\.weight", r"group_variational_dropouts.\1.feature_p"),
    (r"embedding\.encoders\.(\d+)\.encoder\.mlp\.", f"{_ENCODER}.mlp./"),
    (r"embedding\.encoders\.(\d+)\.encoder\.linear\.", f"{_ENCODER}.linear."),
)
_LAYER = re.compile(r"layers\.(\d+)\.")
PROBABILITY_OF_ONE = "probs1"  # the output of a model of two classes, beside `probs` of both
DROPOUT_COLUMNS = ("feature_name", "mean_drop_p")


def parameter_names(name: str, model: str, parts: Sequence[str] = ()) -> list[str]:
    """Its names for a parameter of ours.

    Args:
        model: The model's name.
        parts: What the towers of the model are for, tasks or groups.

    Example:
        >>> parameter_names("dnn.0.layers.2.0.weight", "deepfm")
        ['model.deep_mlp.mlp.2.perceptron.0.weight', 'deep_mlp.mlp.2.perceptron.0.weight']
        >>> parameter_names("towers.1.layers.0.0.bias", "dbmtl", ["ctr", "cvr"])[1]
        'task_mlps.cvr.mlp.0.perceptron.0.bias'
        >>> parameter_names("embedding.first_order.weight", "deepfm")
        []
    """
    found = []
    for ours, template in (*_MODELS.get(model, ()), *_EMBEDDING):
        if not (match := re.match(ours, name)):
            continue
        theirs, rest = template.removesuffix("/"), name[match.end() :]
        if "{0}" in theirs:
            theirs = theirs.format(parts[int(match[1])])
        if template.endswith("/"):
            rest = _LAYER.sub(r"mlp.\1.perceptron.", rest, count=1)
        theirs = match.expand(theirs) + rest
        found += [f"model.{theirs}", theirs]
    return found


def dropout_loss(group: str) -> str:
    """Name of the loss that pulls the drop probabilities of a group towards 1."""
    return f"{group}_feature_p_loss"


def dropout_file(group: str) -> str:
    """Name of the CSV file of a group's drop probabilities, with `DROPOUT_COLUMNS`."""
    return f"feature_dropout_ratio_{group}.csv"
