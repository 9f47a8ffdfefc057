"""Curves of one run and of several, however much there is to draw."""

import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from anchordetr_jax.checkpoints.run_metrics import read_metrics
from anchordetr_jax.commands.plot import names_of
from anchordetr_jax.pictures import curves


def opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")


def write_metrics(path: Path, num_steps: int) -> None:
    lines = []
    for step in range(1, num_steps + 1):
        lines.append(
            json.dumps(
                {"step": step, "epoch": step / 5, "loss": 30 / step, "loss/class": 10 / step, "learning_rate": 1e-4}
            )
        )
        if step % 5 == 0:
            lines.append(json.dumps({"step": step, "epoch": step / 5, "val/AP": 0.01 * step, "val/AP50": -1.0}))
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("num_steps", [0, 1, 3, 100])
def test_curves_are_drawn_however_long_the_run(tmp_path: Path, num_steps: int) -> None:
    write_metrics(tmp_path / "metrics.jsonl", num_steps)
    curves.plot_curves(read_metrics(tmp_path / "metrics.jsonl"), tmp_path / "curves.png")
    assert opened(tmp_path / "curves.png").width > 800


def test_values_that_are_not_finite_leave_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    huge = "1" * 400
    path.write_text(
        '{"step": 1, "loss": NaN}\n{"step": 2, "loss": 3.0}\n{"step": 3, "loss": Infinity}\n'
        f'{{"step": 4, "epoch": null, "loss": 2.0}}\n{{"step": 5, "loss": {huge}}}\n'
    )
    curves.plot_curves(read_metrics(path), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").exists()


def test_pyplot_is_left_alone(tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    write_metrics(tmp_path / "metrics.jsonl", 5)
    curves.plot_curves(read_metrics(tmp_path / "metrics.jsonl"), tmp_path / "curves.png")
    assert plt.get_fignums() == []


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures that were saved."""
    figures: list[Figure] = []
    save = curves.save_figure

    def keep(figure: Figure, path: Path) -> None:
        figures.append(figure)
        save(figure, path)

    monkeypatch.setattr(curves, "save_figure", keep)
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


def test_many_runs_are_told_apart_by_colour_and_line(drawn: list[Figure], tmp_path: Path) -> None:
    curves.plot_runs({f"run{number}": [{"step": 1, "loss": 2.0}] for number in range(20)}, tmp_path / "runs.png")
    (figure,) = drawn
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(looks) == 20


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
