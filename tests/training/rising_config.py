"""The settings of stand_in_config.py with the best checkpoint kept, each evaluation being better than the last."""

import sys

import ml_collections

from tests.training import stand_in_config


def get_config() -> ml_collections.ConfigDict:
    program = vars(sys.modules["__main__"])  # scripts/train.py
    program["make_evaluate"] = lambda *_: lambda model, step: {"AP": step / 1000}
    config = stand_in_config.get_config()
    config.train.evaluate_every = 1
    config.train.keep_best = True
    return config
