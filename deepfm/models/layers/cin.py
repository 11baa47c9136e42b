"""Explicit interactions of arbitrary order, vector by vector."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deepfm.errors import ArgumentError
from deepfm.models.layers.dnn import initialize_linears
from deepfm.models.layers.precision import ProductLinear, narrowed


class CIN(nn.Module):
    r"""Compressed interaction network, (B, F, D) -> (B, output_dim).

    Layer k weighs all products of a map of layer k - 1 with an input field, per embedding
    dimension; every map is then summed over D, and the sums of all layers stand end to end:

        X^k_{h,d} = sum_i sum_j W^{k,h}_{i,j} X^{k-1}_{i,d} X^0_{j,d}        p^k_h = sum_d X^k_{h,d}

    X^0 are the field embeddings, so layer k holds interactions of order k + 1 and of no other
    order: there is no activation and, by default, no bias. Dimensions are never mixed before the
    pooling.

    The weighted sum is the 1x1 convolution of the paper. It runs as one matrix product over
    B * D rows, with the outer product laid out as (B, D, H * F): it exists once, at
    B * D * H * F numbers, and is not copied for the product.

    Source: J. Lian et al., "xDeepFM", KDD 2018, arXiv:1803.05170, Eq. (6) and (7).

    NOTE[DIFF]: `split_half` is not in the paper's equations, where all maps are pooled and all go
    on. With it, the first half of the maps (rounded down) goes to the next layer and only the
    rest is pooled; nothing follows the last layer, which is pooled whole. It halves the cost of
    the next layer, and is an option of pytorch-fm and DeepCTR as well.
    NOTE[DIFF]: No activation, as in the paper's equations and in FuxiCTR and TorchEasyRec;
    pytorch-fm and DeepCTR apply ReLU by default. With one, orders would mix.

    Args:
        num_fields: F.
        layer_sizes: Maps H of each layer.
        split_half: Whether maps are split between the next layer and the output.
        bias: Whether each map has a bias. NOTE[DIFF]: The paper has none, the convolution of
            TorchEasyRec has one; with it, layer k holds interactions of lower orders as well.
        init: As in `deepfm.models.layers.dnn.initialize_linears`.

    Raises:
        ArgumentError: No layers, one map that would have to be split, or an unknown init.

    Example:
        >>> CIN(3, (5, 4))(torch.zeros(2, 3, 8)).shape  # 5 - 2 maps and 4 maps
        torch.Size([2, 7])
    """

    def __init__(
        self,
        num_fields: int,
        layer_sizes: Sequence[int],
        *,
        split_half: bool = True,
        bias: bool = False,
        init: str = "xavier_uniform",
    ) -> None:
        super().__init__()
        if not layer_sizes:
            raise ArgumentError("layer_sizes", "expected at least one layer")
        if split_half and 1 in layer_sizes[:-1]:
            raise ArgumentError(
                "layer_sizes", "split_half needs 2 maps or more before the last layer"
            )
        *inner, last = layer_sizes
        forwarded = [size // 2 if split_half else size for size in inner]
        pooled = [size - size // 2 if split_half else size for size in inner]
        self.output_dim = sum(pooled) + last
        self._splits = list(zip(forwarded, pooled, strict=True)) if split_half else []
        linears = [
            ProductLinear(maps * num_fields, size, bias=bias, narrow=True)
            for maps, size in zip([num_fields, *forwarded], layer_sizes, strict=True)
        ]
        initialize_linears(linears, init)
        self.layers = nn.ModuleList(linears)

    def forward(self, field_embeddings: Tensor) -> Tensor:
        x0 = maps = narrowed(field_embeddings).transpose(1, 2)  # (B, D, F)
        outputs = []
        for k, layer in enumerate(self.layers):
            products = torch.einsum("bdh,bdf->bdhf", maps, x0)  # (B, D, H, F)
            maps = pooled = layer(products.flatten(2))  # (B, D, H)
            if k < len(self._splits):
                maps, pooled = maps.split(self._splits[k], dim=2)
            outputs.append(pooled.sum(1, dtype=field_embeddings.dtype))  # (B, H)
        return torch.cat(outputs, dim=1)  # (B, output_dim)
