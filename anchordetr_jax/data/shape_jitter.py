"""Shape jitter: a random part of each side of an image is cut off, and objects keep their size in pixels.

A detector that sees images of one shape alone learns the sides of objects as parts of the image's sides. On images of
another shape its boxes are then too long or too short.
"""

import dataclasses

import numpy as np

from anchordetr_jax.config import AugmentConfig
from anchordetr_jax.data.transforms import Draws

NUM_UNIFORMS = 5
"""The number of random numbers for the jitter of one image."""


def with_shape_jitter(draws: Draws, uniforms: np.ndarray, config: AugmentConfig, *, allowed: np.ndarray) -> Draws:
    """The draws of n images. Of some images, chosen at random, a crop remains, whose sides are random parts.

    Args:
        draws: of n images.
        uniforms: random numbers in [0, 1), float [n, 5].
        config: the settings.
        allowed: bool [n]: which images may have jitter.
    """
    chance_u, height_u, width_u, y_u, x_u = uniforms.T
    chosen = (allowed & (chance_u < config.shape_jitter_probability))[:, None]
    has_crop = draws.pre_size.any(axis=1, keepdims=True)
    before = np.where(has_crop, draws.pre_size, draws.size)
    corner = np.where(has_crop, draws.crop[:, :2], 0)
    sides = np.where(has_crop, draws.crop[:, 2:], draws.size)
    parts = config.shape_jitter_min + np.stack([height_u, width_u], axis=1) * (1 - config.shape_jitter_min)
    cut = np.maximum(np.round(sides * parts), 1).astype(np.int32)
    corner = corner + np.floor(np.stack([y_u, x_u], axis=1) * (sides - cut + 1)).astype(np.int32)
    # A crop that is resized afterwards keeps its scale.
    size = np.maximum(np.round(draws.size * (cut / sides)), 1).astype(np.int32)
    return dataclasses.replace(
        draws,
        size=np.where(chosen, size, draws.size),
        pre_size=np.where(chosen, before, draws.pre_size),
        crop=np.where(chosen, np.concatenate([corner, cut], axis=1), draws.crop),
    )
