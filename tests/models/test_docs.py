"""The pages of the models: each config on them can be used, and says what the page is about."""

import re
from pathlib import Path

import pytest
import yaml

from deepfm.config import config_from_dict
from deepfm.models import MODELS
from deepfm.preflight import check_settings

PAGES = Path(__file__).parents[2] / "docs" / "models"


@pytest.mark.parametrize("name", MODELS)
def test_configs_on_the_pages_can_be_used(name):
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert blocks
    for block in blocks:
        config = config_from_dict(yaml.safe_load(block))
        assert config.model_name == name
        assert config.feature.groups
        check_settings(config)


def test_a_page_for_each_model():
    assert {path.stem for path in PAGES.glob("*.md")} == set(MODELS)
