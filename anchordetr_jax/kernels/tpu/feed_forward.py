"""The feed-forward network of a layer by the kernels of `feed_forward_kernel.py`, with its gradient."""

import functools
from typing import Any

import jax

from anchordetr_jax.kernels.tpu import feed_forward_kernel
from anchordetr_jax.kernels.tpu.norm import norm_of_sum
from anchordetr_jax.kernels.tpu.parts import as_rows
from anchordetr_jax.model.transformer import FeedForwardWeights, feed_forward_update


def feed_forward(x: jax.Array, weights: FeedForwardWeights, *, interpret: bool = False) -> jax.Array:
    """`model.transformer.feed_forward` by the kernels, [..., C] -> [..., C].

    A network that is too large for them computes its products plainly, and only its norm by a kernel. For the backward
    pass only x, the sum before the norm and the weights are kept.
    """
    if not feed_forward_kernel.fits(*weights.kernel1.shape):
        return norm_of_sum(x, feed_forward_update(x, weights), weights.scale, weights.bias, interpret=interpret)
    return _compute(x, weights, interpret)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _compute(x: jax.Array, weights: FeedForwardWeights, interpret: bool) -> jax.Array:
    return _forward(x, weights, interpret)[0]


def _forward(x: jax.Array, weights: FeedForwardWeights, interpret: bool) -> Any:
    out, sums = feed_forward_kernel.feed_forward(as_rows(x), weights, interpret=interpret)
    return out.reshape(x.shape), (x, sums, weights)


def _backward(interpret: bool, saved: Any, gradient: jax.Array) -> tuple[jax.Array, FeedForwardWeights]:
    x, sums, weights = saved
    change, weights_change = feed_forward_kernel.feed_forward_backward(
        as_rows(x), sums, as_rows(gradient), weights, interpret=interpret
    )
    return change.reshape(x.shape), weights_change


_compute.defvjp(_forward, _backward)
