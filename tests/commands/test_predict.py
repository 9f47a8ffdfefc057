"""`anchordetr predict` on videos that end too early, are damaged, or have frames at uneven times."""

import fractions
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anchordetr_jax import cli
from anchordetr_jax.commands import predict
from anchordetr_jax.prediction.detections import Detections
from anchordetr_jax.prediction.video import VideoReader
from tests.detector import StandInDetector

av = pytest.importorskip("av")
FRAMES = 60
EVEN = [number / 10 for number in range(FRAMES)]


class OneDetector(StandInDetector):
    """Stands in for a trained detector: it finds one object in every frame."""

    def predict(self, images: Any, threshold: float | None = None, **_: Any) -> Any:
        found = Detections(
            boxes=np.array([[5, 5, 15, 15]], np.float32),
            scores=np.array([0.9], np.float32),
            labels=np.array([0], np.int32),
            names=("square",),
            category_ids=np.array([1], np.int32),
            image_size=(48, 64),
        )
        return [found] * len(images)


@pytest.fixture
def detect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs the command on files. Returns its status, the frames in detections.json, and what it printed."""
    monkeypatch.setattr(cli, "prepare_computation", lambda: None)
    monkeypatch.setattr(predict, "read_detector", OneDetector)

    def run(*names: str) -> tuple[int, list[dict[str, Any]], str]:
        flags = ["--checkpoint", "x", "--output", str(tmp_path / "seen")]
        status = predict.run([*(str(tmp_path / name) for name in names), *flags])
        written = tmp_path / "seen" / "detections.json"
        images = json.loads(written.read_text())["images"] if written.exists() else []
        return status, images, "".join(capsys.readouterr())

    return run


def write(path: Path, times: Sequence[float] = EVEN) -> bytes:
    """Noise, which makes frames large, at these seconds; of MP4 files, the index comes first."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
        stream = container.add_stream("libx264", rate=10, options={"g": "12"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = fractions.Fraction(1, 1000)
        for seconds in times:
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (48, 64, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(1000 * seconds), fractions.Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path.read_bytes()


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_the_first_frames_of_a_video_whose_end_is_missing_are_kept_and_counted(
    tmp_path: Path, detect: Callable[..., Any], suffix: str
) -> None:
    whole = write(tmp_path / f"a.{suffix}")
    (tmp_path / f"a.{suffix}").write_bytes(whole[: len(whole) // 2])
    status, images, printed = detect(f"a.{suffix}")
    assert status == 0
    assert 10 < len(images) < 40
    assert [image["frame"] for image in images] == list(range(len(images)))
    assert f"Only its first {len(images)} frames can be read." in printed
    assert "Warning: Video " in printed
    assert "; 1 video incomplete" in printed
    with VideoReader(tmp_path / "seen" / "a.mp4") as reader:
        assert len(list(reader)) == len(images)


def test_a_whole_video_is_not_called_incomplete(tmp_path: Path, detect: Callable[..., Any]) -> None:
    for name in ("a.mp4", "b.mkv"):
        write(tmp_path / name)
    status, images, printed = detect("a.mp4", "b.mkv")
    assert (status, len(images)) == (0, 2 * FRAMES)
    assert "Warning" not in printed
    assert "incomplete" not in printed


def test_a_video_without_a_readable_frame_is_left_out(tmp_path: Path, detect: Callable[..., Any]) -> None:
    whole = write(tmp_path / "a.mkv")
    (tmp_path / "a.mkv").write_bytes(whole[:700])
    write(tmp_path / "b.mkv")
    status, images, printed = detect("a.mkv", "b.mkv")
    assert (status, len(images)) == (0, FRAMES)
    assert "a.mkv" in printed
    assert "It is left out." in printed
    assert "; 1 could not be read" in printed


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_seconds_are_the_own_time_of_each_frame(tmp_path: Path, detect: Callable[..., Any], name: str) -> None:
    times = [0.0, 0.1, 0.2, 3.0, 3.1]
    write(tmp_path / name, times)
    status, images, printed = detect(name)
    assert status == 0
    assert [image["seconds"] for image in images] == times
    assert "Warning" not in printed


def test_a_video_whose_middle_is_damaged_is_kept_up_to_there(tmp_path: Path, detect: Callable[..., Any]) -> None:
    whole = bytearray(write(tmp_path / "a.mp4"))
    whole[len(whole) // 3 : len(whole) // 2] = bytes(len(whole) // 2 - len(whole) // 3)
    (tmp_path / "a.mp4").write_bytes(whole)
    status, images, printed = detect("a.mp4")
    assert status == 0
    assert 5 < len(images) < FRAMES
    assert "a.mp4 is damaged" in printed
    assert f"Only its first {len(images)} frames can be read." in printed
    with VideoReader(tmp_path / "seen" / "a.mp4") as reader:
        assert len(list(reader)) == len(images)
