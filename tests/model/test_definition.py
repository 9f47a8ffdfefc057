"""Models to flat variables and back."""

import jax
import jax.numpy as jnp
import numpy as np

from anchordetr_jax.model.definition import ModelDefinition, count, variables_of
from tests.training.tiny import batch, build_stand_in


def test_a_model_taken_apart_and_merged_computes_the_same() -> None:
    model, images = build_stand_in(), batch()
    merged = ModelDefinition.abstract(build_stand_in).merge(variables_of(model))
    expected = model(jnp.asarray(images.images), jnp.asarray(images.image_sizes))
    found = jax.jit(lambda m, *x: m(*x))(merged, images.images, images.image_sizes)
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-6)


def test_variables_are_named_by_their_place_in_the_model() -> None:
    variables = variables_of(build_stand_in())
    assert variables["layers/1/kernel"].shape == (32, 32)
    assert variables.keys() == ModelDefinition.abstract(build_stand_in).shapes.keys()


def test_scalars_are_counted() -> None:
    assert count({"kernel": np.zeros((2, 3)), "scale": np.zeros(())}) == 7


def test_frozen_statistics_are_variables_but_no_parameters() -> None:
    definition = ModelDefinition.of(build_stand_in())
    assert definition.shapes.keys() - definition.param_paths == {"scale"}
