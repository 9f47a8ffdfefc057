"""A picture of what a run trains on: the first images of its first batches, augmented, with their boxes."""

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath
from PIL import Image

from anchordetr_jax.data.batching import Batch
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.data.loader import TrainingBatches
from anchordetr_jax.pictures.boxes import draw_detections
from anchordetr_jax.pictures.grids import picture_grid
from anchordetr_jax.training.photometric import has_jitter, jittered

TRAINING_IMAGES_FILE = "training_images.png"
_jittered = jax.jit(jittered, static_argnames=("seed", "config"))
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
            batch = as_the_step_sees_it(*data.load(step), data)
            for index in range(min(len(batch.rows), count - len(pictures))):
                if batch.valid[index]:
                    pictures.append(draw_training_image(batch, index, data.categories))
                    titles.append(f"step {step}: {epath.Path(data.describe_image(int(batch.rows[index]))).name}")
            step += 1
        if pictures:
            picture_grid(pictures, titles, path)
    except Exception as error:
        logging.warning("The picture of training images could not be drawn: %s", error)


def as_the_step_sees_it(step: int, batch: Batch, data: TrainingBatches) -> Batch:
    """The batch with the photometric jitter that the training step adds on the device."""
    augment, seed = data.config.augment, data.config.train.seed
    if not has_jitter(augment):
        return batch
    arrays = (jnp.asarray(array) for array in (batch.images, batch.image_sizes, batch.rows, step))
    return batch._replace(images=np.asarray(_jittered(*arrays, seed=seed, config=augment)))


def draw_training_image(batch: Batch, index: int, categories: Categories) -> Image.Image:
    """An image of a batch without its padding, with its boxes and classes."""
    height, width = batch.image_sizes[index].tolist()
    number = int(batch.num_boxes[index])
    boxes, labels = batch.boxes[index, :number], batch.labels[index, :number].tolist()
    centres, halves = boxes[:, :2], boxes[:, 2:] / 2
    corners = np.concatenate([centres - halves, centres + halves], axis=1) * (width, height, width, height)
    names = [categories.name_of(label) for label in labels]
    return draw_detections(batch.images[index, :height, :width], corners, labels, names, min_size=LONG_SIDE)
