"""What a fine-tuning begins with when nobody names its initial weights, and settings that no run takes."""

from pathlib import Path

import pytest

from anchordetr_jax.config import Config, TrainConfig
from anchordetr_jax.errors import UserError
from anchordetr_jax.experiments import Experiment, read_experiment
from anchordetr_jax.training.experiment import run_experiment, usual_weights


def test_a_preset_without_initial_weights_begins_with_a_published_model() -> None:
    assert usual_weights(Config())[0] == "anchordetr-r50-dc5"


def test_a_preset_with_initial_weights_keeps_them() -> None:
    assert usual_weights(read_experiment("finetune-cpu").config) == ("", "")


def test_a_run_with_negatives_of_no_denoising_groups_is_refused(tmp_path: Path) -> None:
    config = Config(train=TrainConfig(denoising_negatives=True))
    with pytest.raises(UserError, match=r"denoising_negatives has no effect without train\.denoising_groups"):
        run_experiment(Experiment(config), tmp_path)
