"""Memory and operations of row-column attention and of standard attention, by the size of the image."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp

from anchordetr_jax.benchmark.inputs import MAX_BOXES
from anchordetr_jax.benchmark.planning import lower_train_step
from anchordetr_jax.benchmark.plots import plot_lines
from anchordetr_jax.benchmark.programs import countable, flops_of, jitted_forward, temporary_bytes
from anchordetr_jax.benchmark.tables import Row
from anchordetr_jax.config import Config, MeshConfig
from anchordetr_jax.devices import make_mesh
from anchordetr_jax.kernels.building import definition_of

KINDS: tuple[Literal["rcda", "standard"], ...] = ("rcda", "standard")


def compare_attention(config: Config, shapes: Sequence[tuple[int, int]], *, training: bool) -> list[Row]:
    """A row for each image shape (H, W): temporaries and FLOPs of one image with either attention.

    The numbers are the compiler's; nothing runs. `training` counts a training step instead of a forward pass.
    """
    rows: list[Row] = []
    for shape in shapes:
        row: dict[str, str | float | None] = {"image": f"{shape[0]}x{shape[1]}"}
        for attention in KINDS:
            model = dataclasses.replace(config.model, attention=attention)
            memory, flops = _needs(dataclasses.replace(config, model=model), shape, training)
            row[f"{attention}, MB"] = memory / 1e6
            row[f"{attention}, GFLOP"] = flops / 1e9
        row["share of standard's memory"] = float(row["rcda, MB"] or 0) / float(row["standard, MB"] or 1)
        rows.append(row)
    return rows


def plot_attention(path: Path, rows: Sequence[Row], shapes: Sequence[tuple[int, int]], *, training: bool) -> None:
    """Draws the temporaries of `compare_attention` over the number of feature cells."""
    lines: dict[str, list[float]] = {kind: [float(row[f"{kind}, MB"] or 0) for row in rows] for kind in KINDS}
    cells = [height * width / 256 for height, width in shapes]
    what = "a training step" if training else "a forward pass"
    plot_lines(path, cells, lines, "feature cells", f"temporaries of {what}, MB")


def _needs(config: Config, shape: tuple[int, int], training: bool) -> tuple[int, float]:
    """(temporary bytes, FLOPs)."""
    compiled = _lowered(config, shape, training).compile()
    return temporary_bytes(compiled), flops_of(_lowered(countable(config), shape, training))


def _lowered(config: Config, shape: tuple[int, int], training: bool) -> jax.stages.Lowered:
    if training:
        mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        return lower_train_step(config, mesh, batch_size=1, image_shape=shape, max_boxes=MAX_BOXES)
    images, sizes = jax.ShapeDtypeStruct((1, *shape, 3), jnp.uint8), jax.ShapeDtypeStruct((1, 2), jnp.int32)
    return jitted_forward(config).lower(definition_of(config.model).shapes, images, sizes)
