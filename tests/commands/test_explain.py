"""The pictures that `anchordetr explain` writes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anchordetr_jax.commands import main
from tests.detector import save_detector


def test_images_whose_names_differ_by_their_suffix_get_pictures_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = save_detector(tmp_path / "checkpoint")
    images = [tmp_path / "1.jpg", tmp_path / "1.png"]
    for image in images:
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(image)
    output = tmp_path / "seen"
    assert main(["explain", *map(str, images), f"--checkpoint={checkpoint}", f"--output={output}"]) == 0
    assert "Pictures of 2 images" in capsys.readouterr().out
    assert {path.name for path in output.glob("*_anchors.png")} == {"1_anchors.png", "1_jpg_anchors.png"}
