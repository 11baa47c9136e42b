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
    "packaged": {"errors", "utils.places"},
    "easyrec.names": set(),
    "format_versions": {"utils.logging"},
    "config": {
        "errors", "packaged", "format_versions", "utils.settings", "utils.yaml_reader",
        "utils.named", "utils.logging", "utils.places", "objectives", "evaluation.metrics",
        "evaluation.ranking", "models.MODELS",
        "models.options", "training.options", "training.trackers",
        "data.options",
    },
    "data.options": {
        "errors", "utils.settings", "utils.places", "data.splits", "data.labels",
        "data.encoding.scales",
        "data.encoding.hashing",
    },
    "utils": {"errors", "utils"},
    "data": {"errors", "utils", "data"},
    "data.files": {"errors", "utils", "data.files"},
    "data.encoding": {
        "errors", "utils", "data.files", "data.encoding", "data.schema", "data.batch", "data.order",
    },
    "data.sources": {
        "errors", "utils", "data.options", "data.schema", "data.labels", "data.download",
        "data.files", "data.encoding", "data.fingerprint", "data.sources",
    },
    "data.fingerprint": {"errors", "utils"},
    "data.sources.movielens": {"errors", "utils", "data.schema", "data.download"},
    "data.sources.find_adapter": {"errors", "data", "utils.places"},
    "data.store": {"errors", "utils", "data"},
    "data.ranking": {"errors", "utils", "data"},
    "data.load": {"errors", "config", "data"},
    "data.declared": {"errors", "config", "data"},
    "models.layers": {"errors", "models.layers"},
    "models.options": {"errors", "utils.named", "utils.settings", "models.options"},
    "models": {
        "errors", "utils", "data.schema", "data.batch", "data.item_columns", "objectives",
        "easyrec.names", "models",
    },
    # Losses and metrics are what a config names, so they stand below it.
    "evaluation.measures": {"errors"},
    "evaluation.scored": {"errors", "evaluation.measures"},
    "evaluation.windows": {"evaluation.measures", "evaluation.scored"},
    "evaluation.metrics": {
        "errors", "utils.named", "evaluation.measures", "evaluation.scored", "evaluation.windows",
    },
    "evaluation.ranking": {"errors"},
    "evaluation.calibration": {"errors", "evaluation.measures"},  # a part of checkpoints
    "objectives": {
        "errors", "utils.named", "utils.settings", "data.batch", "data.schema",
        "evaluation.measures", "evaluation.metrics", "evaluation.ranking", "easyrec.names",
        "objectives",
    },
    "evaluation": {
        "errors", "utils.named", "utils.seeding", "utils.workers", "data", "models", "objectives",
        "evaluation",
    },
    "training.options": {
        "errors", "utils.named", "utils.settings", "models.layers", "training",
    },
    "training.trackers": {"errors", "utils.named", "utils.extras"},
    "training": {
        "errors", "config", "utils", "data", "models", "objectives", "evaluation", "easyrec.names",
        "training",
    },
    "checkpoint": {
        "errors", "config", "format_versions", "utils", "data", "models", "easyrec.names",
        "evaluation.calibration",
    },
    "several": {
        "errors", "utils.logging", "utils.places", "data.schema", "models.base", "objectives",
        "evaluation", "checkpoint",
    },
    "served_context": {"errors", "data"},
    "served_items": {"data"},
    "engine": {"data"},
    "served_lists": {"errors", "data", "engine", "served_context", "served_items"},
    "item_logits": {"data", "models", "evaluation"},
    "exported": {"errors", "utils", "data", "exported"},
    "served_engine": {"errors", "data", "engine", "served_lists"},
    "runtime": {"errors", "utils.extras", "data", "exported", "served_engine"},
    "export": {
        "errors", "utils", "data", "models", "objectives", "evaluation", "checkpoint", "several",
        "exported", "export",
    },
    "prediction": {
        "errors", "utils.logging", "utils.places", "data", "models", "objectives", "evaluation",
        "several", "engine", "served_engine", "item_logits", "checkpoint",
    },
    # What loads a checkpoint imports torch when it does; the parent process needs none of it.
    "serving": {"errors", "utils", "data", "engine", "serving"},
    "serving.models": {
        "errors", "data", "engine", "evaluation.members", "prediction", "runtime",
        "serving.shared_weights",
    },
    "serving.shared_weights": {"utils.io"},
    "explanation": {"errors", "data", "models", "objectives", "evaluation"},
    "preflight": {"errors", "config", "utils", "data", "models", "objectives", "training"},
    "config_help": {
        "errors", "config", "utils", "data.schema", "models.MODELS", "models.options",
    },
    "model_help": {"errors", "config_help", "models.MODELS", "models.options"},
    "table_plan": {"errors", "config", "models", "preflight"},
    "saving": {"utils", "models", "training", "checkpoint"},
    "experiment": {
        "errors", "config", "utils", "data", "models", "objectives", "evaluation", "training",
        "checkpoint", "preflight", "saving",
    },
    "preparing": {"errors", "config", "data", "objectives.checks"},
    "held_out": {
        "errors", "config", "utils", "data", "objectives", "evaluation", "checkpoint", "preflight",
        "several", "experiment",
    },
    "report": {
        "errors", "config", "utils", "data", "models", "objectives", "evaluation", "checkpoint",
        "preflight", "several", "experiment", "held_out", "report",
    },
    "calibrate": {
        "errors", "config", "utils", "data", "objectives", "evaluation", "preflight", "held_out",
    },
    "explore": {
        "errors", "config", "utils", "data", "models", "objectives", "evaluation", "checkpoint",
        "several", "served_items", "item_logits", "experiment", "held_out", "explanation",
        "explore",
    },
    "comparison": {
        "errors", "config", "utils", "data", "evaluation", "checkpoint", "experiment",
        "comparison_means",
    },
    "comparison_means": {
        "errors", "config", "utils", "data", "evaluation", "checkpoint", "several", "experiment",
    },
    "tuning": {
        "errors", "config", "utils", "data.declared", "data.load", "objectives", "evaluation",
        "preflight", "checkpoint", "experiment", "tuning",
    },
    "easyrec": {
        "errors", "config", "utils", "data", "models.layers", "objectives", "evaluation.metrics",
        "easyrec",
    },
    "given_config": {"config", "utils", "easyrec"},
    "results": {"utils.extras", "evaluation.permutation"},
    "described": {"errors", "utils.io", "data.sources.describe", "results"},
    "upload": {"errors", "utils", "checkpoint", "exported.layout"},
    "api": {
        "errors", "utils.places", "data.sources", "prediction", "experiment", "checkpoint",
        "held_out", "several", "given_config", "results", "described",
    },
    "estimators": {
        "errors", "config", "utils", "data", "models", "evaluation.permutation", "training",
        "checkpoint", "preflight", "prediction", "results", "estimators",
    },
    "commands": {
        "errors", "config", "utils", "data", "training", "prediction", "preparing", "experiment",
        "comparison", "several", "held_out", "calibrate", "export", "easyrec", "preflight",
        "config_help", "model_help", "models.MODELS", "given_config", "report", "serving",
        "explore", "tuning", "upload", "table_plan", "commands",
    },
    "cli": {"errors", "utils", "commands"},
    "__main__": {"cli"},
}  # fmt: skip


def part_of(module: str, parts) -> str | None:
    """The longest of the dotted names that the module is or lies below."""
    below = [part for part in parts if module == part or module.startswith(f"{part}.")]
    return max(below, key=len, default=None)


def imports(path: Path) -> list[str]:
    """Modules of the package that a file imports, without the leading `deepfm.`."""
    found = []
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):  # what is imported for annotations only is no arrow
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
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
        "contextvars", "typing",
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


# Messages of other libraries, which carry their parts in no other way.
FOREIGN_MESSAGES = {
    "easyrec/reading.py": "protobuf begins its message with line and column",
    "models/layers/initializers.py": "torch, and what checks arguments, begin with the function",
}


def taken_apart(tree: ast.AST) -> list[int]:
    """Lines that look into the message of a caught error; whitespace may be made one line."""
    found = []
    for handler in ast.walk(tree):
        if not isinstance(handler, ast.ExceptHandler) or handler.name is None:
            continue
        for node in ast.walk(handler):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                method, owner = node.func.attr, node.func.value
                is_regex = isinstance(owner, ast.Name) and owner.id == "re"
                looks = method in LOOKS or (method == "split" and node.args)
                parts = node.args if is_regex else [owner] * bool(looks)
            else:
                parts = [node.value] if isinstance(node, ast.Subscript) else []
                parts = [part for part in parts if not is_lines(part)]
            if any(is_message(part, handler.name) for part in parts):
                found.append(node.lineno)
    return found


LOOKS = (
    "partition", "rpartition", "rsplit", "removeprefix", "removesuffix", "startswith", "endswith",
    "find", "index", "lstrip", "strip", "replace",
)  # fmt: skip


def is_lines(node: ast.AST) -> bool:
    """Whether an expression is a text's lines, of which the first may be shown alone."""
    is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    return is_call and node.func.attr == "splitlines"


def is_message(node: ast.AST, error: str) -> bool:
    """Whether an expression is `str(error)`, a text of `error`, or made of one of them."""
    for part in ast.walk(node):
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id == "str":
            part = part.args[0]
        elif isinstance(part, ast.Attribute) and part.attr in ("problem", "key", "source", "args"):
            part = part.value
        else:
            continue
        if isinstance(part, ast.Name) and part.id == error:
            return True
    return False


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nobody_takes_a_message_apart(path):
    if str(path.relative_to(ROOT)) not in FOREIGN_MESSAGES:
        lines = taken_apart(ast.parse(path.read_text()))
        assert not lines, f"{path}: {lines}: an error has attributes (deepfm/errors.py)"


@pytest.mark.parametrize(
    "expression",
    [
        "str(error).partition(': ')", "re.match('a', str(error))", "str(error).split(':')[0]",
        "error.problem.removeprefix('a: ')", "error.args[0]", "str(error)[3:]",
    ],
)  # fmt: skip
def test_a_message_that_is_taken_apart_is_found(expression):
    body = "try:\n    f()\nexcept ValueError as error:\n    "
    assert taken_apart(ast.parse(f"{body}print({expression})"))
    assert not taken_apart(ast.parse(f"{body}raise E(' '.join(str(error).split())) from None"))


def test_the_names_of_torcheasyrec_stand_in_its_package():
    theirs = ("deep_mlp", "feature_p", "probs1", "mean_drop_p", "feature_dropout_ratio")
    for path in FILES:
        if path.parent.name != "easyrec":
            text = path.read_text()
            assert not [name for name in theirs if name in text], path
