"""What is read from compiled programs."""

import jax
import pytest

from anchordetr_jax.config import Config, MeshConfig, TrainConfig
from anchordetr_jax.errors import UserError
from anchordetr_jax.planning import CHIPS, Collective, find_collectives, lower_train_step, read_plan, tpu_devices
from anchordetr_jax.training.sharding import make_mesh
from tests.training.tiny import MODEL

HLO = """
  %sum = (f32[256]{0:T(256)}, bf16[2,8]{1,0}) all-reduce(%a, %b), replica_groups={{0,1}}, to_apply=%add
  %sum.1 = f32[] all-reduce(%c), replica_groups={{0,1}}, to_apply=%add
  %whole = (f32[4]{0}, f32[8]{0}) all-gather-start(%d), dimensions={0}
  %done = f32[8]{0} all-gather-done(%whole)
  %not = f32[8]{0} fusion(%sum), calls=%all-reduce-like
"""


def test_collectives_are_counted_with_the_bytes_of_their_results() -> None:
    assert find_collectives(HLO) == (
        Collective("all-reduce", count=2, bytes=256 * 4 + 16 * 2 + 4),
        Collective("all-gather", count=1, bytes=8 * 4),
    )


def test_gradients_are_all_that_a_train_step_sends_between_devices() -> None:
    config = Config(model=MODEL, train=TrainConfig(batch_size=4))
    mesh = make_mesh(MeshConfig(), jax.devices()[:4])
    plan = read_plan(lower_train_step(config, mesh, batch_size=4, image_shape=(32, 32), max_boxes=2).compile())
    assert {collective.operation for collective in plan.collectives} == {"all-reduce"}
    # Parameters, their two moments, and little else; the gradients alone are a third of that.
    assert plan.argument_bytes / 3.5 < plan.collective_bytes < plan.argument_bytes / 2.9
    assert plan.flops > 0


def test_an_unknown_tpu_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"'v99:2x2'.*v5e"):
        tpu_devices("v99:2x2")


def test_peak_flops_are_those_of_the_clock() -> None:
    products_a_cycle = {name: chip.peak_tflops * 1e12 / (chip.clock_ghz * 1e9) for name, chip in CHIPS.items()}
    for cycle in products_a_cycle.values():
        assert cycle / (2 * 128 * 128) == pytest.approx(round(cycle / (2 * 128 * 128)), rel=0.01)
