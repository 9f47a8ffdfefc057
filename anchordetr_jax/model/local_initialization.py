"""Initial weights with which attention begins at a query's own place, for training from random weights.

With the usual initial weights attention is flat over the image, and a DETR spends most of its schedule on learning to
look where its anchor point is. Here the maps from position codes to embeddings begin with zero mean and a fixed spread
over the image, and key projections begin equal to query projections. So a query and a key at the same place agree from
the first step on.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from anchordetr_jax.model.attention import MultiHeadAttention, RowColumnAttention
from anchordetr_jax.model.layers import MLP
from anchordetr_jax.model.positions import sine1d, sine2d

SPREAD = 2.0  # Standard deviation of the embeddings' features over the image.
SAMPLES = 32  # Places along an edge of the image at which the spread is measured.

_PAIRS = {
    RowColumnAttention: (("query_row", "key_row"), ("query_column", "key_column")),
    MultiHeadAttention: (("query", "key"),),
}


def initialize_locally(module: nnx.Module, adapt_pos1d: MLP, adapt_pos2d: MLP) -> None:
    """Changes the initial weights of all attention layers in `module` and of the two position maps."""
    ticks = (np.arange(SAMPLES) + 0.5) / SAMPLES
    points = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    C = adapt_pos1d.layers[0].kernel.shape[0]
    _spread(adapt_pos1d, sine1d(jnp.asarray(ticks), C))
    _spread(adapt_pos2d, sine2d(jnp.asarray(points), C))
    for _, part in nnx.iter_modules(module):
        for query, key in _PAIRS.get(type(part), ()):  # type: ignore[call-overload]
            getattr(part, key).kernel[...] = getattr(part, query).kernel[...]


def _spread(mlp: MLP, codes: jax.Array) -> None:
    """Makes each layer's outputs vary over `codes` [places, C]: zero mean, deviation 1, and SPREAD at the end."""
    x = codes
    for layer, spread in zip(mlp.layers, (1.0, SPREAD), strict=True):
        kernel = layer.kernel[...].astype(x.dtype)
        outputs = jnp.dot(x, kernel, precision="highest")
        scale = spread / jnp.sqrt(outputs.var(axis=0).mean())
        layer.kernel[...] = (kernel * scale).astype(layer.kernel[...].dtype)
        layer.bias[...] = (-outputs.mean(axis=0) * scale).astype(layer.bias[...].dtype)
        x = jax.nn.relu((outputs - outputs.mean(axis=0)[None]) * scale)
