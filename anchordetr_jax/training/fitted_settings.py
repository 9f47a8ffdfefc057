"""Settings that follow from the data set (`Config.fit`): length, learning rate, image sizes and augmentation.

Few images need many passes and much augmentation; small images make many passes fast. Small objects need large images.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from anchordetr_jax.config import Config, EvalConfig
from anchordetr_jax.data.mosaic import PIECES
from anchordetr_jax.data.object_sizes import object_sides, size_spread, small_object
from anchordetr_jax.data.records.values import counted
from anchordetr_jax.data.repeats import repeats_of
from anchordetr_jax.data.source import DetectionSource
from anchordetr_jax.data.transforms import resized_sizes
from anchordetr_jax.experiments import change_values

SHORT_SIDES = {"gpu": (640, 800), "cpu": (256, 384)}
"""Least and largest short side of images, in pixels."""
LONG_TO_SHORT = (4 / 3, 2.5)
"""On a CPU, `augment.max_size` is as many times the short side as the images' long sides are, within these limits.
Padding costs most there."""
CELLS = 2.0
"""The side of small objects (`small_object`), in feature cells, that the image size aims at."""
CPU_PIXELS = 9.5e8
"""Pixels, with padding, that the small detector trains on in 12 to 30 minutes on two CPU cores."""
CROWDED = 5
"""Images with more objects, on average, do not become mosaics, and have anchor points on a grid."""
CROWDED_BATCH, SMALL_BATCH, LARGE_BATCH = 2, 4, 8
"""Images at a time on a CPU: of few images with many objects, of few images, and of many images.

Few images need many steps. A batch with few objects in all says too little.
"""
FEW_ANCHORS, MANY_ANCHORS = 100, 256
"""The number of learned anchor points for few objects in an image, and of those on a grid for many."""
SHORT_RUN = {"gpu": 3000, "cpu": 5000}
"""Runs with fewer steps have the higher learning rates. On a CPU, steps have fewer images."""
STEADY = 0.2
"""Where the sizes of a class's objects differ less (`size_spread`), all images were taken from one distance."""
FILLING = 0.5
"""Objects whose sides are larger than this part of the short side fill their image, as a portrait or a page does."""
PHOTOMETRIC = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.02}
"""Photometric jitter of few images."""
FEW_IMAGES = 1000
"""Data sets with fewer images get more augmentation."""
LEAST_EPOCHS, MOST_EPOCHS = 5, 100
"""On a CPU."""
FITTED = frozenset(
    {
        "model.spatial_prior",
        "model.num_anchors",
        "augment.eval_size",
        "augment.train_sizes",
        "augment.max_size",
        "augment.crop_resize_sizes",
        "augment.crop_min",
        "augment.crop_max",
        "augment.scale_jitter_probability",
        "augment.scale_jitter_min",
        "augment.scale_jitter_max",
        "augment.vertical_flip_probability",
        "augment.mosaic_probability",
        "augment.mosaic_epochs",
        *(f"augment.{name}" for name in PHOTOMETRIC),
        "data.num_buckets",
        "eval.max_detections",
        "optimizer.learning_rate",
        "optimizer.backbone_learning_rate",
        "optimizer.warmup_steps",
        "optimizer.weight_decay",
        "train.batch_size",
        "train.epochs",
        "train.evaluate_every",
        "train.denoising_negatives",
    }
)
"""The settings that may follow from a data set."""
SWITCHED = {
    "augment.mosaic_probability": ("augment.mosaic_epochs",),
    "augment.scale_jitter_probability": ("augment.scale_jitter_min", "augment.scale_jitter_max"),
}
"""Settings without effect, and so without a choice, where a person set this one to 0."""


class Choice(NamedTuple):
    """A setting, and why it has this value."""

    name: str
    value: Any
    reason: str


def fitted_settings(
    config: Config, dataset: DetectionSource, given: Collection[str], before: Config | None = None
) -> tuple[Config, tuple[str, ...]]:
    """The settings with those that follow from the data set, and sentences about them.

    Args:
        config: the settings. With `fit="off"` they stay as they are.
        dataset: the training images.
        given: names of settings that a person chose; they stay.
        before: the settings of a run that continues. What was chosen for it stays, whatever the data set is now.

    Without a fit, or where a run continues, the sentences are warnings alone.
    """
    if config.fit == "off":
        return config, tuple(_cut_sizes(config, dataset, given))
    if before is not None:
        config = _with(config, [Choice(name, _value(before, name), "") for name in FITTED - set(given)])
        return config, tuple(_cut_sizes(config, dataset, given))
    choices: list[Choice] = []
    kept = set(given)
    for switch, names in SWITCHED.items():
        if switch in given and not _value(config, switch):
            kept.update(names)
    if "augment.train_sizes" in given and "augment.eval_size" not in given:
        size = max(config.augment.train_sizes)
        choices.append(Choice("augment.eval_size", size, "the largest of augment.train_sizes."))
        config = _with(config, choices)
        kept.add("augment.eval_size")
    for choose in (
        _anchors,
        _detections,
        _image_size,
        _scales,
        _other_sizes,
        _length,
        _evaluations,
        _learning_rate,
        _augmentation,
    ):
        chosen = [choice for choice in choose(config, dataset) if choice.name not in kept]
        config = _with(config, chosen)
        choices += chosen
    lines = [f"Chosen for this data set: {choice.name}={choice.value!r}, {choice.reason}" for choice in choices]
    return config, (*lines, *_cut_sizes(config, dataset, given), *_small_objects(config, dataset))


def _anchors(config: Config, dataset: DetectionSource) -> Iterator[Choice]:
    if config.architecture != "detector":  # The initial weights have anchor points.
        return
    crowded, why = _objects(dataset)
    if crowded:
        yield Choice("model.spatial_prior", "grid", why)
        yield Choice("model.num_anchors", MANY_ANCHORS, why)
    else:
        yield Choice("model.spatial_prior", "learned", why)
        yield Choice("model.num_anchors", FEW_ANCHORS, why)


def _detections(config: Config, dataset: DetectionSource) -> Iterator[Choice]:
    fullest, usual = int(dataset.box_counts.max(initial=0)), EvalConfig().max_detections
    if fullest > usual:
        most = max(min(math.ceil(1.5 * fullest / 100) * 100, config.model.num_queries), usual)
        yield Choice("eval.max_detections", most, f"because an image has {fullest} objects.")


def _image_size(config: Config, dataset: DetectionSource) -> Iterator[Choice]:
    cell = config.model.stride
    least, largest = SHORT_SIDES[config.fit]
    small = small_object(dataset)
    size = int(min(max(math.ceil(CELLS * cell / small / 32) * 32, least), largest))
    why = (
        f"because small objects have {small:.1%} of their image's short side: {small * size:.0f} pixels, "
        f"{small * size / cell:.1f} feature cells."
    )
    yield Choice("augment.eval_size", size, why)


def _scales(config: Config, dataset: DetectionSource) -> Iterator[Choice]:
    usual, spread = config.augment.eval_size, size_spread(dataset)
    if spread < STEADY:
        why = f"because the objects of a class have nearly one size in all images: they differ by {spread:.0%}."
        yield Choice("augment.train_sizes", (usual,), why)
        yield Choice("augment.scale_jitter_min", 0.9, why)
        yield Choice("augment.scale_jitter_max", 1.3, "so that random parts of images are shown.")
        if _amount(dataset)[0] and np.median(object_sides(dataset)) < FILLING:
            yield Choice("augment.vertical_flip_probability", 0.5, "because such images often have no upper side.")
    else:
        smallest = min(max(round(usual * (0.75 if config.fit == "cpu" else 0.6) / 32) * 32, 32), usual)
        yield Choice("augment.train_sizes", tuple(range(smallest, usual + 1, 32)), "up to the size of evaluation.")
        yield Choice("augment.scale_jitter_min", 0.6, "so that no object becomes much smaller than those there are.")
        yield Choice("augment.scale_jitter_max", 1.6, "so that most objects stay whole.")


def _other_sizes(config: Config, dataset: DetectionSource) -> Iterator[Choice]:
    usual = config.augment.eval_size
    if config.fit == "cpu":
        ratio = float(np.median(dataset.sizes.max(axis=1) / dataset.sizes.min(axis=1)).clip(*LONG_TO_SHORT))
        longest = round(max(usual, *config.augment.train_sizes) * ratio)
        yield Choice("augment.max_size", longest, f"{ratio:.2f} times the short side: longer images become smaller.")
        yield _buckets(config, dataset)
    else:
        yield Choice("augment.max_size", round(usual * 5 / 3), "in the official proportion to the short side.")
        yield Choice(
            "augment.crop_resize_sizes", tuple(round(usual * part / 8) for part in (4, 5, 6)), "as the official ones."
        )
        yield Choice("augment.crop_min", round(usual * 384 / 800), "as the official one.")
        yield Choice("augment.crop_max", round(usual * 600 / 800), "as the official one.")


def _buckets(config: Config, dataset: DetectionSource) -> Choice:
    """One bucket for each orientation. On a CPU the train step takes up to a minute to compile for each."""
    heights, widths = np.asarray(dataset.sizes).T
    if config.augment.transpose_probability and (heights != widths).any():
        return Choice("data.num_buckets", 2, "because transposed images lie and are upright.")
    for of_all, orientation in ((heights <= widths, "lie"), (heights >= widths, "are upright")):
        if of_all.all():
            return Choice("data.num_buckets", 1, f"because all images {orientation}; each shape takes long to compile.")
    return Choice("data.num_buckets", 2, "because some images lie and some are upright.")


def _images(config: Config, dataset: DetectionSource) -> tuple[int, str]:
    """The number of images in an epoch, with those that come more often, and the same in words."""
    repeats = repeats_of(dataset, config.data.repeat_threshold)
    images = len(dataset) if repeats is None else repeats.total
    return images, f"{images} images" + ("" if repeats is None else " an epoch")


def _length(config: Config, dataset: DetectionSource) -> Iterator[Choice]:
    images, named = _images(config, dataset)
    if config.fit == "cpu":
        yield _batch_size(dataset)
        passes = CPU_PIXELS / (config.augment.eval_size * config.augment.max_size * images)
        epochs = int(min(max(passes, LEAST_EPOCHS), MOST_EPOCHS))
        if passes < LEAST_EPOCHS:
            longer = f"{epochs / passes:.1f} times as long as 12 to 30 minutes on two CPU cores"
            why = f"because fewer passes learn too little. {named} then take {longer}."
        else:
            time = "12 to 30 minutes" if passes <= MOST_EPOCHS else "less than 12 to 30 minutes"
            why = f"because {named} then take {time} on two CPU cores."
        yield Choice("train.epochs", epochs, why)
    else:
        epochs = int(min(max(950 / math.sqrt(images), 12), 100))
        yield Choice("train.epochs", epochs, f"because there are {named}: the fewer, the more passes.")


def _batch_size(dataset: DetectionSource) -> Choice:
    few, why = _amount(dataset)
    if few and _objects(dataset)[0]:
        return Choice("train.batch_size", CROWDED_BATCH, f"because {len(dataset)} images are few, with many objects.")
    return Choice("train.batch_size", SMALL_BATCH if few else LARGE_BATCH, why)


def _evaluations(config: Config, dataset: DetectionSource) -> Iterator[Choice]:
    del dataset
    # On a CPU an evaluation takes as long as a third of an epoch.
    every = math.ceil(config.train.epochs / (4 if config.fit == "cpu" else 10))
    count = math.ceil(config.train.epochs / every)  # The last epoch always has one.
    yield Choice("train.evaluate_every", every, f"{counted(count, 'evaluation')} in all.")


def _learning_rate(config: Config, dataset: DetectionSource) -> Iterator[Choice]:
    steps = config.train.epochs * _images(config, dataset)[0] // config.train.batch_size
    short = steps < SHORT_RUN[config.fit]
    why = f"because the run has {steps} steps."
    if config.fit == "cpu":
        rates = (3e-3, 1e-3) if short else (2e-3, 6e-4)
    else:
        rates = (1e-4, 1e-5) if short else (5e-5, 5e-6)
    yield Choice("optimizer.learning_rate", rates[0], why)
    yield Choice("optimizer.backbone_learning_rate", rates[1], why)
    yield Choice("optimizer.warmup_steps", min(100, max(steps // 20, 1)), why)


def _augmentation(config: Config, dataset: DetectionSource) -> Iterator[Choice]:
    few, why = _amount(dataset)
    crowded, each = _objects(dataset)
    if config.fit == "cpu" and few and crowded:
        if config.train.denoising_groups:
            yield Choice("train.denoising_negatives", True, "so that fewer of many objects are found twice.")
        yield Choice("optimizer.weight_decay", 0.1, "so that few images are not learned by heart.")
    fullest = int(dataset.box_counts.max(initial=0))
    full = PIECES * fullest > config.model.num_queries
    if full and not crowded:
        each = f"because an image has {fullest} objects, and {PIECES} of them more than there are queries."
    mosaics = few and not crowded and not full
    yield Choice("augment.mosaic_probability", 0.3 if mosaics else 0.0, each if few else why)
    if mosaics:
        last = max(1, round(0.7 * config.train.epochs))
        yield Choice("augment.mosaic_epochs", last, "so that the last epochs show whole images.")
    yield Choice("augment.scale_jitter_probability", 0.4 if few else 0.2, why)
    for name, strength in PHOTOMETRIC.items():
        yield Choice(f"augment.{name}", strength if few else 0.0, why)


def _amount(dataset: DetectionSource) -> tuple[bool, str]:
    """Whether the images are few, and the reason that this gives."""
    few = len(dataset) < FEW_IMAGES
    return few, f"because {len(dataset)} images are {'few' if few else 'many'}."


def _objects(dataset: DetectionSource) -> tuple[bool, str]:
    """Whether images have many objects, and the reason that this gives."""
    objects = float(dataset.box_counts.mean())
    return objects > CROWDED, f"because images have {objects:.1f} objects each."


def _cut_sizes(config: Config, dataset: DetectionSource, given: Collection[str]) -> Iterator[str]:
    """A warning where `augment.max_size` takes the effect from an image size that a person gave."""
    augment = config.augment
    for name, size in (("eval_size", augment.eval_size), ("train_sizes", max(augment.train_sizes))):
        wanted = resized_sizes(dataset.sizes, size)
        cut = int((resized_sizes(dataset.sizes, size, augment.max_size) < wanted).any(axis=1).sum())
        if f"augment.{name}" in given and 2 * cut > len(dataset):
            longest = math.ceil(np.quantile(wanted.max(axis=1), 0.9))
            yield (
                f"Warning: {cut} of {len(dataset)} images have a shorter side than {size} (augment.{name}), because "
                f"their long side may have {augment.max_size} pixels: --config.augment.max_size={longest} mends it."
            )


def _small_objects(config: Config, dataset: DetectionSource) -> Iterator[str]:
    """A warning where objects are smaller than a feature cell."""
    if not dataset.box_counts.any():
        return
    augment, cell = config.augment, config.model.stride
    resized = resized_sizes(dataset.sizes, augment.eval_size, augment.max_size).min(axis=1)
    sides = object_sides(dataset)
    small = int((sides * np.repeat(resized, dataset.box_counts) < cell).sum())
    if not small:
        return
    # Sides of zero are no objects; and no image is enlarged for the last object of a thousand.
    size = max(math.ceil(cell / max(float(np.quantile(sides, 0.001)), 1e-3) / 32) * 32, augment.eval_size)
    longest = math.ceil(size * float((dataset.sizes.max(axis=1) / dataset.sizes.min(axis=1)).max()))
    yield (
        f"Warning: {small} of {len(sides)} objects are smaller than a feature cell ({cell} pixels) in images of these "
        f"sizes, and hard to find. Larger images solve this, and take longer: --config.augment.eval_size={size} "
        f"--config.augment.train_sizes={size} --config.augment.max_size={longest}"
    )


def _value(config: Config, name: str) -> Any:
    group, setting = name.split(".")
    return getattr(getattr(config, group), setting)


def _with(config: Config, choices: Sequence[Choice]) -> Config:
    """The settings with all of these choices at once, because some must fit together."""
    return change_values(config, {choice.name: choice.value for choice in choices})
