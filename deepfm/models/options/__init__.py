"""What a config says about a model: one dataclass per model, one per section that it reads.

    sections       what several models read
    sequences      sequences of events and their encoders
    fm             factorization machines, alone and with networks
    crosses        linear models, weighted pairs, cross networks, attention over fields
    masknet        MaskNet
    streams        networks beside each other: FinalMLP, FinalNet, TF4CTR, towers
    towers         towers with encoders of sequences beside them
    sparse_dense   ids and numbers apart: DLRM, Wukong
    tasks          models of several tasks

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
from deepfm.models.options.masknet import MaskBlocksConfig, MaskNetConfig
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
from deepfm.models.options.sparse_dense import (
    DLRMConfig,
    DotsConfig,
    WukongConfig,
    WukongLayerConfig,
    WukongLayersConfig,
)
from deepfm.models.options.streams import (
    BilinearStreamsConfig,
    FactorizedBlocksConfig,
    FinalMLPConfig,
    FinalNetConfig,
    MultiTowerConfig,
    TF4CTRConfig,
    TowersConfig,
    TwinTowersConfig,
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
    TaskTowersConfig,
)
from deepfm.models.options.towers import DINTowersConfig, MultiTowerDINConfig

__all__ = [
    "AttentionConfig",
    "AttentionDeepFMConfig",
    "AutoIntConfig",
    "BilinearStreamsConfig",
    "CINConfig",
    "CrossV2Config",
    "DBMTLConfig",
    "DBMTLSection",
    "DCNConfig",
    "DCNv2Config",
    "DINTowersConfig",
    "DLRMConfig",
    "DNNConfig",
    "DeepFMConfig",
    "DotsConfig",
    "ESMMConfig",
    "ESMMSection",
    "FCNConfig",
    "FMConfig",
    "FactorizationMachineConfig",
    "FactorizedBlocksConfig",
    "FeatureConfig",
    "FieldAttentionConfig",
    "FieldWeightedConfig",
    "FinalMLPConfig",
    "FinalNetConfig",
    "FwFMConfig",
    "LRConfig",
    "LevelConfig",
    "MMoEConfig",
    "MMoESection",
    "MaskBlocksConfig",
    "MaskNetConfig",
    "MaskedCrossConfig",
    "ModelConfig",
    "MultiTowerConfig",
    "MultiTowerDINConfig",
    "NetworkConfig",
    "Norm",
    "PLEConfig",
    "PLESection",
    "RelationConfig",
    "SharedBottomConfig",
    "SharedBottomSection",
    "TF4CTRConfig",
    "TaskTowersConfig",
    "TowersConfig",
    "TwinTowersConfig",
    "VectorCrossConfig",
    "WideAndDeepConfig",
    "WukongConfig",
    "WukongLayerConfig",
    "WukongLayersConfig",
    "XDeepFMConfig",
]
