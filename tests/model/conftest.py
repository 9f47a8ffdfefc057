"""Small detectors of every variant, with statistics that a trained backbone could have."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from anchordetr_jax.config import ModelConfig
from anchordetr_jax.kernels.building import build
from anchordetr_jax.model import AnchorDETR, resnet
from anchordetr_jax.model.normalization import FrozenStatistic

VARIANTS: dict[str, dict[str, Any]] = {
    "c5": {"dilation": False},
    "dc5": {},
    "levels3": {"num_feature_levels": 3, "encoder_layers": 2},
    "standard": {"attention": "standard"},
    "no_kernels": {"kernels": "none"},
    "grid": {"spatial_prior": "grid"},
    "compact": {"backbone": "compact"},
    "compact_levels3": {"backbone": "compact", "num_feature_levels": 3, "encoder_layers": 2},
}


@pytest.fixture
def small_detector(monkeypatch: pytest.MonkeyPatch) -> Callable[..., AnchorDETR]:
    """Makes a detector with one block per stage: every kind of layer is there, and it compiles in seconds."""
    monkeypatch.setitem(resnet.BLOCKS, "resnet50", (1, 1, 1, 2))

    def make(**settings: Any) -> AnchorDETR:
        config = ModelConfig(
            **{
                "num_classes": 5,
                "num_anchors": 9,
                "num_patterns": 2,
                "hidden_dim": 32,
                "num_heads": 2,
                "ffn_dim": 32,
                "encoder_layers": 1,
                "decoder_layers": 2,
                **settings,
            }
        )
        model = build(config, rngs=nnx.Rngs(0))
        # The statistics of a new BatchNorm would hide a leak: they map a padded zero to zero.
        for i, (path, variable) in enumerate(nnx.to_flat_state(nnx.state(model, FrozenStatistic))):
            low, high = (0.5, 1.0) if path[-1] in ("scale", "var") else (-0.5, 0.5)
            shape, dtype = variable[...].shape, variable[...].dtype
            variable[...] = jax.random.uniform(jax.random.key(i), shape, dtype, low, high)
            nnx.update(model, nnx.from_flat_state([(path, variable)]))
        last = model.box_head.layers[-1]
        last.kernel[...] = jax.random.normal(jax.random.key(1), last.kernel[...].shape, last.kernel[...].dtype)
        return model

    return make


@pytest.fixture
def pixels() -> Callable[..., jax.Array]:
    """Makes an already normalised image [1,h,w,3]."""

    def make(height: int, width: int, seed: int = 0) -> jax.Array:
        # By numpy, because JAX compiles a program for each size.
        return jnp.asarray(np.random.default_rng(seed).standard_normal((1, height, width, 3)))

    return make
