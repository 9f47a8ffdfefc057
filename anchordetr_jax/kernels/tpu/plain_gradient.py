"""A kernel without a gradient of its own: it takes the gradient of the plain function."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx


def with_plain_gradient(
    kernel: Callable[..., jax.Array], plain: Callable[..., jax.Array], module: nnx.Module, *arguments: Any
) -> jax.Array:
    """kernel(module, *arguments), with the gradient of plain(module, *arguments).

    Only the arguments are kept; the backward pass computes the plain function again. It costs what `remat` costs.
    """
    graphdef, variables = nnx.split(module)

    def of(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        return lambda variables, *arguments: function(nnx.merge(graphdef, variables), *arguments)

    @jax.custom_vjp
    def compute(*given: Any) -> jax.Array:
        return of(kernel)(*given)

    def backward(given: Any, gradient: jax.Array) -> Any:
        return jax.vjp(of(plain), *given)[1](gradient)

    compute.defvjp(lambda *given: (compute(*given), given), backward)
    return compute(variables, *arguments)
