"""Muon's direction of a matrix is that of optax.contrib.muon, and every other parameter moves as with AdamW."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from anchordetr_jax.config import MeshConfig, OptimizerConfig
from anchordetr_jax.devices import make_mesh
from anchordetr_jax.errors import UserError
from anchordetr_jax.kernels.building import definition_of
from anchordetr_jax.training.muon import is_matrix, nearly_orthogonal, orthogonalize
from anchordetr_jax.training.optimizer import make_optimizer, total_norm
from tests.tolerances import EXACT64, GRADIENT64_RELATIVE
from tests.training.tiny import MODEL

MATRICES = {
    "square/kernel": (6, 6),
    "wide/kernel": (4, 6),
    "tall/kernel": (6, 4),
    "convolution/kernel": (3, 3, 2, 4),
    "point/kernel": (1, 1, 4, 6),
    "other/kernel": (6, 6),
}
OTHERS = {"square/bias": (6,), "class_head/kernel": (6, 3), "patterns": (5, 6), "depthwise/kernel": (3, 3, 1, 4)}
RECIPE = OptimizerConfig(name="muon", learning_rate=1e-2, weight_decay=0.1, clip_norm=0.0)

Arrays = dict[str, jax.Array]


def random_arrays(seed: int, shapes: dict[str, tuple[int, ...]]) -> Arrays:
    rng = np.random.default_rng(seed)
    return {path: jnp.asarray(rng.standard_normal(shape)) for path, shape in shapes.items()}


@jax.jit
def direction_of_optax(gradients: Arrays) -> Arrays:
    numbers = {
        path: optax.contrib.MuonDimensionNumbers(tuple(range(value.ndim - 1)), (value.ndim - 1,))
        for path, value in gradients.items()
    }
    muon = optax.contrib.muon(
        -1.0, beta=0.0, nesterov=False, consistent_rms=0.2, muon_weight_dimension_numbers=lambda _: numbers
    )
    direction: Arrays = muon.update(gradients, muon.init(gradients), gradients)[0]
    return direction


def assert_close(found: Arrays, expected: Arrays) -> None:
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_allclose(found[path], value, rtol=0, atol=GRADIENT64_RELATIVE, err_msg=path)


@pytest.mark.parametrize("devices", [1, 4])
def test_directions_are_those_of_optax(devices: int, x64: None) -> None:
    gradients = random_arrays(0, MATRICES)
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    found = jax.jit(lambda arrays: orthogonalize(arrays, mesh))(gradients)
    assert_close(found, direction_of_optax(gradients))


def test_singular_values_become_about_one(x64: None) -> None:
    values = np.linalg.svd(nearly_orthogonal(random_arrays(1, {"a": (20, 8, 24)})["a"]), compute_uv=False)
    assert 0.65 < values.min() < values.max() < 1.25


def test_a_matrix_without_a_gradient_stays() -> None:
    found = orthogonalize({"a/kernel": jnp.zeros((2, 3)), "b/kernel": jnp.ones((2, 3))})
    np.testing.assert_array_equal(found["a/kernel"], np.zeros((2, 3)))
    assert jnp.isfinite(found["b/kernel"]).all()


def test_kernels_are_matrices_except_those_that_make_the_outputs() -> None:
    shapes = definition_of(dataclasses.replace(MODEL, num_feature_levels=3), "cpu").shapes
    others = {path for path, value in shapes.items() if not is_matrix(path, value.shape)}
    assert {path for path in others if path.endswith("kernel")} == {"class_head/kernel", "box_head/layers/2/kernel"}
    assert {path for path, value in shapes.items() if value.ndim == 4} <= shapes.keys() - others
    assert {"anchors", "patterns", "encoder/level_embedding", "box_head/layers/0/bias"} <= others


def test_a_depthwise_kernel_is_no_matrix() -> None:
    assert not is_matrix("depthwise/kernel", (3, 3, 1, 8))


def test_a_matrix_that_no_pattern_matches_moves_as_with_adamw(x64: None) -> None:
    shapes = {**MATRICES, **OTHERS}
    params, gradients = random_arrays(3, shapes), random_arrays(4, shapes)
    norm = total_norm(gradients)

    def changes_with(**settings: Any) -> Arrays:
        config = dataclasses.replace(RECIPE, **settings)
        optimizer = make_optimizer(config, steps_before=lambda epoch: 5 * epoch, epochs=2)
        state = jax.jit(optimizer.init)(params)
        changes: Arrays = jax.jit(optimizer.update)(gradients, state, params, jnp.asarray(0), norm)[0]
        return changes

    all_muon, adamw = changes_with(), changes_with(name="adamw")
    some = changes_with(muon_parameters=("(?!wide/).*", "tall/kernel"))
    for path in shapes:
        expected = adamw if path == "wide/kernel" else all_muon
        np.testing.assert_allclose(some[path], expected[path], rtol=0, atol=EXACT64, err_msg=path)
    assert not np.allclose(adamw["wide/kernel"], all_muon["wide/kernel"])


def test_a_pattern_that_matches_no_kernel_is_named() -> None:
    config = dataclasses.replace(RECIPE, muon_parameters=("wide/.*", "wide/bias"))
    optimizer = make_optimizer(config, steps_before=lambda epoch: 5 * epoch, epochs=2)
    with pytest.raises(UserError, match=r"optimizer\.muon_parameters.*'wide/bias'.*no trained kernel.*'convolution/"):
        optimizer.init({path: jnp.zeros(shape) for path, shape in MATRICES.items()})


def test_matrices_follow_their_momentum_and_others_move_as_with_adamw(x64: None) -> None:
    params = random_arrays(2, {**MATRICES, **OTHERS})
    muon, adamw = (
        make_optimizer(dataclasses.replace(RECIPE, name=name), steps_before=lambda epoch: 5 * epoch, epochs=2)
        for name in ("muon", "adamw")
    )
    states = [jax.jit(muon.init)(params), jax.jit(adamw.init)(params)]
    update_muon, update_adamw = jax.jit(muon.update), jax.jit(adamw.update)
    momentum = {path: jnp.zeros(shape) for path, shape in MATRICES.items()}
    for step in range(3):
        gradients = random_arrays(10 + step, {**MATRICES, **OTHERS})
        norm = total_norm(gradients)
        changes, states[0] = update_muon(gradients, states[0], params, jnp.asarray(step), norm)
        as_adamw, states[1] = update_adamw(gradients, states[1], params, jnp.asarray(step), norm)
        momentum = {path: gradients[path] + 0.95 * value for path, value in momentum.items()}
        ahead = {path: gradients[path] + 0.95 * value for path, value in momentum.items()}  # Nesterov's.
        for path, direction in direction_of_optax(ahead).items():
            expected = -1e-2 * (direction + 0.1 * params[path])
            np.testing.assert_allclose(changes[path], expected, rtol=0, atol=GRADIENT64_RELATIVE, err_msg=path)
        for path in OTHERS:
            np.testing.assert_allclose(changes[path], as_adamw[path], rtol=0, atol=EXACT64, err_msg=path)


def test_the_state_has_one_momentum_for_a_matrix_and_two_moments_for_another_parameter() -> None:
    params = random_arrays(3, {**MATRICES, **OTHERS})
    state = make_optimizer(RECIPE, steps_before=lambda epoch: 5 * epoch, epochs=2).init(params)
    sizes = [value.size for value in params.values()]
    assert sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim) == sum(sizes) + sum(
        params[path].size for path in OTHERS
    )
