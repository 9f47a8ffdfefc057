"""Which cells of a padded array belong to the image.

Padding is at the bottom and right, so the valid area of an image is a rectangle, and the mask over cells is the product
of a mask over rows and a mask over columns.
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
    """The valid area at one stage of a backbone; without sizes the padding is treated as image."""

    sizes: jax.Array | None
    """int [B,2] (h, w), or None."""

    def strided(self, stride: int) -> "StageArea":
        """After a layer with this stride: sizes are rounded up, since zero padding acts as a border of zeros does.

        The quotient has this form because the converter to ONNX knows no other for a batch of any size.
        """
        if self.sizes is None or stride == 1:
            return self
        return StageArea(lax.div(self.sizes + (stride - 1), jnp.full_like(self.sizes, stride)))

    def zero_outside(self, x: jax.Array) -> jax.Array:
        """x [B,h,w,C] with zeros in the padding."""
        if self.sizes is None:
            return x
        return leading_area(self.sizes, (x.shape[1], x.shape[2])).zero_outside(x)


def leading_area(sizes: jax.Array, shape: tuple[int, int]) -> ValidArea:
    """The area of the first `sizes` int [B,2] (h, w) rows and columns on a grid of `shape` (h, w)."""
    rows, columns = (jnp.arange(n)[None, :] < sizes[:, axis, None] for axis, n in enumerate(shape))
    return ValidArea(rows, columns)


def nearest_area(image_sizes: jax.Array, image_shape: tuple[int, int], shape: tuple[int, int]) -> ValidArea:
    """The official code's mask at feature level: cell i of h is valid if pixel floor(i * H / h) is.

    `image_sizes` is int [B,2] (h, w) in pixels, `image_shape` the (H, W) of padded images, `shape` the (h, w) of the
    grid in cells. The pixel's index is computed in float32, as PyTorch's nearest-neighbour interpolation does.
    """
    masks = []
    for axis, (pixels, cells) in enumerate(zip(image_shape, shape, strict=True)):
        source = np.floor(np.arange(cells, dtype=np.float32) * (np.float32(pixels) / np.float32(cells)))
        source = np.minimum(source.astype(np.int32), pixels - 1)
        masks.append(jnp.asarray(source)[None, :] < image_sizes[:, axis, None])
    return ValidArea(*masks)
