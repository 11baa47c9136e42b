"""The model of a pipeline: its name here, and the sections of its networks.

`CONVERTED` has a function for each model of the format. All weights begin as torch begins them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from deepfm.easyrec.convert_tasks import towers_of
from deepfm.easyrec.features import Feature, check_initializer
from deepfm.easyrec.groups import Groups
from deepfm.easyrec.networks import attention, network
from deepfm.easyrec.pipeline_pb2 import BayesTaskTower
from deepfm.easyrec.reading import MODELS, Keys, Pipeline, shortest

_DEFAULT_WIDE_DIM = 4


class Source(NamedTuple):
    """What a model's sections are made of.

    Attributes:
        config: The message of the model.
        path: Its path.
        groups: What feeds its views.
        features: All features by name.
    """

    pipeline: Pipeline
    config: Any
    path: str
    groups: Groups
    features: dict[str, Feature]

    def network(self, field: str) -> Keys:
        """The section of a network that the model cannot do without."""
        return network(self.pipeline, getattr(self.config, field), f"{self.path}.{field}")

    def optional(self, field: str) -> Keys | None:
        return self.network(field) if self.config.HasField(field) else None

    def needed(self, field: str) -> Keys:
        """The same, with an error that names the model where it is not there."""
        if not self.config.HasField(field):
            name = self.path.rpartition(".")[2]
            problem = f"{name} needs {field} {{ hidden_units }}"
            raise self.pipeline.error(self.path, problem)
        return self.network(field)

    def dims(self, group: str) -> dict[str, int]:
        return {name: self.features[name].dim for name in self.groups.fields[group]}


def model_of(pipeline: Pipeline) -> str:
    """Name of the model in the format."""
    model: str | None = pipeline.message.model_config.WhichOneof("model")
    if model is None or model not in MODELS:
        raise pipeline.error("model_config", f"expected a model, one of {', '.join(MODELS)}")
    return model


def sections_of(
    pipeline: Pipeline, model: str, groups: Groups, features: dict[str, Feature]
) -> tuple[Keys, Keys]:
    """Keys of the section `feature`, and those at the top that say what the model is."""
    message = pipeline.message.model_config
    source = Source(pipeline, getattr(message, model), f"model_config.{model}", groups, features)
    found = CONVERTED[model](source)
    feature = found.pop("feature", {})
    if message.HasField("variational_dropout"):
        dropout = message.variational_dropout.regularization_lambda
        feature["variational_dropout"] = shortest(dropout)
    return feature, found


def _wide(source: Source) -> Keys:
    """First-order weights."""
    config = source.config
    found: Keys = {"wide_embedding_dim": config.wide_embedding_dim or _DEFAULT_WIDE_DIM}
    if config.wide_init_fn:
        check_initializer(source.pipeline, f"{source.path}.wide_init_fn", config.wide_init_fn)
        found["wide_init"] = config.wide_init_fn
    return found


def _fusion(source: Source, name: str) -> Keys:
    """A wide part and a deep one, with or without a final network."""
    found = {"model_name": name, "global_bias": False, "feature": _wide(source)}
    found["dnn"] = source.network("deep")
    if final := source.optional("final"):
        found["final"] = final
    return found


def _deepfm(source: Source) -> Keys:
    fields = source.groups.fields
    name = "fm" if "fm" in fields else "deep"
    dims = source.dims(name)
    fallback = " (read by the FM, as there is no group fm)" if name == "deep" else ""
    _check_same(source, name, dims, fallback)
    if name == "deep" and source.groups.encoders:
        raise source.pipeline.error(
            source.groups.paths["deep"],
            "without a group fm, the FM would read what the encoders give, which is not "
            "supported; add a group fm",
        )
    return _fusion(source, "deepfm")


def _wide_and_deep(source: Source) -> Keys:
    return _fusion(source, "wide_and_deep")


def _xdeepfm(source: Source) -> Keys:
    sizes = list(source.config.cin.cin_layer_size)
    if not sizes:
        raise source.pipeline.error(f"{source.path}.cin", "cin_layer_size: a value is needed")
    source.needed("final")
    return _fusion(source, "xdeepfm") | {
        "cin": {
            "layer_sizes": sizes,
            "split_half": False,
            "group": "wide",
            "bias": True,
            "init": "torch",
        }
    }


def _check_same(source: Source, group: str, dims: dict[str, int], more: str = "") -> None:
    """All vectors that are multiplied with each other have one width."""
    if len(set(dims.values())) > 1:
        shown = ", ".join(f"{feature} {dim}" for feature, dim in dims.items())
        raise source.pipeline.error(
            "model_config.feature_groups",
            f"embedding dimensions of the {group} group must be the same{more}, found {shown}",
        )


def _flat(source: Source, name: str, *, output_bias: bool = True) -> Keys:
    """A model whose weights of the final layer may stand alone."""
    return {"model_name": name, "global_bias": False, "output_bias": output_bias}


def _dcn(source: Source) -> Keys:
    """Each part has two names, of which an earlier state of the format had the longer one."""
    names = {
        short: long if source.config.HasField(long) else short
        for short, long in (
            ("cross", "cross_tower"),
            ("deep", "deep_tower"),
            ("final", "final_dnn"),
        )
    }
    layers = _layers(source, getattr(source.config, names["cross"]), names["cross"])
    return _flat(source, "dcn", output_bias=False) | {
        "dcn": {"layers": layers},
        "dnn": source.needed(names["deep"]),
        "final": source.needed(names["final"]),
    }


def _dcn_v2(source: Source) -> Keys:
    cross = source.config.cross
    if not cross.low_rank:
        path = f"{source.path}.cross.low_rank"
        raise source.pipeline.error(path, "expected at least 1, found 0")
    keys: Keys = {
        "layers": _layers(source, cross, "cross"),
        "rank": cross.low_rank,
        "backbone": source.optional("backbone"),
        "init": "torch",
    }
    found = _flat(source, "dcn_v2", output_bias=False) | {"final": source.needed("final")}
    if deep := source.optional("deep"):
        return found | {"dcn_v2": keys, "dnn": deep}
    return found | {"dcn_v2": keys | {"structure": "alone"}}


def _layers(source: Source, cross: Any, field: str) -> int:
    if not cross.cross_num:
        path = f"{source.path}.{field}.cross_num"
        raise source.pipeline.error(path, "expected at least 1, found 0")
    return int(cross.cross_num)


def _masks(source: Source, field: str) -> tuple[Keys, Keys]:
    """Mask blocks, and the network on them."""
    path, module = f"{source.path}.{field}", getattr(source.config, field)
    if not module.HasField("top_mlp"):  # there is no output layer without it
        raise source.pipeline.error(path, "mask_net needs top_mlp { hidden_units }")
    blocks, block = module.n_mask_blocks, module.mask_block
    for field, value, where in (
        ("n_mask_blocks", blocks, path),
        ("hidden_dim", block.hidden_dim, f"{path}.mask_block"),
    ):
        if not value:
            raise source.pipeline.error(where, f"{field}: expected at least 1, found {value}")
    keys: Keys = {
        "parallel": module.use_parallel,
        "hidden_units": [block.hidden_dim] * blocks,
        "embedding_norm": "vector",
        "bias": True,
        "init": "torch",
    }
    if ratio := shortest(block.reduction_ratio):  # counts even where there is an aggregation_dim
        keys["reduction_ratio"] = ratio
    elif block.aggregation_dim:
        keys["aggregation_dim"] = block.aggregation_dim
    else:
        problem = "expected reduction_ratio or aggregation_dim, found neither"
        raise source.pipeline.error(f"{path}.mask_block", problem)
    return keys, network(source.pipeline, module.top_mlp, f"{path}.top_mlp")


def _masknet(source: Source) -> Keys:
    keys, dnn = _masks(source, "mask_net_module")
    return _flat(source, "masknet", output_bias=False) | {"masknet": keys, "dnn": dnn}


def _dlrm(source: Source) -> Keys:
    keys = _dense_network(source) | {"with_sparse": source.config.arch_with_sparse}
    return _flat(source, "dlrm") | {"dlrm": keys, "dnn": source.needed("final")}


def _wukong(source: Source) -> Keys:
    layers = []
    if not source.config.wukong_layers:
        raise source.pipeline.error(source.path, "wukong_layers: a value is needed")
    for k, layer in enumerate(source.config.wukong_layers):
        path = f"{source.path}.wukong_layers[{k}]"
        for field in ("lcb_feature_num", "fmb_feature_num", "compressed_feature_num"):
            if not getattr(layer, field):
                raise source.pipeline.error(path, f"{field}: expected at least 1, found 0")
        layers.append(
            {
                "factorized": layer.fmb_feature_num,
                "linear": layer.lcb_feature_num,
                "compressed": layer.compressed_feature_num,
                "mlp": network(source.pipeline, layer.feature_num_mlp, f"{path}.feature_num_mlp"),
            }
        )
    keys = _dense_network(source) | {"layers": layers}
    return _flat(source, "wukong") | {"wukong": keys, "dnn": source.needed("final")}


def _dense_network(source: Source) -> Keys:
    """The network that makes a vector of the numbers; here its last layer goes without saying."""
    dims = source.dims("sparse")
    _check_same(source, "sparse", dims)
    if "dense" not in source.groups.fields:
        return {}
    found, width = source.needed("dense_mlp"), next(iter(dims.values()))
    units, dropout = found["hidden_units"], found["dropout"]
    if units[-1] != width:
        source.pipeline.note(
            f"{source.path}.dense_mlp.hidden_units",
            f"the last layer has {units[-1]} units, and the vectors of the group sparse are "
            f"{width} wide; a layer of {width} units is added",
        )
        if isinstance(dropout, list):
            found["dropout"] = [*dropout, 0.0]
        return {"dense": found}
    return {"dense": found | {"hidden_units": units[:-1]}}


def _multi_tower(source: Source) -> Keys:
    return _flat(source, "multi_tower") | {
        "multi_tower": {"towers": _group_towers(source)},
        "final": source.needed("final"),
    }


def _multi_tower_din(source: Source) -> Keys:
    encoders, read = [], set[str]()
    for k, tower in enumerate(source.config.din_towers):
        path = f"{source.path}.din_towers[{k}]"
        if tower.input in read:
            raise source.pipeline.error(f"{path}.input", f"a second tower of {tower.input!r}")
        read.add(tower.input)
        encoders.append(attention(source.pipeline, tower.attn_mlp, f"{path}.attn_mlp", tower.input))
    if not encoders:
        raise source.pipeline.error(source.path, "din_towers: a value is needed")
    return _flat(source, "multi_tower_din") | {
        "multi_tower_din": {"towers": _group_towers(source), "din_towers": encoders},
        "final": source.needed("final"),
    }


def _group_towers(source: Source) -> Keys:
    """The network of each group that has one."""
    towers: Keys = {}
    for k, tower in enumerate(source.config.towers):
        path = f"{source.path}.towers[{k}]"
        if tower.input in towers:
            raise source.pipeline.error(f"{path}.input", f"a second tower of {tower.input!r}")
        towers[tower.input] = network(source.pipeline, tower.mlp, f"{path}.mlp")
    if not towers:
        raise source.pipeline.error(source.path, "towers: a value is needed")
    return towers


# --- models of several tasks ---------------------------------------------------------------


def _towers(source: Source, model: str) -> Keys:
    """The network of each task; without one, its output layer alone."""
    found: Keys = {}
    for k, tower in enumerate(towers_of(source.pipeline, model)):
        path = f"{source.path}.task_towers[{k}].mlp"
        has_one = tower.HasField("mlp")
        alone: Keys = {"hidden_units": [], "init": "torch"}
        found[tower.tower_name] = network(source.pipeline, tower.mlp, path) if has_one else alone
    if len(found) == 1:  # a task that stands alone has no name
        return {"tower": next(iter(found.values()))}
    return {"towers": found}


def _experts(source: Source) -> Keys:
    config = source.config
    if not config.num_expert:
        raise source.pipeline.error(f"{source.path}.num_expert", "expected at least 1, found 0")
    return {
        "num_experts": config.num_expert,
        "expert": source.needed("expert_mlp"),
        "gate": source.optional("gate_mlp"),
    }


def _mmoe(source: Source) -> Keys:
    return {"model_name": "mmoe", "mmoe": _experts(source) | _towers(source, "mmoe")}


def _ple(source: Source) -> Keys:
    levels: Keys = {}
    if not source.config.extraction_networks:
        raise source.pipeline.error(source.path, "extraction_networks: a value is needed")
    for k, level in enumerate(source.config.extraction_networks):
        path = f"{source.path}.extraction_networks[{k}]"
        for field in ("expert_num_per_task", "share_num"):
            if not getattr(level, field):
                raise source.pipeline.error(path, f"{field}: expected at least 1, found 0")
        levels[f"level_{k + 1}"] = {
            "task_experts": level.expert_num_per_task,
            "shared_experts": level.share_num,
            "task_expert": network(
                source.pipeline, level.task_expert_net, f"{path}.task_expert_net"
            ),
            "shared_expert": network(
                source.pipeline, level.share_expert_net, f"{path}.share_expert_net"
            ),
        }
    return {"model_name": "ple", "ple": {"levels": levels} | _towers(source, "ple")}


def _dbmtl(source: Source) -> Keys:
    config = source.config
    found: Keys = {"bottom": source.optional("bottom_mlp")}
    if config.HasField("mask_net"):
        found["mask"], found["mask_dnn"] = _masks(source, "mask_net")
    if config.HasField("expert_mlp"):
        found |= _experts(source)
    relations: Keys = {}
    for k, tower in enumerate(towers_of(source.pipeline, "dbmtl")):
        assert isinstance(tower, BayesTaskTower)
        path, names = f"{source.path}.task_towers[{k}]", list(tower.relation_tower_names)
        if tower.HasField("relation_mlp"):
            relations[tower.tower_name] = {
                "tasks": names,
                "network": network(source.pipeline, tower.relation_mlp, f"{path}.relation_mlp"),
            }
        elif names:
            source.pipeline.note(
                f"{path}.relation_tower_names", "without relation_mlp it has no effect"
            )
    found |= _towers(source, "dbmtl")
    return {"model_name": "dbmtl", "dbmtl": found | {"relations": relations}}


Converter: TypeAlias = Callable[[Source], Keys]
CONVERTED: dict[str, Converter] = {
    "deepfm": _deepfm,
    "wide_and_deep": _wide_and_deep,
    "xdeepfm": _xdeepfm,
    "dcn_v1": _dcn,
    "dcn_v2": _dcn_v2,
    "mask_net": _masknet,
    "dlrm": _dlrm,
    "wukong": _wukong,
    "multi_tower": _multi_tower,
    "multi_tower_din": _multi_tower_din,
    "mmoe": _mmoe,
    "ple": _ple,
    "dbmtl": _dbmtl,
}
