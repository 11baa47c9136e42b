"""The structure that the README draws: which part may import which, and what is public."""

import ast
from pathlib import Path

import pytest

import deepfm

ROOT = Path(deepfm.__file__).parent

# Each part of the package with the parts it may import; the longest matching name counts.
# Everything points down, so the list reads from the leaves to the command line.
MAY_IMPORT = {
    "errors": set(),
    "packaged": {"errors"},
    "config": {
        "errors", "packaged", "utils.settings", "utils.named", "objectives", "evaluation.metrics",
    },
    "utils": {"errors", "utils"},
    "data": {"errors", "utils", "data"},
    "data.files": {"errors", "utils", "data.files"},
    "data.encoding": {
        "errors", "utils", "data.files", "data.encoding", "data.schema", "data.batch", "data.order",
    },
    "data.sources": {
        "errors", "config", "utils", "data.schema", "data.download", "data.files", "data.encoding",
        "data.sources",
    },
    "data.sources.movielens": {"errors", "utils", "data.schema", "data.download"},
    "data.sources.find_adapter": {"errors", "config", "data"},
    "data.store": {"errors", "config", "utils", "data"},
    "models.layers": {"errors", "models.layers"},
    "models": {
        "errors", "config", "utils", "data.schema", "data.batch", "objectives", "easyrec.names",
        "models",
    },
    # Losses and metrics are what a config names, so they stand below it.
    "evaluation.measures": {"errors"},
    "evaluation.scored": {"errors", "evaluation.measures"},
    "evaluation.windows": {"evaluation.measures", "evaluation.scored"},
    "evaluation.metrics": {
        "errors", "utils.named", "evaluation.measures", "evaluation.scored", "evaluation.windows",
    },
    "evaluation.ranking": {"errors"},
    "objectives": {
        "errors", "utils.named", "utils.settings", "data.batch", "data.schema",
        "evaluation.measures", "evaluation.metrics", "evaluation.ranking", "easyrec.names",
        "objectives",
    },
    "evaluation": {"errors", "utils.named", "data", "models", "objectives", "evaluation"},
    "training": {
        "errors", "config", "utils", "data", "models", "objectives", "evaluation",
        "easyrec.names", "training",
    },
    "checkpoint": {"errors", "config", "utils", "data", "models"},
    "prediction": {"errors", "data", "objectives", "evaluation", "checkpoint"},
    "experiment": {
        "errors", "config", "utils", "data", "models", "objectives", "evaluation", "training",
        "checkpoint",
    },
    "comparison": {
        "errors", "config", "utils", "data", "evaluation", "checkpoint", "experiment",
    },
    "easyrec": {
        "errors", "config", "utils", "data", "models.layers", "objectives", "evaluation.metrics",
        "easyrec",
    },
    "easyrec.names": set(),
    "cli": {
        "errors", "config", "utils", "data", "training", "prediction", "experiment", "comparison",
        "easyrec",
    },
    "__main__": {"cli"},
}  # fmt: skip


def part_of(module: str, parts) -> str | None:
    """The longest of the dotted names that the module is or lies below."""
    below = [part for part in parts if module == part or module.startswith(f"{part}.")]
    return max(below, key=len, default=None)


def imports(path: Path) -> list[str]:
    """Modules of the package that a file imports, without the leading `deepfm.`."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module
            is_package = (
                module.startswith("deepfm") and (ROOT.parent / module.replace(".", "/")).is_dir()
            )
            names = [alias.name for alias in node.names]
            found += [f"{module}.{name}" if is_package else module for name in names]
    return [name.removeprefix("deepfm.") for name in found if name.startswith("deepfm.")]


FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    part = part_of(module, MAY_IMPORT)
    assert part is not None, f"{module} has no place in the architecture"
    if module == "data":  # the package's own file only lists the adapters
        return
    for name in imports(path):
        assert part_of(name, MAY_IMPORT[part]), f"{module} must not import {name}"


def test_layers_need_torch_and_nothing_else():
    allowed = {
        "deepfm", "torch", "abc", "copy", "itertools", "math", "re", "collections", "contextlib",
        "typing",
    }  # fmt: skip
    for path in (ROOT / "models" / "layers").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0] for name in names} <= allowed, path


def test_the_public_names_are_there():
    assert set(deepfm.__all__) >= {
        "FieldSchema", "DatasetSchema", "TabularDataset", "FeatureEmbedding",
        "FactorizationMachine", "MLP", "CIN", "FieldSelfAttention", "BaseCTRModel", "DeepFM",
        "XDeepFM", "AttentionDeepFM", "WideAndDeep", "build_model", "ExperimentConfig",
        "load_config", "Trainer",
    }  # fmt: skip
    assert all(hasattr(deepfm, name) for name in deepfm.__all__)
    assert (ROOT / "py.typed").exists()


def test_no_field_name_stands_outside_an_adapter():
    names = ("movie_id", "user_id", "zip_code", "genres", "timestamp", "occupation")
    for path in FILES:
        if path.name != "movielens.py":
            text = path.read_text()
            assert not [name for name in names if f'"{name}"' in text], path
