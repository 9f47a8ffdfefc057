"""What is told of our own computation."""

import numpy as np

from anchordetr_jax.verification.computation import matched_pairs


def test_only_targets_that_got_a_query_are_pairs() -> None:
    matches = np.array([[[5, -1, 2], [-1, -1, -1]], [[-1, 0, 1], [3, -1, -1]]])
    assert matched_pairs(matches) == {(0, 0): {0: 5, 2: 2}, (0, 1): {}, (1, 0): {1: 0, 2: 1}, (1, 1): {0: 3}}
