"""Fuzzing of what reads files: by coverage (atheris, in an environment of its own), or by chance.

    python -m attacks.fuzz yaml --seconds 60 --findings folder    # in that environment

The environment sees the packages of the one that makes it, with atheris beside them, which is no
dependency of the project.
"""

import argparse
import json
import random
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

from attacks.state import ROOT, Case

ATHERIS = "atheris>=2.3"


def cases(folder: Path, rounds: int | None, minutes: float) -> Iterator[Case]:
    """Random changes of valid files; and, unless `rounds` limits them, fuzzing by coverage."""
    from attacks import targets

    seeds = targets.SEEDS | {"checkpoint": _checkpoint(folder)}
    for name, seed in seeds.items():
        yield Case(
            f"mutations {name}", lambda n=name, s=seed: _by_chance(n, s, folder, rounds or 3000)
        )
    if rounds is None:
        for name, seed in seeds.items():
            yield Case(
                f"coverage {name}",
                lambda n=name, s=seed: _by_coverage(n, s, folder, int(60 * minutes / len(seeds))),
            )


def _checkpoint(folder: Path) -> bytes:
    """A small checkpoint."""
    from attacks import workloads
    from attacks.children import run
    from attacks.kills import TRAIN

    place = folder / "fuzz"
    if not place.exists():
        workloads.write("declared", place)
        if (ended := run(place, [*TRAIN, "--override", "training.epochs=1"])).code:
            raise RuntimeError(ended.errors)
    return (place / "run" / "best_model.pt").read_bytes()


def _by_chance(name: str, seed: bytes, folder: Path, rounds: int) -> str:
    from attacks import targets

    rng = random.Random(name)
    found: dict[str, int] = {}
    for number in range(rounds):
        if problem := targets.finding(name, targets.mutated(seed, rng), folder):
            found.setdefault(problem, number)
    return "; ".join(f"{problem} (input {number})" for problem, number in found.items())


def _by_coverage(name: str, seed: bytes, folder: Path, seconds: int) -> str:
    python = environment(folder.parent / "fuzz-environment")
    findings = folder.parent / f"findings-{name}"
    findings.mkdir(exist_ok=True)
    corpus = folder.parent / f"corpus-{name}"  # kept, so that the next time goes on from it
    corpus.mkdir(exist_ok=True)
    (corpus / "seed").write_bytes(seed)
    command = [
        str(python), "-m", "attacks.fuzz", name, "--seconds", str(seconds), "--findings",
        str(findings.absolute()), "--corpus", str(corpus.absolute()),
    ]  # fmt: skip
    log = folder.parent / f"fuzz-{name}.log"
    with log.open("w") as file:
        code = subprocess.run(
            command, stdout=file, stderr=file, cwd=ROOT, check=False, env=_environment_variables()
        ).returncode
    found = [json.loads(path.read_text())["problem"] for path in findings.glob("*.json")]
    if code and not found:
        found = [f"exit code {code}: {log.read_text()[-300:]}"]
    return "; ".join(sorted(found))


def _environment_variables() -> dict[str, str]:
    import os

    kept = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def environment(folder: Path) -> Path:
    """The interpreter of an environment with atheris, which is made once."""
    python = folder / "bin" / "python"
    if not (folder / ".ready").exists():
        import os

        clean = _environment_variables() | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, env=clean)
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "ours.pth").write_text(sysconfig.get_paths()["purelib"] + os.linesep)
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", ATHERIS], check=True, env=clean
        )
        (folder / ".ready").touch()
    return python


def main() -> None:
    """Fuzz one target by coverage; each finding is kept once, by what and where it is."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, required=True)
    parser.add_argument("--findings", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    arguments = parser.parse_args()
    import atheris

    with atheris.instrument_imports(include=["deepfm", "yaml", "dacite"]):
        import deepfm.checkpoint
        import deepfm.config
        import deepfm.data.files.read
        import deepfm.data.sources.describe
        import deepfm.easyrec.pipelines  # noqa: F401
    from attacks import targets

    folder = Path(tempfile.mkdtemp())
    seen: set[str] = set()

    def one(data: bytes) -> None:
        problem = targets.finding(arguments.target, data, folder)
        key = problem.partition(": ")[0]
        if problem and key not in seen:
            seen.add(key)
            path = arguments.findings / f"{len(list(arguments.findings.glob('*.json')))}"
            path.with_suffix(".input").write_bytes(data)
            path.with_suffix(".json").write_text(json.dumps({"problem": problem}))

    options = [
        f"-max_total_time={arguments.seconds}", "-timeout=60", "-rss_limit_mb=6000",
        "-max_len=20000", str(arguments.corpus),
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
