"""Shapes of images, as ratios of height to width: those that training shows, and those that it never showed.

Where training shows one shape alone, the detector learns the sides of objects as parts of the image's sides. On an
image of another shape it finds the same objects, with boxes that are too long or too short.
"""

from collections.abc import Sequence

import numpy as np

SIMILAR = 1.15
"""Ratios that differ by this factor at most are one shape; 4:3 and 3:2 are."""
_STEP = 1.1
_LEAST_SHARE = 0.01
"""A shape that fewer images have was hardly learned."""


def shown_ratios(sizes: np.ndarray) -> tuple[float, ...]:
    """The ratios of height to width that images have, ascending, each rounded to a power of 1.1.

    Args:
        sizes: (h, w) as training shows the images, int [n, 2].
    """
    steps, counts = np.unique(np.round(np.log(_ratios(sizes)) / np.log(_STEP)), return_counts=True)
    return tuple(np.round(_STEP ** steps[counts >= _LEAST_SHARE * counts.sum()], 3).tolist())


def never_shown(sizes: np.ndarray, shown: Sequence[float]) -> np.ndarray:
    """bool [n]: which images (sizes (h, w), int [n, 2]) have a shape that training never showed.

    `shown`: `shown_ratios` of the training. Empty: nobody knows them, and no image counts.
    """
    if not shown:
        return np.zeros(len(sizes), bool)
    distances = np.abs(np.log(_ratios(sizes))[:, None] - np.log(np.array(shown)))
    return distances.min(axis=1) > np.log(SIMILAR)


def shape_remark(sizes: np.ndarray, shown: Sequence[float]) -> str:
    """A sentence about images with a shape that training never showed. Empty if there are none.

    The arguments are those of `never_shown`.
    """
    strange = never_shown(sizes, shown)
    if not strange.any():
        return ""
    height, width = sizes[strange.argmax()]
    subject = (
        f"An image of {width}x{height} pixels has a shape that its training never showed"
        if len(sizes) == 1
        else f"{strange.sum()} of {len(sizes)} images have shapes that training never showed, such as {width}x{height}"
    )
    return (
        f"{subject} (height to width {height / width:.2f}; shown: {', '.join(f'{ratio:.2f}' for ratio in shown)}). "
        "Boxes may be too long or too short there. Crop or extend such images to a shape that was shown, or train with "
        "augment.shape_jitter_probability=0.5."
    )


def _ratios(sizes: np.ndarray) -> np.ndarray:
    return sizes[:, 0] / sizes[:, 1]
