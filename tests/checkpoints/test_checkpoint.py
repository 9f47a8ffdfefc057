"""Checkpoints stand alone, and what does not fit costs one sentence."""

import dataclasses
import json
import shutil
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchordetr_jax.checkpoints import checkpoint
from anchordetr_jax.checkpoints.checkpoint import (
    compare_shapes,
    find_checkpoint,
    load_model,
    read_meta,
    save_variables,
)
from anchordetr_jax.checkpoints.integrity import CHECKSUMS_FILE, find_damage
from anchordetr_jax.config import Config
from anchordetr_jax.devices import make_mesh, replicated
from anchordetr_jax.errors import UserError
from anchordetr_jax.kernels.building import definition_of, variables_of
from anchordetr_jax.model.anchor_detr import AnchorDETR
from tests.training.tiny import CATEGORIES, CONFIG, MODEL


def detector() -> AnchorDETR:
    """The real detector with random weights (made without JAX's initialisers, which take long to compile)."""
    definition = definition_of(MODEL)
    rng = np.random.default_rng(0)
    values = {
        name: jax.device_put(rng.standard_normal(s.shape).astype(s.dtype)) for name, s in definition.shapes.items()
    }
    return definition.merge(values)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("converted") / "weights"
    save_variables(path, variables_of(detector()), CATEGORIES, CONFIG)
    return path


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "weights"))


def largest_file(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def test_a_model_comes_back_bit_for_bit_with_its_settings_and_classes(saved: Path) -> None:
    model, meta = load_model(saved)
    expected = variables_of(detector())
    for name, value in variables_of(model).items():
        np.testing.assert_array_equal(value, expected[name])
    assert (meta.config, meta.categories, meta.step) == (CONFIG, CATEGORIES, 0)
    assert isinstance(model, AnchorDETR)


def test_a_folder_may_be_a_relative_path(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(saved.parent)
    assert load_model(saved.name)[1].path == str(saved)


def test_settings_that_keep_the_architecture_may_be_changed_on_loading(saved: Path) -> None:
    model, meta = load_model(saved, padding="official", dtype="bfloat16")
    assert (model.config.padding, model.config.dtype) == ("official", "bfloat16")
    assert meta.config.model == model.config
    assert all(value.dtype == jnp.float32 for value in variables_of(model).values())


def test_weights_can_be_placed_on_a_whole_mesh(saved: Path) -> None:
    sharding = replicated(make_mesh(CONFIG.mesh))
    model, _ = load_model(saved, sharding=sharding)
    assert all(value.sharding == sharding for value in variables_of(model).values())


def test_a_setting_that_changes_the_architecture_is_refused(saved: Path) -> None:
    with pytest.raises(UserError, match=r"another architecture.*; and \d+ more"):
        load_model(saved, decoder_layers=4)


def test_an_absent_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoint .*nowhere: no such folder"):
        load_model(tmp_path / "nowhere")


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"no checkpoint in {tmp_path}"):
        load_model(tmp_path)


@pytest.mark.parametrize("layout", ["", "5", "checkpoints/5"])
def test_a_checkpoint_is_found_by_its_own_folder_or_those_above(layout: str, saved: Path, tmp_path: Path) -> None:
    place = tmp_path / "run" / layout
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(saved, target_is_directory=True)
    assert Path(find_checkpoint(tmp_path / "run")) == place


def test_an_altered_file_is_noticed(copy: Path) -> None:
    path = largest_file(copy / "model")
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 1
    path.write_bytes(contents)
    with pytest.raises(UserError, match=rf"damaged \(model/.*{path.name} was altered\)"):
        load_model(copy)


def test_a_missing_file_is_noticed(copy: Path) -> None:
    path = largest_file(copy / "model")
    path.unlink()
    with pytest.raises(UserError, match=rf"damaged \(model/.*{path.name} is missing\)"):
        load_model(copy)


def test_the_only_checkpoint_of_a_folder_is_named_when_it_is_damaged(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "best/5"
    shutil.copytree(saved, path)
    (path / "meta/data.json").unlink()
    with pytest.raises(UserError, match=rf"Checkpoint {path} is damaged \(.*\) and the only one in its folder"):
        find_checkpoint(tmp_path / "best")


def test_a_truncated_list_of_checksums_is_noticed(copy: Path) -> None:
    path = copy / CHECKSUMS_FILE
    path.write_text(path.read_text()[:100])
    with pytest.raises(UserError, match=r"damaged \(checksums\.json is unreadable\)"):
        load_model(copy)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # What Orbax leaves behind then.
def test_damage_that_only_reading_finds_gives_one_sentence(copy: Path) -> None:
    (copy / CHECKSUMS_FILE).unlink()
    for path in (copy / "model").rglob("d/*"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"is damaged|cannot be read"):
        load_model(copy)
    time.sleep(0.5)  # Orbax's other reads end meanwhile, lest their noise count against the next test.


def test_a_checkpoint_without_checksums_is_sound(copy: Path) -> None:
    (copy / CHECKSUMS_FILE).unlink()
    assert find_damage(checkpoint.epath.Path(copy)) is None
    load_model(copy)


def test_a_checkpoint_of_a_newer_version_is_refused(copy: Path) -> None:
    path = copy / "meta" / "data.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": checkpoint.FORMAT_VERSION + 1}))
    (copy / CHECKSUMS_FILE).unlink()
    with pytest.raises(UserError, match=r"has format 2.*update anchordetr_jax"):
        load_model(copy)


def test_weights_do_not_overwrite_what_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "holiday.txt").write_text("photos")
    with pytest.raises(UserError, match="is not a checkpoint"):
        save_variables(tmp_path, {"a": np.zeros(3)}, None, CONFIG)
    assert (tmp_path / "holiday.txt").exists()


def test_weights_replace_an_older_checkpoint(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        save_variables(tmp_path / "weights", {"a": jnp.full(3, value)}, None, CONFIG)
    wanted = {"a": jax.ShapeDtypeStruct((3,), jnp.float32, sharding=replicated(make_mesh(CONFIG.mesh)))}
    np.testing.assert_array_equal(checkpoint.load_variables(tmp_path / "weights", wanted)["a"], [2, 2, 2])


def test_settings_written_by_an_older_version_take_defaults_for_what_is_new(copy: Path) -> None:
    path = copy / "meta" / "data.json"
    contents: dict[str, Any] = json.loads(path.read_text())
    del contents["config"]["mesh"]
    path.write_text(json.dumps(contents))
    assert read_meta(copy).config == dataclasses.replace(CONFIG, mesh=Config().mesh)


def test_every_kind_of_difference_is_named() -> None:
    expected = {name: jax.ShapeDtypeStruct((2, 3), jnp.float32) for name in ("same", "shape", "missing")}
    found = {"same": (2, 3), "shape": (3, 2), "unknown": (1,)}
    assert compare_shapes(expected, found) == [
        "missing is missing",
        "unknown is unknown",
        "shape has shape (3, 2) instead of (2, 3)",
    ]
