"""Row-column decoupled attention (Anchor DETR, section 3.4) for CPUs: one head after another, with its own gradient.

So the array between the two sums stays in the caches of a CPU. Ordinary attention is row-column attention to a feature
map of one row.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from anchordetr_jax.kernels.one_row import one_row
from anchordetr_jax.model.attention import RowColumnMemory
from anchordetr_jax.model.precision import at_least_float32, product_precision

_PART = 128
"""Columns of scores in one part when the largest score of a row is looked for."""


class _Axis(NamedTuple):
    """Queries and keys along one axis of a feature map. For all heads and images, arrays have one more leading axis."""

    queries: jax.Array  # [Q,d], divided by the root of d
    keys: jax.Array  # [k,d]
    valid: jax.Array | None  # [k]; None in gradients


class _Head(NamedTuple):
    """One head of one image."""

    long: _Axis  # of L places, along which the first sum goes
    short: _Axis  # of S places
    values: jax.Array  # [L,S,d]


def multi_head_attention(queries: jax.Array, keys: jax.Array, values: jax.Array, valid: jax.Array | None) -> jax.Array:
    """`model.attention.multi_head_attention` for CPUs: queries [B,Q,n,d] -> [B,Q,n,d]."""
    return row_column_attention(queries, jnp.zeros_like(queries), one_row(keys, values, valid))


def row_column_attention(row_queries: jax.Array, column_queries: jax.Array, memory: RowColumnMemory) -> jax.Array:
    """`model.attention.row_column_attention` for CPUs: queries [B,Q,n,d] -> [B,Q,n,d]."""
    B, Q, n, d = row_queries.shape

    def by_head(x: jax.Array) -> jax.Array:
        """[B,...,n,d] -> [n*B,...,d]."""
        return jnp.moveaxis(x, -2, 0).reshape(n * B, *x.shape[1:-2], d)

    row_queries, column_queries = (x * jnp.asarray(d**-0.5, x.dtype) for x in (row_queries, column_queries))
    rows, columns = (jnp.tile(valid, (n, 1)) for valid in memory.area)
    long = _Axis(by_head(row_queries), by_head(memory.row_keys), columns)
    short = _Axis(by_head(column_queries), by_head(memory.column_keys), rows)
    values = by_head(memory.values)
    if values.shape[1] > values.shape[2]:
        long, short = short, long
    else:
        values = values.swapaxes(1, 2)
    return jnp.moveaxis(_attend(_Head(long, short, values), B).reshape(n, B, Q, d), 0, 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _attend(heads: _Head, images: int) -> jax.Array:
    """[n*B,Q,d] of all heads of this number of images."""
    return _attend_forward(heads, images)[0]


def _attend_forward(heads: _Head, images: int) -> Any:
    mixed, normalizers = _in_turn(_attend_in_head, images, heads)
    return mixed, (heads, mixed, normalizers)


def _attend_backward(images: int, saved: Any, gradient: jax.Array) -> tuple[_Head]:
    return (_in_turn(_gradients_in_head, images, *saved, gradient),)


_attend.defvjp(_attend_forward, _attend_backward)


def _in_turn(function: Callable[..., Any], images: int, *arrays: Any) -> Any:
    """function(*arrays) for one head after another, each with all images: single images would make products slower."""
    return lax.map(lambda given: function(*given), arrays, batch_size=images if images > 1 else None)


# All but the second sum are products of matrices: XLA's CPU compiler would copy arrays of more dimensions.


def _attend_in_head(head: _Head) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """The sum of values [Q,d], and for both axes the logarithm of the softmax's divisor [Q,1]."""
    L, S, d = head.values.shape
    weights, normalizer = _softmax(head.long)
    inner = _product(weights, head.values.reshape(L, S * d))
    if S == 1:  # The only weight is one.
        return inner, (normalizer, jnp.zeros_like(normalizer))
    short_weights, short_normalizer = _softmax(head.short)
    mixed = jnp.einsum("qs,qsd->qd", short_weights, inner.reshape(-1, S, d), precision=product_precision(inner.dtype))
    return mixed, (normalizer, short_normalizer)


def _gradients_in_head(
    head: _Head, mixed: jax.Array, normalizers: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> _Head:
    """Gradients of queries, keys and values from that of `mixed`. Weights and the inner sum are computed again."""
    long, short, values = head
    L, S, d = values.shape
    dtype, precision = values.dtype, product_precision(values.dtype)
    by_place = values.reshape(L, S * d)
    # The term that a softmax subtracts from the gradient of each of its scores is the same for both axes.
    wide = at_least_float32(dtype)
    mean = jnp.sum(gradient.astype(wide) * mixed.astype(wide), axis=-1, keepdims=True)

    long_weights = jnp.exp(_scores(long) - normalizers[0])
    if S == 1:
        of_inner, of_short = gradient, _Axis(jnp.zeros_like(short.queries), jnp.zeros_like(short.keys), None)
    else:
        short_weights = jnp.exp(_scores(short) - normalizers[1])
        inner = _product(long_weights.astype(dtype), by_place).reshape(-1, S, d)
        of_short_weights = jnp.einsum("qsd,qd->qs", inner, gradient, precision=precision)
        of_short = _gradients_of_axis(short, short_weights * (of_short_weights - mean))
        of_inner = lax.optimization_barrier(short_weights.astype(dtype)[:, :, None] * gradient[:, None])
    of_inner = of_inner.reshape(-1, S * d)
    of_long = _gradients_of_axis(long, long_weights * (_product(of_inner, by_place.T) - mean))
    of_values = _product_of_columns(long_weights.astype(dtype), of_inner).reshape(L, S, d)
    return _Head(of_long, of_short, of_values)


def _gradients_of_axis(axis: _Axis, of_scores: jax.Array) -> _Axis:
    """Gradients of queries and keys from that of their scores [Q,k]."""
    of_scores = of_scores.astype(axis.queries.dtype)
    return _Axis(_product(of_scores, axis.keys), _product_of_columns(of_scores, axis.queries), None)


def _softmax(axis: _Axis) -> tuple[jax.Array, jax.Array]:
    """Weights [Q,k] in the dtype of the queries, and the logarithm of their divisor [Q,1]."""
    scores = _scores(axis)
    largest = _largest(scores)
    weights = jnp.exp(scores - largest)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    return (weights / total).astype(axis.queries.dtype), largest + jnp.log(total)


def _largest(scores: jax.Array) -> jax.Array:
    """The largest score of each row, [Q,1]. Whole parts are compared first: along a row a CPU compares one by one."""
    columns = scores.shape[1]
    if columns > 2 * _PART:  # The last part may overlap the one before.
        starts = [*range(0, columns - _PART, _PART), columns - _PART]
        scores = functools.reduce(jnp.maximum, [scores[:, start : start + _PART] for start in starts])
    return jnp.max(scores, axis=-1, keepdims=True)


def _scores(axis: _Axis) -> jax.Array:
    """[Q,k] in float32 or wider; minus infinity where a place is not valid."""
    wide = at_least_float32(axis.queries.dtype)
    scores = _product(axis.queries, axis.keys.T, preferred_element_type=wide)
    assert axis.valid is not None
    return jnp.where(axis.valid, scores, -jnp.inf)


def _product(a: jax.Array, b: jax.Array, **options: Any) -> jax.Array:
    return jnp.matmul(a, b, precision=product_precision(a.dtype), **options)


def _product_of_columns(a: jax.Array, b: jax.Array) -> jax.Array:
    """The transpose of a [m,k] times b [m,n]: [k,n]."""
    if 8 * b.shape[1] < a.shape[1]:  # 900 by 32 takes 0.38 ms this way instead of 0.50 ms; 42 by 32 gains nothing.
        return _product(lax.optimization_barrier(b.T), a).T
    return _product(a.T, b)
