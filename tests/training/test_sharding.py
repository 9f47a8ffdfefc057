"""How parameters and the rest of the state are split over devices."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from anchordetr_jax.config import MeshConfig
from anchordetr_jax.devices import make_mesh
from anchordetr_jax.training.sharding import FSDP_RULES, ShardingRule, variable_shardings
from tests.training.tiny import trainer

WIDE = {"encoder/ffn/kernel": (256, 1024), "encoder/ffn/bias": (1024,), "backbone/stem/kernel": (1024, 1024)}


def specs(
    shapes: dict[str, tuple[int, ...]], fsdp: int, rules: tuple[ShardingRule, ...] = FSDP_RULES
) -> dict[str, PartitionSpec]:
    abstract = {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in shapes.items()}
    shardings = variable_shardings(abstract, make_mesh(MeshConfig(fsdp=fsdp)), rules)
    return {path: sharding.spec for path, sharding in shardings.items()}


def test_large_parameters_are_split_along_their_longest_side() -> None:
    assert specs(WIDE, fsdp=4) == {
        "encoder/ffn/kernel": PartitionSpec(None, "fsdp"),
        "encoder/ffn/bias": PartitionSpec(),
        "backbone/stem/kernel": PartitionSpec(),
    }


def test_with_one_fsdp_device_nothing_is_split() -> None:
    assert set(specs(WIDE, fsdp=1).values()) == {PartitionSpec()}


def test_a_dimension_that_fsdp_does_not_divide_is_not_split() -> None:
    rules = (ShardingRule(".*", 1),)
    found = specs({"a": (6, 9), "b": (3, 5)}, fsdp=2, rules=rules)
    assert found == {"a": PartitionSpec("fsdp", None), "b": PartitionSpec()}


def test_the_first_rule_that_matches_decides() -> None:
    rules = (ShardingRule("head/.*", float("inf")), ShardingRule(".*", 1))
    found = specs({"head/kernel": (8, 8), "neck/kernel": (8, 8)}, fsdp=2, rules=rules)
    assert found == {"head/kernel": PartitionSpec(), "neck/kernel": PartitionSpec("fsdp", None)}


def test_optimiser_moments_are_split_like_their_parameters() -> None:
    state = trainer(devices=4, fsdp=2).abstract
    moments = state.opt_state[1].mu
    assert {path: leaf.sharding for path, leaf in moments.items()} == {
        path: leaf.sharding for path, leaf in state.params.items()
    }
    assert any(leaf.sharding.spec != PartitionSpec() for leaf in moments.values())
