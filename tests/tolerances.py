"""Every tolerance of the tests, named, with the reason for its size. `from tests.tolerances import EXACT64`.

Absolute where values are of the order of one, relative where the name ends in RELATIVE.
"""

# float64: two ways to the same number differ by rounding alone, some 1e-16 an operation. What a whole detector adds up
# to was measured as 2e-14.
EXACT64 = 1e-12
"""Features, logits and boxes in float64: against the official code, against another padding, batch or device."""

LOSS64_RELATIVE = 1e-11
"""Losses in float64: sums over hundreds of queries of the differences above."""

GRADIENT64_RELATIVE = 1e-9
"""Gradients in float64, each parameter's by its norm: the backward pass adds up over all cells and layers."""

STEPS64_RELATIVE = 1e-8
"""Loss and parameters after a few AdamW steps in float64: its division by sqrt(second moment) enlarges differences."""

# float32: the official code in float32 differs from itself in float64 by 2e-6 in logits and boxes. Ten times that
# leaves room for another order of summation and none for another formula.
CLOSE32 = 2e-5
"""Features, logits and boxes in float32."""

LOSS32_RELATIVE = 1e-5
"""Losses in float32."""

GRADIENT32_RELATIVE = 1e-3
"""Gradients in float32, each parameter's by its norm."""

SAME32 = 1e-6
"""One short float32 formula (a box, a cost, a learning rate) against the same one in numpy: a few roundings of 6e-8."""

ASSIGNMENT32_RELATIVE = 1e-6
"""Total cost of an assignment solved in float32: a column may be preferred whose cost differs by rounding only."""

SCORE32 = 1e-5
"""Scores of detections in float32 when images are divided otherwise over batches, devices or processes: sigmoids of
logits that agree to CLOSE32, whose slope is at most 1/4."""

BFLOAT16 = 2.0**-8
"""Half the distance of bfloat16 numbers, by their size: what each of their roundings may take."""
