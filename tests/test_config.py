"""Settings are checked by name, type and range, and every experiment in configs/ passes."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from anchordetr_jax.config import (
    AugmentConfig,
    Config,
    ModelConfig,
    config_from_dict,
    config_to_dict,
    default_config,
)
from anchordetr_jax.errors import UserError
from anchordetr_jax.experiments import read_experiment

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))
OFFICIAL = {
    "anchordetr_r50_c5": ("resnet50", False),
    "anchordetr_r50_dc5": ("resnet50", True),
    "anchordetr_r101_c5": ("resnet101", False),
    "anchordetr_r101_dc5": ("resnet101", True),
}


def test_defaults_survive_the_way_through_a_config_dict() -> None:
    assert config_from_dict(default_config()) == Config()


def test_settings_survive_the_way_through_json() -> None:
    config = dataclasses.replace(Config(), augment=AugmentConfig(train_sizes=(64, 96), flip_probability=0.0))
    assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config


def test_settings_left_out_take_their_defaults() -> None:
    assert config_from_dict({"model": {"num_anchors": 7}}).model == ModelConfig(num_anchors=7)


def test_the_start_of_a_run_is_found_under_its_older_name() -> None:
    assert config_from_dict({"train": {"init_from": "runs/a"}, "init_from": ""}).init_from == "runs/a"
    assert config_from_dict({"train": {"init_from": ""}, "init_from": "runs/b"}).init_from == "runs/b"


def test_negatives_that_an_older_version_chose_without_groups_still_load() -> None:
    assert config_from_dict({"train": {"denoising_negatives": True}}).train.denoising_groups == 0


@pytest.mark.parametrize(
    ("group", "names", "sentence"),
    [
        ("matcher", ("class_cost", "box_cost", "giou_cost"), "any matching is the best one"),
        ("loss", ("class_weight", "box_weight", "giou_weight"), "nothing is learned"),
    ],
)
def test_weights_that_are_all_zero_are_refused(group: str, names: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        config_from_dict({group: dict.fromkeys(names, 0.0)})
    assert config_from_dict({group: dict.fromkeys(names[1:], 0.0)})


def test_a_whole_number_will_do_for_a_float() -> None:
    value = config_from_dict({"optimizer": {"clip_norm": 1}}).optimizer.clip_norm
    assert value == 1.0
    assert isinstance(value, float)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"modle": {}}, "There is no setting 'modle'; did you mean 'model'?"),
        ({"model": {"zzz": 1}}, "There is no setting 'model.zzz'; known here: backbone, "),
        ({"model": 3}, "'model' is a group of settings, not 3"),
        ({"model": {"num_anchors": "many"}}, "'model.num_anchors' must be of type int, not 'many'"),
        ({"model": {"num_anchors": True}}, "'model.num_anchors' must be of type int, not True"),
        ({"model": {"dilation": 1}}, "'model.dilation' must be of type bool, not 1"),
        ({"model": {"backbone": "vgg"}}, "'model.backbone' must be one of 'resnet50'"),
        ({"augment": {"train_sizes": "96"}}, "'augment.train_sizes' must be a tuple of int, not '96'"),
        ({"augment": {"train_sizes": (96, "x")}}, "'augment.train_sizes' must be of type int, not 'x'"),
    ],
)
def test_a_wrong_name_or_type_is_named(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        config_from_dict(settings)
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("model", "num_feature_levels", 2),
        ("model", "num_patterns", 0),
        ("model", "num_classes", -1),
        ("model", "encoder_layers", -1),
        ("model", "hidden_dim", 48),
        ("model", "num_heads", 7),
        ("data", "max_boxes", -1),
        ("data", "num_buckets", 0),
        ("data", "prefetch", 0),
        ("augment", "flip_probability", 1.5),
        ("augment", "train_sizes", ()),
        ("augment", "crop_min", 700),
        ("optimizer", "learning_rate", -1.0),
        ("optimizer", "learning_rate", math.inf),
        ("optimizer", "backbone_learning_rate", math.nan),
        ("optimizer", "weight_decay", math.inf),
        ("optimizer", "clip_norm", math.inf),
        ("optimizer", "warmup_steps", -1),
        ("optimizer", "drop_epoch", 0),
        ("matcher", "class_cost", math.nan),
        ("matcher", "box_cost", math.inf),
        ("matcher", "giou_cost", -2.0),
        ("loss", "class_weight", -1.0),
        ("loss", "box_weight", math.inf),
        ("loss", "giou_weight", math.nan),
        ("loss", "focal_alpha", -1.0),
        ("loss", "focal_alpha", 1.5),
        ("loss", "focal_gamma", -0.5),
        ("loss", "focal_gamma", math.inf),
        ("train", "batch_size", 0),
        ("train", "evaluate_every", -1),
        ("eval", "max_detections", 0),
        ("mesh", "fsdp", 0),
    ],
)
def test_a_value_out_of_range_is_named(group: str, name: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"'{group}\.\w+' must be"):
        config_from_dict({group: {name: value}})


def test_three_levels_need_dilation() -> None:
    with pytest.raises(UserError, match=r"needs model\.dilation=True"):
        config_from_dict({"model": {"num_feature_levels": 3, "dilation": False}})


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_an_experiment_file_loads_from_any_folder(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert isinstance(read_experiment(str(path)).config, Config)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_an_experiment_file_says_how_to_run_it_and_what_to_expect(path: Path) -> None:
    docstring = path.read_text().split('"""')[1]
    assert f"--config {path.stem.replace('_', '-')} " in docstring
    assert "AP" in docstring


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_released_models_have_the_official_recipe(name: str) -> None:
    config = read_experiment(str(CONFIGS[0].parent / f"{name}.py")).config
    assert (config.model.backbone, config.model.dilation) == OFFICIAL[name]
    assert (config.model.num_classes, config.data.labels) == (91, "raw")
    assert (config.train.epochs, config.train.batch_size, config.optimizer.drop_epoch) == (50, 8, 40)
    assert config.optimizer == Config().optimizer
    assert config.augment == Config().augment


@pytest.mark.parametrize(
    ("backbone", "dilation", "pixels"),
    [("resnet50", True, 16), ("resnet50", False, 32), ("compact", True, 8), ("efficientnet_lite0", False, 32)],
)
def test_a_feature_cell_is_as_large_as_the_stride(backbone: Any, dilation: bool, pixels: int) -> None:
    assert ModelConfig(backbone=backbone, dilation=dilation).stride == pixels
