"""How close a kernel must come to the plain function."""

from typing import Any

import jax
import numpy as np

from tests.tolerances import BFLOAT16


def assert_close(ours: Any, expected: Any, relative: float) -> None:
    """Each array by its norm."""
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert (mine.shape, mine.dtype) == (other.shape, other.dtype)
        mine, other = np.asarray(mine, np.float64), np.asarray(other, np.float64)
        assert np.linalg.norm(mine - other) <= relative * np.linalg.norm(other)


def assert_rounds_no_more(ours: Any, plain: Any, exact: Any) -> None:
    """Each array is as close to the exact one as the plain function's array, with one more rounding to bfloat16."""
    for arrays in zip(*map(jax.tree.leaves, (ours, plain, exact)), strict=True):
        assert arrays[0].dtype == arrays[1].dtype
        mine, other, true = (np.asarray(array, np.float64) for array in arrays)
        allowed = np.linalg.norm(other - true) + BFLOAT16 * np.linalg.norm(true)
        assert np.linalg.norm(mine - true) <= allowed
