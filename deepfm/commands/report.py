"""A page about runs, or about a search: report."""

import argparse

from deepfm.commands.arguments import Commands, add_override, config_if_given
from deepfm.errors import ConfigError
from deepfm.utils.logging import LOGGER


def add(commands: Commands) -> None:
    """Add this command."""
    added = commands.add(
        "report", _report, "one HTML page about a run, about several on the same rows, or a search"
    )
    added.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs, or of one search")
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
    from deepfm.report.searches import is_search

    if searches := [path for path in arguments.runs if is_search(path)]:
        _report_search(searches[0], arguments)
        return
    with config_if_given(arguments) as config:
        path = make_report(arguments.runs, output=arguments.output, config=config)
    LOGGER.info(f"the report is in {path}")


def _report_search(folder: str, arguments: argparse.Namespace) -> None:
    from deepfm.report.search_page import make_search_report

    if len(arguments.runs) > 1:
        raise ConfigError(f"{folder} is a search, which has a page of its own: name it alone")
    if arguments.config or arguments.override:
        raise ConfigError(f"{folder} is a search: its page reads no data, so --config is of no use")
    path = make_search_report(folder, output=arguments.output)
    LOGGER.info(f"the report is in {path}")
