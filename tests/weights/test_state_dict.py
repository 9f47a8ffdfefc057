"""Official state dicts to models and back."""

from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from anchordetr_jax.config import ModelConfig
from anchordetr_jax.errors import UserError
from anchordetr_jax.kernels.building import definition_of
from anchordetr_jax.weights import model_from_state_dict, state_dict_from_model
from anchordetr_jax.weights.correspondence import correspondences
from anchordetr_jax.weights.state_dict import state_dict_from_variables

VARIANTS = {
    "rcda": ModelConfig(num_classes=91, encoder_layers=1, decoder_layers=2, num_anchors=5),
    "standard": ModelConfig(num_classes=7, encoder_layers=1, decoder_layers=2, num_anchors=5, attention="standard"),
    "levels3": ModelConfig(num_classes=91, encoder_layers=2, decoder_layers=1, num_anchors=5, num_feature_levels=3),
    "grid": ModelConfig(num_classes=91, encoder_layers=1, decoder_layers=1, num_anchors=9, spatial_prior="grid"),
}


def official(config: ModelConfig) -> dict[str, np.ndarray]:
    """A state dict with random numbers."""
    rng = np.random.default_rng(0)
    shapes = definition_of(config).shapes
    variables = {path: rng.normal(size=leaf.shape).astype(np.float32) for path, leaf in shapes.items()}
    return state_dict_from_variables(variables, config)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variable_has_one_place_in_the_table(variant):
    config = VARIANTS[variant]
    targets = [target for row in correspondences(config) for target in row.targets]
    assert sorted(targets) == sorted(definition_of(config).shapes)


@pytest.mark.parametrize("variant", VARIANTS)
def test_there_and_back_is_the_same_to_the_bit(variant):
    config = VARIANTS[variant]
    state_dict = official(config)
    more: dict[str, Any] = {"num_anchors": 9} if variant == "grid" else {}
    model = model_from_state_dict(state_dict, dilated=True, **more)
    assert model.config == config
    back = state_dict_from_model(model)
    assert back.keys() == state_dict.keys()
    assert all(np.array_equal(back[name], state_dict[name]) for name in state_dict)


def test_arrays_of_a_state_dict_can_be_written_as_they_are(tmp_path):
    state_dict = official(VARIANTS["rcda"])
    safetensors.numpy.save_file(state_dict, tmp_path / "f.safetensors")
    back = safetensors.numpy.load_file(tmp_path / "f.safetensors")
    assert all(np.array_equal(back[name], array) for name, array in state_dict.items())


def test_all_problems_are_named_at_once():
    state_dict = official(VARIANTS["rcda"])
    del state_dict["transformer.adapt_pos1d.0.bias"]
    state_dict["transformer.extra"] = np.zeros(3)
    state_dict["input_proj.0.1.bias"] = np.zeros(5)
    state_dict["transformer.class_embed.1.bias"] = state_dict["transformer.class_embed.1.bias"] + 1
    with pytest.raises(UserError) as error:
        model_from_state_dict(state_dict, dilated=True)
    for name in ("adapt_pos1d.0.bias", "transformer.extra", "input_proj.0.1.bias", "class_embed.1.bias"):
        assert name in str(error.value)


def test_counters_that_mean_nothing_are_ignored():
    state_dict = official(VARIANTS["rcda"])
    state_dict["backbone.body.bn1.num_batches_tracked"] = np.zeros(())
    state_dict["total_params"] = np.zeros(1)
    model_from_state_dict(state_dict, dilated=False)


def test_something_else_is_no_detector():
    with pytest.raises(UserError, match="Anchor DETR"):
        model_from_state_dict({"fc.weight": np.zeros((3, 3))}, dilated=True)


def test_compact_models_have_no_official_counterpart():
    with pytest.raises(UserError, match="compact"):
        state_dict_from_variables({}, ModelConfig(num_classes=3, backbone="compact"))
