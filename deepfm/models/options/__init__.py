"""What a config says about a model: one dataclass per model, one per section that it reads.

    sections   what several models read
    fm         factorization machines, alone and with networks

    masknet    MaskNet
    streams    networks beside each other: FinalMLP, FinalNet, TF4CTR, towers
    sparse_dense    ids and numbers apart: DLRM, Wukong

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

__all__ = [
    "AttentionConfig",
    "AttentionDeepFMConfig",
    "BilinearStreamsConfig",
    "CINConfig",
    "DLRMConfig",
    "DNNConfig",
    "DeepFMConfig",
    "DotsConfig",
    "FMConfig",
    "FactorizationMachineConfig",
    "FactorizedBlocksConfig",
    "FeatureConfig",
    "FinalMLPConfig",
    "FinalNetConfig",
    "MaskBlocksConfig",
    "MaskNetConfig",
    "ModelConfig",
    "MultiTowerConfig",
    "NetworkConfig",
    "Norm",
    "TF4CTRConfig",
    "TowersConfig",
    "TwinTowersConfig",
    "WideAndDeepConfig",
    "WukongConfig",
    "WukongLayerConfig",
    "WukongLayersConfig",
    "XDeepFMConfig",
]
