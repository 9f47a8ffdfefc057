"""Outputs that the official code computed, for every variant, in float64; test_golden_training.py trains."""

import functools
from pathlib import Path

import numpy as np
import pytest

from anchordetr_jax.errors import UserError
from anchordetr_jax.verification import proofs
from anchordetr_jax.verification.cases import Case, Outputs
from anchordetr_jax.verification.computation import compute
from anchordetr_jax.verification.proofs import verify_golden

FOLDER = Path(__file__).parent.parent / "golden"
TRAINING = FOLDER / "r50_dc5_train.npz"
"""test_golden_training.py computes it, so that another process of pytest-xdist can take it."""
CHANGED = "r50_dc5_grid"
"""Two tests need its outputs, and they are computed once."""


@functools.cache
def outputs_of_changed(dtype: str) -> Outputs:
    return compute(proofs.read_golden(FOLDER / f"{CHANGED}.npz").case, dtype)


def compute_once(case: Case, dtype: str, **options: object) -> Outputs:
    assert case.name == CHANGED
    assert options == {"kernels": None}
    return outputs_of_changed(dtype)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("path", sorted(set(FOLDER.glob("*.npz")) - {TRAINING}), ids=lambda path: path.stem)
def test_values_of_the_official_code_are_reproduced(path, monkeypatch):
    if path.stem == CHANGED:
        monkeypatch.setattr(proofs, "compute", compute_once)
    table = verify_golden(path)
    assert table.passed, str(table)


@pytest.mark.usefixtures("x64")
def test_a_value_that_differs_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(proofs, "compute", compute_once)
    with np.load(FOLDER / f"{CHANGED}.npz") as file:
        arrays = dict(file)
    arrays["logits"] = arrays["logits"].copy()
    arrays["logits"][-1, 0, 3, 7] += 1e-9
    np.savez(tmp_path / "changed.npz", **arrays)
    table = verify_golden(tmp_path / "changed.npz")
    assert [row.stage for row in table.failed] == ["logits"] or any("logits" in row.stage for row in table.failed)


def test_differences_of_bfloat16_are_reported_and_not_judged():
    table = verify_golden(FOLDER / "r50_c5.npz", "bfloat16")
    assert table.passed
    assert all(row.tolerance is None for row in table.rows)
    logits = [row.error for row in table.rows if row.stage.startswith("logits/")]
    assert logits
    assert all(1e-4 < error < 0.2 for error in logits)  # it was computed in bfloat16, and in nothing coarser


def test_a_file_of_something_else_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(UserError, match=r"other\.npz"):
        verify_golden(tmp_path / "other.npz")
