"""A picture of what a run trains on: the first images of its first batches, augmented, with their boxes."""

import numpy as np
from absl import logging
from etils import epath
from PIL import Image

from anchordetr_jax.data.batching import Batch
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.data.loader import TrainingBatches
from anchordetr_jax.pictures.boxes import draw_detections
from anchordetr_jax.pictures.grids import picture_grid

TRAINING_IMAGES_FILE = "training_images.png"
LONG_SIDE = 420
"""Least long side of an image in the picture, in pixels."""


def write_training_images(path: epath.PathLike, data: TrainingBatches, count: int = 12) -> None:
    """Writes a grid of the first `count` images that training takes; fewer if the first epoch has fewer.

    An error does not end the run: it is logged.
    """
    pictures: list[Image.Image] = []
    titles: list[str] = []
    try:
        step, stop = 0, data.epochs.steps_before(1)
        while len(pictures) < count and step < stop:
            _, batch = data.load(step)
            for index in range(min(len(batch.rows), count - len(pictures))):
                if batch.valid[index]:
                    pictures.append(draw_training_image(batch, index, data.categories))
                    titles.append(f"step {step}: {epath.Path(data.describe_image(int(batch.rows[index]))).name}")
            step += 1
        if pictures:
            picture_grid(pictures, titles, path)
    except Exception as error:
        logging.warning("The picture of training images could not be drawn: %s", error)


def draw_training_image(batch: Batch, index: int, categories: Categories) -> Image.Image:
    """An image of a batch without its padding, with its boxes and classes."""
    height, width = batch.image_sizes[index].tolist()
    number = int(batch.num_boxes[index])
    boxes, labels = batch.boxes[index, :number], batch.labels[index, :number].tolist()
    centres, halves = boxes[:, :2], boxes[:, 2:] / 2
    corners = np.concatenate([centres - halves, centres + halves], axis=1) * (width, height, width, height)
    names = [categories.name_of(label) for label in labels]
    return draw_detections(batch.images[index, :height, :width], corners, labels, names, min_size=LONG_SIDE)
