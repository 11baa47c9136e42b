"""LitServe with the model of `deepfm export` and our reader of rows, for `benchmarks/serve.py`.

    PYTHONPATH=. <environment of the peer>/bin/python benchmarks/peers/peer_litserve.py \\
        --export D --port 8100 --workers 1

It answers the bodies that `deepfm serve` does, at the same path, by the same session of ONNX
Runtime with one thread; rows of requests that wait are scored together, as its documentation
advises. What differs is the server: FastAPI in one process, and workers that it reaches through
queues. It has no metrics of the model, and its log of requests is off.
"""

import argparse
from typing import Any

import litserve

from deepfm.runtime import Runtime, load

MOST_REQUESTS = 64  # of a batch
GATHERING = 0.001  # seconds that a batch waits for more requests


class Served(litserve.LitAPI):
    """Rows to predictions."""

    engine: Runtime

    def __init__(self, directory: str) -> None:
        super().__init__(
            max_batch_size=MOST_REQUESTS, batch_timeout=GATHERING, api_path="/v1/predict"
        )
        self._directory = directory

    def setup(self, device: str) -> None:
        self.engine = load(self._directory, threads=1)

    def decode_request(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = request["rows"]
        return rows

    def batch(self, inputs: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
        return inputs

    def predict(self, batch: list[list[dict[str, Any]]]) -> list[dict[str, list[float]]]:
        names = list(batch[0][0])
        columns = {name: [row[name] for rows in batch for row in rows] for name in names}
        found = self.engine.predict_counted(columns).columns
        outputs, start = [], 0
        for rows in batch:
            end = start + len(rows)
            outputs.append({name: values[start:end].tolist() for name, values in found.items()})
            start = end
        return outputs

    def unbatch(self, output: list[dict[str, list[float]]]) -> list[dict[str, list[float]]]:
        return output

    def encode_response(self, output: dict[str, list[float]]) -> dict[str, Any]:
        return {"predictions": output}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--export", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    server = litserve.LitServer(
        Served(arguments.export),
        accelerator="cpu",
        workers_per_device=arguments.workers,
        timeout=5,
        fast_queue=True,
    )
    server.run(
        host="127.0.0.1",
        port=arguments.port,
        num_api_servers=1,
        log_level="error",
        generate_client_file=False,
        access_log=False,
    )


if __name__ == "__main__":
    main()
