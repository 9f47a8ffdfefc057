"""One training step as one jitted function: forward, matching, losses, gradient, update; and its first state."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from anchordetr_jax.config import Config, MatcherConfig
from anchordetr_jax.data.batching import Batch
from anchordetr_jax.detection.losses import detection_losses, total_loss
from anchordetr_jax.detection.matching import Targets, match
from anchordetr_jax.model.definition import ModelDefinition, Variables, variables_of
from anchordetr_jax.training.optimizer import Optimizer, total_norm
from anchordetr_jax.training.sharding import (
    BATCH_AXES,
    FSDP_RULES,
    ShardingRule,
    batch_sharding,
    replicated,
    state_shardings,
)
from anchordetr_jax.training.state import TrainState, new_state, split_variables, trainable_paths

Metrics = dict[str, jax.Array]
"""Scalars by name, still on the device."""
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def initial_state(
    definition: ModelDefinition,
    build: Callable[[], Any],
    optimizer: Optimizer,
    mesh: Mesh,
    *,
    freeze: Sequence[str],
    rules: Sequence[ShardingRule] = FSDP_RULES,
) -> TrainState:
    """The state before the first step, made where it belongs: no device ever holds more than its share.

    Args:
        definition: of the model that `build` makes.
        build: makes the model with its initial weights; traced under `jax.jit`.
        optimizer: whose state is made along.
        mesh: the devices.
        freeze: patterns of parameters that are not trained.
        rules: which parameters are split over `fsdp`.
    """
    trainable = trainable_paths(definition, freeze)

    def make() -> TrainState:
        return new_state(*split_variables(variables_of(build()), trainable), optimizer.init)

    return jax.jit(make, out_shardings=state_shardings(jax.eval_shape(make), mesh, rules))()


def abstract_state(
    definition: ModelDefinition,
    optimizer: Optimizer,
    mesh: Mesh,
    *,
    freeze: Sequence[str],
    rules: Sequence[ShardingRule] = FSDP_RULES,
) -> TrainState:
    """Shapes, dtypes and shardings of the state (`jax.ShapeDtypeStruct` leaves), e.g. to restore a checkpoint into."""
    params, frozen = split_variables(definition.shapes, trainable_paths(definition, freeze))
    shapes = jax.eval_shape(lambda: new_state(_zeros(params), _zeros(frozen), optimizer.init))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        state_shardings(shapes, mesh, rules),
    )


def make_train_step(
    definition: ModelDefinition, optimizer: Optimizer, config: Config, mesh: Mesh, state: TrainState
) -> TrainStep:
    """The jitted step. It compiles once for every image shape (bucket) it is given.

    A step whose loss or gradient is not finite is refused: parameters and optimiser keep their values, and the counters
    say so.

    Args:
        definition: the model.
        optimizer: the update rule.
        config: settings of matcher and losses.
        mesh: the devices.
        state: a state, or an abstract one, whose shardings the step keeps.

    Returns:
        A function of (state, global batch) to (next state, metrics). The state given to it is donated: do not use it
        again. Metrics are `loss` (weighted, all decoder layers), `loss/class`, `loss/box`, `loss/giou` (unweighted,
        last decoder layer), `class_error` (percent, last layer), `grad_norm` (before clipping), `learning_rate`,
        `backbone_learning_rate`, `num_boxes`, `refused` (0 or 1), `bad_steps` and `bad_steps_in_row` (this step
        included).
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        gradient_of = jax.value_and_grad(functools.partial(batch_loss, definition, config, mesh), has_aux=True)
        # With fsdp > 1 variables are gathered for use, lest the compiler split activations as they are split, and each
        # device receives only its share of the reduced gradient.
        whole = jax.lax.with_sharding_constraint((state.params, state.frozen), replicated(mesh))
        (loss, losses), gradients = gradient_of(*whole, batch)
        gradients = jax.lax.with_sharding_constraint(gradients, shardings.params)
        grad_norm = total_norm(gradients)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        changes, opt_state = optimizer.update(gradients, state.opt_state, state.params, state.step)
        params = {path: value + changes[path] for path, value in state.params.items()}
        refused = 1 - finite.astype(jnp.int32)
        next_state = TrainState(
            step=state.step + 1,
            params=_choose(finite, params, state.params),
            frozen=state.frozen,
            opt_state=_choose(finite, opt_state, state.opt_state),
            bad_steps=state.bad_steps + refused,
            bad_steps_in_row=(state.bad_steps_in_row + 1) * refused,
        )
        rates = optimizer.learning_rates(state.step)
        metrics = {
            "loss": loss,
            **{f"loss/{name}": losses[name][-1] for name in ("class", "box", "giou")},
            "class_error": losses["class_error"],
            "grad_norm": grad_norm,
            "learning_rate": rates["rest"],
            "backbone_learning_rate": rates["backbone"],
            "num_boxes": count_boxes(batch),
            "refused": refused,
            "bad_steps": next_state.bad_steps,
            "bad_steps_in_row": next_state.bad_steps_in_row,
        }
        return next_state, metrics

    return jax.jit(
        train_step,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )


def batch_loss(
    definition: ModelDefinition, config: Config, mesh: Mesh, params: Variables, frozen: Variables, batch: Batch
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Total loss (scalar) of a global batch, and the unweighted losses by name (per decoder layer [L], or scalar)."""
    model = definition.merge(params, frozen)
    predictions = model(batch.images, batch.image_sizes)
    targets = Targets(
        jnp.asarray(batch.boxes, predictions.boxes.dtype),
        jnp.asarray(batch.labels),
        jnp.where(batch.valid, batch.num_boxes, 0),
    )
    losses = detection_losses(
        predictions.logits,
        predictions.boxes,
        targets,
        match_on_shards(predictions.logits, predictions.boxes, targets, config.matcher, mesh),
        num_boxes=jnp.maximum(count_boxes(batch), 1),
        config=config.loss,
        image_weights=jnp.asarray(batch.valid, predictions.logits.dtype),
    )
    return total_loss(losses, config.loss), losses


def match_on_shards(
    logits: jax.Array, boxes: jax.Array, targets: Targets, config: MatcherConfig, mesh: Mesh
) -> jax.Array:
    """`match`, with every device asking its own host about its own images only.

    Outside of `shard_map` the operands of a host callback would first be gathered onto one device.
    """
    images, layers = PartitionSpec(BATCH_AXES), PartitionSpec(None, BATCH_AXES)
    on_shard = jax.shard_map(
        functools.partial(match, config=config),
        mesh=mesh,
        in_specs=(layers, layers, images),
        out_specs=layers,
        check_vma=False,
    )
    return on_shard(jax.lax.stop_gradient(logits), jax.lax.stop_gradient(boxes), targets)


def count_boxes(batch: Batch) -> jax.Array:
    """Number of real targets in the global batch, int32 scalar."""
    return jnp.sum(jnp.where(batch.valid, batch.num_boxes, 0))


def _choose(condition: jax.Array, if_true: Any, if_false: Any) -> Any:
    return jax.tree.map(lambda yes, no: jnp.where(condition, yes, no), if_true, if_false)


def _zeros(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> Variables:
    return {path: jnp.zeros(shape.shape, shape.dtype) for path, shape in shapes.items()}
