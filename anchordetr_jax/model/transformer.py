"""The encoder over feature cells and the decoder over anchor-pattern queries (Anchor DETR, sections 3.2 to 3.4)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from anchordetr_jax.config import ModelConfig
from anchordetr_jax.model.attention import MultiHeadAttention, RowColumnAttention
from anchordetr_jax.model.layers import Linear, add_bias, apply_layer, product
from anchordetr_jax.model.normalization import ResidualNorm, norm_of_sum
from anchordetr_jax.model.precision import at_least_float32, compute_dtype
from anchordetr_jax.model.valid_area import ValidArea


class GridPositions(NamedTuple):
    """Position embeddings of cells: of x [B,w,C] and y [B,h,C] for RCDA, or of each cell [B,h*w,C] otherwise."""

    row: jax.Array | None
    column: jax.Array | None
    cell: jax.Array | None


class Queries(NamedTuple):
    """What the decoder is asked: arrays [B,Q,...], or [1,Q,...] if all images have the same queries."""

    contents: jax.Array
    """[...,C], the input of the first layer."""
    anchor_logits: jax.Array
    """[...,2], the anchor points (x, y) before a sigmoid; box centres are offsets from them."""
    point: jax.Array
    """[...,C], position embeddings of the anchor points; `row` and `column` are those of x and y alone (for RCDA)."""
    row: jax.Array
    column: jax.Array
    valid: jax.Array | None = None
    """bool [B*sets,Q/sets]: a query sees only the valid queries of its own set. None: it sees all."""


class Grid(NamedTuple):
    """What attention needs to know about the cells of a feature map, besides the features."""

    positions: GridPositions
    area: ValidArea
    mean_over: ValidArea | None
    """The cells that keys of RCDA are averaged over; None: all cells."""


class FeedForwardWeights(NamedTuple):
    """Weights of `feed_forward`, or their gradients: kernels [C,F] and [F,C], all others [F] or [C]."""

    kernel1: jax.Array
    bias1: jax.Array
    kernel2: jax.Array
    bias2: jax.Array
    scale: jax.Array
    bias: jax.Array


def feed_forward(x: jax.Array, weights: FeedForwardWeights) -> jax.Array:
    """norm(x + W2 relu(W1 x + b1) + b2), [..., C] -> [..., C]."""
    return norm_of_sum(x, feed_forward_update(x, weights), weights.scale, weights.bias)


def feed_forward_update(x: jax.Array, weights: FeedForwardWeights) -> jax.Array:
    """W2 relu(W1 x + b1) + b2, [..., C] -> [..., C]."""
    hidden = jax.nn.relu(add_bias(product(x, weights.kernel1), weights.bias1.astype(x.dtype)))
    return add_bias(product(hidden, weights.kernel2), weights.bias2.astype(x.dtype))


class FeedForward(nnx.Module):
    """The feed-forward network of a layer with the residual sum and the norm around it."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        dtype = compute_dtype(config)
        self.linear1 = Linear(config.hidden_dim, config.ffn_dim, dtype=dtype, rngs=rngs)
        self.linear2 = Linear(config.ffn_dim, config.hidden_dim, dtype=dtype, rngs=rngs)
        self.norm = ResidualNorm(config.hidden_dim, dtype=dtype)
        self.compute = feed_forward

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., C] -> [..., C]."""
        first, second, norm = self.linear1, self.linear2, self.norm
        weights = (first.kernel, first.bias, second.kernel, second.bias, norm.scale, norm.bias)
        return self.compute(x, FeedForwardWeights(*(weight[...] for weight in weights)))


def _feature_attention(config: ModelConfig, *, rngs: nnx.Rngs) -> RowColumnAttention | MultiHeadAttention:
    channels, heads, dtype = config.hidden_dim, config.num_heads, compute_dtype(config)
    if config.attention == "rcda":
        return RowColumnAttention(channels, heads, dtype=dtype, rngs=rngs)
    return MultiHeadAttention(channels, heads, role="features", dtype=dtype, rngs=rngs)


class SpatialEncoderLayer(nnx.Module):
    """Attention among the cells of each feature map."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.attention = _feature_attention(config, rngs=rngs)
        self.norm = ResidualNorm(config.hidden_dim, dtype=compute_dtype(config))
        self.ffn = FeedForward(config, rngs=rngs)

    def __call__(self, x: jax.Array, grid: Grid) -> jax.Array:
        """[B,h,w,C] -> [B,h,w,C]."""
        B, h, w, C = x.shape
        positions, attention = grid.positions, self.attention
        if isinstance(attention, RowColumnAttention):
            assert positions.row is not None
            assert positions.column is not None
            memory = attention.memory(x, positions.row, positions.column, grid.area, grid.mean_over)
            attended = attention(*attention.grid_queries(x, positions.row, positions.column), memory)
        else:
            assert positions.cell is not None
            cells = x.reshape(B, h * w, C)
            placed = cells + positions.cell
            attended = attention(placed, placed, cells, grid.area.cells().reshape(B, h * w))
        return self.ffn(self.norm.of_sum(x.reshape(B, h * w, C), attended)).reshape(x.shape)


class LevelEncoderLayer(nnx.Module):
    """Attention among the S feature levels at each cell of each image."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.attention = MultiHeadAttention(
            config.hidden_dim, config.num_heads, role="levels", dtype=compute_dtype(config), rngs=rngs
        )
        self.norm = ResidualNorm(config.hidden_dim, dtype=compute_dtype(config))
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
    """Spatial layers. With several feature levels, level layer i follows spatial layer i, as long as there is one."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        levels = config.num_feature_levels
        self.remat = config.remat
        spatial_layers = config.encoder_layers - config.level_layers
        self.spatial = nnx.List([SpatialEncoderLayer(config, rngs=rngs) for _ in range(spatial_layers)])
        self.level = nnx.List([LevelEncoderLayer(config, rngs=rngs) for _ in range(config.level_layers)])
        if levels > 1:
            shape, wide = (levels, config.hidden_dim), at_least_float32(compute_dtype(config))
            self.level_embedding = nnx.Param(jax.random.normal(rngs.params(), shape, wide))

    def __call__(self, x: jax.Array, grid: Grid) -> jax.Array:
        """x [B,S,h,w,C] -> [B,S,h,w,C]. `grid` describes the B*S maps, ordered by image, then by level."""
        B, S, h, w, C = x.shape
        for i, layer in enumerate(self.spatial):
            maps = x.reshape(B * S, h, w, C)
            x = apply_layer(layer, self.remat, maps, grid).reshape(B, S, h, w, C)
            if i < len(self.level):
                x = apply_layer(self.level[i], self.remat, x, self.level_embedding[...])
        return x


class DecoderLayer(nnx.Module):
    """Self-attention among queries, cross-attention to the features, feed-forward network."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        C, dtype = config.hidden_dim, compute_dtype(config)
        self.self_attention = MultiHeadAttention(C, config.num_heads, role="queries", dtype=dtype, rngs=rngs)
        self.self_norm = ResidualNorm(C, dtype=dtype)
        self.cross_attention = _feature_attention(config, rngs=rngs)
        self.cross_norm = ResidualNorm(C, dtype=dtype)
        self.levels = config.num_feature_levels
        if self.levels > 1:
            self.level_fc = Linear(C * self.levels, C, dtype=dtype, rngs=rngs)
        self.ffn = FeedForward(config, rngs=rngs)

    def __call__(self, x: jax.Array, queries: Queries, features: jax.Array, grid: Grid) -> jax.Array:
        """x [B,Q,C] at the places of `queries`, features [B*S,h,w,C] ordered by image, then by level -> [B,Q,C]."""
        sets = x.shape if queries.valid is None else (*queries.valid.shape, x.shape[-1])
        placed = (x + queries.point).reshape(sets)
        among = self.self_attention(placed, placed, x.reshape(sets), queries.valid)
        x = self.self_norm.of_sum(x, among.reshape(x.shape))
        attended = self._cross_attend(x, queries, features, grid)  # [B*S,Q,C]
        if self.levels > 1:
            B, Q, C = x.shape
            joined = attended.reshape(B, self.levels, Q, C).transpose(0, 2, 3, 1)  # by channel, then by level
            attended = self.level_fc(joined.reshape(B, Q, C * self.levels))
        return self.ffn(self.cross_norm.of_sum(x, attended))

    def _cross_attend(self, x: jax.Array, queries: Queries, features: jax.Array, grid: Grid) -> jax.Array:
        def each_level(projected: jax.Array) -> jax.Array:
            return jnp.repeat(projected, self.levels, axis=0) if self.levels > 1 else projected

        attention, of_cells = self.cross_attention, grid.positions
        if isinstance(attention, RowColumnAttention):
            assert of_cells.row is not None
            assert of_cells.column is not None
            memory = attention.memory(features, of_cells.row, of_cells.column, grid.area, grid.mean_over)
            row_queries = attention.query_row(x + queries.row)
            column_queries = attention.query_column(x + queries.column)
            return attention(each_level(row_queries), each_level(column_queries), memory)
        assert of_cells.cell is not None
        maps, h, w, C = features.shape
        cells = features.reshape(maps, h * w, C)
        valid = grid.area.cells().reshape(maps, h * w)
        return attention(each_level(x + queries.point), cells + of_cells.cell, cells, valid)


class Decoder(nnx.Module):
    """Decoder layers. The output of each is returned, because each is trained to detect."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.remat = config.remat
        self.layers = nnx.List([DecoderLayer(config, rngs=rngs) for _ in range(config.decoder_layers)])

    def __call__(self, x: jax.Array, queries: Queries, features: jax.Array, grid: Grid) -> jax.Array:
        """x [B,Q,C], the contents for each image, and features [B*S,h,w,C] -> [L,B,Q,C]."""
        outputs = []
        for layer in self.layers:
            x = apply_layer(layer, self.remat, x, queries, features, grid)
            outputs.append(x)
        return jnp.stack(outputs)
