"""The files around the package: they parse, name commands that there are, and pin what they use."""

import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TARGETS = set(re.findall(r"^([\w-]+)(?: [\w-]+)*:(?!=)", (ROOT / "Makefile").read_text(), re.M))


def made(text: str) -> list[str]:
    """The make targets that a text calls."""
    return re.findall(r"\bmake ([a-z-]+)", text)


def test_every_target_is_phony():
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(phony.split()) >= {"check", "test", "test-slow", "types", "build"}
    assert set(phony.split()) <= TARGETS


def test_ci_and_the_workflow_of_forks_call_the_same_targets():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    commands = [step["run"] for step in workflow["jobs"]["test"]["steps"] if "run" in step]
    ci = made("\n".join((ROOT / ".ci" / "run").read_text().splitlines()[2:]))
    assert ci == ["docs", "check", "test", "test-slow"]
    assert commands == ["make install", *(f"make {target}" for target in ci), "make build"]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_targets_that_a_page_names_exist(page):
    code = re.findall(r"```bash\n(.*?)```|`([^`\n]+)`", (ROOT / page).read_text(), re.DOTALL)
    assert set(made("\n".join(block or inline for block, inline in code))) <= TARGETS


def test_hooks_run_tools_of_the_environment_and_fetch_none():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    for hook in config["repos"][0]["hooks"]:
        assert hook["entry"].startswith(".venv/bin/")
        assert hook["language"] == "system"


def test_issue_forms_parse():
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text())
        if path.name != "config.yml":
            assert form.keys() >= {"name", "description", "body"}
            assert all(item["attributes"]["label"] for item in form["body"])


def test_the_citation_names_the_project_and_no_version_of_its_own():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["license"] == PROJECT["license"]
    assert [author["name"] for author in citation["authors"]] == ["the deepfm authors"]
    assert "version" not in citation  # it stands in deepfm/__init__.py


def test_what_is_installed_for_development_is_pinned():
    pinned = {
        line.partition("==")[0]
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    }
    extras = PROJECT["optional-dependencies"]
    for requirement in [*PROJECT["dependencies"], *chain.from_iterable(extras.values())]:
        name = re.split(r"[>=<\[]", requirement)[0].lower()
        assert name in {*pinned, PROJECT["name"]}, requirement


def test_the_changelog_has_an_entry_for_what_is_not_released_yet():
    text = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)
    assert headings[0] == "Unreleased" or headings[0][0].isdigit()
    assert len(headings) == len(set(headings))
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
