"""Augmentation in two parts: the first draws plain numbers, the second changes an image as they say.

The first part needs only image sizes and random numbers, so batches can be planned before a pixel is read. The recipe
is DETR's (Carion et al. 2020, section 4 and its code), which Anchor DETR keeps: a flip, and then either a resize, or a
resize, a random crop and another resize. Images are resized with Pillow's bilinear filter.
"""

import dataclasses

import numpy as np
from PIL import Image

from anchordetr_jax.config import AugmentConfig

NUM_UNIFORMS = 8
"""The number of random numbers for the augmentation of one image."""


@dataclasses.dataclass(frozen=True)
class Draw:
    """The changes to an image. Sizes are (h, w).

    Their order: rows and columns exchanged, flip, resize to `pre_size`, crop, resize to `size`, erasing, mirroring top
    to bottom.
    """

    size: tuple[int, int]
    flip: bool = False
    pre_size: tuple[int, int] | None = None
    crop: tuple[int, int, int, int] | None = None
    """(y, x, h, w) in the image of `pre_size`."""
    erased: tuple[float, float, float, float] | None = None
    """(y, x, h, w) of what is erased, relative to the image of `size`."""
    upside_down: bool = False
    """Whether the changed image is mirrored, top to bottom."""
    transposed: bool = False
    """Whether rows become columns before all other changes."""


@dataclasses.dataclass(frozen=True)
class Draws:
    """The `Draw`s of n images as arrays. `draws[i]` is the one of image i."""

    size: np.ndarray
    """int32 [n, 2]"""
    flip: np.ndarray
    """bool [n]"""
    pre_size: np.ndarray
    """int32 [n, 2]; zeros where there is no crop."""
    crop: np.ndarray
    """int32 [n, 4]; zeros where there is no crop."""
    erased: np.ndarray
    """float [n, 4]; zeros where nothing is erased."""
    upside_down: np.ndarray
    """bool [n]"""
    transposed: np.ndarray
    """bool [n]"""

    def __len__(self) -> int:
        return len(self.size)

    def take(self, indices: np.ndarray) -> "Draws":
        """The draws of some of the images, in the order of `indices` (int [k])."""
        return Draws(*(values[indices] for values in vars(self).values()))

    def __getitem__(self, index: int) -> Draw:
        height, width = self.size[index].tolist()
        draw = Draw(
            (height, width),
            flip=bool(self.flip[index]),
            erased=tuple(self.erased[index].tolist()) if self.erased[index].any() else None,
            upside_down=bool(self.upside_down[index]),
            transposed=bool(self.transposed[index]),
        )
        if not self.pre_size[index].any():
            return draw
        pre_height, pre_width = self.pre_size[index].tolist()
        y, x, crop_height, crop_width = self.crop[index].tolist()
        return dataclasses.replace(draw, pre_size=(pre_height, pre_width), crop=(y, x, crop_height, crop_width))


def resized_sizes(sizes: np.ndarray, short_side: np.ndarray | int, max_size: int | None = None) -> np.ndarray:
    """Sizes after a resize that keeps the aspect ratio: int32 [n, 2] from (h, w) int [n, 2].

    The short side becomes `short_side` (one number, or int [n]). It becomes less where the long side would exceed
    `max_size`. The long side follows from the ratio, rounded down. No side becomes less than one pixel.
    """
    shorter, longer = sizes.min(axis=1).astype(np.int64), sizes.max(axis=1).astype(np.int64)
    short = np.broadcast_to(np.asarray(short_side, np.int64), shorter.shape)
    if max_size is not None:
        # The order of these operations is that of the official code, so that a ratio on the limit gives the same size.
        too_long = longer.astype(float) / shorter.astype(float) * short > max_size
        limited = np.round(max_size * shorter.astype(float) / longer.astype(float)).astype(np.int64)
        short = np.maximum(np.where(too_long, limited, short), 1)
    long = short * longer // shorter
    upright = (sizes[:, 0] >= sizes[:, 1])[:, None]
    resized = np.where(upright, np.stack([long, short], axis=1), np.stack([short, long], axis=1))
    return np.where((shorter == short)[:, None], sizes, resized).astype(np.int32)


def draw_augmentations(uniforms: np.ndarray, sizes: np.ndarray, config: AugmentConfig) -> Draws:
    """The augmentation of n images with sizes (h, w; int [n, 2]), from random numbers in [0, 1) (float [n, 8])."""
    flip_u, crop_u, size_u, pre_u, height_u, width_u, y_u, x_u = uniforms.T
    sizes = np.asarray(sizes, np.int32).reshape(-1, 2)
    cropped = (crop_u < config.crop_probability)[:, None]
    pre_size = resized_sizes(sizes, _choice(pre_u, config.crop_resize_sizes))
    largest = np.minimum(pre_size, config.crop_max)
    smallest = np.minimum(largest, config.crop_min)  # A side that is shorter than the smallest crop stays.
    crop_size = smallest + _below(np.stack([height_u, width_u], axis=1), largest - smallest + 1)
    corner = _below(np.stack([y_u, x_u], axis=1), pre_size - crop_size + 1)
    size = resized_sizes(
        np.where(cropped, crop_size, sizes), _choice(size_u, config.train_sizes), max_size=config.max_size
    )
    return Draws(
        size=size,
        flip=flip_u < config.flip_probability,
        pre_size=np.where(cropped, pre_size, 0),
        crop=np.where(cropped, np.concatenate([corner, crop_size], axis=1), 0),
        erased=np.zeros((len(sizes), 4)),
        upside_down=np.zeros(len(sizes), bool),
        transposed=np.zeros(len(sizes), bool),
    )


def evaluation_draws(sizes: np.ndarray, config: AugmentConfig) -> Draws:
    """The changes that evaluation makes to n images of the given sizes, (h, w) in pixels, int [n, 2]: one resize."""
    n = len(sizes)
    resized = resized_sizes(np.asarray(sizes), config.eval_size, config.max_size)
    return Draws(
        size=resized,
        flip=np.zeros(n, bool),
        pre_size=np.zeros((n, 2), np.int32),
        crop=np.zeros((n, 4), np.int32),
        erased=np.zeros((n, 4)),
        upside_down=np.zeros(n, bool),
        transposed=np.zeros(n, bool),
    )


def apply_draw(
    image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, draw: Draw
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The flip, the resizes and the crop of `draw`. The loader does what comes before and after them.

    Args:
        image: uint8 [h, w, 3].
        boxes: float32 [m, 4], xyxy in pixels.
        labels: [m].
        draw: the changes.

    Returns the same three, the image in the drawn size. A crop clips boxes. Boxes without area after the crop are
    left out, with their labels. No box may be left.
    """
    picture = Image.fromarray(image)
    if draw.flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        boxes = mirrored_boxes(boxes, picture.width, axis=0)
    if draw.pre_size is not None and draw.crop is not None:
        picture, boxes = _resize(picture, boxes, draw.pre_size)
        y, x, height, width = draw.crop
        picture = picture.crop((x, y, x + width, y + height))
        boxes = (boxes - np.array([x, y, x, y], np.float32)).clip(0, np.array([width, height] * 2, np.float32))
        kept = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        boxes, labels = boxes[kept], labels[kept]
    picture, boxes = _resize(picture, boxes, draw.size)
    return np.asarray(picture), boxes, labels


def mirrored_boxes(boxes: np.ndarray, size: int, *, axis: int) -> np.ndarray:
    """Boxes [m, 4] (xyxy in pixels) after an image is mirrored: left to right (axis 0) or top to bottom (axis 1).

    `size` is its size along that axis, in pixels.
    """
    mirrored = boxes.copy()
    mirrored[:, [axis, axis + 2]] = size - boxes[:, [axis + 2, axis]]
    return mirrored


def turn_upside_down(image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An image (uint8 [h, w, 3]) and its boxes [m, 4] (xyxy in pixels), mirrored, top to bottom."""
    return image[::-1], mirrored_boxes(boxes, len(image), axis=1)


def transpose(image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An image (uint8 [h, w, 3]) and its boxes [m, 4] (xyxy in pixels), with rows and columns exchanged."""
    return np.ascontiguousarray(image.swapaxes(0, 1)), boxes[:, [1, 0, 3, 2]]


def relative_boxes(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """float32 [m, 4]: xyxy in pixels to cxcywh relative to an image of size (h, w)."""
    corners, ends = boxes[:, :2], boxes[:, 2:]
    centred = np.concatenate([(corners + ends) / 2, ends - corners], axis=1)
    return centred / np.array([size[1], size[0]] * 2, np.float32)


def _resize(picture: Image.Image, boxes: np.ndarray, size: tuple[int, int]) -> tuple[Image.Image, np.ndarray]:
    height, width = size
    if (picture.height, picture.width) == size:
        return picture, boxes
    ratios = np.array([width / picture.width, height / picture.height] * 2, np.float32)
    return picture.resize((width, height), Image.Resampling.BILINEAR), boxes * ratios


def _below(uniforms: np.ndarray, bounds: np.ndarray | int) -> np.ndarray:
    """Integers in [0, bound) from random numbers in [0, 1)."""
    return np.floor(uniforms * bounds).astype(np.int32)


def _choice(uniforms: np.ndarray, values: tuple[int, ...]) -> np.ndarray:
    return np.array(values)[_below(uniforms, len(values))]
