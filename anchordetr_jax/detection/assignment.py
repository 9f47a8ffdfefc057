"""The assignment problem solved in XLA, for where a host callback is slow or not to be had.

The method is the shortest augmenting path of Jonker and Volgenant (Computing 38, 1987): rows are assigned one after another,
each by a Dijkstra search over columns in reduced costs. Only real rows are ever looked at. A padded row of constant cost would
tie with every column, and a search among ties visits them all.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


def solve_assignments(costs: jax.Array, num_rows: jax.Array) -> jax.Array:
    """The column of each row in an assignment of least total cost, for a batch of problems.

    Args:
        costs: [P, N, Q] float, finite. Each row takes one column, each column at most one row.
        num_rows: int [P]. The first num_rows rows of a problem are real; the others are padding.

    Returns:
        int32 [P, N], -1 for padding and, where a problem has more real rows than columns, for the rows left over. Exact up to
        rounding in the dtype of the costs; which of several best assignments is not specified.
    """
    problems, rows, columns = costs.shape
    if problems == 0 or rows == 0 or columns == 0:
        return jnp.full((problems, rows), -1, jnp.int32)
    if rows > columns:
        costs = _with_private_columns(costs)
    assigned = jax.vmap(_solve)(costs, num_rows.astype(jnp.int32))
    return jnp.where(assigned < columns, assigned, -1)


def _with_private_columns(costs: jax.Array) -> jax.Array:
    """Adds a column for each row that no other row may take, so dear that it is taken only when the real ones run out."""
    _, rows, columns = costs.shape
    low, high = (costs.min(axis=(1, 2), keepdims=True), costs.max(axis=(1, 2), keepdims=True))
    # Giving a row a real column can move every other one, each by at most the range of the costs.
    dear = high + (high - low + 1) * (columns + 1)
    own = jnp.eye(rows, dtype=bool)[None]
    return jnp.concatenate([costs, jnp.where(own, dear, jnp.inf)], axis=2)


class _Search(NamedTuple):
    """State of one problem: the assignment, the column prices, and the search that is under way for one row."""

    column_of: jax.Array  # int32 [N]: each row's column, or -1
    row_of: jax.Array  # int32 [Q]: each column's row, or -1
    price: jax.Array  # [Q]: dual variables, at most 0 and 0 for free columns
    root: jax.Array  # the row to be assigned; N when none is left
    row: jax.Array  # the row whose costs are scanned next
    reached: jax.Array  # length of the shortest path to that row
    distance: jax.Array  # [Q]: length of the shortest path known to each column
    previous: jax.Array  # int32 [Q]: the row from which that path comes
    visited: jax.Array  # bool [Q]: columns whose shortest path is final


def _solve(costs: jax.Array, num_rows: jax.Array) -> jax.Array:
    """One problem: costs [N, Q] with N <= Q, or with infinite costs as long as every row has a column of its own."""
    rows, columns = costs.shape
    row_ids, column_ids = (jnp.arange(rows, dtype=jnp.int32), jnp.arange(columns, dtype=jnp.int32))
    real = row_ids < num_rows

    # A row's cheapest column is its own at once when no row before it wants it: with all prices 0 that satisfies the
    # optimality conditions, and when targets are few it leaves little to search for.
    cheapest = jnp.argmin(costs, axis=1).astype(jnp.int32)
    wanted = (cheapest[:, None] == column_ids[None, :]) & real[:, None]
    row_of = jnp.where(wanted.any(axis=0), jnp.argmax(wanted, axis=0).astype(jnp.int32), -1)
    column_of = jnp.where(real & (row_of[cheapest] == row_ids), cheapest, -1)

    def begin(column_of: jax.Array, row_of: jax.Array, price: jax.Array) -> _Search:
        waiting = real & (column_of < 0)
        root = jnp.where(waiting.any(), jnp.argmax(waiting), rows).astype(jnp.int32)
        return _Search(
            column_of=column_of,
            row_of=row_of,
            price=price,
            root=root,
            row=root,
            reached=jnp.zeros((), costs.dtype),
            distance=jnp.full(columns, jnp.inf, costs.dtype),
            previous=jnp.zeros(columns, jnp.int32),
            visited=jnp.zeros(columns, bool),
        )

    def finish(state: _Search, free: jax.Array) -> _Search:
        """Moves prices, and shifts the rows on the path from the root to the free column by one."""
        change = jnp.where(state.visited, state.distance - state.reached, 0)

        def shift(
            carry: tuple[jax.Array, jax.Array, jax.Array, jax.Array],
        ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
            column, column_of, row_of, _ = carry
            row = state.previous[column]
            left = column_of[row]
            return (left, column_of.at[row].set(column), row_of.at[column].set(row), row == state.root)

        start = (free, state.column_of, state.row_of, jnp.array(False))
        _, column_of, row_of, _ = lax.while_loop(lambda carry: ~carry[3], shift, start)
        return begin(column_of, row_of, state.price + change)

    def step(state: _Search) -> _Search:
        """Scans one row, and goes on to the nearest column not yet visited."""
        reduced = costs[state.row] - state.price
        own = state.column_of[state.row]
        base = jnp.where(own < 0, 0, reduced[own])  # the root has no column yet; its base only shifts all distances
        distance = state.reached + (reduced - base)
        closer = ~state.visited & (distance < state.distance)
        distance = jnp.where(closer, distance, state.distance)
        previous = jnp.where(closer, state.row, state.previous)
        open_distance = jnp.where(state.visited, jnp.inf, distance)
        nearest = open_distance.min()
        # Of equally near columns a free one ends the search.
        best = jnp.argmax((open_distance == nearest).astype(jnp.int32) * jnp.where(state.row_of < 0, 2, 1)).astype(
            jnp.int32
        )
        owner = state.row_of[best]
        state = state._replace(reached=nearest, distance=distance, previous=previous)
        return lax.cond(
            owner < 0,
            lambda: finish(state, best),
            lambda: state._replace(row=owner, visited=state.visited | (column_ids == best)),
        )

    start = begin(column_of, row_of, jnp.zeros(columns, costs.dtype))
    return lax.while_loop(lambda state: state.root < rows, step, start).column_of
