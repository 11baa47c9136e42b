"""The models' schema with every kind of field."""

from tests.models.conftest import schema

__all__ = ["schema"]
