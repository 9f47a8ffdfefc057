"""Memory and operations of row-column and of standard attention over the size of the features, by the compiler."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from anchordetr_jax.benchmark.ours import countable, flops_of, jitted_forward, temporary_bytes
from anchordetr_jax.benchmark.planning import lower_train_step
from anchordetr_jax.benchmark.report import Row
from anchordetr_jax.config import Config, MeshConfig
from anchordetr_jax.devices import make_mesh
from anchordetr_jax.model.anchor_detr import definition_of


def compare_attention(config: Config, shapes: Sequence[tuple[int, int]], *, training: bool) -> list[Row]:
    """A row for each image shape (H, W): temporaries and FLOPs of one image with either attention."""
    rows: list[Row] = []
    for shape in shapes:
        row: dict[str, str | float | None] = {"image": f"{shape[0]}x{shape[1]}"}
        for attention in ("rcda", "standard"):
            model = dataclasses.replace(config.model, attention=attention)
            plan = _plan(dataclasses.replace(config, model=model), shape, training)
            row[f"{attention}, MB"] = plan[0] / 1e6
            row[f"{attention}, GFLOP"] = plan[1] / 1e9
        row["share of standard's memory"] = float(row["rcda, MB"] or 0) / float(row["standard, MB"] or 1)
        rows.append(row)
    return rows


def _plan(config: Config, shape: tuple[int, int], training: bool) -> tuple[int, float]:
    """(temporary bytes, FLOPs)."""
    compiled = _lowered(config, shape, training).compile()
    return temporary_bytes(compiled), flops_of(_lowered(countable(config), shape, training))


def _lowered(config: Config, shape: tuple[int, int], training: bool) -> jax.stages.Lowered:
    if training:
        mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        return lower_train_step(config, mesh, batch_size=1, image_shape=shape, max_boxes=100)
    images, sizes = jax.ShapeDtypeStruct((1, *shape, 3), jnp.uint8), jax.ShapeDtypeStruct((1, 2), jnp.int32)
    return jitted_forward(config).lower(definition_of(config.model).shapes, images, sizes)
