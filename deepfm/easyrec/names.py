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

# What a parameter's name of ours begins with, and what it may be in the original, with or without
# `model.` before: a network has another name there in another model. `{0}` is the task, or the
# group, of the number that the first parenthesis holds. What follows are layers of a network.
# Read in the original's code, but for what is said to be a guess.
_NETWORKS = (
    (r"dnn\.0\.", ("deep_mlp.", "deep.", "final_mlp.", "mask_net_layer.top_mlp.")),
    (r"final\.0\.", ("final_mlp.", "final.", "final_dnn.")),
    (r"dense\.", ("dense_mlp.",)),
    (r"backbone\.", ("backbone.",)),
    (r"layers\.(\d+)\.mlp\.", (r"_wukong_layers.\1.fmb.mlp.",)),
    (r"towers\.(\d+)\.", ("towers.{0}.", r"_task_tower.\1.tower_mlp.", "task_mlps.{0}.")),
    (r"bottom\.", ("bottom_mlp.",)),
    (r"mixtures\.experts\.(\d+)\.", (r"mmoe.expert_mlps.\1.",)),
    (r"mixtures\.gates\.(\d+)\.network\.", (r"mmoe.gate_mlps.\1.",)),
    (r"levels\.(\d+)\.shared\.(\d+)\.", (r"_extraction_nets.\1._shared_layers.\2.",)),
    (r"levels\.(\d+)\.own\.(\d+)\.(\d+)\.", (r"_extraction_nets.\1._task_layers.\2.\3.",)),
    (r"relations\.(\d+)\.", ("relation_mlps.{0}.",)),
    (r"encoders\.(\d+)\.encoder\.mlp\.", (r"din_towers.\1.mlp.",)),
)
_OTHERS = (
    (r"(dnn|final)\.1\.", ("output_mlp.", "output_linear.")),
    (r"cin\.layers\.(\d+)\.", (r"cin.cin_layers.\1.",)),
    (r"embedding\.dropouts\.(\w+)\.weight", (r"group_variational_dropouts.\1.feature_p",)),
    (r"norm\.", ("mask_net_layer.ln_emb.",)),
    (r"blocks\.(\d+)\.aggregation\.", (r"mask_net_layer.mask_blocks.\1.mask_generator.0.",)),
    (r"blocks\.(\d+)\.mask\.", (r"mask_net_layer.mask_blocks.\1.mask_generator.2.",)),
    (r"blocks\.(\d+)\.hidden\.", (r"mask_net_layer.mask_blocks.\1.ffn.0.",)),
    (r"blocks\.(\d+)\.norm\.", (r"mask_net_layer.mask_blocks.\1.ffn.1.",)),
    (r"layers\.(\d+)\.linear", (r"_wukong_layers.\1.lcb.weight",)),
    (r"layers\.(\d+)\.compress", (r"_wukong_layers.\1.fmb.weight",)),
    (r"layers\.(\d+)\.products_norm\.", (r"_wukong_layers.\1.fmb.norm.",)),
    (r"layers\.(\d+)\.output\.", (r"_wukong_layers.\1.fmb.feature_out_liner.",)),
    (r"layers\.(\d+)\.norm\.", (r"_wukong_layers.\1.norm.",)),
    (r"layers\.(\d+)\.residual", (r"_wukong_layers.\1.residual_projection.weight",)),
    (r"mixtures\.gates\.(\d+)\.linear\.", (r"mmoe.gate_finals.\1.",)),
    (r"levels\.(\d+)\.gates\.(\d+)\.linear\.", (r"_extraction_nets.\1._task_gates.\2.",)),
    (r"levels\.(\d+)\.shared_gate\.linear\.", (r"_extraction_nets.\1._shared_gate.",)),
    (r"task_outputs\.(\d+)\.", (r"_task_tower.\1.linear.", r"task_outputs.\1.")),
)
_LAYER = re.compile(r"layers\.(\d+)\.")
_RULES = tuple(
    (re.compile(ours), theirs, is_network)
    for rules, is_network in ((_NETWORKS, True), (_OTHERS, False))
    for ours, theirs in rules
)
PROBABILITY_OF_ONE = "probs1"  # the output of a model of two classes, beside `probs` of both
DROPOUT_COLUMNS = ("feature_name", "mean_drop_p")


def parameter_names(name: str, parts: Sequence[str] = ()) -> list[str]:
    """Its names for a parameter of ours; of several models, where they differ.

    Args:
        parts: The names of the tasks or groups that towers of the model are for.

    Example:
        >>> parameter_names("dnn.0.layers.2.0.weight")[0]
        'model.deep_mlp.mlp.2.perceptron.0.weight'
        >>> parameter_names("towers.1.layers.0.0.bias", ["ctr", "cvr"])[-1]
        'task_mlps.cvr.mlp.0.perceptron.0.bias'
        >>> parameter_names("embedding.first_order.weight")
        []
    """
    found = []
    for ours, theirs, is_network in _RULES:
        if not (match := ours.match(name)):
            continue
        rest = name[match.end() :]
        if is_network:
            if not _LAYER.match(rest):
                continue
            rest = _LAYER.sub(r"mlp.\1.perceptron.", rest, count=1)
        for template in theirs:
            other = template
            if "{0}" in template:
                number = int(match[1])
                if number >= len(parts):
                    continue
                other = template.format(parts[number])
            other = match.expand(other) + rest
            found += [f"model.{other}", other]
    return found


def dropout_loss(group: str) -> str:
    """Name of the loss that pulls the drop probabilities of a group towards 1."""
    return f"{group}_feature_p_loss"


def dropout_file(group: str) -> str:
    """Name of the CSV file of a group's drop probabilities, with `DROPOUT_COLUMNS`."""
    return f"feature_dropout_ratio_{group}.csv"
