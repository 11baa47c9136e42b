"""Programs as files, in each of the formats, and these run again."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch.export import ExportedProgram

from deepfm.export.onnx_files import WeightsFile, write_onnx
from deepfm.utils.extras import needed

Run = Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]  # inputs in their order to outputs


class GraphFiles(Protocol):
    """The graphs of an export, in one format.

    Args:
        folder: Where they stand.
    """

    suffix: str

    def __init__(self, folder: Path) -> None: ...

    def write(
        self, program: ExportedProgram, name: str, inputs: Sequence[str], outputs: Sequence[str]
    ) -> None:
        """Write a program whose only argument is a list of tensors."""

    def opened(self, name: str, outputs: Sequence[str]) -> Run:
        """What computes a graph that is written."""


class OnnxFiles:
    """Graphs for ONNX Runtime, which share one file of weights."""

    suffix = "onnx"

    def __init__(self, folder: Path) -> None:
        self._folder, self._weights = folder, WeightsFile(folder)

    def write(
        self, program: ExportedProgram, name: str, inputs: Sequence[str], outputs: Sequence[str]
    ) -> None:
        write_onnx(program, self._folder / f"{name}.onnx", self._weights, inputs, outputs)

    def opened(self, name: str, outputs: Sequence[str]) -> Run:
        ort = needed("onnxruntime", extra="onnx", wanted_by="deepfm export")
        session = ort.InferenceSession(self._folder / f"{name}.onnx")
        inputs = [one.name for one in session.get_inputs()]
        return lambda arrays: session.run(outputs, dict(zip(inputs, arrays, strict=True)))


class Pt2Files:
    """Programs of `torch.export`, each with its own weights."""

    suffix = "pt2"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(
        self, program: ExportedProgram, name: str, inputs: Sequence[str], outputs: Sequence[str]
    ) -> None:
        torch.export.save(program, self._folder / f"{name}.pt2")

    def opened(self, name: str, outputs: Sequence[str]) -> Run:
        module = torch.export.load(self._folder / f"{name}.pt2").module()

        def run(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
            found = module([torch.from_numpy(one) for one in arrays])
            found = [found] if isinstance(found, torch.Tensor) else found
            return [one.detach().numpy() for one in found]

        return run


GRAPH_FILES: dict[str, type[GraphFiles]] = {"onnx": OnnxFiles, "pt2": Pt2Files}
