"""Whether two arrays are the same up to a tolerance."""

from typing import Any

import numpy as np


def assert_near(found: Any, expected: Any, tolerance: float) -> None:
    """`found == pytest.approx(expected, abs=tolerance)` for arrays, of which that compares each number in Python."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance, equal_nan=False)
