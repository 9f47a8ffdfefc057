"""The settings of stand_in_config.py with the best checkpoint kept, each evaluation being better than the last."""

import ml_collections

from anchordetr_jax.training import experiment
from tests.training import stand_in_config


def get_config() -> ml_collections.ConfigDict:
    experiment.make_evaluate = lambda *_: lambda model, step: {"AP": step / 1000}  # type: ignore[assignment]
    config = stand_in_config.get_config()
    config.train.evaluate_every = 1
    config.train.keep_best = True
    return config
