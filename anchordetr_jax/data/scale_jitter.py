"""Large-scale jitter: objects appear much smaller and up to twice as large (Ghiasi et al. 2021, section 3.2)."""

import dataclasses

import numpy as np

from anchordetr_jax.config import AugmentConfig
from anchordetr_jax.data.transforms import Draws, resized_sizes

NUM_UNIFORMS = 5
"""The number of random numbers for the jitter of one image."""


def with_scale_jitter(
    draws: Draws, uniforms: np.ndarray, sizes: np.ndarray, config: AugmentConfig, *, allowed: np.ndarray
) -> Draws:
    """The draws of n images. Some images, chosen at random, have jitter in the place of their resize and crop.

    An image is resized by a random factor, beside its resize to one of `train_sizes`. Where it is then larger than
    without the factor, it is cropped at random to that size.

    Args:
        draws: of n images.
        uniforms: random numbers in [0, 1), float [n, 5].
        sizes: (h, w) before any change, int [n, 2].
        config: the settings.
        allowed: bool [n]: which images may have jitter.
    """
    chance_u, factor_u, size_u, y_u, x_u = uniforms.T
    short_sides = np.array(config.train_sizes)[np.floor(size_u * len(config.train_sizes)).astype(np.int64)]
    usual = resized_sizes(np.asarray(sizes), short_sides, max_size=config.max_size)
    factor = config.scale_jitter_min + factor_u * (config.scale_jitter_max - config.scale_jitter_min)
    jittered = np.maximum(np.round(usual * factor[:, None]), 1).astype(np.int32)
    size = np.minimum(jittered, usual)
    corner = np.floor(np.stack([y_u, x_u], axis=1) * (jittered - size + 1)).astype(np.int32)
    chosen = (allowed & (chance_u < config.scale_jitter_probability))[:, None]
    cropped = (jittered > usual).any(axis=1, keepdims=True)
    return dataclasses.replace(
        draws,
        size=np.where(chosen, size, draws.size),
        pre_size=np.where(chosen, np.where(cropped, jittered, 0), draws.pre_size),
        crop=np.where(chosen, np.where(cropped, np.concatenate([corner, size], axis=1), 0), draws.crop),
    )
