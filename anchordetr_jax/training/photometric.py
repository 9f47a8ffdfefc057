"""Photometric jitter on the device: random brightness, contrast, saturation and hue of each image.

The four changes together are one linear map of an image's colours. So an image is read and written once, and nothing
has to know the libraries of the host. Existing libraries do not know of padding: their contrast would depend on it.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from anchordetr_jax.config import AugmentConfig
from anchordetr_jax.model.valid_area import leading_area

_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
"""RGB to luma and two axes of colour (the television standard NTSC). A grey has no colour; hue is an angle."""
_FROM_YIQ = np.linalg.inv(_TO_YIQ)
_STREAM = 2**31
"""Makes random numbers of its own: denoising has the numbers of objects in this place."""


def has_jitter(config: AugmentConfig) -> bool:
    """Whether any of the four changes is on."""
    return any((config.brightness, config.contrast, config.saturation, config.hue))


def jittered(
    images: jax.Array, image_sizes: jax.Array, rows: jax.Array, step: jax.Array, *, seed: int, config: AugmentConfig
) -> jax.Array:
    """The images, each with random changes of its colours; the padding is zero.

    The changes of an image follow from the seed, the step and its row alone.

    Args:
        images: uint8 RGB [B,H,W,3], zero in the padding.
        image_sizes: int32 [B,2], the valid (h, w) of each image in pixels.
        rows: int32 [B], the rows of the images in their data set.
        step: int32 scalar.
        seed: of the run.
        config: factors of brightness, contrast and saturation are drawn from [1 - value, 1 + value]. Hue turns by at
            most `hue` parts of the circle of colours.

    Returns:
        uint8 [B,H,W,3], rounded.
    """
    of_step = jax.random.fold_in(jax.random.key(seed % 2**32), step)

    def draw(row: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.fold_in(of_step, row), np.uint32(_STREAM))
        return jax.random.uniform(key, (4,), jnp.float32, -1, 1)

    draws = jax.vmap(draw)(rows)
    brightness, contrast, saturation = (
        1 + draws[:, i] * size for i, size in enumerate((config.brightness, config.contrast, config.saturation))
    )
    matrices, means = colour_matrices(saturation, draws[:, 3] * config.hue), mean_colours(images, image_sizes)
    matrices = (brightness * contrast)[:, None, None] * matrices
    grey = means @ jnp.asarray(_TO_YIQ[0], jnp.float32)
    offsets = (1 - contrast) * brightness * grey
    pixels = jnp.einsum("bhwi,bji->bhwj", images.astype(jnp.float32), matrices, precision="highest")
    changed = jnp.clip(jnp.round(pixels + offsets[:, None, None, None]), 0, 255).astype(jnp.uint8)
    return leading_area(image_sizes, (images.shape[1], images.shape[2])).zero_outside(changed)


def colour_matrices(saturation: jax.Array, hue: jax.Array) -> jax.Array:
    """Maps of RGB, [B,3,3], that multiply the distance from grey and turn the hue by parts of a circle, both [B]."""
    angle = -2 * math.pi * hue  # From red to green, as hue is counted.
    cos, sin, zero = saturation * jnp.cos(angle), saturation * jnp.sin(angle), jnp.zeros_like(angle)
    rows = [[zero + 1, zero, zero], [zero, cos, -sin], [zero, sin, cos]]
    turned = jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
    back, there = (jnp.asarray(matrix, jnp.float32) for matrix in (_FROM_YIQ, _TO_YIQ))
    return jnp.einsum("ij,bjk,kl->bil", back, turned, there, precision="highest")


def mean_colours(images: jax.Array, image_sizes: jax.Array) -> jax.Array:
    """The mean of each channel over the valid area, float32 [B,3]. Sums are integers, so padding changes no bit."""
    sums = images.astype(jnp.uint32).sum(axis=(1, 2), dtype=jnp.uint32)
    return sums.astype(jnp.float32) / image_sizes.prod(axis=1)[:, None].astype(jnp.float32)
