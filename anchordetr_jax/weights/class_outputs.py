"""Which class output stands for which category, here and in the official code.

The official code always has 91 outputs, and the index of an output is the category id. Here the classes of a data set
may be numbered without gaps, so export and import move the outputs.
"""

from collections.abc import Mapping

import numpy as np

from anchordetr_jax.data.categories import Categories
from anchordetr_jax.errors import UserError
from anchordetr_jax.weights.correspondence import Form

OFFICIAL_OUTPUTS = 91
COCO_OUTPUTS: Mapping[Form, int] = {"official": OFFICIAL_OUTPUTS, "detrex": 80}
"""Class outputs of detectors of COCO's classes: by category id up to 90, or one per class in the order of the ids."""
NEVER = -100.0
"""Bias of an output without a class: its score is 0, so it is never among the best."""
KERNEL, BIAS = "class_head/kernel", "class_head/bias"


def output_places(categories: Categories | None, num_classes: int, outputs: int) -> np.ndarray:
    """int [num_classes]: the official output of each class output here.

    Outputs without a category keep their index or take a free one.

    Raises:
        UserError: there are too few official outputs, or nobody knows the category of an output here.
    """
    if categories is None or categories.scheme == "raw":
        if num_classes == outputs or (categories is not None and num_classes < outputs):
            return np.arange(num_classes)
        if categories is None:
            raise UserError(
                f"The checkpoint does not say which categories its {num_classes} class outputs stand for, so they "
                f"cannot be moved to {outputs}: give --annotations FILE, or --class-outputs={num_classes} to keep them."
            )
    beyond = [category_id for category_id in categories.ids if not 0 <= category_id < outputs]
    if beyond or num_classes > outputs:
        shown = f"category id {max(beyond, key=abs)}" if beyond else f"{num_classes} class outputs"
        least = max(max(categories.ids) + 1, num_classes)
        raise UserError(
            f"{shown[0].upper()}{shown[1:]} has no place among {outputs} official class outputs: number the categories "
            f"from 0 to {outputs - 1}, or give --class-outputs={least} (and set this number in the official code)."
        )
    known = {label: categories.category_of(label) for label in range(num_classes)}
    free = iter(sorted(set(range(outputs)) - {place for place in known.values() if place is not None}))
    return np.array([next(free) if place is None else place for place in known.values()], int)


def spread_outputs(variables: Mapping[str, np.ndarray], places: np.ndarray, outputs: int) -> dict[str, np.ndarray]:
    """The variables with a class head of `outputs` outputs. Outputs without a class score 0."""
    kernel, bias = np.asarray(variables[KERNEL]), np.asarray(variables[BIAS])
    wide_kernel = np.zeros((kernel.shape[0], outputs), kernel.dtype)
    wide_bias = np.full(outputs, NEVER, bias.dtype)
    wide_kernel[:, places], wide_bias[places] = kernel, bias
    return {**variables, KERNEL: wide_kernel, BIAS: wide_bias}


def gather_outputs(variables: Mapping[str, np.ndarray], places: np.ndarray) -> dict[str, np.ndarray]:
    """The inverse of `spread_outputs`."""
    kernel, bias = np.asarray(variables[KERNEL]), np.asarray(variables[BIAS])
    return {**variables, KERNEL: np.ascontiguousarray(kernel[:, places]), BIAS: bias[places]}
