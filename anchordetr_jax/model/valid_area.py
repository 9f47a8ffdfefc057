"""Which cells of a padded array belong to the image.

Padding is at the bottom and right, so the valid area of an image is a rectangle and a mask over cells is the product of
a mask over rows and a mask over columns.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class ValidArea(NamedTuple):
    """Valid rows, bool [B,h], and columns, bool [B,w], of a grid of pixels or feature cells."""

    rows: jax.Array
    columns: jax.Array

    def cells(self) -> jax.Array:
        """The mask over cells, bool [B,h,w]; True is valid."""
        return self.rows[:, :, None] & self.columns[:, None, :]

    def zero_outside(self, x: jax.Array) -> jax.Array:
        """x [B,h,w,C] with zeros in the padding."""
        return jnp.where(self.cells()[..., None], x, jnp.zeros((), x.dtype))


class StageArea(NamedTuple):
    """The valid area at one stage of a backbone; does nothing where padding is treated as image."""

    sizes: jax.Array | None
    """int [B,2] (h, w), or None."""

    def halved(self) -> "StageArea":
        """After a stride of 2."""
        return StageArea(None if self.sizes is None else halve(self.sizes))

    def heights(self, shape: tuple[int, ...]) -> jax.Array:
        """How many rows of each column of grids of `shape` (B, h, w) are valid, int32 [B,w]."""
        B, h, w = shape
        if self.sizes is None:
            return jnp.full((B, w), h, jnp.int32)
        inside = jnp.arange(w)[None, :] < self.sizes[:, 1, None]
        return jnp.where(inside, self.sizes[:, 0, None], 0).astype(jnp.int32)

    def zero_outside(self, x: jax.Array) -> jax.Array:
        """x [B,h,w,C] with zeros in the padding."""
        if self.sizes is None:
            return x
        return leading_area(self.sizes, (x.shape[1], x.shape[2])).zero_outside(x)


def leading_area(sizes: jax.Array, shape: tuple[int, int]) -> ValidArea:
    """The area of the first `sizes` int [B,2] (h, w) rows and columns on a grid of `shape` (h, w)."""
    rows, columns = (jnp.arange(n)[None, :] < sizes[:, axis, None] for axis, n in enumerate(shape))
    return ValidArea(rows, columns)


def strided(sizes: jax.Array, stride: int) -> jax.Array:
    """Valid sizes, int [B,2], after a stage of some stride: rounded up. Zero padding does what a border of zeros does.

    The quotient is written in this form because ONNX's converter knows no other for a batch of any size.
    """
    return lax.div(sizes + (stride - 1), jnp.full_like(sizes, stride))


def halve(sizes: jax.Array) -> jax.Array:
    """Valid sizes after a stage of stride 2."""
    return strided(sizes, 2)


def nearest_area(image_sizes: jax.Array, image_shape: tuple[int, int], shape: tuple[int, int]) -> ValidArea:
    """The official code's mask at feature level: cell i of h is valid if pixel floor(i * H / h) is.

    The pixel's index is computed in float32, as PyTorch's nearest-neighbour interpolation does.
    """
    masks = []
    for axis, (pixels, cells) in enumerate(zip(image_shape, shape, strict=True)):
        source = np.floor(np.arange(cells, dtype=np.float32) * (np.float32(pixels) / np.float32(cells)))
        source = np.minimum(source.astype(np.int32), pixels - 1)
        masks.append(jnp.asarray(source)[None, :] < image_sizes[:, axis, None])
    return ValidArea(*masks)
