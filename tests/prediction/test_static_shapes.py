"""Images of every size are padded to one of a few shapes, and photographs need little padding."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from anchordetr_jax.config import AugmentConfig
from anchordetr_jax.prediction.static_shapes import StaticShapes

SHAPES = StaticShapes(AugmentConfig(eval_size=800, max_size=1333))


def padded(height: int, width: int) -> tuple[np.ndarray, tuple[int, int]]:
    """The resized size of an image, and its shape."""
    size = SHAPES.resized(np.array([[height, width]]))[0]
    return size, SHAPES.padded((int(size[0]), int(size[1])))


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_every_size_fits_a_shape(height: int, width: int) -> None:
    size, shape = padded(height, width)
    assert (size <= shape).all()
    assert max(shape) <= 1344
    assert shape == padded(width, height)[1][::-1]


def test_there_are_few_shapes() -> None:
    sides = range(20, 3000, 97)
    assert len({padded(height, width)[1] for height in sides for width in sides}) <= 25


def test_photographs_of_the_usual_proportions_need_little_padding() -> None:
    for long, short in ((4, 3), (3, 2), (16, 9), (1, 1)):
        size, shape = padded(short * 300, long * 300)
        assert size.prod() > 0.92 * np.prod(shape)
    assert SHAPES.usual() == (800, 1088)
