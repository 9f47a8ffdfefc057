import dataclasses
from pathlib import Path

import numpy as np
import pytest

from anchordetr_jax.data.sources.opening import open_split
from anchordetr_jax.evaluation.evaluate import Evaluator
from anchordetr_jax.evaluation.journal import Journal, fingerprint
from anchordetr_jax.evaluation.results import DatasetDetections
from tests.evaluation.test_evaluate import (
    Moments,
    any_model,
    assert_same,
    many,
    one_device,
    root,
    run,
    settings,
)
from tests.processes import start
from tests.tolerances import SCORE32

__all__ = ["many", "root"]

REPOSITORY = Path(__file__).parents[2]

KILLED = """
import os, signal, sys
from anchordetr_jax.data.sources.opening import open_split
from anchordetr_jax.evaluation.evaluate import Evaluator
from anchordetr_jax.evaluation.journal import Journal
from tests.evaluation.test_evaluate import Moments, one_device, settings
root, folder = sys.argv[1:]
config = settings(root, batch_size=1)
dataset = open_split(config.data, "val")
opened, open_image = [], dataset.open_image
def counting(row):
    opened.append(row)
    if len(opened) == 12:
        os.kill(os.getpid(), signal.SIGKILL)
    return open_image(row)
dataset.open_image = counting
Evaluator(dataset, config, one_device()).run(Moments(), journal=Journal(folder, seconds=0))
"""


def detections(*rows):
    number = len(rows)
    rng = np.random.default_rng([row + 1 for row in rows])
    return DatasetDetections(
        np.array(rows, np.int32),
        np.ones(number, bool),
        rng.random((number, 3), np.float32),
        rng.integers(0, 5, (number, 3), np.int32),
        rng.random((number, 3, 4), np.float32),
        rng.integers(0, 3, number, np.int32),
    )


@pytest.fixture
def journal(tmp_path):
    """The journal of an evaluation of ten images with the fingerprint "a": rows 3 and 1, then 7. Some libraries take
    the brackets in the name of its folder for a pattern."""
    journal = Journal(tmp_path / "runs[1]" / "journal", seconds=0)
    assert journal.read("a", 10) is None
    journal.add(detections(3, 1))
    journal.add(detections(7))
    return journal


def again(journal):
    return Journal(journal.folder, seconds=0)


def test_added_detections_are_found(journal):
    found = again(journal).read("a", 10)
    assert found.rows.tolist() == [1, 3, 7]
    for ours, theirs in zip(found, detections(3, 1), strict=True):
        np.testing.assert_array_equal(ours[:2], theirs[::-1])


def test_a_folder_whose_name_looks_like_a_pattern_keeps_parts(tmp_path):
    journal = Journal(tmp_path / "[x]" / "r*.json.partial", seconds=0)
    assert journal.read("f", 9) is None
    journal.add(detections(3, 5))
    kept = again(journal).read("f", 9)
    assert kept is not None
    assert sorted(kept.rows.tolist()) == [3, 5]
    journal.remove()
    assert not journal.folder.exists()


def test_fillers_and_unreadable_images_of_a_batch_are_not_kept(journal):
    batch = detections(5, -1, 6)
    journal.add(batch._replace(readable=np.array([True, True, False])))
    assert again(journal).read("a", 10).rows.tolist() == [1, 3, 5, 7]


def test_an_image_is_found_once(journal):
    second = again(journal)
    second.read("a", 10)
    second.add(detections(3, 2))
    assert again(journal).read("a", 10).rows.tolist() == [1, 2, 3, 7]


def test_another_evaluation_is_not_used_and_a_sentence_says_so(journal):
    other = again(journal)
    assert other.read("b", 10) is None
    assert other.notes == [
        f"{journal.folder} is of an evaluation with another checkpoint, data set or settings, and is not used."
    ]


@pytest.mark.parametrize("damage", ["torn", "changed", "emptied", "of something else"])
def test_a_damaged_part_is_named_and_the_others_count(journal, damage):
    first = sorted(journal.folder.iterdir())[0]
    data = first.read_bytes()
    if damage == "of something else":
        np.savez(first, numbers=np.arange(3))
    else:
        first.write_bytes({"torn": data[:-100], "changed": data[:300] + b"?" * 40 + data[340:], "emptied": b""}[damage])
    reader = again(journal)
    assert reader.read("a", 10).rows.tolist() == [7]
    assert reader.notes == [f"{first} is damaged and is not used: its images are detected on again."]


def test_rows_that_are_not_in_the_data_set_are_damage(journal):
    reader = again(journal)
    assert reader.read("a", 5).rows.tolist() == [1, 3]
    assert len(reader.notes) == 1


def test_nothing_is_written_before_the_time_between_parts(tmp_path):
    journal = Journal(tmp_path / "journal", seconds=1000)
    journal.read("a", 10)
    journal.add(detections(0))
    assert not journal.folder.exists()
    journal.flush()
    assert len(list(journal.folder.iterdir())) == 1


def test_removing_leaves_only_the_files_of_others(journal):
    (journal.folder / ".x.npz.123.partial").write_bytes(b"torn")
    (journal.folder / "notes.txt").write_text("mine")
    journal.remove()
    assert [path.name for path in journal.folder.iterdir()] == ["notes.txt"]
    (journal.folder / "notes.txt").unlink()
    journal.remove()
    assert not journal.folder.exists()
    journal.remove()


def test_evaluations_with_other_detections_have_other_fingerprints(root):
    config = settings(root)
    dataset = open_split(config.data, "val")
    model = any_model()
    usual = fingerprint(model, dataset, config)
    assert fingerprint(any_model(), dataset, settings(root, batch_size=3)) == usual
    larger = dataclasses.replace(config, augment=dataclasses.replace(config.augment, eval_size=41))
    assert fingerprint(model, dataset, larger) != usual
    assert fingerprint(model, dataset, settings(root, max_detections=9)) != usual
    dataset.orientation = "stored"
    assert fingerprint(model, dataset, config) != usual
    dataset.orientation = "shown"
    assert fingerprint(model, dataset, config) == usual
    model.kernel[...] = model.kernel[...].at[0, 0].add(1e-6)
    assert fingerprint(model, dataset, config) != usual
    dataset.image_ids = (*dataset.image_ids[:-1], 51)
    assert fingerprint(any_model(), dataset, config) != usual


@pytest.mark.processes
def test_a_killed_evaluation_continues_where_it_stopped(many, script_environment, tmp_path, capsys, monkeypatch):
    root, expected = many
    killed = start(["-c", KILLED, str(root), str(tmp_path / "journal")], REPOSITORY, script_environment)
    _, errors = killed.communicate(timeout=240)
    assert killed.wait() == -9, errors
    config = settings(root, batch_size=3)  # other batches than before
    dataset = open_split(config.data, "val")
    evaluator = Evaluator(dataset, config, one_device())
    opened, open_image = [], dataset.open_image

    def counting(row):
        opened.append(row)
        return open_image(row)

    monkeypatch.setattr(dataset, "open_image", counting)
    result = evaluator.run(any_model(), progress=False, journal=Journal(tmp_path / "journal", seconds=0))
    assert 3 <= result.kept_images <= 11
    assert f"The evaluation continues after {result.kept_images} of 17 images" in capsys.readouterr().err
    assert len(opened) == len(set(opened)) == 17 - result.kept_images
    assert_same(result.results, expected, SCORE32)


def test_an_interrupted_evaluation_keeps_its_detections(many, tmp_path, monkeypatch):
    root, expected = many
    journal = Journal(tmp_path / "journal", seconds=1000)

    batches = []

    def add(images):
        batches.append(images)
        Journal.add(journal, images)
        if len(batches) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(journal, "add", add)
    with pytest.raises(KeyboardInterrupt):
        run(settings(root, batch_size=2), Moments(), journal=journal)
    result = run(settings(root, batch_size=2), Moments(), journal=Journal(tmp_path / "journal"))
    assert result.kept_images == sum((images.rows >= 0).sum() for images in batches)
    assert_same(result.results, expected, SCORE32)


def test_a_finished_evaluation_whose_results_were_not_written_detects_nothing_again(many, tmp_path):
    root, expected = many
    run(settings(root), Moments(), journal=Journal(tmp_path / "journal"))
    result = run(settings(root), Moments(), journal=Journal(tmp_path / "journal"))
    assert (result.kept_images, result.compilations) == (17, 0)
    assert_same(result.results, expected, SCORE32)


def test_an_unreadable_image_is_read_again_by_the_next_evaluation(root, tmp_path):
    damaged = root / "val2017" / "2.png"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:300])
    assert len(run(settings(root), Moments(), journal=Journal(tmp_path / "journal")).unreadable) == 1
    damaged.write_bytes(whole)
    result = run(settings(root), Moments(), journal=Journal(tmp_path / "journal"))
    assert (result.kept_images, result.unreadable) == (4, ())
    assert_same(result.results, run(settings(root), Moments()).results, SCORE32)
