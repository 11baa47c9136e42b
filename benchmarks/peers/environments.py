"""Creates one virtual environment per peer under outputs/benchmarks/envs, with uv.

    python benchmarks/peers/environments.py [PEER ...]    # benchmarks/run.py --peers does it too

The peers' requirements exclude each other (fuxictr wants polars < 2, recbole numpy < 2, and so
on), hence one environment each; uv's cache links the files, so seven copies of torch cost the
disk of one. An environment whose requirements have not changed is left alone. Every peer runs
on the same version of torch; a folder of wheels in UV_FIND_LINKS or PIP_FIND_LINKS is honoured,
which is how a machine without CUDA gets the CPU build.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

ENVIRONMENTS = Path(__file__).resolve().parents[2] / "outputs" / "benchmarks" / "envs"
TORCH = "torch==2.13.0"

REQUIREMENTS = {
    # imports requests and pip's version parser without declaring them
    "deepctr-torch": [TORCH, "deepctr-torch==0.3.0", "requests", "pip", "numpy<2.5"],
    "fuxictr": [TORCH, "fuxictr==2.3.10", "polars<2"],
    "torchfm": [TORCH, "torchfm==0.7.0", "numpy<2.5"],
    "fbgemm": [TORCH, "fbgemm-gpu-cpu==1.8.0", "numpy<2.5"],
    "recbole": [TORCH, "recbole==1.2.1", "numpy<2", "pandas<3"],
    "torch-rechub": [TORCH, "torch-rechub==0.9.0"],
    "pytorch-widedeep": [TORCH, "pytorch-widedeep==1.7.0"],
}

# peers of the server, for benchmarks/serve.py; with what an export needs to be read, and no torch
SERVERS = {
    "litserve": ["litserve==0.2.19", "numpy", "pyarrow", "xxhash", "tqdm", "onnxruntime"],
}

# where a peer needs other packages for CUDA; torch itself comes with it unless a wheel says not
ON_CUDA = {"fbgemm": [TORCH, "fbgemm-gpu==1.8.0", "numpy<2.5"]}


def folder_of(peer: str, device: str = "cpu") -> Path:
    """A peer's environment."""
    return ENVIRONMENTS / (f"{peer}-cuda" if device == "cuda" and peer in ON_CUDA else peer)


def python_of(peer: str, device: str = "cpu") -> Path:
    """The interpreter inside a peer's environment."""
    return folder_of(peer, device) / "bin" / "python"


def driver_of(peer: str) -> Path:
    """The script that measures a peer, to be run by its interpreter."""
    return Path(__file__).with_name(f"peer_{peer.replace('-', '_')}.py")


def create(peer: str, device: str = "cpu") -> bool:
    """Builds a peer's environment; False if it was there with the same requirements.

    Raises:
        subprocess.CalledProcessError: A package cannot be installed.
        SystemExit: There is no uv.
    """
    known = REQUIREMENTS | SERVERS | (ON_CUDA if device == "cuda" else {})
    wanted = known[peer]
    requirements = "\n".join(wanted) + "\n"
    folder = folder_of(peer, device)
    stamp = folder / "requirements.stamp"
    if stamp.is_file() and stamp.read_text() == requirements:
        return False
    uv = find_uv()
    environment = dict(os.environ)
    # uv does not read pip's settings
    environment.setdefault("UV_FIND_LINKS", environment.get("PIP_FIND_LINKS", ""))
    for command in (
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)],
        [uv, "pip", "install", "--quiet", "--python", str(python_of(peer, device)), *wanted],
    ):
        subprocess.run(command, check=True, env=environment)
    stamp.write_text(requirements)
    return True


def find_uv() -> str:
    """uv from beside this interpreter, or from the path."""
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    uv = shutil.which("uv", path=os.pathsep.join(folders))
    if uv is None:
        raise SystemExit(f"uv was not found in {os.pathsep.join(folders)}: pip install uv")
    return uv


def create_all(peers: Iterable[str], device: str = "cpu") -> list[str]:
    """Builds environments and says so; returns the peers that have none after it."""
    failed = []
    for peer in peers:
        start = time.perf_counter()
        try:
            created = create(peer, device)
        except subprocess.CalledProcessError as error:
            failed.append(peer)
            print(f"{peer}: failed ({error})", file=sys.stderr)
            continue
        print(f"{peer}: {'created' if created else 'ready'} ({time.perf_counter() - start:.0f} s)")
    return failed


def main() -> None:
    """Creates the environments named on the command line, or all; reports the ones that fail."""
    known = REQUIREMENTS | SERVERS
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"of {', '.join(known)}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    peers = arguments.peers or list(known)
    if unknown := sorted(set(peers) - set(known)):
        parser.error(f"unknown peers {unknown}; known are {list(known)}")
    if failed := create_all(peers, arguments.device):
        raise SystemExit(f"no environment for {', '.join(failed)}")


if __name__ == "__main__":
    main()
