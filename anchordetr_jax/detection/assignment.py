"""The assignment problem solved in XLA, for where a host callback is slow or not to be had.

The method is the shortest augmenting path of Jonker and Volgenant (Computing 38, 1987): rows are assigned one after
another, each by a Dijkstra search over columns in reduced costs. Only real rows are ever looked at, because a padded
row of constant cost would tie with every column, and a search among ties visits them all.
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
        int32 [P, N], -1 for padding and, where a problem has more real rows than columns, for the rows left over. Exact
        up to rounding in the dtype of the costs; which of several best assignments is not specified.
    """
    problems, rows, columns = costs.shape
    if problems == 0 or rows == 0 or columns == 0:
        return jnp.full((problems, rows), -1, jnp.int32)
    if rows > columns:
        costs = _with_private_columns(costs)
    assigned = jax.vmap(_solve)(costs, num_rows.astype(jnp.int32))
    return jnp.where(assigned < columns, assigned, -1)


def _with_private_columns(costs: jax.Array) -> jax.Array:
    """Adds a column for each row that no other row may take, so dear that only rows left over take theirs."""
    _, rows, columns = costs.shape
    low, high = costs.min(axis=(1, 2), keepdims=True), costs.max(axis=(1, 2), keepdims=True)
    # Giving a row a real column can move every other one, each by at most the range of the costs.
    dear = high + (high - low + 1) * (columns + 1)
    own = jnp.eye(rows, dtype=bool)[None]
    return jnp.concatenate([costs, jnp.where(own, dear, jnp.inf)], axis=2)


class _Search(NamedTuple):
    """State of one problem: the assignment so far, the prices, and the search that is under way for one row."""

    column_of: jax.Array  # int32 [N]: each row's column, or -1
    row_of: jax.Array  # int32 [Q]: each column's row, or -1
    price: jax.Array  # [Q]: the columns' dual variables, at most 0, and 0 for free columns
    root: jax.Array  # the row to be assigned
    row: jax.Array  # the row whose costs are looked at next
    reached: jax.Array  # length of the shortest path to that row
    distance: jax.Array  # [Q]: length of the shortest path known to each column
    previous: jax.Array  # int32 [Q]: the row from which that path comes
    visited: jax.Array  # bool [Q]: columns whose shortest path is final


def _solve(costs: jax.Array, num_rows: jax.Array) -> jax.Array:
    """One problem: costs [N, Q] with N <= Q, or with infinite costs as long as every row has a column of its own."""
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
        """Looks at one row's costs and goes on to the nearest open column; if that is free, the search is over."""
        reduced = costs[state.row] - state.price
        own = state.column_of[state.row]
        base = jnp.where(own < 0, 0, reduced[own])  # the root has none yet; that only shifts all distances alike
        distance = state.reached + (reduced - base)
        closer = ~state.visited & (distance < state.distance)
        distance = jnp.where(closer, distance, state.distance)
        previous = jnp.where(closer, state.row, state.previous)
        open_distance = jnp.where(state.visited, jnp.inf, distance)
        nearest = open_distance.min()
        # Of equally near columns a free one, which ends the search. A plain minimum, because argmin, a reduction over
        # pairs, is several times slower on the CPU.
        order = jnp.where(state.row_of < 0, column_ids, column_ids + columns)
        best = jnp.where(open_distance == nearest, order, 2 * columns).min() % columns
        free = state.row_of[best] < 0

        def shift(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            """Gives a column to the row before it on the path, and goes on with the one that this row had."""
            column, column_of, row_of = carry
            row = previous[column]
            return column_of[row], column_of.at[row].set(column), row_of.at[column].set(row)

        # The root's own column is -1, which ends the loop; where no free column was found it does not begin.
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
