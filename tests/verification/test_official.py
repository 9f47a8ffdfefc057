"""The official code itself beside ours: `ANCHORDETR_REPO=CHECKOUT pytest tests/verification/test_official.py`."""

import sys
from pathlib import Path
from typing import Any

import pytest

from anchordetr_jax.config import Config, ModelConfig
from anchordetr_jax.errors import UserError
from anchordetr_jax.verification.official import OfficialCode
from anchordetr_jax.verification.proofs import Trial, verify_official
from tests.official_code import REPO, needs_official_code


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a checkout of the official code"):
        OfficialCode(tmp_path)


@pytest.mark.torch
@needs_official_code
@pytest.mark.parametrize("variant", [{}, {"attention": "standard"}, {"num_feature_levels": 3}])
def test_everything_agrees_with_the_official_code(variant: dict[str, Any]) -> None:
    model = ModelConfig(num_classes=91, num_anchors=12, encoder_layers=2, decoder_layers=2, **variant)
    trial = Trial(config=Config(model=model), sizes=((64, 96), (96, 64)), steps=2)
    for table in verify_official(REPO, trial, dtypes=["float64"]):
        assert table.passed, str(table)


@pytest.mark.torch
@needs_official_code
def test_names_of_the_checkout_are_taken_only_while_it_runs() -> None:
    code = OfficialCode(REPO)
    with code.running("float32"):
        assert sys.modules["models"] is code.models
        assert sys.modules["util.misc"] is code.misc
    assert not {"models", "util", "util.misc"} & sys.modules.keys()
