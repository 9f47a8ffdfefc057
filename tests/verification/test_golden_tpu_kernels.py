"""Outputs and a training step that the official code computed, in float64, by the TPU's kernels (interpreted)."""

from pathlib import Path

import pytest

from anchordetr_jax.verification.proofs import verify_golden

FOLDER = Path(__file__).parent.parent / "golden"


@pytest.mark.usefixtures("x64", "optimized")
@pytest.mark.parametrize("case", ["r50_dc5_train", "r50_dc5_padded_batch"])
def test_golden_values_are_reproduced_by_the_kernels_of_tpus(case):
    table = verify_golden(FOLDER / f"{case}.npz", kernels="tpu")
    assert table.passed, str(table)
