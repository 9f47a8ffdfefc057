"""The command line of `convert_weights.py`."""

from pathlib import Path

import numpy as np
import pytest

from anchordetr_jax.checkpoints.checkpoint import read_meta
from anchordetr_jax.commands import convert, main
from anchordetr_jax.errors import UserError
from anchordetr_jax.weights.state_dict_file import read_state_dict
from anchordetr_jax.weights.torch_file import write_torch_file
from tests.detector import save_detector
from tests.weights.conftest import random_state_dict, small_resnet

__all__ = ["small_resnet"]


@pytest.mark.usefixtures("small_resnet")
def test_weights_go_in_and_come_out_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, back = tmp_path / "official.pth", tmp_path / "back.pth"
    write_torch_file(source, {"model": random_state_dict()})
    convert.main(["import", str(source), str(tmp_path / "out"), "--no-dilation"])
    assert read_meta(tmp_path / "out").config.model.dilation is False
    convert.main(["export", str(tmp_path / "out"), str(back)])
    original, returned = read_state_dict(source)[0], read_state_dict(back)[0]
    assert original.keys() == returned.keys()
    for name, array in original.items():
        np.testing.assert_array_equal(returned[name], array)
    convert.main(["inspect", str(back)])
    printed = capsys.readouterr().out
    assert f"The checkpoint is in {tmp_path / 'out'}." in printed
    assert f"The weights are in {back}." in printed
    assert "transformer.pattern.weight" in printed


@pytest.mark.usefixtures("small_resnet")
def test_what_a_file_does_not_say_is_asked_for(tmp_path: Path) -> None:
    write_torch_file(tmp_path / "bare.pth", random_state_dict())
    with pytest.raises(UserError, match="--no-dilation"):
        convert.main(["import", str(tmp_path / "bare.pth"), str(tmp_path / "out")])


def test_a_mistake_is_answered_by_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "page.pth").write_text("<html>")
    assert main(["convert", "import", str(tmp_path / "page.pth"), str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"Error: {tmp_path / 'page.pth'} is a web page")


@pytest.mark.parametrize("form", ["official", "pretrained"])
def test_a_better_checkpoint_than_the_one_that_is_exported_is_named(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    for step in (100, 200):
        save_detector(run / "checkpoints" / str(step))
    (run / "metrics.jsonl").write_text('{"step": 100, "val/AP": 0.5}\n{"step": 200, "val/AP": 0.3}\n')
    main(["convert", "export", str(run), str(tmp_path / "out"), "--form", form])  # `official` has no such backbone.
    assert "Note: The newest checkpoint of this run is used (step 200, with AP 0.300)" in capsys.readouterr().err


def test_annotations_are_refused_where_the_names_are_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = save_detector(tmp_path / "checkpoint")
    arguments = ["export", str(checkpoint), str(tmp_path / "out.pth"), "--annotations", "nothing.json"]
    assert main(["convert", *arguments]) == 1
    assert "has the names of its classes: leave --annotations out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--license", "mit"), "--license is for --form pretrained"),
        (("--private",), "--private is for --form pretrained"),
        (("--form", "pretrained", "--private"), "--private is for a repository on the Hub"),
    ],
)
def test_flags_of_model_cards_and_repositories_are_refused_elsewhere(
    flags: tuple[str, ...], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = save_detector(tmp_path / "checkpoint")
    assert main(["convert", "export", str(checkpoint), str(tmp_path / "out.pth"), *flags]) == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out.pth").exists()
