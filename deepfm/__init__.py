"""Click-through-rate prediction and ranking over tabular data, from raw files to a scored list.

raw files -> data/<adapter> -> data/{schema, splits, transforms} -> data/dataset (+ sampling)
-> Batch -> models/layers/embedding -> models/layers/{fm, cin, attention, dnn} -> models/* (logit)
-> training/{trainer, steps, optimizers, schedules} + evaluation/{scoring, metrics, ranking}
-> checkpoint -> evaluate / predict / recommend
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deepfm.api import describe, evaluate, load, train
    from deepfm.config import ExperimentConfig, load_config
    from deepfm.data.batch import Batch, Inputs
    from deepfm.data.dataset import TabularDataset
    from deepfm.data.schema import DatasetSchema, FeatureType, FieldSchema
    from deepfm.errors import CheckpointError, ConfigError, DataError, DeepFMError
    from deepfm.estimators.classifier import CTRClassifier
    from deepfm.estimators.regressor import CTRRegressor
    from deepfm.models import build_model
    from deepfm.models.attention_deepfm import AttentionDeepFM
    from deepfm.models.base import BaseCTRModel
    from deepfm.models.deepfm import DeepFM
    from deepfm.models.fm import FM
    from deepfm.models.layers.attention import FieldSelfAttention
    from deepfm.models.layers.cin import CIN
    from deepfm.models.layers.dnn import MLP
    from deepfm.models.layers.embedding import FeatureEmbedding
    from deepfm.models.layers.fm import FactorizationMachine
    from deepfm.models.wide_and_deep import WideAndDeep
    from deepfm.models.xdeepfm import XDeepFM
    from deepfm.prediction import Predictor
    from deepfm.training.trainer import Trainer

__version__ = "0.1.0"

# Where each public name is: imported when it is first used, so that `import deepfm` costs nothing.
_PLACES = {
    "describe": "deepfm.api",
    "evaluate": "deepfm.api",
    "load": "deepfm.api",
    "train": "deepfm.api",
    "ExperimentConfig": "deepfm.config",
    "load_config": "deepfm.config",
    "Batch": "deepfm.data.batch",
    "Inputs": "deepfm.data.batch",
    "TabularDataset": "deepfm.data.dataset",
    "DatasetSchema": "deepfm.data.schema",
    "FeatureType": "deepfm.data.schema",
    "FieldSchema": "deepfm.data.schema",
    "CheckpointError": "deepfm.errors",
    "ConfigError": "deepfm.errors",
    "DataError": "deepfm.errors",
    "DeepFMError": "deepfm.errors",
    "CTRClassifier": "deepfm.estimators.classifier",
    "CTRRegressor": "deepfm.estimators.regressor",
    "build_model": "deepfm.models",
    "AttentionDeepFM": "deepfm.models.attention_deepfm",
    "BaseCTRModel": "deepfm.models.base",
    "DeepFM": "deepfm.models.deepfm",
    "FieldSelfAttention": "deepfm.models.layers.attention",
    "CIN": "deepfm.models.layers.cin",
    "MLP": "deepfm.models.layers.dnn",
    "FeatureEmbedding": "deepfm.models.layers.embedding",
    "FactorizationMachine": "deepfm.models.layers.fm",
    "FM": "deepfm.models.fm",
    "WideAndDeep": "deepfm.models.wide_and_deep",
    "XDeepFM": "deepfm.models.xdeepfm",
    "Predictor": "deepfm.prediction",
    "Trainer": "deepfm.training.trainer",
}

__all__ = [
    "CIN",
    "FM",
    "MLP",
    "AttentionDeepFM",
    "BaseCTRModel",
    "Batch",
    "CTRClassifier",
    "CTRRegressor",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DatasetSchema",
    "DeepFM",
    "DeepFMError",
    "ExperimentConfig",
    "FactorizationMachine",
    "FeatureEmbedding",
    "FeatureType",
    "FieldSchema",
    "FieldSelfAttention",
    "Inputs",
    "Predictor",
    "TabularDataset",
    "Trainer",
    "WideAndDeep",
    "XDeepFM",
    "build_model",
    "describe",
    "evaluate",
    "load",
    "load_config",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module 'deepfm' has no attribute {name!r}")
    value = getattr(import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
