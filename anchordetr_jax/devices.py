"""Devices as a mesh with the axes `data` and `fsdp`, and batches that are split over both."""

import os
from collections.abc import Sequence
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from anchordetr_jax.config import MeshConfig
from anchordetr_jax.errors import UserError

FSDP_AXIS = "fsdp"
"""Mesh axis over which large parameters are split."""
BATCH_AXES = ("data", FSDP_AXIS)
"""Mesh axes over which the images of a batch are split."""

Tree = TypeVar("Tree")


def processors() -> int:
    """The processors that this process may use. Containers and schedulers often give less than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def initialize_distributed(
    coordinator: str = "",
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout_seconds: float = 0,
) -> None:
    """Connects the processes of a multi-host run. Call it before anything asks JAX for devices.

    Args:
        coordinator: HOST:PORT of process 0. If it is empty, JAX looks for the other processes itself (on TPU pods,
            SLURM and Kubernetes).
        num_processes: number of processes, with `coordinator`.
        process_id: number of this process, from 0, with `coordinator`.
        timeout_seconds: the limit of the `Watchdog` that is used with it. JAX's own watchdog, whose message does not
            name the process that died, then waits three times as long (100 seconds or more).

    Raises:
        UserError: the processes cannot be connected.
    """
    heartbeat = max(100, round(3 * timeout_seconds))
    try:
        if coordinator:
            jax.distributed.initialize(coordinator, num_processes, process_id, heartbeat_timeout_seconds=heartbeat)
        else:
            jax.distributed.initialize(heartbeat_timeout_seconds=heartbeat)
    except (ValueError, RuntimeError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"Cannot connect the processes of this run (coordinator: {coordinator or 'not given'}): {first_line}"
        ) from error


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices (or those given) as a mesh [data, fsdp].

    Raises:
        UserError: `mesh.fsdp` does not divide the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    check_fsdp(config, len(devices))
    # Auto axes: the compiler places collectives where `shard_map` does not.
    return jax.make_mesh(
        (len(devices) // config.fsdp, config.fsdp),
        BATCH_AXES,
        axis_types=(AxisType.Auto, AxisType.Auto),
        devices=devices,
    )


def check_fsdp(config: MeshConfig, devices: int) -> None:
    """Raises `UserError` unless `mesh.fsdp` divides the number of devices."""
    if devices % config.fsdp:
        raise UserError(f"Setting 'mesh.fsdp'={config.fsdp} must divide the number of devices, which is {devices}.")


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading dimension (images) is split over all devices."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def check_batch_size(batch_size: int, mesh: Mesh, setting: str, *, accumulate: int = 1) -> None:
    """Raises `UserError` unless a batch can be split evenly over the devices, and there into `accumulate` parts."""
    if batch_size % mesh.size:
        raise UserError(
            f"Setting '{setting}'={batch_size} must be a multiple of the number of devices, which is {mesh.size}."
        )
    if batch_size // mesh.size % accumulate:
        raise UserError(
            f"Setting 'train.accumulate'={accumulate} must divide the images of each device, which are "
            f"{batch_size // mesh.size} ('{setting}'={batch_size} over {mesh.size} device(s))."
        )


def global_batch(local: Tree, mesh: Mesh) -> Tree:
    """Makes global arrays, split over the mesh, of each process's share of a batch (numpy arrays, images leading).

    Process 0 holds the first images, process 1 the next ones, and so on.
    """
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(sharding, np.asarray(array)), local)
