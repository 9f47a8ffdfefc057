"""What a fine-tuning begins with when nobody names its initial weights."""

import dataclasses

import pytest

from anchordetr_jax.config import Config
from anchordetr_jax.errors import UserError
from anchordetr_jax.experiments import load_config
from anchordetr_jax.training import experiment
from anchordetr_jax.training.experiment import usual_weights


def test_a_preset_without_initial_weights_begins_with_a_published_model() -> None:
    assert usual_weights(Config())[0] == "anchordetr-r50-dc5"


def test_weights_that_are_here_stay() -> None:
    assert usual_weights(load_config("finetune-cpu")) == ("", "")


def test_weights_of_a_package_that_is_not_installed_give_way_to_those_inside_and_a_line_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str, *, setting: str) -> None:
        raise UserError(f"{setting}={name} comes with a package that is not installed.")

    monkeypatch.setattr(experiment, "locate", missing)
    weights, line = usual_weights(dataclasses.replace(Config(), init_from="efficientnet_lite0"))
    assert weights == "shapes-start"
    assert "suit photographs better, but: init_from=efficientnet_lite0 comes with a package" in line
