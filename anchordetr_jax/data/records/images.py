"""The images of a split: checked records, their files, sizes and orientations."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from etils import epath

from anchordetr_jax.data.image_sizes import UPRIGHT, Size
from anchordetr_jax.data.images import Orientation
from anchordetr_jax.data.records.findings import Findings
from anchordetr_jax.data.records.headers import Look, look_at
from anchordetr_jax.data.records.locating import ImageFiles, listed_name
from anchordetr_jax.data.records.raw import WHERE, RawSplit, Record
from anchordetr_jax.data.records.values import short, whole_number
from anchordetr_jax.data.source import Split

MAX_IMAGE_SIDE = 1_000_000


@dataclasses.dataclass
class CleanImage:
    """An image whose record makes sense."""

    id: int
    listed: str
    """The file name in the record."""
    size: Size | None
    """(height, width) in the record."""
    path: str | None = None
    """Where the file is, relative to the folder of the images; None where it was not found."""
    look: Look | None = None
    record: Record = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """The path of the file, or the listed name where there is no file."""
        return self.path or listed_name(self.listed)


Votes = Counter[Orientation]
"""How many pictures show by their size that annotations are made for the picture as shown, or as stored."""


def clean_images(raw: RawSplit, findings: Findings) -> list[CleanImage]:
    """The images whose records make sense, in the order of their ids. No file is looked at."""
    by_id: dict[int, CleanImage] = {}
    names: dict[str, int] = {}
    for record in raw.images:
        number, name = whole_number(record.get("id")), record.get("file_name")
        where = record.get(WHERE)
        if number is None or not isinstance(name, str) or not name:
            wrong = {key: value for key, value in record.items() if key != WHERE}
            findings.error(
                "malformed record", f"image {short(wrong)} needs a whole number as id and a file_name", where
            )
            continue
        file = where or f"{raw.folder}/{listed_name(name)}"
        if type(record["id"]) is not int:
            detail = f"image id {short(record['id'])} is taken as {number}"
            findings.warning("text or float taken as a number", detail, file, image_id=number)
        if number in by_id:
            findings.error("image id twice", f"image {number} is also {by_id[number].listed}", file, image_id=number)
            continue
        if name in names:
            findings.warning("file listed twice", f"it is also image {names[name]}", file, image_id=number)
        names.setdefault(name, number)
        by_id[number] = CleanImage(number, name, _size(record, number, file, findings, raw.has_sizes), record=record)
    if not by_id:
        findings.error("no images", "it lists no usable image" if raw.images else "it lists no images")
    return [by_id[number] for number in sorted(by_id)]


def find_files(images: Sequence[CleanImage], folder: epath.Path, findings: Findings, files: ImageFiles) -> None:
    """Fills in `path`. Raises nothing: a missing file is reported with the others that cannot be read."""
    for image, path in zip(images, files.find([image.listed for image in images]), strict=True):
        image.path = path
        if path is not None and path != listed_name(image.listed):
            detail = f"listed as {image.listed!r}, and only this file can be meant"
            findings.warning("file found under another name", detail, folder / path, image_id=image.id)


def read_headers(images: Sequence[CleanImage], folder: epath.Path, progress: str) -> None:
    """Fills in `look`."""
    paths = [None if image.path is None else folder / image.path for image in images]
    for image, look in zip(images, look_at(paths, progress=progress), strict=True):
        image.look = look


def count_votes(images: Iterable[CleanImage]) -> Votes:
    """Counts the pictures whose annotated size is that of the picture as shown, or as stored, but not both."""
    votes: Votes = Counter()
    for image in images:
        header = image.look.header if image.look else None
        if header is not None and header.stored != header.shown:
            votes["shown"] += image.size == header.shown
            votes["stored"] += image.size == header.stored
    return votes


def decide_orientation(
    images: Sequence[CleanImage],
    setting: Literal["auto", "shown", "stored"],
    votes: Callable[[], Votes],
    findings: Findings,
    folder: epath.Path,
) -> Orientation:
    """How pictures are read whose size does not tell whether they were annotated as shown or as stored.

    `votes` counts over the whole data set, so that all its splits get one rule; it is called only where it is needed.
    """
    open_cases = [image for image in images if _size_cannot_tell(image)]
    if not open_cases:
        return "shown" if setting == "auto" else setting
    counts = votes() if setting == "auto" else Counter()
    if setting != "auto":
        rule, reason = setting, "as data.orientation says"
    elif counts["stored"] > counts["shown"]:
        rule, reason = "stored", f"as {counts['stored']} other pictures of the data set are by their sizes"
    elif counts["shown"]:
        rule, reason = "shown", f"as {counts['shown']} other pictures of the data set are by their sizes"
    else:
        rule, reason = "shown", "as most tools annotate; data.orientation='stored' says otherwise"
    what = "as viewers show it" if rule == "shown" else "as its pixels are stored"
    for image in open_cases:
        detail = f"the size does not tell how it was annotated: it is taken {what}, {reason}"
        findings.warning("orientation of a picture assumed", detail, folder / image.name, image_id=image.id)
    return rule


def settle_sizes(
    images: Sequence[CleanImage], raw: RawSplit, rule: Orientation, split: Split, findings: Findings
) -> list[CleanImage]:
    """Fills in missing sizes, and reports files that cannot be read or have another size. Returns those with a size."""
    kept: list[CleanImage] = []
    headers = [image.look.header for image in images if image.look is not None and image.look.header is not None]
    usual = Counter(header.shown for header in headers).most_common(1)
    readable = 0
    for image in images:
        file, header = f"{raw.folder}/{image.name}", image.look.header if image.look else None
        if header is None and image.look is not None and image.look.problem is not None:
            findings.unreadable(*image.look.problem, file, split, image.id)
        if header is not None and (image.size is None or not raw.has_sizes):
            image.size = header.stored if rule == "stored" else header.shown
            if raw.has_sizes:
                detail = f"the record has no size: it is taken from the file, {_text(image.size)}"
                findings.warning("size taken from the file", detail, image.record.get(WHERE) or file, image_id=image.id)
        if image.size is None and not raw.has_sizes and usual:
            image.size = usual[0][0]  # It stays in the data set, and is named when it is read.
        if image.size is None:
            where = image.record.get(WHERE) or file
            size = f"{short(image.record.get('width'))} x {short(image.record.get('height'))}"
            detail = f"width x height is {size}, and the file does not tell either"
            findings.error("image without a size", detail, where, image_id=image.id)
            continue
        if header is not None and image.size not in (header.stored, header.shown):
            detail = f"the file has {_text(header.shown)} pixels, but its annotations were made for {_text(image.size)}"
            findings.unreadable("wrong size", detail, file, split, image.id)
        else:
            readable += header is not None
        kept.append(image)
    if kept and not readable and all(image.look is not None for image in kept):
        _nothing_readable(kept, raw, findings)
    return kept


def _size(record: Record, number: int, file: object, findings: Findings, has_sizes: bool) -> Size | None:
    if not has_sizes:
        return None
    given = record.get("height"), record.get("width")
    height, width = (whole_number(value) for value in given)
    if height is None or width is None or not (min(height, width) > 0 and max(height, width) <= MAX_IMAGE_SIDE):
        return None
    if any(type(value) is not int for value in given):
        detail = f"width x height {short(given[1])} x {short(given[0])} is taken as {width} x {height}"
        findings.warning("text or float taken as a number", detail, file, image_id=number)
    return height, width


def _size_cannot_tell(image: CleanImage) -> bool:
    header = image.look.header if image.look else None
    if header is None or header.orientation == UPRIGHT:
        return False
    return header.stored == header.shown or image.size is None


def _nothing_readable(images: Sequence[CleanImage], raw: RawSplit, findings: Findings) -> None:
    first = images[0]
    looked_for = raw.folder / listed_name(first.listed)
    if first.path is not None:
        problem = first.look.problem[1] if first.look and first.look.problem else "it has another size than annotated"
        findings.error(
            "no image can be read", f"none of the {len(images)} images can be read, such as {looked_for}: {problem}"
        )
        return
    nearest = ImageFiles(raw.folder).nearest(first.listed)
    there = f"the nearest name there is {nearest}" if nearest else f"{raw.folder} holds no image"
    findings.error(
        "no image can be found",
        f"none of the {len(images)} images can be found: {looked_for} does not exist, and {there}",
    )


def _text(size: Size) -> str:
    return f"{size[1]} x {size[0]}"
