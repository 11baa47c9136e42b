"""A missing extra is one line that says what to install."""

import json

import pytest

from deepfm.errors import ConfigError
from deepfm.utils.extras import needed


def test_a_module_that_is_there_is_returned():
    assert needed("json", extra="report", wanted_by="deepfm report") is json


def test_a_module_that_is_missing_is_named_with_its_extra():
    with pytest.raises(ConfigError) as caught:
        needed("no_such_library.part", extra="tune", wanted_by="deepfm tune")
    assert str(caught.value) == ("deepfm tune needs no_such_library: pip install 'deepfm[tune]'")


def test_a_mistake_within_the_package_is_not_taken_for_a_missing_library():
    with pytest.raises(ModuleNotFoundError):
        needed("deepfm.no_such_module", extra="tune", wanted_by="deepfm tune")
