import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from anchordetr_jax.config import LossConfig
from anchordetr_jax.detection.losses import class_error, detection_losses, focal_loss, iou_aware_loss, total_loss
from anchordetr_jax.detection.matching import Targets
from tests.tolerances import EXACT64, GRADIENT64_RELATIVE

pytestmark = pytest.mark.usefixtures("x64")
# The fixture is set once for all examples of a test, which is what is wanted.
law = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

NAMES = ("class", "box", "giou", "matched", "right")
LAYERS, IMAGES, ROWS, QUERIES, CLASSES = 2, 3, 4, 7, 5


@jax.jit
def losses_and_gradients(logits, boxes, targets, matches, num_boxes, image_weights=None):
    def weighted(logits, boxes):
        losses = detection_losses(
            logits, boxes, targets, matches, num_boxes=num_boxes, config=LossConfig(), image_weights=image_weights
        )
        return total_loss(losses, LossConfig()), losses

    (_, losses), gradients = jax.value_and_grad(weighted, argnums=(0, 1), has_aux=True)(logits, boxes)
    return losses, gradients


@jax.jit
def only_losses(logits, boxes, targets, matches, num_boxes):
    return detection_losses(logits, boxes, targets, matches, num_boxes=num_boxes, config=LossConfig())


def random_case(seed: int, num_boxes=(4, 0, 2)):
    """Predictions, targets and some matches; not necessarily the best, since the losses do not care."""
    rng = np.random.default_rng(seed)
    images = len(num_boxes)
    matches = np.stack([[rng.permutation(QUERIES)[:ROWS] for _ in num_boxes] for _ in range(LAYERS)])
    matches = np.where(np.arange(ROWS) < np.array(num_boxes)[:, None], matches, -1).astype(np.int32)
    targets = Targets(
        jnp.asarray(rng.uniform(0.1, 0.9, (images, ROWS, 4))),
        jnp.asarray(rng.integers(0, CLASSES, (images, ROWS)), jnp.int32),
        jnp.array(num_boxes, jnp.int32),
    )
    logits = rng.normal(-1, 2, (LAYERS, images, QUERIES, CLASSES))
    return logits, rng.uniform(0.1, 0.9, (LAYERS, images, QUERIES, 4)), targets, matches


def assert_same(first, second):
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(a, b, atol=EXACT64, rtol=EXACT64)


def official_losses_and_gradients(official):
    official = {name: jnp.asarray(value) for name, value in official.items()}
    targets = Targets(official["target_boxes"], official["target_labels"], official["num_boxes"])
    return losses_and_gradients(
        official["logits"], official["boxes"], targets, official["matches"], official["num_boxes"].sum()
    )


def test_losses_equal_the_official_ones(official):
    losses, _ = official_losses_and_gradients(official)
    for name in ("class", "box", "giou"):
        np.testing.assert_allclose(losses[name], official[f"loss/{name}"], rtol=EXACT64)
    np.testing.assert_allclose(total_loss(losses, LossConfig()), official["loss/total"], rtol=EXACT64)


def test_class_error_equals_the_official_one(official):
    losses, _ = official_losses_and_gradients(official)
    found = class_error(losses["right"], losses["matched"])
    np.testing.assert_allclose(found, official["loss/class_error"], rtol=1e-6)  # float32 there


@pytest.mark.parametrize("which", [0, 1], ids=["logits", "boxes"])
def test_gradients_equal_the_official_ones(official, which):
    expected = official["logits_gradient" if which == 0 else "boxes_gradient"]
    _, gradients = official_losses_and_gradients(official)
    np.testing.assert_allclose(gradients[which], expected, atol=EXACT64, rtol=GRADIENT64_RELATIVE)


@given(st.integers(0, 2**32 - 1))
@law
def test_what_stands_in_padded_rows_does_not_matter(seed):
    logits, boxes, targets, matches = random_case(seed)
    padding = np.arange(ROWS) >= np.asarray(targets.num_boxes)[:, None]
    spoilt = targets._replace(
        boxes=jnp.where(padding[..., None], np.nan, targets.boxes), labels=jnp.where(padding, 99, targets.labels)
    )
    assert_same(
        losses_and_gradients(logits, boxes, spoilt, matches, 6),
        losses_and_gradients(logits, boxes, targets, matches, 6),
    )


def test_more_padded_rows_change_nothing():
    logits, boxes, targets, matches = random_case(0)
    longer = Targets(
        jnp.pad(targets.boxes, ((0, 0), (0, 3), (0, 0))), jnp.pad(targets.labels, ((0, 0), (0, 3))), targets.num_boxes
    )
    longer_matches = np.pad(matches, ((0, 0), (0, 0), (0, 3)), constant_values=-1)
    assert_same(
        losses_and_gradients(logits, boxes, longer, longer_matches, 6),
        losses_and_gradients(logits, boxes, targets, matches, 6),
    )


@given(st.integers(0, 2**32 - 1), st.permutations(range(ROWS)))
@law
def test_the_order_of_targets_does_not_matter(seed, order):
    logits, boxes, targets, matches = random_case(seed, num_boxes=(ROWS, ROWS, ROWS))
    order = np.array(order)
    permuted = targets._replace(boxes=targets.boxes[:, order], labels=targets.labels[:, order])
    assert_same(
        losses_and_gradients(logits, boxes, permuted, matches[..., order], 12),
        losses_and_gradients(logits, boxes, targets, matches, 12),
    )


@given(st.integers(0, 2**32 - 1))
@law
def test_a_filler_contributes_nothing_whatever_it_contains(seed):
    logits, boxes, targets, matches = random_case(seed, num_boxes=(4, 3, 2))
    logits[:, 1], boxes[:, 1] = np.nan, np.inf
    losses, gradients = losses_and_gradients(logits, boxes, targets, matches, 6, np.array([1.0, 0.0, 1.0]))
    kept = np.array([0, 2])
    fewer = Targets(*(field[kept] for field in targets))
    expected, expected_gradients = losses_and_gradients(logits[:, kept], boxes[:, kept], fewer, matches[:, kept], 6)
    assert_same(losses, expected)
    assert_same([gradient[:, kept] for gradient in gradients], expected_gradients)
    assert all((np.asarray(gradient[:, 1]) == 0).all() for gradient in gradients)


def test_parts_of_a_batch_add_up_to_the_whole():
    logits, boxes, targets, matches = random_case(0)
    whole = only_losses(logits, boxes, targets, matches, 6)
    first, second = (
        only_losses(logits[:, part], boxes[:, part], Targets(*(field[part] for field in targets)), matches[:, part], 6)
        for part in (slice(0, 1), slice(1, 3))
    )
    for name in NAMES:
        np.testing.assert_allclose(first[name] + second[name], whole[name], rtol=EXACT64)


def test_a_target_without_a_query_contributes_nothing():
    logits, boxes, targets, matches = random_case(0)
    matches[:, 0, 3] = -1
    fewer = targets._replace(num_boxes=jnp.array([3, 0, 2], jnp.int32))
    assert_same(
        losses_and_gradients(logits, boxes, targets, matches, 6), losses_and_gradients(logits, boxes, fewer, matches, 6)
    )


@pytest.mark.parametrize("rows", [0, ROWS])
def test_a_batch_without_boxes_has_only_a_class_loss(rows):
    logits, boxes, targets, _ = random_case(0, num_boxes=(0, 0, 0))
    targets = targets._replace(boxes=targets.boxes[:, :rows], labels=targets.labels[:, :rows])
    matches = np.full((LAYERS, IMAGES, rows), -1, np.int32)
    losses, gradients = losses_and_gradients(logits, boxes, targets, matches, 0)
    assert (np.asarray(losses["class"]) > 0).all()
    assert (np.asarray(losses["box"]) == 0).all()
    assert (np.asarray(losses["giou"]) == 0).all()
    assert losses["matched"] == losses["right"] == 0
    assert class_error(losses["right"], losses["matched"]) == 100
    assert np.isfinite(gradients[0]).all()
    assert (np.asarray(gradients[1]) == 0).all()


def test_matched_and_right_queries_of_the_last_layer_are_counted():
    logits, boxes, targets, matches = random_case(0)
    logits[:] = 0
    for image, row in ((0, 0), (0, 2), (2, 1)):  # three of the six
        logits[-1, image, matches[-1, image, row], targets.labels[image, row]] = 5
    # A tie goes to class 0, so the others must not be of that class.
    targets = targets._replace(labels=jnp.where(targets.labels == 0, 1, targets.labels))
    logits[-1, ..., 1] = np.maximum(logits[-1, ..., 1], logits[-1, ..., 0])
    logits[-1, ..., 0] = np.where(logits[-1].max(-1) == 5, 0, 1)
    losses = only_losses(logits, boxes, targets, matches, 6)
    assert (losses["matched"], losses["right"]) == (6, 3)
    assert class_error(losses["right"], losses["matched"]) == 50


def test_perfect_boxes_cost_nothing():
    logits, boxes, targets, matches = random_case(0)
    for layer, image, row in np.argwhere(matches >= 0):
        boxes[layer, image, matches[layer, image, row]] = targets.boxes[image, row]
    losses = only_losses(logits, boxes, targets, matches, 6)
    np.testing.assert_allclose(losses["box"], 0, atol=EXACT64)
    np.testing.assert_allclose(losses["giou"], 0, atol=EXACT64)


def test_the_total_weighs_each_loss_and_sums_over_layers():
    losses = {"class": jnp.array([1.0, 2.0]), "box": jnp.array([10.0, 20.0]), "giou": jnp.array([100.0, 200.0])}
    config = LossConfig(class_weight=2.0, box_weight=3.0, giou_weight=4.0)
    assert total_loss({**losses, "matched": jnp.array(7)}, config) == 2 * 3 + 3 * 30 + 4 * 300


def test_losses_of_bfloat16_predictions_are_float32():
    logits, boxes, targets, matches = random_case(0)
    logits, boxes = jnp.asarray(logits, jnp.bfloat16), jnp.asarray(boxes, jnp.bfloat16)
    losses = jax.eval_shape(only_losses, logits, boxes, targets, matches, 6)
    assert all(losses[name].dtype == jnp.float32 for name in ("class", "box", "giou"))


@given(st.floats(-8, 8), st.booleans(), st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0]))
@law
def test_focal_loss_follows_its_formula(logit, positive, alpha, gamma):
    right = 1 / (1 + np.exp(-logit if positive else logit))  # probability given to the truth
    expected = -(alpha if positive else 1 - alpha) * (1 - right) ** gamma * np.log(right)
    value = focal_loss(jnp.array([0.0, logit]), jnp.array(1 if positive else -1), alpha=alpha, gamma=gamma)[1]
    np.testing.assert_allclose(value, expected, atol=EXACT64)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_of_extreme_logits_is_finite_and_so_is_its_gradient(gamma):
    labels = jnp.array([-1, 0])

    def loss(logits: jax.Array) -> jax.Array:
        return focal_loss(logits[:, None, None], labels[None, :], alpha=0.25, gamma=gamma).sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.array([-1e4, -200, 200, 1e4], jnp.float32))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@jax.jit
def gradient_of_an_object(logit, overlap):
    """Of the IoU-aware loss, for an object whose box has that IoU."""

    def loss(logit):
        return iou_aware_loss(logit[None], jnp.zeros((), int), overlap, gamma=2.0).sum()

    return jax.grad(loss)(logit)


@law
@given(score=st.floats(0.01, 0.99))
def test_the_iou_aware_loss_pulls_the_score_of_an_object_towards_the_iou_of_its_box(score):
    logit = np.log(score / (1 - score))
    assert abs(gradient_of_an_object(logit, score)) < GRADIENT64_RELATIVE
    assert gradient_of_an_object(logit, score - 0.01) > 0 > gradient_of_an_object(logit, score + 0.01)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_other_logits_count_in_the_iou_aware_loss_as_in_focal_loss(gamma):
    logits = jnp.linspace(-30, 30, 61)[:, None]
    nothing = jnp.full(61, -1)
    assert_same(
        iou_aware_loss(logits, nothing, jnp.full(61, 0.7), gamma=gamma),
        focal_loss(logits, nothing, alpha=0.0, gamma=gamma),
    )


@pytest.mark.parametrize("overlap", [0.0, 0.5, 1.0])
def test_the_iou_aware_loss_of_extreme_logits_is_finite_and_so_is_its_gradient(overlap):
    logits = jnp.array([[-1e30, 1e30], [1e30, -1e30], [-800.0, 800.0], [0.0, 0.0]])

    def total(logits):
        return iou_aware_loss(logits, jnp.array([0, 0, 0, -1]), jnp.full(4, overlap), gamma=2.0).sum()

    value, gradient = jax.jit(jax.value_and_grad(total))(logits)
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient).all()


def test_each_query_is_told_the_iou_of_its_own_box():
    targets = Targets(jnp.array([[[0.5, 0.5, 0.4, 0.4], [0.2, 0.2, 0.2, 0.2]]]), jnp.array([[1, 0]]), jnp.array([2]))
    boxes = jnp.array([[[[0.2, 0.2, 0.2, 0.1], [0.9, 0.9, 0.1, 0.1], [0.5, 0.5, 0.4, 0.4]]]])  # IoU 0.5, -, 1
    logits = jnp.array([[[[0.3, -1.0], [-2.0, 0.1], [0.4, 1.5]]]])
    matches = jnp.array([[[2, 0]]])
    config = LossConfig(classification="iou_aware")
    losses = jax.jit(functools.partial(detection_losses, num_boxes=2.0, config=config))(logits, boxes, targets, matches)
    alone = iou_aware_loss(logits[0, 0], jnp.array([0, -1, 1]), jnp.array([0.5, 0.0, 1.0]), gamma=config.focal_gamma)
    assert_same(losses["class"], alone.sum()[None] / 2)
