"""detrex's own modules beside ours: `DETREX_REPO=CHECKOUT pytest tests/verification/test_detrex.py`."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from anchordetr_jax.config import Config, ModelConfig
from anchordetr_jax.errors import UserError
from anchordetr_jax.verification.detrex import MODULES, DetrexCode
from anchordetr_jax.verification.proofs import Trial, verify_detrex

REPO = os.environ.get("DETREX_REPO", "")
needs_detrex = pytest.mark.skipif(not REPO, reason="DETREX_REPO names no checkout of detrex")


def test_a_folder_that_is_not_a_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a checkout of detrex"):
        DetrexCode(tmp_path)


@pytest.mark.torch
@needs_detrex
@pytest.mark.parametrize("variant", [{}, {"attention": "standard"}, {"dilation": False}])
def test_everything_agrees_with_detrex(variant: dict[str, Any]) -> None:
    model = ModelConfig(
        num_classes=80, num_anchors=12, encoder_layers=2, decoder_layers=2, anchor_border=1e-3, **variant
    )
    trial = Trial(config=Config(model=model), sizes=((64, 96), (96, 64)))
    for table in verify_detrex(REPO, trial, dtypes=["float64"]):
        assert table.passed, str(table)
    assert not any(name.partition(".")[0] in MODULES for name in sys.modules)
