"""What is started to measure each engine in each of its ways, and what comes of it."""

import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import figures
from peers.environments import driver_of, python_of
from peers.variants import BEST, BF16, SHIPPED, precision_of
from process import reason, start

HERE = Path(__file__).resolve().parent
REFERENCES = ("fbgemm",)  # shown beside the peers, never the best of them
SCORE_ROWS = 100_000
VARIANT_NAMES = {SHIPPED: "as shipped", BEST: "at its best", BF16: "bf16"}


class Driver(NamedTuple):
    """What is started to measure one engine in one way.

    Attributes:
        name: Of its rows in the report.
        engine: The same in all of an engine's ways, so that their AUCs can be compared.
        scores: Whether it has rows to read, and a split to score.
        once: Whether the first repeat is enough.
    """

    name: str
    engine: str
    role: str
    precision: str
    command: tuple[str, ...]
    scores: bool = True
    once: bool = False


def drivers(
    peers: list[str], optimizers: list[str], precisions: list[str], device: str
) -> list[Driver]:
    """The floors, ours with each optimizer, the peers in each variant."""
    own = sys.executable
    found = [
        Driver(
            f"floor {precision}",
            "floor",
            figures.FLOOR,
            precision,
            (own, str(HERE / "floor.py"), "--precision", precision),
            scores=False,
        )
        for precision in precisions
    ]
    for precision in precisions:
        for optimizer in optimizers:
            options = ("--optimizer", optimizer, "--precision", precision)
            found.append(
                Driver(
                    f"deepfm {optimizer} {precision}",
                    f"deepfm {optimizer}",
                    figures.OURS,
                    precision,
                    (own, str(HERE / "ours.py"), *options),
                )
            )
    for peer in peers:
        is_reference = peer in REFERENCES
        for variant, words in VARIANT_NAMES.items():
            if precision_of(variant) not in precisions or (is_reference and variant == SHIPPED):
                continue  # a reference's loop is written here: there is nothing that it ships with
            found.append(
                Driver(
                    f"{peer}, {words}",
                    peer,
                    figures.REFERENCE if is_reference else figures.PEER,
                    precision_of(variant),
                    (str(python_of(peer, device)), str(driver_of(peer)), "--variant", variant),
                    once=variant == SHIPPED,
                )
            )
    return found


def measure(
    driver: Driver, workload: str, *, threads: int, rows: int, device: str
) -> dict[str, Any]:
    """One process's figures, or why there are none."""
    command = [*driver.command, "--workload", workload, "--threads", str(threads)]
    command += ["--device", device]
    if driver.scores:
        command += ["--rows", str(rows), "--score-rows", str(SCORE_ROWS), "--score"]
    place = {"peer": driver.name, "engine": driver.engine, "role": driver.role}
    place |= {"precision": driver.precision, "workload": workload, "threads": threads}
    try:
        (line,) = start(command, threads)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return place | {"error": reason(error)}
    return line | place
