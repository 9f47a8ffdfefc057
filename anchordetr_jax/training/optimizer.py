"""AdamW, SGD or Muon: learning-rate groups, schedule, and clipping by the whole norm as in the official recipe."""

import math
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from anchordetr_jax.config import OptimizerConfig
from anchordetr_jax.errors import UserError
from anchordetr_jax.kernels.building import Variables
from anchordetr_jax.training.muon import is_matrix, scale_by_muon

Schedule = Callable[[jax.Array | int], jax.Array]
"""Step number to a float scalar."""

_CLIP_EPSILON = 1e-6
"""Added to the gradient's norm before dividing by it, as `torch.nn.utils.clip_grad_norm_` does."""

_SMALL = 2**17
"""`total_norm` joins arrays with fewer elements than this."""


class Optimizer(NamedTuple):
    """An optax chain whose learning rates depend on the step that it is given, not on a count of its own.

    So a refused step also moves the schedule, and the schedule follows the epochs.
    """

    init: Callable[[Variables], Any]
    """Parameters to optimiser state. Raises `UserError` if the pattern of a learning rate matches none of them."""
    update: Callable[[Variables, Any, Variables, jax.Array, jax.Array], tuple[Variables, Any]]
    """(gradients, optimiser state, parameters, step, norm of all gradients) to (changes to add to the parameters, new
    optimiser state)."""
    learning_rates: Callable[[jax.Array | int], dict[str, jax.Array]]
    """Step number to the learning rate of each group: "rest", "backbone", and one for each pattern."""


def make_optimizer(
    config: OptimizerConfig, *, steps_before: Callable[[int], int], epochs: int, mesh: Mesh | None = None
) -> Optimizer:
    """Builds the optimiser for a run of `epochs` epochs.

    Args:
        config: the recipe. Weight decay applies to every trained parameter (decoupled with AdamW and Muon; added to
            the gradient with SGD, whose momentum is 0.9).
        steps_before: number of training steps before an epoch (counted from 0) begins.
        epochs: length of the run.
        mesh: the devices, which share Muon's work. None: one device.
    """
    factor = schedule_factor(config, steps_before=steps_before, epochs=epochs)
    by_pattern = config.rates_by_pattern()
    base_rates = {"rest": config.learning_rate, "backbone": config.backbone_learning_rate, **by_pattern}

    def learning_rates(step: jax.Array | int) -> dict[str, jax.Array]:
        return {group: rate * factor(step) for group, rate in base_rates.items()}

    # `identity` keeps the layout of the state, so that a run may continue with clipping switched on or off.
    stages = [clip_by_total_norm(config.clip_norm) if config.clip_norm > 0 else optax.identity()]
    if config.name == "sgd":
        stages.append(optax.add_decayed_weights(config.weight_decay))
        stages.append(optax.trace(decay=0.9))
    else:
        adam = optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)
        stages.append(adam if config.name == "adamw" else scale_by_muon(adam, mesh, config.muon_parameters))
        stages.append(optax.add_decayed_weights(config.weight_decay))
    chain = optax.with_extra_args_support(optax.chain(*stages))

    def init(params: Variables) -> Any:
        groups = {learning_rate_group(path, by_pattern) for path in params}
        if idle := [pattern for pattern in by_pattern if pattern not in groups]:
            raise UserError(
                f"Setting 'optimizer.learning_rates' has {idle[0]!r}, which decides for no trained parameter (their "
                f"paths look like {min(params)!r}): correct it, or remove it."
            )
        kernels = [path for path, value in params.items() if is_matrix(path, value.shape)]
        for pattern in config.muon_parameters if config.name == "muon" else ():
            if kernels and not any(re.fullmatch(pattern, path) for path in kernels):
                raise UserError(
                    f"Setting 'optimizer.muon_parameters' has {pattern!r}, which matches no trained kernel as a whole "
                    f"(their paths look like {min(kernels)!r}): correct it, or remove it."
                )
        return chain.init(params)

    def update(
        gradients: Variables, state: Any, params: Variables, step: jax.Array, norm: jax.Array
    ) -> tuple[Variables, Any]:
        directions, state = chain.update(gradients, state, params, norm=norm)
        rates = learning_rates(step)
        changes = {
            path: -rates[learning_rate_group(path, by_pattern)].astype(direction.dtype) * direction
            for path, direction in directions.items()
        }
        return changes, state

    return Optimizer(init, update, learning_rates)


def learning_rate_group(path: str, patterns: Iterable[str] = ()) -> str:
    """The learning-rate group of the parameter at `path`.

    It is the first pattern that matches the whole path, or else "backbone" or "rest".
    """
    for pattern in patterns:
        if re.fullmatch(pattern, path):
            return pattern
    return "backbone" if path.startswith("backbone/") else "rest"


def schedule_factor(config: OptimizerConfig, *, steps_before: Callable[[int], int], epochs: int) -> Schedule:
    """The factor of the base learning rates at each step: warm-up, times either drops or half a cosine to 0."""
    total = max(1, steps_before(epochs))
    drops = [steps_before(epoch) for epoch in range(config.drop_epoch, epochs + 1, config.drop_epoch)]

    def factor(step: jax.Array | int) -> jax.Array:
        # `float` is JAX's default float, so that float64 runs get a float64 schedule.
        position = jnp.asarray(step).astype(float)
        if config.schedule == "step":
            dropped = jnp.searchsorted(jnp.asarray(drops, jnp.int32), jnp.asarray(step, jnp.int32), side="right")
            decay = jnp.asarray([0.1**times for times in range(len(drops) + 1)])[dropped]
        else:
            length = max(1, total - config.warmup_steps)
            decay = 0.5 * (1 + jnp.cos(math.pi * jnp.clip((position - config.warmup_steps) / length, 0, 1)))
        if config.warmup_steps > 0:
            decay = decay * jnp.minimum(1.0, (position + 1) / config.warmup_steps)
        return decay

    return factor


def total_norm(gradients: Variables, *, join: bool = False) -> jax.Array:
    """Euclidean norm of all gradients as one vector.

    Args:
        gradients: arrays by path.
        join: concatenate small arrays first. Hundreds of separate sums take a CPU's program longer to compile and to
            load than to run. On TPUs, and for arrays that are split over devices, it would cost copies and exchanges.
    """
    arrays = list(gradients.values())
    small = [array.reshape(-1) for array in arrays if array.size < _SMALL] if join else []
    if small:
        arrays = [jnp.concatenate(small), *(array for array in arrays if array.size >= _SMALL)]
    return jnp.sqrt(sum(jnp.sum(jnp.square(array)) for array in arrays))


def clip_by_total_norm(max_norm: float) -> optax.GradientTransformationExtraArgs:
    """Scales all gradients by min(1, max_norm / (norm + 1e-6)), as `torch.nn.utils.clip_grad_norm_` does.

    The version in optax lacks the 1e-6, which at max_norm 0.1 changes the fifth digit. `update` takes the norm as the
    keyword argument `norm`.
    """

    def update(gradients: Any, state: Any, params: Any = None, *, norm: jax.Array, **_: Any) -> tuple[Any, Any]:
        del params
        scale = jnp.minimum(1.0, max_norm / (norm + _CLIP_EPSILON))
        return jax.tree.map(lambda gradient: gradient * scale.astype(gradient.dtype), gradients), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
