"""A run's curves are renewed as it goes, and predictions kept of every evaluation."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anchordetr_jax.data.source import DetectionSource
from anchordetr_jax.evaluation.coco_metrics import coco_scores
from anchordetr_jax.training.watching.pictures import RunWatch
from tests.data.coco_folder import open_coco
from tests.page import Page


def write_line(workdir: Path, step: int, **values: float) -> dict[str, float]:
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "epoch": step / 10, **values}) + "\n")
    return values


def test_curves_are_drawn_after_evaluations_at_intervals_and_at_the_end(tmp_path: Path) -> None:
    curves = tmp_path / "curves.png"
    with RunWatch(tmp_path, seconds_between_curves=1e9) as watch:
        watch.line(1, write_line(tmp_path, 1, loss=3.0))
        watch._finish_drawing()
        assert not curves.exists()
        watch.line(2, write_line(tmp_path, 2, **{"val/AP": 0.1}))
        watch._finish_drawing()
        after_evaluation = curves.stat().st_mtime_ns
        watch.line(3, write_line(tmp_path, 3, loss=2.0))
    assert curves.stat().st_mtime_ns > after_evaluation
    with RunWatch(tmp_path, seconds_between_curves=0) as watch:
        curves.unlink()
        watch.line(4, write_line(tmp_path, 4, loss=1.0))
        watch._finish_drawing()
        assert curves.exists()


def test_the_page_of_a_run_shows_the_newest_evaluation_and_stays_when_the_run_goes_on(tmp_path: Path) -> None:
    dataset = one_image(tmp_path)
    workdir, truth = tmp_path / "run", dataset.ground_truth()
    workdir.mkdir()
    assert truth is not None
    with RunWatch(workdir) as watch:
        for step, score in ((5, 0.6), (10, 0.8)):
            results = [{"image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20], "score": score}]
            watch.report(step, dataset, results, coco_scores(truth, results))
            watch.line(step, write_line(workdir, step, **{"val/AP": 1.0}))
    page = Page.of(workdir / "report" / "index.html")
    assert page.headings[:3] == ["Training: run", "The run", "COCO's scores"]
    assert page.numbers["AP"] == "1.000"
    assert "steps: 10" in page.text
    assert page.tables[0][1][5] == "0.800"
    assert all(reference.startswith("data:image/") for reference in page.references)
    with RunWatch(workdir) as watch:
        watch.line(11, write_line(workdir, 11, loss=1.0))
    assert "steps: 10" in Page.of(workdir / "report" / "index.html").text


def one_image(tmp_path: Path) -> DetectionSource:
    """A data set of one image with one object."""
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 60, "height": 40}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20]}],
        "categories": [{"id": 1, "name": "cell"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    return open_coco(tmp_path, tmp_path / "a.json")


def test_every_evaluation_writes_a_grid_and_the_newest_has_a_fixed_name(tmp_path: Path) -> None:
    dataset = one_image(tmp_path)
    results = [{"image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20], "score": 0.9}]
    logger = KeepingLogger()
    with RunWatch(tmp_path / "run", [logger]) as watch:
        watch.predictions(5, dataset, [])
        watch.predictions(10, dataset, results)
    grids = [tmp_path / "run" / "predictions" / f"step_{step:06d}.png" for step in (5, 10)]
    assert grids[0].read_bytes() != grids[1].read_bytes()
    assert (tmp_path / "run" / "predictions.png").read_bytes() == grids[1].read_bytes()
    assert logger.calls == [
        *(("images", step, {"val/predictions": grid}) for step, grid in zip((5, 10), grids, strict=True)),
        ("close", False),
    ]


def test_a_grid_that_cannot_be_drawn_does_not_end_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = one_image(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "predictions").write_text("a file in the place of the folder")
    logger = KeepingLogger()
    with RunWatch(tmp_path / "run", [logger]) as watch:
        watch.predictions(5, dataset, [])
    assert "The picture of predictions could not be drawn" in caplog.text
    assert logger.calls == [("close", False)]


class KeepingLogger:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def config(self, settings: Mapping[str, Any]) -> None:
        self.calls.append(("config", settings))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.calls.append(("scalars", step, values))

    def images(self, step: int, files: Mapping[str, Any]) -> None:
        self.calls.append(("images", step, {name: Path(file) for name, file in files.items()}))

    def close(self, *, failed: bool) -> None:
        self.calls.append(("close", failed))


def test_loggers_get_finite_numbers_with_their_prefixes_and_hear_how_the_run_ends(tmp_path: Path) -> None:
    logger = KeepingLogger()
    with contextlib.suppress(KeyError), RunWatch(tmp_path, [logger], seconds_between_curves=1e9) as watch:
        watch.line(10, {"epoch": 0.5, "loss": 2.5, "loss/box": float("nan"), "bad_steps": 0})
        watch.line(20, {"epoch": 1.0, "val/AP": 0.25})
        raise KeyError
    assert logger.calls == [
        ("scalars", 10, {"train/loss": 2.5, "train/bad_steps": 0}),
        ("scalars", 20, {"val/AP": 0.25}),
        ("close", True),
    ]
