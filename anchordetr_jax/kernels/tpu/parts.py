"""What the TPU (Pallas) kernels share."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from anchordetr_jax.model.precision import at_least_float32, product_precision

LANES = 128
SUBLANES = 8

_PLAIN = (1,), (0,)
LEFT_TRANSPOSED = (0,), (0,)
RIGHT_TRANSPOSED = (1,), (1,)
"""What a product contracts."""


class ConvolutionNorm(NamedTuple):
    """A convolution and the frozen BatchNorm after it: kernel [k,k,I,O], then a scale and a bias [O]."""

    kernel: jax.Array
    scale: jax.Array
    bias: jax.Array


def dot(a: jax.Array, b: jax.Array, contracted: tuple[tuple[int], tuple[int]] = _PLAIN) -> jax.Array:
    """A product of matrices, in float32 at least."""
    return jax.lax.dot_general(
        a,
        b,
        (contracted, ((), ())),
        precision=product_precision(a.dtype),
        preferred_element_type=at_least_float32(a.dtype),
    )


def parts(length: int, most: int) -> list[slice]:
    """A length in as few parts as can be, of `most` at most and all about equal."""
    count = math.ceil(length / most)
    ends = [round(i * length / count) for i in range(count + 1)]
    return [slice(*some) for some in itertools.pairwise(ends)]


def name(kernel: str, grid: Sequence[int], sizes: Sequence[int]) -> str:
    """A name that says how many steps the kernel's grid has, which `planning` reads in compiled programs; and sizes, so
    that no two kernels with different schedules share it."""
    return f"{kernel}_{'_'.join(map(str, sizes))}_x{math.prod(grid)}"


def whole(array: Any) -> Any:
    """All of an array, which stays where it is from step to step."""
    return pl.BlockSpec(array.shape, lambda *_: (0,) * len(array.shape))


def as_rows(x: jax.Array) -> jax.Array:
    """[..., C] -> [M,C]."""
    return x.reshape(-1, x.shape[-1])


def block_of_rows(x: jax.Array, most: int, multiple: int) -> int:
    """Rows of x [M,C] in a grid step: as many in each, but for what rounding up to a multiple takes from the last; at
    most `most` of bfloat16, and fewer of wider numbers."""
    most = max(multiple, most * 2 // x.dtype.itemsize // multiple * multiple)
    steps = math.ceil(x.shape[0] / most)
    return math.ceil(x.shape[0] / steps / multiple) * multiple


def blocks_of_rows(x: jax.Array, block: int) -> tuple[tuple[int], Any]:
    """The grid of blocks of rows of x [M,C], and a block."""
    return (math.ceil(x.shape[0] / block),), pl.BlockSpec((block, x.shape[1]), lambda i: (i, 0))


def present(blocks: Sequence[jax.Array], step: Any, rows_in_all: int) -> list[jax.Array]:
    """Blocks of rows with zeros beyond the last row of all, where anything may lie; sums over rows must not see it."""
    rows = blocks[0].shape[0]
    if rows_in_all % rows == 0:
        return list(blocks)
    inside = jax.lax.broadcasted_iota(jnp.int32, (rows, 1), 0) < rows_in_all - step * rows
    return [jnp.where(inside, block, jnp.zeros((), block.dtype)) for block in blocks]


def clear_first(step: Any, *references: Any) -> None:
    """Zeros in what is kept from step to step, before the first."""

    @pl.when(step == 0)
    def _() -> None:
        for reference in references:
            reference[...] = jnp.zeros_like(reference)


def places_of_rows(step: Any) -> tuple[Any, Any, Any]:
    """Where, in memory that holds three rows by turns, the two before this step's are, and this step's."""
    return (step + 1) % 3, (step + 2) % 3, step % 3
