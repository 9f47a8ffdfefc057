"""Where arrays are placed on a mesh of devices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from anchordetr_jax.config import MeshConfig
from anchordetr_jax.devices import (
    FSDP_RULES,
    ShardingRule,
    check_batch_size,
    global_batch,
    make_mesh,
    replicate,
    to_host,
    variable_shardings,
)
from anchordetr_jax.errors import UserError
from tests.training.tiny import batch, equal, trainer

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


def test_a_side_that_fsdp_does_not_divide_is_passed_over() -> None:
    rules = (ShardingRule(".*", 1),)
    found = specs({"a": (6, 9), "b": (3, 5)}, fsdp=2, rules=rules)
    assert found == {"a": PartitionSpec("fsdp", None), "b": PartitionSpec()}


def test_the_first_rule_that_matches_decides() -> None:
    rules = (ShardingRule("head/.*", float("inf")), ShardingRule(".*", 1))
    found = specs({"head/kernel": (8, 8), "neck/kernel": (8, 8)}, fsdp=2, rules=rules)
    assert found == {"head/kernel": PartitionSpec(), "neck/kernel": PartitionSpec("fsdp", None)}


def test_optimiser_moments_lie_where_their_parameters_lie() -> None:
    state = trainer(devices=4, fsdp=2).abstract
    moments = state.opt_state[1].mu
    assert {path: leaf.sharding for path, leaf in moments.items()} == {
        path: leaf.sharding for path, leaf in state.params.items()
    }
    assert any(leaf.sharding.spec != PartitionSpec() for leaf in moments.values())


def test_the_mesh_takes_all_devices() -> None:
    mesh = make_mesh(MeshConfig(fsdp=2))
    assert dict(mesh.shape) == {"data": jax.device_count() // 2, "fsdp": 2}


def test_fsdp_must_divide_the_devices() -> None:
    with pytest.raises(UserError, match=r"mesh\.fsdp.*3.*8"):
        make_mesh(MeshConfig(fsdp=3))


def test_a_batch_must_divide_over_the_devices() -> None:
    mesh = make_mesh(MeshConfig())
    check_batch_size(16, mesh, "train.batch_size")
    with pytest.raises(UserError, match=r"train\.batch_size.*12.*multiple.*8"):
        check_batch_size(12, mesh, "train.batch_size")


def test_micro_batches_must_divide_the_images_of_a_device() -> None:
    mesh = make_mesh(MeshConfig())
    check_batch_size(16, mesh, "train.batch_size", accumulate=2)
    with pytest.raises(UserError, match=r"train\.accumulate.*4.*divide.*2 \('train\.batch_size'=16 over 8"):
        check_batch_size(16, mesh, "train.batch_size", accumulate=4)


def test_each_device_gets_its_images() -> None:
    images = batch().images
    shared: Any = global_batch(batch(), make_mesh(MeshConfig(fsdp=2))).images
    assert shared.shape == images.shape
    by_device = {shard.device.id: np.asarray(shard.data) for shard in shared.addressable_shards}
    for index, device in enumerate(jax.devices()):
        np.testing.assert_array_equal(by_device[device.id], images[index : index + 1])


def test_what_was_split_comes_back_whole() -> None:
    state = trainer(devices=4, fsdp=2).state
    whole = to_host(state)
    assert equal(whole, replicate(state, make_mesh(MeshConfig(), jax.devices()[:4])))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(whole))
