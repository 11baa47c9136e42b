"""Programs as ONNX files, which share one file of weights."""

import hashlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from deepfm.export.programs import BATCH, LENGTH
from deepfm.exported.layout import WEIGHTS
from deepfm.utils.extras import needed

OPSET = 20
_SMALL = 256  # bytes; what is smaller stays in the graph
_PAGE = 4096  # bytes; so that weights are mapped into memory as they are


class WeightsFile:
    """The weights of several graphs, each distinct one once.

    Args:
        folder: Where the file and the graphs stand.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / WEIGHTS
        self._path.touch()
        self._places: dict[str, int] = {}
        self._end = 0

    def kept_outside(self, model: Any) -> None:
        """Move the weights of a graph into the file."""
        ir = needed("onnx_ir", extra="onnx", wanted_by="deepfm export")
        with self._path.open("r+b") as file:
            file.seek(self._end)
            for value in model.graph.initializers.values():
                tensor = value.const_value
                if tensor is None or tensor.nbytes < _SMALL:
                    continue
                array = np.ascontiguousarray(tensor.numpy())
                key = f"{array.dtype}{array.shape}{hashlib.sha256(array.data).hexdigest()}"
                if key not in self._places:
                    gap = -self._end % _PAGE
                    file.write(bytes(gap))
                    file.write(array.data)
                    self._places[key] = self._end + gap
                    self._end += gap + array.nbytes
                value.const_value = ir.ExternalTensor(
                    WEIGHTS,
                    self._places[key],
                    array.nbytes,
                    tensor.dtype,
                    shape=tensor.shape,
                    name=value.name,
                    base_dir=str(self._folder),
                )


def write_onnx(
    program: ExportedProgram,
    path: Path,
    weights: WeightsFile,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> None:
    """Write a program as a graph whose inputs and outputs have these names."""
    needed("onnxscript", extra="onnx", wanted_by="deepfm export")
    ir = needed("onnx_ir", extra="onnx", wanted_by="deepfm export")
    with _quiet():
        found = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            custom_translation_table={torch.ops.aten.searchsorted.Tensor: _searchsorted},
            verbose=False,
        )
    assert found is not None
    _name_dimensions(found.model.graph, ir)
    weights.kept_outside(found.model)
    ir.save(found.model, path)


def _name_dimensions(graph: Any, ir: Any) -> None:
    """Call the first dimension `batch`, and others of any size `length` with a number."""
    known: dict[str, str] = {}
    for node in graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None  # which the runtime finds out, by the new names
    for value in [*graph.inputs, *graph.outputs]:
        shape = []
        for place, size in enumerate(value.shape):
            if not isinstance(size, int):
                old = str(size)
                size = BATCH if place == 0 else known.setdefault(old, f"{LENGTH}_{len(known)}")
            shape.append(size)
        value.shape = ir.Shape(shape)


def _searchsorted(
    sorted_sequence: Any,
    self: Any,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Any = None,
) -> Any:
    """How many numbers of a sorted list lie below each number, or up to it; the exporter has none.

    Costs a comparison with each number of the list.
    """
    op: Any = needed("onnxscript", extra="onnx", wanted_by="deepfm export").opset20
    edges = op.Unsqueeze(sorted_sequence, op.Constant(value_ints=[-2]))
    numbers = op.Unsqueeze(self, op.Constant(value_ints=[-1]))
    is_right = right or side == "right"
    below = op.LessOrEqual(edges, numbers) if is_right else op.Less(edges, numbers)
    return op.ReduceSum(op.Cast(below, to=7), op.Constant(value_ints=[-1]), keepdims=0)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of operators that are not there and that no model has."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
