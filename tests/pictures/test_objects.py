"""Histograms of a data set, however many objects it has and whatever its classes are called."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from anchordetr_jax.pictures import objects as plots


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures that were saved."""
    figures: list[Figure] = []
    save = plots.save_figure

    def keep(figure: Figure, path: Path) -> None:
        figures.append(figure)
        save(figure, path)

    monkeypatch.setattr(plots, "save_figure", keep)
    return figures


@pytest.mark.parametrize("objects", [0, 1, 50])
def test_objects_of_a_data_set_of_any_size_are_drawn(objects: int, drawn: list[Figure], tmp_path: Path) -> None:
    sizes = np.random.default_rng(0).uniform(2, 200, (objects, 2))
    plots.plot_objects(
        {"train": (sizes, np.array([objects, 0])), "val": (sizes[:1], np.array([1]))},
        {"train": {"cell": objects, "price $1\\frac$\nnet": objects, "猫 🦘": 1}, "val": {"cell": 1}},
        tmp_path / "objects.png",
    )
    assert [panel.get_title(loc="left") for panel in drawn[0].axes][3] == "Objects of each class"
    assert (tmp_path / "objects.png").exists()
