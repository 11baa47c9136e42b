"""Checkpoints of models that were never trained, for what is done with checkpoints."""

from pathlib import Path

import pyarrow as pa
import torch

from deepfm.checkpoint import Checkpoint
from deepfm.config import config_from_dict
from deepfm.data.encoding.encoders import Encoders
from deepfm.data.sampling import Interactions
from deepfm.data.schema import DatasetSchema
from deepfm.models import build_model
from tests import tiny

NETWORKS = {"dnn": {"hidden_units": [8, 4], "norm": "batch"}}


def checkpoint(schema: DatasetSchema, table: pa.Table, seed: int = 0, **config) -> Checkpoint:
    """Of fields that are fitted on a table; no weight is 0, but for those of padding."""
    options = {name: of for name, of in {**NETWORKS, **config}.items() if of is not None}
    used = config_from_dict(options)
    encoders = Encoders.fit(schema, table)
    torch.manual_seed(seed)
    model = build_model(encoders.schema, used)
    with torch.no_grad():
        for name, weight in model.state_dict().items():
            if weight.is_floating_point() and not name.startswith("embedding.tables"):
                weight.add_(0.1 * torch.rand_like(weight))
    return Checkpoint(used, encoders, None, None, None, model.state_dict())


def of_ranking(path: Path, seed: int = 0, **config) -> Path:
    """A file of a model that ranks the items of `tests.tiny`."""
    tables, schema = tiny.load(path.parent, False), tiny.schema()
    found = checkpoint(schema, tables.complete(schema, tables.interactions), seed, **config)
    found.users, found.items = tables.users, tables.items
    user, item = (tables.interactions[name].to_numpy() for name in ("user", "item"))
    sizes = {"num_users": tiny.NUM_USERS, "num_items": tiny.NUM_ITEMS}
    found.history = Interactions(user, item, **sizes)
    found.save(path)
    return path
