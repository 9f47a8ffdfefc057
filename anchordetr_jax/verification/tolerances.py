"""How close two computations of the same detector must come: the one place where verification takes its limits from.

float64: two ways to the same number differ by rounding alone, and what the whole detector adds up to was measured as
2e-14. float32: the official code in float32 differs from itself in float64 by 2e-6 in a logit; ten times that leaves
room for another order of summation and none for another formula. bfloat16: differences are reported, not judged, for
nobody can say what they ought to be.
"""

import dataclasses

FLOAT32_ULP_BELOW_8 = 2.0**-21
"""Distance of neighbouring float32 numbers between 4 and 8, where the outermost logits of any grid of anchors lie."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tolerances:
    """Limits for one dtype. None: reported, not judged."""

    predictions: float | None
    """Logits, boxes, scores: absolute. Inner stages: relative to their largest magnitude, where that is over 1."""
    losses: float | None
    """Relative."""
    matching: float | None
    """Two assignments whose costs differ by no more are both optimal, and either is right."""
    gradients: float | None
    """Of every parameter's gradient norm, relative."""
    gradient_floor: float
    """The part of the whole gradient's norm that a parameter's norm is at least counted as: below it there is nothing
    but what cancellation left over."""
    steps: float | None
    """Of loss, gradient norm and parameters after optimiser steps, relative."""


FLOAT64 = Tolerances(predictions=1e-12, losses=1e-11, matching=1e-10, gradients=1e-9, gradient_floor=1e-12, steps=1e-8)
FLOAT32 = Tolerances(predictions=2e-5, losses=1e-5, matching=1e-5, gradients=1e-3, gradient_floor=1e-6, steps=None)
BFLOAT16 = Tolerances(predictions=None, losses=None, matching=None, gradients=None, gradient_floor=1e-6, steps=None)
BY_DTYPE = {"float64": FLOAT64, "float32": FLOAT32, "bfloat16": BFLOAT16}

CLASS_ERROR = 2e-5
"""Absolute, in percent: the official code computes this number in float32 whatever the network computes in."""

SCORES = 5e-4
"""Absolute, of COCO's numbers: they agree to three decimals."""

GRID_BOXES = FLOAT32_ULP_BELOW_8 / 4
"""Absolute, for box centres when anchors are a grid: the official code takes an anchor's logit in float32 whatever the
network computes in, and its last bit depends on the mathematical library. A sigmoid passes on a quarter at most."""
GRID_LOSSES = 1e-5
"""Relative: that last bit moves box losses, their gradients, and what follows from them."""


def tolerances(dtype: str, *, grid: bool = False) -> Tolerances:
    """The limits for a dtype; `grid`: of what depends on box centres, when anchors are a grid."""
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
