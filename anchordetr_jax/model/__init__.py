"""Pixels to predictions, as Flax NNX modules."""

from anchordetr_jax.model.anchor_detr import AnchorDETR, Predictions

__all__ = ["AnchorDETR", "Predictions"]
