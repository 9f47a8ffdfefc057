"""The kernel of norms of sums, run without a TPU, against the plain form."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchordetr_jax.config import ModelConfig
from anchordetr_jax.kernels.tpu import norm_kernel
from anchordetr_jax.kernels.tpu.norm import kernel_backward, kernel_forward, kernel_norm_of_sum, plain_norm_of_sum
from anchordetr_jax.kernels.tpu.norm_kernel import Affine
from anchordetr_jax.model.transformer import SumNorm
from tests.kernels.closeness import assert_close, assert_rounds_no_more
from tests.tolerances import CLOSE32, EXACT64, GRADIENT32_RELATIVE, GRADIENT64_RELATIVE

CHANNELS = 32
WHOLE, PARTIAL = (2, 128), (3, 3, 67)
"""Rows that fill blocks, and rows of which the last block has too few."""
EXACT, CLOSE = (EXACT64, GRADIENT64_RELATIVE), (CLOSE32, GRADIENT32_RELATIVE)


@pytest.fixture(autouse=True)
def blocks(x64: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks of rows."""
    monkeypatch.setattr(norm_kernel, "BLOCK", 128)


def given(shape: tuple[int, ...], dtype: Any) -> tuple[jax.Array, jax.Array, Affine]:
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.standard_normal((*shape, CHANNELS)), dtype) for _ in range(2))
    wide = jnp.promote_types(dtype, jnp.float32)
    return x, y, Affine(*(jnp.asarray(rng.standard_normal(CHANNELS), wide) for _ in range(2)))


def by_kernel(x: jax.Array, y: jax.Array, affine: Affine, change: jax.Array) -> Any:
    """The result and the gradients of x, y and the affine map."""
    ours, sums = kernel_forward(x, y, affine, interpret=True)
    of_sum, of_affine = kernel_backward(sums, affine, change, interpret=True)
    return ours, (of_sum, of_sum, of_affine)


@pytest.mark.parametrize("shape", [WHOLE, PARTIAL], ids=["whole", "partial"])
@pytest.mark.parametrize(("dtype", "tolerances"), [(jnp.float64, EXACT), (jnp.float32, CLOSE)], ids=["64", "32"])
def test_the_kernel_computes_the_norm_of_a_sum_and_its_gradients(
    shape: tuple[int, ...], dtype: Any, tolerances: tuple[float, float]
) -> None:
    x, y, affine = given(shape, dtype)
    expected, gradients = jax.vjp(plain_norm_of_sum, x, y, affine)
    change = jnp.cos(expected)
    ours, changes = by_kernel(x, y, affine, change)
    assert np.asarray(ours) == pytest.approx(np.asarray(expected), abs=tolerances[0])
    assert_close(changes, gradients(change), tolerances[1])


def test_the_kernel_rounds_no_more_than_the_plain_form() -> None:
    x, y, affine = given(PARTIAL, jnp.bfloat16)
    exact, exact_gradients = jax.vjp(plain_norm_of_sum, x.astype(jnp.float64), y.astype(jnp.float64), affine)
    expected, gradients = jax.vjp(plain_norm_of_sum, x, y, affine)
    change = jnp.cos(expected)
    assert_rounds_no_more(
        by_kernel(x, y, affine, change),
        (expected, gradients(change)),
        (exact, exact_gradients(change.astype(jnp.float64))),
    )


def test_where_there_is_no_tpu_the_plain_form_computes() -> None:
    def total(form: Any, *arguments: Any) -> jax.Array:
        return jnp.sum(jnp.sin(form(*arguments)))

    arguments = given(PARTIAL, jnp.float64)
    for ours, expected in zip(
        jax.tree.leaves(
            jax.jit(jax.value_and_grad(total, (1, 2, 3)), static_argnums=0)(kernel_norm_of_sum, *arguments)
        ),
        jax.tree.leaves(jax.value_and_grad(total, (1, 2, 3))(plain_norm_of_sum, *arguments)),
        strict=True,
    ):
        assert np.asarray(ours) == pytest.approx(np.asarray(expected), rel=GRADIENT64_RELATIVE, abs=EXACT64)


def test_the_layers_norm_is_the_same_in_both_forms() -> None:
    plain, kernel = (
        SumNorm(ModelConfig(tpu_forms=tpu_forms, dtype="float64", hidden_dim=CHANNELS, num_heads=2))
        for tpu_forms in (False, True)
    )
    assert kernel.by_kernel
    assert not plain.by_kernel
    x, y, _ = given(PARTIAL, jnp.float64)
    assert np.asarray(kernel.of_sum(x, y)) == pytest.approx(np.asarray(plain.of_sum(x, y)), abs=EXACT64)


def test_more_channels_than_the_kernel_has_room_for_are_normalised_as_it_is_defined() -> None:
    assert not SumNorm(ModelConfig(tpu_forms=True, hidden_dim=512)).by_kernel
