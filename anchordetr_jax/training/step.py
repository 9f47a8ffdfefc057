"""One training step as one jitted function: forward, matching, losses, gradient, update.

Images do not depend on each other, so each device computes the losses and the gradient of its own images alone
(`shard_map`), and calls the matcher of its own host. Devices exchange the number of boxes before that, and the sums of
losses and gradients once after it. With `fsdp` they also exchange parameters before it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from anchordetr_jax.config import Config
from anchordetr_jax.data.batching import Batch
from anchordetr_jax.detection.losses import class_error, detection_losses, total_loss
from anchordetr_jax.detection.matching import Targets, match
from anchordetr_jax.devices import BATCH_AXES, batch_sharding, replicated
from anchordetr_jax.kernels import compiler_options
from anchordetr_jax.kernels.building import ModelDefinition, Variables
from anchordetr_jax.training.collectives import gather_parameters, reduce_gradients, sum_over_devices
from anchordetr_jax.training.denoising import denoising_losses, denoising_queries, denoising_shifts
from anchordetr_jax.training.optimizer import Optimizer, total_norm
from anchordetr_jax.training.photometric import has_jitter, jittered
from anchordetr_jax.training.sharding import partition_specs, split_dimension
from anchordetr_jax.training.state import TrainState, average_of

Metrics = dict[str, jax.Array]
"""Scalars by name, still on the device."""
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_train_step(
    definition: ModelDefinition, optimizer: Optimizer, config: Config, mesh: Mesh, state: TrainState
) -> TrainStep:
    """The jitted step. It compiles once for every image shape (bucket) it is given.

    A step whose loss or gradient is not finite is refused: parameters, their average and the optimiser keep their
    values, and a counter in the state counts it.

    Args:
        definition: the model.
        optimizer: the update rule.
        config: settings of matcher and losses; `train.accumulate`, the number of parts in which a device computes its
            images; `train.ema_decay` and `train.ema_warmup`, of the moving average, if the state has one;
            `train.denoising_groups` and `train.denoising_negatives`; and the photometric jitter of `augment`. Random
            numbers follow from `train.seed` and the step.
        mesh: the devices.
        state: a state, or an abstract one. The step keeps its shardings.

    Returns:
        A function of (state, global batch) to (next state, metrics). It donates its state: do not use that state
        again. Metrics are `loss` (weighted, all decoder layers), `loss/class`, `loss/box`, `loss/giou` (unweighted,
        last decoder layer), the same of denoising queries as `denoising/class` and so on if there are any,
        `class_error` (percent, last layer), `grad_norm` (before clipping), `learning_rate`, `backbone_learning_rate`,
        `num_boxes`, `refused` (0 or 1), `bad_steps` and `bad_steps_in_row` (this step included).
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    params, frozen = (partition_specs(variables) for variables in (state.params, state.frozen))
    losses_and_gradients = _over_devices(definition, config, mesh, params, frozen)
    platform = mesh.devices.flat[0].platform
    join = platform == "cpu" and all(split_dimension(spec) is None for spec in params.values())

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        losses, gradients = losses_and_gradients(state.params, state.frozen, batch, state.step)
        grad_norm = total_norm(gradients, join=join)
        finite = jnp.isfinite(losses["loss"]) & jnp.isfinite(grad_norm)
        changes, opt_state = optimizer.update(gradients, state.opt_state, state.params, state.step, grad_norm)
        params = {path: value + changes[path] for path, value in state.params.items()}
        params = _choose(finite, params, state.params)
        ema = average_of(
            state.ema,
            params,
            decay=config.train.ema_decay,
            warmup=config.train.ema_warmup,
            updates=state.step - state.bad_steps,
        )
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
) -> Callable[[Variables, Variables, Batch, jax.Array], tuple[Metrics, Variables]]:
    """A function of (params, frozen, global batch, step) to (losses, gradients).

    Both are sums over all images of the batch. Gradients are split over devices like `params`.
    """
    accumulate = config.train.accumulate

    def on_device(params: Variables, frozen: Variables, batch: Batch, step: jax.Array) -> tuple[Metrics, Variables]:
        """From this device's share of the parameters and of the images."""
        params, frozen = gather_parameters(params, param_specs), gather_parameters(frozen, frozen_specs)
        num_boxes = sum_over_devices(_count_boxes(batch))

        def loss(params: Variables, part: Batch) -> tuple[jax.Array, Metrics]:
            return _sums(definition.merge(params, frozen), config, part, num_boxes, step)

        def add_part(total: Variables, part: Batch) -> tuple[Variables, Metrics]:
            gradients, sums = jax.grad(loss, has_aux=True)(params, part)
            return jax.tree.map(jnp.add, total, gradients), sums

        if accumulate == 1:
            gradients, sums = jax.grad(loss, has_aux=True)(params, batch)
        else:
            parts = jax.tree.map(lambda array: array.reshape(accumulate, -1, *array.shape[1:]), batch)
            gradients, by_part = lax.scan(add_part, jax.tree.map(jnp.zeros_like, params), parts)
            sums = jax.tree.map(lambda array: array.sum(axis=0), by_part)
        sums = sum_over_devices(sums)
        error = class_error(sums.pop("right"), sums.pop("matched"))
        losses = {**sums, "class_error": error, "num_boxes": num_boxes}
        # A sum over one device would copy every gradient.
        return losses, gradients if mesh.size == 1 else reduce_gradients(gradients, param_specs)

    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(dict(param_specs), dict(frozen_specs), PartitionSpec(BATCH_AXES), PartitionSpec()),
        out_specs=(PartitionSpec(), dict(param_specs)),
        check_vma=False,
    )


def _sums(model: Any, config: Config, batch: Batch, num_boxes: jax.Array, step: jax.Array) -> tuple[jax.Array, Metrics]:
    """What these images add to the loss and to the metrics of a batch that has `num_boxes` boxes in all.

    The metrics are sums over images: the loss, the unweighted losses of the last decoder layer, the number of matched
    queries of that layer, and the number of them whose class is right.
    """
    images, rows = jnp.asarray(batch.images), jnp.asarray(batch.rows)
    if has_jitter(config.augment):
        sizes = jnp.asarray(batch.image_sizes)
        images = jittered(images, sizes, rows, step, seed=config.train.seed, config=config.augment)
    features, grid = model.encode(images, batch.image_sizes)
    predictions = model.decode(features, grid, model.queries())
    targets = Targets(
        jnp.asarray(batch.boxes, predictions.boxes.dtype),
        jnp.asarray(batch.labels),
        jnp.where(batch.valid, batch.num_boxes, 0),
    )
    matches = match(predictions.logits, predictions.boxes, targets, config.matcher)
    num_boxes, weights = jnp.maximum(num_boxes, 1), jnp.asarray(batch.valid, predictions.logits.dtype)
    losses = detection_losses(
        predictions.logits,
        predictions.boxes,
        targets,
        matches,
        num_boxes=num_boxes,
        config=config.loss,
        image_weights=weights,
    )
    loss = total_loss(losses, config.loss)
    last = {f"loss/{name}": losses[name][-1] for name in ("class", "box", "giou")}
    if groups := config.train.denoising_groups:
        negatives = config.train.denoising_negatives
        shifts = denoising_shifts(config.train.seed, step, rows, groups, batch.labels.shape[1], negatives=negatives)
        near = model.decode(features, grid, denoising_queries(model, targets, shifts))
        of_near = denoising_losses(
            near, targets, groups, num_boxes=num_boxes, config=config.loss, image_weights=weights
        )
        loss += total_loss(of_near, config.loss)
        last |= {f"denoising/{name}": of_near[name][-1] for name in ("class", "box", "giou")}
    return loss, {"loss": loss, **last, "right": losses["right"], "matched": losses["matched"]}


def _count_boxes(batch: Batch) -> jax.Array:
    return jnp.sum(jnp.where(batch.valid, batch.num_boxes, 0))


def _choose(condition: jax.Array, if_true: Any, if_false: Any) -> Any:
    return jax.tree.map(lambda yes, no: jnp.where(condition, yes, no), if_true, if_false)
