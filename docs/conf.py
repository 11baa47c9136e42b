"""The documentation site: these pages, the README and the docstrings, by Sphinx (`make docs`).

The source folder is the repository's root, so that links between pages work here as they do where
the repository is read.
"""

import deepfm

project = "deepfm"
author = "the deepfm authors"
copyright = "the deepfm authors"
default_role = "code"  # of docstrings, which write names as Markdown does
version = release = deepfm.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/README.md",
    "docs/*.md",
    "docs/models/*.md",
]
myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath"]
suppress_warnings = ["misc.highlighting_failure"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"deepfm {version}"
html_static_path: list[str] = []
html_show_sourcelink = False
