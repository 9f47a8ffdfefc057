"""Augmentations beyond DETR's, all off by default: mosaics, large-scale jitter, random erasing and vertical flips.

They have random numbers of their own, so that with them off every image is as it was without them.
"""

import dataclasses

import numpy as np

from anchordetr_jax.config import AugmentConfig
from anchordetr_jax.data import erasing, mosaic, scale_jitter
from anchordetr_jax.data.mosaic import Mosaics
from anchordetr_jax.data.transforms import Draws

_PARTS = np.cumsum([mosaic.NUM_UNIFORMS, scale_jitter.NUM_UNIFORMS, erasing.NUM_UNIFORMS])
NUM_UNIFORMS = int(_PARTS[-1]) + 1
"""The number of random numbers for these augmentations of one image."""


def has_further(config: AugmentConfig) -> bool:
    """Whether any of these augmentations is on."""
    probabilities = (
        config.mosaic_probability,
        config.scale_jitter_probability,
        config.erase_probability,
        config.vertical_flip_probability,
    )
    return max(probabilities) > 0


def draw_further(
    draws: Draws, uniforms: np.ndarray, sizes: np.ndarray, permutations: np.ndarray, images: int, config: AugmentConfig
) -> tuple[Draws, Mosaics]:
    """Adds these augmentations to the draws of n images. An image in a mosaic has no jitter of its own.

    Args:
        draws: DETR's augmentation.
        uniforms: random numbers in [0, 1), float [n, NUM_UNIFORMS].
        sizes: (h, w) before any change, int [n, 2].
        permutations: int [n]: how many times the data set was passed through before.
        images: the number of images of the data set.
        config: the settings.
    """
    of_mosaic, of_jitter, of_erasing, of_flip = np.split(uniforms, _PARTS, axis=1)
    early = (permutations < config.mosaic_epochs) | (config.mosaic_epochs == 0)
    mosaics = mosaic.draw_mosaics(of_mosaic, early, images, config)
    jittered = scale_jitter.with_scale_jitter(draws, of_jitter, sizes, config, allowed=~mosaics.present)
    further = dataclasses.replace(
        jittered,
        erased=erasing.draw_rectangles(of_erasing, config),
        upside_down=of_flip[:, 0] < config.vertical_flip_probability,
    )
    return further, mosaics
