"""The assignment problem solved in XLA, for runtimes where a host callback is slow or impossible.

The method is the shortest augmenting path of Jonker and Volgenant (Computing 38, 1987): rows are assigned one after
another, each by a Dijkstra search over columns in reduced costs. Padded rows are never searched: a row of constant cost
ties with every column, and a search among ties visits all of them.
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
        int32 [P, N]. -1 for padding, and for the rows that are left over if a problem has more real rows than columns.
        Exact up to rounding in the dtype of the costs. If several assignments are best, it is one of them.
    """
    problems, rows, columns = costs.shape
    if problems == 0 or rows == 0 or columns == 0:
        return jnp.full((problems, rows), -1, jnp.int32)
    if rows > columns:
        costs = _with_private_columns(costs)
    assigned = jax.vmap(_solve)(costs, num_rows.astype(jnp.int32))
    return jnp.where(assigned < columns, assigned, -1)


def _with_private_columns(costs: jax.Array) -> jax.Array:
    """Adds a private column for each row, with a cost so high that only a row that is left over takes it."""
    _, rows, columns = costs.shape
    low, high = costs.min(axis=(1, 2), keepdims=True), costs.max(axis=(1, 2), keepdims=True)
    # A real column for one row can move all other rows, each by at most the range of the costs.
    high_cost = high + (high - low + 1) * (columns + 1)
    own = jnp.eye(rows, dtype=bool)[None]
    return jnp.concatenate([costs, jnp.where(own, high_cost, jnp.inf)], axis=2)


class _Search(NamedTuple):
    """State of one problem: the assignment so far, the prices, and the present search for one row."""

    column_of: jax.Array  # int32 [N]: each row's column, or -1
    row_of: jax.Array  # int32 [Q]: each column's row, or -1
    price: jax.Array  # [Q]: the columns' dual variables, at most 0, and 0 for free columns
    root: jax.Array  # the row to be assigned
    row: jax.Array  # the row whose costs come next
    reached: jax.Array  # length of the shortest path to that row
    distance: jax.Array  # [Q]: length of the shortest path known to each column
    previous: jax.Array  # int32 [Q]: the row from which that path comes
    visited: jax.Array  # bool [Q]: columns whose shortest path is final


def _solve(costs: jax.Array, num_rows: jax.Array) -> jax.Array:
    """One problem: costs [N, Q] with N <= Q. Costs may be infinite if every row has a private column."""
    rows, columns = costs.shape
    count = jnp.clip(num_rows, 0, rows)
    column_ids = jnp.arange(columns, dtype=jnp.int32)

    def begin(column_of: jax.Array, row_of: jax.Array, price: jax.Array, root: jax.Array) -> _Search:
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

    def step(state: _Search) -> _Search:
        """Reads the costs of one row and moves to the nearest open column. If that column is free, the search ends."""
        reduced = costs[state.row] - state.price
        own = state.column_of[state.row]
        base = jnp.where(own < 0, 0, reduced[own])  # the root has none yet; this shifts all distances equally
        distance = state.reached + (reduced - base)
        closer = ~state.visited & (distance < state.distance)
        distance = jnp.where(closer, distance, state.distance)
        previous = jnp.where(closer, state.row, state.previous)
        open_distance = jnp.where(state.visited, jnp.inf, distance)
        nearest = open_distance.min()
        # Among equally near columns it takes a free one, which ends the search. It uses a minimum, because argmin is a
        # reduction over pairs and several times slower on CPUs.
        order = jnp.where(state.row_of < 0, column_ids, column_ids + columns)
        best = jnp.where(open_distance == nearest, order, 2 * columns).min() % columns
        free = state.row_of[best] < 0

        def shift(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            """Gives a column to the row before it on the path, and continues with the column that this row had."""
            column, column_of, row_of = carry
            row = previous[column]
            return column_of[row], column_of.at[row].set(column), row_of.at[column].set(row)

        # The root has column -1, which ends the loop. Without a free column the loop does not begin.
        start = jnp.where(free & (state.root < count), best, -1)
        _, column_of, row_of = lax.while_loop(
            lambda carry: carry[0] >= 0, shift, (start, state.column_of, state.row_of)
        )
        price = state.price + jnp.where(state.visited, distance - nearest, 0)
        found = begin(column_of, row_of, price, state.root + 1)
        going_on = state._replace(
            row=state.row_of[best],
            reached=nearest,
            distance=distance,
            previous=previous,
            visited=state.visited | (column_ids == best),
        )
        return jax.tree.map(lambda a, b: jnp.where(free, a, b), found, going_on)

    first = begin(
        jnp.full(rows, -1, jnp.int32),
        jnp.full(columns, -1, jnp.int32),
        jnp.zeros(columns, costs.dtype),
        jnp.zeros((), jnp.int32),
    )
    return lax.while_loop(lambda state: state.root < count, step, first).column_of
