"""Masks over rows and columns of padded grids."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from anchordetr_jax.model.valid_area import StageArea, leading_area, nearest_area


@given(st.integers(1, 10), st.integers(1, 10), st.integers(1, 320), st.integers(1, 320))
def test_on_multiples_of_32_the_official_mask_is_the_size_halved_stage_by_stage(rows, columns, height, width):
    shape = (32 * rows, 32 * columns)
    sizes = jnp.array([[min(height, shape[0]), min(width, shape[1])]])
    stage = StageArea(sizes)
    for _ in range(4):
        stage = stage.strided(2)
    assert stage.sizes is not None
    cells = (shape[0] // 16, shape[1] // 16)
    official, ours = nearest_area(sizes, shape, cells), leading_area(stage.sizes, cells)
    assert np.array_equal(official.rows, ours.rows)
    assert np.array_equal(official.columns, ours.columns)


def test_cells_are_valid_where_row_and_column_are():
    cells = leading_area(jnp.array([[1, 2]]), (2, 3)).cells()
    assert cells.tolist() == [[[True, True, False], [False, False, False]]]


def test_padding_is_replaced_even_where_it_is_not_a_number():
    x = jnp.full((1, 2, 2, 1), jnp.nan).at[0, 0, 0].set(3.0)
    assert leading_area(jnp.array([[1, 1]]), (2, 2)).zero_outside(x).ravel().tolist() == [3.0, 0.0, 0.0, 0.0]
