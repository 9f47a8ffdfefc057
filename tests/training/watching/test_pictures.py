"""A run's curves are renewed as it goes, and predictions kept of every evaluation."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from anchordetr_jax.training.watching.pictures import RunWatch
from tests.data.coco_folder import open_coco


def write_line(workdir: Path, step: int, **values: float) -> dict[str, float]:
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "epoch": step / 10, **values}) + "\n")
    return values


def test_curves_are_drawn_after_evaluations_at_intervals_and_at_the_end(tmp_path: Path) -> None:
    curves = tmp_path / "curves.png"
    with RunWatch(tmp_path, tensorboard=False, seconds_between_curves=1e9) as watch:
        watch.line(1, write_line(tmp_path, 1, loss=3.0))
        watch._finish_drawing()
        assert not curves.exists()
        watch.line(2, write_line(tmp_path, 2, **{"val/AP": 0.1}))
        watch._finish_drawing()
        after_evaluation = curves.stat().st_mtime_ns
        watch.line(3, write_line(tmp_path, 3, loss=2.0))
    assert curves.stat().st_mtime_ns > after_evaluation
    with RunWatch(tmp_path, tensorboard=False, seconds_between_curves=0) as watch:
        curves.unlink()
        watch.line(4, write_line(tmp_path, 4, loss=1.0))
        watch._finish_drawing()
        assert curves.exists()


def test_every_evaluation_writes_a_grid_and_the_newest_has_a_fixed_name(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 60, "height": 40}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20]}],
        "categories": [{"id": 1, "name": "cell"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    dataset = open_coco(tmp_path, tmp_path / "a.json")
    results = [{"image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20], "score": 0.9}]
    with RunWatch(tmp_path / "run", tensorboard=True) as watch:
        watch.predictions(5, dataset, [])
        watch.predictions(10, dataset, results)
    grids = [tmp_path / "run" / "predictions" / f"step_{step:06d}.png" for step in (5, 10)]
    assert grids[0].read_bytes() != grids[1].read_bytes()
    assert (tmp_path / "run" / "predictions.png").read_bytes() == grids[1].read_bytes()
    assert any((tmp_path / "run" / "tensorboard").iterdir())
