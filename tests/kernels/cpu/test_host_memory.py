"""What a process keeps of the memory that it has freed."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import jax
import jax.numpy as jnp
from anchordetr_jax.kernels.cpu.host_memory import keep_host_memory

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
    command = [sys.executable, "-c", PROGRAM]
    printed = subprocess.run(command, env=script_environment, check=True, capture_output=True, text=True).stdout
    assert int(printed) < 1000  # They would be 65,536.
