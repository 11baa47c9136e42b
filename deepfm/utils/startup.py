"""What a process that answers one question need not import."""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

import pyarrow as pa


class _WithoutPandas:
    """Finds every module but pandas."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == "pandas":
            raise ModuleNotFoundError("pandas is not needed", name=name)
        return None


def leave_pandas_out() -> None:
    """Keep pyarrow from importing pandas where nobody gives or gets a data frame.

    At its first conversion of a value pyarrow looks for pandas, once, and an import of it takes as
    long as a quarter of torch's. Other imports of pandas work as ever, conversions to data frames
    too; a `Series` that pyarrow is given afterwards is any sequence to it.
    """
    if "pandas" in sys.modules:
        return
    sys.meta_path.insert(0, _WithoutPandas)
    try:
        pa.scalar(0)  # a first conversion
    finally:
        sys.meta_path.remove(_WithoutPandas)
