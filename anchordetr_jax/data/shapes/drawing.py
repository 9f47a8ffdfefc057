"""A small data set that is drawn, not downloaded: textured shapes on busy backgrounds, as a standard COCO folder.

It has what real data has: objects that overlap, of very different sizes and aspect ratios; images of different sizes,
some grey, some without any object; category ids with gaps; crowd regions and a few boxes without area. What an image
shows depends on (seed, split, its index) alone, so a larger set begins with the smaller one.

    python -m anchordetr_jax.data.shapes OUT --train 2000 --val 200 --seed 0 --classes circle square star
"""

import argparse
import colorsys
import dataclasses
import functools
import json
import math
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from anchordetr_jax.data.shapes.outlines import CLASSES, FIRST_CLASSES, SECOND_CLASSES
from anchordetr_jax.errors import UserError

# Kinds of image that real data has, at fixed places so that even a small set has each: index % period == place.
EMPTY = (20, 3)
CROWD = (40, 7)
DEGENERATE = (80, 11)
GREY = (50, 29)
MANY_OBJECTS = (25, 17)

PATTERNS = ("plain", "stripes", "checks", "gradient", "dots")
SUPERSAMPLING = 2
MIN_INSIDE = 0.7  # share of a shape's area that lies inside the image
MIN_VISIBLE = 0.7  # share of an object's area that later objects leave visible
VAL_ID_OFFSET = 1_000_000  # train and val never share an image id
IMAGES_AT_ONCE = 100  # that a process draws
FORMAT_VERSION = 1  # to be raised when the same settings give another data set


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShapesConfig:
    """What the drawn images are like."""

    classes: tuple[str, ...] = FIRST_CLASSES
    short_side: tuple[int, int] = (80, 128)
    """The short side of an image is drawn from this range (pixels, both ends included)…"""
    max_side: int = 128
    """…and the long side is at most this."""
    object_size: tuple[float, float] = (0.14, 0.75)
    """Range of an object's length as a share of the image's short side, drawn uniformly in its logarithm."""
    min_object_pixels: float = 9.0
    """No object is drawn narrower than this."""
    max_stretch: float = 2.0
    """Objects are stretched by up to this before they are turned by any angle."""
    max_objects: int = 12
    hue_by_class: float = 0.0
    """Probability that an object has its class's own hue. 0: colour says nothing about the class."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.classes if name not in CLASSES]
        if unknown or not self.classes or len(set(self.classes)) < len(self.classes):
            wrong = ", ".join(unknown or self.classes) or "none"
            raise UserError(
                f"A shapes data set takes one or more different classes of {', '.join(CLASSES)}; not {wrong}."
            )
        if not 32 <= self.short_side[0] <= self.short_side[1] <= self.max_side:
            sizes = f"{self.short_side[0]}, {self.short_side[1]} and {self.max_side}"
            raise UserError(
                f"Smallest short side, largest short side and longest side must rise from 32 pixels up, not be {sizes}."
            )
        if self.max_objects < 1:
            raise UserError(f"An image of a shapes data set must be allowed at least 1 object, not {self.max_objects}.")


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

    The same arguments give the same files, byte for byte. A folder that already holds this very data set is left
    as it is. With `processes` > 1 as many draw, which takes that the calling program keeps its own work under
    `if __name__ == "__main__"`. Raises `UserError` when the folder holds annotations of another origin.
    """
    config = config or ShapesConfig()
    root = Path(root)
    for split, (name, count) in enumerate((("train2017", train_images), ("val2017", val_images))):
        annotations_file = root / "annotations" / f"instances_{name}.json"
        settings = {"version": FORMAT_VERSION, "seed": seed, "images": count, **dataclasses.asdict(config)}
        info = json.loads(json.dumps({"description": "Drawn shapes", "settings": settings}))
        if annotations_file.exists() and _info_of(annotations_file) == info:
            continue
        (root / name).mkdir(parents=True, exist_ok=True)
        annotations_file.parent.mkdir(parents=True, exist_ok=True)
        # The JSON goes last and whole: where it stands, the images are complete.
        content = _write_split(root / name, seed, split, count, config, processes)
        partial = annotations_file.with_suffix(".partial")
        partial.write_text(json.dumps({"info": info, **content}))
        partial.replace(annotations_file)


def _info_of(annotations_file: Path) -> dict[str, Any]:
    try:
        info = json.loads(annotations_file.read_text())["info"]
        ours = info["description"] == "Drawn shapes"
    except (ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise UserError(f"{annotations_file} holds other annotations; give another folder for the shapes data set.")
    return info


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


def draw_image(seed: int, split: int, index: int, config: ShapesConfig) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Image `index` of a split (0 train, 1 val): uint8 RGB [h, w, 3], and its annotations without ids.

    A `bbox` is the tight one of the pixels that are seen of an object: xywh in pixels.
    """
    rng = np.random.default_rng((seed, split, index))
    short = int(rng.integers(config.short_side[0], config.short_side[1] + 1))
    long = min(config.max_side, round(short * rng.uniform(1.0, 1.6)))
    height, width = (short, long) if rng.random() < 0.5 else (long, short)
    scene = _Scene(rng, config, height, width)
    wanted = min(config.max_objects, 1 + int(rng.geometric(0.3)) - int(rng.random() < 0.3))
    if index % MANY_OBJECTS[0] == MANY_OBJECTS[1]:
        wanted = config.max_objects
    if index % EMPTY[0] == EMPTY[1]:
        wanted = 0
    if index % CROWD[0] == CROWD[1]:
        scene.draw_crowd(scene.random_class())
    for _ in range(wanted):
        name = scene.random_class()
        any(scene.draw_object(name) for _ in range(6))  # a full image may have no room: then it gets fewer
    objects = scene.annotations()
    if index % DEGENERATE[0] == DEGENERATE[1]:
        objects.append(_annotation(scene.random_class(), [width // 3, height // 4, 0, height // 2], 0, False))
    return np.clip(scene.canvas, 0, 255).astype(np.uint8), objects


class _Scene:
    """An image while it is being drawn, and which object each of its pixels shows."""

    def __init__(self, rng: np.random.Generator, config: ShapesConfig, height: int, width: int):
        self.rng, self.config = rng, config
        self.canvas = _background(rng, height, width)
        self.owner = np.zeros((height, width), np.int16)  # number of the object on top, from 1; 0: none
        self.objects: list[tuple[str, bool]] = []  # class name, whether it is a crowd
        self.areas = np.zeros(0, np.int64)
        self.visible_areas = np.zeros(0, np.int64)

    def random_class(self) -> str:
        return self.config.classes[self.rng.integers(len(self.config.classes))]

    def draw_object(self, name: str) -> bool:
        """Draws one object at a random place, unless too little of it or of an earlier one would be seen."""
        height, width = self.owner.shape
        low, high = self.config.object_size
        length = min(height, width) * math.exp(self.rng.uniform(math.log(low), math.log(high)))
        across = length / math.exp(self.rng.uniform(0, math.log(self.config.max_stretch)))
        across = max(across, self.config.min_object_pixels)
        mask, corner = self._mask(name, max(length, across), across, self.rng.random(2) * (width, height))
        window, inside = self._inside(mask, corner)
        solid = inside >= 0.5
        area = int(solid.sum())
        if area < 12 or area < MIN_INSIDE * (mask >= 0.5).sum():
            return False
        hidden = np.bincount(self.owner[window][solid], minlength=len(self.objects) + 1)[1:]
        if (self.visible_areas - hidden < MIN_VISIBLE * self.areas).any():
            return False
        self._blend(window, inside, name)
        self._register(name, False, window, solid, hidden)
        return True

    def draw_crowd(self, name: str) -> None:
        """A heap of small objects of one class that count as one region, as COCO has crowds. To be drawn first."""
        height, width = self.owner.shape
        side = 0.4 * min(height, width)
        heap = self.rng.random(2) * (width - side, height - side)
        covered = np.zeros((height, width), bool)
        for _ in range(14):
            size = self.config.min_object_pixels
            window, inside = self._inside(
                *self._mask(name, size, size, heap + (0.15 + 0.7 * self.rng.random(2)) * side)
            )
            self._blend(window, inside, name)
            covered[window] |= inside >= 0.5
        self._register(name, True, np.s_[:, :], covered, np.zeros(0, np.int64))

    def annotations(self) -> list[dict[str, Any]]:
        """One for each object that was drawn."""
        found = []
        for number, (name, is_crowd) in enumerate(self.objects, start=1):
            seen = self.owner == number
            rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
            x, y = int(columns[0]), int(rows[0])
            box = [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]
            found.append(_annotation(name, box, int(self.visible_areas[number - 1]), is_crowd))
        return found

    def _mask(self, name: str, length: float, across: float, centre: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
        """How much of each pixel a randomly turned shape covers (float32, 0..1), and its corner (x, y) in the image."""
        angle = self.rng.uniform(0, 2 * math.pi)
        axes = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        axes *= np.array([[length / 2], [across / 2]])
        outline, *holes = (part @ axes for part in CLASSES[name][1])
        x0, y0 = (math.floor(v) for v in outline.min(axis=0) + centre)
        x1, y1 = (math.ceil(v) for v in outline.max(axis=0) + centre)
        large = Image.new("L", ((x1 - x0) * SUPERSAMPLING, (y1 - y0) * SUPERSAMPLING))
        pen = ImageDraw.Draw(large)
        offset = (centre - (x0, y0)) * SUPERSAMPLING - 0.5
        for part in (outline, *holes):
            pen.polygon((part * SUPERSAMPLING + offset).ravel().tolist(), fill=255 if part is outline else 0)
        return np.asarray(large.reduce(SUPERSAMPLING)) * np.float32(1 / 255), (x0, y0)

    def _inside(self, mask: np.ndarray, corner: tuple[int, int]) -> tuple[tuple[slice, slice], np.ndarray]:
        """The part of the image that a mask falls on, and the part of the mask that is inside the image."""
        x0, y0 = corner
        window = np.s_[max(y0, 0) : max(y0 + mask.shape[0], 0), max(x0, 0) : max(x0 + mask.shape[1], 0)]
        height, width = self.owner[window].shape
        return window, mask[max(-y0, 0) :, max(-x0, 0) :][:height, :width]

    def _blend(self, window: tuple[slice, slice], coverage: np.ndarray, name: str) -> None:
        hue = float(self.rng.random())
        if self.rng.random() < self.config.hue_by_class:
            hue = list(CLASSES).index(name) / len(CLASSES)
        patch = self.canvas[window]
        patch += (_texture(self.rng, coverage.shape, hue) - patch) * coverage[..., None]

    def _register(
        self, name: str, is_crowd: bool, window: tuple[slice, slice], solid: np.ndarray, hidden: np.ndarray
    ) -> None:
        area = int(solid.sum())
        self.objects.append((name, is_crowd))
        self.owner[window][solid] = len(self.objects)
        self.areas = np.append(self.areas, area)
        self.visible_areas = np.append(self.visible_areas - hidden, area)


def _annotation(name: str, box: list[int], area: int, is_crowd: bool) -> dict[str, Any]:
    return {"category_id": CLASSES[name][0], "bbox": box, "area": area, "iscrowd": int(is_crowd)}


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Patches of muted colours, lines and noise; float32 [height, width, 3], about 0..255."""
    cells = rng.integers(2, 9, size=2)
    grey = rng.uniform(40, 200, size=(*cells, 1))
    colours = np.clip(grey + rng.uniform(-45, 45, size=(*cells, 3)), 0, 255).astype(np.uint8)
    smooth = Image.Resampling.BICUBIC if rng.random() < 0.7 else Image.Resampling.NEAREST
    image = Image.fromarray(colours).resize((width, height), smooth)
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(0, 9))):
        ends = rng.uniform(-0.1, 1.1, size=4) * (width, height, width, height)
        colour = tuple(int(c) for c in rng.integers(30, 210) + rng.integers(-30, 31, size=3))
        pen.line(ends.tolist(), fill=colour, width=int(rng.integers(1, 4)))
    noise = rng.random((height, width, 1), np.float32) - np.float32(0.5)
    noise *= np.float32(rng.uniform(6, 48))
    return noise + np.asarray(image)


def _texture(rng: np.random.Generator, shape: tuple[int, ...], hue: float) -> np.ndarray:
    """Two strong colours of one hue in a pattern; float32 [h, w, 3] in 0..255."""
    first = 255 * np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.65, 1), rng.uniform(0.75, 1)), np.float32)
    amount = np.float32(rng.uniform(0.2, 0.5))
    second = first * (1 - amount) if rng.random() < 0.5 else first + (255 - first) * amount
    y = np.arange(shape[0], dtype=np.float32)[:, None]
    x = np.arange(shape[1], dtype=np.float32)[None, :]
    angle, period = rng.uniform(0, math.pi), rng.uniform(3, 9)
    u = (x * math.cos(angle) + y * math.sin(angle)) / np.float32(period)
    v = (y * math.cos(angle) - x * math.sin(angle)) / np.float32(period)
    pattern = PATTERNS[rng.integers(len(PATTERNS))]
    share: np.ndarray  # of the second colour
    if pattern == "plain":
        share = np.zeros(u.shape, bool)
    elif pattern == "stripes":
        share = u % 1 < 0.5
    elif pattern == "checks":
        share = (u % 1 < 0.5) ^ (v % 1 < 0.5)
    elif pattern == "gradient":
        share = (u - u.min()) / max(float(np.ptp(u)), 1e-6)
    else:
        share = (u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.09
    return first + share[..., None] * (second - first)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: see the module's text."""
    defaults = ShapesConfig()
    parser = argparse.ArgumentParser(
        prog="python -m anchordetr_jax.data.shapes", description="Draw a COCO-format data set of shapes."
    )
    parser.add_argument("out", help="folder to write")
    parser.add_argument("--train", type=int, default=2000, help="training images")
    parser.add_argument("--val", type=int, default=200, help="validation images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--classes", nargs="+", default=["first"], help=f"first, second, or some of: {', '.join(CLASSES)}"
    )
    parser.add_argument("--short-side", nargs=2, type=int, default=list(defaults.short_side), metavar=("MIN", "MAX"))
    parser.add_argument("--max-side", type=int, default=defaults.max_side)
    parser.add_argument(
        "--object-size",
        nargs=2,
        type=float,
        default=list(defaults.object_size),
        metavar=("MIN", "MAX"),
        help="length of an object as a share of the short side",
    )
    parser.add_argument("--max-objects", type=int, default=defaults.max_objects)
    parser.add_argument("--hue-by-class", type=float, default=defaults.hue_by_class)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="that draw at the same time")
    options = parser.parse_args(arguments)
    groups = {"first": FIRST_CLASSES, "second": SECOND_CLASSES}
    try:
        config = ShapesConfig(
            classes=tuple(name for choice in options.classes for name in groups.get(choice, (choice,))),
            short_side=tuple(options.short_side),
            max_side=options.max_side,
            object_size=tuple(options.object_size),
            max_objects=options.max_objects,
            hue_by_class=options.hue_by_class,
        )
        write_shapes_dataset(
            options.out,
            seed=options.seed,
            train_images=options.train,
            val_images=options.val,
            config=config,
            processes=options.processes,
        )
    except UserError as error:
        raise SystemExit(f"Error: {error}") from None


if __name__ == "__main__":
    main()
