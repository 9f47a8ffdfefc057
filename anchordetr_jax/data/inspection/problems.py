"""Everything that is wrong with a split of a COCO-format data set, not only the first thing."""

import dataclasses
import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, TypeGuard

from etils import epath

from anchordetr_jax.data.image_sizes import read_header
from anchordetr_jax.data.images import read_image
from anchordetr_jax.data.sources.coco import MAX_IMAGE_SIDE, heading_category
from anchordetr_jax.data.sources.layouts import SplitFiles, image_name
from anchordetr_jax.errors import UserError

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""`error`: training or scoring would fail, or silently go wrong. `warning`: it is dealt with (left out, clipped), but
somebody may have meant something else. `note`: good to know."""

READERS = 16
"""Threads that read files: most of the time is spent waiting for them."""
OVERHANG = 1.0
"""Pixels by which a box may exceed its image: rounding does that."""
PIECE = 4096
"""Bytes at the beginning, middle and end of a file by which equal files are suspected."""

Ask = Callable[[Iterable[Any], int], Iterable[Any]]
"""Shows progress over an iterable of known length."""


class Problem(NamedTuple):
    """One thing that is wrong, or worth knowing."""

    severity: Severity
    kind: str
    """In a few words, the same for all problems of its kind."""
    file: str
    """The image file that it is about, or the annotation file."""
    detail: str
    image_id: Any = None
    annotation_id: Any = None


@dataclasses.dataclass(kw_only=True)
class ImageRecord:
    """An image, as far as its record makes sense."""

    id: int
    path: epath.Path
    size: tuple[int, int]
    """(height, width) by the annotation file."""
    boxes: list[tuple[float, float, float, float]] = dataclasses.field(default_factory=list)
    """xyxy in pixels, clipped to the image: those that would be trained on."""
    classes: list[int] = dataclasses.field(default_factory=list)
    """The place in `SplitInspection.class_names` of each box."""
    annotated: bool = False
    """Whether any annotation names the image, one without a usable box included."""


@dataclasses.dataclass(kw_only=True)
class SplitInspection:
    """What a split holds, and what is wrong with it."""

    split: str
    annotations_file: str
    images_folder: str
    class_ids: list[int] = dataclasses.field(default_factory=list)
    class_names: list[str] = dataclasses.field(default_factory=list)
    images: list[ImageRecord] = dataclasses.field(default_factory=list)
    num_annotations: int = 0
    num_crowds: int = 0
    problems: list[Problem] = dataclasses.field(default_factory=list)
    signatures: dict[str, str] = dataclasses.field(default_factory=dict)
    """By path of an image, what equal files have in common (their lengths and some of their bytes)."""

    def add(self, severity: Severity, kind: str, detail: str, file: object = None, **ids: Any) -> None:
        """Takes note of a problem, of the annotation file unless another is given."""
        self.problems.append(Problem(severity, kind, str(file or self.annotations_file), detail, **ids))


def inspect_split(split: str, files: SplitFiles, *, decode: bool, ask: Ask) -> SplitInspection:
    """Reads an annotation file and looks at every image that it lists. What is wrong is in the result, nothing raises.

    Args:
        split: its name, for the result.
        files: where the images and annotations are.
        decode: decode all pixels, instead of reading headers only.
        ask: shows progress over the images.
    """
    found = SplitInspection(split=split, annotations_file=str(files.annotations), images_folder=str(files.images))
    content = _content(files.annotations, found)
    categories = list(_records(content, "categories", found))
    annotations = list(_records(content, "annotations", found))
    _look_at_categories(categories, annotations, found)
    by_id = _look_at_images(_records(content, "images", found), files, found)
    _look_at_annotations(annotations, by_id, {category.get("id") for category in categories}, found)
    _look_at_use(found)
    _look_at_files(found, decode, ask)
    _look_for_copies([found], found.problems)
    return found


def find_overlap(inspections: Sequence[SplitInspection]) -> list[Problem]:
    """Image files with the same content in more than one split."""
    problems: list[Problem] = []
    _look_for_copies(inspections, problems, across=True)
    return problems


def _content(file: epath.Path, found: SplitInspection) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        found.add("error", "annotation file unreadable", error.strerror or str(error))
        return {}
    except (ValueError, RecursionError) as error:
        found.add("error", "annotation file is not JSON", f"not JSON, or not all of it is there: {error}")
        return {}
    if not isinstance(content, dict):
        found.add("error", "annotation file is not COCO's", f"a {type(content).__name__} instead of an object")
        return {}
    return content


def _records(content: dict[str, Any], key: str, found: SplitInspection) -> Iterator[dict[str, Any]]:
    values = content.get(key)
    if not isinstance(values, list):
        if content:
            found.add("error", "annotation file is not COCO's", f"has no list '{key}'")
        return
    for place, value in enumerate(values):
        if isinstance(value, dict):
            yield value
        else:
            found.add("error", "malformed record", f"{key}[{place}] is {_short(value)}, not an object")


def _look_at_categories(
    categories: list[dict[str, Any]], annotations: list[dict[str, Any]], found: SplitInspection
) -> None:
    heading = heading_category(categories, annotations)
    seen: dict[int, str] = {}
    for place, category in enumerate(categories):
        number, name = category.get("id"), category.get("name")
        if not _is_integer(number) or not isinstance(name, str) or not name:
            found.add("error", "malformed record", f"category {_short(category)} needs an integer id and a name")
            continue
        if number in seen:
            found.add("error", "category id twice", f"category {number} is {seen[number]!r} and {name!r}")
            continue
        if name in seen.values():
            found.add("warning", "category name twice", f"{name!r} is the name of two categories; one has id {number}")
        if place == heading:
            found.add("note", "category that heads the others", f"category {number} ({name!r}) is no class")
            continue
        seen[number] = name
    found.class_ids = sorted(seen)
    found.class_names = [seen[number] for number in found.class_ids]


def _look_at_images(
    images: Iterable[dict[str, Any]], files: SplitFiles, found: SplitInspection
) -> dict[int, ImageRecord]:
    by_id: dict[int, ImageRecord] = {}
    names: dict[str, int] = {}
    for image in images:
        number, name = image.get("id"), image.get("file_name")
        height, width = image.get("height"), image.get("width")
        if not _is_integer(number) or not isinstance(name, str) or not name:
            found.add("error", "malformed record", f"image {_short(image)} needs an integer id and a file_name")
            continue
        name = image_name(name, bare=files.bare)
        file = files.images / name
        if not (_is_side(height) and _is_side(width)):
            size = f"{_short(width)} x {_short(height)}"
            found.add("error", "image without a size", f"width x height is {size}", file, image_id=number)
            continue
        if number in by_id:
            found.add("error", "image id twice", f"image {number} is also {by_id[number].path}", file, image_id=number)
            continue
        if name in names:
            found.add("warning", "file listed twice", f"it is also image {names[name]}", file, image_id=number)
        names.setdefault(name, number)
        by_id[number] = ImageRecord(id=number, path=file, size=(height, width))
    found.images = list(by_id.values())
    if not by_id:
        found.add("error", "no images", "not one usable image is listed")
    return by_id


def _look_at_annotations(
    annotations: list[dict[str, Any]], images: dict[int, ImageRecord], category_ids: set[Any], found: SplitInspection
) -> None:
    places = {number: place for place, number in enumerate(found.class_ids)}
    ids: set[Any] = set()
    boxes_seen: set[tuple[Any, ...]] = set()
    found.num_annotations = len(annotations)
    for annotation in annotations:
        number, image_id, category_id = (annotation.get(key) for key in ("id", "image_id", "category_id"))
        image = images.get(image_id) if isinstance(image_id, int) else None
        where = {"image_id": image_id, "annotation_id": number}
        file = image.path if image else None
        if not _is_integer(number):
            found.add("error", "annotation without an id", f"{_short(annotation)} needs an integer id", file, **where)
        elif number in ids:
            found.add("error", "annotation id twice", f"annotation {number} is there twice", file, **where)
        ids.add(number if _is_integer(number) else None)
        if image is None:
            found.add("error", "unknown image", f"image {_short(image_id)} is not listed (or wrong itself)", **where)
            continue
        image.annotated = True
        if not _is_integer(category_id) or category_id not in category_ids:
            found.add("error", "unknown category", f"category {_short(category_id)} is not listed", file, **where)
            continue
        box = annotation.get("bbox")
        if not (isinstance(box, list) and len(box) == 4 and all(_is_number(value) for value in box)):
            found.add("error", "malformed box", f"bbox is {_short(box)}, not four numbers", file, **where)
            continue
        if annotation.get("iscrowd"):
            found.num_crowds += 1
            found.add("note", "crowd region", "left out of training, as in COCO", file, **where)
            continue
        if (clipped := _usable_box(box, image.size, found, file, where)) is None or category_id not in places:
            continue
        if (key := (image_id, category_id, *box)) in boxes_seen:
            found.add("warning", "same box twice", f"{_short(box)} of the same category", file, **where)
        boxes_seen.add(key)
        image.boxes.append(clipped)
        image.classes.append(places[category_id])


def _usable_box(
    box: list[float], size: tuple[int, int], found: SplitInspection, file: object, where: dict[str, Any]
) -> tuple[float, float, float, float] | None:
    """The box (xywh) clipped to the image, as xyxy; None if nothing is left of it."""
    x, y, width, height = box
    rows, columns = size
    if width <= 0 or height <= 0:
        found.add("warning", "box without area", f"{_short(box)}: it is left out", file, **where)
        return None
    clipped = (max(x, 0.0), max(y, 0.0), min(x + width, float(columns)), min(y + height, float(rows)))
    beyond = f"{_short(box)} in an image of {columns} x {rows}"
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        found.add("warning", "box outside its image", f"{beyond}: it is left out", file, **where)
        return None
    if min(x, y, columns - x - width, rows - y - height) < -OVERHANG:
        found.add("warning", "box partly outside its image", f"{beyond}: it is clipped", file, **where)
    return clipped


def _look_at_use(found: SplitInspection) -> None:
    """Images and classes without objects."""
    for image in found.images:
        if not image.boxes:
            why = "nothing usable is annotated" if image.annotated else "nothing is annotated"
            found.add("note", "image without objects", why, image.path, image_id=image.id)
    used = {place for image in found.images for place in image.classes}
    for place, (number, name) in enumerate(zip(found.class_ids, found.class_names, strict=True)):
        if place not in used:
            found.add("warning", "class without objects", f"category {number} ({name!r}) has no usable box")


def _look_at_files(found: SplitInspection, decode: bool, ask: Ask) -> None:
    with ThreadPoolExecutor(READERS) as pool:
        looked_at = pool.map(lambda image: _look_at_file(image, decode), found.images)
        for image, (problem, signature) in zip(found.images, ask(looked_at, len(found.images)), strict=True):
            if problem is not None:
                kind, detail = problem
                found.add("error", kind, detail, image.path, image_id=image.id)
            if signature is not None:
                found.signatures[str(image.path)] = signature


def _look_at_file(image: ImageRecord, decode: bool) -> tuple[tuple[str, str] | None, str | None]:
    """What is wrong with an image file (kind, detail), and its signature."""
    try:
        with image.path.open("rb") as file:
            signature = _signature(file)
            file.seek(0)
            header = read_header(file)
    except FileNotFoundError:
        return ("missing file", "it does not exist"), None
    except OSError as error:
        return ("unreadable file", error.strerror or str(error)), None
    if header is None:
        return ("unreadable file", "it is not an image, or damaged"), signature
    if image.size not in (header.stored, header.shown):
        size = header.stored
        found, expected = f"{size[1]} x {size[0]}", f"{image.size[1]} x {image.size[0]}"
        return ("wrong size", f"the file has {found} pixels, the annotations say {expected}"), signature
    if decode:
        try:
            read_image(image.path, image.size)
        except UserError as error:
            return ("unreadable file", str(error)), signature
    return None, signature


def _signature(file: Any) -> str:
    length = file.seek(0, 2)
    digest = hashlib.blake2b(digest_size=12)
    for place in (0, max(0, length // 2 - PIECE // 2), max(0, length - PIECE)):
        file.seek(place)
        digest.update(file.read(PIECE))
    return f"{length}:{digest.hexdigest()}"


def _look_for_copies(inspections: Sequence[SplitInspection], problems: list[Problem], across: bool = False) -> None:
    """Adds files of equal content: within one split (without the same path), or those that several splits share."""
    suspects: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for inspection in inspections:
        for path, signature in inspection.signatures.items():
            suspects[signature].append((inspection.split, path))
    ids = {(found.split, str(image.path)): image.id for found in inspections for image in found.images}
    for group in suspects.values():
        if len(group) < 2 or (across and len({split for split, _ in group}) < 2):
            continue
        equal: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for split, path in group:
            equal[_digest(path)].append((split, path))
        for same in equal.values():
            first_split, first = same[0]
            for split, path in same[1:]:
                if across and split != first_split:
                    detail = f"the {split} image is also a {first_split} image: {first}"
                    problems.append(Problem("error", "image in two splits", path, detail, ids[split, path]))
                elif not across:
                    detail = f"the same content as {first}"
                    problems.append(Problem("warning", "image there twice", path, detail, ids[split, path]))


def _digest(path: str) -> str:
    try:
        return hashlib.blake2b(epath.Path(path).read_bytes()).hexdigest()
    except OSError:
        return path


def count_kinds(problems: Iterable[Problem]) -> dict[tuple[Severity, str], int]:
    """How many problems there are of each kind, the worst first."""
    counts = Counter((problem.severity, problem.kind) for problem in problems)
    return dict(sorted(counts.items(), key=lambda item: (SEVERITIES.index(item[0][0]), -item[1])))


def _is_integer(value: Any) -> TypeGuard[int]:
    return type(value) is int and abs(value) < 2**63


def _is_side(value: Any) -> TypeGuard[int]:
    return _is_integer(value) and 0 < value <= MAX_IMAGE_SIDE


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and abs(value) < 2**63


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
