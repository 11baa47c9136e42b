"""What becomes of every field of the format: honoured, ignored with a log line, or refused.

`FIELDS` is the one place that says so. The table in `docs/torcheasyrec.md` is `markdown()`, and
tests walk the whole format, so that no field is forgotten. What a converter has to say about a
value (an `odps://` path, an unknown exporter) it says itself.
"""

import logging
from collections.abc import Iterator
from typing import NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from deepfm.easyrec.pipeline_pb2 import EasyRecConfig
from deepfm.easyrec.reading import MODELS, Pipeline, descriptor_of, is_map, is_repeated

logger = logging.getLogger(__name__)

_FORMAT = descriptor_of(EasyRecConfig)
HONOURED, IGNORED, REFUSED = "honoured", "ignored", "refused"


class Fate(NamedTuple):
    """What happens to a field when a file sets it.

    Attributes:
        status: `honoured`, `ignored` or `refused`; a refused field may be set to its default.
        note: The key of the YAML form it becomes, or why it has no effect, or what to do instead.
    """

    status: str
    note: str


def _honoured(note: str) -> Fate:
    return Fate(HONOURED, note)


def _ignored(note: str) -> Fate:
    return Fate(IGNORED, note)


def _refused(note: str) -> Fate:
    return Fate(REFUSED, note)


_PLACEMENT = _ignored("says on which devices tables lie; there is one device here")
_NO_TF32 = _ignored("a GPU's TF32 is left as torch sets it")
_OTHER_MODEL = _refused(f"supported models: {', '.join(MODELS)}")
_ENCODERS = (
    "supported encoders: din_encoder, simple_attention, pooling_encoder, "
    "multi_window_din_encoder, self_attention_encoder"
)
_OTHER_FEATURE = _refused(
    "supported features: id_feature, raw_feature, combo_feature, alone, in a sequence_feature, "
    "and with sequence_ before the name"
)
_OWN_TABLE = "supported tables: hash_bucket_size, num_buckets, vocab_list, vocab_dict, vocab_file"
_PARETO = _refused("losses are added up with fixed weights; weight is supported")
_OTHER_LOSS = _refused(
    "supported losses: binary_cross_entropy, binary_focal_loss, softmax_cross_entropy, jrc_loss, "
    "l2_loss"
)
_SAMPLER = _refused("negative samplers belong to matching models")
_FP32 = _ignored("tables are float32")
_NO_MASK = _ignored("has an effect with sample_mask_prob only, which is refused")
_STUB = _refused("only plain side:column expressions are supported, and no feature of a feature")
_LR = _honoured("lr of the optimizer")
_SPARSE_CLIP = {
    "gradient_clipping": _honoured("with max_gradient: training.sparse_optimizer.max_gradient"),
    "max_gradient": _honoured("training.sparse_optimizer.max_gradient"),
}
_DECAY = _refused("the sparse optimizers have no weight decay here; 0 is supported")
_FUSED = _ignored("how torch computes the same update")
_SPARSE_OPTIMIZERS = (
    "supported sparse optimizers: sgd_optimizer, adagrad_optimizer, adam_optimizer, "
    "rowwise_adagrad_optimizer"
)
_DENSE_OPTIMIZERS = (
    "supported dense optimizers: sgd_optimizer, adagrad_optimizer, adam_optimizer, adamw_optimizer"
)
_SCHEDULES = {
    name: _honoured(f"scheduler {ours}")
    for name, ours in {
        "constant_learning_rate": "none",
        "exponential_decay_learning_rate": "exponential",
        "manual_step_learning_rate": "manual_step",
        "cosine_annealing_learning_rate": "cosine",
        "cosine_annealing_warm_restarts_learning_rate": "cosine_restarts",
    }.items()
}
_DENSE = {
    "sgd_optimizer": _honoured("sgd"),
    "adagrad_optimizer": _honoured("adagrad"),
    "adam_optimizer": _honoured("adam"),
    "adamw_optimizer": _honoured("adamw"),
    "adadelta_optimizer": _refused(_DENSE_OPTIMIZERS),
    "rmsprop_optimizer": _refused(_DENSE_OPTIMIZERS),
}
_BETAS = {"beta1": _honoured("betas"), "beta2": _honoured("betas")}
_ADAM = {
    "lr": _LR, **_BETAS, "weight_decay": _honoured("weight_decay"), "eps": _honoured("eps"),
    "amsgrad": _honoured("amsgrad"), "fused": _FUSED,
}  # fmt: skip
_WARMUP = {
    "warmup_learning_rate": _honoured("warmup_lr"),
    "warmup_size": _honoured("warmup_size"),
    "min_learning_rate": _honoured("min_lr"),
    "by_epoch": _honoured("by_epoch"),
}
_TABLE = {
    "embedding_name": _honoured("embedding_name: features of one name share their tables"),
    "embedding_dim": _honoured("embedding_dim"),
    "pooling": _honoured("combiner: sum or mean"),
    "init_fn": _honoured("init"),
    "trainable": _honoured("trainable"),
    "data_type": _FP32,
    "embedding_constraints": _PLACEMENT,
}
_WORDS = {
    "vocab_list": _honoured("vocabulary; rows in FG_NONE"),
    "vocab_dict": _honoured("vocabulary; rows in FG_NONE"),
    "vocab_file": _honoured("vocabulary_file; rows in FG_NONE"),
    "asset_dir": _ignored("vocab_file is the whole path"),
    "default_bucketize_value": _honoured("oov_id"),
    "hash_bucket_size": _honoured("hash_buckets with murmur64a; rows in FG_NONE"),
    "zch": _refused(_OWN_TABLE),
    "dynamicemb": _refused(_OWN_TABLE),
    "value_dim": _honoured("1: one value per row, type sparse"),
}
_FEATURE = {
    "feature_name": _honoured("name of the field, and its column in FG_NONE and FG_BUCKETIZE"),
    "default_value": _honoured("default, in all modes but FG_NONE"),
    "separator": _honoured("separator, in all modes but FG_NONE"),
    "fg_encoded_default_value": _honoured("default, in FG_NONE"),
    "use_mask": _NO_MASK,
    "stub_type": _STUB,
    "sequence_length": _honoured("max_length of a sequence_… feature, in all modes but FG_NONE"),
    "sequence_delim": _honoured("separator of a sequence_… feature"),
    "sequence_fields": _refused("every input of a sequence_… feature is a sequence"),
}
_ENCODER = {
    "name": _ignored("an encoder is known by its input and place"),
    "input": _honoured("input; of one sequence group alone it needs none"),
}
_CUT = {"max_seq_length": _honoured("max_length")}
_ATTENTION = {"attn_mlp": _honoured("hidden_units, activation and so on of the attention network")}
_TOWER = {
    "tower_name": _honoured("name of the task: metrics, predictions and logits have it"),
    "label_name": _honoured("label; by default that of label_fields in the same place"),
    "metrics": _honoured("metrics of the task"),
    "losses": _honoured("losses of the task"),
    "num_class": _honoured("num_class of the task"),
    "mlp": _honoured("the task's tower; without one the output layer alone"),
    "weight": _honoured("weight"),
    "sample_weight_name": _honoured("sample_weight"),
    "task_space_indicator_label": _honoured("space"),
    "in_task_space_weight": _honoured("in_space_weight"),
    "out_task_space_weight": _honoured("out_space_weight"),
    "pareto_min_loss_weight": _PARETO,
    "train_metrics": _honoured("train_metrics of the task"),
}
_FUSION = {
    "deep": _honoured("dnn"),
    "final": _honoured("final"),
    "wide_embedding_dim": _honoured("feature.wide_embedding_dim"),
    "wide_init_fn": _honoured("feature.wide_init"),
}

FIELDS: dict[str, dict[str, Fate]] = {
    "EasyRecConfig": {
        "train_input_path": _honoured("data.table.files; no odps:// path"),
        "eval_input_path": _honoured("data.table.valid_files; no odps:// path"),
        "model_dir": _honoured("output_dir"),
        "train_config": _honoured("training"),
        "eval_config": _honoured("evaluation"),
        "export_config": _honoured("training.keep, training.metric"),
        "data_config": _honoured("data.table"),
        "feature_configs": _honoured("data.table.fields"),
        "model_config": _honoured("model_name, feature, tasks, and the sections of the model"),
    },
    "TrainConfig": {
        "sparse_optimizer": _honoured("training.sparse_optimizer, sparse_scheduler"),
        "dense_optimizer": _honoured("training.optimizer, scheduler"),
        "num_steps": _honoured("training.max_steps; either this or num_epochs"),
        "num_epochs": _honoured("training.epochs"),
        "save_checkpoints_steps": _honoured(
            "training.checkpoint_every_steps, evaluate_every_steps"
        ),
        "save_checkpoints_epochs": _honoured("checkpoints and evaluations at the ends of epochs"),
        "fine_tune_checkpoint": _refused(
            "a checkpoint of TorchEasyRec cannot be read; --init-from takes one of ours"
        ),
        "fine_tune_ckpt_param_map": _refused("a checkpoint of TorchEasyRec cannot be read"),
        "log_step_count_steps": _honoured("training.log_every_steps"),
        "is_profiling": _ignored("train --profile shows where the time goes"),
        "use_tensorboard": _ignored("the history is in history.jsonl"),
        "tensorboard_summaries": _ignored("the history is in history.jsonl"),
        "cudnn_allow_tf32": _NO_TF32,
        "cuda_matmul_allow_tf32": _NO_TF32,
        "global_embedding_constraints": _PLACEMENT,
        "mixed_precision": _honoured("training.precision: BF16 is bf16; FP16 is trained in fp32"),
        "grad_scaler": _ignored("neither fp32 nor bf16 needs scaling"),
        "gradient_accumulation_steps": _honoured(
            "training.gradient_accumulation_steps with sparse_update: backward"
        ),
        "grad_clipping": _honoured("training.gradient_clip_norm or _value, of dense parameters"),
        "keep_checkpoint_max": _ignored("a run keeps its last checkpoint and the one it ends with"),
        "save_checkpoints_timestamp_interval": _ignored("checkpoints are by steps and epochs"),
        "save_checkpoints_timestamps": _ignored("checkpoints are by steps and epochs"),
        "save_checkpoints_timestamp_quorum": _ignored("checkpoints are by steps and epochs"),
        "delta_embedding_dump_config": _refused("online learning is not supported"),
    },
    "GradClipping": {
        "clipping_type": _honoured("norm, value or none"),
        "max_gradient": _honoured("training.gradient_clip_norm or gradient_clip_value"),
        "norm_type": _honoured("training.gradient_clip_norm_type"),
        "enable_global_grad_clip": _ignored("there is one process, whose norm is the global one"),
    },
    "EvalConfig": {
        "num_steps": _honoured("evaluation.max_batches; the final evaluation is of all rows"),
        "log_step_count_steps": _ignored("a progress bar shows an evaluation"),
        "use_dense_ema": _honoured("true, or unset, with ema"),
    },
    "ExportConfig": {
        "exporter_type": _honoured("training.keep: latest is last, best is best"),
        "best_exporter_metric": _honoured("training.metric"),
        "metric_larger_is_better": _honoured("checked against the metric"),
        "mixed_precision": _ignored("everything is float32"),
        "cudnn_allow_tf32": _NO_TF32,
        "cuda_matmul_allow_tf32": _NO_TF32,
        "use_dense_ema": _honoured("true, or unset, with ema"),
    },
    "DataConfig": {
        "batch_size": _honoured("training.batch_size"),
        "eval_batch_size": _honoured("evaluation.batch_size; batch_size by default"),
        "dataset_type": _honoured("CsvDataset or ParquetDataset; the files' ending counts"),
        "fg_mode": _honoured("what the columns hold"),
        "fg_encoded": _honoured("deprecated form of fg_mode"),
        "fg_threads": _honoured("with fg_encoded: false it chooses FG_DAG; else without effect"),
        "fg_encoded_multival_sep": _honoured("separator, in FG_NONE"),
        "label_fields": _honoured("data.table.label: the first one; labels of tasks"),
        "sample_weight_fields": _honoured("data.table.sample_weight: the first one"),
        "input_fields": _honoured("data.table.columns of CSV files without header; types"),
        "input_fields_str": _honoured("as input_fields, which it replaces"),
        "delimiter": _honoured("data.table.delimiter of CSV files"),
        "with_header": _honoured("data.table.columns is empty"),
        "drop_remainder": _honoured("training.drop_last"),
        "shuffle": _honoured("training.shuffle: all rows of an epoch"),
        "shuffle_buffer_size": _ignored("shuffle draws from all rows"),
        "num_workers": _ignored("the data is read by threads of its own"),
        "pin_memory": _ignored("how batches reach a GPU"),
        "in_order": _ignored("batches always come in order"),
        "is_orderby_partition": _ignored("about cloud tables"),
        "odps_data_quota_name": _ignored("about cloud tables"),
        "odps_data_compression": _ignored("about cloud tables"),
        "force_base_data_group": _ignored("there are no negative samplers"),
        "sample_mask_prob": _refused("masking is not supported; 0 is"),
        "negative_sample_mask_prob": _refused("masking is not supported; 0 is"),
        "sample_cost_field": _refused("batches have batch_size rows"),
        "batch_cost_size": _refused("batches have batch_size rows"),
        "negative_sampler": _SAMPLER,
        "negative_sampler_v2": _SAMPLER,
        "hard_negative_sampler": _SAMPLER,
        "hard_negative_sampler_v2": _SAMPLER,
        "tdm_sampler": _SAMPLER,
    },
    "Field": {
        "input_name": _honoured("name of a column"),
        "input_type": _honoured("whole numbers: one value per row, type sparse"),
    },
    "FeatureConfig": {
        "id_feature": _honoured("a field of type sparse or sequence"),
        "raw_feature": _honoured("a field of type dense; with boundaries, sparse or sequence"),
        "combo_feature": _honoured("a field with columns"),
        "sequence_feature": _honoured("fields of one sequence, named sequence__feature"),
        "sequence_id_feature": _honoured("a field of type sequence, of its own sequence"),
        "sequence_raw_feature": _honoured("numbers, or with boundaries ids, of its own sequence"),
        "sequence_combo_feature": _honoured("as sequence_id_feature, in FG_NONE and FG_BUCKETIZE"),
    }
    | dict.fromkeys(
        (
            "lookup_feature", "match_feature", "expr_feature",
            "overlap_feature", "tokenize_feature", "custom_feature", "kv_dot_product",
            "bool_mask_feature", "combine_feature", "sequence_lookup_feature",
            "sequence_match_feature", "sequence_expr_feature", "sequence_overlap_feature",
            "sequence_tokenize_feature", "sequence_custom_feature", "sequence_kv_dot_product",
            "sequence_bool_mask_feature", "sequence_combine_feature",
        ),
        _OTHER_FEATURE,
    ),
    "IdFeature": {
        **_FEATURE, **_TABLE, **_WORDS,
        "expression": _honoured("column, in FG_NORMAL and FG_DAG: side:column"),
        "num_buckets": _honoured("num_buckets; an id outside gets row 0"),
        "weighted": _ignored("of `id:weight` the id is read, and weights have no effect"),
        "fg_value_type": _ignored("values are hashed and looked up as text"),
    },
    "RawFeature": {
        **_FEATURE, **_TABLE,
        "expression": _honoured("column, in FG_NORMAL and FG_DAG: side:column"),
        "boundaries": _honoured("boundaries: the bucket's number is an id"),
        "value_dim": _honoured("value_dim"),
        "normalizer": _honoured("transform, in FG_NORMAL and FG_DAG"),
        "autodis": _refused("supported dense embeddings: mlp"),
        "mlp": _honoured("dense_embedding: linear, with embedding_dim"),
    },
    "MLPEmbedding": {},
    "ComboFeature": {
        **_FEATURE, **_TABLE, **_WORDS,
        "expression": _honoured("columns, in FG_NORMAL and FG_DAG: side:column"),
    },
    "SequenceFeature": {
        "sequence_name": _honoured("sequence, and the first part of the names of its fields"),
        "sequence_length": _honoured("max_length, in all modes but FG_NONE"),
        "sequence_delim": _honoured("separator"),
        "sequence_pk": _ignored("how a server finds a user's sequence"),
        "features": _honoured("fields of the sequence"),
    },
    "SeqFeatureConfig": {
        "id_feature": _honoured("a field of type sequence"),
        "raw_feature": _honoured("numbers; with boundaries a field of type sequence"),
        "combo_feature": _honoured("a field of type sequence, in FG_NONE and FG_BUCKETIZE"),
    }
    | dict.fromkeys(
        (
            "lookup_feature", "match_feature", "expr_feature", "overlap_feature",
            "tokenize_feature", "custom_feature", "kv_dot_product", "bool_mask_feature",
            "combine_feature",
        ),
        _OTHER_FEATURE,
    ),
    "ModelConfig": {
        "feature_groups": _honoured("feature.groups"),
        "num_class": _honoured("num_class"),
        "losses": _honoured("training.losses"),
        "metrics": _honoured("evaluation.metrics"),
        "train_metrics": _honoured("training.metrics"),
        "variational_dropout": _honoured("feature.variational_dropout"),
        "kernel": _ignored("has no meaning for these models"),
        "use_pareto_loss_weight": _PARETO,
        "deepfm": _honoured("model_name: deepfm"),
        "wide_and_deep": _honoured("model_name: wide_and_deep"),
        "xdeepfm": _honoured("model_name: xdeepfm"),
        "dlrm": _honoured("model_name: dlrm"),
        "multi_tower": _honoured("model_name: multi_tower"),
        "multi_tower_din": _honoured("model_name: multi_tower_din"),
        "mask_net": _honoured("model_name: masknet"),
        "dcn_v1": _honoured("model_name: dcn"),
        "dcn_v2": _honoured("model_name: dcn_v2"),
        "wukong": _honoured("model_name: wukong"),
        "mmoe": _honoured("model_name: mmoe"),
        "dbmtl": _honoured("model_name: dbmtl"),
        "ple": _honoured("model_name: ple"),
    }
    | dict.fromkeys(
        (
            "simple_multi_task", "dc2vr", "dlrm_hstu", "pepnet", "ultra_hstu", "dssm", "dssm_v2",
            "dat", "hstu_match", "mind", "tdm", "rocket_launching", "sid_rqvae", "sid_rqkmeans",
            "generative_qwen", "prompt_generative_qwen", "multi_tower_din_trt",
        ),
        _OTHER_MODEL,
    ),
    "FeatureGroupConfig": {
        "group_name": _honoured("a group that the model does not read is left out"),
        "feature_names": _honoured("the fields, in this order"),
        "group_type": _honoured("DEEP, WIDE for wide, SEQUENCE for a tower of multi_tower_din"),
        "sequence_groups": _honoured("feature.sequences"),
        "sequence_encoders": _honoured("feature.encoders, in this order"),
        "embedding_name_suffix": _honoured("feature.table_suffixes: tables of the group's own"),
    },
    "SeqGroupConfig": {
        "group_name": _honoured("name below feature.sequences"),
        "feature_names": _honoured("query: what is no sequence; sequence: the others"),
        "embedding_name_suffix": _honoured("feature.table_suffixes; by default the outer group's"),
    },
    "SeqEncoderConfig": {
        "din_encoder": _honoured("din, softmax, padded statistics"),
        "simple_attention": _honoured("simple_attention"),
        "pooling_encoder": _honoured("pooling"),
        "multi_window_din_encoder": _honoured("multi_window_din"),
        "hstu_encoder": _refused(_ENCODERS),
        "self_attention_encoder": _honoured("self_attention"),
    },
    "DINEncoder": {**_ENCODER, **_ATTENTION, **_CUT},
    "SimpleAttention": {**_ENCODER, **_CUT},
    "PoolingEncoder": {**_ENCODER, **_CUT, "pooling_type": _honoured("pooling: sum or mean")},
    "MultiWindowDINEncoder": {**_ENCODER, **_ATTENTION, "windows_len": _honoured("windows")},
    "SelfAttentionEncoder": {
        **_ENCODER, **_CUT, "multihead_attn_dim": _honoured("dim"),
        "num_heads": _honoured("heads"), "dropout": _honoured("dropout"),
    },
    "Tower": {"input": _honoured("name of a group"), "mlp": _honoured("the tower's network")},
    "DINTower": {"input": _honoured("name of a group of type SEQUENCE"), **_ATTENTION},
    "MultiTower": {"towers": _honoured("multi_tower.towers"), "final": _honoured("final")},
    "MultiTowerDIN": {
        "towers": _honoured("multi_tower_din.towers"),
        "din_towers": _honoured("multi_tower_din.din_towers"),
        "final": _honoured("final"),
    },
    "DLRM": {
        "dense_mlp": _honoured("dlrm.dense"),
        "arch_with_sparse": _honoured("dlrm.with_sparse"),
        "final": _honoured("final"),
    },
    "MaskBlock": {
        "reduction_ratio": _honoured("with the width that a block reads: width of its masks"),
        "aggregation_dim": _honoured("width of the masks, with reduction_ratio: 0"),
        "hidden_dim": _honoured("width of the blocks"),
    },
    "MaskNetModule": {
        "n_mask_blocks": _honoured("number of blocks"),
        "mask_block": _honoured("a block"),
        "top_mlp": _honoured("final; needed"),
        "use_parallel": _honoured("parallel, else serial"),
    },
    "MaskNet": {"mask_net_module": _honoured("masknet")},
    "Cross": {"cross_num": _honoured("dcn.layers")},
    "CrossV2": {"cross_num": _honoured("dcn_v2.layers"), "low_rank": _honoured("dcn_v2.rank")},
    "DCNV1": {
        "cross": _honoured("dcn"), "deep": _honoured("dnn"), "final": _honoured("final"),
        "cross_tower": _honoured("dcn: another name of cross"),
        "deep_tower": _honoured("dnn: another name of deep"),
        "final_dnn": _honoured("final: another name of final"),
    },
    "DCNV2": {
        "backbone": _honoured("dcn_v2.backbone"), "cross": _honoured("dcn_v2"),
        "deep": _honoured("dnn"), "final": _honoured("final"),
    },
    "WuKongLayer": {
        "lcb_feature_num": _honoured("vectors of the linear block"),
        "fmb_feature_num": _honoured("vectors of the factorization machine's block"),
        "compressed_feature_num": _honoured("width of the compressed products"),
        "feature_num_mlp": _honoured("the network after the products"),
    },
    "WuKong": {
        "dense_mlp": _honoured("wukong.dense"), "wukong_layers": _honoured("wukong"),
        "final": _honoured("final"),
    },
    "TaskTower": _TOWER,
    "BayesTaskTower": {
        **_TOWER,
        "relation_tower_names": _honoured("relations of the task, each of an earlier tower"),
        "relation_mlp": _honoured("the network of the relations"),
    },
    "MMoE": {
        "expert_mlp": _honoured("the experts"), "gate_mlp": _honoured("the gates' networks"),
        "num_expert": _honoured("number of experts"), "task_towers": _honoured("tasks"),
    },
    "ExtractionNetwork": {
        "network_name": _ignored("levels are known by their order"),
        "expert_num_per_task": _honoured("experts of each task"),
        "share_num": _honoured("shared experts"),
        "task_expert_net": _honoured("network of a task's expert"),
        "share_expert_net": _honoured("network of a shared expert"),
    },
    "PLE": {
        "extraction_networks": _honoured("ple.levels"), "task_towers": _honoured("tasks"),
    },
    "DBMTL": {
        "bottom_mlp": _honoured("the shared network"),
        "expert_mlp": _honoured("the experts; none without"),
        "gate_mlp": _honoured("the gates' networks"),
        "num_expert": _honoured("number of experts"),
        "task_towers": _honoured("tasks"),
        "mask_net": _honoured("mask blocks in front of the shared network"),
    },
    "DeepFM": _FUSION,
    "WideAndDeep": _FUSION,
    "XDeepFM": {**_FUSION, "cin": _honoured("cin")},
    "CIN": {"cin_layer_size": _honoured("cin.layer_sizes")},
    "MLP": {
        "hidden_units": _honoured("hidden_units"),
        "dropout_ratio": _honoured("dropout: one number, or one for each layer"),
        "activation": _honoured("activation"),
        "use_bn": _honoured("norm: batch"),
        "use_ln": _honoured("norm: layer"),
        "bias": _honoured("bias"),
    },
    "VariationalDropout": {
        "regularization_lambda": _honoured("feature.variational_dropout"),
        "embedding_wise_variational_dropout": _ignored("the original reads it no more"),
    },
    "LossConfig": {
        "binary_cross_entropy": _honoured("binary_cross_entropy"),
        "softmax_cross_entropy": _honoured("softmax_cross_entropy"),
        "l2_loss": _honoured("l2"),
        "jrc_loss": _honoured("jrc"),
        "binary_focal_loss": _honoured("binary_focal"),
        "recon_loss": _OTHER_LOSS,
        "commitment_loss": _OTHER_LOSS,
        "contrastive_loss": _OTHER_LOSS,
    },
    "BinaryCrossEntropy": {"label_smoothing": _honoured("label_smoothing")},
    "SoftmaxCrossEntropy": {"label_smoothing": _honoured("label_smoothing")},
    "L2Loss": {},
    "JRCLoss": {
        "session_name": _honoured("session: the column of that id_feature"),
        "alpha": _honoured("alpha"),
    },
    "BinaryFocalLoss": {"gamma": _honoured("gamma"), "alpha": _honoured("alpha")},
    "MetricConfig": {
        "auc": _honoured("auc"),
        "multiclass_auc": _honoured("multiclass_auc"),
        "recall_at_k": _refused("matching models have it; rank models do not"),
        "mean_absolute_error": _honoured("mae"),
        "mean_squared_error": _honoured("mse"),
        "accuracy": _honoured("accuracy"),
        "grouped_auc": _honoured("gauc"),
        "xauc": _honoured("xauc"),
        "grouped_xauc": _honoured("grouped_xauc"),
        "normalized_entropy": _honoured("normalized_entropy"),
    },
    "TrainMetricConfig": {
        "auc": _honoured("auc"),
        "recall_at_k": _refused("matching models have it; rank models do not"),
        "mean_absolute_error": _honoured("mae"),
        "mean_squared_error": _honoured("mse"),
        "accuracy": _honoured("accuracy"),
        "xauc": _honoured("xauc"),
        "decay_rate": _honoured("decay_rate"),
        "decay_step": _honoured("decay_step"),
    },
    "AUC": {"thresholds": _honoured("thresholds")},
    "MulticlassAUC": {"thresholds": _honoured("thresholds"), "average": _honoured("average")},
    "MeanAbsoluteError": {},
    "MeanSquaredError": {},
    "Accuracy": {"threshold": _honoured("threshold"), "top_k": _honoured("top_k")},
    "GroupedAUC": {"grouping_key": _honoured("group: the column of that id_feature")},
    "XAUC": {
        "sample_ratio": _honoured("sample_ratio"),
        "max_pairs": _honoured("max_pairs"),
        "in_batch": _honoured("in_batch"),
    },
    "GroupedXAUC": {
        "grouping_key": _honoured("group: the column of that id_feature"),
        "max_pairs_per_group": _honoured("max_pairs_per_group"),
    },
    "NormalizedEntropy": {"eta": _honoured("eta")},
    "SparseOptimizer": {
        "sgd_optimizer": _honoured("lazy_sgd"),
        "adagrad_optimizer": _honoured("adagrad"),
        "adam_optimizer": _honoured("lazy_adam"),
        "rowwise_adagrad_optimizer": _honoured("rowwise_adagrad"),
        **_SCHEDULES,
    }
    | dict.fromkeys(
        (
            "lars_sgd_optimizer", "lamb_optimizer", "partial_rowwise_lamb_optimizer",
            "partial_rowwise_adam_optimizer", "adadelta_optimizer", "rmsprop_optimizer",
        ),
        _refused(_SPARSE_OPTIMIZERS),
    ),
    "FusedSGDOptimizer": {"lr": _LR, **_SPARSE_CLIP},
    "FusedAdagradOptimizer": {
        "lr": _LR, **_SPARSE_CLIP,
        "initial_accumulator_value": _honoured("initial_accumulator_value"),
    },
    "FusedAdamOptimizer": {"lr": _LR, **_BETAS, **_SPARSE_CLIP, "weight_decay": _DECAY},
    "FusedRowWiseAdagradOptimizer": {
        "lr": _LR, **_SPARSE_CLIP, "weight_decay": _DECAY,
        "weight_decay_mode": _ignored("has an effect with weight_decay only, which is refused"),
    },
    "DenseOptimizer": {
        **_DENSE, **_SCHEDULES,
        "part_optimizers": _honoured("training.part_optimizers"),
        "ema": _honoured("training.ema_decay"),
    },
    "PartOptimizer": {
        **_DENSE, **_SCHEDULES,
        "regex_pattern": _honoured("pattern: names of the original or of ours"),
    },
    "EMA": {"decay": _honoured("training.ema_decay")},
    "SGDOptimizer": {
        "lr": _LR, "momentum": _honoured("momentum"), "weight_decay": _honoured("weight_decay"),
        "dampening": _honoured("dampening"), "nesterov": _honoured("nesterov"), "fused": _FUSED,
    },
    "AdagradOptimizer": {
        "lr": _LR, "weight_decay": _honoured("weight_decay"), "eps": _honoured("eps"),
        "initial_accumulator_value": _honoured("initial_accumulator_value"), "fused": _FUSED,
    },
    "AdamOptimizer": _ADAM,
    "AdamWOptimizer": _ADAM,
    "ConstantLR": {},
    "ExponentialDecayLR": {
        "decay_size": _honoured("decay_size"), "decay_factor": _honoured("decay_factor"),
        "staircase": _honoured("staircase"), **_WARMUP,
    },
    "ManualStepLR": {
        "schedule_sizes": _honoured("sizes"), "learning_rates": _honoured("lrs"),
        "warmup": _honoured("warmup"), "by_epoch": _honoured("by_epoch"),
    },
    "CosineAnnealingLR": {"T_max": _honoured("t_max"), **_WARMUP},
    "CosineAnnealingWarmRestartsLR": {
        "T_0": _honoured("t_0"), "T_mult": _honoured("t_mult"), **_WARMUP,
    },
}  # fmt: skip


_RANKS = {_OTHER_MODEL.note: 0, _OTHER_FEATURE.note: 1}  # what is named before all else


def check(pipeline: Pipeline) -> None:
    """Refuse what is not supported, and log what has no effect, each kind of field once.

    Raises:
        ConfigError: Names the first refused field in the file, its line, and what is supported.
            A model that is not supported comes before all else, then a kind of feature, then a
            name that the format lacks.
    """
    refused: list[tuple[int, int, str, str]] = []  # of two, the smaller is named
    ignored: dict[tuple[str, str], tuple[str, str, list[str]]] = {}
    for path, field, value in _set_fields(pipeline.message, ""):
        message = _message_of(field)
        status, note = FIELDS[message][field.name]
        if status == REFUSED and not (field.message_type is None and value == field.default_value):
            line = _line(pipeline, path)
            rank = _RANKS.get(note, len(_RANKS))
            refused.append((rank, line, path, note))
        elif status == IGNORED:
            ignored.setdefault((message, field.name), (path, note, []))[2].append(path)
    if pipeline.unknown and all(rank == len(_RANKS) for rank, *_ in refused):
        raise pipeline.unknown[0]
    if refused:
        *_, path, note = min(refused, key=lambda found: found[:2])
        others = f" ({len(refused) - 1} more fields are not)" if len(refused) > 1 else ""
        raise pipeline.error(path, f"not supported{others}; {note}")
    for path, note, paths in ignored.values():
        others = f" (as in {len(paths) - 1} more places)" if len(paths) > 1 else ""
        logger.info("%s: %s is ignored%s: %s", pipeline.place(path), path, others, note)


def _line(pipeline: Pipeline, path: str) -> int:
    """The line of a field; 0 where it has none, as after an override."""
    line = pipeline.place(path).rpartition(":")[2]
    return int(line) if line.isdecimal() else 0


def _message_of(field: FieldDescriptor) -> str:
    assert field.containing_type is not None
    return field.containing_type.name


def _set_fields(message: Message, prefix: str) -> Iterator[tuple[str, FieldDescriptor, object]]:
    """Every field that is set, with its path; nothing below an ignored or refused one."""
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        if is_repeated(field) and field.message_type is not None and not is_map(field):
            elements = [(f"{path}[{k}]", element) for k, element in enumerate(value)]
        else:
            elements = [(path, value)]
        honoured = FIELDS[_message_of(field)][field.name].status == HONOURED
        for where, element in elements:
            yield where, field, element
            if honoured and field.message_type is not None and not is_map(field):
                yield from _set_fields(element, f"{where}.")


def reachable(descriptor: Descriptor = _FORMAT) -> Iterator[tuple[str, FieldDescriptor]]:
    """Each field of the format once, with its message's name; nothing below a refused one."""
    seen: set[str] = set()

    def walk(descriptor: Descriptor) -> Iterator[tuple[str, FieldDescriptor]]:
        if descriptor.name in seen:
            return
        seen.add(descriptor.name)
        below = []
        for field in descriptor.fields:
            yield descriptor.name, field
            fate = FIELDS.get(descriptor.name, {}).get(field.name)
            is_honoured = fate is None or fate.status == HONOURED
            if field.message_type is not None and not is_map(field) and is_honoured:
                below.append(field.message_type)
        for message in below:
            yield from walk(message)

    yield from walk(descriptor)


def markdown() -> str:
    """`FIELDS` as a table, in the order of the format."""
    rows = ["| message | field | | becomes, or why not |", "|---|---|---|---|"]
    last = None
    for message, field in reachable():
        fate = FIELDS[message][field.name]
        shown = "" if message == last else f"`{message}`"
        last = message
        rows.append(f"| {shown} | `{field.name}` | {fate.status} | {fate.note} |")
    return "\n".join(rows) + "\n"
