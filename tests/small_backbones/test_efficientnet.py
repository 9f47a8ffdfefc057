# mypy: disable-error-code="union-attr,index,arg-type"
# Parts that are optional in the types are there in the models made here.
"""EfficientNet-Lite0: its features beside PyTorch's, its strides and its pixels."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from anchordetr_jax.config import ModelConfig
from anchordetr_jax.kernels.building import definition_of
from anchordetr_jax.model.anchor_detr import normalize
from anchordetr_jax.small_backbones.efficientnet import EfficientNetLite0, own_pixels
from anchordetr_jax.weights.correspondence import backbone_correspondences
from anchordetr_jax.weights.state_dict import backbone_from_state_dict
from tests.tolerances import EXACT64, SAME32

pytestmark = pytest.mark.usefixtures("x64")

PAPER = (  # The paper's table 1: expansion, channels, blocks, stride, size of the kernel.
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


def random_state_dict() -> dict[str, np.ndarray]:
    """Weights with the published names, of which no activation vanishes or explodes; with a classifier."""
    rng = np.random.default_rng(0)
    config = ModelConfig(backbone="efficientnet_lite0", num_classes=1, encoder_layers=0, decoder_layers=1)
    shapes = definition_of(config).shapes
    state_dict = {}
    for row in backbone_correspondences("efficientnet_lite0"):
        shape = row.layout.to_torch(np.zeros(shapes[row.targets[0]].shape)).shape
        if len(shape) == 4:
            value = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        else:
            positive = row.targets[0].endswith(("scale", "var"))
            value = rng.uniform(0.5, 1.5, shape) if positive else rng.normal(0, 0.3, shape)
        state_dict[row.sources[0]] = value.astype(np.float32)
    extra = {"_conv_head.weight": (1280, 320, 1, 1), "_bn1.weight": (1280,), "_fc.weight": (7, 1280), "_fc.bias": (7,)}
    return {**state_dict, **{name: np.zeros(shape) for name, shape in extra.items()}}


def torch_features(state_dict: dict[str, np.ndarray], pixels: np.ndarray) -> list[np.ndarray]:
    """The outputs of all stages for pixels [B,H,W,3] of 0 to 255, by PyTorch and from the paper's table alone."""
    torch = pytest.importorskip("torch")
    weights = {name: torch.tensor(value.astype(np.float64)) for name, value in state_dict.items()}

    def convolve(x: Any, name: str, stride: int = 1, groups: int = 1) -> Any:
        kernel = weights[f"{name}.weight"]
        return torch.nn.functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2, groups=groups)

    def norm(x: Any, name: str) -> Any:
        statistics = (weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return torch.nn.functional.batch_norm(x, *statistics, training=False, eps=1e-3)

    relu6 = torch.nn.functional.relu6
    x = torch.tensor((pixels.transpose(0, 3, 1, 2) - 127) / 128)
    x = relu6(norm(convolve(x, "_conv_stem", stride=2), "_bn0"))
    outputs, number = [], 0
    for expansion, channels, blocks, stride, _ in PAPER:
        for block in range(blocks):
            name, y = f"_blocks.{number}", x
            if expansion > 1:
                y = relu6(norm(convolve(y, f"{name}._expand_conv"), f"{name}._bn0"))
            y = convolve(y, f"{name}._depthwise_conv", stride if block == 0 else 1, groups=y.shape[1])
            y = norm(convolve(relu6(norm(y, f"{name}._bn1")), f"{name}._project_conv"), f"{name}._bn2")
            x = x + y if block > 0 else y
            number += 1
        assert x.shape[1] == channels
        outputs.append(x.numpy().transpose(0, 2, 3, 1))
    return outputs


@pytest.mark.torch
def test_the_features_are_those_of_pytorch_with_the_same_weights(optimized: None) -> None:
    state_dict = random_state_dict()
    pixels = np.random.default_rng(1).integers(0, 256, (2, 70, 45, 3)).astype(np.uint8)
    stages = torch_features(state_dict, pixels.astype(np.float64))
    model = nnx.eval_shape(lambda: EfficientNetLite0(dilation=True, dtype=jnp.float64, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(model)
    converted = backbone_from_state_dict(state_dict, "efficientnet_lite0")
    arrays = [
        (path, variable.replace(jnp.asarray(converted["/".join(map(str, ("backbone", *path)))], jnp.float64)))
        for path, variable in nnx.to_flat_state(state)
    ]

    @jax.jit
    def features(state: Any, images: jax.Array, sizes: jax.Array) -> Any:
        return nnx.merge(graphdef, state)(normalize(images, sizes, jnp.dtype(jnp.float64)), sizes)

    sizes = jnp.array([[70, 45], [70, 45]])
    (eighth, sixteenth, joined), _ = features(nnx.from_flat_state(arrays), jnp.asarray(pixels), sizes)
    repeated = stages[6].repeat(2, axis=1).repeat(2, axis=2)[:, :5, :3]
    expected = (stages[2], stages[4], np.concatenate([stages[4], repeated], axis=-1))
    for ours, theirs in zip((eighth, sixteenth, joined), expected, strict=True):
        scale = np.abs(theirs).max()
        assert np.asarray(ours) / scale == pytest.approx(theirs / scale, abs=EXACT64)


@pytest.mark.parametrize(("dilation", "last", "channels"), [(True, (5, 3), 432), (False, (3, 2), 320)])
def test_the_last_features_have_stride_16_with_dilation_and_32_without(dilation, last, channels) -> None:
    backbone = nnx.eval_shape(lambda: EfficientNetLite0(dilation=dilation, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(backbone)
    pixels, image_sizes = jnp.zeros((1, 70, 33, 3), jnp.float32), jnp.array([[70, 33]])
    maps, sizes = jax.eval_shape(lambda state: nnx.merge(graphdef, state)(pixels, image_sizes), state)
    assert [feature.shape[1:3] for feature in maps] == [(9, 5), (5, 3), last]
    assert backbone.channels == tuple(feature.shape[-1] for feature in maps) == (40, 112, channels)
    assert sizes.shape == (1, 2)


def test_pixels_are_those_that_the_weights_were_trained_with() -> None:
    images = jnp.asarray(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=-1))
    ours = own_pixels(normalize(images, jnp.array([[16, 16]]), jnp.dtype(jnp.float32)))
    assert np.asarray(ours) == pytest.approx((np.asarray(images, np.float32) - 127) / 128, abs=SAME32)
