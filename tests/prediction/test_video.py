import fractions
from pathlib import Path

import numpy as np
import pytest

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


@pytest.mark.parametrize("content", [None, b"hello", b""])
def test_another_file_than_a_video_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "bad.mp4").write_bytes(content)
    with pytest.raises(UnreadableVideoError, match=r"bad\.mp4 cannot be opened"):
        VideoReader(tmp_path / "bad.mp4")
