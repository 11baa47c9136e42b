"""The model of a pipeline: groups of features, and networks."""

from collections.abc import Iterable, Mapping

from deepfm.easyrec.features import Feature, check_initializer
from deepfm.easyrec.pipeline_pb2 import MLP, FeatureGroupConfig, FeatureGroupType
from deepfm.easyrec.reading import MODELS, Keys, Pipeline, shortest
from deepfm.errors import ArgumentError, nearest
from deepfm.models.layers.dnn import activation_from

# Groups that a model reads, and whether it needs them.
_GROUPS = {
    "deepfm": {"wide": False, "fm": False, "deep": True},
    "wide_and_deep": {"wide": True, "deep": True},
    "xdeepfm": {"wide": True, "deep": True},
}
_DEFAULT_WIDE_DIM = 4


def model_of(pipeline: Pipeline) -> str:
    """Name of the model, which is ours, too."""
    model: str | None = pipeline.message.model_config.WhichOneof("model")
    if model is None or model not in MODELS:
        raise pipeline.error("model_config", f"expected a model, one of {', '.join(MODELS)}")
    return model


def groups_of(
    pipeline: Pipeline, model: str, features: Mapping[str, Feature]
) -> tuple[dict[str, list[str]], set[str]]:
    """Fields by group, and all fields that some group has."""
    wanted = _GROUPS[model]
    found: dict[str, list[str]] = {}
    suffixes: dict[str, str] = {}
    for k, group in enumerate(pipeline.message.model_config.feature_groups):
        path, name = f"model_config.feature_groups[{k}]", group.group_name
        if FeatureGroupType.Name(group.group_type) not in ("DEEP", "WIDE"):
            kind = FeatureGroupType.Name(group.group_type)
            raise pipeline.error(
                f"{path}.group_type", f"{kind} is not supported; supported are DEEP and WIDE"
            )
        if name in found:
            raise pipeline.error(f"{path}.group_name", f"a second group {name!r}")
        found[name] = _group(pipeline, path, group, model, features)
        suffixes[name] = group.embedding_name_suffix
        fm, deep = suffixes.get("fm"), suffixes.get("deep")
        if fm is not None and deep is not None and fm != deep:
            raise pipeline.error(
                f"{path}.embedding_name_suffix",
                "tables that fm and deep do not share are not supported; give both groups one "
                "suffix",
            )
    for name, is_needed in wanted.items():
        if is_needed and not found.get(name):
            raise pipeline.error(
                "model_config.feature_groups",
                f"{model} needs a group {name}; found: {', '.join(found) or 'none'}",
            )
    groups = {name: found[name] for name in wanted if found.get(name)}
    used = {feature for names in groups.values() for feature in names}
    if unused := [name for name in features if name not in used]:
        pipeline.note("feature_configs", f"in no group, left out: {', '.join(unused)}")
    if model == "deepfm":
        _check_fm_dims(pipeline, groups, features)
    return groups, used


def _group(
    pipeline: Pipeline,
    path: str,
    group: FeatureGroupConfig,
    model: str,
    features: Mapping[str, Feature],
) -> list[str]:
    """The fields of one group; none where the model does not read it."""
    name, names = group.group_name, list(group.feature_names)
    kind, expected = FeatureGroupType.Name(group.group_type), "WIDE" if name == "wide" else "DEEP"
    for k, feature in enumerate(names):
        if feature not in features:
            hint = nearest(feature, features)
            raise pipeline.error(f"{path}.feature_names[{k}]", f"no feature {feature!r}; {hint}")
        if feature in names[:k]:
            raise pipeline.error(f"{path}.feature_names[{k}]", f"{feature!r} stands twice")
    if name not in _GROUPS[model]:
        known = ", ".join(_GROUPS[model])
        pipeline.note(path, f"{model} reads {known}; group {name!r} is left out")
        return []
    if kind != expected:
        raise pipeline.error(f"{path}.group_type", f"{name} is {expected}, found {kind}")
    if not names:
        raise pipeline.error(path, f"feature_names: group {name!r} has none")
    for k, feature in enumerate(names):
        if name == "wide" and features[feature].is_raw:
            raise pipeline.error(
                f"{path}.feature_names[{k}]",
                f"dense feature {feature!r} should not be configured in the wide group; give it "
                "boundaries to make ids of it",
            )
    return names


def _check_fm_dims(
    pipeline: Pipeline, groups: Mapping[str, Iterable[str]], features: Mapping[str, Feature]
) -> None:
    """All vectors that the FM multiplies must have one width."""
    name = "fm" if "fm" in groups else "deep"
    dims = {feature: features[feature].dim for feature in groups[name]}
    if len(set(dims.values())) > 1:
        shown = ", ".join(f"{feature} {dim}" for feature, dim in dims.items())
        fallback = " (read by the FM, as there is no group fm)" if name == "deep" else ""
        raise pipeline.error(
            "model_config.feature_groups",
            f"embedding dimensions of the {name} group must be the same{fallback}, found {shown}",
        )


def network_of(pipeline: Pipeline, model: str) -> tuple[Keys, Keys]:
    """Keys of the section `feature`, and the sections of the networks."""
    message, path = pipeline.message.model_config, f"model_config.{model}"
    config = getattr(message, model)
    feature: Keys = {"wide_embedding_dim": config.wide_embedding_dim or _DEFAULT_WIDE_DIM}
    if config.wide_init_fn:
        check_initializer(pipeline, f"{path}.wide_init_fn", config.wide_init_fn)
        feature["wide_init"] = config.wide_init_fn
    if message.HasField("variational_dropout"):
        dropout = message.variational_dropout.regularization_lambda
        feature["variational_dropout"] = shortest(dropout)
    found: Keys = {}
    if model == "xdeepfm":
        sizes = list(config.cin.cin_layer_size)
        if not sizes:
            raise pipeline.error(f"{path}.cin", "cin_layer_size: a value is needed")
        found["cin"] = {
            "layer_sizes": sizes,
            "split_half": False,
            "group": "wide",
            "bias": True,
            "init": "torch",
        }
        if not config.HasField("final"):
            raise pipeline.error(path, "xdeepfm needs final { hidden_units }")
    found["dnn"] = _mlp(pipeline, config.deep, f"{path}.deep")
    if config.HasField("final"):
        found["final"] = _mlp(pipeline, config.final, f"{path}.final")
    return feature, found


def _mlp(pipeline: Pipeline, config: MLP, path: str) -> Keys:
    units, dropout = list(config.hidden_units), [shortest(r) for r in config.dropout_ratio]
    if not units:
        raise pipeline.error(path, "hidden_units: a value is needed")
    if config.use_bn and config.use_ln:
        raise pipeline.error(f"{path}.use_ln", "choose use_bn or use_ln, not both")
    if len(dropout) > 1 and len(dropout) != len(units):
        raise pipeline.error(
            f"{path}.dropout_ratio",
            f"expected one number, or one for each of {len(units)} hidden units, found "
            f"{len(dropout)}",
        )
    try:
        activation_from(config.activation, units[0])
    except ArgumentError as error:
        raise pipeline.error(f"{path}.activation", error.problem) from None
    return {
        "hidden_units": units,
        "activation": config.activation.strip(),
        "dropout": dropout if len(dropout) > 1 else (dropout or [0.0])[0],
        "norm": "batch" if config.use_bn else "layer" if config.use_ln else "none",
        "bias": config.bias,
        "init": "torch",
    }
