"""What devices send each other in a training step. All functions run on each device, inside `jax.shard_map`."""

from collections.abc import Mapping
from typing import TypeVar

from jax import lax
from jax.sharding import PartitionSpec

from anchordetr_jax.devices import BATCH_AXES, FSDP_AXIS
from anchordetr_jax.kernels.building import Variables
from anchordetr_jax.training.sharding import split_dimension

Tree = TypeVar("Tree")


def sum_over_devices(tree: Tree) -> Tree:
    """The sum of each array over all devices, on all devices."""
    summed: Tree = lax.psum(tree, BATCH_AXES)
    return summed


def gather_parameters(shares: Variables, specs: Mapping[str, PartitionSpec]) -> Variables:
    """Whole arrays, by path, from this device's shares of those that are split over `fsdp`."""
    whole = {}
    for path, value in shares.items():
        split = split_dimension(specs[path])
        whole[path] = value if split is None else lax.all_gather(value, FSDP_AXIS, axis=split, tiled=True)
    return whole


def reduce_gradients(gradients: Variables, specs: Mapping[str, PartitionSpec]) -> Variables:
    """The sum of the gradients of all devices. Where a parameter is split over `fsdp`, this device's share of it."""
    shared, split = {}, {}
    for path, gradient in gradients.items():
        dimension = split_dimension(specs[path])
        if dimension is None:
            shared[path] = gradient
        else:
            split[path] = lax.psum_scatter(gradient, FSDP_AXIS, scatter_dimension=dimension, tiled=True)
    others = tuple(axis for axis in BATCH_AXES if axis != FSDP_AXIS)
    return {**lax.psum(shared, BATCH_AXES), **lax.psum(split, others)}
