"""A small COCO folder, for tests of what a change of it leads to."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anchordetr_jax.config import DataConfig
from anchordetr_jax.data.source import Split
from anchordetr_jax.data.sources.annotated import AnnotatedImages
from anchordetr_jax.data.sources.opening import open_split

ORIENTATION = 0x0112
HEIGHT, WIDTH = 20, 30


def write_image(path: Path, orientation: int = 1, size: tuple[int, int] = (HEIGHT, WIDTH), seed: int = 0) -> None:
    """An image of noise whose pixels are stored so that EXIF turns them upright; `size` (h, w) is that of the file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, exif=exif if orientation > 1 else Image.Exif())


def write_split(root: Path, split: str, images: dict[str, tuple[int, int]], **changes: Any) -> dict[str, Any]:
    """Writes an annotation file of the listed images (names and annotated sizes h, w), with a box in each."""
    content: dict[str, Any] = {
        "images": [
            {"id": number, "file_name": name, "height": height, "width": width}
            for number, (name, (height, width)) in enumerate(images.items(), start=1)
        ],
        "annotations": [
            {"id": number, "image_id": number, "category_id": 1, "bbox": [2, 3, 8, 7], "area": 56, "iscrowd": 0}
            for number in range(1, len(images) + 1)
        ],
        "categories": [{"id": 1, "name": "cell"}],
        **changes,
    }
    (root / f"{split}2017").mkdir(parents=True, exist_ok=True)
    file = root / "annotations" / f"instances_{split}2017.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content))
    return content


def change_split(root: Path, change: Callable[[dict[str, Any]], object], split: str = "val") -> None:
    file = root / "annotations" / f"instances_{split}2017.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def opened(root: Path, split: Split = "val", **settings: Any) -> AnnotatedImages:
    return open_split(DataConfig(root=str(root), **settings), split)
