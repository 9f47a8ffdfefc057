"""Shapes of images, as ratios of height to width: those that training shows, and those that it hardly or never showed.

Where training shows one shape alone, the detector learns the sides of objects as parts of the image's sides. On an
image of another shape it finds the same objects, with boxes that are too long or too short.
"""

from collections.abc import Sequence

import numpy as np

SIMILAR = 1.15
"""Ratios that differ by this factor at most count as one shape; 4:3 and 3:2 do."""
FEW = 0.01
"""Of many images a smaller share with other shapes is not worth a word."""
_STEP = 1.1
_LEAST_SHARE = 0.002
"""A shape that fewer images have is hardly learned."""


def shown_ratios(sizes: np.ndarray) -> tuple[float, ...]:
    """The ratios of height to width that images have, ascending. Ratios within about 10 % become their mean.

    Args:
        sizes: (h, w) as training shows the images, int [n, 2].
    """
    logarithms = np.log(_ratios(sizes))
    steps = np.round(logarithms / np.log(_STEP))
    values, counts = np.unique(steps, return_counts=True)
    kept = values[counts >= _LEAST_SHARE * len(sizes)]
    return tuple(round(float(np.exp(logarithms[steps == step].mean())), 3) for step in kept)


def never_shown(sizes: np.ndarray, shown: Sequence[float]) -> np.ndarray:
    """bool [n]: which images (sizes (h, w), int [n, 2]) have a shape that training hardly or never showed.

    `shown`: `shown_ratios` of the training. Empty: nobody knows them, and no image counts.
    """
    if not shown:
        return np.zeros(len(sizes), bool)
    distances = np.abs(np.log(_ratios(sizes))[:, None] - np.log(np.array(shown)))
    return distances.min(axis=1) > np.log(SIMILAR)


def shape_remark(sizes: np.ndarray, shown: Sequence[float], one: str = "An image") -> str:
    """A sentence about images with a shape that training hardly or never showed. Empty if they are few or none.

    Args:
        sizes, shown: see `never_shown`.
        one: what a single size is of.
    """
    strange = never_shown(sizes, shown)
    if not strange.sum() > FEW * len(sizes):
        return ""
    height, width = sizes[strange.argmax()]
    size = f"{width}x{height} pixels"
    if len(sizes) == 1:
        subject = f"{one} of {size} has a shape that the detector's training hardly or never showed"
    else:
        several = f"{strange.sum()} of {len(sizes)} images have shapes"
        subject = f"{several} that the detector's training hardly or never showed, such as {size}"
    return (
        f"{subject} (height to width {height / width:.2f}; shown: {', '.join(f'{ratio:.2f}' for ratio in shown)}). "
        "Boxes may be too long or too short there. Crop or extend such images to a shape that was shown, or train with "
        "augment.shape_jitter_probability=0.5."
    )


def tile_remark(sizes: np.ndarray, tiles: int, shown: Sequence[float]) -> str:
    """The same about the first tile of such a shape, where pictures (sizes (h, w), int [n, 2]) are cut into tiles.

    `tiles`: the side of a tile in pixels. A tile has the side of its picture where that is less.
    """
    of_tiles = np.minimum(sizes[sizes.max(axis=1) > tiles], tiles)
    return shape_remark(of_tiles[never_shown(of_tiles, shown)][:1], shown, "A tile")


def _ratios(sizes: np.ndarray) -> np.ndarray:
    return sizes[:, 0] / sizes[:, 1]
