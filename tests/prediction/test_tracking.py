"""Objects keep their numbers from frame to frame, on a drawn video too. A stand-in takes the place of trackers."""

import fractions
import importlib.machinery
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anchordetr_jax import UserError, cli
from anchordetr_jax.commands import predict
from anchordetr_jax.prediction import tracking
from anchordetr_jax.prediction.detections import Detections
from anchordetr_jax.prediction.tracking import Tracker
from anchordetr_jax.prediction.video import VideoReader, VideoWriter
from tests.detector import StandInDetector


class SupervisionDetections:
    """Stands in for supervision.Detections."""

    def __init__(self, xyxy: Any, confidence: Any, class_id: Any, data: Any, tracker_id: Any = None):
        self.xyxy, self.confidence, self.class_id = xyxy, confidence, class_id
        self.data, self.tracker_id = data, tracker_id

    def __len__(self) -> int:
        return len(self.xyxy)


class NearestTracker:
    """Stands in for trackers.ByteTrackTracker: the nearest box of the frame before is the same object.

    As there, an object gets its number in its second frame, -1 before, and no track begins below the threshold.
    """

    def __init__(self, track_activation_threshold: float, **_: Any):
        self.threshold = track_activation_threshold
        self.seen: list[tuple[np.ndarray, int]] = []
        self.count = 0

    def update(self, detections: SupervisionDetections) -> SupervisionDetections:
        before, self.seen, numbers = self.seen, [], []
        for box, score in zip(detections.xyxy, detections.confidence, strict=True):
            near = [number for other, number in before if np.abs(box - other).max() < 8]
            number = near[0] if near else -1
            if near and number < 0:
                number, self.count = self.count, self.count + 1
            if near or score >= self.threshold:
                self.seen.append((box, number))
            numbers.append(number)
        # Other trackers, too, give detections back in an order of their own.
        order = np.arange(len(numbers))[::-1]
        return SupervisionDetections(
            detections.xyxy[order],
            detections.confidence[order],
            detections.class_id[order],
            {name: values[order] for name, values in detections.data.items()},
            np.array(numbers, int)[order],
        )


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, members in (
        ("trackers", {"ByteTrackTracker": NearestTracker}),
        ("supervision", {"Detections": SupervisionDetections}),
    ):
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)


def frame_of(*objects: tuple[int, float, float]) -> Detections:
    """Detections of (class output, left, score), best first."""
    return Detections(
        boxes=np.array([[left, 5, left + 10, 15] for _, left, _ in objects], np.float32),
        scores=np.array([score for *_, score in objects], np.float32),
        labels=np.array([label for label, *_ in objects], np.int32),
        names=tuple(f"class {label}" for label, *_ in objects),
        category_ids=np.array([label for label, *_ in objects], np.int32),
        image_size=(20, 200),
    )


def tracks(found: Detections) -> list[tuple[int, float]]:
    """(track, left) of each detection."""
    assert found.track_ids is not None
    return list(zip(found.track_ids.tolist(), found.boxes[:, 0].tolist(), strict=True))


def test_objects_of_two_classes_keep_their_numbers() -> None:
    tracker = Tracker({0: 0.5, 1: 0.5}, 25.0)
    assert tracks(tracker.follow(frame_of((0, 10, 0.9), (1, 100, 0.8), (0, 50, 0.7)))) == []
    second = tracker.follow(frame_of((1, 104, 0.9), (0, 14, 0.8), (0, 54, 0.7)))
    by_place = {left: number for number, left in tracks(second)}
    assert sorted(by_place.values()) == [1, 2, 3]
    assert second.scores.tolist() == sorted(second.scores.tolist(), reverse=True)
    third = tracker.follow(frame_of((0, 58, 0.9), (1, 108, 0.9), (0, 18, 0.8)))
    assert {left - 4: number for number, left in tracks(third)} == by_place
    assert tracker.num_tracks == 3
    assert tracks(tracker.follow(frame_of())) == []


def test_a_low_score_continues_a_track_and_begins_none() -> None:
    tracker = Tracker({0: 0.4}, 25.0)
    assert tracker.lowest == pytest.approx(0.1)
    for score in (0.9, 0.9):
        tracker.follow(frame_of((0, 10, score), (0, 100, 0.3)))
    assert tracks(tracker.follow(frame_of((0, 100, 0.3), (0, 12, 0.2)))) == [(1, 12.0)]


def test_a_quarter_of_the_threshold_in_the_next_frame_is_enough_to_begin_a_track() -> None:
    tracker = Tracker({0: 0.4}, 25.0)
    assert tracks(tracker.follow(frame_of((0, 10, 0.9)))) == []
    assert tracks(tracker.follow(frame_of((0, 12, 0.1001)))) == [(1, 12.0)]


def test_a_tracker_knows_whether_a_track_could_begin() -> None:
    tracker = Tracker({0: 0.4}, 25.0)
    tracker.follow(frame_of((0, 10, 0.3)))
    assert not tracker.could_begin
    tracker.follow(frame_of((0, 100, 0.4001)))
    assert tracker.could_begin
    assert tracker.num_tracks == 0


def test_tracks_are_drawn_selected_and_written() -> None:
    found = frame_of((0, 10, 0.9), (0, 50, 0.7)).with_tracks(np.array([3, 8]))
    assert [entry["track_id"] for entry in found.to_coco(1)] == [3, 8]
    assert "track_id" not in frame_of((0, 10, 0.9)).to_coco(1)[0]
    assert tracks(found[found.scores < 0.8]) == [(8, 50.0)]
    assert np.asarray(found.to_supervision().tracker_id).tolist() == [3, 8]
    black = np.zeros((20, 200, 3), np.uint8)
    assert found.draw(black).tobytes() != frame_of((0, 10, 0.9), (0, 50, 0.7)).draw(black).tobytes()
    with pytest.raises(ValueError, match="differ in length"):
        frame_of((0, 10, 0.9)).with_tracks(np.array([1, 2]))


def test_a_missing_package_and_a_lack_of_videos_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "prepare_computation", lambda: None)
    flags = ["--checkpoint", "no/run", "--output", str(tmp_path / "seen"), "--track"]
    assert predict.run([str(tmp_path / "a.png"), *flags]) == 1
    assert "--track is for videos" in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install trackers"):
        tracking.require()


class SquareDetector(StandInDetector):
    """Stands in for a trained detector: it finds the bright squares of a drawn frame."""

    def predict(self, images: Any, threshold: float | None = None, **_: Any) -> Any:
        assert threshold == pytest.approx(0.25 * 0.5)
        found = []
        for frame in images:
            columns = np.flatnonzero((frame[..., 0] > 127).any(axis=0))
            parts = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1)
            found.append(frame_of(*((0, float(part[0]), 0.9) for part in parts)))
        return found


def test_a_drawn_video_becomes_a_video_and_records_with_steady_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("av")
    with VideoWriter(tmp_path / "squares.mp4", fractions.Fraction(10)) as writer:
        for number in range(8):  # One square moves to the right, the other one to the left.
            frame = np.zeros((20, 200, 3), np.uint8)
            for left in (20 + 4 * number, 150 - 4 * number):
                frame[5:15, left : left + 10] = 255
            writer.add(frame)
    monkeypatch.setattr(cli, "prepare_computation", lambda: None)
    monkeypatch.setattr(predict, "read_detector", SquareDetector)
    flags = ["--checkpoint", "squares", "--output", str(tmp_path / "seen"), "--track", "--batch_size", "3"]
    assert predict.run([str(tmp_path / "squares.mp4"), *flags]) == 0
    assert "2 tracks" in "".join(capsys.readouterr())
    written = json.loads((tmp_path / "seen" / "detections.json").read_text())
    lefts: dict[int, list[float]] = {1: [], 2: []}
    for entry in written["annotations"]:
        lefts[entry["track_id"]].append(entry["bbox"][0])
    assert len(written["images"]) == 8
    for places, step in zip(sorted(lefts.values()), (4, -4), strict=True):
        assert len(places) == 7
        np.testing.assert_allclose(np.diff(places), step, atol=2)
    with VideoReader(tmp_path / "seen" / "squares.mp4") as reader:
        assert len(list(reader)) == 8


def test_an_object_in_a_single_frame_is_said_to_have_no_track(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("av")
    with VideoWriter(tmp_path / "square.mp4", fractions.Fraction(10)) as writer:
        frame = np.zeros((20, 200, 3), np.uint8)
        frame[5:15, 20:30] = 255
        writer.add(frame)
    monkeypatch.setattr(cli, "prepare_computation", lambda: None)
    monkeypatch.setattr(predict, "read_detector", SquareDetector)
    flags = ["--checkpoint", "squares", "--output", str(tmp_path / "seen"), "--track"]
    assert predict.run([str(tmp_path / "square.mp4"), *flags]) == 0
    printed = "".join(capsys.readouterr())
    assert "No object was seen in two frames in a row" in printed
    assert "below the threshold" not in printed
