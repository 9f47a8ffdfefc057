import itertools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from scipy.optimize import linear_sum_assignment

from anchordetr_jax.detection.assignment import solve_assignments
from tests.tolerances import ASSIGNMENT32_RELATIVE, EXACT64

pytestmark = pytest.mark.usefixtures("x64")

PROBLEMS = 50
SHAPES = [(6, 9), (7, 7), (9, 5), (1, 8)]
solve = jax.jit(solve_assignments)


def random_costs(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if kind == "uniform":
        return rng.uniform(-5, 5, shape)
    if kind == "tied":
        return rng.integers(0, 3, shape).astype(float)
    if kind == "constant":
        return np.full(shape, 2.5)
    if kind == "equal rows":  # every target prefers the same queries, in the same order
        return np.broadcast_to(rng.uniform(0, 1, (shape[0], 1, shape[2])), shape).copy()
    if kind == "nearly equal rows":
        return random_costs("equal rows", shape, rng) + rng.normal(0, 1e-3, shape)
    if kind == "equal columns":
        return np.broadcast_to(rng.uniform(0, 1, (*shape[:2], 1)), shape).copy()
    assert kind == "some unusable"
    return np.where(rng.random(shape) < 0.5, 1e6, rng.uniform(0, 1, shape))


def total(costs: np.ndarray, columns: np.ndarray) -> float:
    taken = columns >= 0
    return float(costs[: len(columns)][taken, columns[taken]].sum())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    "kind", ["uniform", "tied", "constant", "equal rows", "nearly equal rows", "equal columns", "some unusable"]
)
def test_total_cost_equals_scipys(kind, shape):
    rng = np.random.default_rng(0)
    costs = random_costs(kind, (PROBLEMS, *shape), rng)
    num_rows = rng.integers(0, shape[0] + 1, PROBLEMS)
    num_rows[:2] = 0, shape[0]
    result = np.asarray(solve(costs, num_rows))
    for problem, count, columns in zip(costs, num_rows, result, strict=True):
        best = problem[:count][linear_sum_assignment(problem[:count])].sum()
        np.testing.assert_allclose(total(problem, columns[:count]), best, atol=EXACT64, rtol=EXACT64)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_real_row_gets_a_column_of_its_own_while_there_are_any(shape):
    rng = np.random.default_rng(1)
    num_rows = rng.integers(0, shape[0] + 1, PROBLEMS)
    result = np.asarray(solve(random_costs("tied", (PROBLEMS, *shape), rng), num_rows))
    for count, columns in zip(num_rows, result, strict=True):
        taken = columns[:count][columns[:count] >= 0]
        assert len(taken) == min(count, shape[1])
        assert len(set(taken)) == len(taken)
        assert (columns[count:] == -1).all()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # set once for all examples is meant
@given(st.lists(st.integers(0, 9), min_size=12, max_size=12))
def test_no_other_assignment_is_cheaper(numbers):
    costs = np.array(numbers, float).reshape(3, 4)
    best = min(costs[range(3), list(columns)].sum() for columns in itertools.permutations(range(4), 3))
    columns = np.asarray(solve(costs[None], np.array([3])))[0]
    assert total(costs, columns) == best


def test_padded_rows_are_never_looked_at():
    rng = np.random.default_rng(2)
    costs, num_rows = rng.uniform(0, 1, (PROBLEMS, 6, 9)), rng.integers(0, 7, PROBLEMS)
    padding = np.arange(6)[None, :, None] >= num_rows[:, None, None]
    np.testing.assert_array_equal(solve(np.where(padding, np.nan, costs), num_rows), solve(costs, num_rows))


def test_contested_problems_of_real_size_are_solved_to_float32_rounding():
    rng = np.random.default_rng(3)
    costs = random_costs("nearly equal rows", (2, 30, 900), rng).astype(np.float32)
    result = np.asarray(solve(costs, np.array([30, 17])))
    for problem, count, columns in zip(costs.astype(float), (30, 17), result, strict=True):
        best = problem[:count][linear_sum_assignment(problem[:count])].sum()
        np.testing.assert_allclose(total(problem, columns[:count]), best, rtol=ASSIGNMENT32_RELATIVE)


@pytest.mark.parametrize("shape", [(0, 4, 5), (3, 0, 5), (3, 4, 0)])
def test_empty_problems_have_empty_answers(shape):
    result = solve_assignments(jnp.zeros(shape), jnp.zeros(shape[0], jnp.int32))
    assert result.shape == shape[:2]
    assert (np.asarray(result) == -1).all()
