"""What a fine-tuning begins with when nobody names its initial weights."""

from anchordetr_jax.config import Config
from anchordetr_jax.experiments import load_config
from anchordetr_jax.training.experiment import usual_weights


def test_a_preset_without_initial_weights_begins_with_a_published_model() -> None:
    assert usual_weights(Config())[0] == "anchordetr-r50-dc5"


def test_a_preset_with_initial_weights_keeps_them() -> None:
    assert usual_weights(load_config("finetune-cpu")) == ("", "")
