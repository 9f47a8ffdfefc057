"""Images as people give them: paths, URLs of local files, folders, Pillow images, arrays, and lists of these."""

import dataclasses
import os
import urllib.parse
import urllib.request
from collections.abc import Iterable
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from anchordetr_jax.data.image_sizes import read_header
from anchordetr_jax.data.images import SUFFIXES, array_pixels, array_size, picture_pixels, read_image
from anchordetr_jax.errors import UserError
from anchordetr_jax.files import stored_path

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")


@dataclasses.dataclass(frozen=True)
class GivenImage:
    """One image that is not decoded yet, in a file (`path`) or in memory (`content`)."""

    name: str
    """For messages."""
    path: str | None = None
    content: Any = None
    """A Pillow image or an array."""

    def size(self) -> tuple[int, int]:
        """(height, width) as viewers show it. A file is decoded only if its header does not tell.

        Raises like `pixels`, where the size cannot be told.
        """
        if isinstance(self.content, np.ndarray):
            return array_size(self.content, self.name)
        if self.path is not None:
            try:
                with epath.Path(self.path).open("rb") as file:
                    header = read_header(file)
            except OSError:
                header = None
            if header is not None:
                return header.shown
        height, width, _ = self.pixels().shape
        return height, width

    def pixels(self) -> np.ndarray:
        """uint8 RGB [h, w, 3], turned as EXIF says. Raises `UserError` with the name of an image that is damaged."""
        if self.path is not None:
            return read_image(self.path)
        if isinstance(self.content, Image.Image):
            return picture_pixels(self.content, self.name)
        return array_pixels(self.content, self.name)


def gather_images(images: Any, name: str = "An image") -> tuple[list[GivenImage], bool]:
    """All images, in their order, and whether many were given: a list, a folder, or an array [n, h, w, c].

    Files are not opened. Raises `UserError`, with `name`, for something that is no image.
    """
    if isinstance(images, GivenImage):
        return [images], False
    if isinstance(images, str | os.PathLike):
        return _at_path(local_path(images))
    if isinstance(images, Image.Image):
        return [GivenImage("The image", content=images)], False
    if hasattr(images, "__array__"):
        array = np.asarray(images)
        if array.ndim == 4:
            return [GivenImage(f"Image {i}", content=array[i]) for i in range(len(array))], True
        return [GivenImage("The image", content=array)], False
    if isinstance(images, Iterable) and not isinstance(images, bytes | dict):
        gathered: list[GivenImage] = []
        for place, item in enumerate(images):
            given, _ = gather_images(item, f"Image {place}")
            gathered += [
                dataclasses.replace(image, name=f"Image {place}") if image.path is None else image for image in given
            ]
        return gathered, True
    raise UserError(
        f"{name} cannot be a {type(images).__name__}: give a path, a Pillow image, an array, or a list or folder of "
        "them."
    )


def local_path(path: str | os.PathLike[str]) -> str:
    """The path of a `file://` URL. Other paths stay as they are.

    Raises `UserError` for a URL of the web, and like `stored_path` for a bucket.
    """
    text = os.fspath(path)
    scheme, separator, _ = text.partition("://")
    if not separator:
        return os.path.expanduser(text)
    if scheme.lower() == "file":
        url = urllib.parse.urlsplit(text)
        if url.netloc not in ("", "localhost"):
            raise UserError(f"{text} names another machine: a file on this machine is file:///PATH.")
        return urllib.request.url2pathname(url.path)
    return os.fspath(stored_path(text))


def is_video(path: str) -> bool:
    """Whether the name of a file is that of a video."""
    return path.lower().endswith(VIDEO_SUFFIXES)


def list_folder(folder: str, suffixes: tuple[str, ...] = SUFFIXES) -> list[str]:
    """Paths of the images in a folder, without its subfolders, in the order of their names.

    Raises `UserError` if there is none.
    """
    entries = sorted(epath.Path(folder).iterdir(), key=lambda path: path.name)
    named = [path for path in entries if path.suffix.lower() in suffixes and not path.name.startswith(".")]
    found = [os.fspath(path) for path in named if not path.is_dir()]
    if not found:
        below = "; its subfolders are not searched" if any(path.is_dir() for path in entries) else ""
        raise UserError(f"Folder {folder} holds no image ({', '.join(suffixes)}){below}.")
    return found


def _at_path(path: str) -> tuple[list[GivenImage], bool]:
    if epath.Path(path).is_dir():
        return [GivenImage(found, found) for found in list_folder(path)], True
    if is_video(path):
        raise UserError(f"{path} is a video: anchordetr predict takes videos, Detector.predict takes images.")
    return [GivenImage(path, path)], False
