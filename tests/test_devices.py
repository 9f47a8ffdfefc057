"""The mesh of devices, and batches on it."""

from typing import Any

import jax
import numpy as np
import pytest

from anchordetr_jax.config import MeshConfig
from anchordetr_jax.devices import check_batch_size, global_batch, make_mesh
from anchordetr_jax.errors import UserError
from tests.training.tiny import batch


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
