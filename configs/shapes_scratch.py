"""Trains a small detector from random weights on drawn shapes, with AdamW. configs/shapes.py learns faster, with Muon.

    anchordetr shapes runs/start/data --train 6000 --val 300 --classes first \\
        --short-side 64 96 --max-side 96 --object-size 0.25 0.8 --max-objects 6 --hue-by-class 0.8
    anchordetr train --config shapes-scratch --config.data.root=runs/start/data --workdir runs/start

Hardware: two CPU cores, about 40 minutes. Expected AP: 0.52.
"""

import ml_collections

from anchordetr_jax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    model = config.model
    model.backbone = "compact"
    model.initialization = "local"
    model.num_patterns = 1
    model.num_anchors = 64
    model.hidden_dim = 64
    model.num_heads = 4
    model.ffn_dim = 128
    model.encoder_layers = 1
    model.decoder_layers = 3

    config.data.num_buckets = 1  # The compilation of a second shape takes longer than padding costs.
    augment = config.augment
    augment.train_sizes = (64, 72, 80)
    augment.eval_size = 80
    augment.max_size = 96
    augment.crop_probability = 0.0

    config.optimizer.learning_rate = 1e-3
    config.optimizer.backbone_learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    config.optimizer.freeze = ()

    config.train.epochs = 16
    config.train.batch_size = 16
    config.train.evaluate_every = 4
    config.eval.batch_size = 16
    return config
