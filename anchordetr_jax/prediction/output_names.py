"""File names for the pictures of many images in one folder, so that no picture replaces another one."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath

from anchordetr_jax.prediction.inputs import is_video

KEPT_SUFFIXES = (".jpg", ".jpeg", ".png")


def output_names(paths: Sequence[str], *, kept: Sequence[str] = KEPT_SUFFIXES) -> list[str]:
    """A file name for the picture of each image, and for each video.

    JPEG and PNG files keep their names. Pictures of other images become PNG, videos become MP4. Where names are equal,
    the names of folders come before them: `monday_1.jpg` and `tuesday_1.jpg`. Some file systems do not distinguish
    upper and lower case, so names that differ by case alone count as equal. `kept`: the suffixes of the images that
    keep their names.
    """
    parts = [PurePath(os.path.abspath(path)).parts for path in paths]
    plain = _distinct_within_folders(parts, tuple(kept))
    depths = [1] * len(paths)
    while True:
        names = ["_".join([*part[-depth:-1], name]) for part, depth, name in zip(parts, depths, plain, strict=True)]
        counts = Counter(name.casefold() for name in names)
        growing = [i for i, name in enumerate(names) if counts[name.casefold()] > 1 and depths[i] < len(parts[i]) - 1]
        if not growing:
            return _numbered(names)
        for i in growing:
            depths[i] += 1


def _distinct_within_folders(parts: Sequence[tuple[str, ...]], kept: tuple[str, ...]) -> list[str]:
    """Names that differ within each folder. Of two equal names, the one with a changed suffix becomes longer, such as
    `1_tif.png`."""
    names = [_picture_name(part[-1], kept) for part in parts]
    counts = Counter((part[:-1], name.casefold()) for part, name in zip(parts, names, strict=True))
    for i, (part, name) in enumerate(zip(parts, names, strict=True)):
        old, new = PurePath(part[-1]), PurePath(name)
        if counts[part[:-1], name.casefold()] > 1 and old.suffix.lower() != new.suffix.lower():
            names[i] = f"{old.stem}_{old.suffix[1:]}{new.suffix}"
    folders: dict[tuple[str, ...], list[int]] = {}
    for i, part in enumerate(parts):
        folders.setdefault(part[:-1], []).append(i)
    for members in folders.values():
        for i, name in zip(members, _numbered([names[i] for i in members]), strict=True):
            names[i] = name
    return names


def _picture_name(name: str, kept: tuple[str, ...]) -> str:
    if is_video(name):
        return str(PurePath(name).with_suffix(".mp4"))
    return name if name.lower().endswith(kept) else str(PurePath(name).with_suffix(".png"))


def _numbered(names: Sequence[str]) -> list[str]:
    """The names, with a number where the same name came before."""
    given = {name.casefold() for name in names}
    taken: set[str] = set()
    numbered = []
    for name in names:
        path, number = PurePath(name), 1
        while name.casefold() in taken or (number > 1 and name.casefold() in given):
            number += 1
            name = f"{path.stem}_{number}{path.suffix}"
        taken.add(name.casefold())
        numbered.append(name)
    return numbered
