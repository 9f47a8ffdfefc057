"""Finds the files of images that annotations list under names of another machine or another form.

Names may have a folder before them (`val2017/`, `C:\\Users\\me\\`), be percent-encoded, be in another Unicode form, or
differ by case (`.JPG` for `.jpg`). A file is taken where only one can be meant.
"""

import dataclasses
import difflib
import os
import posixpath
import unicodedata
import urllib.parse
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from etils import epath

from anchordetr_jax.data.images import SUFFIXES
from anchordetr_jax.data.records.findings import Findings

DEPTH = 6
"""The depth of folders that are looked through."""
NOT_LOOKED_THROUGH = "folder not looked through"
COMPARED = 20_000
"""File names among which the nearest one to a missing name is looked for."""


def listed_name(file_name: str) -> str:
    """A file name with slashes, where it was written on Windows."""
    return file_name.replace("\\", "/")


def is_image(name: str) -> bool:
    """Whether a file is an image, by its name."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


class ImageFiles:
    """The image files in a folder and the folders in it. They are listed only when a name needs it."""

    def __init__(self, folder: epath.PathLike):
        self.folder = epath.Path(folder)
        self.is_remote = "://" in str(folder)
        self._names: dict[str, frozenset[str]] = {}
        self._below: list[str] | None = None
        self._by_key: dict[str, list[str]] = {}
        self.skipped: list[Skipped] = []
        """What `below` leaves out."""

    def find(self, names: Sequence[str]) -> list[str | None]:
        """The path of each listed name, relative to the folder; None where it is missing, or several can be meant.

        Files in a bucket are not listed: their names are taken as they are.
        """
        names = [listed_name(name) for name in names]
        if self.is_remote:
            return list(names)
        found = [name if self._is_there(name) else None for name in names]
        missing = [place for place, path in enumerate(found) if path is None]
        if missing:
            taken = {path for path in found if path is not None}
            others = {place: self._meant(names[place]) for place in missing}
            claims = Counter(others.values())
            for place, path in others.items():
                if path is not None and path not in taken and claims[path] == 1:
                    found[place] = path
        return found

    def nearest(self, name: str) -> str | None:
        """The file whose name is the nearest to one that is missing; None in an empty folder."""
        below = self.below()[:COMPARED]
        by_last = {posixpath.basename(path): path for path in reversed(below)}
        close = difflib.get_close_matches(posixpath.basename(listed_name(name)), by_last, n=1, cutoff=0.0)
        return by_last[close[0]] if close else None

    def below(self) -> list[str]:
        """The paths of all image files in the folder and in folders in it, relative to the folder, sorted."""
        if self._below is None:
            self._below = sorted(image_files(str(self.folder), self.skipped))
            by_key = defaultdict(list)
            for path in self._below:
                by_key[name_key(posixpath.basename(path))].append(path)
            self._by_key = dict(by_key)
        return self._below

    def _is_there(self, name: str) -> bool:
        parent, last = posixpath.split(name)
        if parent not in self._names:
            try:
                with os.scandir(os.path.join(str(self.folder), parent)) as entries:
                    self._names[parent] = frozenset(entry.name for entry in entries)
            except (OSError, ValueError):
                self._names[parent] = frozenset()
        return last in self._names[parent]

    def _meant(self, name: str) -> str | None:
        self.below()
        candidates = self._by_key.get(name_key(posixpath.basename(name)))
        if candidates is None:  # The name itself may hold encoded slashes.
            candidates = self._by_key.get(name_key(posixpath.basename(listed_name(urllib.parse.unquote(name)))), [])
        if len(candidates) > 1:
            wanted = _parts(name)
            shared = [_shared(wanted, _parts(path)) for path in candidates]
            candidates = [path for path, count in zip(candidates, shared, strict=True) if count == max(shared)]
        return candidates[0] if len(candidates) == 1 else None


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A link or folder that `folders_below` leaves out."""

    path: str
    """Relative to the folder that is looked through."""
    kind: str
    why: str


def report_skipped(folder: str, skipped: Iterable[Skipped], findings: Findings) -> None:
    """Notes the links and folders in a folder that are not looked through."""
    for one in skipped:
        findings.note(one.kind, one.why, posixpath.join(folder, one.path))


def image_files(folder: str, skipped: list[Skipped] | None = None) -> list[str]:
    """The paths of all image files in a folder and in folders in it, relative to it, with slashes.

    `skipped` gets what is left out, as in `folders_below`.
    """
    found: list[str] = []
    for relative in folders_below(folder, skipped):
        with os.scandir(os.path.join(folder, relative)) as entries:
            found += [posixpath.join(relative, entry.name) for entry in entries if is_image(entry.name)]
    return found


def folders_below(folder: str, skipped: list[Skipped] | None = None) -> list[str]:
    """A folder (as "") and the folders in it, relative to it, the nearer ones first.

    Hidden folders are left out, and each folder is there once. Left out are also folders that are too deep or cannot be
    listed, and links to a folder that they lie in, as these would lead in a circle: `skipped` gets them.
    """
    found: list[str] = []
    skipped = [] if skipped is None else skipped
    seen: set[str] = set()
    level = [""]
    for depth in range(DEPTH + 2):
        below: list[str] = []
        for relative in level:
            path = os.path.join(folder, relative)
            real = os.path.realpath(path)
            if real in seen:
                continue
            seen.add(real)
            if depth > DEPTH:
                skipped.append(Skipped(relative, NOT_LOOKED_THROUGH, f"it lies more than {DEPTH} folders deep"))
                continue
            try:
                entries = sorted(os.scandir(path), key=lambda entry: entry.name)
            except OSError as error:
                why = f"it cannot be listed ({error.strerror or error})"
                skipped.append(Skipped(relative, NOT_LOOKED_THROUGH, why))
                continue
            found.append(relative)
            for entry in entries:
                if entry.name.startswith((".", "__MACOSX")) or not _is_dir(entry):
                    continue
                inner = posixpath.join(relative, entry.name)
                if not entry.is_symlink() or not _holds(os.path.realpath(entry.path), real):
                    below.append(inner)
                else:
                    why = "it leads to a folder that it lies in, and is not followed"
                    skipped.append(Skipped(inner, "link in a circle", why))
        level = below
    return found


def _holds(outer: str, inner: str) -> bool:
    """Whether a folder is another one or holds it."""
    return posixpath.join(inner, "").startswith(posixpath.join(outer, ""))


def _is_dir(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # A link to itself.
        return False


def name_key(last_part: str) -> str:
    """What names of one file have in common: without case, percent-encoding and Unicode form."""
    return unicodedata.normalize("NFC", urllib.parse.unquote(last_part)).casefold()


def _parts(name: str) -> list[str]:
    return [name_key(part) for part in listed_name(urllib.parse.unquote(name)).split("/")]


def _shared(first: Sequence[str], second: Sequence[str]) -> int:
    """The number of last parts that two paths share."""
    count = 0
    for one, other in zip(reversed(first), reversed(second), strict=False):
        if one != other:
            break
        count += 1
    return count
