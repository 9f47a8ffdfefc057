"""A plain folder of images without annotations: for detection only."""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from etils import epath
from tqdm.auto import tqdm

from anchordetr_jax.data.categories import Categories
from anchordetr_jax.data.image_sizes import Size, complete_sizes, read_header
from anchordetr_jax.data.images import SUFFIXES, read_image
from anchordetr_jax.data.records.locating import is_image
from anchordetr_jax.errors import UserError
from anchordetr_jax.files import stored_path

READERS = 8
"""Threads that read headers. Most of the time they wait for files."""


class ImageFolder:
    """The image files directly in a folder, in the order of their names. See `DetectionSource` for what it answers.

    Image ids are 1, 2, 3, … in that order. Where every file name is a number (`000000000139.jpg`, as in COCO), that
    number is the id. Images are turned as their EXIF data says, and sizes are those of the turned images.

    Args:
        folder: a local folder, or one in a bucket.
        categories: the meaning of the detector's class outputs. The folder itself has no classes.

    Raises `UserError` when the folder is missing or holds no readable image. Where only some images are damaged, each
    is named when it is read.
    """

    def __init__(self, folder: epath.PathLike, categories: Categories):
        self.folder = stored_path(folder)
        self.name = str(folder)
        self.remarks: tuple[str, ...] = ()
        self.categories = categories
        if not self.folder.is_dir():
            raise UserError(f"There is no image folder {folder}; set data.root to a folder of images.")
        in_bucket = "://" in str(folder)  # There, each question about a file takes as long as the whole list.
        names = sorted(
            path.name for path in self.folder.iterdir() if is_image(path.name) and (in_bucket or path.is_file())
        )
        if not names:
            raise UserError(f"Folder {folder} holds no image ({', '.join(SUFFIXES)}); set data.root to one that does.")
        ids = _ids(names)
        order = np.argsort(ids, kind="stable").tolist()
        self.image_ids: tuple[int, ...] = tuple(ids[i] for i in order)
        self._file_names = [names[i] for i in order]
        with ThreadPoolExecutor(READERS) as pool:
            found = pool.map(self._header_size, self._file_names)
            sizes = complete_sizes(list(tqdm(found, "image sizes", len(names), unit="image", delay=2)))
        if sizes is None:
            raise UserError(
                f"None of the {len(names)} images in {folder} is readable: check that they are whole image files."
            )
        self.sizes = sizes

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def box_counts(self) -> np.ndarray:
        """int64 [n]: zeros."""
        return np.zeros(len(self), np.int64)

    def boxes(self, row: int) -> np.ndarray:
        """float32 [0, 4]."""
        return np.zeros((0, 4), np.float32)

    def labels(self, row: int) -> np.ndarray:
        """int32 [0]."""
        return np.zeros(0, np.int32)

    def file_path(self, row: int) -> epath.Path:
        return self.folder / self._file_names[row]

    def describe(self, row: int) -> str:
        """For messages: the image's file."""
        return str(self.file_path(row))

    def open_image(self, row: int) -> np.ndarray:
        """uint8 RGB [h, w, 3], turned as EXIF says.

        Raises `UserError` naming the file if it is missing or damaged, or has changed its size.
        """
        pixels = read_image(self.file_path(row))
        size = tuple(self.sizes[row].tolist())
        if pixels.shape[:2] != size:
            raise UserError(f"Image file {self.describe(row)} has changed since its folder was listed; start again.")
        return pixels

    def ground_truth(self) -> dict[str, Any] | None:
        """None, since nothing is annotated."""
        return None

    def _header_size(self, name: str) -> Size | None:
        try:
            with (self.folder / name).open("rb") as file:
                header = read_header(file)
        except OSError:
            return None
        return None if header is None else header.shown


def _ids(names: Sequence[str]) -> list[int]:
    stems = [name.rpartition(".")[0] for name in names]
    if all(re.fullmatch(r"[0-9]{1,18}", stem) for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(names) + 1))
