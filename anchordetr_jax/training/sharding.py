"""Which parameters are split over the mesh axis `fsdp`, and along which dimension."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh, NamedSharding, PartitionSpec

from anchordetr_jax.devices import FSDP_AXIS


class ShardingRule(NamedTuple):
    """Parameters whose whole path matches `pattern` are split over `fsdp` if they are large."""

    pattern: str
    min_size: float
    """Arrays with at least this number of elements are split, along their longest dimension that `fsdp` divides."""


FSDP_RULES: tuple[ShardingRule, ...] = (ShardingRule(r"backbone/stem/.*", math.inf), ShardingRule(r".*", 2**16))
"""The first rule whose pattern matches decides."""


def variable_shardings(
    shapes: Mapping[str, Any], mesh: Mesh, rules: Sequence[ShardingRule] = FSDP_RULES
) -> dict[str, NamedSharding]:
    """The sharding of each array, by path. `shapes`: anything with a `.shape`, by path."""
    return {path: NamedSharding(mesh, _spec(path, value.shape, mesh, rules)) for path, value in shapes.items()}


def partition_specs(variables: Mapping[str, Any]) -> dict[str, PartitionSpec]:
    """How arrays that have a sharding are split, by path."""
    return {path: value.sharding.spec for path, value in variables.items()}


def split_dimension(spec: PartitionSpec) -> int | None:
    """The dimension that is split over `fsdp`; None if there is none."""
    return next((dimension for dimension, axis in enumerate(spec) if axis == FSDP_AXIS), None)


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
