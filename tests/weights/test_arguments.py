import dataclasses
from typing import Any

import pytest

from anchordetr_jax.config import Config
from anchordetr_jax.errors import UserError
from anchordetr_jax.weights.arguments import (
    SETTINGS,
    architecture_arguments,
    arguments_from_config,
    config_with,
    refuse_unknown,
    settings_from_arguments,
)


def config_from(**arguments: Any) -> Config:
    return config_with(Config(), settings_from_arguments(arguments))


def test_the_official_defaults_are_ours() -> None:
    model = {
        "backbone": "resnet50",
        "dilation": True,
        "num_feature_levels": 1,
        "enc_layers": 6,
        "dec_layers": 6,
        "dim_feedforward": 1024,
        "hidden_dim": 256,
        "nheads": 8,
        "num_query_position": 300,
        "num_query_pattern": 3,
        "spatial_prior": "learned",
        "attention_type": "RCDA",
    }
    costs = {"set_cost_class": 2, "set_cost_bbox": 5, "set_cost_giou": 2}
    losses = {"cls_loss_coef": 2, "bbox_loss_coef": 5, "giou_loss_coef": 2, "focal_alpha": 0.25}
    rates = {"lr": 1e-4, "lr_backbone": 1e-5, "weight_decay": 1e-4, "clip_max_norm": 0.1, "sgd": False}
    defaults = {**model, **costs, **losses, **rates, "epochs": 50, "lr_drop": 40, "seed": 42}
    assert config_from(**defaults) == Config()
    assert SETTINGS.keys() - defaults.keys() == {"batch_size"}  # theirs is of one GPU


def test_settings_come_back_from_their_arguments() -> None:
    config = config_from(
        attention_type="nn.MultiheadAttention", sgd=True, dilation=False, lr=0.5, num_query_pattern=5, batch_size=3
    )
    assert config.model.attention == "standard"
    assert config.optimizer.name == "sgd"
    assert config_with(Config(), settings_from_arguments(arguments_from_config(config))) == config


def test_an_optimiser_that_the_official_code_lacks_is_left_out() -> None:
    muon = dataclasses.replace(Config(), optimizer=dataclasses.replace(Config().optimizer, name="muon"))
    assert arguments_from_config(Config()).keys() - arguments_from_config(muon).keys() == {"sgd"}


def test_the_official_command_is_told_of_c5_or_dc5_and_of_what_is_not_its_default() -> None:
    assert architecture_arguments(Config()) == {"dilation": True}
    config = config_from(attention_type="nn.MultiheadAttention", dilation=False, lr=0.5, enc_layers=2)
    asked = {"dilation": False, "attention_type": "nn.MultiheadAttention", "enc_layers": 2}
    assert architecture_arguments(config) == asked


@pytest.mark.parametrize(("word", "dilated"), [("False", False), ("true", True)])
def test_dilation_may_be_a_word_as_on_the_official_command_line(word: str, dilated: bool) -> None:
    assert config_from(dilation=word).model.dilation is dilated


def test_without_a_backbone_learning_rate_the_backbone_is_frozen_as_in_the_official_code() -> None:
    config = config_from(lr_backbone=0.0)
    assert config.optimizer.freeze == (r"backbone/.*",)
    assert arguments_from_config(config)["lr_backbone"] == 0


@pytest.mark.parametrize("given", [{}, {"cls_loss_coef": 3.0}])
def test_a_focal_loss_without_weights_of_classes_is_twice_one_that_weights_all_with_a_half(given: Any) -> None:
    plain, ours = config_from(**given), config_from(focal_alpha=-1, **given)
    assert ours.loss == dataclasses.replace(plain.loss, focal_alpha=0.5, class_weight=2 * plain.loss.class_weight)


def test_the_batch_of_all_gpus_counts() -> None:
    assert config_from(batch_size=2, world_size=8).train.batch_size == 16


def test_what_has_no_counterpart_is_named_all_at_once() -> None:
    with pytest.raises(UserError, match=r"figures\.npz .*two_stage=True is not known; dropout=0\.1 is not supported"):
        refuse_unknown({"two_stage": True, "dropout": 0.1, "lr": 1e-4, "device": "cuda"}, "figures.npz")


def test_a_value_that_the_official_code_does_not_take_is_named() -> None:
    with pytest.raises(UserError, match=r"attention_type is one of 'RCDA', 'nn\.MultiheadAttention', not 'linear'"):
        settings_from_arguments({"attention_type": "linear"})
