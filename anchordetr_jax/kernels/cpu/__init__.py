"""For CPUs: attention head by head, convolutions and their gradients as products, and the process's own tuning."""

from anchordetr_jax.kernels.cpu.attention import multi_head_attention, row_column_attention
from anchordetr_jax.kernels.cpu.convolutions import convolution, stored_bottleneck
from anchordetr_jax.kernels.cpu.depthwise import depthwise_convolution
from anchordetr_jax.kernels.cpu.process import prepare_process as prepare_process
from anchordetr_jax.kernels.table import Replacement
from anchordetr_jax.model.attention import MultiHeadAttention, RowColumnAttention
from anchordetr_jax.model.layers import Convolution
from anchordetr_jax.model.resnet import Bottleneck
from anchordetr_jax.small_backbones.efficientnet import DepthwiseConvolution

# Ordinary attention to features stays plain: it has thousands of keys, and head by head is no faster there.
REPLACEMENTS = (
    Replacement(RowColumnAttention, "features", "attend", row_column_attention),
    Replacement(MultiHeadAttention, "queries", "attend", multi_head_attention),
    Replacement(Convolution, None, "convolve", convolution),
    Replacement(DepthwiseConvolution, None, "convolve", depthwise_convolution),
    Replacement(Bottleneck, None, "compute", stored_bottleneck),
)
