"""Losses, gradients and training steps that the official code computed, in float64."""

from pathlib import Path

import pytest

from anchordetr_jax.verification.proofs import verify_golden
from tests.processes import start

TRAINING = Path(__file__).parent.parent / "golden/r50_dc5_train.npz"

PROGRAM = """
import sys
import jax
from anchordetr_jax.kernels.cpu.process import set_up_xla
from anchordetr_jax.verification.proofs import verify_golden
set_up_xla()
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", False)
table = verify_golden(sys.argv[1])
sys.exit(None if table.passed else str(table))
"""


@pytest.mark.usefixtures("x64", "optimized")
def test_training_of_the_official_code_is_reproduced_by_the_plain_model():
    table = verify_golden(TRAINING, kernels="none")
    assert table.passed, str(table)


@pytest.mark.processes
def test_training_of_the_official_code_is_reproduced_as_users_run_it(usual_environment):
    process = start(["-c", PROGRAM, str(TRAINING)], TRAINING.parents[2], usual_environment)
    _, errors = process.communicate()
    assert process.wait() == 0, errors
