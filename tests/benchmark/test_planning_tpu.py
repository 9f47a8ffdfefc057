"""TPUs that are not there."""

import jax
import pytest

from anchordetr_jax.benchmark.compiled import Collective, Plan
from anchordetr_jax.benchmark.planning import slice_mesh
from anchordetr_jax.benchmark.planning_tpu import CHIPS, TpuPlan, tpu_devices
from anchordetr_jax.config import MeshConfig
from anchordetr_jax.errors import UserError


def test_an_unknown_tpu_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"'v99:2x2'.*v5e"):
        tpu_devices("v99:2x2")


def test_peak_flops_follow_from_the_clock() -> None:
    products_a_cycle = {name: chip.peak_tflops * 1e12 / (chip.clock_ghz * 1e9) for name, chip in CHIPS.items()}
    for cycle in products_a_cycle.values():
        assert cycle / (2 * 128 * 128) == pytest.approx(round(cycle / (2 * 128 * 128)), rel=0.01)


def test_a_mesh_also_takes_devices_that_share_a_chip() -> None:
    assert slice_mesh(MeshConfig(fsdp=2), jax.devices()[:6]).shape == {"data": 3, "fsdp": 2}


def plan(cycles: int, sent: int = 0) -> Plan:
    """Of a step with these cycles that sends these bytes."""
    collectives = (Collective("all-reduce", 1, sent),) if sent else ()
    return Plan(0, 0, flops=1e9, bytes_accessed=0.0, cycles=cycles, kernel_cycles=0, collectives=collectives)


def test_efficiency_compares_one_chip_with_many_that_also_communicate() -> None:
    many = TpuPlan(
        topology="v5e:2x2",
        chips=4,
        images_per_chip=1,
        image_shape=(64, 96),
        plan=plan(cycles=1_500_000, sent=25_000_000),  # 1 ms, and 0.5 ms for 50 MB at 100 GB/s.
        alone=plan(cycles=1_500_000),
        compile_seconds=1.0,
    )
    assert many.efficiency == pytest.approx(1 / 1.5)
    assert many.figures()["shape"] == "64x96"
    assert "efficiency      66.7%" in str(many)
