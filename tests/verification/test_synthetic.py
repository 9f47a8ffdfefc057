"""The numbers that golden values were made with: they may never change, on no machine."""

import hashlib

import numpy as np
import pytest

from anchordetr_jax.config import ModelConfig
from anchordetr_jax.verification.synthetic import official_shapes, synthetic_image, synthetic_tensor

VARIANTS = {
    "r50_dc5": ModelConfig(num_classes=91),
    "r101_dc5": ModelConfig(num_classes=91, backbone="resnet101"),
    "r50_dc5_levels3": ModelConfig(num_classes=91, num_feature_levels=3),
    "r50_dc5_grid": ModelConfig(num_classes=91, spatial_prior="grid"),
    "r50_dc5_mha": ModelConfig(num_classes=91, attention="standard"),
}
DIGESTS = {
    "r50_dc5": (507, "843e9d230014f5db"),
    "r101_dc5": (762, "b6255970d53b9673"),
    "r50_dc5_levels3": (528, "e88329072413b705"),
    "r50_dc5_grid": (506, "7bd1f197de6b2e04"),
    "r50_dc5_mha": (507, "87e03fc34938a2eb"),
}
"""Number of tensors, and a digest of names and shapes, of the official models' state dicts."""


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_and_shapes_are_those_of_the_official_state_dict(variant: str) -> None:
    shapes = official_shapes(VARIANTS[variant])
    text = "\n".join(f"{name} {list(shape)}" for name, shape in sorted(shapes.items()))
    assert (len(shapes), hashlib.sha256(text.encode()).hexdigest()[:16]) == DIGESTS[variant]


@pytest.mark.parametrize(
    ("name", "shape", "first"),
    [
        ("backbone.body.conv1.weight", (64, 3, 7, 7), 0.13176563382148743),
        ("backbone.body.bn1.running_var", (64,), 1.1856942176818848),
        ("backbone.body.bn1.running_mean", (64,), 0.012052790261805058),
        ("backbone.body.layer1.0.bn3.weight", (256,), 0.3667983114719391),
        ("backbone.body.layer1.0.bn2.weight", (64,), 0.9587730765342712),
        ("transformer.encoder_layers.0.norm1.weight", (256,), 1.1634435653686523),
        ("transformer.encoder_layers.0.norm1.bias", (256,), 0.022507451474666595),
        ("transformer.class_embed.0.bias", (91,), -2.0642788410186768),
        ("transformer.position.weight", (300, 2), 0.04658979922533035),
        ("transformer.pattern.weight", (3, 256), 0.17532937228679657),
        ("transformer.adapt_pos1d.0.weight", (256, 256), -0.11274006217718124),
    ],
)
def test_a_tensor_is_drawn_from_seed_and_name(name: str, shape: tuple[int, ...], first: float) -> None:
    tensor = synthetic_tensor(name, shape, seed=3)
    assert tensor.dtype == np.float32
    assert tensor.ravel()[0] == np.float32(first)


def test_copies_of_a_shared_head_are_equal() -> None:
    first, sixth = (synthetic_tensor(f"transformer.bbox_embed.{i}.layers.1.weight", (4, 4), seed=0) for i in (0, 5))
    np.testing.assert_array_equal(first, sixth)


def test_an_image_is_drawn_from_its_seed() -> None:
    image = synthetic_image(24, 30, seed=2)
    assert image.shape == (24, 30, 3)
    assert image.dtype == np.float32
    assert image[4, 6].tolist() == [-4.942625522613525, 2.961014986038208, 4.5626606941223145]
