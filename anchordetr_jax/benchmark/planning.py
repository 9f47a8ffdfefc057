"""The real train step, ready to be compiled for devices that are not there."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from anchordetr_jax.config import Config, MeshConfig
from anchordetr_jax.data.batching import Batch
from anchordetr_jax.devices import BATCH_AXES, batch_sharding, check_fsdp
from anchordetr_jax.kernels.building import definition_of
from anchordetr_jax.training.optimizer import make_optimizer
from anchordetr_jax.training.state import abstract_state
from anchordetr_jax.training.step import make_train_step
from anchordetr_jax.weights.class_outputs import OFFICIAL_OUTPUTS

_STEPS_PER_EPOCH = 1000  # Any number: it only decides at which steps the learning rate drops.


def lower_train_step(
    config: Config, mesh: Mesh, *, batch_size: int, image_shape: tuple[int, int], max_boxes: int
) -> jax.stages.Lowered:
    """The real train step for one batch shape, ready to be compiled. No array is made.

    Args:
        config: all settings; `model.num_classes` must be set.
        mesh: devices, also of another machine.
        batch_size: images over all devices.
        image_shape: (H, W) pixels.
        max_boxes: targets that each image is padded to.
    """
    definition = definition_of(config.model, mesh.devices.flat[0].platform)
    optimizer = make_optimizer(
        config.optimizer, steps_before=lambda epoch: epoch * _STEPS_PER_EPOCH, epochs=config.train.epochs, mesh=mesh
    )
    ema = config.train.ema_decay > 0
    state = abstract_state(definition, optimizer, mesh, freeze=config.optimizer.freeze, ema=ema)
    step: Any = make_train_step(definition, optimizer, config, mesh, state)
    return step.lower(state, _abstract_batch(batch_size, image_shape, max_boxes, mesh))


def with_classes(config: Config) -> Config:
    """The settings with COCO's 91 class outputs if the data set would decide their number."""
    model = dataclasses.replace(config.model, num_classes=config.model.num_classes or OFFICIAL_OUTPUTS)
    return dataclasses.replace(config, model=model)


def slice_mesh(config: MeshConfig, devices: Sequence[jax.Device]) -> Mesh:
    """Devices that are not there as a mesh [data, fsdp], in the given order.

    Their wiring does not matter here, and JAX cannot arrange chips with two devices each.

    Raises:
        UserError: as `make_mesh`.
    """
    check_fsdp(config, len(devices))
    return Mesh(np.asarray(devices).reshape(-1, config.fsdp), BATCH_AXES, axis_types=(AxisType.Auto, AxisType.Auto))


def _abstract_batch(batch_size: int, image_shape: tuple[int, int], max_boxes: int, mesh: Mesh) -> Batch:
    """Shapes, dtypes and shardings of a batch of `batch_size` images padded to `image_shape` (H, W) pixels."""

    def array(*shape: int, dtype: Any) -> Any:
        return jax.ShapeDtypeStruct((batch_size, *shape), dtype, sharding=batch_sharding(mesh))

    return Batch(
        images=array(*image_shape, 3, dtype=jnp.uint8),
        image_sizes=array(2, dtype=jnp.int32),
        boxes=array(max_boxes, 4, dtype=jnp.float32),
        labels=array(max_boxes, dtype=jnp.int32),
        num_boxes=array(dtype=jnp.int32),
        rows=array(dtype=jnp.int32),
        valid=array(dtype=jnp.bool_),
        original_sizes=array(2, dtype=jnp.int32),
    )
