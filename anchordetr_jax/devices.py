"""Devices as a mesh with the axes `data` and `fsdp`: batches are split over both, large parameters over `fsdp`."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from anchordetr_jax.config import MeshConfig
from anchordetr_jax.errors import UserError
from anchordetr_jax.training.state import TrainState

FSDP_AXIS = "fsdp"
"""Mesh axis over which large parameters are split."""
BATCH_AXES = ("data", FSDP_AXIS)
"""Mesh axes over which the images of a batch are split."""

Tree = TypeVar("Tree")


class ShardingRule(NamedTuple):
    """Says how the parameters whose whole path matches `pattern` are laid out: split over `fsdp` if they are large."""

    pattern: str
    min_size: float
    """Arrays of at least so many scalars are split, along their longest dimension that `fsdp` divides."""


FSDP_RULES: tuple[ShardingRule, ...] = (ShardingRule(r"backbone/stem/.*", math.inf), ShardingRule(r".*", 2**16))
"""The first rule whose pattern matches decides."""


def start_distributed(
    coordinator: str = "",
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout_seconds: float = 0,
) -> None:
    """Joins the processes of a multi-host run. Call it before anything asks JAX for devices.

    Without a coordinator JAX's own detection (TPU pods, SLURM, Kubernetes) is used; it is an error if that finds
    nothing. Where a `Watchdog` of `timeout_seconds` is to tell of processes that die, JAX's own, whose message names
    nobody, waits until well after that.
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
            f"The processes of this run could not be joined (coordinator {coordinator or 'not given'}): {first_line}"
        ) from error


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices (or those given) as a mesh [data, fsdp].

    Raises:
        UserError: `mesh.fsdp` does not divide the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    check_fsdp(config, len(devices))
    # Auto axes: the compiler places collectives, and shard_map may still take the axes over by hand.
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
    """Every device holds all of it."""
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


def variable_shardings(
    shapes: Mapping[str, Any], mesh: Mesh, rules: Sequence[ShardingRule] = FSDP_RULES
) -> dict[str, NamedSharding]:
    """Where each of the arrays (anything with a shape, by path) is placed."""
    return {path: NamedSharding(mesh, _spec(path, value.shape, mesh, rules)) for path, value in shapes.items()}


def state_shardings(state: TrainState, mesh: Mesh, rules: Sequence[ShardingRule] = FSDP_RULES) -> TrainState:
    """The sharding of every leaf of a (possibly abstract) state. Moments and averages lie where their weights lie."""
    variables = {**state.params, **state.frozen}
    by_path = variable_shardings(variables, mesh, rules)

    def leaf_sharding(key_path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        path = key_path[-1].key if key_path and isinstance(key_path[-1], jax.tree_util.DictKey) else None
        if path in by_path and leaf.shape == variables[path].shape:
            return by_path[path]
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(leaf_sharding, state)


def global_batch(local: Tree, mesh: Mesh) -> Tree:
    """Each process's share of a batch (numpy arrays, images leading) to global arrays split over the mesh.

    Processes hold consecutive shares, in the order of their index.
    """
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda array: jax.make_array_from_process_local_data(sharding, np.asarray(array)), local)


def to_host(tree: Tree) -> Tree:
    """Global arrays, however split, to full numpy arrays on every process. All processes must call it."""

    def fetch(array: Any) -> Any:
        if isinstance(array, jax.Array) and not array.is_fully_addressable and not array.is_fully_replicated:
            return np.asarray(multihost_utils.process_allgather(array, tiled=True))
        return np.asarray(array)

    return jax.tree.map(fetch, tree)


def replicate(tree: Tree, mesh: Mesh) -> Tree:
    """The same arrays with every device holding all of them, e.g. for evaluation. All processes must call it."""
    return jax.jit(lambda same: same, out_shardings=replicated(mesh))(tree)


def _spec(path: str, shape: tuple[int, ...], mesh: Mesh, rules: Sequence[ShardingRule]) -> PartitionSpec:
    fsdp = mesh.shape[FSDP_AXIS]
    rule = next((rule for rule in rules if re.fullmatch(rule.pattern, path)), None)
    if fsdp == 1 or rule is None or math.prod(shape) < rule.min_size:
        return PartitionSpec()
    divisible = [dimension for dimension, length in enumerate(shape) if length % fsdp == 0]
    if not divisible:
        return PartitionSpec()
    split = max(divisible, key=lambda dimension: shape[dimension])
    return PartitionSpec(*(FSDP_AXIS if dimension == split else None for dimension in range(len(shape))))
