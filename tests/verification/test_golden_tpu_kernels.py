"""Outputs and a training step that the official code computed, in float64, by the TPU's kernels (interpreted)."""

from pathlib import Path

import pytest

from tests.processes import start

FOLDER = Path(__file__).parent.parent / "golden"

PROGRAM = """
import sys
import jax
from anchordetr_jax.kernels.cpu.process import join_loops
from anchordetr_jax.verification.proofs import verify_golden
join_loops()
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", False)
table = verify_golden(sys.argv[1], kernels="tpu")
sys.exit(None if table.passed else str(table))
"""
USUAL_COMPILATION = "--xla_cpu_use_fusion_emitters=true --xla_backend_optimization_level=3"
"""XLA's older code generator, which makes other tests fast, computes wrong gradients of the interpreted kernels."""


@pytest.mark.processes
@pytest.mark.parametrize("case", ["r50_dc5_train", "r50_dc5_padded_batch"])
def test_golden_values_are_reproduced_by_the_kernels_of_tpus(case, script_environment):
    environment = {**script_environment, "XLA_FLAGS": f"{script_environment['XLA_FLAGS']} {USUAL_COMPILATION}"}
    process = start(["-c", PROGRAM, str(FOLDER / f"{case}.npz")], FOLDER.parents[1], environment)
    _, errors = process.communicate()
    assert process.wait() == 0, errors
