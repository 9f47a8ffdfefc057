"""Models to flat variables and back, and which of them are trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from anchordetr_jax.errors import UserError
from anchordetr_jax.training.state import ModelDefinition, count, split_variables, variables_of
from tests.training.tiny import MODEL, StandIn, batch


def build() -> StandIn:
    return StandIn(MODEL, rngs=nnx.Rngs(0))


def test_a_model_taken_apart_and_merged_computes_the_same() -> None:
    model, images = build(), batch()
    merged = ModelDefinition.abstract(build).merge(variables_of(model))
    expected = model(jnp.asarray(images.images), jnp.asarray(images.image_sizes))
    found = jax.jit(lambda m, *x: m(*x))(merged, images.images, images.image_sizes)
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-6)


def test_variables_are_named_by_their_place_in_the_model() -> None:
    variables = variables_of(build())
    assert variables["layers/1/kernel"].shape == (32, 32)
    assert variables.keys() == ModelDefinition.abstract(build).shapes.keys()


def test_only_parameters_are_trained() -> None:
    definition = ModelDefinition.abstract(build)
    assert definition.shapes.keys() - definition.trainable_paths(()) == {"scale"}


def test_a_freeze_pattern_must_match_the_whole_path() -> None:
    definition = ModelDefinition.abstract(build)
    frozen = definition.shapes.keys() - definition.trainable_paths((r"backbone/.*", r"layers/0", r"patterns?"))
    assert frozen == {"scale", "backbone/kernel", "backbone/bias", "patterns"}


def test_splitting_keeps_every_variable_once() -> None:
    variables = variables_of(build())
    params, rest = split_variables(variables, ModelDefinition.abstract(build).trainable_paths((r"layers/.*",)))
    assert not params.keys() & rest.keys()
    assert {**params, **rest}.keys() == variables.keys()
    assert count(params) + count(rest) == count(variables)


def test_a_pattern_that_is_no_regular_expression_is_named() -> None:
    with pytest.raises(UserError, match=r"optimizer\.freeze.*\(unclosed"):
        ModelDefinition.abstract(build).trainable_paths(("(unclosed",))


def test_freezing_everything_is_a_mistake() -> None:
    with pytest.raises(UserError, match="matches every parameter"):
        ModelDefinition.abstract(build).trainable_paths((".*",))
