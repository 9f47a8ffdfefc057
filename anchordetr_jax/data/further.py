"""Augmentations beyond DETR's, all off by default: mosaics, scale and shape jitter, random erasing, further mirrors.

They have random numbers of their own, so that with them off every image is as it was without them.
"""

import dataclasses

import numpy as np

from anchordetr_jax.config import AugmentConfig
from anchordetr_jax.data import erasing, mosaic, scale_jitter, shape_jitter
from anchordetr_jax.data.mosaic import Mosaics
from anchordetr_jax.data.transforms import Draws, draw_augmentations

_PARTS = np.cumsum([mosaic.NUM_UNIFORMS, scale_jitter.NUM_UNIFORMS, erasing.NUM_UNIFORMS, 1])
_LATER = shape_jitter.NUM_UNIFORMS + 1
NUM_UNIFORMS = int(_PARTS[-1]) + _LATER
"""The number of random numbers for these augmentations of one image."""


def has_further(config: AugmentConfig) -> bool:
    """Whether any of these augmentations is on."""
    probabilities = (
        config.mosaic_probability,
        config.scale_jitter_probability,
        config.shape_jitter_probability,
        config.erase_probability,
        config.vertical_flip_probability,
        config.transpose_probability,
    )
    return max(probabilities) > 0


def random_numbers(generator: np.random.Generator, images: int) -> np.ndarray:
    """Random numbers in [0, 1) for these augmentations of n images: float [n, NUM_UNIFORMS].

    Those of shape jitter and transposition, which came later, are drawn after all others: these stay what they were.
    """
    first = generator.random((images, int(_PARTS[-1])))
    return np.concatenate([first, generator.random((images, _LATER))], axis=1)


def draw_changes(
    uniforms: np.ndarray,
    further_uniforms: np.ndarray,
    sizes: np.ndarray,
    permutations: np.ndarray,
    images: int,
    config: AugmentConfig,
) -> tuple[Draws, Mosaics | None]:
    """All changes to n images: DETR's, and these. Without any of these there are no mosaics (None).

    Args:
        uniforms: random numbers for DETR's augmentation, see `draw_augmentations`.
        further_uniforms: `random_numbers` of the n images; without effect where all of these are off.
        sizes: (h, w) before any change, int [n, 2].
        permutations, images, config: see `draw_further`.
    """
    if not has_further(config):
        return draw_augmentations(uniforms, sizes, config), None
    turned = transposed_sizes(sizes, further_uniforms, config)
    draws = draw_augmentations(uniforms, turned, config)
    return draw_further(draws, further_uniforms, turned, permutations, images, config)


def transposed_sizes(sizes: np.ndarray, uniforms: np.ndarray, config: AugmentConfig) -> np.ndarray:
    """Sizes (int [n, 2]) after some of the n images, chosen at random, have rows and columns exchanged.

    This is the first of all changes. `uniforms`: see `random_numbers`.
    """
    return np.where(_transposed(uniforms, config)[:, None], sizes[:, ::-1], sizes)


def draw_further(
    draws: Draws, uniforms: np.ndarray, sizes: np.ndarray, permutations: np.ndarray, images: int, config: AugmentConfig
) -> tuple[Draws, Mosaics]:
    """Adds these augmentations to the draws of n images. An image in a mosaic has no jitter of its own.

    Args:
        draws: DETR's augmentation.
        uniforms: `random_numbers` of the n images.
        sizes: `transposed_sizes`, int [n, 2].
        permutations: int [n]: how many times the data set was passed through before.
        images: the number of images of the data set.
        config: the settings.
    """
    of_mosaic, of_scale, of_erasing, of_flip, of_shape = np.split(uniforms[:, :-1], _PARTS, axis=1)
    early = (permutations < config.mosaic_epochs) | (config.mosaic_epochs == 0)
    mosaics = mosaic.draw_mosaics(of_mosaic, early, images, config)
    jittered = scale_jitter.with_scale_jitter(draws, of_scale, sizes, config, allowed=~mosaics.present)
    jittered = shape_jitter.with_shape_jitter(jittered, of_shape, config, allowed=~mosaics.present)
    further = dataclasses.replace(
        jittered,
        erased=erasing.draw_rectangles(of_erasing, config),
        upside_down=of_flip[:, 0] < config.vertical_flip_probability,
        transposed=_transposed(uniforms, config),
    )
    return further, mosaics


def _transposed(uniforms: np.ndarray, config: AugmentConfig) -> np.ndarray:
    return uniforms[:, -1] < config.transpose_probability
