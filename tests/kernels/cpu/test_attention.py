"""Row-column attention one head after another, against all heads together."""

import jax
import pytest

from anchordetr_jax.kernels.cpu.attention import attention_in_turn
from anchordetr_jax.model.decoupled import plain_attention
from tests.kernels.attention_case import (
    LONG_ROW,
    ROW,
    TALL,
    WIDE,
    Case,
    assert_equal,
    attention_case,
    attention_gradients,
)
from tests.kernels.closeness import assert_rounds_no_more

pytestmark = pytest.mark.usefixtures("x64")

SHAPES = pytest.mark.parametrize("shape", [WIDE, TALL, ROW, LONG_ROW], ids=["wide", "tall", "a row", "a long row"])


@pytest.mark.parametrize("images", [1, 2])
@SHAPES
def test_heads_in_turn_compute_what_heads_together_compute(shape: tuple[int, int], images: int) -> None:
    given = attention_case(shape, images)
    assert_equal(jax.jit(attention_in_turn)(*given), plain_attention(*given))


@pytest.mark.parametrize("images", [1, 2])
@SHAPES
def test_heads_in_turn_have_the_same_gradient(shape: tuple[int, int], images: int) -> None:
    given = attention_case(shape, images)
    ours = jax.jit(attention_gradients, static_argnums=0)(attention_in_turn, given)
    assert_equal(ours, attention_gradients(plain_attention, given))


@SHAPES
def test_in_bfloat16_the_gradient_rounds_no_more_than_the_plain_one(shape: tuple[int, int]) -> None:
    rounded = cast(attention_case(shape), "bfloat16")
    ours, plain = (attention_gradients(form, rounded) for form in (attention_in_turn, plain_attention))
    assert_rounds_no_more(ours, plain, attention_gradients(plain_attention, cast(rounded, "float64")))


def cast(given: Case, dtype: str) -> Case:
    return jax.tree.map(lambda x: x if x.dtype == bool else x.astype(dtype), given)


def test_heads_in_turn_keep_less_between_the_two_sums() -> None:
    given = attention_case((24, 24))
    ours, together = (
        jax.jit(form).lower(*given).compile().memory_analysis() for form in (attention_in_turn, plain_attention)
    )
    assert ours is not None
    assert together is not None
    assert ours.temp_size_in_bytes < 0.8 * together.temp_size_in_bytes
