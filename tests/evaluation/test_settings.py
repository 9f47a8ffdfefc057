import dataclasses

import pytest

from anchordetr_jax.config import AugmentConfig, Config, DataConfig, EvalConfig, ModelConfig
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.errors import UserError
from anchordetr_jax.evaluation.settings import check_categories, evaluation_config

TRAINED = Config(model=ModelConfig(num_classes=91, decoder_layers=3), data=DataConfig(root="then", labels="raw"))


def test_the_network_comes_from_the_checkpoint_and_the_data_from_the_user():
    given = Config(model=ModelConfig(decoder_layers=3), data=DataConfig(root="now"), eval=EvalConfig(batch_size=3))
    config, _ = evaluation_config(TRAINED, given)
    assert config.model == TRAINED.model
    assert (config.data.root, config.eval.batch_size) == ("now", 3)


def test_the_meaning_of_class_outputs_comes_from_the_checkpoint():
    given = Config(model=ModelConfig(decoder_layers=3), data=DataConfig(labels="contiguous"))
    assert evaluation_config(TRAINED, given)[0].data.labels == "raw"


def test_how_the_network_computes_comes_from_the_user():
    given = Config(model=ModelConfig(decoder_layers=3, dtype="bfloat16", padding="official"))
    model = evaluation_config(TRAINED, given)[0].model
    assert (model.dtype, model.padding, model.num_classes) == ("bfloat16", "official", 91)


def test_image_sizes_come_from_the_checkpoint_unless_they_are_chosen():
    trained = dataclasses.replace(TRAINED, augment=AugmentConfig(eval_size=384, max_size=512))
    given = Config(model=ModelConfig(decoder_layers=3), augment=AugmentConfig(eval_size=800, max_size=512))
    config, remarks = evaluation_config(trained, given)
    assert config.augment.eval_size == 384
    assert remarks == (
        "augment.eval_size=384 is that of the checkpoint, not 800: --config.augment.eval_size=VALUE takes another.",
    )
    config, remarks = evaluation_config(trained, given, ["augment.eval_size"])
    assert (config.augment.eval_size, remarks) == (800, ())


def test_the_shapes_that_training_showed_come_from_the_checkpoint_without_a_word():
    trained = dataclasses.replace(TRAINED, augment=AugmentConfig(shown_ratios=(0.75,)))
    config, remarks = evaluation_config(trained, Config(model=ModelConfig(decoder_layers=3)))
    assert config.augment.shown_ratios == (0.75,)
    assert remarks == ()


@pytest.mark.parametrize("change", [{"decoder_layers": 6}, {"num_classes": 80}, {"dilation": False}])
def test_another_network_is_refused_by_name(change):
    given = Config(model=dataclasses.replace(TRAINED.model, **change))
    with pytest.raises(UserError, match=f"model.{next(iter(change))}"):
        evaluation_config(TRAINED, given)


KNOWN = Categories(ids=(1, 3), names=("cat", "dog"))


def test_equal_classes_with_other_outputs_are_refused():
    message = r"category 1 is output 0 of the checkpoint and output 1 .*Set data\.labels to 'contiguous'"
    with pytest.raises(UserError, match=message):
        check_categories(KNOWN, dataclasses.replace(KNOWN, scheme="raw"), "instances.json")


def test_equal_classes_agree_where_both_schemes_give_the_same_outputs():
    known = Categories(ids=(0, 1), names=("cat", "dog"))
    check_categories(known, dataclasses.replace(known, scheme="raw"), "instances.json")


def test_unnamed_classes_agree_with_any():
    check_categories(None, KNOWN, "instances.json")


@pytest.mark.parametrize(
    ("ids", "names", "difference"),
    [
        ((1, 3), ("cat", "cow"), "category 3 is 'dog' in the checkpoint and 'cow' in instances.json"),
        ((1,), ("cat",), "category 3 is 'dog' in the checkpoint and absent in"),
        ((1, 2, 3), ("cat", "hen", "dog"), "category 2 is absent in the checkpoint and 'hen' in"),
    ],
)
def test_the_first_difference_between_classes_is_named(ids, names, difference):
    with pytest.raises(UserError, match=difference):
        check_categories(KNOWN, Categories(ids=ids, names=names), "instances.json")
