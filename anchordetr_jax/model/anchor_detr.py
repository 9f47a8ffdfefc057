"""Anchor DETR: images in, class logits and boxes of every query out (arXiv 2109.07107)."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from anchordetr_jax.config import ModelConfig
from anchordetr_jax.model.layers import MLP, Convolution, Linear, xavier_uniform
from anchordetr_jax.model.local_initialization import initialize_locally
from anchordetr_jax.model.normalization import GroupNorm
from anchordetr_jax.model.positions import cell_centres, grid_logits, grid_points, sine1d, sine2d
from anchordetr_jax.model.precision import at_least_float32, compute_dtype, param_dtype
from anchordetr_jax.model.resnet import Backbone, ResNet
from anchordetr_jax.model.transformer import Decoder, Encoder, Grid, GridPositions, Queries
from anchordetr_jax.model.valid_area import ValidArea, leading_area, nearest_area

PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)
PRIOR_PROBABILITY = 0.01
"""The initial score of every class, which keeps the initial focal loss small."""
GROUPS = 32


class Predictions(NamedTuple):
    """Outputs of every decoder layer, the last being the detector's answer; float32 (float64 from a float64 network).

    logits [L,B,Q,K], before the sigmoid; boxes [L,B,Q,4], cxcywh relative to the valid image.
    """

    logits: jax.Array
    boxes: jax.Array


class InputProjection(nnx.Module):
    """A backbone stage's channels to the transformer's, normalised."""

    def __init__(self, channels_in: int, config: ModelConfig, *, kernel: int, stride: int, rngs: nnx.Rngs):
        C, dtype, area = config.hidden_dim, compute_dtype(config), kernel * kernel
        init = xavier_uniform(channels_in * area, C * area)
        self.conv = Convolution(
            channels_in, C, kernel_size=kernel, stride=stride, use_bias=True, dtype=dtype, rngs=rngs, kernel_init=init
        )
        self.norm = GroupNorm(GROUPS, C, dtype=dtype)

    def __call__(self, x: jax.Array, area: ValidArea | None) -> jax.Array:
        """[B,h,w,I] -> [B,ceil(h/stride),ceil(w/stride),C]."""
        return self.norm(self.conv(x), area)


class UnusedWeight(nnx.Variable[jax.Array]):
    """A weight that official checkpoints have and these settings do not use.

    It is never trained or decayed. PyTorch's optimisers, too, leave a parameter without a gradient alone.
    """


class AnchorDETR(nnx.Module):
    """The detector. `config.num_classes` must be set."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs, backbone: Backbone | None = None):
        """Makes the detector with initial weights. Without a `backbone` it makes the ResNet that `config` names."""
        if config.num_classes < 1:
            raise ValueError("ModelConfig.num_classes must be set before the model is built")
        self.config = config
        C, dtype, remat = config.hidden_dim, compute_dtype(config), config.remat
        self.backbone: Backbone = backbone or ResNet(
            config.backbone, dilation=config.dilation, remat=remat, dtype=dtype, rngs=rngs
        )
        stages = zip(self.backbone.channels, (3, 1, 1), (2, 1, 1), strict=True)
        self.input_projections = nnx.List(
            [
                InputProjection(channels, config, kernel=kernel, stride=stride, rngs=rngs)
                for channels, kernel, stride in list(stages)[-config.num_feature_levels :]
            ]
        )
        self.encoder = Encoder(config, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)
        wide = param_dtype(config)
        self.patterns = nnx.Param(jax.random.normal(rngs.params(), (config.num_patterns, C), wide))
        if config.spatial_prior == "learned":
            self.anchors = nnx.Param(jax.random.uniform(rngs.params(), (config.num_anchors, 2), wide))
        self.adapt_pos1d = MLP(C, C, C, dtype=dtype, rngs=rngs)
        self.adapt_pos2d = MLP(C, C, C, dtype=dtype, rngs=rngs)
        prior = nnx.initializers.constant(-math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))
        self.class_head = Linear(C, config.num_classes, dtype=wide, rngs=rngs, bias_init=prior)
        self.box_head = MLP(C, C, C, 4, dtype=wide, rngs=rngs)
        last = self.box_head.layers[-1]
        last.kernel[...] = jnp.zeros((C, 4), wide)
        # An initial box lies at its anchor point and is an eighth of the image wide.
        last.bias[...] = jnp.array([0.0, 0.0, -2.0, -2.0], wide)
        if config.initialization == "local":
            initialize_locally(self, self.adapt_pos1d, self.adapt_pos2d)
        if config.attention != "rcda":
            for layer in self.adapt_pos1d.layers:
                for name in ("kernel", "bias"):
                    setattr(layer, name, UnusedWeight(getattr(layer, name)[...]))

    def __call__(self, images: jax.Array, image_sizes: jax.Array) -> Predictions:
        """Predictions for a padded batch.

        Args:
            images: [B,H,W,3], uint8 RGB pixels, or floats already normalised by PIXEL_MEAN and PIXEL_STD. Padding is at
                the bottom and right; its content has no effect.
            image_sizes: int32 [B,2], the valid (h, w) of each image in pixels, at least (1, 1).
        """
        return self.decode(*self.encode(images, image_sizes), self.queries())

    def encode(self, images: jax.Array, image_sizes: jax.Array) -> tuple[jax.Array, Grid]:
        """What any queries can be decoded from: encoded features [B,S,h,w,C], and their grid."""
        features, area = self.features(images, image_sizes)
        invariant = self.config.padding == "invariant"
        area = ValidArea(*(jnp.repeat(mask, features.shape[1], axis=0) for mask in area))  # [B*S,...]
        grid = Grid(self.grid_positions(area), area, mean_over=area if invariant else None)
        return self.encoder(features, grid), grid

    def decode(self, features: jax.Array, grid: Grid, queries: Queries) -> Predictions:
        """Predictions of some queries from the results of `encode`; the heads are shared by all layers."""
        B, S, h, w, C = features.shape
        contents = jnp.broadcast_to(queries.contents, (B, *queries.contents.shape[1:]))
        decoded = self.decoder(contents, queries, features.reshape(B * S, h, w, C), grid)
        wide = decoded.astype(param_dtype(self.config))
        offsets = self.box_head(wide)
        offsets = jnp.concatenate([offsets[..., :2] + queries.anchor_logits[None], offsets[..., 2:]], axis=-1)
        return Predictions(self.class_head(wide), jax.nn.sigmoid(offsets))

    def queries(self) -> Queries:
        """The detector's own: each anchor point with the first pattern, then each with the second, and so on."""
        patterns, anchors = self.patterns[...].astype(compute_dtype(self.config)), self.anchor_points()
        places = (self.anchor_logits(), *self.query_positions(anchors))
        contents = jnp.repeat(patterns, len(anchors), axis=0)[None]
        return Queries(contents, *(jnp.tile(each, (len(patterns), 1))[None] for each in places))

    def features(self, images: jax.Array, image_sizes: jax.Array) -> tuple[jax.Array, ValidArea]:
        """Projected feature maps [B,S,h,w,C] and which of their cells are valid."""
        invariant = self.config.padding == "invariant"
        pixels = normalize(images, image_sizes, compute_dtype(self.config))
        stages, valid_sizes = self.backbone(pixels, image_sizes if invariant else None)
        h, w = stages[-1].shape[1:3]
        if valid_sizes is None:
            area = nearest_area(image_sizes, (images.shape[1], images.shape[2]), (h, w))
        else:
            area = leading_area(valid_sizes, (h, w))
        used = zip(self.input_projections, stages[-len(self.input_projections) :], strict=True)
        maps = [projection(stage, area if invariant else None) for projection, stage in used]
        return jnp.stack(maps, axis=1), area

    def anchor_points(self) -> jax.Array:
        """The A anchor points, [A,2] (x, y) relative to the image."""
        if self.config.spatial_prior == "learned":
            return self.anchors[...]
        return jnp.asarray(grid_points(self.config.num_anchors), param_dtype(self.config))

    def anchor_logits(self) -> jax.Array:
        """The anchor points before a sigmoid, [A,2]; box centres are offsets from them."""
        if self.config.spatial_prior == "learned":
            return inverse_sigmoid(self.anchors[...], self.config.anchor_border)
        return jnp.asarray(grid_logits(grid_points(self.config.num_anchors)), param_dtype(self.config))

    def grid_positions(self, area: ValidArea) -> GridPositions:
        """Position embeddings of the feature cells."""
        C, wide = self.config.hidden_dim, param_dtype(self.config)
        y, x = cell_centres(area, wide)
        if self.config.attention == "rcda":
            return GridPositions(self.adapt_pos1d(sine1d(x, C)), self.adapt_pos1d(sine1d(y, C)), None)
        B, h, w = y.shape[0], y.shape[1], x.shape[1]
        points = jnp.stack(jnp.broadcast_arrays(x[:, None, :], y[:, :, None]), axis=-1)
        return GridPositions(None, None, self.adapt_pos2d(sine2d(points, C)).reshape(B, h * w, C))

    def query_positions(self, anchors: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Position embeddings [...,C] of anchor points [...,2]: `point`, `row` and `column` of `Queries`."""
        C = self.config.hidden_dim
        point = self.adapt_pos2d(sine2d(anchors, C))
        if self.config.attention != "rcda":
            return point, point, point
        row, column = (self.adapt_pos1d(sine1d(anchors[..., axis], C)) for axis in (0, 1))
        return point, row, column


def normalize(images: jax.Array, image_sizes: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Images [B,H,W,3] in `dtype`, normalised if they are uint8, zero outside the valid area."""
    if images.dtype == jnp.uint8:
        wide = at_least_float32(dtype)
        mean, std = (jnp.asarray(values, wide)[None, None, None, :] for values in (PIXEL_MEAN, PIXEL_STD))
        images = (images.astype(wide) / 255 - mean) / std
    return leading_area(image_sizes, (images.shape[1], images.shape[2])).zero_outside(images.astype(dtype))


def inverse_sigmoid(p: jax.Array, least: float) -> jax.Array:
    """log(p / (1 - p)), with p clipped to [0, 1] and both sides of the fraction to at least `least`."""
    p = jnp.clip(p, 0, 1)
    return jnp.log(jnp.maximum(p, least) / jnp.maximum(1 - p, least))
