"""Reads the headers of many image files at once."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from etils import epath
from tqdm.auto import tqdm

from anchordetr_jax.data.image_sizes import Header, read_header

READERS = 16
"""Threads that read headers. Most of the time they wait for files."""


class Look(NamedTuple):
    """What a look at an image file finds."""

    header: Header | None
    problem: tuple[str, str] | None = None
    """Why there is no header: kind and detail."""


def look_at(paths: Sequence[epath.Path | None], *, progress: str) -> list[Look]:
    """Reads the header of each file (None: it was not found), with a progress bar where this takes long."""
    with ThreadPoolExecutor(READERS) as pool:
        looks = pool.map(_look_at, paths)
        return list(tqdm(looks, progress, len(paths), unit="image", delay=2, leave=False, dynamic_ncols=True))


def _look_at(path: epath.Path | None) -> Look:
    if path is None:
        return Look(None, ("missing file", "it does not exist"))
    try:
        with open(path, "rb") if "://" not in str(path) else path.open("rb") as file:
            header = read_header(file)
    except FileNotFoundError:
        return Look(None, ("missing file", "it does not exist"))
    except (OSError, ValueError) as error:
        return Look(None, ("unreadable file", getattr(error, "strerror", None) or str(error)))
    if header is None:
        return Look(None, ("unreadable file", "it is not an image, or it is damaged"))
    return Look(header)
