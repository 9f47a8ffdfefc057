"""How close two computations of the same detector must be. All limits of verification are here.

float64: two ways to compute a number differ by rounding alone; for the whole detector this was measured as 2e-14.
float32: a logit of the official code differs by 2e-6 between float32 and float64. Ten times that allows another order
of summation, but no other formula. bfloat16: differences are reported and not judged, because no right limit is known.
"""

import dataclasses

FLOAT32_ULP_BELOW_8 = 2.0**-21
"""Distance of neighbouring float32 numbers between 4 and 8. The outermost anchor logits of any grid are in there."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tolerances:
    """Limits for one dtype. None: reported and not judged."""

    predictions: float | None
    """Logits, boxes, scores: absolute. Inner stages: relative to their largest magnitude, where that is over 1."""
    losses: float | None
    """Relative."""
    matching: float | None
    """If the costs of two assignments differ by no more than this, both are optimal and right."""
    gradients: float | None
    """Gradient norm of each parameter, relative."""
    gradient_floor: float
    """A parameter's gradient norm counts at least as this share of the whole gradient's norm. Smaller norms are only
    rounding errors."""
    steps: float | None
    """Loss, gradient norm and parameters after optimiser steps, relative."""


FLOAT64 = Tolerances(predictions=1e-12, losses=1e-11, matching=1e-10, gradients=1e-9, gradient_floor=1e-12, steps=1e-8)
FLOAT32 = Tolerances(predictions=2e-5, losses=1e-5, matching=1e-5, gradients=1e-3, gradient_floor=1e-6, steps=None)
BFLOAT16 = Tolerances(predictions=None, losses=None, matching=None, gradients=None, gradient_floor=1e-6, steps=None)
BY_DTYPE = {"float64": FLOAT64, "float32": FLOAT32, "bfloat16": BFLOAT16}

CLASS_ERROR = 2e-5
"""Absolute, in percent. The official code always computes this number in float32."""

SCORES = 5e-4
"""Absolute, for COCO's numbers: they agree to three decimals."""

GRID_BOXES = FLOAT32_ULP_BELOW_8 / 4
"""Absolute, for box centres when anchors are a grid. The official code always computes an anchor's logit in float32,
and its last bit depends on the mathematical library. The slope of a sigmoid is at most a quarter."""
GRID_LOSSES = 1e-5
"""Relative. That last bit changes box losses, their gradients, and everything that depends on them."""


def tolerances(dtype: str, *, grid: bool = False) -> Tolerances:
    """The limits for a dtype. `grid`: for numbers that depend on box centres, when anchors are a grid."""
    limits = BY_DTYPE[dtype]
    if not grid:
        return limits

    def at_least(limit: float | None, least: float) -> float | None:
        return None if limit is None else max(limit, least)

    return dataclasses.replace(
        limits,
        predictions=at_least(limits.predictions, GRID_BOXES),
        losses=at_least(limits.losses, GRID_LOSSES),
        matching=at_least(limits.matching, GRID_LOSSES),
        gradients=at_least(limits.gradients, GRID_LOSSES),
        steps=at_least(limits.steps, GRID_LOSSES),
    )
