"""The few image shapes that detectors are compiled for."""

import math

from anchordetr_jax.config import AugmentConfig

SHAPE_MULTIPLE = 32
"""Heights and widths are multiples of this, in pixels."""
SHAPE_STEPS = 4
"""Number of lengths of the long side from `eval_size` to `max_size`, and of the short side up to `eval_size`."""


def static_shape(size: tuple[int, int], augment: AugmentConfig) -> tuple[int, int]:
    """The shape (H, W) that a resized image of size (h, w) is padded to.

    Long sides are padded to one of a few lengths from `eval_size` to `max_size`. Their spacing suits photographs of
    4:3, 3:2 and 16:9, which need almost no padding. Short sides are padded to a few lengths up to `eval_size`.
    """
    short, long = augment.eval_size, max(augment.eval_size, augment.max_size)
    shorts = [short * step / SHAPE_STEPS for step in range(1, SHAPE_STEPS + 1)]
    longs = [short + (long - short) * step / SHAPE_STEPS for step in range(1, SHAPE_STEPS + 1)]
    lengths = sorted({rounded_up(length) for length in (*shorts, *longs)})
    height, width = (next(length for length in lengths if length >= side) for side in size)
    return height, width


def rounded_up(length: float) -> int:
    """The next multiple of `SHAPE_MULTIPLE`."""
    return math.ceil(length / SHAPE_MULTIPLE) * SHAPE_MULTIPLE
