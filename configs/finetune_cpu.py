"""Fine-tunes the small detector in assets/shapes_start on a data set of your own, on a CPU, for a first look.

    anchordetr train MY_DATA --config finetune-cpu --workdir runs/first

Images are made small (short side 144), so objects should fill a tenth of the image or more. For a detector to work
with: configs/finetune.py, with published weights, on a GPU or TPU. Hardware: two CPU cores. Expected AP on BCCD (205
photographs of blood cells): 0.42, after six minutes.
"""

import runpy
from pathlib import Path

import ml_collections

HERE = Path(__file__).resolve().parent


def get_config() -> ml_collections.ConfigDict:
    config = runpy.run_path(str(HERE / "finetune.py"))["get_config"]()
    config.init_from = "shapes-start"
    config.data.num_buckets = 1  # The compilation of a second shape takes longer than padding costs.
    config.augment.train_sizes = (112, 128, 144)
    config.augment.eval_size = 144
    config.augment.max_size = 192
    config.augment.crop_probability = 0.0
    config.optimizer.learning_rate = 1e-3
    config.optimizer.backbone_learning_rate = 1e-3
    config.optimizer.warmup_steps = 20
    config.train.epochs = 20
    config.train.batch_size = 8
    config.train.evaluate_every = 5
    config.eval.batch_size = 8
    return config
