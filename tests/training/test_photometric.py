"""Photometric jitter: its colours are those of Pillow, and padding, other images and devices do not matter."""

import colorsys
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from anchordetr_jax.config import AugmentConfig
from anchordetr_jax.errors import UserError
from anchordetr_jax.training import photometric
from anchordetr_jax.training.photometric import colour_matrices, has_jitter, jittered
from tests.training.tiny import CONFIG, batch, changed, equal, run, to_host, trainer

ALL = AugmentConfig(brightness=0.3, contrast=0.4, saturation=0.5, hue=0.1)
ROWS = (3, 8)


def config_with(setting: str, value: float) -> AugmentConfig:
    changes: dict[str, Any] = {setting: value}
    return dataclasses.replace(AugmentConfig(), **changes)


def images(h: int = 6, w: int = 8) -> np.ndarray:
    """Two images of 6 x 8 pixels on a grid of h x w, zero in the padding."""
    pixels = np.zeros((2, h, w, 3), np.uint8)
    pixels[:, :6, :8] = np.random.default_rng(0).integers(60, 160, (2, 6, 8, 3))
    return pixels


@functools.partial(jax.jit, static_argnames=("config", "seed"))
def change(pixels: Any, rows: Any, step: Any, *, config: AugmentConfig = ALL, seed: int = 1) -> jax.Array:
    sizes = jnp.asarray([(6, 8)] * len(pixels))
    return jittered(jnp.asarray(pixels), sizes, jnp.asarray(rows), jnp.asarray(step), seed=seed, config=config)


def test_padding_stays_zero_and_changes_nothing() -> None:
    small, large = np.asarray(change(images(), ROWS, 5)), np.asarray(change(images(9, 16), ROWS, 5))
    np.testing.assert_array_equal(large[:, :6, :8], small)
    assert not large[:, 6:].any()
    assert not large[:, :, 8:].any()
    assert small.dtype == np.uint8


def test_changes_follow_from_seed_step_and_image_alone() -> None:
    usual = np.asarray(change(images(), ROWS, 5))
    np.testing.assert_array_equal(change(images()[::-1], ROWS[::-1], 5)[::-1], usual)
    for other in (change(images(), ROWS, 6), change(images(), ROWS, 5, seed=2), change(images(), (4, 9), 5)):
        assert (np.asarray(other) != usual).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize(
    ("setting", "enhancer"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
def test_brightness_contrast_and_saturation_are_those_of_pillow(
    setting: str, enhancer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It rounds grey to whole numbers, which may make a difference of one or two."""
    monkeypatch.setattr(photometric.jax.random, "uniform", lambda *_: jnp.full((4,), 0.5))
    config = config_with(setting, 0.6)
    found = jittered(
        jnp.asarray(images()),
        jnp.asarray([(6, 8)] * 2),
        jnp.asarray(ROWS),
        jnp.asarray(0),
        seed=0,
        config=config,
    )
    for ours, original in zip(np.asarray(found), images(), strict=True):
        theirs = np.asarray(enhancer(Image.fromarray(original)).enhance(1.3))
        assert np.abs(ours.astype(int) - theirs).max() <= 2
        assert np.abs(ours.astype(int) - original).max() > 5


@pytest.mark.parametrize("turn", [0.05, -0.1])
def test_hue_turns_the_way_colorsys_counts_it_and_keeps_greys(turn: float) -> None:
    matrix = np.asarray(colour_matrices(jnp.ones(1), jnp.asarray([turn])))[0]
    np.testing.assert_allclose(matrix @ np.ones(3), np.ones(3), atol=1e-5)
    for colour in ((0.6, 0.4, 0.4), (0.4, 0.6, 0.45), (0.4, 0.45, 0.6)):
        hue = colorsys.rgb_to_hsv(*colour)[0]
        moved = (colorsys.rgb_to_hsv(*(matrix @ colour))[0] - hue + 0.5) % 1 - 0.5
        assert 0.5 * abs(turn) < moved * np.sign(turn) < 2 * abs(turn)


def test_it_is_off_by_default() -> None:
    assert not has_jitter(AugmentConfig())
    assert all(has_jitter(config_with(name, 0.1)) for name in ("brightness", "contrast", "saturation", "hue"))


def test_a_step_sees_the_changed_images() -> None:
    jitter = {"brightness": 0.3, "contrast": 0.4, "saturation": 0.5, "hue": 0.1}
    inside, outside = trainer(changed(CONFIG, augment=jitter)), trainer()
    one = batch()
    pixels = jittered(
        *(jnp.asarray(value) for value in (one.images, one.image_sizes, one.rows, 0)),
        seed=CONFIG.train.seed,
        config=inside.config.augment,
    )
    assert (np.asarray(pixels) != one.images).any()
    assert run(inside, [one]) == run(outside, [one._replace(images=np.asarray(pixels))])
    assert equal(to_host(inside.state.params), to_host(outside.state.params))


@pytest.mark.parametrize(("setting", "value"), [("brightness", 1.5), ("hue", 0.6), ("contrast", -0.1)])
def test_a_size_of_change_that_makes_no_sense_is_refused(setting: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"augment\.{setting}"):
        config_with(setting, value)
