"""Forms of a computation that a platform does better than the plain one; others compute the plain one all the same."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax import lax

from anchordetr_jax.config import ModelConfig


class Forms(NamedTuple):
    """Which platforms' own forms are used there: `model.cpu_forms`, `model.tpu_forms` and `model.gpu_forms`."""

    cpu: bool = False
    tpu: bool = False
    gpu: bool = False


PLAIN = Forms()


def forms_of(config: ModelConfig) -> Forms:
    """The forms that the settings ask for."""
    return Forms(config.cpu_forms, config.tpu_forms, config.gpu_forms)


def with_plain_forms(config: ModelConfig) -> ModelConfig:
    """The settings of a network that computes everything as it is defined, on all platforms."""
    return dataclasses.replace(config, cpu_forms=False, tpu_forms=False, gpu_forms=False)


def as_stored(x: jax.Array) -> jax.Array:
    """An array that CPUs shall store before they go on, instead of computing it anew from all that went before wherever
    it is read.

    It takes effect with `compiler_options`.
    """
    return lax.platform_dependent(x, cpu=lax.optimization_barrier, default=lambda x: x)


def on_tpu(
    module: nnx.Module, fast: Callable[..., jax.Array], plain: Callable[..., jax.Array], *arguments: Any
) -> jax.Array:
    """fast(module, *arguments) on TPUs and plain(module, *arguments), of which it is a form, elsewhere. The gradient is
    always that of `plain`, computed anew: it costs what `remat` costs."""
    graphdef, variables = nnx.split(module)

    def of(form: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        return lambda variables, *arguments: form(nnx.merge(graphdef, variables), *arguments)

    @jax.custom_vjp
    def compute(*given: Any) -> jax.Array:
        return lax.platform_dependent(*given, tpu=of(fast), default=of(plain))

    def backward(given: Any, gradient: jax.Array) -> Any:
        return jax.vjp(of(plain), *given)[1](gradient)

    compute.defvjp(lambda *given: (compute(*given), given), backward)
    return compute(variables, *arguments)


def compiler_options(platform: str) -> dict[str, bool | str]:
    """Options for `jax.jit` on a platform. XLA's CPU compiler otherwise removes optimization barriers; and it gives
    products to YNNPACK, which is no faster here, and of which a program with many takes twice as long to load.
    """
    if platform != "cpu":
        return {}
    return {"xla_disable_hlo_passes": "cse_barrier_expander", "xla_cpu_experimental_ynn_fusion_type": ""}
