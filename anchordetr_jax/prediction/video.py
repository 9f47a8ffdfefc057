"""Reading and writing videos frame by frame, with PyAV (`pip install av`), which contains FFmpeg."""

import fractions
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from anchordetr_jax.errors import UserError

RIGHT_ANGLE = 90
FALLBACK_RATE = fractions.Fraction(25)
MISSING = 0.05
"""The share of a video's announced length that may be missing. Containers round it."""


class UnreadableVideoError(UserError):
    """A video whose frames cannot be read, or not all of them."""


class VideoReader:
    """The frames of a video file in order, turned as its metadata says. A context manager.

    Raises `UnreadableVideoError` when PyAV is not installed, or the file is missing or no video.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        self._av = _import_av(self.path)
        self._errors = (OSError, self._av.error.FFmpegError)
        try:
            self._container: Any = self._av.open(self.path)
        except self._errors as error:
            raise UnreadableVideoError(f"Video {self.path} cannot be opened ({_reason(error)}).") from None
        if not self._container.streams.video:
            self._container.close()
            raise UnreadableVideoError(f"{self.path} has no video in it.")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self._end = 0.0

    @property
    def rate(self) -> fractions.Fraction:
        """Frames per second."""
        return self._stream.average_rate or FALLBACK_RATE

    @property
    def num_frames(self) -> int | None:
        """The number of frames, where the file tells it without being decoded."""
        if self._stream.frames:
            return self._stream.frames
        if self._container.duration is None:
            return None
        return round(self._container.duration / 1e6 * float(self.rate)) or None

    def __iter__(self) -> Iterator[np.ndarray]:
        """uint8 RGB [h, w, 3]. Raises `UnreadableVideoError` naming the file at a frame that is damaged."""
        return (pixels for _, pixels in self.timed())

    def timed(self) -> Iterator[tuple[float, np.ndarray]]:
        """The time of each frame, in seconds as players show it, and the frame. Raises as iterating does."""
        length = 1 / float(self.rate)
        start = (self._container.start_time or 0) / 1e6
        try:
            for number, frame in enumerate(self._container.decode(self._stream)):
                pixels = frame.to_ndarray(format="rgb24")
                seconds = number * length if frame.time is None else frame.time - start
                lasts = float((frame.duration or 0) * (frame.time_base or 0))
                self._end = max(self._end, seconds + start + max(lasts, length))
                # FFmpeg gives the angle counter-clockwise, which is the direction of numpy.
                yield seconds, np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / RIGHT_ANGLE)))
        except self._errors as error:
            raise UnreadableVideoError(f"Video {self.path} is damaged ({_reason(error)}).") from None

    def cut_off(self) -> str:
        """After the last frame: a sentence if the video is clearly shorter than the file announces; otherwise "".

        FFmpeg reads a file whose end is missing without an error.
        """
        announced = self._announced_seconds()
        if announced is None or self._end >= (1 - MISSING) * announced:
            return ""
        return f"Video {self.path} is cut off: it ends after {self._end:.1f} of {announced:.1f} seconds."

    def _announced_seconds(self) -> float | None:
        """The length of the video as the file gives it. A file's sound can be longer."""
        if self._container.format.name == "avi" and self._stream.frames:
            return self._stream.frames / float(self.rate)  # FFmpeg's duration is that of the part which is there.
        if self._stream.duration is not None:
            return float(self._stream.duration * self._stream.time_base)
        if tag := re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d*)?)", self._stream.metadata.get("DURATION", "")):  # Matroska
            hours, minutes, seconds = map(float, tag.groups())
            return 3600 * hours + 60 * minutes + seconds
        return None if self._container.duration is None else self._container.duration / 1e6

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()


class VideoWriter:
    """Writes an MP4 file (H.264, which browsers play), frame by frame. A context manager. The file appears when it is
    complete; after an error it does not appear at all."""

    def __init__(self, path: str | os.PathLike[str], rate: fractions.Fraction):
        self.path = Path(path)
        self._partial = self.path.with_name(f".{self.path.stem}.{os.getpid()}.partial.mp4")
        self._av = _import_av(self.path)
        self._errors = (OSError, self._av.error.FFmpegError)
        self._rate = rate
        self._container: Any = None
        self._stream: Any = None
        self._size: tuple[int, int] | None = None

    def add(self, frame: np.ndarray) -> None:
        """Adds a frame, uint8 RGB [h, w, 3]. Raises `UserError` if it cannot be written.

        The first frame gives the size of the video. A frame of another size is made to fit into it, with black borders.
        """
        if self._size is None:
            self._size = frame.shape[0], frame.shape[1]
        elif self._size != frame.shape[:2]:
            frame = np.asarray(ImageOps.pad(Image.fromarray(frame), self._size[::-1]))
        height, width = (side - side % 2 for side in self._size)  # The codec stores one colour per 2 x 2 pixels.
        try:
            if self._container is None:
                self._container = self._av.open(os.fspath(self._partial), "w")
                self._stream = self._container.add_stream("libx264", rate=self._rate)
                self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
                self._stream.options = {"crf": "20"}
            picture = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24")
            self._container.mux(self._stream.encode(picture))
        except self._errors as error:
            raise self._not_written(error) from None

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._container is not None:
                try:
                    if error is None:
                        self._container.mux(self._stream.encode())
                finally:
                    self._container.close()
                if error is None:
                    os.replace(self._partial, self.path)
        except self._errors as problem:
            if error is None:  # Otherwise the first error is the one to report.
                raise self._not_written(problem) from None
        finally:
            self._partial.unlink(missing_ok=True)

    def _not_written(self, error: Exception) -> UserError:
        return UserError(f"Cannot write {self.path} ({_reason(error)}); check the folder and its disk.")


def _import_av(path: str | os.PathLike[str]) -> Any:
    try:
        import av
    except ImportError:
        raise UnreadableVideoError(
            f"{os.fspath(path)} is a video, which needs the package av: pip install av."
        ) from None
    return av


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
