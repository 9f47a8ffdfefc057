"""The settings of script_config.py with the stand-in for the network, which compiles in a moment on any devices."""

import ml_collections

from anchordetr_jax.training import run
from tests.training import script_config
from tests.training.tiny import build_in_place


def get_config() -> ml_collections.ConfigDict:
    run.build = build_in_place  # type: ignore[assignment]
    config = script_config.get_config()
    config.train.checkpoint_every = 2
    # A step takes a third less time to trace without these. They follow from its number alone and keep nothing in a
    # checkpoint; runs of the network have them.
    config.train.denoising_groups = 0
    config.train.denoising_negatives = False
    for name in ("brightness", "contrast", "saturation", "hue"):
        config.augment[name] = 0.0
    # Neither the cosine's length nor drops: runs of any number of epochs take the same compiled step.
    config.optimizer.schedule = "step"
    config.optimizer.drop_epoch = 10**6
    return config
