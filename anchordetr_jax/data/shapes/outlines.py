"""The outlines of the drawn shapes: what each class of the shapes data set looks like, and its category id."""

import math

import numpy as np


def _arc(
    radius: float, start: float, stop: float, centre: tuple[float, float] = (0.0, 0.0), points: int = 32
) -> np.ndarray:
    angles = np.linspace(start, stop, points)
    return np.stack([centre[0] + radius * np.cos(angles), centre[1] + radius * np.sin(angles)], axis=1)


def _regular(corners: int, radius: float = 1.0) -> np.ndarray:
    return _arc(radius, -math.pi / 2, 1.5 * math.pi, points=corners + 1)[:-1]


def _polygon(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, dtype=np.float64)


def _star() -> np.ndarray:
    return _regular(10) * np.where(np.arange(10) % 2 == 0, 1.0, 0.42)[:, None]


def _flower() -> np.ndarray:
    angles = np.arange(60) * (2 * math.pi / 60)
    return (0.72 + 0.28 * np.cos(5 * angles))[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, 2.5 - y], axis=1) / 16


def _crescent() -> np.ndarray:
    outer = _arc(1.0, 0.22 * math.pi, 1.78 * math.pi)
    tip, centre = outer[0], 0.62  # the bite is part of a circle around (centre, 0) through both tips
    radius, angle = math.hypot(tip[0] - centre, tip[1]), math.atan2(tip[1], tip[0] - centre)
    return np.concatenate([outer, _arc(radius, 2 * math.pi - angle, angle, (centre, 0.0))])


_CIRCLE = _regular(32)
_SQUARE = _polygon((-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85))
_CROSS = _polygon(
    *((-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3)),
    *((0.3, 1), (-0.3, 1), (-0.3, 0.3), (-1, 0.3), (-1, -0.3), (-0.3, -0.3)),
)
_ARROW = _polygon((-1, -0.28), (0.1, -0.28), (0.1, -0.8), (1, 0), (0.1, 0.8), (0.1, 0.28), (-1, 0.28))
_CORNER = _polygon((-0.9, -0.9), (-0.25, -0.9), (-0.25, 0.25), (0.9, 0.25), (0.9, 0.9), (-0.9, 0.9))
_BOLT = _polygon((-0.1, -1), (0.6, -1), (0.2, -0.25), (0.7, -0.25), (-0.35, 1), (-0.05, 0.15), (-0.6, 0.15))
_HOURGLASS = _polygon((-0.8, -1), (0.8, -1), (0.18, 0), (0.8, 1), (-0.8, 1), (-0.18, 0))

CLASSES: dict[str, tuple[int, tuple[np.ndarray, ...]]] = {
    "circle": (3, (_CIRCLE,)),
    "square": (7, (_SQUARE,)),
    "triangle": (8, (_regular(3),)),
    "star": (21, (_star(),)),
    "ring": (22, (_CIRCLE, 0.55 * _CIRCLE)),
    "cross": (34, (_CROSS,)),
    "heart": (55, (_heart(),)),
    "crescent": (60, (_crescent(),)),
    "hexagon": (2, (_regular(6),)),
    "arrow": (9, (_ARROW,)),
    "frame": (15, (_SQUARE, 0.55 * _SQUARE)),
    "corner": (27, (_CORNER,)),
    "bolt": (41, (_BOLT,)),
    "flower": (48, (_flower(),)),
    "halfmoon": (71, (_arc(1.0, 0.0, math.pi) - (0.0, 0.4),)),
    "hourglass": (90, (_HOURGLASS,)),
}
"""Of each class its category id, and its polygons: the outline's corners [n, 2] (x, y; about within the unit circle),
then those of its holes."""

FIRST_CLASSES = ("circle", "square", "triangle", "star", "ring", "cross", "heart", "crescent")
SECOND_CLASSES = ("hexagon", "arrow", "frame", "corner", "bolt", "flower", "halfmoon", "hourglass")
"""Two groups without a class in common: a detector trained on one can be tuned to the other."""
