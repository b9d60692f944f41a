"""What a table must hold is what the runner takes, and what is wrong with one is told alike each time."""

import numpy as np
import pytest
from conftest import configure, rejects
from synthetic import sweep

from analysis.tables import schema
from runner.config.options import described


def test_fields_hold_in_a_table_what_they_take_in_a_configuration():
    """But for two, of which older records may hold more."""
    declared = {name: field.metadata.get("allowed") for name, _, field in described(configure())}
    ruled = {name for name in schema.RULES if declared.get(name)} - {"experiment", "task.out_exponent"}
    assert ruled == {
        "task.width",
        "adapter.rank",
        "adapter.alpha",
        "steps",
        "seed",
        "optimizer.lr",
        "optimizer.lr_ratio",
    }

    def same(name, allowed):
        assert schema.RULES[name].text == allowed.text
        for value in (-1, 0, 1, 0.5, 2**24, 2**24 + 1, 2**63, np.inf, np.nan):
            takes = allowed.accepts(value) and ("integer" not in allowed.text or isinstance(value, int))
            assert schema.RULES[name].accepts(value) == takes, value

    for name in ruled:
        same(name, declared[name])
    rejects(same, "seed", declared["steps"])


@pytest.mark.parametrize("value", ["1", True, np.True_, None, [1], 1.0])
def test_a_size_of_another_type_is_none(value):
    assert not schema.RULES["task.width"].accepts(value)
    assert schema.RULES["task.width"].accepts(np.int64(1)) and schema.RULES["optimizer.lr"].accepts(np.float32(1))


@pytest.mark.parametrize("value", [4, 4.0, np.float64(4), np.int64(4)])
def test_a_rank_that_not_every_run_has_is_a_float_in_a_table(value):
    rule = schema.RULES["adapter.rank"]
    assert rule.accepts(value)
    assert not any(rule.accepts(type(value)(wrong)) for wrong in (0, -4, 2**24 + 2))
    assert not any(map(rule.accepts, (4.5, np.inf, np.nan, True, "4", None)))


def test_of_several_faults_the_same_is_told_each_time():
    """In whatever order a set of names is walked, which changes from process to process."""
    frame = sweep(widths=(128,), seeds=(0,), noise=0.0)
    for present in (schema.SIZES, [name for name in schema.SIZES if name != "feature/delta_3"]):
        negative = frame.drop(columns=set(schema.SIZES) & set(frame)).assign(**dict.fromkeys(reversed(present), -1.0))
        assert set(schema.faults(negative).values()) == {f"{present[-1]} is negative"}
