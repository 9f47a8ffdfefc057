"""What an inspection of a data set found, as text, as JSON and as pictures."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from anchordetr_jax.data.images import read_image
from anchordetr_jax.data.inspection.inspecting import DataSetInspection, InspectedImage, SplitInspection
from anchordetr_jax.data.records.findings import Finding, count_kinds
from anchordetr_jax.data.records.values import counted
from anchordetr_jax.errors import UserError
from anchordetr_jax.pictures.boxes import draw_detections
from anchordetr_jax.pictures.grids import picture_grid

SMALL, MEDIUM = 32**2, 96**2
"""COCO's limits of small and medium objects, in square pixels."""
EXAMPLES = 5
"""The number of findings of a kind that are printed."""


def describe_split(found: SplitInspection) -> str:
    """A few lines and a table of classes."""
    sizes = np.array([image.size for image in found.images]).reshape(-1, 2)
    counts = np.array([len(image.boxes) for image in found.images])
    boxes = _boxes(found)
    lines = [
        f"{found.split}: {counted(len(found.images), 'image')}, {counted(len(boxes), 'object')} of "
        f"{counted(len(class_counts(found)), 'class', 'classes')}",
        f"  annotations  {found.records.name}",
        f"  images       {found.records.raw.folder}",
    ]
    if len(sizes):
        without = int(np.count_nonzero(counts == 0))
        (h0, w0), (h1, w1) = sizes.min(axis=0), sizes.max(axis=0)
        middle = np.median(sizes, axis=0).astype(int)
        spread = (
            f"{w1} x {h1}" if (h0, w0) == (h1, w1) else f"{w0} x {h0} to {w1} x {h1}, median {middle[1]} x {middle[0]}"
        )
        lines.append(f"  image sizes  {spread}")
        lines.append(
            f"  objects      {counts.mean():.1f} per image, at most {counts.max()}; "
            f"{counted(without, 'image has none', 'images have none')}; {counted(found.num_crowds, 'crowd region')}"
        )
    if len(boxes):
        area = boxes[:, 2] * boxes[:, 3]
        shares = [np.mean(area < SMALL), np.mean((area >= SMALL) & (area < MEDIUM)), np.mean(area >= MEDIUM)]
        small, middle, large = (f"{share:.0%}" for share in shares)
        side = np.sqrt(area)
        lines.append(
            f"  object size  {side.min():.0f} to {side.max():.0f} pixels (root of area), median {np.median(side):.0f}; "
            f"{small} small (below 32), {middle} medium, {large} large (96 and more)"
        )
    return "\n".join([*lines, "", *_class_table(found)])


def describe_findings(findings: Sequence[Finding], file: object) -> str:
    """The number of findings of each kind, with the first of them. `file` has all of them."""
    if not findings:
        return "No problems found."
    lines = []
    for (severity, kind), count in count_kinds(findings).items():
        lines.append(f"{severity.upper():8}{kind}: {count}")
        of_kind = [finding for finding in findings if (finding.severity, finding.kind) == (severity, kind)]
        lines += [f"          {finding.place}: {finding.detail}" for finding in of_kind[:EXAMPLES]]
        if count > EXAMPLES:
            lines.append(f"          … and {count - EXAMPLES} more in {file}")
    return "\n".join(lines)


def to_dict(inspection: DataSetInspection) -> dict[str, Any]:
    """Everything, as plain values for JSON."""
    return {
        "splits": {found.split: _split_to_dict(found) for found in inspection.splits},
        "counts": [
            {"severity": severity, "kind": kind, "count": count}
            for (severity, kind), count in count_kinds(inspection.findings).items()
        ],
        "problems": [finding._asdict() for finding in inspection.findings],
    }


def draw_samples(found: SplitInspection, path: epath.PathLike, *, count: int = 12, cell: int = 480) -> None:
    """Writes a grid of images with their objects. They are spread over the split and show all classes, if possible."""
    pictures, titles = [], []
    for image in _chosen(found, count):
        try:
            pixels = read_image(image.path, image.size, found.records.orientation)
        except UserError:
            continue
        picture = Image.fromarray(pixels)
        factor = cell / max(picture.size)
        picture = picture.resize((max(1, round(picture.width * factor)), max(1, round(picture.height * factor))))
        names = [found.records.categories.names[place] for place in image.classes]
        boxes = np.array(image.boxes, np.float64).reshape(-1, 4) * factor
        pictures.append(draw_detections(picture, boxes, image.classes, names, min_size=0))
        titles.append(f"{image.path.name}  (id {image.id}): {counted(len(names), 'object')}")
    if pictures:
        picture_grid(pictures, titles, path)


def size_arrays(found: SplitInspection) -> tuple[np.ndarray, np.ndarray]:
    """float64 [n, 2]: (width, height) of all objects in pixels; and int64 [images]: the number of objects per image."""
    return _boxes(found)[:, 2:], np.array([len(image.boxes) for image in found.images])


def class_counts(found: SplitInspection) -> list[int]:
    """The number of objects of each class, in the order of the classes."""
    places = [place for image in found.images for place in image.classes]
    return np.bincount(places, minlength=len(found.records.categories.names)).tolist()


def counts_by_name(found: SplitInspection) -> dict[str, int]:
    """The number of objects by class name. Classes of one name count together."""
    counts: Counter[str] = Counter()
    for name, count in zip(found.records.categories.names, class_counts(found), strict=True):
        counts[name] += count
    return dict(counts)


def _chosen(found: SplitInspection, count: int) -> list[InspectedImage]:
    """Images spread over the split. Others with classes that these do not show replace the last ones."""
    if not found.images:
        return []
    count = min(count, len(found.images))
    chosen = [found.images[i] for i in np.unique(np.linspace(0, len(found.images) - 1, count).round().astype(int))]
    seen = {place for image in chosen for place in image.classes}
    extra: list[InspectedImage] = []
    for image in found.images:
        if set(image.classes) - seen and len(extra) < count // 2:
            extra.append(image)
            seen |= set(image.classes)
    return [*chosen[: count - len(extra)], *extra]


def _boxes(found: SplitInspection) -> np.ndarray:
    """float64 [n, 4]: xywh of all objects."""
    corners = np.array([box for image in found.images for box in image.boxes], np.float64).reshape(-1, 4)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


def _class_table(found: SplitInspection) -> list[str]:
    boxes = _boxes(found)
    places = np.array([place for image in found.images for place in image.classes], np.int64)
    side = np.sqrt(boxes[:, 2] * boxes[:, 3])
    aspect = boxes[:, 2] / np.maximum(boxes[:, 3], 1e-9)
    categories = found.records.categories
    width = max([len(name) for name in categories.names] + [5])
    lines = [
        f"  {'id':>6}  {'class':<{width}}  {'objects':>8}  {'images':>7}  {'median size':>11}  {'width/height':>12}"
    ]
    for place, (number, name) in enumerate(zip(categories.ids, categories.names, strict=True)):
        mine = places == place
        images = sum(place in image.classes for image in found.images)
        figures = f"{np.median(side[mine]):>9.0f} px  {np.median(aspect[mine]):>12.2f}" if mine.any() else f"{'-':>12}"
        lines.append(f"  {number:>6}  {name:<{width}}  {mine.sum():>8}  {images:>7}  {figures}")
    return lines


def _split_to_dict(found: SplitInspection) -> dict[str, Any]:
    counts, categories = class_counts(found), found.records.categories
    return {
        "annotations_file": found.records.name,
        "images_folder": str(found.records.raw.folder),
        "images": len(found.images),
        "annotations": found.num_annotations,
        "objects": sum(counts),
        "crowd_regions": found.num_crowds,
        "classes": [
            {"id": number, "name": name, "objects": count}
            for number, name, count in zip(categories.ids, categories.names, counts, strict=True)
        ],
    }
