import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax.sharding import AxisType, PartitionSpec
from scipy.optimize import linear_sum_assignment

from anchordetr_jax.config import MatcherConfig
from anchordetr_jax.detection.matching import Targets, match, matching_costs
from tests.tolerances import EXACT64

pytestmark = pytest.mark.usefixtures("x64")

BACKENDS = ["host", "device"]
NUM_BOXES = (5, 3, 0, 1)
"""As many as there is room for, some, none and one."""

jitted = jax.jit(match, static_argnames="config")
jitted_costs = jax.jit(matching_costs, static_argnames="config")


Case = tuple[jax.Array, jax.Array, Targets]


def random_case(num_boxes: tuple[int, ...] = NUM_BOXES, *, rows: int = 5, queries: int = 9) -> Case:
    """Logits, boxes and targets of as many images as there are numbers; padded rows hold NaN and labels of no class."""
    rng = np.random.default_rng(0)
    images, layers, classes = len(num_boxes), 2, 4
    target_boxes, labels = rng.uniform(0.1, 0.9, (images, rows, 4)), rng.integers(0, classes, (images, rows))
    padding = np.arange(rows)[None] >= np.array(num_boxes)[:, None]
    targets = Targets(
        jnp.asarray(np.where(padding[..., None], np.nan, target_boxes)),
        jnp.asarray(np.where(padding, -7, labels), jnp.int32),
        jnp.asarray(num_boxes, jnp.int32),
    )
    logits = jnp.asarray(rng.normal(-1, 2, (layers, images, queries, classes)))
    return logits, jnp.asarray(rng.uniform(0.1, 0.9, (layers, images, queries, 4))), targets


def official_case(official: dict[str, np.ndarray]) -> Case:
    given = {name: jnp.asarray(value) for name, value in official.items()}
    return given["logits"], given["boxes"], Targets(given["target_boxes"], given["target_labels"], given["num_boxes"])


def test_costs_equal_the_official_ones(official):
    costs = np.asarray(jitted_costs(*official_case(official), config=MatcherConfig()))
    for image, count in enumerate(official["num_boxes"]):
        np.testing.assert_allclose(costs[:, image, :count], official["costs"][:, image, :count], atol=EXACT64, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_matches_equal_the_official_ones(official, backend):
    result = jitted(*official_case(official), config=MatcherConfig(backend=backend))
    np.testing.assert_array_equal(result, official["matches"])


def test_costs_are_the_weighted_sum_of_their_parts():
    case = random_case()
    parts = {
        2.0: MatcherConfig(class_cost=1, box_cost=0, giou_cost=0),
        5.0: MatcherConfig(class_cost=0, box_cost=1, giou_cost=0),
        3.0: MatcherConfig(class_cost=0, box_cost=0, giou_cost=1),
    }
    expected = sum(weight * jitted_costs(*case, config=config)[:, 0] for weight, config in parts.items())
    weighted = MatcherConfig(class_cost=2, box_cost=5, giou_cost=3)
    np.testing.assert_allclose(jitted_costs(*case, config=weighted)[:, 0], expected, atol=EXACT64)


def test_costs_of_bfloat16_predictions_are_float32():
    logits, boxes, targets = random_case()
    targets = targets._replace(boxes=targets.boxes.astype(jnp.float32))
    costs = functools.partial(matching_costs, config=MatcherConfig())
    shapes = jax.eval_shape(costs, logits.astype(jnp.bfloat16), boxes.astype(jnp.bfloat16), targets)
    assert shapes.dtype == jnp.float32


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("which", ["logits", "boxes"])
def test_costs_are_finite_whatever_is_predicted(bad, which):
    logits, boxes, targets = random_case()
    if which == "logits":
        logits = logits.at[0, 1].set(bad).at[1, 0, 2, 1].set(bad)
    else:
        boxes = boxes.at[0, 1].set(bad).at[1, 0, 2, 1].set(bad)
    assert np.isfinite(jitted_costs(logits, boxes, targets, config=MatcherConfig())).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_image_and_layer_gets_the_least_total_cost(backend):
    case = random_case()
    config = MatcherConfig(backend=backend)
    costs, result = np.asarray(jitted_costs(*case, config=config)), np.asarray(jitted(*case, config=config))
    for layer in range(2):
        for image, count in enumerate(NUM_BOXES):
            problem, queries = costs[layer, image, :count], result[layer, image, :count]
            best = problem[linear_sum_assignment(problem)].sum()
            np.testing.assert_allclose(problem[range(count), queries].sum(), best, atol=EXACT64)
            assert len(set(queries)) == count
            assert (result[layer, image, count:] == -1).all()


def odd_cases(kind: str, *, images: int, rows: int, queries: int) -> Case:
    """As many images of random, tied or degenerate objects and predictions, in two layers."""
    rng = np.random.default_rng(1)
    num_boxes = rng.integers(0, rows + 1, images)
    target_boxes, labels = rng.uniform(0.1, 0.9, (images, rows, 4)), rng.integers(0, 3, (images, rows))
    logits = rng.normal(-1, 2, (2, images, queries, 3))
    boxes = rng.uniform(0.1, 0.9, (2, images, queries, 4))
    if kind == "tied":  # objects drawn twice, and queries that all say one of two things
        target_boxes, labels = target_boxes[:, np.arange(rows) // 2], labels[:, np.arange(rows) // 2]
        logits, boxes = (array[:, :, np.arange(queries) % 2] for array in (logits, boxes))
    elif kind == "degenerate":  # no width or no height, predicted or true; scores beyond doubt
        target_boxes[..., 2:] *= rng.integers(0, 2, (images, rows, 2))
        boxes[..., 2:] *= rng.integers(0, 2, (2, images, queries, 2))
        logits *= 100
    targets = Targets(jnp.asarray(target_boxes), jnp.asarray(labels, jnp.int32), jnp.asarray(num_boxes, jnp.int32))
    return jnp.asarray(logits), jnp.asarray(boxes), targets


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("queries", [4, 9], ids="{} queries".format)
@pytest.mark.parametrize("kind", ["random", "tied", "degenerate"])
def test_hundreds_of_odd_images_get_the_least_total_cost(kind, queries, backend):
    case = odd_cases(kind, images=100, rows=6, queries=queries)
    config = MatcherConfig(backend=backend)
    costs, result = np.asarray(jitted_costs(*case, config=config)), np.asarray(jitted(*case, config=config))
    for layer, image in np.ndindex(2, 100):
        problem = costs[layer, image, : case[2].num_boxes[image]]
        targets = np.flatnonzero(result[layer, image] >= 0)
        chosen = result[layer, image, targets]
        assert len(set(chosen)) == len(targets) == min(problem.shape)
        best = problem[linear_sum_assignment(problem)].sum()
        np.testing.assert_allclose(problem[targets, chosen].sum(), best, rtol=EXACT64, atol=EXACT64)


@pytest.mark.parametrize("backend", BACKENDS)
def test_targets_beyond_the_number_of_queries_stay_unmatched(backend):
    case = random_case(queries=3)
    config = MatcherConfig(backend=backend)
    result = np.asarray(jitted(*case, config=config))
    assert ((result >= 0).sum(axis=-1) == [[3, 3, 0, 1]] * 2).all()
    costs = np.asarray(jitted_costs(*case, config=config))[0, 0]
    taken = result[0, 0] >= 0
    best = costs[linear_sum_assignment(costs)].sum()
    np.testing.assert_allclose(costs[taken, result[0, 0][taken]].sum(), best, atol=EXACT64)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_query_that_is_not_finite_is_left_to_no_target_while_others_are_free(backend):
    logits, boxes, targets = random_case()
    result = np.asarray(jitted(logits.at[:, :, 4].set(jnp.nan), boxes, targets, config=MatcherConfig(backend=backend)))
    assert (result != 4).all()
    assert ((result >= 0).sum(axis=-1) == [NUM_BOXES] * 2).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_image_of_nothing_but_nan_is_matched_somehow_and_disturbs_no_other(backend):
    logits, boxes, targets = random_case()
    config = MatcherConfig(backend=backend)
    spoilt = np.asarray(jitted(logits.at[:, 0].set(jnp.nan), boxes.at[:, 0].set(jnp.nan), targets, config=config))
    assert all(len(set(queries)) == 5 for queries in spoilt[:, 0])
    np.testing.assert_array_equal(spoilt[:, 1:], np.asarray(jitted(logits, boxes, targets, config=config))[:, 1:])


@pytest.mark.parametrize("backend", BACKENDS)
def test_layers_are_matched_independently(backend):
    logits, boxes, targets = random_case()
    config = MatcherConfig(backend=backend)
    there = jitted(logits, boxes, targets, config=config)
    other_way_round = jitted(logits[::-1], boxes[::-1], targets, config=config)
    np.testing.assert_array_equal(there[::-1], other_way_round)
    assert (there[0] != there[1]).any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_without_room_for_targets_has_no_matches(backend):
    case = random_case((0, 0), rows=0)
    assert jitted(*case, config=MatcherConfig(backend=backend)).shape == (2, 2, 0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_gradient_flows_through_the_matches(backend):
    config = MatcherConfig(backend=backend)

    @jax.jit
    def gradient(logits: jax.Array, boxes: jax.Array, targets: Targets) -> jax.Array:
        return jax.grad(lambda boxes: (match(logits, boxes, targets, config) * boxes.sum()).sum())(boxes)

    case = random_case()
    np.testing.assert_array_equal(gradient(*case), np.full(case[1].shape, jitted(*case, config=config).sum()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_images_split_over_devices_are_matched_as_in_one_piece(backend):
    case = random_case()
    config = MatcherConfig(backend=backend)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    layered, images = PartitionSpec(None, "data"), PartitionSpec("data")
    split = jax.shard_map(
        functools.partial(match, config=config),
        mesh=mesh,
        in_specs=(layered, layered, images),
        out_specs=layered,
        check_vma=False,
    )
    np.testing.assert_array_equal(jax.jit(split)(*case), jitted(*case, config=config))


def test_a_failing_solver_leaves_targets_unmatched_and_says_so(monkeypatch, caplog):
    def fail(costs: np.ndarray) -> None:
        raise ValueError("no solution")

    monkeypatch.setattr(scipy.optimize, "linear_sum_assignment", fail)
    with caplog.at_level(logging.ERROR):
        result = jitted(*random_case(), config=MatcherConfig())
        assert (np.asarray(result) == -1).all()
    assert "image 3, decoder layer 1 failed" in caplog.text
