"""Anchor DETR, an object detector, in JAX.

    from anchordetr_jax import Detector
    detector = Detector.from_pretrained("anchordetr-r50-dc5")
    detections = detector.predict("street.jpg")
    run = detector.finetune("MY_DATA", workdir="runs/mine")

The names of this module are imported when they are first used. So the command line can answer a mistake before JAX
has started. docs/architecture.md says what each folder does.
"""

import importlib
from typing import TYPE_CHECKING, Any

from anchordetr_jax.version import __version__

if TYPE_CHECKING:
    from anchordetr_jax.api.detector import Detector as Detector
    from anchordetr_jax.api.run import TrainingRun as TrainingRun
    from anchordetr_jax.api.training import train as train
    from anchordetr_jax.errors import UserError as UserError
    from anchordetr_jax.prediction.detections import Detection as Detection
    from anchordetr_jax.prediction.detections import Detections as Detections

__all__ = ["Detection", "Detections", "Detector", "TrainingRun", "UserError", "__version__", "train"]

_HOMES = {
    "Detection": "prediction.detections",
    "Detections": "prediction.detections",
    "Detector": "api.detector",
    "TrainingRun": "api.run",
    "UserError": "errors",
    "train": "api.training",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
