"""Matching, losses and post-processing: plain functions on padded arrays, which know nothing of models or files."""

from anchordetr_jax.detection.losses import class_error, detection_losses, total_loss
from anchordetr_jax.detection.matching import Targets, match, matching_costs
from anchordetr_jax.detection.postprocess import TopDetections, top_detections

__all__ = [
    "Targets",
    "TopDetections",
    "class_error",
    "detection_losses",
    "match",
    "matching_costs",
    "top_detections",
    "total_loss",
]
