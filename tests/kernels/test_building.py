"""Models that are built for a platform; models to flat variables and back."""

import dataclasses
import unittest.mock
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging
from flax import nnx

from anchordetr_jax import kernels
from anchordetr_jax.config import ModelConfig
from anchordetr_jax.kernels import cpu, tpu
from anchordetr_jax.kernels.building import InitialKeys, ModelDefinition, build, count, definition_of, variables_of
from anchordetr_jax.model import attention
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


def test_initial_keys_are_those_of_flax() -> None:
    ours, theirs = ([jax.random.key_data(rngs.params()) for _ in range(3)] for rngs in (InitialKeys(7), nnx.Rngs(7)))
    np.testing.assert_array_equal(ours, theirs)


DETECTOR = ModelConfig(
    backbone="compact",
    num_classes=3,
    num_anchors=4,
    num_patterns=2,
    hidden_dim=32,
    num_heads=2,
    ffn_dim=32,
    encoder_layers=1,
    decoder_layers=1,
)


def function_of(definition: ModelDefinition) -> Any:
    """The function by which the decoder's cross-attention attends."""
    return (
        nnx.merge(definition.graphdef, nnx.from_flat_state(definition.template))
        .decoder.layers[0]
        .cross_attention.attend
    )


@pytest.mark.parametrize(
    ("kernels", "platform", "expected"),
    [
        ("auto", "cpu", cpu.row_column_attention),
        ("auto", "gpu", attention.row_column_attention),
        ("auto", "tpu", attention.row_column_attention),
        ("none", "cpu", attention.row_column_attention),
        ("cpu", "cpu", cpu.row_column_attention),
    ],
)
def test_the_setting_and_the_platform_choose_the_functions(kernels: Any, platform: str, expected: Any) -> None:
    definition = definition_of(dataclasses.replace(DETECTOR, kernels=kernels), platform)
    assert function_of(definition) is expected


def test_the_kernels_of_tpus_are_installed_on_tpus() -> None:
    function = function_of(definition_of(dataclasses.replace(DETECTOR, kernels="tpu"), "tpu"))
    assert function.func is tpu.row_column_attention


def test_kernels_of_another_platform_have_no_effect_and_a_warning_says_so() -> None:
    with unittest.mock.patch.object(logging, "warning") as warning:
        kernels._warn_of_another_platform.cache_clear()
        definition = definition_of(dataclasses.replace(DETECTOR, kernels="tpu", num_anchors=5), "gpu")
    assert function_of(definition) is attention.row_column_attention
    assert warning.call_args.args[1:] == ("tpu", "gpu")


def test_a_function_for_one_role_leaves_the_other_roles_alone() -> None:
    config = dataclasses.replace(DETECTOR, num_feature_levels=3, encoder_layers=2)
    model = build(config, rngs=nnx.Rngs(0), platform="cpu")
    assert model.decoder.layers[0].self_attention.attend is cpu.multi_head_attention
    assert model.encoder.level[0].attention.attend is attention.multi_head_attention


def test_equal_settings_make_equal_definitions() -> None:
    """Else JAX would compile a program again."""
    config = dataclasses.replace(DETECTOR, kernels="tpu")
    ours, other = (
        ModelDefinition.abstract(lambda: build(config, rngs=nnx.Rngs(0), platform="tpu")).graphdef for _ in range(2)
    )
    assert ours == other
    assert hash(ours) == hash(other)
