"""Draws one image of textured shapes on a busy background, with its annotations.

What an image shows depends on (seed, split, its index) alone, so a larger data set begins with the smaller one.
"""

import math
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from anchordetr_jax.data.shapes.outlines import CLASSES
from anchordetr_jax.data.shapes.settings import ShapesConfig
from anchordetr_jax.data.shapes.textures import background, texture

# Kinds of images that real data has. They have fixed places (index % period == place): so a small set has each, too.
EMPTY = (20, 3)
CROWD = (40, 7)
DEGENERATE = (80, 11)
MANY_OBJECTS = (25, 17)

SUPERSAMPLING = 2
MIN_INSIDE = 0.7
"""The share of a shape's area that must lie inside the image."""
MIN_VISIBLE = 0.7
"""The share of an object's area that later objects must leave visible."""


def draw_image(seed: int, split: int, index: int, config: ShapesConfig) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Image `index` of a split (0 train, 1 val): uint8 RGB [h, w, 3], and its annotations without ids.

    A `bbox` (xywh in pixels) is the smallest box around the visible pixels of an object.
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
        any(scene.draw_object(name) for _ in range(6))  # a full image has no room for more: then it has fewer objects
    objects = scene.annotations()
    if index % DEGENERATE[0] == DEGENERATE[1]:
        objects.append(_annotation(scene.random_class(), [width // 3, height // 4, 0, height // 2], 0, False))
    return np.clip(scene.canvas, 0, 255).astype(np.uint8), objects


class _Scene:
    """An image while it is drawn, and the object that each pixel shows."""

    def __init__(self, rng: np.random.Generator, config: ShapesConfig, height: int, width: int):
        self.rng, self.config = rng, config
        self.canvas = background(rng, height, width)
        self.owner = np.zeros((height, width), np.int16)  # the number of the object on top, from 1; 0: no object
        self.objects: list[tuple[str, bool]] = []  # class name, whether it is a crowd
        self.areas = np.zeros(0, np.int64)
        self.visible_areas = np.zeros(0, np.int64)

    def random_class(self) -> str:
        return self.config.classes[self.rng.integers(len(self.config.classes))]

    def draw_object(self, name: str) -> bool:
        """Draws one object at a random place. False: it did not, as too little of this or another would be visible."""
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
        """Draws a heap of small objects of one class, which is one crowd region as in COCO. Call it first."""
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
        """The annotations of all drawn objects, without ids."""
        found = []
        for number, (name, is_crowd) in enumerate(self.objects, start=1):
            seen = self.owner == number
            rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
            x, y = int(columns[0]), int(rows[0])
            box = [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]
            found.append(_annotation(name, box, int(self.visible_areas[number - 1]), is_crowd))
        return found

    def _mask(self, name: str, length: float, across: float, centre: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
        """A shape turned at random: the share of each pixel that it covers (float32, 0..1), and its corner (x, y)."""
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
        """The part of the image that a mask covers, and the part of the mask that is inside the image."""
        x0, y0 = corner
        window = np.s_[max(y0, 0) : max(y0 + mask.shape[0], 0), max(x0, 0) : max(x0 + mask.shape[1], 0)]
        height, width = self.owner[window].shape
        return window, mask[max(-y0, 0) :, max(-x0, 0) :][:height, :width]

    def _blend(self, window: tuple[slice, slice], coverage: np.ndarray, name: str) -> None:
        hue = float(self.rng.random())
        if self.rng.random() < self.config.hue_by_class:
            hue = list(CLASSES).index(name) / len(CLASSES)
        patch = self.canvas[window]
        patch += (texture(self.rng, coverage.shape, hue) - patch) * coverage[..., None]

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
