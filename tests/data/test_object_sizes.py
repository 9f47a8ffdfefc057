"""How large objects are, for the settings that follow from it."""

import numpy as np
import pytest

from anchordetr_jax.data.object_sizes import RARE, object_sides, size_spread, small_object
from tests.data.squares import Squares


def test_sides_are_relative_to_the_short_side() -> None:
    assert object_sides(Squares(2, 48, 96)) == pytest.approx([0.1, 0.2])  # type: ignore[arg-type]


def test_a_class_of_small_objects_counts_although_it_is_rare() -> None:
    dataset = Squares(400, *[240] * 19, 24)  # A twentieth of the squares is small.
    assert small_object(dataset) == pytest.approx(0.5)  # type: ignore[arg-type]
    dataset.classes[dataset.sides == 24] = 1
    assert small_object(dataset) == pytest.approx(0.05)  # type: ignore[arg-type]


def test_classes_of_different_sizes_may_each_have_one_size() -> None:
    dataset = Squares(60, 50, 200)
    assert size_spread(dataset) > 0.6  # type: ignore[arg-type]
    dataset.classes[dataset.sides == 200] = 1
    assert size_spread(dataset) == pytest.approx(0, abs=1e-6)  # type: ignore[arg-type]


def test_without_objects_nothing_is_known_of_their_sizes() -> None:
    assert size_spread(Squares(RARE - 1, 100)) == np.inf  # type: ignore[arg-type]
