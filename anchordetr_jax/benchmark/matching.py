"""Both backends of the matcher, by the number of objects and of decoder layers."""

from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np

from anchordetr_jax.benchmark.inputs import MAX_BOXES
from anchordetr_jax.benchmark.programs import matching_program
from anchordetr_jax.benchmark.tables import Row
from anchordetr_jax.benchmark.timing import Contestant, alternate, median, ratio
from anchordetr_jax.config import MatcherConfig
from anchordetr_jax.detection.matching import Targets
from anchordetr_jax.weights.class_outputs import OFFICIAL_OUTPUTS

QUERIES = 900
BACKENDS: tuple[Literal["host", "device"], ...] = ("host", "device")


def compare_backends(
    *,
    rounds: int,
    images: int = 2,
    layers: Sequence[int] = (1, 6),
    objects: Sequence[int] = (1, 7, 20, 60, 100),
) -> list[Row]:
    """Milliseconds of both backends: a row for each number of decoder layers and of objects per image."""
    rng = np.random.default_rng(0)
    rows: list[Row] = []
    for depth in layers:
        logits = rng.normal(-3, 1.5, (depth, images, QUERIES, OFFICIAL_OUTPUTS)).astype(np.float32)
        boxes = rng.uniform(0.1, 0.6, (depth, images, QUERIES, 4)).astype(np.float32)
        for count in objects:
            targets = Targets(
                jnp.asarray(rng.uniform(0.1, 0.6, (images, MAX_BOXES, 4)), jnp.float32),
                jnp.asarray(rng.integers(1, OFFICIAL_OUTPUTS, (images, MAX_BOXES)), jnp.int32),
                jnp.full(images, count, jnp.int32),
            )
            programs = {
                name: matching_program(MatcherConfig(backend=name), logits, boxes, targets) for name in BACKENDS
            }
            seconds = alternate([Contestant(name, program.run) for name, program in programs.items()], rounds=rounds)
            rows.append(
                {
                    "layers x images x objects": f"{depth} x {images} x {count}",
                    "host, ms": median(seconds["host"]) * 1e3,
                    "device, ms": median(seconds["device"]) * 1e3,
                    "host / device": ratio(seconds["host"], seconds["device"]),
                }
            )
    return rows
