"""The networks to measure."""

import dataclasses
from typing import Literal

from anchordetr_jax.benchmark.gpu.settings import Settings
from anchordetr_jax.benchmark.inputs import measured_config, with_dtype
from anchordetr_jax.config import Config

NETWORKS: dict[str, tuple[Literal["resnet50", "resnet101"], bool]] = {
    "R50-DC5": ("resnet50", True),
    "R50-C5": ("resnet50", False),
    "R101-DC5": ("resnet101", True),
    "R101-C5": ("resnet101", False),
}
"""Backbone, and whether it is dilated."""


def cell_config(settings: Settings, network: str, dtype: Literal["float32", "bfloat16"] = "float32") -> Config:
    """The settings of a network to measure. In a rehearsal it is tiny.

    A rehearsal beside the official code keeps the ResNet and the width, because the official code has no others.
    """
    backbone, dilation = NETWORKS[network]
    config = with_dtype(measured_config(backbone=backbone, dilation=dilation), dtype)
    if not settings.sizes.tiny:
        return config
    model = dataclasses.replace(
        config.model,
        backbone=backbone if settings.official else "compact",
        num_patterns=1,
        num_anchors=8,
        hidden_dim=config.model.hidden_dim if settings.official else 32,
        num_heads=2,
        ffn_dim=32,
        encoder_layers=1,
        decoder_layers=1,
    )
    return dataclasses.replace(config, model=model)
