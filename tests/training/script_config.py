"""Settings of a run of scripts/train.py that tests stop: a small real detector and a few small images.

What goes beyond the official recipe is on, so that a run that continues has to get it right.
"""

import ml_collections

from anchordetr_jax.config import default_config

TIMEOUT_SECONDS = 10
"""A busy machine that compiles answers late."""
CHECKPOINT_EVERY = 4
"""Steps. Of a run of 16 steps there are four checkpoints, and each takes as long to save as many steps."""


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    model = config.model
    model.backbone = "compact"
    model.num_patterns = 1
    model.num_anchors = 8
    model.hidden_dim = 32
    model.num_heads = 2
    model.ffn_dim = 32
    model.encoder_layers = 1
    model.decoder_layers = 1
    config.data.num_buckets = 1
    config.augment.train_sizes = (24, 28, 32)
    config.augment.max_size = 32
    config.augment.crop_probability = 0.3
    config.augment.crop_resize_sizes = (28, 32)
    config.augment.crop_min = 16
    config.augment.crop_max = 28
    config.augment.mosaic_probability = 0.4
    config.augment.mosaic_epochs = 6
    config.augment.scale_jitter_probability = 0.5
    config.augment.erase_probability = 0.3
    config.augment.vertical_flip_probability = 0.5
    config.augment.transpose_probability = 0.3
    config.augment.shape_jitter_probability = 0.3
    config.augment.brightness = 0.3
    config.augment.contrast = 0.3
    config.augment.saturation = 0.3
    config.augment.hue = 0.02
    config.loss.classification = "iou_aware"
    config.matcher.backend = "device"  # JAX keeps no compiled program that calls the host.
    config.optimizer.name = "muon"
    config.optimizer.muon_parameters = (r"(?!decoder/).*",)
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 4
    config.optimizer.learning_rate = 1e-3
    config.optimizer.freeze = ()
    train = config.train
    train.epochs = 8
    train.batch_size = 4
    train.denoising_groups = 2
    train.denoising_negatives = True
    train.ema_decay = 0.9
    train.ema_warmup = 1
    train.log_every = 1
    train.tensorboard = False
    train.checkpoint_every = CHECKPOINT_EVERY
    train.keep_checkpoints = 4
    train.evaluate_every = 0
    train.timeout_seconds = TIMEOUT_SECONDS
    return config
