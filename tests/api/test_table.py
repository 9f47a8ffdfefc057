"""Rows of numbers as text and as HTML."""

from anchordetr_jax.api.table import Table

ROWS = ({"step": 8, "AP": 0.12345, "hidden": 1}, {"step": 16, "AP": None})


def test_the_columns_that_some_row_has_are_shown() -> None:
    table = Table(ROWS, ("step", "epoch", "AP"))
    assert repr(table) == "step     AP\n   8  0.123\n  16       "
    assert table._repr_html_().startswith("<table><tr><th>step</th><th>AP</th></tr><tr><td>8</td><td>0.123</td></tr>")


def test_a_table_is_a_sequence_of_whole_rows() -> None:
    table = Table(ROWS, ("step",))
    assert table[0]["hidden"] == 1
    assert list(table[1:]) == [ROWS[1]]
    assert len(table) == 2
