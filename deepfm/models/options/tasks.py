"""Options of models of several tasks: a section for each, named after the model."""

from dataclasses import dataclass, field
from functools import partial

from deepfm.models.options.masknet import MaskBlocksConfig
from deepfm.models.options.sections import DNNConfig, ModelConfig
from deepfm.utils.settings import limited


@dataclass(frozen=True, kw_only=True)
class TaskTowersConfig:
    """The network of each task, which ends in an output layer for its logits.

    Attributes:
        tower: Of every task that `towers` does not name; without `hidden_units`, the output layer
            stands alone.
        towers: Networks of their own, by task.
    """

    tower: DNNConfig = field(default_factory=partial(DNNConfig, hidden_units=(64,)))
    towers: dict[str, DNNConfig] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SharedBottomSection(TaskTowersConfig):
    """A network for all tasks, and a tower for each.

    Attributes:
        bottom: The shared network; null: towers read the flat embeddings.
    """

    bottom: DNNConfig | None = field(default_factory=partial(DNNConfig, hidden_units=(256, 128)))


@dataclass(frozen=True, kw_only=True)
class MMoESection(TaskTowersConfig):
    """Experts that each task mixes by a gate of its own.

    Attributes:
        num_experts: Shared experts.
        expert: The network of each expert.
        gate: A network in each gate, before its linear map; null: there is none.
    """

    num_experts: int = limited(3, at_least=1)
    expert: DNNConfig = field(default_factory=partial(DNNConfig, hidden_units=(256, 128)))
    gate: DNNConfig | None = None


@dataclass(frozen=True, kw_only=True)
class LevelConfig:
    """A level of experts.

    Attributes:
        task_experts: Experts of each task.
        shared_experts: Experts of all tasks.
        task_expert: The network of each expert of a task.
        shared_expert: The network of each shared one; null: as `task_expert`.
    """

    task_experts: int = limited(2, at_least=1)
    shared_experts: int = limited(1, at_least=1)
    task_expert: DNNConfig = field(default_factory=partial(DNNConfig, hidden_units=(256, 128)))
    shared_expert: DNNConfig | None = None


@dataclass(frozen=True, kw_only=True)
class PLESection(TaskTowersConfig):
    """Levels of experts of each task's own beside shared ones.

    Attributes:
        levels: By name, the first to the last.
    """

    levels: dict[str, LevelConfig] = field(
        default_factory=lambda: {
            "first": LevelConfig(),
            "second": LevelConfig(task_expert=DNNConfig(hidden_units=(128,))),
        }
    )


@dataclass(frozen=True, kw_only=True)
class RelationConfig:
    """What a task reads of others.

    Attributes:
        tasks: Those tasks, which stand earlier in `tasks`.
        network: Over the task's own tower and theirs.
    """

    tasks: tuple[str, ...] = ()
    network: DNNConfig = field(default_factory=partial(DNNConfig, hidden_units=(64,)))


@dataclass(frozen=True, kw_only=True)
class DBMTLSection(TaskTowersConfig):
    """Towers that read those of related tasks, on a shared network or on shared experts.

    Attributes:
        mask: Mask blocks on the embedding, as those of MaskNet; null: there are none.
        mask_dnn: The network on the mask blocks, with `use_dnn`.
        bottom: The shared network; null: there is none.
        num_experts: Shared experts, if `expert` is there.
        expert: The network of each expert, behind `bottom`; null: there are none.
        gate: A network in each gate, before its linear map; null: there is none.
        relations: What a task reads of others, by task.
    """

    mask: MaskBlocksConfig | None = None
    mask_dnn: DNNConfig = field(default_factory=partial(DNNConfig, hidden_units=(256,)))
    bottom: DNNConfig | None = field(default_factory=partial(DNNConfig, hidden_units=(256,)))
    num_experts: int = limited(3, at_least=1)
    expert: DNNConfig | None = None
    gate: DNNConfig | None = None
    tower: DNNConfig = field(default_factory=partial(DNNConfig, hidden_units=(128, 64)))
    relations: dict[str, RelationConfig] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ESMMSection(TaskTowersConfig):
    """Clicks, conversions after a click, and both together.

    Attributes:
        click: The task of clicks, which needs a tower.
        conversion: The task of conversions after a click, which needs one too.
        click_and_conversion: The task of both, whose probability is the product of the two.
        bottom: A network that both towers read; null: they read the flat embeddings.
    """

    click: str = "ctr"
    conversion: str = "cvr"
    click_and_conversion: str = "ctcvr"
    bottom: DNNConfig | None = None
    tower: DNNConfig = field(default_factory=partial(DNNConfig, hidden_units=(256, 128, 64)))


@dataclass(frozen=True, kw_only=True)
class SharedBottomConfig(ModelConfig):
    """Options of the shared bottom.

    Attributes:
        shared_bottom: The shared network and the towers.
    """

    name = "shared_bottom"
    shared_bottom: SharedBottomSection = field(default_factory=SharedBottomSection)


@dataclass(frozen=True, kw_only=True)
class MMoEConfig(ModelConfig):
    """Options of MMoE.

    Attributes:
        mmoe: Experts, gates and towers.
    """

    name = "mmoe"
    mmoe: MMoESection = field(default_factory=MMoESection)


@dataclass(frozen=True, kw_only=True)
class PLEConfig(ModelConfig):
    """Options of PLE.

    Attributes:
        ple: Levels of experts, and towers.
    """

    name = "ple"
    ple: PLESection = field(default_factory=PLESection)


@dataclass(frozen=True, kw_only=True)
class DBMTLConfig(ModelConfig):
    """Options of DBMTL.

    Attributes:
        dbmtl: The shared part, towers and relations.
    """

    name = "dbmtl"
    dbmtl: DBMTLSection = field(default_factory=DBMTLSection)


@dataclass(frozen=True, kw_only=True)
class ESMMConfig(ModelConfig):
    """Options of ESMM.

    Attributes:
        esmm: The tasks' names, and the towers.
    """

    name = "esmm"
    esmm: ESMMSection = field(default_factory=ESMMSection)
