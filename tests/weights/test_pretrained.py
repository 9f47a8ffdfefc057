"""Weights found by name or path, and detrex's form of them."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anchordetr_jax.checkpoints.checkpoint import save_variables
from anchordetr_jax.config import Config, ModelConfig
from anchordetr_jax.data.sources.coco_categories import coco_categories
from anchordetr_jax.errors import UserError
from anchordetr_jax.weights.convert import describe_file, export_weights, exported, import_weights
from anchordetr_jax.weights.locating import locate
from anchordetr_jax.weights.pretrained import open_pretrained
from anchordetr_jax.weights.state_dict import state_dict_from_variables
from anchordetr_jax.weights.state_dict_file import read_state_dict
from anchordetr_jax.weights.torch_file import write_torch_file
from tests.weights.conftest import SMALL, random_variables
from tests.weights.file_server import FileServer, serving

pytestmark = pytest.mark.usefixtures("small_resnet")

EIGHTY = dataclasses.replace(SMALL, num_classes=80)
R50_DC5 = "converted_anchor_detr_r50_dc5_50ep.pth"


def detrex_file(path: Path, anchors: Any = None, **content: Any) -> Path:
    """Weights as detrex publishes them."""
    variables = random_variables(EIGHTY)
    variables["anchors"] = np.full((5, 2), 0.5, np.float32)
    if anchors is not None:
        variables["anchors"].reshape(-1)[: len(anchors)] = anchors
    write_torch_file(path, {"model": state_dict_from_variables(variables, EIGHTY, "detrex"), **content})
    return path


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("ANCHORDETR_CACHE", str(tmp_path / "cache"))
    with serving() as server:
        server.files[R50_DC5] = detrex_file(tmp_path / "made.pth").read_bytes()
        monkeypatch.setenv("ANCHORDETR_MIRROR", server.url)
        yield server


def test_a_published_model_is_found_by_its_name_with_its_architecture_and_classes(mirror: FileServer) -> None:
    found = open_pretrained("anchordetr-r50-dc5")
    assert found.config.model == EIGHTY
    assert found.config.model.dilation
    assert found.categories == coco_categories("contiguous")
    assert any("detrex's names" in remark for remark in found.remarks)
    assert found.model().config == EIGHTY


def test_a_name_says_c5_or_dc5_and_nothing_else_may(mirror: FileServer) -> None:
    mirror.files["converted_anchor_detr_r50_50ep.pth"] = mirror.files[R50_DC5]
    assert open_pretrained("anchordetr-r50-c5").config.model.dilation is False
    with pytest.raises(UserError, match=r"model\.dilation is True, not False: leave the flag out"):
        open_pretrained("anchordetr-r50-dc5", dilation=False)


def test_a_file_with_a_published_files_name_is_that_model(tmp_path: Path) -> None:
    assert open_pretrained(detrex_file(tmp_path / R50_DC5)).config.model.dilation
    with pytest.raises(UserError, match="does not say whether it is a C5 or a DC5 model"):
        open_pretrained(detrex_file(tmp_path / "other.pth"))


def test_a_file_of_another_model_under_a_published_name_is_refused(mirror: FileServer) -> None:
    mirror.files["converted_anchor_detr_r101_dc5_50ep.pth"] = mirror.files[R50_DC5]
    with pytest.raises(UserError, match="Its backbone is resnet50, but anchordetr-r101-dc5 has another one"):
        open_pretrained("anchordetr-r101-dc5")


def test_a_path_wins_over_a_published_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resnet50").mkdir()
    assert locate("resnet50").kind == "checkpoint"


def test_a_name_that_is_nearly_one_gets_it_suggested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"nothing at anchordetr-r50-dc. Did you mean anchordetr-r50-dc5"):
        locate("anchordetr-r50-dc")
    with pytest.raises(UserError, match=r"nothing at runs/mine\. Give a run's workdir"):
        locate("runs/mine")


def test_a_published_model_is_imported_and_exported(mirror: FileServer, tmp_path: Path) -> None:
    import_weights("anchordetr-r50-dc5", tmp_path / "theirs")
    found = open_pretrained(tmp_path / "theirs")
    assert (found.config.model, found.categories) == (EIGHTY, coco_categories("contiguous"))
    export_weights("anchordetr-r50-dc5", tmp_path / "official.pth")
    bias = read_state_dict(tmp_path / "official.pth").state_dict["transformer.class_embed.0.bias"]
    assert bias.shape == (91,)
    np.testing.assert_array_equal(bias[[1, 90]], found.variables()["class_head/bias"][[0, 79]])


def test_detrexs_form_is_recognised_and_described(tmp_path: Path) -> None:
    text = describe_file(detrex_file(tmp_path / "d.pth"), dilation=True)
    assert "in detrex's form" in text
    (line,) = [line for line in text.splitlines() if line.startswith("input_proj.1.weight")]
    assert line.endswith("input_projections/0/norm/scale")
    assert "COCO's classes in the order of their ids" in text


def test_anchors_near_the_border_keep_detrexs_arithmetic(tmp_path: Path) -> None:
    near = detrex_file(tmp_path / "near.pth", [0.0, 0.0009, 0.9995, 0.002, 0.998])
    found = open_pretrained(near, dilation=True)
    assert found.config.model.anchor_border == 1e-3
    assert any("3 anchor coordinates are less than 0.001" in remark for remark in found.remarks)
    assert open_pretrained(detrex_file(tmp_path / "far.pth"), dilation=True).config.model == EIGHTY


def test_what_is_exported_for_detrex_comes_back_to_the_bit(tmp_path: Path) -> None:
    near = detrex_file(tmp_path / "near.pth", [0.0])
    import_weights(near, tmp_path / "run", dilation=False)
    remarks = export_weights(tmp_path / "run", tmp_path / "back.pth", form="detrex")
    there, back = (read_state_dict(path).state_dict for path in (near, tmp_path / "back.pth"))
    assert back.keys() == there.keys()
    for name, array in there.items():
        assert back[name].tobytes() == array.tobytes()
    (sentence,) = remarks
    words = sentence.split()
    assert words[words.index("--config-file") + 1] == "projects/anchor_detr/configs/anchor_detr_r50_50ep.py"
    assert f"train.init_checkpoint={tmp_path}/back.pth" in words
    settings = {word for word in words if word.startswith("model.")}
    assert {"model.transformer.num_encoder_layers=1", "model.transformer.embed_dim=32", "model.embed_dim=32"} < settings
    assert not any("num_classes" in setting for setting in settings)
    found = open_pretrained(tmp_path / "back.pth")
    assert found.config.model == dataclasses.replace(EIGHTY, dilation=False, anchor_border=1e-3)


def test_ninety_one_outputs_become_eighty_for_detrex(tmp_path: Path) -> None:
    variables = random_variables(SMALL)
    save_variables(tmp_path / "run", variables, coco_categories("raw"), Config(model=SMALL))
    remarks = export_weights(tmp_path / "run", tmp_path / "d.pth", form="detrex")
    bias = read_state_dict(tmp_path / "d.pth").state_dict["transformer.class_embed.0.bias"]
    np.testing.assert_array_equal(bias, variables["class_head/bias"][list(coco_categories("raw").ids)])
    assert any("the 80 that have a class" in remark for remark in remarks)
    assert open_pretrained(tmp_path / "d.pth").categories == coco_categories("contiguous")


def test_where_the_other_code_computes_boxes_differently_it_is_said() -> None:
    variables = random_variables(EIGHTY)
    variables["anchors"] = np.full((5, 2), 0.5, np.float32)
    variables["anchors"][0] = [0.0, 0.9991]
    for border, form, said in ((1e-5, "detrex", True), (1e-3, "official", True), (1e-3, "detrex", False)):
        model = dataclasses.replace(EIGHTY, anchor_border=border)
        _, remarks = exported(variables, Config(model=model), coco_categories("contiguous"), form=form)  # type: ignore[arg-type]
        assert any("2 coordinates differ" in remark for remark in remarks) == said


def test_several_levels_have_no_form_in_detrex() -> None:
    model = ModelConfig(**{**vars(SMALL), "num_feature_levels": 3, "encoder_layers": 2})
    with pytest.raises(UserError, match="no Anchor DETR with several feature levels"):
        exported(random_variables(model), Config(model=model), None, 91, "detrex")
