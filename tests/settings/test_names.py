"""Names of other tools are answered with the name used here."""

import pytest

from anchordetr_jax.config import Config, config_to_dict
from anchordetr_jax.settings.names import OTHER_NAMES, flat_settings, nearest_setting

SETTINGS = config_to_dict(Config())
KNOWN = [*SETTINGS, *flat_settings(SETTINGS)]


def test_every_name_in_the_table_is_a_setting_and_no_name_means_two() -> None:
    assert set(OTHER_NAMES) <= set(KNOWN)
    others = [other for names in OTHER_NAMES.values() for other in names.split()]
    assert len(others) == len(set(others))


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("optimizer.lr", "optimizer.learning_rate"),
        ("lr", "optimizer.learning_rate"),
        ("LR", "optimizer.learning_rate"),
        ("solver.base_lr", "optimizer.learning_rate"),
        ("augment.imgsz", "augment.train_sizes"),
        ("epochs", "train.epochs"),
        ("batch", "train.batch_size"),
        ("batch-size", "train.batch_size"),
        ("val.batch_size", "eval.batch_size"),
        ("weight_decay", "optimizer.weight_decay"),
        ("train.learning_rate", "optimizer.learning_rate"),
        ("train.epoch", "train.epochs"),
        ("modle.dilation", "model.dilation"),
        ("modle", "model"),
        ("zzz", None),
        ("model.zzz", None),
    ],
)
def test_the_nearest_setting_is_found(name: str, setting: str | None) -> None:
    assert nearest_setting(name, KNOWN) == setting
