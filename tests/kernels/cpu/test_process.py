"""How a process computes on CPUs."""

import os
import platform
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from anchordetr_jax.kernels import compiler_options
from anchordetr_jax.kernels.cpu import process

MEMORY_PROGRAM = """
import resource
import jax
import jax.numpy as jnp
from anchordetr_jax.kernels.cpu.process import keep_host_memory

keep_host_memory()

@jax.jit
def product_of_three(x):
    return x @ x.T @ x  # 256 MB after the first of the two.

x = jnp.ones((8192, 8))
faults = []
for _ in range(20):  # The heap takes some to grow to what is needed.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    product_of_three(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has other ways")
def test_a_program_that_runs_again_touches_no_new_pages(script_environment: dict[str, str]) -> None:
    command = [sys.executable, "-c", MEMORY_PROGRAM]
    printed = subprocess.run(command, env=script_environment, check=True, capture_output=True, text=True).stdout
    assert int(printed) < 1000  # They would be 65,536.


LOOPS_PROGRAM = """
import os
import jax
import jax.numpy as jnp
from anchordetr_jax.kernels.cpu.process import join_loops

join_loops()

def sum_and_product(x, y):
    return x + y, x * y

x = jnp.ones((64, 64))
text = jax.jit(sum_and_product).lower(x, x).compile().as_text()
print(text.count("= f32[64,64]{1,0} fusion("), text.count("= (f32[64,64]{1,0}, f32[64,64]{1,0}) fusion("))
print(os.environ["XLA_FLAGS"])
"""


def fusions(environment: dict[str, str]) -> tuple[str, str]:
    """The numbers of fusions with one result and with two in the program, and XLA's flags."""
    command = [sys.executable, "-c", LOOPS_PROGRAM]
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    counts, flags = printed.splitlines()
    return counts, flags


def test_results_of_the_same_arrays_are_computed_in_one_loop(script_environment: dict[str, str]) -> None:
    counts, flags = fusions({**script_environment, "XLA_FLAGS": "--xla_cpu_enable_fast_math=false"})
    assert counts == "0 1"
    assert flags.startswith("--xla_cpu_enable_fast_math=false ")


def test_extra_options_of_the_environment_stay_alone(script_environment: dict[str, str]) -> None:
    given = "--xla_backend_extra_options=xla_cpu_disable_platform_dependent_math"
    assert fusions({**script_environment, "XLA_FLAGS": given}) == ("2 0", given)


def test_products_are_computed_by_xla_itself() -> None:
    function = jax.jit(lambda x: jnp.tanh(x @ x), compiler_options=compiler_options("cpu"))
    assert "__ynn_fusion" not in (function.lower(jnp.ones((256, 256))).compile().as_text() or "")


def test_other_platforms_get_no_options() -> None:
    assert not compiler_options("tpu")


@pytest.mark.parametrize(("processors", "threads"), [(1, "2"), (2, None)])
def test_a_single_processor_gets_a_second_thread_for_the_host_callbacks(
    processors: int, threads: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NPROC", "")  # So that it is as before after the test.
    monkeypatch.delenv("NPROC")
    monkeypatch.setattr(process, "processors", lambda: processors)
    process.leave_a_thread_for_callbacks()
    assert os.environ.get("NPROC") == threads


def test_a_number_of_threads_that_somebody_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPROC", "8")
    monkeypatch.setattr(process, "processors", lambda: 1)
    process.leave_a_thread_for_callbacks()
    assert os.environ["NPROC"] == "8"
