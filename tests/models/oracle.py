"""Weights of modules as the float64 arrays that `tests.reference` takes."""

import numpy as np
from torch import nn

from deepfm.models.layers.dnn import Dice


def array(tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def mlp_layers(mlp) -> list[dict]:
    result = []
    for layer in mlp.layers:
        weights = {"weight": array(layer[0].weight)}
        if layer[0].bias is not None:
            weights["bias"] = array(layer[0].bias)
        if isinstance(norm := layer[1], nn.BatchNorm1d):
            tensors = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
            weights["batch_norm"] = [array(tensor) for tensor in tensors]
        elif isinstance(norm, nn.LayerNorm):
            weights["layer_norm"] = [array(norm.weight), array(norm.bias)]
        for module in layer:
            if isinstance(module, Dice):
                tensors = (module.norm.running_mean, module.norm.running_var, module.alpha)
                weights["dice"] = [array(tensor) for tensor in tensors]
        result.append(weights)
    return result


def cin_filters(cin, num_fields: int) -> list[np.ndarray]:
    """Per layer W[h, i, j]: the weight of (map i, field j) in map h."""
    return [array(layer.weight).reshape(layer.out_features, -1, num_fields) for layer in cin.layers]


def attention_layers(attention) -> list[dict]:
    result = []
    for layer in attention.layers:
        weights = {name: array(getattr(layer, name).weight) for name in ("query", "key", "value")}
        if layer.residual is not None:
            weights["residual"] = array(layer.residual.weight)
        result.append(weights | {"norm": [array(layer.norm.weight), array(layer.norm.bias)]})
    return result


def embedding_weights(embedding) -> dict[str, np.ndarray]:
    """By the names that `reference.feature_views` uses, read from the state dict."""
    weights = {}
    for key, tensor in embedding.state_dict().items():
        kind, _, name = key.removesuffix(".weight").partition(".")
        if kind == "tables":
            weights[name] = array(tensor)
        elif kind == "dense_vectors":
            weights[f"vectors of {name}"] = array(tensor)
        elif kind == "projections":
            weights[f"projection of {name}"] = array(tensor)
        else:
            weights[kind] = array(tensor)
    return weights
