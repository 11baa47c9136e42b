"""Networks of a pipeline as sections of a config."""

from deepfm.easyrec.pipeline_pb2 import MLP
from deepfm.easyrec.reading import Keys, Pipeline, shortest
from deepfm.errors import ArgumentError
from deepfm.models.layers.dnn import activation_from


def network(pipeline: Pipeline, config: MLP, path: str) -> Keys:
    """The section of a network, which has a layer at least.

    Raises:
        ConfigError: It has none, or settings that contradict each other.
    """
    units, dropout = list(config.hidden_units), [shortest(r) for r in config.dropout_ratio]
    if not units:
        raise pipeline.error(path, "hidden_units: a value is needed")
    if config.use_bn and config.use_ln:
        raise pipeline.error(f"{path}.use_ln", "choose use_bn or use_ln, not both")
    if len(dropout) > 1 and len(dropout) != len(units):
        raise pipeline.error(
            f"{path}.dropout_ratio",
            f"expected one number, or one for each of {len(units)} hidden units, found "
            f"{len(dropout)}",
        )
    try:
        activation_from(config.activation, units[0])
    except ArgumentError as error:
        raise pipeline.error(f"{path}.activation", error.problem) from None
    return {
        "hidden_units": units,
        "activation": config.activation.strip(),
        "dropout": dropout if len(dropout) > 1 else (dropout or [0.0])[0],
        "norm": "batch" if config.use_bn else "layer" if config.use_ln else "none",
        "bias": config.bias,
        "init": "torch",
    }


def attention_network(pipeline: Pipeline, config: MLP, path: str) -> Keys:
    """The options of an encoder's network, over positions of which padding counts in norms."""
    found = network(pipeline, config, path)
    ratios = set(config.dropout_ratio)
    if len(ratios) > 1:
        raise pipeline.error(
            f"{path}.dropout_ratio",
            "of an attention network one number for all layers is supported",
        )
    dropout = shortest(ratios.pop()) if ratios else 0.0
    return found | {"dropout": dropout, "statistics": "padded"}


def attention(pipeline: Pipeline, config: MLP, path: str, sequence: str) -> Keys:
    """DIN over a sequence, as the format computes it."""
    return {
        "name": "din",
        "input": sequence,
        "unknown": "attend",
        **attention_network(pipeline, config, path),
        "softmax": True,
    }
