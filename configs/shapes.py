"""The demo (scripts/demo.sh): fine-tunes the small detector in assets/shapes_start on drawn shapes that are new to it.

    anchordetr shapes runs/demo/data --train 2000 --val 200 \\
        --classes hexagon frame flower hourglass halfmoon --short-side 64 96 --max-side 96 \\
        --object-size 0.25 0.8 --max-objects 5 --hue-by-class 1
    anchordetr train --config shapes --config.data.root=runs/demo/data --workdir runs/demo

Hardware: two CPU cores, about five minutes. Expected AP: above 0.50. From random weights: configs/shapes_scratch.py.
"""

import runpy
from pathlib import Path

import ml_collections

HERE = Path(__file__).resolve().parent


def get_config() -> ml_collections.ConfigDict:
    config = runpy.run_path(str(HERE / "shapes_scratch.py"))["get_config"]()
    config.init_from = "shapes-start"
    config.train.epochs = 8
    config.train.evaluate_every = 2
    config.optimizer.warmup_steps = 20
    return config
