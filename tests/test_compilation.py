"""How a process compiles."""

import subprocess
import sys

PROGRAM = """
import os
import jax
import jax.numpy as jnp
from anchordetr_jax.compilation import join_loops

join_loops()

def sum_and_product(x, y):
    return x + y, x * y

x = jnp.ones((64, 64))
text = jax.jit(sum_and_product).lower(x, x).compile().as_text()
print(text.count("= f32[64,64]{1,0} fusion("), text.count("= (f32[64,64]{1,0}, f32[64,64]{1,0}) fusion("))
print(os.environ["XLA_FLAGS"])
"""


def fusions(environment: dict[str, str]) -> tuple[str, str]:
    """How many fusions with one result the program has, and how many with two; and XLA's flags."""
    command = [sys.executable, "-c", PROGRAM]
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
