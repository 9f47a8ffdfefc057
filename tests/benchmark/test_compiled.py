"""What is read from compiled programs."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from anchordetr_jax.benchmark.compiled import Collective, find_collectives, kernel_cycles, library_calls, read_plan
from anchordetr_jax.benchmark.planning import lower_train_step
from anchordetr_jax.config import Config, MeshConfig, TrainConfig
from anchordetr_jax.devices import make_mesh
from anchordetr_jax.errors import UserError
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


def test_a_train_step_sends_only_gradients_between_devices() -> None:
    config = Config(model=MODEL, train=TrainConfig(batch_size=4))
    mesh = make_mesh(MeshConfig(), jax.devices()[:4])
    plan = read_plan(lower_train_step(config, mesh, batch_size=4, image_shape=(32, 32), max_boxes=2).compile())
    assert {collective.operation for collective in plan.collectives} == {"all-reduce"}
    # The arguments are the parameters and their two moments, and little else. The gradients are a third of that.
    assert plan.argument_bytes / 3.5 < plan.collective_bytes < plan.argument_bytes / 2.9
    assert plan.flops > 0


def test_a_kernel_takes_its_schedule_for_every_step_of_its_grid(tmp_path: Path) -> None:
    compiled = {"attention_x12.2": 100, "attention_x3": 7, "transpose_jvp_attention_x5__.4": 10}
    hlo = "".join(
        f'  %{name} = bf16[8,64]{{1,0}} custom-call(%a), custom_call_target="tpu_custom_call"\n'
        for name in ("attention_x12.1", *compiled)  # Of equal kernels one is compiled.
    )
    for name, words in compiled.items():
        (tmp_path / f"17-{name}-00-schedule-analysis_final_bundles.txt").write_text(
            f"Schedule analysis:\n\ttotal scheduled bundles:    {words}\n"
        )
    assert kernel_cycles(hlo, tmp_path) == 2 * 12 * 100 + 3 * 7 + 5 * 10
    with pytest.raises(UserError, match="no schedule of other_x2"):
        kernel_cycles('%other_x2.1 = f32[] custom-call(), custom_call_target="tpu_custom_call"', tmp_path)


def test_a_kernel_whose_name_does_not_say_its_steps_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 of 1 kernels in the compiled program do not have the names"):
        kernel_cycles('  %pallas_call.7 = f32[8]{0} custom-call(%a), custom_call_target="tpu_custom_call"', tmp_path)


def test_calls_of_nvidias_libraries_are_counted_by_function() -> None:
    call = '  %c = f32[8]{0} custom-call(%a), custom_call_target="'
    hlo = "\n".join(
        f'{call}{name}"' for name in ("__cublas$lt$matmul", "__cublas$lt$matmul", "__cudnn$convForward", "TopK")
    )
    assert library_calls(hlo) == {"cublas_lt_matmul": 2, "cudnn_convForward": 1}


class Unreadable:
    """A compiled program that JAX cannot turn into text."""

    def as_text(self) -> str:
        raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure: async-update instruction\nmore")

    def memory_analysis(self) -> Any:
        return SimpleNamespace(temp_size_in_bytes=5, argument_size_in_bytes=7)

    def cost_analysis(self) -> dict[str, float]:
        return {"flops": 11.0, "bytes accessed": 13.0}


def test_a_program_that_jax_cannot_read_is_read_from_the_compilers_file(tmp_path: Path) -> None:
    program: Any = Unreadable()
    with pytest.raises(UserError, match=r"wrote none: INTERNAL.*async-update instruction$"):
        read_plan(program, tmp_path)
    estimate = '  %a = f32[4]{0} fusion(%b), backend_config={"estimated_cycles":"'
    cycles = 17, 2**64 - 1, 2**63 - 1  # The compiler knows nothing of the last two.
    text = "".join(f'{estimate}{number}"}}\n' for number in cycles)
    (tmp_path / "module_0001.jit_train_step.after_codegen.txt").write_text(text + HLO)
    plan = read_plan(program, tmp_path)
    assert (plan.cycles, plan.memory_bytes, plan.collectives) == (17, 12, find_collectives(HLO))
