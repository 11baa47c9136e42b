"""Click-through-rate prediction and ranking over tabular data, from raw files to a scored list.

raw files -> data/<adapter> -> data/{schema, splits, transforms} -> data/dataset (+ sampling)
-> Batch -> models/layers/embedding -> models/layers/{fm, cin, attention, dnn} -> models/* (logit)
-> training/{trainer, steps, losses, optimizers, schedules} + evaluation/{scoring, ranking, metrics}
-> checkpoint -> evaluate / predict / recommend
"""

from deepfm.config import ExperimentConfig, load_config
from deepfm.data.batch import Batch, Inputs
from deepfm.data.dataset import TabularDataset
from deepfm.data.schema import DatasetSchema, FeatureType, FieldSchema
from deepfm.errors import CheckpointError, ConfigError, DataError, DeepFMError
from deepfm.models import build_model
from deepfm.models.attention_deepfm import AttentionDeepFM
from deepfm.models.base import BaseCTRModel
from deepfm.models.deepfm import DeepFM
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

__all__ = [
    "CIN",
    "MLP",
    "AttentionDeepFM",
    "BaseCTRModel",
    "Batch",
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
    "load_config",
]
