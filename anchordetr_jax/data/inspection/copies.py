"""Finds images that are there more than once: within a split, and in several splits, where they make scores wrong."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from anchordetr_jax.data.records.findings import Findings
from anchordetr_jax.data.records.headers import READERS

PIECE = 4096
"""Bytes at the beginning, middle and end of a file by which equal files are suspected."""
SIDE = 32
"""Pixels of the side of the small grey pictures that are compared."""
NEAR = 3.0
"""Small grey pictures are nearly equal where they differ by less than this, of 255 (root of the mean square)."""
PLAIN = 8.0
"""Pictures whose grey values vary by less than this are not compared: plain pictures look alike."""

File = tuple[str, int, epath.Path]
"""Split, image id and path."""
Ask = Callable[[Iterable[Any], int, str], Iterable[Any]]


def look_for_copies(files: Sequence[File], findings: Findings, ask: Ask) -> None:
    """Reports files of equal content within a split."""
    for (_, _, first), (_, number, path) in _pairs(files, ask, "equal images"):
        if path != first:
            findings.warning("image there twice", f"the same content as {first}", path, image_id=number)


def look_for_shared_files(files: Sequence[File], findings: Findings, ask: Ask) -> None:
    """Reports files of equal content in several splits."""
    for (first_split, _, first), (split, number, path) in _pairs(files, ask, "images in two splits"):
        if split != first_split:
            detail = f"the {split} image is also a {first_split} image: {first}"
            findings.warning("image in two splits", detail, path, image_id=number)


def look_for_near_copies(files: Sequence[File], findings: Findings, ask: Ask) -> None:
    """Notes images that look like one of another split, without being the same file: saved again, for example."""
    splits = sorted({split for split, _, _ in files})
    if len(splits) < 2:
        return
    with ThreadPoolExecutor(READERS) as pool:
        small = list(ask(pool.map(_small, [path for _, _, path in files]), len(files), "similar images"))
    kept = [place for place, picture in enumerate(small) if picture is not None and picture.std() >= PLAIN]
    order = {split: [place for place in kept if files[place][0] == split] for split in splits}
    for index, first_split in enumerate(splits):
        for split in splits[index + 1 :]:
            for one, other in _near(small, order[first_split], order[split]):
                if _digest(files[one][2]) != _digest(files[other][2]):
                    detail = f"it looks like the {first_split} image {files[one][2]}"
                    findings.warning(
                        "image nearly equal to one of another split", detail, files[other][2], image_id=files[other][1]
                    )


def signature(path: epath.Path) -> str | None:
    """What equal files have in common: their length and some of their bytes. None where it cannot be read."""
    digest = hashlib.blake2b(digest_size=12)
    try:
        with path.open("rb") as file:
            length = file.seek(0, 2)
            for place in (0, max(0, length // 2 - PIECE // 2), max(0, length - PIECE)):
                file.seek(place)
                digest.update(file.read(PIECE))
    except OSError:
        return None
    return f"{length}:{digest.hexdigest()}"


def _pairs(files: Sequence[File], ask: Ask, title: str) -> Iterable[tuple[File, File]]:
    """Each file whose content an earlier file has, with the first of these."""
    with ThreadPoolExecutor(READERS) as pool:
        signatures = list(ask(pool.map(signature, [path for _, _, path in files]), len(files), title))
    suspects: dict[str | None, list[File]] = defaultdict(list)
    for file, found in zip(files, signatures, strict=True):
        suspects[found].append(file)
    suspects.pop(None, None)
    for group in suspects.values():
        if len(group) > 1:
            equal: dict[str, list[File]] = defaultdict(list)
            for file in group:
                equal[_digest(file[2])].append(file)
            for same in equal.values():
                yield from ((same[0], file) for file in same[1:])


def _digest(path: epath.Path) -> str:
    try:
        return hashlib.blake2b(path.read_bytes()).hexdigest()
    except OSError:
        return str(path)


def _small(path: epath.Path) -> np.ndarray | None:
    """float32 [SIDE * SIDE]: a small grey picture; None where the file cannot be read."""
    try:
        with path.open("rb") as file, Image.open(file) as image:
            image.draft("L", (4 * SIDE, 4 * SIDE))  # JPEG files are then decoded in a small size.
            grey = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
        return np.asarray(grey, np.float32).ravel()
    except Exception:  # Pillow's readers raise many kinds of exceptions for damaged files, which are reported.
        return None


def _near(small: Sequence[Any], ours: Sequence[int], theirs: Sequence[int]) -> Iterable[tuple[int, int]]:
    """Each of `theirs` that is nearly equal to one of `ours`, with the nearest of these."""
    if not ours or not theirs:
        return
    first = np.stack([small[place] for place in ours])
    squares = (first**2).sum(axis=1)
    for place in theirs:
        distances = squares - 2 * first @ small[place] + (small[place] ** 2).sum()
        nearest = int(distances.argmin())
        if float(((first[nearest] - small[place]) ** 2).mean()) < NEAR**2:
            yield ours[nearest], place
