"""What stands for an event of a history: the ids of its item, and a class for the time since it."""

import numpy as np

from deepfm.data.schema import ITEMS, DatasetSchema

AGE_IDS = 64  # up to an age of e^31; id 0 is that of no event
_AGE_CLASSES_PER_UNIT = 2


def age_ids(age: np.ndarray) -> np.ndarray:
    """The class of each time since an event, from 1 on, int64; below 0 as 0.

    Example:
        >>> age_ids(np.array([0.0, 1.0, 86_400.0, 1e30]))
        array([ 1,  2, 23, 63])
    """
    classes = np.log1p(np.maximum(age, 0.0)) * _AGE_CLASSES_PER_UNIT
    found: np.ndarray = 1 + np.minimum(classes, AGE_IDS - 2).astype(np.int64)
    return found


def item_columns(schema: DatasetSchema) -> dict[str, int]:
    """Which sparse field of group `item`, by its place among those, each built field repeats."""
    of_items = [field.name for field in schema.sparse_fields if field.group == "item"]
    return {
        field.name: of_items.index(field.history_of)
        for field in schema.built_fields
        if field.built == ITEMS
    }
