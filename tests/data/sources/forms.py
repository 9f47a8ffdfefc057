"""One small data set, written in the forms of COCO, YOLO and Pascal VOC."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Box = tuple[str, int, int, int, int]
"""Class, x, y, width and height in pixels."""

SIZES = {"b 1.png": (40, 61), "a.png": (30, 50), "c.png": (37, 37)}
BOXES: dict[str, list[Box]] = {
    "b 1.png": [("dog", 3, 4, 20, 31), ("cat", 0, 0, 61, 40)],
    "a.png": [],
    "c.png": [("cat", 30, 1, 7, 9), ("dog", 11, 13, 1, 1)],
}
CLASSES = ("cat", "dog")


def write_images(folder: Path, names: Sequence[str] = tuple(SIZES)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(sorted(names)):
        pixels = np.random.default_rng(number).integers(0, 256, (*SIZES[name], 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)


def label_lines(name: str, decimals: int = 6) -> str:
    height, width = SIZES[name]
    lines = []
    for kind, x, y, w, h in BOXES[name]:
        shares = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
        lines.append(" ".join([str(CLASSES.index(kind)), *(f"{share:.{decimals}f}" for share in shares)]))
    return "\n".join(lines) + "\n"


def xml(name: str, boxes: Sequence[Box] | None = None, *, size: Any = None, difficult: int = 0) -> str:
    height, width = SIZES.get(name, (40, 60)) if size is None else size
    objects = "".join(
        f"""
  <object>
    <name>{kind}</name>
    <difficult>{difficult}</difficult>
    <bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox>
  </object>"""
        for kind, x, y, w, h in (BOXES[name] if boxes is None else boxes)
    )
    return f"""<annotation>
  <filename>{name}</filename>
  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>{objects}
</annotation>
"""


def write_coco(root: Path, split: str = "train") -> None:
    write_images(root / f"{split}2017")
    names = sorted(SIZES)
    images = [
        {"id": number, "file_name": name, "height": SIZES[name][0], "width": SIZES[name][1]}
        for number, name in enumerate(names, start=1)
    ]
    found = [(number, *box) for number, name in enumerate(names, start=1) for box in BOXES[name]]
    annotations = [
        {"id": place, "image_id": number, "category_id": CLASSES.index(kind) + 1, "bbox": box, "area": box[2] * box[3]}
        for place, (number, kind, *box) in enumerate(found, start=1)
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    (root / "annotations").mkdir(exist_ok=True)
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))


def write_yolo(root: Path, description: str | None = None, split: str = "train", *, roboflow: bool = False) -> None:
    """Images, labels (none for an image without objects) and a data.yaml."""
    images, labels = f"images/{split}", f"labels/{split}"
    if roboflow:
        images, labels = f"{split}/images", f"{split}/labels"
    write_images(root / images)
    (root / labels).mkdir(parents=True)
    for name in SIZES:
        if BOXES[name]:
            (root / labels / name).with_suffix(".txt").write_text(label_lines(name))
    text = f"path: .\ntrain: {images}\nnames: [cat, dog]\n" if description is None else description
    (root / "data.yaml").write_text(text)


def write_voc(root: Path, lists: Mapping[str, Sequence[str]] = {"train": tuple(SIZES)}) -> None:
    write_images(root / "JPEGImages")
    (root / "Annotations").mkdir()
    for name in SIZES:
        (root / "Annotations" / name).with_suffix(".xml").write_text(xml(name))
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for split, names in lists.items():
        text = "".join(f"{Path(name).stem}\n" for name in names)
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(text)
