"""Weight files to checkpoints and back."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from anchordetr_jax.checkpoints.checkpoint import load_model, read_meta, save_variables, saved_shapes
from anchordetr_jax.config import AugmentConfig, Config, EvalConfig, ModelConfig
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.errors import UserError
from anchordetr_jax.kernels.building import definition_of, variables_of
from anchordetr_jax.verification.proofs import verify_roundtrip
from anchordetr_jax.weights.convert import describe_file, export_weights, import_weights
from anchordetr_jax.weights.correspondence import Form, backbone_correspondences
from anchordetr_jax.weights.reading import read_weights
from anchordetr_jax.weights.state_dict_file import read_state_dict
from anchordetr_jax.weights.torch_file import write_torch_file
from tests.weights.conftest import SMALL, random_state_dict, random_variables

pytestmark = pytest.mark.usefixtures("small_resnet")

BLOOD = Categories(ids=(1, 2, 7), names=("platelets", "red", "white"), scheme="contiguous")
ARGS = {"dilation": False, "lr": 2e-4, "epochs": 12, "batch_size": 2, "world_size": 4, "output_dir": "/data/r50"}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Official weights as a training run leaves them."""
    path = tmp_path / "official.pth"
    write_torch_file(path, {"model": random_state_dict(), "args": ARGS, "epoch": 11})
    return path


def written(path: Path, state_dict: dict[str, np.ndarray], **args: Any) -> Path:
    write_torch_file(path, {"model": state_dict, **({"args": args} if args else {})})
    return path


def torchvision_resnet() -> dict[str, np.ndarray]:
    shapes = definition_of(SMALL).shapes
    names = {row.sources[0]: row for row in backbone_correspondences("resnet50")}
    state_dict = {
        name: np.ones(row.layout.to_torch(np.zeros(shapes[row.targets[0]].shape)).shape, np.float32)
        for name, row in names.items()
    }
    return {**state_dict, "fc.weight": np.zeros((7, 2048)), "fc.bias": np.zeros(7)}


def annotations(path: Path, *ids: int) -> Path:
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 4, "width": 4}],
        "annotations": [],
        "categories": [{"id": i, "name": f"class {i}"} for i in ids],
    }
    path.write_text(json.dumps(content))
    return path


def test_an_imported_checkpoint_has_every_weight_and_the_settings_it_implies(weights: Path, tmp_path: Path) -> None:
    import_weights(weights, tmp_path / "out")
    model, meta = load_model(tmp_path / "out")
    expected, *_ = read_state_dict(weights)
    variables = variables_of(model)
    np.testing.assert_array_equal(variables["anchors"], expected["transformer.position.weight"])
    np.testing.assert_array_equal(variables["class_head/kernel"].T, expected["transformer.class_embed.1.weight"])
    assert (meta.config.model.dilation, meta.config.model.decoder_layers) == (False, 2)
    assert (meta.config.optimizer.learning_rate, meta.config.train.epochs) == (2e-4, 12)
    assert meta.config.train.batch_size == 8
    assert meta.config.data.labels == "raw"


def test_91_outputs_are_cocos_categories_and_that_is_said(weights: Path) -> None:
    read = read_weights(weights)
    assert read.categories is not None
    assert (read.categories.name_of(1), read.categories.name_of(90)) == ("person", "toothbrush")
    assert any("taken to be COCO's" in remark for remark in read.remarks)


def test_annotations_say_what_the_outputs_are_instead(weights: Path, tmp_path: Path) -> None:
    read = read_weights(weights, annotations=annotations(tmp_path / "classes.json", 3, 5))
    assert read.categories == Categories(ids=(3, 5), names=("class 3", "class 5"), scheme="raw")
    assert read.config.model.num_classes == 91
    with pytest.raises(UserError, match="category ids up to 91"):
        read_weights(weights, annotations=annotations(tmp_path / "classes.json", 91))


def test_another_number_of_outputs_has_no_names(tmp_path: Path) -> None:
    path = written(tmp_path / "other.pth", random_state_dict(ModelConfig(**{**vars(SMALL), "num_classes": 7})))
    read = read_weights(path, dilation=True)
    assert read.categories is None
    assert any("not known" in remark for remark in read.remarks)


def test_c5_or_dc5_is_never_guessed(tmp_path: Path) -> None:
    path = written(tmp_path / "bare.pth", random_state_dict())
    with pytest.raises(UserError, match=r"bare\.pth does not say .*--no-dilation \(C5\) or --dilation \(DC5\)"):
        read_weights(path)
    assert read_weights(path, dilation=False).config.model.dilation is False
    assert read_weights(path, dilation=True).config.model.dilation is True


def test_an_option_that_contradicts_the_file_is_refused(weights: Path) -> None:
    with pytest.raises(UserError, match=r"model\.dilation is False, not True"):
        read_weights(weights, dilation=True)


def test_args_that_contradict_the_tensors_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "mixed.pth", random_state_dict(), dilation=True, dec_layers=6, num_query_pattern=3)
    with pytest.raises(UserError, match=r"num_patterns is 2 by its tensors and 3 by its args; .*decoder_layers is 2"):
        read_weights(path)


def test_several_levels_are_of_a_dc5_model(tmp_path: Path) -> None:
    model = ModelConfig(**{**vars(SMALL), "num_feature_levels": 3, "encoder_layers": 2})
    assert read_weights(written(tmp_path / "levels.pth", random_state_dict(model))).config.model == model


def test_the_size_of_a_grid_is_never_guessed(tmp_path: Path) -> None:
    model = ModelConfig(**{**vars(SMALL), "spatial_prior": "grid"})
    path = written(tmp_path / "grid.pth", random_state_dict(model), dilation=True)
    with pytest.raises(UserError, match="how many anchors its grid has: say it with --anchors N"):
        read_weights(path)
    assert read_weights(path, num_anchors=9).config.model.num_anchors == 9
    told = written(tmp_path / "told.pth", random_state_dict(model), dilation=True, num_query_position=16)
    assert read_weights(told).config.model.num_anchors == 16


def test_safetensors_are_read_too(tmp_path: Path) -> None:
    safetensors.numpy.save_file(random_state_dict(), tmp_path / "weights.safetensors")
    read = read_weights(tmp_path / "weights.safetensors", dilation=True)
    np.testing.assert_array_equal(read.variables["anchors"], random_state_dict()["transformer.position.weight"])


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    halves = {name: array.astype(np.float16) for name, array in random_state_dict().items()}
    read = read_weights(written(tmp_path / "half.pth", halves), dilation=True)
    assert {array.dtype for array in read.variables.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(read.variables["anchors"], halves["transformer.position.weight"].astype(np.float32))


def test_a_torchvision_resnet_becomes_a_backbone_to_start_from(tmp_path: Path) -> None:
    write_torch_file(tmp_path / "resnet50.pth", torchvision_resnet())
    import_weights(tmp_path / "resnet50.pth", tmp_path / "out")
    assert {name.split("/")[0] for name in saved_shapes(tmp_path / "out")} == {"backbone"}
    with pytest.raises(UserError, match=r"holds only a backbone.*init_from"):
        load_model(tmp_path / "out")


def test_weights_of_another_network_are_named_with_their_file(tmp_path: Path) -> None:
    write_torch_file(tmp_path / "other.pth", {"model": {"encoder.weight": np.zeros(3, np.float32)}})
    with pytest.raises(UserError, match=r"other\.pth cannot be used: This is not an Anchor DETR state dict"):
        read_weights(tmp_path / "other.pth")


def test_a_resnet_without_bottlenecks_is_refused(tmp_path: Path) -> None:
    state_dict = {name: array for name, array in torchvision_resnet().items() if ".conv3." not in name}
    write_torch_file(tmp_path / "resnet18.pth", state_dict)
    with pytest.raises(UserError, match="give a ResNet-50 or a ResNet-101"):
        read_weights(tmp_path / "resnet18.pth")


def test_nothing_is_overwritten_unasked(weights: Path, tmp_path: Path) -> None:
    import_weights(weights, tmp_path / "out")
    with pytest.raises(UserError, match="out exists: give another folder, or --overwrite"):
        import_weights(weights, tmp_path / "out")
    import_weights(weights, tmp_path / "out", overwrite=True)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(UserError, match="photos exists and is not a checkpoint"):
        import_weights(weights, tmp_path / "photos", overwrite=True)


def trained_here(path: Path, categories: Categories | None, **settings: Any) -> Path:
    """A checkpoint as training leaves it, with as many outputs as it has classes."""
    model = ModelConfig(
        **{**vars(SMALL), "num_classes": 3 if categories is None else categories.num_labels, **settings}
    )
    save_variables(path, random_variables(model), categories, Config(model=model))
    return path


def test_classes_trained_here_stand_at_their_category_ids_in_an_exported_file(tmp_path: Path) -> None:
    remarks = export_weights(trained_here(tmp_path / "run", BLOOD), tmp_path / "out.pth")
    state_dict, *_ = read_state_dict(tmp_path / "out.pth")
    variables = random_variables(ModelConfig(**{**vars(SMALL), "num_classes": 3}))
    for layer in (0, 1):
        kernel = state_dict[f"transformer.class_embed.{layer}.weight"]
        assert kernel.shape == (91, 32)
        np.testing.assert_array_equal(kernel[[1, 2, 7]], variables["class_head/kernel"].T)
    assert any("3 class outputs were put among 91" in remark for remark in remarks)
    assert any("main.py --eval --resume" in remark and "--dilation True" in remark for remark in remarks)


@pytest.mark.parametrize("categories", [BLOOD, Categories(ids=(1, 4), names=("a", "b"), scheme="raw"), None])
def test_export_and_import_give_back_every_bit(tmp_path: Path, categories: Categories | None) -> None:
    table = verify_roundtrip(trained_here(tmp_path / "run", categories))
    assert table.passed, str(table)
    assert len(table.rows) == 12


def test_an_exported_file_remembers_its_classes(tmp_path: Path) -> None:
    export_weights(trained_here(tmp_path / "run", BLOOD, attention="standard"), tmp_path / "out.pth")
    import_weights(tmp_path / "out.pth", tmp_path / "back")
    meta = read_meta(tmp_path / "back")
    assert meta.categories == BLOOD
    assert (meta.config.model.num_classes, meta.config.data.labels) == (3, "contiguous")
    assert meta.config.model == read_meta(tmp_path / "run").config.model


@pytest.mark.parametrize(("form", "code"), [("official", "The official code"), ("detrex", "detrex")])
def test_image_sizes_and_detections_come_back_and_are_said_where_the_other_code_has_its_own(
    form: Form, code: str, tmp_path: Path
) -> None:
    augment, evaluation = AugmentConfig(eval_size=320, max_size=480), EvalConfig(max_detections=30)
    config = Config(model=ModelConfig(**{**vars(SMALL), "num_classes": 3}), augment=augment, eval=evaluation)
    save_variables(tmp_path / "run", random_variables(config.model), BLOOD, config)
    remarks = export_weights(tmp_path / "run", tmp_path / "out.pth", form=form)
    assert (
        f"{code} evaluates images at 800 pixels, at most 1333, and this network at 320 pixels, at most 480"
        in "".join(remarks)
    )
    back = import_weights(tmp_path / "out.pth", tmp_path / "back").config
    assert (back.augment, back.eval) == (augment, evaluation)


def test_nothing_is_said_of_image_sizes_that_are_the_official_ones(tmp_path: Path) -> None:
    assert "evaluates images" not in "".join(
        export_weights(trained_here(tmp_path / "run", BLOOD), tmp_path / "out.pth")
    )


@pytest.mark.torch
def test_pytorch_loads_an_exported_file_with_its_defaults(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    export_weights(trained_here(tmp_path / "run", BLOOD), tmp_path / "out.pth")
    content = torch.load(tmp_path / "out.pth", map_location="cpu")
    state_dict, *_ = read_state_dict(tmp_path / "out.pth")
    assert content["model"].keys() == state_dict.keys()
    assert content["args"]["dilation"] is True
    for name, tensor in content["model"].items():
        np.testing.assert_array_equal(tensor.numpy(), state_dict[name])


@pytest.mark.torch
def test_a_checkpoint_of_the_official_training_is_imported(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    model = {name: torch.from_numpy(array) for name, array in random_state_dict().items()}
    content = {"model": model, "optimizer": {}, "lr_scheduler": {}, "epoch": 3, "args": argparse.Namespace(**ARGS)}
    for zipped in (True, False):
        torch.save(content, tmp_path / "official.pth", _use_new_zipfile_serialization=zipped)
        read = read_weights(tmp_path / "official.pth")
        assert read.config.model.dilation is False
        np.testing.assert_array_equal(read.variables["anchors"], model["transformer.position.weight"].numpy())


def test_a_description_says_what_becomes_of_each_tensor(weights: Path) -> None:
    text = describe_file(weights)
    (line,) = [line for line in text.splitlines() if line.startswith("transformer.pattern.weight")]
    assert line.split() == ["transformer.pattern.weight", "float32", "2x32", "patterns"]
    (line,) = [line for line in text.splitlines() if "decoder_layers.0.cross_attn.in_proj_bias" in line]
    assert line.count("cross_attention/") == 5
    assert "decoder_layers=2" in text
    assert "lr=0.0002" in text


def test_a_description_of_what_cannot_be_imported_says_why(tmp_path: Path) -> None:
    path = written(tmp_path / "odd.pth", {**random_state_dict(), "transformer.extra": np.zeros(2, np.float32)})
    text = describe_file(path, dilation=True)
    assert "It would not be imported" in text
    assert "unknown transformer.extra" in text
