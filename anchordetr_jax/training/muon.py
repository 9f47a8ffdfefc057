"""Muon: each matrix moves along its momentum with all singular values made about equal.

K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024), with the scale of arXiv 2502.16982:
a change has about the size that one of AdamW's has, so learning rates and weight decay mean the same for both.

`optax.contrib.muon` computes the same for one matrix after the other. Here matrices of one shape are a stack. This
makes a program with a tenth of the products, and lets devices share the matrices.
"""

import re
from collections import defaultdict
from collections.abc import Collection

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh

from anchordetr_jax.config import OptimizerConfig
from anchordetr_jax.devices import batch_sharding, replicated
from anchordetr_jax.kernels.building import Variables

MOMENTUM = 0.95
SCALE = 0.2
"""The root mean square of AdamW's changes at a learning rate of one, by experience (arXiv 2502.16982, section 2.2)."""

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_EPSILON = 1e-8
_OUTPUTS = re.compile(r"class_head/.*|box_head/layers/2/.*")
"""The layers that make class logits and box offsets. Their rows are outputs, not directions in a space of features."""


def scale_by_muon(
    others: optax.GradientTransformation,
    mesh: Mesh | None = None,
    patterns: Collection[str] = OptimizerConfig.muon_parameters,
) -> optax.GradientTransformation:
    """Muon's direction for matrices (see `is_matrix`), and the direction of `others` for all other parameters.

    Parameters are arrays by path. The state has one array for each matrix, its momentum.

    Args:
        others: for biases, norms, anchors, patterns and the layers that make the outputs.
        mesh: the devices, which share the matrices. None: one device.
        patterns: regular expressions. A matrix whose whole path matches none of them is one of the others.
    """

    def kinds(params: Variables) -> dict[str, str]:
        return {path: "matrix" if is_matrix(path, value.shape, patterns) else "other" for path, value in params.items()}

    momentum = optax.partition({"matrix": optax.trace(MOMENTUM, nesterov=True), "other": others}, kinds)
    return optax.chain(momentum, optax.stateless(lambda directions, _: orthogonalize(directions, mesh, patterns)))


def is_matrix(path: str, shape: tuple[int, ...], patterns: Collection[str] = OptimizerConfig.muon_parameters) -> bool:
    """Whether a parameter maps features to features: kernels of linear layers [I,O] and of convolutions [h,w,I,O].

    A depthwise kernel [h,w,1,O] does not: each of its channels stands for itself. A kernel whose whole path matches
    none of the `patterns` does not count either.
    """
    features = path.endswith("kernel") and len(shape) in (2, 4) and shape[-2] > 1 and not _OUTPUTS.fullmatch(path)
    return features and any(re.fullmatch(pattern, path) for pattern in patterns)


def orthogonalize(
    directions: Variables, mesh: Mesh | None = None, patterns: Collection[str] = OptimizerConfig.muon_parameters
) -> Variables:
    """Directions by path, the matrices among them orthogonal (see `nearly_orthogonal`) and scaled; others unchanged.

    A kernel [h,w,I,O] counts as the matrix [h*w*I,O]. A matrix [m,n] is scaled by 0.2 * sqrt(max(m, n)), so that the
    root mean square of its elements is about 0.2.

    With several devices, each computes its share of the matrices of a shape, and then sends them to all others. A
    matrix is never divided, because its products need all of it.
    """
    stacks: dict[tuple[int, int], list[str]] = defaultdict(list)
    for path, value in directions.items():
        if is_matrix(path, value.shape, patterns):
            rows, columns = value.size // value.shape[-1], value.shape[-1]
            stacks[min(rows, columns), max(rows, columns)].append(path)
    result = dict(directions)
    for (_, longer), paths in stacks.items():
        stack = jnp.stack([_wide(directions[path]) for path in paths])
        stack = SCALE * longer**0.5 * _shared(stack, mesh)
        for path, matrix in zip(paths, stack, strict=True):
            value = directions[path]
            tall = value.size // value.shape[-1] > value.shape[-1]
            result[path] = (matrix.T if tall else matrix).reshape(value.shape)
    return result


def nearly_orthogonal(stack: jax.Array) -> jax.Array:
    """Matrices [n,r,c], r <= c, each with its singular values moved to between about 0.7 and 1.2.

    Five iterations of Newton and Schulz with the coefficients of Muon's authors. Products have the platform's default
    precision (bfloat16 on TPUs): that is the precision in which Muon's authors compute them.
    """
    norms = jnp.sqrt(jnp.sum(jnp.square(stack), axis=(1, 2), keepdims=True))
    x = stack / (norms + _EPSILON)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        squares = jnp.einsum("nrk,nsk->nrs", x, x)
        x = a * x + jnp.einsum("nrs,nsk->nrk", b * squares + c * jnp.einsum("nrs,nst->nrt", squares, squares), x)
    return x


def _wide(value: jax.Array) -> jax.Array:
    """A kernel as a matrix with at least as many columns as rows."""
    matrix = value.reshape(-1, value.shape[-1])
    return matrix.T if matrix.shape[0] > matrix.shape[1] else matrix


def _shared(stack: jax.Array, mesh: Mesh | None) -> jax.Array:
    """`nearly_orthogonal` of [n,r,c], computed by all devices together; each gets all of the result."""
    if mesh is None or mesh.size == 1:
        return nearly_orthogonal(stack)
    n = len(stack)
    padded = jnp.pad(stack, ((0, -n % mesh.size), (0, 0), (0, 0)))
    # Where the compiler chose, devices would exchange parts of matrices before and after.
    whole = lax.with_sharding_constraint(padded, replicated(mesh))
    share = lax.with_sharding_constraint(whole, batch_sharding(mesh))
    return lax.with_sharding_constraint(nearly_orthogonal(share), replicated(mesh))[:n]
