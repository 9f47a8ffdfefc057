from collections.abc import Callable

import jax
import numpy as np
import pytest
from flax import nnx

from anchordetr_jax.config import ModelConfig
from anchordetr_jax.kernels.building import InitialKeys, build
from anchordetr_jax.model.anchor_detr import AnchorDETR


@pytest.fixture(scope="session")
def make_tiny_detector() -> Callable[..., AnchorDETR]:
    """Makes the smallest AnchorDETR: two classes, random weights that answer each image differently."""

    def make(dtype: str = "float32") -> AnchorDETR:
        network = ModelConfig(
            backbone="compact",
            dilation=False,
            num_patterns=1,
            num_anchors=9,
            num_classes=2,
            hidden_dim=32,
            num_heads=2,
            ffn_dim=32,
            encoder_layers=1,
            decoder_layers=1,
            dtype=dtype,  # type: ignore[arg-type]
        )
        # Weights straight from numpy: the real initialisers would have to be compiled first, which takes longer than
        # most tests.
        graphdef, state = nnx.split(nnx.eval_shape(lambda: build(network, rngs=InitialKeys(0), platform="none")))
        rng = np.random.default_rng(0)

        def filled(shape: jax.ShapeDtypeStruct) -> jax.Array:
            spread = 1.5 / np.sqrt(max(1, np.prod(shape.shape[:-1]))) if len(shape.shape) > 1 else 0.3
            return jax.device_put(rng.normal(0, spread, shape.shape).astype(shape.dtype))

        return nnx.merge(graphdef, jax.tree.map(filled, state))

    return make
