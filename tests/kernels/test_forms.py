"""What XLA's CPU compiler is told."""

import jax
import jax.numpy as jnp

from anchordetr_jax.kernels.forms import as_stored, compiler_options


def sums_that_the_compiler_would_repeat(x: jax.Array) -> jax.Array:
    first = as_stored(jnp.maximum(x @ x + x, 0))
    return (first @ x + first) @ first


def test_what_shall_be_stored_is_not_computed_again() -> None:
    function = jax.jit(sums_that_the_compiler_would_repeat, compiler_options=compiler_options("cpu"))
    assert "opt-barrier" in (function.lower(jnp.ones((8, 8))).compile().as_text() or "")


def test_products_are_computed_by_xla_itself() -> None:
    function = jax.jit(lambda x: jnp.tanh(x @ x), compiler_options=compiler_options("cpu"))
    assert "__ynn_fusion" not in (function.lower(jnp.ones((256, 256))).compile().as_text() or "")


def test_other_platforms_are_left_as_they_are() -> None:
    assert not compiler_options("tpu")
    lowered = jax.jit(as_stored).trace(jnp.ones((8, 8))).lower(lowering_platforms=("cuda",))
    assert "optimization_barrier" not in lowered.as_text()
