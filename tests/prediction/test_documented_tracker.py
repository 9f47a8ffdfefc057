"""The tracker that docs/prediction.md shows runs as it stands, on a drawn video, with the packages that it names."""

import fractions
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anchordetr_jax.prediction.detections import Detections
from anchordetr_jax.prediction.detector import Detector
from anchordetr_jax.prediction.video import VideoReader, VideoWriter
from tests.detector import save_detector

DOCUMENT = Path(__file__).parents[2] / "docs" / "prediction.md"
FRAMES = 6


def snippet() -> str:
    (found,) = [
        code
        for code in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)
        if "ByteTrackTracker" in code
    ]
    return found


def draw_video(path: Path) -> None:
    """Two squares move towards each other, one above the other."""
    with VideoWriter(path, fractions.Fraction(10)) as writer:
        for number in range(FRAMES):
            frame = np.zeros((80, 160, 3), np.uint8)
            for top, left in ((5, 10 + 4 * number), (45, 110 - 4 * number)):
                frame[top : top + 30, left : left + 30] = 255
            writer.add(frame)


def squares(frame: np.ndarray) -> Detections:
    """The detections of a perfect detector."""
    tops, lefts = zip(*[(top, int(np.flatnonzero(frame[top + 15, :, 0] > 127)[0])) for top in (5, 45)], strict=True)
    return Detections(
        boxes=np.array([[left, top, left + 30, top + 30] for top, left in zip(tops, lefts, strict=True)], np.float32),
        scores=np.array([0.9, 0.8], np.float32),
        labels=np.array([0, 1], np.int32),
        names=("cat", "dog"),
        category_ids=np.array([3, 7], np.int32),
        image_size=(80, 160),
    )


def test_the_documented_tracker_runs_and_its_numbers_are_steady(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_detector(tmp_path / "checkpoint")
    shutil.copytree(tmp_path / "checkpoint", tmp_path / "runs" / "mine")
    draw_video(tmp_path / "street.mp4")
    real, seen = Detector.predict, []

    def predict(detector: Detector, frame: Any, threshold: float) -> Detections:
        seen.append(real(detector, frame, threshold=threshold))  # The tiny detector has random weights…
        return squares(frame)  # …so another one finds the squares.

    monkeypatch.setattr(Detector, "predict", predict)
    written: list[list[str]] = []
    code = snippet().replace("writer.add(", "WRITTEN.append(names); writer.add(")
    exec(compile(code, str(DOCUMENT), "exec"), {"WRITTEN": written})
    assert len(seen) == FRAMES
    last = written[-1]
    assert sorted(name.split()[1] for name in last) == ["cat", "dog"]
    assert len({name.split()[0] for name in last}) == 2
    started = [names for names in written if names]
    assert len(started) >= FRAMES - 2
    assert all(sorted(names) == sorted(last) for names in started)
    with VideoReader(tmp_path / "seen.mp4") as reader:
        assert len(list(reader)) == FRAMES
