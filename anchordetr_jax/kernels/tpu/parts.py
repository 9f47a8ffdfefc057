"""Parts that the Pallas kernels share."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from anchordetr_jax.model.precision import at_least_float32, product_precision
from anchordetr_jax.model.valid_area import StageArea

LANES = 128
SUBLANES = 8

_PLAIN = (1,), (0,)
LEFT_TRANSPOSED = (0,), (0,)
RIGHT_TRANSPOSED = (1,), (1,)
"""The axes that a product contracts."""


class ConvolutionNorm(NamedTuple):
    """A convolution and the frozen BatchNorm after it: kernel [k,k,I,O], then a scale and a bias [O]."""

    kernel: jax.Array
    scale: jax.Array
    bias: jax.Array


def dot(a: jax.Array, b: jax.Array, contracted: tuple[tuple[int], tuple[int]] = _PLAIN) -> jax.Array:
    """A product of matrices, in float32 or wider."""
    return jax.lax.dot_general(
        a,
        b,
        (contracted, ((), ())),
        precision=product_precision(a.dtype),
        preferred_element_type=at_least_float32(a.dtype),
    )


def parts(length: int, most: int) -> list[slice]:
    """Splits a length into as few, about equal parts as possible, none longer than `most`."""
    count = math.ceil(length / most)
    ends = [round(i * length / count) for i in range(count + 1)]
    return [slice(*some) for some in itertools.pairwise(ends)]


def name(kernel: str, grid: Sequence[int], sizes: Sequence[int]) -> str:
    """A name with the number of grid steps, which `benchmark.compiled` reads in compiled programs, and with the sizes.

    So two kernels with different schedules never have the same name.
    """
    return f"{kernel}_{'_'.join(map(str, sizes))}_x{math.prod(grid)}"


def whole(array: Any) -> Any:
    """A block that is the whole array, the same in every grid step."""
    return pl.BlockSpec(array.shape, lambda *_: (0,) * len(array.shape))


def as_rows(x: jax.Array) -> jax.Array:
    """[..., C] -> [M,C]."""
    return x.reshape(-1, x.shape[-1])


def block_of_rows(x: jax.Array, most: int, multiple: int) -> int:
    """Rows of x [M,C] in a grid step: a multiple of `multiple`, about the same number in each step.

    There are at most `most` rows of bfloat16, and fewer of wider numbers.
    """
    most = max(multiple, most * 2 // x.dtype.itemsize // multiple * multiple)
    steps = math.ceil(x.shape[0] / most)
    return math.ceil(x.shape[0] / steps / multiple) * multiple


def blocks_of_rows(x: jax.Array, block: int) -> tuple[tuple[int], Any]:
    """The grid of blocks of rows of x [M,C], and one block."""
    return (math.ceil(x.shape[0] / block),), pl.BlockSpec((block, x.shape[1]), lambda i: (i, 0))


def present(blocks: Sequence[jax.Array], step: Any, rows_in_all: int) -> list[jax.Array]:
    """Blocks of rows, with zeros after the last row of the array: memory there is not set, and sums must not see it."""
    rows = blocks[0].shape[0]
    if rows_in_all % rows == 0:
        return list(blocks)
    inside = jax.lax.broadcasted_iota(jnp.int32, (rows, 1), 0) < rows_in_all - step * rows
    return [jnp.where(inside, block, jnp.zeros((), block.dtype)) for block in blocks]


def clear_first(step: Any, *references: Any) -> None:
    """Sets memory that is kept between grid steps to zero, before the first step."""

    @pl.when(step == 0)
    def _() -> None:
        for reference in references:
            reference[...] = jnp.zeros_like(reference)


def places_of_rows(step: Any) -> tuple[Any, Any, Any]:
    """Where the two rows before this step's row lie, and this step's, in memory that holds three rows in turn."""
    return (step + 1) % 3, (step + 2) % 3, step % 3


def valid_heights(area: StageArea, shape: tuple[int, ...]) -> jax.Array:
    """The number of valid rows in each column of grids of `shape` (B, h, w), int32 [B,w]."""
    B, h, w = shape
    if area.sizes is None:
        return jnp.full((B, w), h, jnp.int32)
    inside = jnp.arange(w)[None, :] < area.sizes[:, 1, None]
    return jnp.where(inside, area.sizes[:, 0, None], 0).astype(jnp.int32)
