"""A run's checkpoints: saved, restored on any mesh, and passed over when damaged."""

import dataclasses
import logging
import shutil
import time
from pathlib import Path

import pytest
from etils import epath

from anchordetr_jax.checkpoints import checkpoint
from anchordetr_jax.checkpoints.checkpoint import saved_steps
from anchordetr_jax.checkpoints.integrity import CHECKSUMS_FILE
from anchordetr_jax.config import Config
from anchordetr_jax.devices import global_batch
from anchordetr_jax.errors import UserError
from anchordetr_jax.files import LiteralPath
from anchordetr_jax.training.run_checkpoints import CheckpointWriter, restore_newest
from tests.training.tiny import CATEGORIES, CONFIG, RECORD, Trainer, batch, equal, to_host, trainer


@pytest.fixture(scope="module")
def trained() -> Trainer:
    """A state whose every leaf differs from the first state's."""
    made = trainer(devices=4, fsdp=2)
    for seed in range(2):
        made.state, _ = made.step(made.state, global_batch(batch(seed), made.mesh))
    return made


def save(workdir: Path, made: Trainer, steps: list[int], config: Config = CONFIG) -> None:
    with CheckpointWriter(workdir, config, CATEGORIES) as checkpoints:
        for step in steps:
            checkpoints.save(step, made.state, RECORD)


def damage(folder: Path) -> None:
    path = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    path.write_bytes(path.read_bytes()[:-10])


def test_a_state_is_restored_bit_for_bit_with_its_shardings(trained: Trainer, tmp_path: Path) -> None:
    save(tmp_path, trained, [2])
    restored = restore_newest(tmp_path, trained.abstract, CONFIG)
    assert restored is not None
    state, meta = restored
    assert equal(to_host(state), to_host(trained.state))
    assert all(
        a.sharding == b.sharding for a, b in zip(state.params.values(), trained.state.params.values(), strict=True)
    )
    assert (meta.step, meta.config, meta.categories) == (2, CONFIG, CATEGORIES)


def test_a_workdir_may_be_a_relative_path(trained: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(Path("run"), trained, [2])
    restored = restore_newest("run", trained.abstract, CONFIG)
    assert restored is not None
    assert restored[1].path == str(tmp_path / "run/checkpoints/2")


@pytest.mark.parametrize(("devices", "fsdp"), [(1, 1), (8, 4)])
def test_a_state_is_restored_on_another_number_of_devices(
    devices: int, fsdp: int, trained: Trainer, tmp_path: Path
) -> None:
    save(tmp_path, trained, [2])
    restored = restore_newest(tmp_path, trainer(devices=devices, fsdp=fsdp).abstract, CONFIG)
    assert restored is not None
    assert equal(to_host(restored[0]), to_host(trained.state))


def test_only_the_newest_checkpoints_are_kept(trained: Trainer, tmp_path: Path) -> None:
    save(tmp_path, trained, [1, 2, 3, 10])
    assert saved_steps(tmp_path / "checkpoints") == [3, 10]


def test_an_old_checkpoint_that_cannot_be_removed_is_named_and_the_new_one_counts(
    trained: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, trained, [1, 2])

    def busy(path: epath.Path, missing_ok: bool = False) -> None:
        raise OSError(39, "Directory not empty")

    monkeypatch.setattr(LiteralPath, "rmtree", busy)
    save(tmp_path, trained, [3])
    assert saved_steps(tmp_path / "checkpoints") == [1, 2, 3]
    assert f"The old checkpoint {tmp_path / 'checkpoints' / '1'} could not be removed" in caplog.text


def test_a_run_without_checkpoints_has_none_to_restore(trained: Trainer, tmp_path: Path) -> None:
    assert restore_newest(tmp_path, trained.abstract, CONFIG) is None


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(
    trained: Trainer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, trained, [1, 2])
    damage(tmp_path / "checkpoints/2")
    with caplog.at_level(logging.WARNING):
        restored = restore_newest(tmp_path, trained.abstract, CONFIG)
    assert restored is not None
    assert restored[1].step == 1
    assert "checkpoints/2 is damaged" in caplog.text
    assert (tmp_path / "checkpoints/damaged-2").is_dir()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # What Orbax leaves behind then.
def test_damage_without_checksums_is_found_by_reading(trained: Trainer, tmp_path: Path) -> None:
    save(tmp_path, trained, [1, 2])
    for path in (tmp_path / "checkpoints/2/model").rglob("d/*"):
        path.write_bytes(b"")
    (tmp_path / "checkpoints/2" / CHECKSUMS_FILE).unlink()
    restored = restore_newest(tmp_path, trained.abstract, CONFIG)
    assert restored is not None
    assert restored[1].step == 1
    time.sleep(0.5)  # Orbax's other reads end meanwhile, lest their noise count against the next test.


def test_the_place_of_a_damaged_checkpoint_can_be_taken_again(trained: Trainer, tmp_path: Path) -> None:
    save(tmp_path, trained, [1, 2])
    for _ in range(2):
        damage(tmp_path / "checkpoints/2")
        restore_newest(tmp_path, trained.abstract, CONFIG)
        save(tmp_path, trained, [2])
    restored = restore_newest(tmp_path, trained.abstract, CONFIG)
    assert restored is not None
    assert restored[1].step == 2


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_again(trained: Trainer, tmp_path: Path) -> None:
    save(tmp_path, trained, [1])
    damage(tmp_path / "checkpoints/1")
    for _ in range(2):
        with pytest.raises(UserError, match=r"Every checkpoint in .* is damaged"):
            restore_newest(tmp_path, trained.abstract, CONFIG)


def test_a_checkpoint_without_its_weights_is_damaged(
    trained: Trainer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, trained, [1, 2])
    shutil.rmtree(tmp_path / "checkpoints/2/model")
    with caplog.at_level(logging.WARNING):
        restored = restore_newest(tmp_path, trained.abstract, CONFIG)
    assert restored is not None
    assert restored[1].step == 1
    assert "model and meta are not both there" in caplog.text


def test_another_data_set_is_refused(trained: Trainer, tmp_path: Path) -> None:
    save(tmp_path, trained, [1])
    other = dataclasses.replace(CATEGORIES, names=("cat", "dog", "emu"))
    with pytest.raises(UserError, match=r"other classes \(circle, square, star\) than .* has \(cat, dog, emu\)"):
        restore_newest(tmp_path, trained.abstract, CONFIG, other)


def test_clipping_may_be_switched_off_in_a_run(trained: Trainer, tmp_path: Path) -> None:
    save(tmp_path, trained, [1])
    other = dataclasses.replace(CONFIG, optimizer=dataclasses.replace(CONFIG.optimizer, clip_norm=0.0))
    assert restore_newest(tmp_path, trainer(other).abstract, other) is not None


def test_a_half_written_checkpoint_is_named_ignored_and_removed(
    trained: Trainer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, trained, [1, 2])
    half = tmp_path / "checkpoints/3.orbax-checkpoint-tmp"
    (tmp_path / "checkpoints/2").rename(half)
    with caplog.at_level(logging.WARNING):
        restored = restore_newest(tmp_path, trained.abstract, CONFIG)
    assert restored is not None
    assert restored[1].step == 1
    assert f"{half} was only half written" in caplog.text
    save(tmp_path, trained, [3])
    assert not half.exists()
    assert saved_steps(tmp_path / "checkpoints")[-1] == 3


def test_another_architecture_is_refused(trained: Trainer, tmp_path: Path) -> None:
    save(tmp_path, trained, [1])
    other = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, num_anchors=16))
    with pytest.raises(UserError, match=r"another architecture.*model\.num_anchors was 8 and is now 16"):
        restore_newest(tmp_path, trainer(other).abstract, other)


def test_another_optimiser_is_refused(trained: Trainer, tmp_path: Path) -> None:
    save(tmp_path, trained, [1])
    other = dataclasses.replace(CONFIG, optimizer=dataclasses.replace(CONFIG.optimizer, freeze=("layers/0/.*",)))
    with pytest.raises(UserError, match="another optimiser or other frozen parameters"):
        restore_newest(tmp_path, trainer(other).abstract, other)


def test_a_checkpoint_without_training_state_is_not_resumed(trained: Trainer, tmp_path: Path) -> None:
    from anchordetr_jax.checkpoints.checkpoint import save_variables

    save_variables(tmp_path / "checkpoints/1", {**trained.state.params, **trained.state.frozen}, CATEGORIES, CONFIG)
    with pytest.raises(UserError, match=r"holds weights only.*init_from"):
        restore_newest(tmp_path, trained.abstract, CONFIG)


def test_a_failed_save_gives_one_sentence_and_harms_nothing(
    trained: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, trained, [1])

    def full_disk(path: epath.Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_checksums", full_disk)
    with pytest.raises(UserError, match=r"checkpoints/2 could not be written .*No space left on device"):
        save(tmp_path, trained, [2])
    monkeypatch.undo()
    restored = restore_newest(tmp_path, trained.abstract, CONFIG)
    assert restored is not None
