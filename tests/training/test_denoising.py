"""Denoising queries: where they are, what they see and what they learn from; padding never matters."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchordetr_jax.config import LossConfig
from anchordetr_jax.detection.losses import detection_losses
from anchordetr_jax.detection.matching import Targets
from anchordetr_jax.kernels.building import definition_of
from anchordetr_jax.model.anchor_detr import Predictions
from anchordetr_jax.model.transformer import Grid
from anchordetr_jax.model.valid_area import leading_area
from anchordetr_jax.training.denoising import denoising_losses, denoising_queries, denoising_shifts
from tests.tolerances import EXACT64, LOSS64_RELATIVE
from tests.training.tiny import MODEL

GROUPS = 3
COUNTS = [3, 0, 2]
VARIANTS: dict[str, dict[str, Any]] = {
    "kernels": {"kernels": "cpu"},
    "negatives_standard_levels3": {
        "attention": "standard",
        "num_feature_levels": 3,
        "kernels": "none",
        "num_patterns": 2,
    },
}


def targets(rows: int = 3, fill: float = 0.5) -> Targets:
    """Of three images, the second without objects, padded to `rows` boxes with a number."""
    rng = np.random.default_rng(0)
    boxes = np.full((3, rows, 4), fill)
    labels = np.full((3, rows), 1, np.int32)
    for image, count in enumerate(COUNTS):
        boxes[image, :count] = np.concatenate([rng.uniform(0.3, 0.7, (count, 2)), rng.uniform(0.1, 0.5, (count, 2))], 1)
        labels[image, :count] = rng.integers(0, 3, count)
    return Targets(jnp.asarray(boxes), jnp.asarray(labels), jnp.asarray(COUNTS, jnp.int32))


def shifts(
    step: int = 5,
    rows: tuple[int, ...] = (7, 8, 9),
    max_boxes: int = 3,
    seed: int = 42,
    *,
    negatives: bool = False,
) -> jax.Array:
    images = jnp.asarray(rows, jnp.int32)
    return denoising_shifts(seed, jnp.asarray(step), images, GROUPS, max_boxes, negatives=negatives)


def random_detector(**settings: Any) -> tuple[Callable[[Any], Any], dict[str, jax.Array]]:
    """A float64 detector without its arrays, and random arrays."""
    config = dataclasses.replace(MODEL, **{"dtype": "float64", "encoder_layers": 0, "decoder_layers": 1, **settings})
    definition = definition_of(config, "cpu")
    rng = np.random.default_rng(0)
    return definition.merge, {
        path: jax.device_put(rng.uniform(0.1, 0.9, leaf.shape) if path == "anchors" else rng.normal(0, 0.3, leaf.shape))
        for path, leaf in definition.shapes.items()
    }


def encoded(model: Any, h: int, w: int) -> tuple[jax.Array, Grid]:
    """What `model.encode` could give for three images of 2 x 3 cells on a grid of h x w, with noise in the padding."""
    levels = model.config.num_feature_levels
    features = np.random.default_rng(h).normal(size=(3, levels, h, w, 32))
    features[:, :, :2, :3] = np.random.default_rng(0).normal(size=(3, levels, 2, 3, 32))
    area = leading_area(jnp.asarray([(2, 3)] * 3 * levels), (h, w))
    return jnp.asarray(features), Grid(model.grid_positions(area), area, mean_over=area)


def test_places_follow_from_seed_step_image_and_object_alone() -> None:
    expected = np.asarray(shifts())
    assert expected.shape == (3, GROUPS, 3, 2)
    np.testing.assert_array_equal(shifts(max_boxes=5)[:, :, :3], expected)
    np.testing.assert_array_equal(shifts(rows=(9, 7))[::-1], expected[[0, 2]])
    for other in (shifts(seed=1), shifts(step=6), shifts(rows=(1, 2, 3))):
        assert not np.isin(np.asarray(other), expected).any()
    assert len(np.unique(expected)) == expected.size


def test_places_cover_four_tenths_of_the_object_and_no_more(x64: None) -> None:
    reached = np.abs(np.asarray(shifts(rows=tuple(range(200)))))
    assert 0.99 < reached.max() < 1
    merge, arrays = random_detector()
    queries = jax.jit(lambda arrays, *given: denoising_queries(merge(arrays), *given))
    logits = queries(arrays, targets(), jnp.ones((3, GROUPS, 3, 2))).anchor_logits
    anchors = jax.nn.sigmoid(logits).reshape(3, GROUPS, 3, 2)
    first = targets().boxes[0]
    np.testing.assert_allclose(anchors[0, 1], first[:, :2] + 0.4 * first[:, 2:] / 2, rtol=1e-5)


def test_negatives_are_farther_from_their_objects_and_leave_the_other_queries_where_they_were() -> None:
    rows = tuple(range(200))
    both = np.asarray(shifts(rows=rows, negatives=True))
    assert both.shape == (200, GROUPS, 6, 2)
    near, far = both[:, :, :3], both[:, :, 3:]
    np.testing.assert_array_equal(near, shifts(rows=rows))
    assert 1 <= np.abs(far).min() < 1.01
    assert 1.99 < np.abs(far).max() <= 2
    assert 0.4 < (far > 0).mean() < 0.6
    np.testing.assert_array_equal(shifts(rows=rows, max_boxes=5, negatives=True)[:, :, 5:8], far)


def test_negatives_have_no_class_and_no_box(x64: None) -> None:
    rng = np.random.default_rng(1)
    logits, boxes = rng.normal(size=(2, 3, GROUPS, 6, 3)), rng.uniform(0.2, 0.6, (2, 3, GROUPS, 6, 4))
    losses_of = jax.jit(
        lambda logits, boxes: denoising_losses(
            Predictions(logits.reshape(2, 3, -1, 3), boxes.reshape(2, 3, -1, 4)),
            targets(),
            GROUPS,
            num_boxes=jnp.asarray(5),
            config=LossConfig(),
            image_weights=jnp.ones(3),
        )
    )
    both = losses_of(jnp.asarray(logits), jnp.asarray(boxes))
    elsewhere, silent, louder = boxes.copy(), logits.copy(), logits.copy()
    elsewhere[..., 3:, :] = 0.1
    silent[..., 3:, :] = -1e4
    louder[..., 3:, :] += 1
    for name, value in losses_of(jnp.asarray(logits), jnp.asarray(elsewhere)).items():
        np.testing.assert_array_equal(value, both[name])
    alone = losses_of(jnp.asarray(logits[..., :3, :]), jnp.asarray(boxes[..., :3, :]))
    for name, value in losses_of(jnp.asarray(silent), jnp.asarray(boxes)).items():
        np.testing.assert_allclose(value, alone[name], rtol=LOSS64_RELATIVE)
    assert (losses_of(jnp.asarray(louder), jnp.asarray(boxes))["class"] > both["class"]).all()


def test_each_group_has_one_pattern(x64: None) -> None:
    merge, arrays = random_detector(num_patterns=2)
    queries = jax.jit(lambda arrays, *given: denoising_queries(merge(arrays), *given))
    contents = queries(arrays, targets(), shifts()).contents.reshape(GROUPS, 3, -1)
    for group, pattern in enumerate([0, 1, 0]):
        np.testing.assert_allclose(contents[group], jnp.stack([arrays["patterns"][pattern]] * 3), rtol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_of_images_and_targets_changes_nothing(variant: str, x64: None) -> None:
    """Neither losses nor, with kernels, gradients; images without objects keep both finite."""
    merge, arrays = random_detector(**VARIANTS[variant])
    negatives = variant.startswith("negatives")

    @functools.partial(jax.jit, static_argnums=1)
    def learn(arrays: dict[str, jax.Array], shape: tuple[int, int], given: Targets, moved: jax.Array) -> Any:
        def loss(arrays: dict[str, jax.Array]) -> jax.Array:
            model = merge(arrays)
            near = model.decode(*encoded(model, *shape), denoising_queries(model, given, moved))
            weights = jnp.ones(3, near.logits.dtype)
            losses = denoising_losses(
                near, given, GROUPS, num_boxes=jnp.asarray(5), config=LossConfig(), image_weights=weights
            )
            return losses["class"].sum() + losses["box"].sum() + losses["giou"].sum()

        return jax.value_and_grad(loss)(arrays) if variant == "kernels" else (loss(arrays), {})

    loss, gradients = learn(arrays, (2, 3), targets(), shifts(negatives=negatives))
    same, same_gradients = learn(arrays, (4, 5), targets(5, np.nan), shifts(max_boxes=5, negatives=negatives))
    assert float(loss) == pytest.approx(float(same), rel=LOSS64_RELATIVE)
    assert float(loss) > 0
    for path, gradient in gradients.items():
        size = np.linalg.norm(gradient)
        assert np.linalg.norm(gradient - same_gradients[path]) <= 1e-9 * size + EXACT64, path


def test_queries_see_those_of_their_group_and_no_others(x64: None) -> None:
    merge, arrays = random_detector(decoder_layers=2)  # In the first layer all contents are equal.
    model, given = merge(arrays), targets()
    features, grid = encoded(model, 2, 3)

    @jax.jit
    def predict(moved: jax.Array) -> jax.Array:
        logits = model.decode(features, grid, denoising_queries(model, given, moved)).logits[-1]
        return logits.reshape(3, GROUPS, 3, -1)

    before = shifts()
    change = np.abs(predict(before.at[:, 1, 2].set(1.0)) - predict(before)).max(axis=-1)
    assert change[0, 1].min() > 1e-6  # The whole group of the first image sees that an object's query has moved.
    np.testing.assert_allclose(change[:, [0, 2]], 0, atol=EXACT64)
    np.testing.assert_allclose(change[2, 1, :2], 0, atol=EXACT64)  # The third image has only two objects.


def test_losses_are_the_mean_over_groups_of_those_of_queries_matched_with_their_objects(x64: None) -> None:
    rng = np.random.default_rng(1)
    near = Predictions(
        jnp.asarray(rng.normal(size=(2, 3, GROUPS * 3, 3))), jnp.asarray(rng.uniform(0.2, 0.6, (2, 3, GROUPS * 3, 4)))
    )
    of_near = jax.jit(functools.partial(denoising_losses, groups=GROUPS, config=LossConfig()))
    found = of_near(near, targets(), num_boxes=jnp.asarray(5), image_weights=jnp.array([1.0, 1.0, 0.0]))
    first = Targets(*(array[:1] for array in targets()))  # The second has no object, the third does not count.
    matches = jnp.tile(jnp.arange(3, dtype=jnp.int32), (2, 1, 1))
    losses_of = jax.jit(functools.partial(detection_losses, num_boxes=5, config=LossConfig()))
    by_group = []
    for group in range(GROUPS):
        logits, boxes = (array[:, :1, group * 3 : group * 3 + 3] for array in near)
        by_group.append(losses_of(logits, boxes, first, matches))
    for name, value in found.items():
        expected = np.mean([losses[name] for losses in by_group], axis=0)
        np.testing.assert_allclose(value, expected, rtol=LOSS64_RELATIVE, err_msg=name)
