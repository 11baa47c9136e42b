"""What TorchEasyRec calls things that this program has, too; and nowhere else are its names.

Decided here: some of its names are the only ones that a thing has, for native runs as for
converted ones: of a loss of variational dropout, of the file with what it found, of the
probability of class 1 as an output. So the parts that write them import this module, which
imports nothing, and a run does not depend on the form of its config. The parameters of a model
have names of our own; patterns of `training.part_optimizers` may use either.

The names of the format's own fields, features, losses and metrics stand where they are converted.
"""

import re

# What a parameter's name of ours begins with, and the other one, with or without `model.` before.
_PARAMETERS = (
    (re.compile(r"dnn\.0\.layers\.(\d+)\."), r"deep_mlp.mlp.\1.perceptron."),
    (re.compile(r"final\.0\.layers\.(\d+)\."), r"final_mlp.mlp.\1.perceptron."),
    (re.compile(r"(dnn|final)\.1\."), r"output_mlp."),
    (re.compile(r"cin\.layers\.(\d+)\."), r"cin.cin_layers.\1."),
    (
        re.compile(r"embedding\.dropouts\.(\w+)\.weight"),
        r"group_variational_dropouts.\1.feature_p",
    ),
)
PROBABILITY_OF_ONE = "probs1"  # the output of a model of two classes, beside `probs` of both
DROPOUT_COLUMNS = ("feature_name", "mean_drop_p")


def parameter_names(name: str) -> list[str]:
    """Its names for a parameter of ours.

    Example:
        >>> parameter_names("dnn.0.layers.2.0.weight")[0]
        'model.deep_mlp.mlp.2.perceptron.0.weight'
        >>> parameter_names("embedding.first_order.weight")
        []
    """
    found = []
    for ours, theirs in _PARAMETERS:
        if match := ours.match(name):
            other = match.expand(theirs) + name[match.end() :]
            found += [f"model.{other}", other]
    return found


def dropout_loss(group: str) -> str:
    """Name of the loss that pulls the drop probabilities of a group towards 1."""
    return f"{group}_feature_p_loss"


def dropout_file(group: str) -> str:
    """Name of the CSV file of a group's drop probabilities, with `DROPOUT_COLUMNS`."""
    return f"feature_dropout_ratio_{group}.csv"
