"""The settings of script_config.py with the stand-in for the network, which compiles in a moment on any devices."""

import ml_collections

from anchordetr_jax.training import run
from tests.training import script_config
from tests.training.tiny import StandIn


def get_config() -> ml_collections.ConfigDict:
    run.AnchorDETR = StandIn  # type: ignore[assignment, misc]
    return script_config.get_config()
