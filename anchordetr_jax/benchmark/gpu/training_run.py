"""Part f: a real training from nothing by `anchordetr train`, for the time that is left, and its AP over time."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from anchordetr_jax.benchmark.gpu.results import Results
from anchordetr_jax.benchmark.gpu.settings import Settings
from anchordetr_jax.benchmark.plots import plot_lines
from anchordetr_jax.checkpoints.run_metrics import METRICS_FILE, is_evaluation, read_metrics
from anchordetr_jax.data.shapes import ShapesConfig, write_shapes_dataset
from anchordetr_jax.devices import processors

REPOSITORY = Path(__file__).parents[3]
TITLE, PICTURE = "Training from nothing", "training.png"
NAME = "training"
SECONDS_TO_STOP = 15.0
"""The run gets this time to save and end, before the part itself is stopped."""


def measure(settings: Settings, results: Results, work: Path) -> None:
    """Trains R50-C5 until the time is over; a row for each evaluation. `work`: a folder for data and the run."""
    results.plan([NAME])
    with results.measuring(NAME):
        root = settings.data or str(_draw(settings, work))
        workdir = work / "run"
        started = time.monotonic()
        run = subprocess.Popen(_command(settings, root, workdir), cwd=REPOSITORY)
        rows: list[dict[str, str | float | None]] = []
        try:
            while run.poll() is None and results.seconds_left() > SECONDS_TO_STOP:
                time.sleep(0.5)
                _add_rows(results, rows, workdir, time.monotonic() - started)
            stopped = run.poll() is None
            if stopped:
                run.send_signal(signal.SIGTERM)
                run.wait(max(1.0, results.seconds_left() - 2))
        finally:
            if run.poll() is None:
                run.kill()
        _add_rows(results, rows, workdir, time.monotonic() - started)
        if run.returncode not in (0, 128 + signal.SIGTERM):
            raise RuntimeError(f"anchordetr train ended with status {run.returncode}: see log.txt.")
        results.note("The run was stopped because its time was over." if stopped else "The run took all its steps.")
        if not rows:
            results.note("There was no time for an evaluation.")
            return
        _draw_picture(Path(settings.output) / PICTURE, rows)
        results.picture(PICTURE)


def _draw(settings: Settings, work: Path) -> Path:
    sizes, root = settings.sizes, work / "training"
    shapes = ShapesConfig(
        short_side=(sizes.train_side, sizes.train_side), max_side=sizes.train_side * 4 // 3, max_objects=6
    )
    write_shapes_dataset(
        root,
        train_images=sizes.train_images,
        val_images=max(8, sizes.train_images // 16),
        config=shapes,
        processes=min(8, processors()),
    )
    return root


def _command(settings: Settings, root: str, workdir: Path) -> list[str]:
    sizes = settings.sizes
    side = sizes.train_side
    changes: dict[str, Any] = {
        "init_from": "",  # From nothing: no weights are downloaded.
        "data.root": root,
        "data.num_buckets": 1,
        "model.dtype": "bfloat16",
        "model.initialization": "local",
        "augment.train_sizes": (side,),
        "augment.eval_size": side,
        "augment.max_size": side * 4 // 3,
        "augment.crop_probability": 0.0,
        "optimizer.freeze": (),
        "optimizer.learning_rate": 3e-4,
        "optimizer.backbone_learning_rate": 3e-4,
        "optimizer.warmup_steps": 100,
        "train.epochs": sizes.train_epochs,
        "train.batch_size": sizes.train_batch,
        "train.evaluate_every": 1 if sizes.tiny else 2,
        "train.tensorboard": False,
        "eval.batch_size": sizes.train_batch,
    }
    if settings.data:
        del changes["data.num_buckets"]
    if sizes.tiny:
        changes |= {"model.backbone": "compact", "model.num_anchors": 8, "model.num_patterns": 1}
        changes |= {"model.hidden_dim": 32, "model.num_heads": 2, "model.ffn_dim": 32}
        changes |= {"model.encoder_layers": 1, "model.decoder_layers": 1}
    flags = [f"--config.{name}={value}" for name, value in changes.items()]
    config = ["--config", "anchordetr-r50-c5"]
    return [sys.executable, "-m", "anchordetr_jax.commands", "train", *config, *flags, "--workdir", str(workdir)]


def _add_rows(results: Results, rows: list[dict[str, str | float | None]], workdir: Path, seconds: float) -> None:
    """Adds the evaluations that the run has written since the last call."""
    path = workdir / METRICS_FILE
    speed = None
    evaluations: list[dict[str, Any]] = []
    for line in read_metrics(path) if path.exists() else ():
        speed = line.get("images_per_second", speed)
        if is_evaluation(line):
            evaluations.append(line | {"speed": speed})
    for line in evaluations[len(rows) :]:
        rows.append(
            {
                "evaluation": str(len(rows) + 1),
                "seconds": seconds,
                "epoch": line["epoch"],
                "step": str(line["step"]),
                "AP": line["val/AP"],
                "AP50": line["val/AP50"],
                "images per second": line["speed"],
            }
        )
        results.table(TITLE, rows)


def _draw_picture(path: Path, rows: list[dict[str, str | float | None]]) -> None:
    def column(name: str) -> list[float]:
        return [float(row[name] or 0) for row in rows]

    lines = {"AP": column("AP"), "AP50": column("AP50")}
    plot_lines(path, column("seconds"), lines, "seconds since the start of anchordetr train", "AP")
