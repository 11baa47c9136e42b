"""Each model's training beside what it cannot beat, or has to: one table per run.

    python benchmarks/models.py --workload W1 --models dcn_v2 fcn autoint
    python benchmarks/models.py --workload W1 --models lr fm fwfm
    python benchmarks/models.py --workload W1 --models dcn_v2 --peer --dense embedded

Ours (`ours.py --model`) is compared with the floor of its own matrix products (`floor.py --model`),
with the textbook where it has next to none (`textbook_pairs.py`), and with `--peer` with a DCN V2
from FuxiCTR's layers at its best. Every measurement is a process of its own; those of a model take
turns, and what is printed are medians over the repeats and their quotient.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import ours
import textbook_pairs
import workloads
from peers import environments
from peers.variants import BEST, BF16
from process import reason, start

HERE = Path(__file__).resolve().parent


def commands(name: str, arguments: argparse.Namespace) -> dict[str, list[str]]:
    """What is started for a model, by the name of who is measured."""
    model, own = ["--model", name], sys.executable
    given = [*model, "--dense", arguments.dense, "--precision", arguments.precision]
    found = {"ours": [own, str(HERE / "ours.py"), *given, *_rows(arguments)]}
    if arguments.peer:
        variant = BF16 if arguments.precision == "bf16" else BEST
        script = str(environments.driver_of("fuxictr-dcn-v2"))
        python = str(environments.python_of("fuxictr"))
        found["peer"] = [python, script, "--variant", variant, *_rows(arguments)]
    elif name in textbook_pairs.MODELS:
        script = str(HERE / "textbook_pairs.py")
        found["textbook"] = [own, script, *model, *_rows(arguments)]
    else:
        found["floor"] = [own, str(HERE / "floor.py"), *given]
    return found


def _rows(arguments: argparse.Namespace) -> list[str]:
    return ["--rows", str(arguments.rows), "--score-rows", "8192"]


def main() -> None:
    """Prints a line of JSON per model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", choices=workloads.WORKLOADS, required=True)
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--precision", choices=ours.PRECISIONS, default="fp32")
    parser.add_argument("--dense", choices=ours.DENSE, default="raw")
    parser.add_argument("--peer", action="store_true", help="FuxiCTR's DCN V2, of dcn_v2 only")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, default=131_072)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    arguments = parser.parse_args()
    if arguments.peer and arguments.models != ["dcn_v2"]:
        parser.error("--peer is of --models dcn_v2")
    key = "train_rows_per_s" if arguments.clock == "wall" else "train_cpu_rows_per_s"
    where = ["--workload", arguments.workload, "--threads", str(arguments.threads)]
    for name in arguments.models:
        result = {"model": name, "workload": arguments.workload, "precision": arguments.precision}
        speeds: dict[str, list[float]] = {}
        try:
            for _ in range(arguments.repeats):
                for who, command in commands(name, arguments).items():
                    (line,) = start([*command, *where], arguments.threads)
                    speeds.setdefault(who, []).append(line[key])
                    if "parameters" in line:
                        result[f"{who}_parameters"] = line["parameters"]
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            print(json.dumps(result | {"error": reason(error)}), flush=True)
            continue
        medians = {who: statistics.median(values) for who, values in speeds.items()}
        (against,) = (who for who in medians if who != "ours")
        result |= {f"{who}_{key}": round(value) for who, value in medians.items()}
        result[f"ratio_to_{against}"] = round(medians["ours"] / medians[against], 3)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
