"""A page about runs: report."""

import argparse

from deepfm.commands.arguments import Commands, add_override, config_if_given
from deepfm.utils.logging import LOGGER


def add(commands: Commands) -> None:
    """Add this command."""
    added = commands.add(
        "report", _report, "one HTML page about a run, or about several on the same rows"
    )
    added.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs")
    added.add_argument(
        "--output",
        metavar="FILE",
        help="the page (default: report.html in the run's folder, of several comparison.html in "
        "that of the first)",
    )
    added.add_argument("--config", help="other data paths")
    add_override(added)


def _report(arguments: argparse.Namespace) -> None:
    from deepfm.report.make import make_report

    with config_if_given(arguments) as config:
        path = make_report(arguments.runs, output=arguments.output, config=config)
    LOGGER.info(f"the report is in {path}")
