"""Curves of several runs, and histograms of a data set, whatever there is to draw."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from anchordetr_jax.pictures import curves
from scripts.plot_runs import names_of


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures that were saved."""
    figures: list[Figure] = []
    save = curves._save

    def keep(figure: Figure, path: Path) -> None:
        figures.append(figure)
        save(figure, path)

    monkeypatch.setattr(curves, "_save", keep)
    return figures


def test_runs_lie_over_one_another_with_one_legend(drawn: list[Figure], tmp_path: Path) -> None:
    runs = {
        name: [
            {"step": 1, "epoch": 0.5, "loss": 2.0, "learning_rate": 1e-4},
            {"step": 2, "epoch": 1.0, "val/AP": best, "val/AP50": 0.5},
        ]
        for name, best in (("first", 0.25), ("second", 0.375))
    }
    curves.plot_runs({**runs, "begun": []}, tmp_path / "runs.png")
    (figure,) = drawn
    assert [len(panel.get_legend_handles_labels()[1]) for panel in figure.axes] == [2, 2, 2, 2]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["first   (best AP 0.250)", "second   (best AP 0.375)"]
    assert (tmp_path / "runs.png").read_bytes().startswith(b"\x89PNG")


def test_runs_without_any_line_are_drawn_as_empty(tmp_path: Path) -> None:
    curves.plot_runs({"begun": []}, tmp_path / "runs.png")
    assert (tmp_path / "runs.png").exists()


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["/runs/a/metrics.jsonl", "/runs/b/metrics.jsonl"], ["a", "b"]),
        (["/x/run/metrics.jsonl", "/y/run/metrics.jsonl"], ["x/run", "y/run"]),
        (["/x/run/metrics.jsonl", "/x/run/metrics.jsonl"], ["1: run", "2: run"]),
    ],
)
def test_a_run_is_named_by_what_tells_it_from_the_others(files: list[str], names: list[str]) -> None:
    assert names_of(files) == names


@pytest.mark.parametrize("objects", [0, 1, 50])
def test_objects_of_a_data_set_of_any_size_are_drawn(objects: int, drawn: list[Figure], tmp_path: Path) -> None:
    sizes = np.random.default_rng(0).uniform(2, 200, (objects, 2))
    curves.plot_objects(
        {"train": (sizes, np.array([objects, 0])), "val": (sizes[:1], np.array([1]))},
        {"train": {"cell": objects}, "val": {"cell": 1}},
        tmp_path / "objects.png",
    )
    assert [panel.get_title(loc="left") for panel in drawn[0].axes][3] == "Objects of each class"
    assert (tmp_path / "objects.png").exists()
