"""The arithmetic of `model`, made for a platform.

Each layer of `model` computes by a plain function that it holds as an attribute. `install` is the one way in: it puts a
platform's functions in the places of the plain ones. `building.py` calls it where a detector is built.
"""

import functools
from typing import Literal

from absl import logging
from flax import nnx

from anchordetr_jax.kernels.table import Replacement

Platform = Literal["cpu", "tpu"]
"""A platform that has functions of its own."""


def install(model: nnx.Module, platform: Platform, *, interpret: bool = False) -> None:
    """Gives each layer of `model` the platform's functions for its role; all others keep the plain ones.

    Args:
        model: changed in place.
        platform: whose functions are installed.
        interpret: let Pallas interpret the TPU's kernels, so that they run, slowly, on any platform.
    """
    replacements = _table(platform, interpret)
    for _, layer in nnx.iter_modules(model):
        for replacement in replacements:
            if type(layer) is replacement.layer and replacement.role in (None, getattr(layer, "role", None)):
                setattr(layer, replacement.attribute, replacement.function)


@functools.cache  # Equal models need the same objects, or JAX compiles them again.
def _table(platform: Platform, interpret: bool) -> tuple[Replacement, ...]:
    if platform == "cpu":
        from anchordetr_jax.kernels import cpu  # Here, because only one of the two is needed.

        return cpu.REPLACEMENTS
    from anchordetr_jax.kernels import tpu

    return tpu.replacements(interpret)


def chosen_platform(kernels: str, platform: str) -> Platform | None:
    """Whose functions the setting `model.kernels` asks for on a platform of JAX's; None: the plain ones.

    A setting that names another platform has no effect, and a warning says so once.
    """
    if kernels == "auto":
        return "cpu" if platform == "cpu" else None
    if kernels == "none":
        return None
    if kernels != platform:
        _warn_of_another_platform(kernels, platform)
        return None
    return "cpu" if kernels == "cpu" else "tpu"


@functools.cache
def _warn_of_another_platform(kernels: str, platform: str) -> None:
    logging.warning(
        "model.kernels='%s' has no effect on platform '%s': the model computes by its plain functions.",
        kernels,
        platform,
    )


GPU_OPTIONS: dict[str, bool | str] = {}
"""Options of XLA's compiler on GPUs. Empty until a report of scripts/measure_gpu.sh shows that one of them helps."""


def compiler_options(platform: str) -> dict[str, bool | str]:
    """Options for `jax.jit` on a platform of JAX's."""
    if platform == "gpu":
        return dict(GPU_OPTIONS)
    if platform != "cpu":
        return {}
    from anchordetr_jax.kernels.cpu.process import COMPILER_OPTIONS

    return dict(COMPILER_OPTIONS)
