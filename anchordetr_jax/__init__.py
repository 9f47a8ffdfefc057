"""Anchor DETR, an object detector, in JAX.

    from anchordetr_jax import Detector
    detections = Detector.from_pretrained("runs/mine").predict("street.jpg")

The names of this module are imported when they are first used. So the command line can answer a mistake before JAX
has started. docs/architecture.md says what each folder does.
"""

import importlib
from typing import TYPE_CHECKING, Any

from anchordetr_jax.version import __version__

if TYPE_CHECKING:
    from anchordetr_jax.errors import UserError as UserError
    from anchordetr_jax.prediction.detections import Detection as Detection
    from anchordetr_jax.prediction.detections import Detections as Detections
    from anchordetr_jax.prediction.detector import Detector as Detector

__all__ = ["Detection", "Detections", "Detector", "UserError", "__version__"]

_HOMES = {
    "Detection": "prediction.detections",
    "Detections": "prediction.detections",
    "Detector": "prediction.detector",
    "UserError": "errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
