import fractions
import os
from pathlib import Path

import numpy as np
import pytest

from anchordetr_jax.errors import UserError
from anchordetr_jax.prediction.video import UnreadableVideoError, VideoReader, VideoWriter

pytest.importorskip("av")
RATE = fractions.Fraction(10)


def write(path: Path, frames: int) -> None:
    with VideoWriter(path, RATE) as writer:
        for i in range(frames):
            writer.add(np.full((33, 48, 3), 20 * i, np.uint8))


def test_frames_come_back_in_order_at_their_rate(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", 9)
    with VideoReader(tmp_path / "a.mp4") as reader:
        frames = list(reader)
        assert reader.rate == RATE
        assert reader.num_frames == 9
    assert [frame.shape for frame in frames] == [(32, 48, 3)] * 9  # even sides, as the codec wants them
    assert np.abs(np.array([frame.mean() for frame in frames]) - 20 * np.arange(9)).max() < 5


def test_a_video_that_fails_half_way_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), VideoWriter(tmp_path / "a.mp4", RATE) as writer:  # noqa: PT012
        writer.add(np.zeros((32, 48, 3), np.uint8))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_frame_of_another_size_keeps_its_proportions(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", RATE) as writer:
        for height, width in ((32, 64), (64, 32)):
            writer.add(np.full((height, width, 3), 255, np.uint8))
    with VideoReader(tmp_path / "a.mp4") as reader:
        frames = list(reader)
    assert [frame.shape for frame in frames] == [(32, 64, 3)] * 2
    assert frames[1][:, 26:38].mean() > 200  # 16 of 64 columns.
    assert frames[1][:, :20].mean() < 50


def test_a_disk_that_is_full_at_the_end_gives_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(UserError, match=r"Cannot write .*a\.mp4 \(No space left on device\)"):
        write(tmp_path / "a.mp4", 2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [None, b"hello", b""])
def test_another_file_than_a_video_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "bad.mp4").write_bytes(content)
    with pytest.raises(UnreadableVideoError, match=r"bad\.mp4 cannot be opened"):
        VideoReader(tmp_path / "bad.mp4")


def copy_without_the_beginning(source: Path, target: Path, seconds: float) -> None:
    """As phones cut videos: the frames up to the next key frame stay in the file, and players do not show them."""
    av = pytest.importorskip("av")
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        stream = given.streams.video[0]
        copy = made.add_stream_from_template(stream)
        for packet in given.demux(stream):
            if packet.dts is not None:
                packet.pts -= round(seconds / stream.time_base)
                packet.dts -= round(seconds / stream.time_base)
                packet.stream = copy
                made.mux(packet)


def test_a_video_that_a_phone_has_trimmed_is_not_called_cut_off(tmp_path: Path) -> None:
    write(tmp_path / "whole.mp4", 12)
    copy_without_the_beginning(tmp_path / "whole.mp4", tmp_path / "trimmed.mp4", 0.6)
    with VideoReader(tmp_path / "trimmed.mp4") as reader:
        assert len(list(reader)) < 12
        assert reader.num_frames == 12
        assert reader.cut_off() == ""


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_video_whose_sound_is_longer_is_not_called_cut_off(tmp_path: Path, suffix: str) -> None:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / f"a.{suffix}"), "w") as container:
        pictures, sound = container.add_stream("libx264", rate=10), container.add_stream("aac", rate=16000)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        for _ in range(10):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode())
        for number in range(60):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            samples.sample_rate, samples.pts = 16000, 1024 * number
            container.mux(sound.encode(samples))
        container.mux(sound.encode())
    with VideoReader(tmp_path / f"a.{suffix}") as reader:
        assert len(list(reader)) == 10
        assert reader.cut_off() == ""


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_an_avi_file_whose_end_is_missing_is_called_cut_off(tmp_path: Path, share: float) -> None:
    av = pytest.importorskip("av")
    rng = np.random.default_rng(0)
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for _ in range(20):
            noise = rng.integers(0, 255, (48, 64, 3), np.uint8)  # Frames are larger than the header of the file.
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode())
    content = (tmp_path / "a.avi").read_bytes()
    (tmp_path / "a.avi").write_bytes(content[: int(share * len(content))])
    with VideoReader(tmp_path / "a.avi") as reader:
        assert (len(list(reader)) == 20) == (share == 1)
        assert ("a.avi is cut off: it ends after " in reader.cut_off()) == (share < 1)
