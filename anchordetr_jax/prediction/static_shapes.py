"""The sizes to which images are resized, and the few static shapes to which they are padded."""

import dataclasses
import math

import numpy as np

from anchordetr_jax.config import AugmentConfig
from anchordetr_jax.data.transforms import evaluation_draws

MULTIPLE = 32
"""The sides of all shapes are multiples of this."""
STEPS = 4
"""The number of lengths of the long side up to `max_size`, and of the short side up to `eval_size`."""


@dataclasses.dataclass(frozen=True)
class StaticShapes:
    """Sizes and shapes (height, width) in pixels. They depend on the settings alone, so few programs are compiled."""

    augment: AugmentConfig

    def resized(self, sizes: np.ndarray) -> np.ndarray:
        """The sizes, int [n, 2], at which the network sees images of the given sizes (h, w).

        They are those of evaluation, except that an image of extreme proportions is squeezed to `max_size`.
        """
        return np.minimum(evaluation_draws(sizes, self.augment).size, _rounded_up(self.augment.max_size))

    def padded(self, size: tuple[int, int]) -> tuple[int, int]:
        """The shape (H, W) to which a resized image of size (h, w) is padded.

        Long sides are padded to one of a few lengths from `eval_size` to `max_size`. Their spacing suits photographs of
        4:3, 3:2 and 16:9, which need almost no padding. Short sides are padded to a few lengths up to `eval_size`.
        """
        short, long = self.augment.eval_size, max(self.augment.eval_size, self.augment.max_size)
        shorts = [short * step / STEPS for step in range(1, STEPS + 1)]
        longs = [short + (long - short) * step / STEPS for step in range(1, STEPS + 1)]
        lengths = sorted({_rounded_up(length) for length in (*shorts, *longs)})
        height, width = (next(length for length in lengths if length >= side) for side in size)
        return height, width

    def usual(self) -> tuple[int, int]:
        """The shape (H, W) of a photograph of 4:3."""
        height, width = self.resized(np.array([[3 * self.augment.eval_size, 4 * self.augment.eval_size]]))[0].tolist()
        return self.padded((height, width))


def _rounded_up(length: float) -> int:
    return math.ceil(length / MULTIPLE) * MULTIPLE
