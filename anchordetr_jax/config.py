"""Every setting, as frozen dataclasses. They are checked once, where they are read; the rest of the code gets a
`Config`.

A file in `configs/` starts from `default_config()`, an `ml_collections.ConfigDict` with every setting at its default,
and changes what its experiment needs. `config_from_dict` checks it and makes a `Config` of it.
"""

import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Any, Literal

import ml_collections

from anchordetr_jax.errors import UserError
from anchordetr_jax.settings.checks import checked_settings, require, require_pattern, require_weight
from anchordetr_jax.settings.names import with_present_names

Kernels = Literal["auto", "none", "cpu", "tpu"]
"""Values of `ModelConfig.kernels`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The detector's architecture and arithmetic. The defaults are Anchor DETR R50-DC5."""

    backbone: Literal["resnet50", "resnet101", "compact", "efficientnet_lite0"] = "resnet50"
    """`efficientnet_lite0` is a small network with published ImageNet weights, for CPUs. `compact` is a smaller one for
    demos, which trains from random weights."""
    dilation: bool = True
    """True (DC5): the last stage dilates instead of striding, output stride 16. False (C5): output stride 32. With
    `efficientnet_lite0`, True joins the features of strides 16 and 32 at stride 16. `compact` has strides 8 and 16."""
    num_feature_levels: int = 1
    """1, or 3 (the last three backbone stages; with `dilation` only)."""
    attention: Literal["rcda", "standard"] = "rcda"
    """Row-column decoupled attention, or ordinary attention over all cells."""
    spatial_prior: Literal["learned", "grid"] = "learned"
    """Anchor points are parameters, or a fixed grid of round(sqrt(num_anchors)) points a side."""
    num_patterns: int = 3
    """Learned contents. Each anchor point is used once with each, so that several objects at one place are found."""
    num_anchors: int = 300
    """Number of anchor points. A grid has the nearest square number: 289 for 300. There are as many queries as patterns
    times anchor points."""
    anchor_border: float = 1e-5
    """Anchor coordinates that are less than this from the image border count as this far from it where boxes are
    computed from them. 1e-5 is the official code's number, 1e-3 is detrex's."""
    num_classes: int = 0
    """Class outputs K. 0: as many as the data set's labels need."""
    hidden_dim: int = 256
    """Channels of encoder and decoder."""
    num_heads: int = 8
    """Attention heads."""
    ffn_dim: int = 1024
    """Hidden channels of the feed-forward networks."""
    encoder_layers: int = 6
    """With 3 feature levels, half of them (rounded down) attend across levels."""
    decoder_layers: int = 6
    """Each is trained to detect; the detections of the last one count."""
    padding: Literal["invariant", "official"] = "invariant"
    """`invariant`: padding never changes a result. `official`: padding has the same effect as in the official code."""
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """The dtype that the network computes in. Parameters are float32 (float64 with float64)."""
    initialization: Literal["official", "local"] = "official"
    """`local`: at first attention is highest at each query's own place, not flat. Training from random weights is
    shorter."""
    remat: bool = False
    """Compute the activations of each layer again in the backward pass instead of keeping them."""
    kernels: Kernels = "auto"
    """Functions of layers that are made for one platform and take less time and memory there. `auto`: those for CPUs
    on CPUs, none elsewhere. `none`: the plain functions. `tpu`: this project's Pallas kernels. On any other platform
    than the named one the plain functions compute. Results differ by rounding only."""

    def __post_init__(self) -> None:
        require(self.num_feature_levels in (1, 3), "model.num_feature_levels", self.num_feature_levels, "1 or 3")
        if self.num_feature_levels == 3 and not self.dilation:
            raise UserError(
                "model.num_feature_levels=3 needs model.dilation=True: without it the levels' grids differ in size."
            )
        for name in ("num_patterns", "num_anchors", "hidden_dim", "num_heads", "ffn_dim", "decoder_layers"):
            require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "at least 1")
        require(0 < self.anchor_border < 0.5, "model.anchor_border", self.anchor_border, "between 0 and 0.5")
        require(self.num_classes >= 0, "model.num_classes", self.num_classes, "0 (taken from the data set) or more")
        require(self.encoder_layers >= 0, "model.encoder_layers", self.encoder_layers, "0 or more")
        require(
            self.hidden_dim % self.num_heads == 0, "model.hidden_dim", self.hidden_dim, "a multiple of model.num_heads"
        )
        require(
            self.hidden_dim % 32 == 0, "model.hidden_dim", self.hidden_dim, "a multiple of 32 (normalisation groups)"
        )
        if self.kernels == "tpu" and (self.attention != "rcda" or self.hidden_dim // self.num_heads % 16):
            raise UserError(
                "model.kernels='tpu' needs model.attention='rcda' and a multiple of 16 channels per head "
                "(model.hidden_dim / model.num_heads)."
            )

    @property
    def level_layers(self) -> int:
        """The number of encoder layers that attend across feature levels. The others attend within each level."""
        return self.encoder_layers // 2 if self.num_feature_levels > 1 else 0

    @property
    def stride(self) -> int:
        """The side of a feature cell, in pixels of the network's input."""
        dilated = 8 if self.backbone == "compact" else 16
        return dilated if self.dilation else 2 * dilated

    @property
    def num_anchor_points(self) -> int:
        """The number of anchor points that the network has."""
        return round(math.sqrt(self.num_anchors)) ** 2 if self.spatial_prior == "grid" else self.num_anchors

    @property
    def num_queries(self) -> int:
        """The number of queries: each pattern at each anchor point."""
        return self.num_patterns * self.num_anchor_points


ARITHMETIC = ("padding", "dtype", "remat", "kernels")
"""Settings of `ModelConfig` that say how a network is computed, not which network it is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MatcherConfig:
    """The cost of matching a query with a target, and where the assignment is solved."""

    class_cost: float = 2.0
    """Weight of the focal cost of the target's class."""
    box_cost: float = 5.0
    """Weight of the L1 distance of the boxes (cx, cy, w, h)."""
    giou_cost: float = 2.0
    """Weight of the generalised IoU of the boxes."""
    backend: Literal["host", "device"] = "host"
    """`host`: SciPy, by one callback per device. `device`: inside the compiled program, for platforms whose callbacks
    are slow or missing."""

    def __post_init__(self) -> None:
        for name in ("class_cost", "box_cost", "giou_cost"):
            require_weight(f"matcher.{name}", getattr(self, name))
        if not (self.class_cost or self.box_cost or self.giou_cost):
            raise UserError("All costs of the matcher are 0, so any matching is the best one: raise one of them.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the losses (each is summed over the decoder layers) and the form of the classification loss."""

    classification: Literal["focal", "iou_aware"] = "focal"
    """The classification loss. `focal`: the score of an object's class shall be 1. `iou_aware`: it shall be the IoU of
    the predicted box and the object, so that better boxes get higher scores. A `class_weight` of 1 suits it."""
    class_weight: float = 2.0
    """Weight of the classification loss."""
    box_weight: float = 5.0
    """Weight of the L1 loss of matched boxes."""
    giou_weight: float = 2.0
    """Weight of the generalised-IoU loss of matched boxes."""
    focal_alpha: float = 0.25
    """Weight of an object's own class in the focal loss. All other classes have the weight 1 - alpha. It has no
    effect with `classification="iou_aware"`."""
    focal_gamma: float = 2.0
    """Exponent of the focal loss. The larger it is, the less a class counts that is already predicted well. In the
    IoU-aware loss it concerns only classes that are not the object's."""

    def __post_init__(self) -> None:
        for name in ("class_weight", "box_weight", "giou_weight", "focal_gamma"):
            require_weight(f"loss.{name}", getattr(self, name))
        if not (self.class_weight or self.box_weight or self.giou_weight):
            raise UserError("All weights of the loss are 0, so nothing is learned: raise one of them.")
        require(0 <= self.focal_alpha <= 1, "loss.focal_alpha", self.focal_alpha, "between 0 and 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where images and annotations are, how images are read, and to which shapes they are padded."""

    source: Literal["auto", "coco", "yolo", "voc", "tfds", "folder"] = "auto"
    """The kind of the data set. `auto`: `coco`, `yolo` or `voc`, whichever is in the folder. `coco`: a folder of images
    and COCO's annotation files. `yolo`: a data.yaml, images and label files. `voc`: images and Pascal VOC's XML files.
    `tfds`: a data set that TFDS has prepared. `folder`: the images in one folder, without annotations, for detection
    only."""
    root: str = ""
    """The folder of the data set. `yolo`: the folder of the data.yaml, or this file. `tfds`: TFDS's data folder (its
    usual one if empty), or the folder of one prepared data set. `folder`: the folder of images."""
    train_images: str = "train2017"
    """Folder of the training images. If this and the next setting have their defaults and these paths do not exist,
    images and annotations are looked for in the layouts that Roboflow, CVAT and others export."""
    train_annotations: str = "annotations/instances_train2017.json"
    """Annotation file of the training images."""
    val_images: str = "val2017"
    """Folder of the validation images."""
    val_annotations: str = "annotations/instances_val2017.json"
    """Annotation file of the validation images."""
    val_fraction: float = 0.0
    """Share of the training images that is held out for validation, for a data set without validation images. The file
    name of an image decides on which side it is, so it stays there when others are added."""
    test_images: str = "test2017"
    """Folder of the test images."""
    test_annotations: str = "annotations/image_info_test-dev2017.json"
    """Names and sizes of the test images. The file needs no annotations."""
    tfds_name: str = "coco/2017"
    """Name of the data set in TFDS. `NAME/CONFIG:VERSION` names a version that is not the latest."""
    tfds_train: str = "train"
    """Split of the training images, as TFDS writes it, for example `train[:90%]`."""
    tfds_val: str = "validation"
    """Split of the validation images."""
    tfds_test: str = "test"
    """Split of the test images."""
    orientation: Literal["auto", "shown", "stored"] = "auto"
    """How pictures are read that EXIF turns, where their size does not tell how they were annotated. `shown`:
    as viewers show them. `stored`: as their pixels are stored. `auto`: as most other pictures of the data set, or
    `shown`. It has no effect for the sources `tfds` (always `stored`) and `folder` (always `shown`)."""
    labels: Literal["raw", "contiguous"] = "contiguous"
    """`raw`: the category id itself is the class output (as in the official checkpoints: 91 outputs for COCO's ids up
    to 90). `contiguous`: outputs are numbered 0, 1, 2, … in the order of the category ids."""
    max_boxes: int = 0
    """Number of targets that each image is padded to. 0: the largest number of objects in an image. An image with more
    targets is an error."""
    repeat_threshold: float = 0.0
    """Images with a class that is in a smaller share of the training images than this come more often in an epoch:
    sqrt(repeat_threshold / share) times (LVIS's repeat-factor sampling). An epoch is then longer. 0: each image comes
    once; LVIS has 0.001."""
    num_buckets: int = 12
    """Largest number of buckets: static image shapes, of which each is compiled once."""
    shape_multiple: int = 32
    """Bucket heights and widths are multiples of this."""
    num_workers: int = 0
    """Processes that read images. 0: threads of the main process read them."""
    prefetch: int = 2
    """Batches that are read ahead (by each worker)."""

    def __post_init__(self) -> None:
        require(0 <= self.val_fraction < 1, "data.val_fraction", self.val_fraction, "0 (none) or more, and less than 1")
        require(0 <= self.repeat_threshold <= 1, "data.repeat_threshold", self.repeat_threshold, "between 0 and 1")
        require(self.max_boxes >= 0, "data.max_boxes", self.max_boxes, "0 (as many as the data set needs) or more")
        require(self.num_buckets >= 1, "data.num_buckets", self.num_buckets, "at least 1")
        require(self.shape_multiple >= 1, "data.shape_multiple", self.shape_multiple, "at least 1")
        require(self.num_workers >= 0, "data.num_workers", self.num_workers, "0 or more")
        require(self.prefetch >= 1, "data.prefetch", self.prefetch, "at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Image sizes (in pixels) and random augmentation. The defaults are DETR's."""

    flip_probability: float = 0.5
    """Probability with which an image is mirrored, left to right."""
    vertical_flip_probability: float = 0.0
    """Probability with which an image is mirrored, top to bottom. For what has no upper side: cells, things seen from
    above. 0: off; 0.5 is usual."""
    transpose_probability: float = 0.0
    """Probability with which rows and columns of an image are exchanged, so that a lying image becomes an upright one.
    With both flips, things appear turned by quarters as well. For what has no upper side. 0: off; 0.5 is usual."""
    train_sizes: tuple[int, ...] = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    """The short side is resized to one of these, chosen at random."""
    max_size: int = 1333
    """Largest length of the long side, in training and evaluation. The short side is then shorter than asked for."""
    crop_probability: float = 0.5
    """Probability with which an image is cropped at random."""
    crop_resize_sizes: tuple[int, ...] = (400, 500, 600)
    """The short side is resized to one of these before a random crop."""
    crop_min: int = 384
    """The sides of a crop are drawn from [crop_min, min(side, crop_max)]."""
    crop_max: int = 600
    """The longest side of a crop."""
    eval_size: int = 800
    """The short side is resized to this in evaluation."""
    scale_jitter_probability: float = 0.0
    """Probability of large-scale jitter, in the place of the resize and crop above: an image is resized by a random
    factor as well, and what it then exceeds its usual size by is cropped at random. 0: off."""
    scale_jitter_min: float = 0.1
    """Smallest factor of large-scale jitter."""
    scale_jitter_max: float = 2.0
    """Largest factor of large-scale jitter."""
    shape_jitter_probability: float = 0.0
    """Probability with which a random part of each side of an image is cut off, and objects keep their size. For images
    of one shape: without it, boxes on images of another shape are too long or too short. 0: off."""
    shape_jitter_min: float = 0.5
    """Smallest part of a side that shape jitter leaves."""
    mosaic_probability: float = 0.0
    """Probability with which an image becomes a mosaic of itself and three others. 0: off."""
    mosaic_epochs: int = 0
    """Number of epochs after which there are no more mosaics. 0: there are mosaics in all epochs."""
    erase_probability: float = 0.0
    """Probability of random erasing: a rectangle of 2 to 20 % of the image is filled with one colour. 0: off."""
    shown_ratios: tuple[float, ...] = ()
    """Ratios of height to width of the images that training shows. Each run fills them in, whatever is given here;
    prediction and evaluation warn of images of other shapes. (): not known."""
    brightness: float = 0.0
    """Photometric jitter, on the device: colours are multiplied by a random factor in [1 - brightness, 1 + brightness].
    0: off; 0.4 is usual."""
    contrast: float = 0.0
    """The same for the distance of colours from the mean grey of the image."""
    saturation: float = 0.0
    """The same for the distance of colours from their grey."""
    hue: float = 0.0
    """Hues turn by a random part of the circle of colours in [-hue, hue], at most 0.5. 0: off; 0.02 is usual."""

    def __post_init__(self) -> None:
        for name in (
            "flip_probability",
            "vertical_flip_probability",
            "transpose_probability",
            "crop_probability",
            "scale_jitter_probability",
            "shape_jitter_probability",
            "mosaic_probability",
            "erase_probability",
            "brightness",
            "contrast",
            "saturation",
        ):
            require(0 <= getattr(self, name) <= 1, f"augment.{name}", getattr(self, name), "between 0 and 1")
        require(0 <= self.hue <= 0.5, "augment.hue", self.hue, "between 0 and 0.5")
        for name in ("train_sizes", "crop_resize_sizes"):
            sizes = getattr(self, name)
            require(len(sizes) > 0 and min(sizes) >= 1, f"augment.{name}", sizes, "one or more positive sizes")
        for name in ("max_size", "crop_min", "crop_max", "eval_size"):
            require(getattr(self, name) >= 1, f"augment.{name}", getattr(self, name), "at least 1")
        require(self.crop_min <= self.crop_max, "augment.crop_min", self.crop_min, "at most augment.crop_max")
        require(self.scale_jitter_min > 0, "augment.scale_jitter_min", self.scale_jitter_min, "more than 0")
        require(
            self.scale_jitter_min <= self.scale_jitter_max < math.inf,
            "augment.scale_jitter_max",
            self.scale_jitter_max,
            "at least augment.scale_jitter_min",
        )
        require(0 < self.shape_jitter_min <= 1, "augment.shape_jitter_min", self.shape_jitter_min, "above 0, at most 1")
        require(
            all(0 < ratio < math.inf for ratio in self.shown_ratios),
            "augment.shown_ratios",
            self.shown_ratios,
            "positive numbers",
        )
        require(self.mosaic_epochs >= 0, "augment.mosaic_epochs", self.mosaic_epochs, "0 (all epochs) or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimiser and its schedule. The defaults are the official recipe."""

    name: Literal["adamw", "sgd", "muon"] = "adamw"
    """`sgd` has a momentum of 0.9. `muon`: Muon for the kernels of layers, AdamW for all other parameters and for the
    last layers of the class and the box head. From random weights it learns more in fewer steps."""
    muon_parameters: tuple[str, ...] = (".*",)
    """With `muon`: regular expressions. Kernels whose whole path matches none of them are trained with AdamW. Muon's
    work does not depend on the number of images, so with small batches it takes much of a step."""
    learning_rate: float = 1e-4
    """Learning rate of all parameters except the backbone's."""
    backbone_learning_rate: float = 1e-5
    """Learning rate of the backbone's parameters."""
    learning_rates: tuple[str, ...] = ()
    """Learning rates of further groups of parameters, each as "PATTERN=RATE", e.g. "decoder/.*=3e-5". The first regular
    expression that matches the whole path of a parameter decides. If none matches, one of the two rates above holds."""
    weight_decay: float = 1e-4
    """Weight decay of every trained parameter; with AdamW and Muon it is decoupled from the gradient."""
    clip_norm: float = 0.1
    """Largest norm of the gradient over all parameters; a larger gradient is scaled down. 0: no limit."""
    schedule: Literal["step", "cosine"] = "step"
    """How learning rates fall. `step`: at once, every `drop_epoch` epochs. `cosine`: along a cosine, to zero at the
    end."""
    drop_epoch: int = 40
    """With the schedule `step`: learning rates fall to a tenth each time this number of epochs has passed."""
    warmup_steps: int = 0
    """Number of steps over which learning rates rise linearly from zero."""
    freeze: tuple[str, ...] = (r"backbone/stem/.*", r"backbone/layer1/.*")
    """Regular expressions. Parameters whose whole path matches one of them are not trained."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "backbone_learning_rate", "weight_decay", "clip_norm"):
            require_weight(f"optimizer.{name}", getattr(self, name))
        require(self.warmup_steps >= 0, "optimizer.warmup_steps", self.warmup_steps, "0 or more")
        require(self.drop_epoch >= 1, "optimizer.drop_epoch", self.drop_epoch, "at least 1")
        for name in ("muon_parameters", "freeze"):
            for pattern in getattr(self, name):
                require_pattern(pattern, f"optimizer.{name}", pattern)
        self.rates_by_pattern()

    def rates_by_pattern(self) -> dict[str, float]:
        """The entries of `learning_rates` as {pattern: rate}, in their order. Raises `UserError` for a wrong entry.

        A pattern may have "=" in it: the rate is what follows the last one.
        """
        rates: dict[str, float] = {}
        for entry in self.learning_rates:
            pattern, _, number = entry.rpartition("=")
            try:
                rate = float(number)
            except ValueError:
                rate = -1.0
            if not pattern or not 0 <= rate < math.inf:
                raise UserError(
                    f"Setting 'optimizer.learning_rates' has {entry!r}, which is not PATTERN=RATE with a rate of 0 or "
                    "more, such as 'decoder/.*=3e-5'."
                )
            require_pattern(pattern, "optimizer.learning_rates", entry)
            if pattern in rates:
                raise UserError(f"Setting 'optimizer.learning_rates' has the pattern {pattern!r} twice: keep one.")
            rates[pattern] = rate
        return rates


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long a run trains, and what it saves."""

    seed: int = 42
    """Seed of initial weights, order of images and augmentation. The same seed gives the same run."""
    epochs: int = 50
    """Number of passes over the training images."""
    batch_size: int = 8
    """Images per step, over all devices and hosts."""
    accumulate: int = 1
    """Number of parts in which each device computes its images of a step, one after another. It needs less memory; the
    step is the same."""
    ema_decay: float = 0.0
    """Decay per step of a moving average of the weights. If it is on, the average is what is evaluated and loaded. 0:
    off; 0.9997 is usual. The decay starts lower, so that the first weights soon count little."""
    ema_warmup: float = 9.0
    """How long the decay of the average stays lower. After n steps it is at most (1 + n) / (1 + ema_warmup + n), so the
    average covers about one part in `ema_warmup` of the steps so far. It reaches 0.99 after 890 steps with 9, after 98
    with 1. 0: it is never lower."""
    denoising_groups: int = 0
    """Groups of further queries, in training only: each group has one query near each object, which must find it
    without matching. Training from random weights is shorter; a step takes more time and memory. 0: none; 4 is
    usual."""
    denoising_negatives: bool = False
    """Each of these groups also has a second query for each object, farther from it, which must find nothing. So
    queries learn that only the nearest of them finds an object, and fewer objects are found twice."""
    log_every: int = 10
    """Number of steps between two lines of metrics.jsonl."""
    tensorboard: bool = True
    """Also write the numbers and pictures of predictions for TensorBoard, into the folder `tensorboard` of the
    workdir."""
    wandb: bool = False
    """Also give them to Weights & Biases (`pip install wandb`). Its own environment variables hold, such as
    `WANDB_MODE=offline`."""
    mlflow: bool = False
    """Also give them to MLflow (`pip install mlflow`): to the server of `MLFLOW_TRACKING_URI`, or else into the folder
    `mlflow` of the workdir."""
    checkpoint_every: int = 1000
    """Number of steps between two checkpoints. One is also written at the end, and on SIGTERM."""
    keep_checkpoints: int = 2
    """Number of checkpoints that are kept, the newest ones."""
    evaluate_every: int = 1
    """Number of epochs between two evaluations on the validation images. 0: no evaluations."""
    keep_best: bool = False
    """Keep the weights with the highest AP so far in WORKDIR/best. Then each evaluation also writes a checkpoint."""
    patience: int = 0
    """Number of evaluations in a row without a higher AP after which the run ends early. 0: it never ends early."""
    timeout_seconds: int = 120
    """With several processes: how long a process may be silent before the others name it and stop. A process that
    answers but does nothing gets ten times as long. 0: processes do not watch each other."""
    max_bad_steps: int = 3
    """Number of steps in a row whose loss or gradient is not finite after which the run stops. Such a step changes no
    weights."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "log_every", "checkpoint_every", "keep_checkpoints", "max_bad_steps"):
            require(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "at least 1")
        require(self.accumulate >= 1, "train.accumulate", self.accumulate, "at least 1")
        require(0 <= self.ema_decay < 1, "train.ema_decay", self.ema_decay, "0 (none) or more, and less than 1")
        require(0 <= self.ema_warmup < math.inf, "train.ema_warmup", self.ema_warmup, "0 (none) or more, and finite")
        require(-(2**63) <= self.seed < 2**63, "train.seed", self.seed, "a number of 64 bits")
        require(self.evaluate_every >= 0, "train.evaluate_every", self.evaluate_every, "0 (never) or more")
        for name in ("denoising_groups", "patience", "timeout_seconds"):
            require(getattr(self, name) >= 0, f"train.{name}", getattr(self, name), "0 (off) or more")
        if self.evaluate_every == 0 and (self.keep_best or self.patience):
            raise UserError(
                "train.keep_best and train.patience need evaluations: set train.evaluate_every to 1 or more, or "
                "train.keep_best to False and train.patience to 0."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Evaluation on the validation images."""

    batch_size: int = 8
    """Images per batch, over all devices and hosts."""
    equal_memory: bool = False
    """Batches of smaller shapes have more images: as many pixels as `batch_size` images of the largest shape."""
    max_detections: int = 100
    """Largest number of detections per image; the best ones are kept."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_detections"):
            require(getattr(self, name) >= 1, f"eval.{name}", getattr(self, name), "at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How devices are arranged. Batches are split over all devices, large parameters over `fsdp` of them."""

    fsdp: int = 1
    """Number of devices that share the large parameters; each keeps a part. 1: every device keeps all of them."""

    def __post_init__(self) -> None:
        require(self.fsdp >= 1, "mesh.fsdp", self.fsdp, "at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassesConfig:
    """Which classes of the data set begin with the weights of a class that the initial weights know."""

    map: tuple[str, ...] = ()
    """Names that differ, each as "NAME=KNOWN": the data set's class NAME begins with the weights of the class KNOWN.
    "NAME=" lets it start new. Equal names need no entry; case, spaces and English plurals make no difference."""

    def __post_init__(self) -> None:
        self.renamed()

    def renamed(self) -> dict[str, str]:
        """The entries of `map` as {name: known name}. Raises `UserError` for one that is wrong."""
        names: dict[str, str] = {}
        for entry in self.map:
            parts = entry.split(",") if all("=" in part for part in entry.split(",")) else [entry]
            for part in parts:
                name, separator, known = (text.strip() for text in part.partition("="))
                if not name or not separator:
                    raise UserError(f"Setting 'classes.map' has {part!r}, which is not NAME=KNOWN.")
                if names.setdefault(name, known) != known:
                    raise UserError(f"Setting 'classes.map' has the class {name!r} twice: keep one.")
        return names


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of an experiment."""

    model: ModelConfig = ModelConfig()
    matcher: MatcherConfig = MatcherConfig()
    loss: LossConfig = LossConfig()
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    mesh: MeshConfig = MeshConfig()
    classes: ClassesConfig = ClassesConfig()
    init_from: str = ""
    """Initial weights: a published model ("anchordetr-r50-dc5", "resnet50"), a workdir, a checkpoint, a weight file
    (`.pth`, `.safetensors`), a folder of `save_pretrained`, or "hf://ORGANISATION/NAME". Classes of the same name keep
    their weights (see `classes`). Ignored if the workdir has checkpoints."""
    fit: Literal["off", "gpu", "cpu"] = "off"
    """Chooses the settings that nobody sets from the training images and their objects: epochs, learning rates, image
    sizes, augmentation and, for a new detector, anchor points. Each is printed with its reason. `gpu`: for detectors of
    the published size on GPUs and TPUs. `cpu`: for the small detector, to train 12 to 30 minutes on two CPU cores."""
    architecture: Literal["config", "init_from", "detector"] = "config"
    """Architecture that is trained. `config`: the one that the settings in `model` describe. `init_from`: that of the
    initial weights, except for settings in `model` that the experiment file or the command line changes. `detector`:
    that of the initial weights if they are a whole detector; that of the settings if they are a backbone alone."""


def default_config() -> ml_collections.ConfigDict:
    """Every setting at its default, as a ConfigDict that experiment files change."""
    return ml_collections.ConfigDict(config_to_dict(Config()))


def config_to_dict(config: Config) -> dict[str, Any]:
    """The settings as nested plain dicts, for JSON and for `config_from_dict`."""
    return dataclasses.asdict(config)


def config_from_dict(settings: Mapping[str, Any] | ml_collections.ConfigDict) -> Config:
    """The settings, checked. Raises `UserError` that names the first setting with a wrong name, type or value.

    Missing settings take their defaults, so that files of an older version still load.
    """
    plain = settings.to_dict() if isinstance(settings, ml_collections.ConfigDict) else settings
    return checked_settings(Config, with_present_names(plain))


def choices(group: type, setting: str) -> tuple[str, ...]:
    """The values that a setting with a fixed list of values may have, such as `choices(ModelConfig, "dtype")`."""
    return typing.get_args(typing.get_type_hints(group)[setting])
