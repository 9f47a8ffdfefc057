"""Writes a data set of drawn images as a standard COCO folder."""

import dataclasses
import functools
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from anchordetr_jax.data.shapes.drawing import draw_image
from anchordetr_jax.data.shapes.outlines import CLASSES
from anchordetr_jax.data.shapes.settings import ShapesConfig
from anchordetr_jax.errors import UserError
from anchordetr_jax.files import path_here, write_atomically

GREY = (50, 29)
"""Images are grey where index % 50 == 29."""
VAL_ID_OFFSET = 1_000_000
"""Added to the ids of validation images, so that no training image has the same id."""
IMAGES_AT_ONCE = 100
"""The number of images that a process draws at once."""
DESCRIPTION = "Drawn shapes"
DRAWN = "[0-9]" * 12 + ".jpg"
"""The names of drawn images."""
FORMAT_VERSION = 1
"""To be raised when the same settings give another data set."""


def write_shapes_dataset(
    root: str | os.PathLike[str],
    *,
    seed: int = 0,
    train_images: int = 2000,
    val_images: int = 200,
    config: ShapesConfig | None = None,
    processes: int = 1,
) -> None:
    """Writes `train2017/`, `val2017/` and `annotations/instances_{train,val}2017.json` under `root`.

    The same arguments give the same files, byte for byte. A folder that already holds this data set is left as it is.

    Args:
        root: the folder.
        seed: another seed gives other images.
        train_images: the number of training images.
        val_images: the number of validation images.
        config: what the images are like.
        processes: the number of processes that draw. For more than one, the calling program must keep its own work
            under `if __name__ == "__main__"`.

    Raises `UserError` when the folder holds other images or annotations, which stay, or cannot be written.
    """
    config = config or ShapesConfig()
    root = path_here(root)
    missing: list[_Part] = []
    for split, (name, count) in enumerate((("train2017", train_images), ("val2017", val_images))):
        settings = {"version": FORMAT_VERSION, "seed": seed, "images": count, **dataclasses.asdict(config)}
        info = json.loads(json.dumps({"description": DESCRIPTION, "settings": settings}))
        part = _Part(split, count, root / name, root / "annotations" / f"instances_{name}.json", info)
        if _info_of(part) != info:
            missing.append(part)
    try:
        for part in missing:
            part.folder.mkdir(parents=True, exist_ok=True)
            part.annotations.parent.mkdir(parents=True, exist_ok=True)
            # Annotations are there only when all images are. A beginning of them says that the images are drawn ones.
            write_atomically(part.beginning, json.dumps({"info": part.info}).encode())
            part.annotations.unlink(missing_ok=True)
            for old in part.folder.glob(DRAWN):
                old.unlink()
            content = _write_split(part.folder, seed, part.split, part.count, config, processes)
            write_atomically(part.annotations, json.dumps({"info": part.info, **content}).encode())
            part.beginning.unlink()
    except OSError as error:
        raise UserError(f"Cannot write into {root} ({error.strerror or error}): give another folder.") from error


@dataclasses.dataclass(frozen=True)
class _Part:
    """One split of the data set."""

    split: int
    count: int
    folder: Path
    annotations: Path
    info: dict[str, Any]

    @property
    def beginning(self) -> Path:
        return self.annotations.with_suffix(".partial")


def _info_of(part: _Part) -> dict[str, Any] | None:
    """What the folder holds already; None if nothing, or a part of a drawn data set."""
    file = part.annotations if part.annotations.exists() else part.beginning
    if not file.exists():
        if part.folder.is_dir() and any(part.folder.iterdir()):
            raise UserError(f"{part.folder} holds other files; give another folder for the drawn data set.")
        return None
    try:
        info = json.loads(file.read_text())["info"]
        ours = info["description"] == DESCRIPTION
    except (ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise UserError(f"{file} holds other annotations; give another folder for the drawn data set.")
    return info if file == part.annotations else None


def _write_split(
    folder: Path, seed: int, split: int, count: int, config: ShapesConfig, processes: int
) -> dict[str, Any]:
    write = functools.partial(_write_image, folder, seed, split, config)
    if processes > 1 and count > IMAGES_AT_ONCE:
        with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
            written = list(pool.map(write, range(count), chunksize=IMAGES_AT_ONCE))
    else:
        written = [write(index) for index in range(count)]
    images = [image for image, _ in written]
    objects = [{"image_id": image["id"], **one} for image, of_image in written for one in of_image]
    annotations = [{"id": number, **one} for number, one in enumerate(objects, start=1)]
    ids = sorted((CLASSES[name][0], name) for name in config.classes)
    categories = [{"id": number, "name": name, "supercategory": "shape"} for number, name in ids]
    return {"images": images, "annotations": annotations, "categories": categories}


def _write_image(
    folder: Path, seed: int, split: int, config: ShapesConfig, index: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    pixels, objects = draw_image(seed, split, index, config)
    image_id = index + 1 + split * VAL_ID_OFFSET
    file_name = f"{image_id:012d}.jpg"
    image = Image.fromarray(pixels)
    if index % GREY[0] == GREY[1]:
        image = image.convert("L")
    image.save(folder / file_name, quality=95, subsampling=0)
    return {"id": image_id, "file_name": file_name, "width": image.width, "height": image.height}, objects
