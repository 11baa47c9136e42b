"""Small pipelines for tests, from parts that a test replaces."""

from pathlib import Path

FEATURES = """
feature_configs { id_feature { feature_name: "a" expression: "user:a" num_buckets: 10 embedding_dim: 4 } }
feature_configs { id_feature { feature_name: "b" expression: "item:b" num_buckets: 20 embedding_dim: 4 } }
feature_configs { raw_feature { feature_name: "n" expression: "item:n" } }
"""  # noqa: E501
GROUPS = """
  feature_groups { group_name: "wide" feature_names: ["a", "b"] group_type: WIDE }
  feature_groups { group_name: "fm" feature_names: ["a", "b"] }
  feature_groups { group_name: "deep" feature_names: ["a", "b", "n"] }
"""
MODEL = "deepfm { deep { hidden_units: [8, 4] } }"
TRAIN = """
  sparse_optimizer { adagrad_optimizer { lr: 0.001 } }
  dense_optimizer { adam_optimizer { lr: 0.001 } }
  num_epochs: 1
"""


def pipeline_text(
    *,
    train: str = TRAIN,
    data: str = "",
    features: str = FEATURES,
    groups: str = GROUPS,
    model: str = MODEL,
    losses: str = "losses { binary_cross_entropy {} }",
    metrics: str = "metrics { auc {} }",
    more: str = "",
    paths: str = 'train_input_path: "t.parquet" eval_input_path: "v.parquet"',
) -> str:
    return f"""
{paths}
model_dir: "out"
train_config {{ {train} }}
data_config {{ label_fields: "y" {data} }}
{features}
model_config {{
{groups}
{model}
{losses}
{metrics}
}}
{more}
"""


def write(folder: Path, name: str = "x.config", **parts: str) -> Path:
    path = folder / name
    path.write_text(pipeline_text(**parts))
    return path
