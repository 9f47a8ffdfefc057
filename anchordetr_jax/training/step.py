"""One training step as one jitted function: forward, matching, losses, gradient, update; and its first state.

The model sees each image by itself, so every device computes losses and gradient of its own images without a word to
the others (`shard_map`), the call to its host's matcher included. What they tell each other is the number of boxes
beforehand and, once, the sums of losses and gradients afterwards; with `fsdp` also the parameters before.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from anchordetr_jax.config import Config
from anchordetr_jax.data.batching import Batch
from anchordetr_jax.detection.losses import detection_losses, total_loss
from anchordetr_jax.detection.matching import Targets, match
from anchordetr_jax.devices import (
    BATCH_AXES,
    FSDP_AXIS,
    FSDP_RULES,
    ShardingRule,
    batch_sharding,
    replicated,
    state_shardings,
)
from anchordetr_jax.kernels.forms import compiler_options
from anchordetr_jax.model.definition import ModelDefinition, Variables, variables_of
from anchordetr_jax.training.optimizer import Optimizer, total_norm
from anchordetr_jax.training.state import TrainState, average_of, new_state, split_variables, trainable_paths

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
    ema: bool = False,
) -> TrainState:
    """The state before the first step, made where it belongs: no device ever holds more than its share.

    Args:
        definition: of the model that `build` makes.
        build: makes the model with its initial weights; traced under `jax.jit`.
        optimizer: whose state is made along.
        mesh: the devices.
        freeze: patterns of parameters that are not trained.
        rules: which parameters are split over `fsdp`.
        ema: whether a moving average of the weights is kept.
    """
    trainable = trainable_paths(definition, freeze)

    def make() -> TrainState:
        return new_state(*split_variables(variables_of(build()), trainable), optimizer.init, ema=ema)

    return jax.jit(make, out_shardings=state_shardings(jax.eval_shape(make), mesh, rules))()


def abstract_state(
    definition: ModelDefinition,
    optimizer: Optimizer,
    mesh: Mesh,
    *,
    freeze: Sequence[str],
    rules: Sequence[ShardingRule] = FSDP_RULES,
    ema: bool = False,
) -> TrainState:
    """Shapes, dtypes and shardings of the state (`jax.ShapeDtypeStruct` leaves), e.g. to restore a checkpoint into."""
    params, frozen = split_variables(definition.shapes, trainable_paths(definition, freeze))
    shapes = jax.eval_shape(lambda: new_state(_zeros(params), _zeros(frozen), optimizer.init, ema=ema))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        state_shardings(shapes, mesh, rules),
    )


def make_train_step(
    definition: ModelDefinition, optimizer: Optimizer, config: Config, mesh: Mesh, state: TrainState
) -> TrainStep:
    """The jitted step. It compiles once for every image shape (bucket) it is given.

    A step whose loss or gradient is not finite is refused: parameters, their average and the optimiser keep their
    values, and the counters say so.

    Args:
        definition: the model.
        optimizer: the update rule.
        config: settings of matcher and losses; in how many parts a device computes its images (`train.accumulate`); the
            decay of the weights' average, where the state has one.
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
    params, frozen = (_specs(variables) for variables in (state.params, state.frozen))
    losses_and_gradients = _over_devices(definition, config, mesh, params, frozen)
    platform = mesh.devices.flat[0].platform
    join = platform == "cpu" and all(_split_dimension(spec) is None for spec in params.values())

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        losses, gradients = losses_and_gradients(state.params, state.frozen, batch)
        grad_norm = total_norm(gradients, join=join)
        finite = jnp.isfinite(losses["loss"]) & jnp.isfinite(grad_norm)
        changes, opt_state = optimizer.update(gradients, state.opt_state, state.params, state.step, grad_norm)
        params = {path: value + changes[path] for path, value in state.params.items()}
        params = _choose(finite, params, state.params)
        ema = average_of(state.ema, params, decay=config.train.ema_decay, updates=state.step - state.bad_steps)
        refused = 1 - finite.astype(jnp.int32)
        next_state = TrainState(
            step=state.step + 1,
            params=params,
            frozen=state.frozen,
            opt_state=_choose(finite, opt_state, state.opt_state),
            bad_steps=state.bad_steps + refused,
            bad_steps_in_row=(state.bad_steps_in_row + 1) * refused,
            ema=_choose(finite, ema, state.ema),
        )
        rates = optimizer.learning_rates(state.step)
        metrics = {
            **losses,
            "grad_norm": grad_norm,
            "learning_rate": rates["rest"],
            "backbone_learning_rate": rates["backbone"],
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
        compiler_options=compiler_options(platform),
    )


def _over_devices(
    definition: ModelDefinition,
    config: Config,
    mesh: Mesh,
    param_specs: Mapping[str, PartitionSpec],
    frozen_specs: Mapping[str, PartitionSpec],
) -> Callable[[Variables, Variables, Batch], tuple[Metrics, Variables]]:
    """(params, frozen, global batch) to (losses, gradients): sums over all images, gradients laid out as `params`."""
    accumulate = config.train.accumulate

    def on_device(params: Variables, frozen: Variables, batch: Batch) -> tuple[Metrics, Variables]:
        """From this device's share of the parameters and of the images."""
        params, frozen = _gathered(params, param_specs), _gathered(frozen, frozen_specs)
        num_boxes = lax.psum(_count_boxes(batch), BATCH_AXES)

        def loss(params: Variables, part: Batch) -> tuple[jax.Array, Metrics]:
            return _sums(definition, config, params, frozen, part, num_boxes)

        def add_part(total: Variables, part: Batch) -> tuple[Variables, Metrics]:
            gradients, sums = jax.grad(loss, has_aux=True)(params, part)
            return jax.tree.map(jnp.add, total, gradients), sums

        if accumulate == 1:
            gradients, sums = jax.grad(loss, has_aux=True)(params, batch)
        else:
            parts = jax.tree.map(lambda array: array.reshape(accumulate, -1, *array.shape[1:]), batch)
            gradients, by_part = lax.scan(add_part, jax.tree.map(jnp.zeros_like, params), parts)
            sums = jax.tree.map(lambda array: array.sum(axis=0), by_part)
        sums = lax.psum(sums, BATCH_AXES)
        right, matched = sums.pop("right"), sums.pop("matched")
        losses = {**sums, "class_error": 100 - 100 * right / jnp.maximum(matched, 1), "num_boxes": num_boxes}
        # A sum over one device would copy all of them.
        return losses, gradients if mesh.size == 1 else _reduced(gradients, param_specs)

    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(dict(param_specs), dict(frozen_specs), PartitionSpec(BATCH_AXES)),
        out_specs=(PartitionSpec(), dict(param_specs)),
        check_vma=False,
    )


def _sums(
    definition: ModelDefinition,
    config: Config,
    params: Variables,
    frozen: Variables,
    batch: Batch,
    num_boxes: jax.Array,
) -> tuple[jax.Array, Metrics]:
    """What some images contribute to the loss of a batch with so many boxes; and to its metrics, all of which add up.

    Those are the loss itself, the unweighted losses of the last decoder layer, and how many queries of that layer are
    matched and how many of these have the right class.
    """
    predictions = definition.merge(params, frozen)(batch.images, batch.image_sizes)
    targets = Targets(
        jnp.asarray(batch.boxes, predictions.boxes.dtype),
        jnp.asarray(batch.labels),
        jnp.where(batch.valid, batch.num_boxes, 0),
    )
    matches = match(predictions.logits, predictions.boxes, targets, config.matcher)
    losses = detection_losses(
        predictions.logits,
        predictions.boxes,
        targets,
        matches,
        num_boxes=jnp.maximum(num_boxes, 1),
        config=config.loss,
        image_weights=jnp.asarray(batch.valid, predictions.logits.dtype),
    )
    loss = total_loss(losses, config.loss)
    matched = jnp.sum(matches[-1] >= 0)
    right = jnp.round((1 - losses["class_error"] / 100) * matched)
    last = {f"loss/{name}": losses[name][-1] for name in ("class", "box", "giou")}
    return loss, {"loss": loss, **last, "right": right, "matched": matched}


def _gathered(variables: Variables, specs: Mapping[str, PartitionSpec]) -> Variables:
    """Whole arrays from this device's shares of those that are split over `fsdp`."""
    whole = {}
    for path, value in variables.items():
        split = _split_dimension(specs[path])
        whole[path] = value if split is None else lax.all_gather(value, FSDP_AXIS, axis=split, tiled=True)
    return whole


def _reduced(gradients: Variables, specs: Mapping[str, PartitionSpec]) -> Variables:
    """Sums over all devices; of arrays that are split over `fsdp`, this device's share alone."""
    shared, split = {}, {}
    for path, gradient in gradients.items():
        dimension = _split_dimension(specs[path])
        if dimension is None:
            shared[path] = gradient
        else:
            split[path] = lax.psum_scatter(gradient, FSDP_AXIS, scatter_dimension=dimension, tiled=True)
    others = tuple(axis for axis in BATCH_AXES if axis != FSDP_AXIS)
    return {**lax.psum(shared, BATCH_AXES), **lax.psum(split, others)}


def _specs(variables: Mapping[str, Any]) -> dict[str, PartitionSpec]:
    return {path: value.sharding.spec for path, value in variables.items()}


def _split_dimension(spec: PartitionSpec) -> int | None:
    return next((dimension for dimension, axis in enumerate(spec) if axis == FSDP_AXIS), None)


def _count_boxes(batch: Batch) -> jax.Array:
    return jnp.sum(jnp.where(batch.valid, batch.num_boxes, 0))


def _choose(condition: jax.Array, if_true: Any, if_false: Any) -> Any:
    return jax.tree.map(lambda yes, no: jnp.where(condition, yes, no), if_true, if_false)


def _zeros(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> Variables:
    return {path: jnp.zeros(shape.shape, shape.dtype) for path, shape in shapes.items()}
