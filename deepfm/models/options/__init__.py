"""What a config says about a model: one dataclass per model, one per section that it reads.

    sections   what several models read
    fm         factorization machines, alone and with networks
    tasks      models of several tasks

No torch here: a config is read, checked and explained without it. A default stands here and
nowhere else. The first sentence of each entry under `Attributes` is what `deepfm config` prints.
Options of a model's own stand in one section that is named like the model.
"""

from deepfm.models.options.fm import (
    AttentionDeepFMConfig,
    DeepFMConfig,
    FactorizationMachineConfig,
    WideAndDeepConfig,
    XDeepFMConfig,
)
from deepfm.models.options.sections import (
    AttentionConfig,
    CINConfig,
    DNNConfig,
    FeatureConfig,
    FMConfig,
    ModelConfig,
    NetworkConfig,
    Norm,
)
from deepfm.models.options.tasks import (
    DBMTLConfig,
    DBMTLSection,
    ESMMConfig,
    ESMMSection,
    LevelConfig,
    MMoEConfig,
    MMoESection,
    PLEConfig,
    PLESection,
    RelationConfig,
    SharedBottomConfig,
    SharedBottomSection,
    TowersConfig,
)

__all__ = [
    "AttentionConfig",
    "AttentionDeepFMConfig",
    "CINConfig",
    "DBMTLConfig",
    "DBMTLSection",
    "DNNConfig",
    "DeepFMConfig",
    "ESMMConfig",
    "ESMMSection",
    "FMConfig",
    "FactorizationMachineConfig",
    "FeatureConfig",
    "LevelConfig",
    "MMoEConfig",
    "MMoESection",
    "ModelConfig",
    "NetworkConfig",
    "Norm",
    "PLEConfig",
    "PLESection",
    "RelationConfig",
    "SharedBottomConfig",
    "SharedBottomSection",
    "TowersConfig",
    "WideAndDeepConfig",
    "XDeepFMConfig",
]
