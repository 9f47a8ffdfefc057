"""GPUs that are not there."""

import pytest
from jax.experimental import topologies

from anchordetr_jax.benchmark.planning_gpu import gpu_devices
from anchordetr_jax.errors import UserError


def test_an_unknown_gpu_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"'h900'.*h100"):
        gpu_devices("h900", 1)


def test_a_missing_gpu_compiler_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(**_: object) -> None:
        raise NotImplementedError("topology not implemented for cuda")

    monkeypatch.setattr(topologies, "get_topology_desc", missing)
    with pytest.raises(UserError, match=r"cannot compile for 'h100'.*jax\[cuda12\]"):
        gpu_devices("h100", 1)
