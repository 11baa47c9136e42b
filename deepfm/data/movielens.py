"""The path by which the documentation names the example of an adapter."""

from deepfm.data.sources.movielens import LICENSE_NOTE, download, load, parse, schema

__all__ = ["LICENSE_NOTE", "download", "load", "parse", "schema"]
