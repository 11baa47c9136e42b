"""Scores rows of Frappe from an exported directory, with NumPy and ONNX Runtime alone.

    deepfm train --config deepfm_frappe
    deepfm export --checkpoint outputs/deepfm_frappe/best_model.pt --output exported
    python examples/frappe_onnxruntime.py exported rows.csv

All fields of Frappe are categories, so that encoding is a dictionary per field: the id of a value
is its place in the vocabulary, from 1 on, and 0 is that of a value that training has not seen.
Fields of other kinds are read by `deepfm.runtime`.
"""

import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime


def vocabularies(directory: Path) -> Iterator[tuple[str, dict[str, int]]]:
    """The raw column of each field, and the ids of its values, in the order of the fields."""
    encoders = json.loads((directory / "encoders.json").read_text(encoding="utf-8"))
    with np.load(directory / "encoders.npz") as arrays:
        for field in encoders["schema"]["fields"]:
            column = encoders["fitted"][field["embedding_name"]]["vocabulary"]["$table"]["value"]
            if "text" in column:
                data, offsets = arrays[column["text"]].tobytes(), arrays[column["offsets"]]
                ends = pairwise(offsets.tolist())
                values = [data[start:end].decode() for start, end in ends]
            else:
                values = [str(value) for value in arrays[column["$array"]]]
            yield field["column"], {value: k for k, value in enumerate(values, start=1)}


class Scorer:
    """Probabilities of rows of texts."""

    def __init__(self, directory: Path) -> None:
        signature = json.loads((directory / "signature.json").read_text(encoding="utf-8"))
        self.output = signature["tasks"][0]["output"]
        self.fields = dict(vocabularies(directory))
        self.session = onnxruntime.InferenceSession(directory / "model.onnx")

    def predict(self, rows: Sequence[Mapping[str, str]]) -> np.ndarray:
        """The probability of each row, (N,) float64."""
        ids = [[known.get(row[name], 0) for name, known in self.fields.items()] for row in rows]
        (probability,) = self.session.run([self.output], {"sparse": np.array(ids, np.int64)})
        return probability


if __name__ == "__main__":
    directory, file = map(Path, sys.argv[1:])
    with file.open(encoding="utf-8", newline="") as opened:
        for value in Scorer(directory).predict(list(csv.DictReader(opened))):
            print(f"{value:.6f}")
