"""What a config says about a model: one dataclass per model, one per section that it reads.

    sections   what several models read
    fm         factorization machines, alone and with networks
    crosses    linear models, weighted pairs, cross networks, attention over fields

No torch here: a config is read, checked and explained without it. A default stands here and
nowhere else. The first sentence of each entry under `Attributes` is what `deepfm config` prints.
Options of a model's own stand in one section that is named like the model.
"""

from deepfm.models.options.crosses import (
    AutoIntConfig,
    CrossV2Config,
    DCNConfig,
    DCNv2Config,
    FCNConfig,
    FieldAttentionConfig,
    FieldWeightedConfig,
    FwFMConfig,
    LRConfig,
    MaskedCrossConfig,
    VectorCrossConfig,
)
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

__all__ = [
    "AttentionConfig",
    "AttentionDeepFMConfig",
    "AutoIntConfig",
    "CINConfig",
    "CrossV2Config",
    "DCNConfig",
    "DCNv2Config",
    "DNNConfig",
    "DeepFMConfig",
    "FCNConfig",
    "FMConfig",
    "FactorizationMachineConfig",
    "FeatureConfig",
    "FieldAttentionConfig",
    "FieldWeightedConfig",
    "FwFMConfig",
    "LRConfig",
    "MaskedCrossConfig",
    "ModelConfig",
    "NetworkConfig",
    "Norm",
    "VectorCrossConfig",
    "WideAndDeepConfig",
    "XDeepFMConfig",
]
