"""Losses, gradients and training steps that the official code computed, in float64."""

from pathlib import Path

import pytest

from anchordetr_jax.verification.proofs import verify_golden

TRAINING = Path(__file__).parent.parent / "golden/r50_dc5_train.npz"

pytestmark = pytest.mark.usefixtures("x64", "optimized")


@pytest.mark.parametrize("kernels", [None, "none"], ids=["default", "plain"])
def test_training_of_the_official_code_is_reproduced(kernels):
    table = verify_golden(TRAINING, kernels=kernels)
    assert table.passed, str(table)
