"""Random erasing: a rectangle of an image is filled, so objects are also found by their parts (Zhong et al. 2020)."""

import numpy as np

from anchordetr_jax.config import AugmentConfig

NUM_UNIFORMS = 5
"""The number of random numbers for the erasing of one image."""
AREA, RATIO = (0.02, 0.2), (0.3, 1 / 0.3)
"""Least and largest area of the rectangle (relative to the image) and ratio of its height to its width (both relative
to the image's sides)."""
FILL = (124, 116, 104)
"""The mean of ImageNet's pixels, RGB."""

Rectangle = tuple[float, float, float, float]
"""(y, x, h, w), relative to the image's height and width."""


def draw_rectangles(uniforms: np.ndarray, config: AugmentConfig) -> np.ndarray:
    """The rectangles of n images, float [n, 4] (`Rectangle`); zeros for images without one. `uniforms` is [n, 5]."""
    chance_u, area_u, ratio_u, y_u, x_u = uniforms.T
    area = AREA[0] + area_u * (AREA[1] - AREA[0])
    ratio = np.exp(np.log(RATIO[0]) + ratio_u * (np.log(RATIO[1]) - np.log(RATIO[0])))
    height, width = np.minimum(np.sqrt(area * ratio), 1), np.minimum(np.sqrt(area / ratio), 1)
    rectangles = np.stack([y_u * (1 - height), x_u * (1 - width), height, width], axis=1)
    return np.where((chance_u < config.erase_probability)[:, None], rectangles, 0.0)


def erase(
    image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, rectangle: Rectangle
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The image (uint8 [h, w, 3]), boxes ([m, 4], xyxy in pixels) and labels [m], with one rectangle of mean colour.

    Boxes stay as they are. An object that lies wholly in the rectangle is left out, because nothing of it is seen.
    """
    h, w = image.shape[:2]
    top, left = round(rectangle[0] * h), round(rectangle[1] * w)
    bottom, right = round((rectangle[0] + rectangle[2]) * h), round((rectangle[1] + rectangle[3]) * w)
    image = np.array(image)
    image[top:bottom, left:right] = FILL
    covered = (boxes[:, :2] >= (left, top)).all(axis=1) & (boxes[:, 2:] <= (right, bottom)).all(axis=1)
    return image, boxes[~covered], labels[~covered]
