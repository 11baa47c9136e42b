"""Which process holds which part of which table."""

import numpy as np
import pytest

from deepfm.errors import ConfigError
from deepfm.models.layers.tables import Table
from deepfm.models.sharded.plan import KINDS, bytes_of_ranks, padded, plan_tables
from tests.torchrec import needs_torchrec

pytestmark = [needs_torchrec, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def table(name, rows, dim):
    return Table(name, "", rows, dim, None, "xavier_uniform", True, (name,))


TABLES = {
    name: table(name, rows, dim)
    for name, rows, dim in [("a", 10, 16), ("b", 3, 16), ("a.b", 7, 6), ("c", 1, 1), ("d", 900, 16)]
}


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("kinds", [KINDS, *((kind,) for kind in KINDS)], ids=str)
def test_the_parts_of_a_table_are_all_of_it_once(world, kinds):
    plan = plan_tables(TABLES, world=world, memory=10**9, kinds=kinds)
    assert list(plan) == list(TABLES)
    for name, placed in plan.items():
        held = np.zeros((TABLES[name].rows, padded(TABLES[name].dim)), int)
        for part in placed.parts:
            held[slice(*part.rows), slice(*part.columns)] += 1
            assert part == placed.of(part.rank)
            assert 0 <= part.rank < world
        assert (held == 1).all()
        for rank in set(range(world)) - {part.rank for part in placed.parts}:
            assert placed.of(rank).numbers == 0
    total = sum(4 * t.rows * padded(t.dim) for t in TABLES.values())
    assert sum(bytes_of_ranks(plan, world)) == total


def test_the_kind_that_is_asked_for():
    def kinds_of(kind, world):
        plan = plan_tables(TABLES, world=world, memory=10**9, kinds=(kind,))
        return [placed.kind for placed in plan.values()]

    assert kinds_of("row_wise", 2) == ["row_wise"] * 5
    assert kinds_of("table_wise", 2) == ["table_wise"] * 5
    assert kinds_of("column_wise", 2) == ["column_wise"] * 3 + ["row_wise", "column_wise"]
    assert kinds_of("column_wise", 4)[2] == "row_wise"  # 8 columns, of which a part has 4 or more


def test_a_table_that_no_process_can_hold_is_cut():
    tables = {"large": table("large", 10**8, 16), "small": table("small", 100, 16)}
    plan = plan_tables(tables, world=4, memory=4 * 10**9)  # 12.8 GB with statistics
    assert plan["large"].kind == "row_wise"
    assert max(bytes_of_ranks(plan, 4)) * 2 < 0.9 * 4 * 10**9


def test_what_does_not_fit_is_refused_in_one_line():
    tables = {"large": table("large", 10**8, 16), "small": table("small", 100, 16)}
    with pytest.raises(
        ConfigError, match=r"12\.80 GB.*large alone 12\.80 GB.*4 processes"
    ) as found:
        plan_tables(tables, world=4, memory=3 * 10**9)
    assert str(found.value).startswith("feature.storage: torchrec")
    assert "\n" not in str(found.value)
