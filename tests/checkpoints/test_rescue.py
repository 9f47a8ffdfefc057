"""Checkpoints in folders whose names look like patterns, and older ones that such a name has left incomplete."""

import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from anchordetr_jax.checkpoints import checkpoint
from anchordetr_jax.checkpoints.checkpoint import find_checkpoint, load_variables, save_variables
from anchordetr_jax.checkpoints.rescue import rescue
from anchordetr_jax.devices import make_mesh, replicated
from anchordetr_jax.errors import UserError
from anchordetr_jax.files import stored_path
from tests.training.tiny import CATEGORIES, CONFIG

# Orbax gives up reading an incomplete checkpoint and closes its event loop. On a busy machine an answer comes later.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

ARRAYS = {"a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.full(1, 7, np.float32)}


def loaded(path: epath.PathLike) -> dict[str, np.ndarray]:
    sharding = replicated(make_mesh(CONFIG.mesh))
    wanted = {name: jax.ShapeDtypeStruct(value.shape, jnp.float32, sharding=sharding) for name, value in ARRAYS.items()}
    return {name: np.asarray(value) for name, value in load_variables(path, wanted).items()}


def assert_whole(path: epath.PathLike) -> None:
    found = loaded(path)
    assert found.keys() == ARRAYS.keys()
    for name, value in ARRAYS.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("name", ["exp[1]", "a*b", "what?", "[!x]/deeper", "100% #1"])
def test_a_checkpoint_is_complete_in_a_folder_of_any_name(name: str, tmp_path: Path) -> None:
    for _ in range(2):  # The second one replaces the first.
        save_variables(tmp_path / name / "5", ARRAYS, CATEGORIES, CONFIG)
    assert Path(find_checkpoint(tmp_path / name)) == tmp_path / name / "5"
    assert_whole(tmp_path / name / "5")


@given(st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=9))
def test_the_name_of_a_folder_is_never_a_pattern(name: str) -> None:
    if name in (".", "..") or "://" in name:
        return
    with tempfile.TemporaryDirectory() as above:
        folder = Path(above) / name
        for file in ("ocdbt.process_0", "ocdbt.process_12", "other"):
            (folder / "inner" / file).mkdir(parents=True)
        (Path(above) / "e1" / "inner" / "ocdbt.process_9").mkdir(parents=True, exist_ok=True)
        found = [path.name for path in stored_path(folder).glob("inner/ocdbt.process_*")]
        assert set(found) - {"ocdbt.process_9"} == {"ocdbt.process_0", "ocdbt.process_12"}
        assert len(found) == 2 or name == "e1"


@pytest.fixture
def incomplete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workdir whose only checkpoint is as older versions left it: the parts not joined, but with checksums."""
    workdir = tmp_path / "exp[1]"
    path = workdir / "checkpoints/5"
    monkeypatch.setattr(checkpoint, "absolute", lambda path: epath.Path(path))
    monkeypatch.setattr(checkpoint, "_read_back", lambda directory, shapes: None)
    save_variables(path, ARRAYS, CATEGORIES, CONFIG)
    monkeypatch.undo()
    assert not (path / "model/manifest.ocdbt").exists()
    return workdir


def test_a_save_whose_index_cannot_be_read_is_an_error_and_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_variables(tmp_path / "run[1]/4", ARRAYS, CATEGORIES, CONFIG)
    monkeypatch.setattr(checkpoint, "absolute", lambda path: epath.Path(path))
    with pytest.raises(
        UserError, match=r"run\[1\]/5 was written, but its index cannot be read back .*renamed damaged-5"
    ):
        save_variables(tmp_path / "run[1]/5", ARRAYS, CATEGORIES, CONFIG)
    monkeypatch.undo()
    assert Path(find_checkpoint(tmp_path / "run[1]")) == tmp_path / "run[1]/4"


def test_an_incomplete_checkpoint_is_refused_with_the_command_that_completes_it(incomplete: Path) -> None:
    with pytest.raises(UserError, match=r"never joined; this command completes it: .*anchordetr convert rescue '"):
        find_checkpoint(incomplete)


@pytest.mark.parametrize("name", ["5", "damaged-5"])
def test_an_incomplete_checkpoint_is_completed(name: str, incomplete: Path) -> None:
    (incomplete / "checkpoints/5").rename(incomplete / "checkpoints" / name)
    assert rescue(incomplete) == [f"{incomplete}/checkpoints/5: rescued (2 arrays)."]
    assert Path(find_checkpoint(incomplete)) == incomplete / "checkpoints/5"
    assert_whole(incomplete / "checkpoints/5")
    assert rescue(incomplete / "checkpoints/5") == [f"{incomplete}/checkpoints/5: sound."]


@pytest.mark.processes
def test_the_command_completes_a_workdir(incomplete: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, str(root / "convert_weights.py"), "rescue", str(incomplete)]
    end = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    assert end.stdout == f"{incomplete}/checkpoints/5: rescued (2 arrays).\n"
    assert_whole(incomplete / "checkpoints/5")


def test_a_folder_without_checkpoints_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no checkpoint in"):
        rescue(tmp_path)
