"""For TPUs: Pallas kernels for attention, feed-forward networks, norms, the stem and the first stage of a ResNet.

A file such as `attention.py` has the function that a layer gets, `attention_kernel.py` the Pallas kernel in it.
"""

import functools

import jax
import jax.numpy as jnp

from anchordetr_jax.kernels.table import Replacement
from anchordetr_jax.kernels.tpu.attention import multi_head_attention, product_at_cells, row_column_attention
from anchordetr_jax.kernels.tpu.bias import add_bias
from anchordetr_jax.kernels.tpu.bottleneck import bottleneck
from anchordetr_jax.kernels.tpu.feed_forward import feed_forward
from anchordetr_jax.kernels.tpu.norm import norm_of_sum
from anchordetr_jax.kernels.tpu.stem import stem
from anchordetr_jax.model.attention import MultiHeadAttention, RowColumnAttention
from anchordetr_jax.model.layers import Convolution, Linear, convolution_of_xla
from anchordetr_jax.model.normalization import ResidualNorm
from anchordetr_jax.model.resnet import Bottleneck, Stem
from anchordetr_jax.model.transformer import FeedForward


def replacements(interpret: bool) -> tuple[Replacement, ...]:
    """The table. With `interpret` Pallas interprets the kernels, so that they run, slowly, on any platform."""
    row_column = functools.partial(row_column_attention, interpret=interpret)
    multi_head = functools.partial(multi_head_attention, interpret=interpret)
    return (
        Replacement(RowColumnAttention, "features", "attend", row_column),
        Replacement(RowColumnAttention, "features", "at_cells", product_at_cells),
        Replacement(MultiHeadAttention, "queries", "attend", multi_head),
        # The projections of those two attentions.
        Replacement(Linear, "features", "add_bias", add_bias),
        Replacement(Linear, "queries", "add_bias", add_bias),
        Replacement(FeedForward, None, "compute", functools.partial(feed_forward, interpret=interpret)),
        Replacement(ResidualNorm, None, "norm_of_sum", functools.partial(norm_of_sum, interpret=interpret)),
        Replacement(Stem, None, "compute", functools.partial(stem, interpret=interpret)),
        Replacement(Bottleneck, None, "compute", functools.partial(bottleneck, interpret=interpret)),
        # TPUs compute a 1x1 convolution faster as a convolution than as a product.
        Replacement(
            Convolution, None, "convolve", _convolution_beside_interpreted if interpret else convolution_of_xla
        ),
    )


def _convolution_beside_interpreted(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    """`convolution_of_xla`, but in float64 a 3x3 kernel is a product.

    Kernels are interpreted on CPUs, where XLA computes float64 convolutions in plain loops.
    """
    if kernel.shape[0] == 3 and x.dtype == jnp.float64:
        from anchordetr_jax.kernels.cpu.convolutions import convolution3x3_of_float64  # Here: TPUs do not need it.

        return convolution3x3_of_float64(x, kernel, stride, dilation)
    return convolution_of_xla(x, kernel, stride, dilation)
