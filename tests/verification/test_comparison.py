import math

import numpy as np
import pytest

from anchordetr_jax.verification.comparison import Table


def compared(*args, **kwargs) -> Table:
    table = Table("title")
    table.compare("stage", *args, **kwargs)
    return table


def test_a_row_tells_the_largest_and_the_mean_difference() -> None:
    (row,) = compared(np.array([1.0, 2.0]), np.array([1.0, 2.5]), 0.5).rows
    assert (row.shape, row.max_difference, row.mean_difference, row.passed) == ((2,), 0.5, 0.25, True)


@pytest.mark.parametrize(
    ("measure", "error"), [("absolute", 1.0), ("scaled", 0.25), ("relative", 0.5), ("norm", 1 / math.sqrt(20))]
)
def test_an_error_is_what_its_measure_says(measure, error) -> None:
    (row,) = compared(np.array([3.0, 4.0]), np.array([2.0, 4.0]), 1.0, measure).rows
    assert row.error == pytest.approx(error)


@pytest.mark.parametrize("ours", [math.nan, math.inf])
@pytest.mark.parametrize("tolerance", [1e9, None])
def test_what_is_not_a_number_never_passes(ours, tolerance) -> None:
    assert not compared(np.array([ours]), np.array([1.0]), tolerance).passed


def test_another_shape_fails() -> None:
    table = compared(np.zeros((2, 3)), np.zeros((3, 2)), 1.0)
    assert not table.passed
    assert "[2, 3] instead of [3, 2]" in str(table)


def test_without_a_tolerance_a_difference_is_only_reported() -> None:
    table = compared(1.0, 2.0, None)
    assert table.passed
    assert "reported" in str(table)


def test_a_table_without_rows_proves_nothing() -> None:
    assert not Table("empty").passed


def test_numbers_by_name_are_relative_each_to_its_own_and_the_failing_ones_named() -> None:
    table = Table("title")
    table.compare_named("norms", {"a": 1.1, "b": 100.1, "c": 0.0}, {"a": 1.0, "b": 100.0, "c": 0.0}, 0.01)
    assert [row.stage for row in table.failed] == ["norms", "  a"]
    assert table.rows[0].error == pytest.approx(0.1)


def test_a_name_that_only_one_side_has_fails() -> None:
    table = Table("title")
    table.compare_named("norms", {"a": 1.0, "mine": 2.0}, {"a": 1.0, "theirs": 2.0}, 0.01)
    assert [row.stage.strip() for row in table.failed] == ["mine", "theirs"]


def test_numbers_below_the_floor_count_as_much_as_it() -> None:
    table = Table("title")
    table.compare_named("norms", {"a": 1e-9, "b": 1.0}, {"a": 2e-9, "b": 1.0}, 1e-3, floor=1e-5)
    assert table.passed


def test_the_verdict_is_printed_last() -> None:
    assert str(compared(1.0, 1.0, 0.0)).endswith("1 rows, all agree.")
    assert str(compared(1.0, 2.0, 0.0)).endswith("1 rows, 1 FAILED.")
