"""Names of other tools are answered with the name used here."""

import pytest

from anchordetr_jax.config import Config, config_to_dict
from anchordetr_jax.errors import UserError
from anchordetr_jax.settings.names import OTHER_NAMES, flat_settings, nearest_setting, setting_named

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


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("train.seed", "train.seed"),
        ("batch_size", "train.batch_size"),  # That of training, not that of evaluation.
        ("learning_rate", "optimizer.learning_rate"),
        ("init_from", "init_from"),
    ],
)
def test_a_setting_may_be_named_without_its_group(name: str, setting: str) -> None:
    assert setting_named(name, flat_settings(SETTINGS)) == setting


def test_of_several_groups_the_one_that_is_asked_for_counts() -> None:
    assert setting_named("batch_size", flat_settings(SETTINGS), "eval") == "eval.batch_size"


def test_a_setting_that_does_not_exist_gets_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"There is no setting 'lr'; did you mean 'optimizer\.learning_rate'\?"):
        setting_named("lr", flat_settings(SETTINGS))
