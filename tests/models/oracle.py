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


def affine(linear) -> tuple[np.ndarray, np.ndarray]:
    """W and b of a linear map, or scale and shift of a norm."""
    weight = array(linear.weight)
    return weight, np.zeros(len(weight)) if linear.bias is None else array(linear.bias)


def mask_block(block) -> dict:
    weights = {name: affine(getattr(block, name)) for name in ("aggregation", "mask", "hidden")}
    return weights | ({"norm": affine(block.norm)} if isinstance(block.norm, nn.LayerNorm) else {})


def factorized_layers(block) -> list[dict]:
    result = []
    for linear, tail in zip(block.linears, block.tails, strict=True):
        layer = dict(zip(("weight", "bias"), affine(linear), strict=True))
        if isinstance(norm := tail[0], nn.BatchNorm1d):
            tensors = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
            layer["batch_norm"] = [array(tensor) for tensor in tensors]
        elif isinstance(norm, nn.LayerNorm):
            layer["layer_norm"] = affine(norm)
        result.append(layer)
    return result


def bilinear_weight(fusion, outputs: int = 1) -> np.ndarray:
    """By head, output, row and column."""
    heads, rows, _ = fusion.weight.shape
    return array(fusion.weight).reshape(heads, rows, outputs, -1).transpose(0, 2, 1, 3)


def wukong_layer(layer) -> dict:
    weights = {name: array(getattr(layer, name)) for name in ("compress", "linear")}
    weights["residual"] = None if layer.residual is None else array(layer.residual)
    affines = {name: affine(getattr(layer, name)) for name in ("products_norm", "norm", "output")}
    return weights | affines | {"mlp": mlp_layers(layer.mlp)}


def cin_filters(cin, num_fields: int) -> list[np.ndarray]:
    """Per layer W[h, i, j]: the weight of (map i, field j) in map h."""
    return [array(layer.weight).reshape(layer.out_features, -1, num_fields) for layer in cin.layers]


def attention_layers(attention) -> list[dict]:
    result = []
    for layer in attention.layers:
        weights = {name: array(getattr(layer, name).weight) for name in ("query", "key", "value")}
        if layer.residual is not None:
            weights["residual"] = array(layer.residual.weight)
        if layer.norm is not None:
            weights["norm"] = [array(layer.norm.weight), array(layer.norm.bias)]
        result.append(weights)
    return result


def cross_layers(cross) -> list[dict]:
    """Of a `CrossNetwork`, with its matrices multiplied out."""
    result = []
    for k, mapped in enumerate(cross.maps):
        linears = list(mapped) if isinstance(mapped, nn.Sequential) else [mapped]
        layer = {"weight": _whole(mapped), "bias": array(linears[-1].bias)}
        result.append(layer | ({"gate": _whole(cross.gates[k])} if cross.gates else {}))
    return result


def _whole(mapped) -> np.ndarray:
    if isinstance(mapped, nn.Sequential):
        first, second = mapped
        return array(second.weight) @ array(first.weight)
    return array(mapped.weight)


def masked_cross_layers(cross) -> list[dict]:
    return [
        {
            "weight": array(mapped.weight),
            "norm": [array(norm.weight), array(norm.bias)],
            "bias": array(bias),
        }
        for mapped, norm, bias in zip(cross.maps, cross.norms, cross.biases, strict=True)
    ]


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
        elif kind == "encoded":
            continue
        elif kind == "dense_first_order":
            plain = embedding._plain_columns.numpy()
            weights[kind] = np.full(len(embedding._place), np.nan)
            weights[kind][plain] = array(tensor)
        else:
            weights[kind] = array(tensor)
    for group in embedding.encoded_fields():
        weights |= encoded_weights(group, {field.name: field for field in embedding.fields})
    return weights


def encoded_weights(group, fields) -> dict[str, np.ndarray]:
    """By field, without what stands for bins that it does not have."""
    weights = {}
    width = group.encoding.num_features
    for k, name in enumerate(group.names):
        field = fields[name]
        own = slice(k * field.value_dim, (k + 1) * field.value_dim)
        used = len(field.edges) - 1 if field.edges else width
        by_number = array(group.weight[k]).reshape(field.value_dim, width, field.dim)
        weights[f"map of {name}"] = by_number[:, :used].reshape(-1, field.dim)
        weights[f"bias of {name}"] = array(group.bias[k])
        if not field.edges:
            weights[f"frequencies of {name}"] = array(group.encoding.frequency[own])
        elif group.first_order is not None:
            weights[f"bins of {name}"] = array(group.first_order[own, :used])
    return weights
