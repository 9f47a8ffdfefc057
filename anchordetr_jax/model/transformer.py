"""The encoder over feature cells and the decoder over anchor-pattern queries (Anchor DETR, sections 3.2 to 3.4)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from anchordetr_jax.config import ModelConfig
from anchordetr_jax.kernels.forms import forms_of
from anchordetr_jax.kernels.tpu.feed_forward import kernel_feed_forward
from anchordetr_jax.kernels.tpu.feed_forward_kernel import Weights, fits
from anchordetr_jax.kernels.tpu.norm import kernel_norm_of_sum
from anchordetr_jax.kernels.tpu.norm_kernel import MOST_CHANNELS, Affine
from anchordetr_jax.model.attention import MultiHeadAttention, RowColumnAttention
from anchordetr_jax.model.layers import apply_layer, linear
from anchordetr_jax.model.normalization import LayerNorm
from anchordetr_jax.model.precision import at_least_float32, compute_dtype
from anchordetr_jax.model.valid_area import ValidArea


class GridPositions(NamedTuple):
    """Position embeddings of cells: of x [B,w,C] and y [B,h,C] for RCDA, or of each cell [B,h*w,C] otherwise."""

    row: jax.Array | None
    column: jax.Array | None
    cell: jax.Array | None


class QueryPositions(NamedTuple):
    """Position embeddings of the queries' anchor points, [1,Q,C]: of the point, and of x and y alone (RCDA only)."""

    point: jax.Array
    row: jax.Array | None
    column: jax.Array | None


class Memory(NamedTuple):
    """What the attention layers need to know of a feature map, besides the features."""

    positions: GridPositions
    area: ValidArea
    mean_over: ValidArea | None


def _attention(config: ModelConfig, *, rngs: nnx.Rngs) -> RowColumnAttention | MultiHeadAttention:
    """Attention to features: standard attention always as it is defined."""
    channels, heads, dtype = config.hidden_dim, config.num_heads, compute_dtype(config)
    if config.attention == "rcda":
        return RowColumnAttention(channels, heads, forms=forms_of(config), dtype=dtype, rngs=rngs)
    return MultiHeadAttention(channels, heads, dtype=dtype, rngs=rngs)


class SumNorm(LayerNorm):
    """The norm of a sum, which is where all norms of a transformer layer stand."""

    def __init__(self, config: ModelConfig):
        dtype = compute_dtype(config)
        super().__init__(config.hidden_dim, dtype=dtype, param_dtype=at_least_float32(dtype))
        self.by_kernel = forms_of(config).tpu and config.hidden_dim <= MOST_CHANNELS

    def of_sum(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """norm(x + y), [..., C] both."""
        if self.by_kernel:
            return kernel_norm_of_sum(x, y, Affine(self.scale[...], self.bias[...]))
        return self(x + y)


class FeedForward(nnx.Module):
    """norm(x + W2 relu(W1 x))."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        dtype = compute_dtype(config)
        self.linear1 = linear(config.hidden_dim, config.ffn_dim, dtype=dtype, rngs=rngs)
        self.linear2 = linear(config.ffn_dim, config.hidden_dim, dtype=dtype, rngs=rngs)
        self.norm = SumNorm(config)
        self.by_kernel = forms_of(config).tpu and fits(config.hidden_dim, config.ffn_dim)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., C] -> [..., C]."""
        if self.by_kernel:
            return kernel_feed_forward(x, self._weights())
        return self.norm.of_sum(x, self.linear2(jax.nn.relu(self.linear1(x))))

    def _weights(self) -> Weights:
        first, second, norm = self.linear1, self.linear2, self.norm
        assert first.bias is not None
        assert second.bias is not None
        return Weights(
            first.kernel[...], first.bias[...], second.kernel[...], second.bias[...], norm.scale[...], norm.bias[...]
        )


class SpatialEncoderLayer(nnx.Module):
    """Attention among the cells of each feature map."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.attention = _attention(config, rngs=rngs)
        self.norm = SumNorm(config)
        self.ffn = FeedForward(config, rngs=rngs)

    def __call__(self, x: jax.Array, memory: Memory) -> jax.Array:
        """[B,h,w,C] -> [B,h,w,C]."""
        B, h, w, C = x.shape
        positions, attention = memory.positions, self.attention
        if isinstance(attention, RowColumnAttention):
            assert positions.row is not None
            assert positions.column is not None
            keys = attention.memory(x, positions.row, positions.column, memory.area, memory.mean_over)
            attended = attention(*attention.grid_queries(x, positions.row, positions.column), keys)
        else:
            assert positions.cell is not None
            cells = x.reshape(B, h * w, C)
            placed = cells + positions.cell
            attended = attention(placed, placed, cells, memory.area.cells().reshape(B, h * w))
        return self.ffn(self.norm.of_sum(x.reshape(B, h * w, C), attended)).reshape(x.shape)


class LevelEncoderLayer(nnx.Module):
    """Attention among the S levels at each cell of each image."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.attention = MultiHeadAttention(config.hidden_dim, config.num_heads, dtype=compute_dtype(config), rngs=rngs)
        self.norm = SumNorm(config)
        self.ffn = FeedForward(config, rngs=rngs)

    def __call__(self, x: jax.Array, level_embedding: jax.Array) -> jax.Array:
        """x [B,S,h,w,C], level_embedding [S,C] -> [B,S,h,w,C]."""
        B, S, h, w, C = x.shape
        levels = x.transpose(0, 2, 3, 1, 4).reshape(B * h * w, S, C)
        placed = levels + level_embedding.astype(x.dtype)[None]
        attended = self.attention(placed, placed, levels, None)
        attended = attended.reshape(B, h, w, S, C).transpose(0, 3, 1, 2, 4)
        return self.ffn(self.norm.of_sum(x, attended))


class Encoder(nnx.Module):
    """Spatial layers; with several levels, level layer i follows spatial layer i until there are no more."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        levels = config.num_feature_levels
        level_layers = config.encoder_layers // 2 if levels > 1 else 0
        self.remat = config.remat
        self.spatial = nnx.List(
            [SpatialEncoderLayer(config, rngs=rngs) for _ in range(config.encoder_layers - level_layers)]
        )
        self.level = nnx.List([LevelEncoderLayer(config, rngs=rngs) for _ in range(level_layers)])
        if levels > 1:
            shape = (levels, config.hidden_dim)
            dtype = at_least_float32(compute_dtype(config))
            self.level_embedding = nnx.Param(jax.random.normal(rngs.params(), shape, dtype))

    def __call__(self, x: jax.Array, memory: Memory) -> jax.Array:
        """x [B,S,h,w,C] -> [B,S,h,w,C]; `memory` is that of the B*S maps, image-major."""
        B, S, h, w, C = x.shape
        for i, layer in enumerate(self.spatial):
            maps = x.reshape(B * S, h, w, C)
            x = apply_layer(layer, self.remat, maps, memory).reshape(B, S, h, w, C)
            if i < len(self.level):
                x = apply_layer(self.level[i], self.remat, x, self.level_embedding[...])
        return x


class DecoderLayer(nnx.Module):
    """Self-attention among queries, cross-attention to the features, feed-forward."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        C, dtype = config.hidden_dim, compute_dtype(config)
        self.self_attention = MultiHeadAttention(C, config.num_heads, forms=forms_of(config), dtype=dtype, rngs=rngs)
        self.self_norm = SumNorm(config)
        self.cross_attention = _attention(config, rngs=rngs)
        self.cross_norm = SumNorm(config)
        self.levels = config.num_feature_levels
        if self.levels > 1:
            self.level_fc = linear(C * self.levels, C, dtype=dtype, rngs=rngs)
        self.ffn = FeedForward(config, rngs=rngs)

    def __call__(self, x: jax.Array, positions: QueryPositions, features: jax.Array, memory: Memory) -> jax.Array:
        """Queries x [B,Q,C], features [B*S,h,w,C] image-major -> [B,Q,C]."""
        placed = x + positions.point
        x = self.self_norm.of_sum(x, self.self_attention(placed, placed, x, None))
        attended = self._cross_attend(x, positions, features, memory)  # [B*S,Q,C]
        if self.levels > 1:
            B, Q, C = x.shape
            joined = attended.reshape(B, self.levels, Q, C).transpose(0, 2, 3, 1)  # channel-major, then level
            attended = self.level_fc(joined.reshape(B, Q, C * self.levels))
        return self.ffn(self.cross_norm.of_sum(x, attended))

    def _cross_attend(self, x: jax.Array, positions: QueryPositions, features: jax.Array, memory: Memory) -> jax.Array:
        def each_level(queries: jax.Array) -> jax.Array:
            return jnp.repeat(queries, self.levels, axis=0) if self.levels > 1 else queries

        attention, grid = self.cross_attention, memory.positions
        if isinstance(attention, RowColumnAttention):
            assert grid.row is not None
            assert grid.column is not None
            assert positions.row is not None
            assert positions.column is not None
            keys = attention.memory(features, grid.row, grid.column, memory.area, memory.mean_over)
            row_queries = attention.query_row(x + positions.row)
            column_queries = attention.query_column(x + positions.column)
            return attention(each_level(row_queries), each_level(column_queries), keys)
        assert grid.cell is not None
        maps, h, w, C = features.shape
        cells = features.reshape(maps, h * w, C)
        valid = memory.area.cells().reshape(maps, h * w)
        return attention(each_level(x + positions.point), cells + grid.cell, cells, valid)


class Decoder(nnx.Module):
    """Decoder layers; the output of each is kept, for it is supervised and scored."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.remat = config.remat
        self.layers = nnx.List([DecoderLayer(config, rngs=rngs) for _ in range(config.decoder_layers)])

    def __call__(self, x: jax.Array, positions: QueryPositions, features: jax.Array, memory: Memory) -> jax.Array:
        """Queries x [B,Q,C], features [B*S,h,w,C] -> [L,B,Q,C]."""
        outputs = []
        for layer in self.layers:
            x = apply_layer(layer, self.remat, x, positions, features, memory)
            outputs.append(x)
        return jnp.stack(outputs)
