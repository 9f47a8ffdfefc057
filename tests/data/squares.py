"""A data set without pixels, whose objects have sizes that a test chooses."""

import numpy as np

from anchordetr_jax.data.categories import Categories


class Squares:
    """Images of 480x640 pixels with one square each, or as many in one place as `box_counts` says."""

    categories = Categories(ids=(1, 2), names=("a", "b"))

    def __init__(self, images: int, *sides: float):
        """`sides`: of the squares, in pixels; they repeat."""
        self.sizes = np.tile([480, 640], (images, 1))
        self.sides = np.resize(sides, images)
        self.box_counts = np.ones(images, int)
        self.classes = np.zeros(images, int)

    def __len__(self) -> int:
        return len(self.sizes)

    def labels(self, row: int) -> np.ndarray:
        return np.full(self.box_counts[row], self.classes[row])

    def boxes(self, row: int) -> np.ndarray:
        square = np.array([10, 20, 10 + self.sides[row], 20 + self.sides[row]], np.float32)
        return np.tile(square, (self.box_counts[row], 1))
