"""The backgrounds of drawn images, and the textures of the shapes on them."""

import colorsys
import math

import numpy as np
from PIL import Image, ImageDraw

PATTERNS = ("plain", "stripes", "checks", "gradient", "dots")


def background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
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


def texture(rng: np.random.Generator, shape: tuple[int, ...], hue: float) -> np.ndarray:
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
    share: np.ndarray  # the share of the second colour
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
