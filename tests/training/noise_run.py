"""A training run of the stand-in on noise, as a program or as one of two, for tests that stop it.

python -m tests.training.noise_run WORKDIR [--port PORT --process 0|1] [--hangs_before STEP]
    [--stuck_factor N]
"""

import argparse
import dataclasses
import threading

import jax

from anchordetr_jax import cli
from anchordetr_jax.data.batching import Batch
from anchordetr_jax.devices import initialize_distributed
from anchordetr_jax.training import loop, run
from anchordetr_jax.training.watching import watchdog
from tests.training.tiny import CONFIG, NoiseData, build_in_place

TIMEOUT_SECONDS = 3


class HangingData(NoiseData):
    """This process's half of each batch. Reads for ever before a step, if one is given."""

    def __init__(self, hangs_before: int | None):
        self.hangs_before = hangs_before

    def batch(self, step: int) -> Batch:
        if step + 1 == self.hangs_before:
            threading.Event().wait()
        half = CONFIG.train.batch_size // jax.process_count()
        start = jax.process_index() * half
        return jax.tree.map(lambda array: array[start : start + half], super().batch(step))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workdir")
    parser.add_argument("--port", type=int)
    parser.add_argument("--process", type=int)
    parser.add_argument("--hangs_before", type=int)
    parser.add_argument("--stuck_factor", type=int, default=watchdog._STUCK_FACTOR)
    options = parser.parse_args()
    watchdog._STUCK_FACTOR = options.stuck_factor
    if options.port is not None:
        initialize_distributed(f"127.0.0.1:{options.port}", 2, options.process, timeout_seconds=TIMEOUT_SECONDS)
    run.build = build_in_place  # type: ignore[assignment]
    train = dataclasses.replace(
        CONFIG.train, epochs=10**4, checkpoint_every=10**4, evaluate_every=0, timeout_seconds=TIMEOUT_SECONDS
    )
    outcome = loop.train(dataclasses.replace(CONFIG, train=train), options.workdir, HangingData(options.hangs_before))
    print("ended:", outcome)


if __name__ == "__main__":
    raise SystemExit(cli.exit_status(main))
