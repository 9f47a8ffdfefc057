"""The GPU kernels of row-column attention's sums, run without a GPU, against the plain form."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from anchordetr_jax.config import ModelConfig
from anchordetr_jax.errors import UserError
from anchordetr_jax.kernels.gpu import attention_sum as sum_kernel
from anchordetr_jax.kernels.gpu.attention_sum import attention_with_kernel_sum, sum_backward, sum_forward
from anchordetr_jax.model.decoupled import decoupled_sum, decoupled_weights, plain_attention
from tests.kernels.attention_case import TALL, WIDE, assert_equal, attention_case, attention_gradients

Sums = tuple[jax.Array, jax.Array, jax.Array]


@pytest.fixture(params=[WIDE, TALL], ids=["wide", "tall"])
def given(request: pytest.FixtureRequest, x64: None) -> Sums:
    """Weights of 150 queries, which are two blocks and a part of one, and values."""
    row_queries, column_queries, memory = attention_case(request.param)
    return *decoupled_weights(row_queries, column_queries, memory), memory.values


def test_the_kernel_computes_both_sums(given: Sums) -> None:
    assert_equal(sum_forward(*given, interpret=True), decoupled_sum(*given))


def test_the_kernels_gradients_are_those_of_the_sums(given: Sums) -> None:
    expected, back = jax.vjp(decoupled_sum, *given)
    change = jnp.cos(expected)
    assert_equal(sum_backward(*given, change, interpret=True), back(change))


def test_heads_of_any_number_of_channels_are_computed(x64: None) -> None:
    row_queries, column_queries, memory = attention_case(WIDE)
    values = jnp.concatenate([memory.values, memory.values[..., :3]], axis=-1)
    given = *decoupled_weights(row_queries, column_queries, memory), values
    assert_equal(sum_forward(*given, interpret=True), decoupled_sum(*given))
    expected, back = jax.vjp(decoupled_sum, *given)
    assert_equal(sum_backward(*given, expected, interpret=True), back(expected))


def test_where_there_is_no_gpu_the_plain_form_computes(x64: None) -> None:
    given = attention_case(WIDE)
    assert_equal(jax.jit(attention_with_kernel_sum)(*given), plain_attention(*given))
    assert_equal(
        jax.jit(attention_gradients, static_argnums=0)(attention_with_kernel_sum, given),
        attention_gradients(plain_attention, given),
    )


def test_the_kernels_are_there_for_gpus_unless_an_axis_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    def program() -> str:
        def attend(*given: Any) -> jax.Array:  # A new one each time: JAX remembers what it has traced.
            return attention_with_kernel_sum(*given)

        return str(jax.make_jaxpr(attend)(*attention_case(WIDE)))

    assert "pallas_call" in program()
    monkeypatch.setattr(sum_kernel, "LONGEST", 4)
    assert "pallas_call" not in program()


def test_two_platforms_forms_at_once_are_refused() -> None:
    with pytest.raises(UserError, match=r"model\.tpu_forms and model\.gpu_forms exclude one another"):
        ModelConfig(tpu_forms=True, gpu_forms=True)
