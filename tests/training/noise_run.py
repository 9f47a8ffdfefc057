"""A training run of the stand-in on noise, as a program, for tests that kill it.

python -m tests.training.noise_run WORKDIR EPOCHS
"""

import dataclasses
import sys

from anchordetr_jax.training import loop
from anchordetr_jax.training.loop import Outcome
from tests.training.tiny import CONFIG, NoiseData, StandIn


def run(workdir: str, epochs: int) -> Outcome:
    loop.AnchorDETR = StandIn  # type: ignore[assignment, misc]
    train = dataclasses.replace(CONFIG.train, epochs=epochs, checkpoint_every=4, evaluate_every=0)
    return loop.train(dataclasses.replace(CONFIG, train=train), workdir, NoiseData())


if __name__ == "__main__":
    print("ended:", run(sys.argv[1], int(sys.argv[2])))
