from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anchordetr_jax.pictures.precision_recall import PrecisionRecall, plot_precision_recall


def curves(*, objects: int) -> PrecisionRecall:
    """Three classes, the first few of which have objects."""
    precision = np.full((10, 101, 3), -1.0)
    precision[:, :, :objects] = np.linspace(1, 0.2, 101)[None, :, None]
    return PrecisionRecall(
        names=("price $1\\frac$", "two\nlines", "_猫 🦘"),
        objects=(1,) * objects + (0,) * (3 - objects),
        precision=precision,
        recalls=np.linspace(0, 1, 101),
    )


@pytest.mark.parametrize("objects", [0, 1, 3])
def test_curves_are_drawn_with_and_without_objects(tmp_path: Path, objects: int) -> None:
    plot_precision_recall(curves(objects=objects), tmp_path / "pr.png", max_classes=2)
    with Image.open(tmp_path / "pr.png") as picture:
        assert picture.width > 800
