"""What reads a stranger's bytes: one function per kind of file, for both fuzzers.

Each writes the bytes to a file and reads it as the program does; a `DeepFMError` is an answer,
whatever else comes out is a finding.
"""

import random
from collections.abc import Callable
from pathlib import Path

from deepfm.errors import DeepFMError

YAML = b"""model_name: xdeepfm
seed: 3
output_dir: run
feature: {embedding_dim: 4, fm_embedding_dim: 8}
dnn: {hidden_units: [8, 4], dropout: 0.1, norm: batch}
cin: {layer_sizes: [4, 4]}
data:
  dataset_name: tabular
  data_dir: .
  split_strategy: random
  split_fractions: [0.8, 0.1, 0.1]
  table:
    files: [rows.csv]
    label: click
    fields:
      C1..C3: &sparse {type: sparse, min_count: 2}
      [user, item]: *sparse
      price: {type: dense, scale: log1p, missing: indicator}
      tags: {type: sequence, separator: "|", max_length: 4, combiner: max}
training: {epochs: 2, batch_size: 64, lr: 1e-3, scheduler: {name: cosine}}
evaluation: {metrics: [auc, logloss, {name: gauc, group: user}]}
"""
CSV = b"""label,user,price,tags,when
1,u1,2.5,a|b,2024-01-01 10:00:00
0,"u,2",,c,2024-01-02 11:30:00
1,u3,1e3,"a ""quoted"" one",2024-01-03 12:00:00
0,u1,-7,,2024-01-04 13:00:00
"""
PIPELINE = b"""train_input_path: "rows.csv"
eval_input_path: "rows.csv"
model_dir: "run"
train_config {
  sparse_optimizer { adagrad_optimizer { lr: 0.01 } constant_learning_rate {} }
  dense_optimizer { adam_optimizer { lr: 0.001 } constant_learning_rate {} }
  num_epochs: 1
}
eval_config {}
data_config {
  batch_size: 64
  dataset_type: CsvDataset
  fg_mode: FG_NONE
  label_fields: "click"
}
feature_configs { id_feature { feature_name: "user" num_buckets: 100 embedding_dim: 8 } }
feature_configs { raw_feature { feature_name: "price" boundaries: [1, 2, 3] embedding_dim: 8 } }
model_config {
  feature_groups { group_name: "wide" feature_names: "user" group_type: WIDE }
  feature_groups { group_name: "fm" feature_names: "user" feature_names: "price" group_type: DEEP }
  feature_groups {
    group_name: "deep" feature_names: "user" feature_names: "price" group_type: DEEP
  }
  deepfm { deep { hidden_units: [8, 4] } final { hidden_units: [4] } wide_embedding_dim: 4 }
  metrics { auc {} }
  losses { binary_cross_entropy {} }
}
"""


def read_yaml(path: Path) -> None:
    from deepfm.config import load_config

    load_config(path)


def read_pipeline(path: Path) -> None:
    from deepfm.easyrec.pipelines import load_pipeline

    load_pipeline(path, [], is_read=False)


def read_csv(path: Path) -> None:
    from deepfm.data.files.read import read_rows
    from deepfm.data.sources.describe import describe, to_yaml

    list(read_rows([path], block_size=64))
    to_yaml(describe(str(path)))


def read_checkpoint(path: Path) -> None:
    from deepfm.checkpoint import load_checkpoint

    load_checkpoint(path).build_model()


TARGETS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "yaml": ("x.yaml", read_yaml),
    "pipeline": ("x.config", read_pipeline),
    "csv": ("x.csv", read_csv),
    "checkpoint": ("x.pt", read_checkpoint),
}
SEEDS = {"yaml": YAML, "pipeline": PIPELINE, "csv": CSV}


def finding(name: str, data: bytes, folder: Path) -> str:
    """What came out that is no `DeepFMError`, with where; empty if nothing did."""
    file, read = TARGETS[name]
    path = folder / file
    path.write_bytes(data)
    try:
        read(path)
    except DeepFMError:
        return ""
    except Exception as error:
        trace = error.__traceback__
        place = ""
        while trace is not None:
            file_name = trace.tb_frame.f_code.co_filename
            if "/deepfm/" in file_name:
                place = f"{file_name.rpartition('/deepfm/')[2]}:{trace.tb_lineno}"
            trace = trace.tb_next
        return f"{type(error).__name__} in {place}: {str(error)[:120]}"
    return ""


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Bytes with a few changes: a flip, a cut, a doubled piece, a piece elsewhere, a number."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not found:
            break
        start = rng.randrange(len(found))
        end = min(len(found), start + rng.choice((1, 1, 4, 16, 64)))
        how = rng.randrange(6)
        if how == 0:
            found[start] ^= 1 << rng.randrange(8)
        elif how == 1:
            del found[start:end]
        elif how == 2:
            found[start:start] = found[start:end]
        elif how == 3:
            place = rng.randrange(len(found))
            found[place:place] = found[start:end]
        elif how == 4:
            found[start:end] = rng.choice(
                (b"0", b"-1", b"1e400", b"nan", b"null", b"[]", b"{}", b'""', b"\0", b"\xff", b"~",
                 b"99999999999999999999", b": ", b"\n", b"- ", b"'", b"&a ", b"*a")
            )  # fmt: skip
        else:
            found[start] = rng.randrange(256)
    return bytes(found)
