"""The outputs that this project computes for a case, with its own model, matcher, losses and train step."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from anchordetr_jax.config import Config, Kernels, ModelConfig
from anchordetr_jax.data.batching import Batch
from anchordetr_jax.detection.losses import class_error, detection_losses
from anchordetr_jax.detection.matching import Targets, match, matching_costs
from anchordetr_jax.detection.postprocess import top_detections
from anchordetr_jax.devices import make_mesh
from anchordetr_jax.kernels.building import ModelDefinition, Variables, definition_of
from anchordetr_jax.training.optimizer import Optimizer, make_optimizer
from anchordetr_jax.training.state import new_state, split_variables, state_shardings, trainable_paths
from anchordetr_jax.training.step import make_train_step
from anchordetr_jax.verification.cases import Case, DetectionArrays, Outputs
from anchordetr_jax.verification.stages import run_stages
from anchordetr_jax.weights.arguments import config_with
from anchordetr_jax.weights.correspondence import correspondences
from anchordetr_jax.weights.state_dict import state_dict_from_variables, variables_from_state_dict

STEPS_AN_EPOCH = 1_000_000
"""More steps than any case takes, so that the learning rates of the first epoch are used."""


@contextlib.contextmanager
def float_width(dtype: str) -> Iterator[None]:
    """Switches JAX's 64-bit mode on for "float64" and off for other dtypes, in all threads, while it is open."""
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", dtype == "float64")
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


def compute(
    case: Case,
    dtype: str,
    *,
    padding: Literal["invariant", "official"] | None = None,
    kernels: Kernels | None = None,
) -> Outputs:
    """Computes all outputs of a case.

    Args:
        case: what to compute. Without targets there is no training.
        dtype: "float64", "float32" or "bfloat16" (losses and training are then in float32).
        padding: `ModelConfig.padding`. The default is `official` where the images differ in size, else `invariant`.
        kernels: `ModelConfig.kernels`. Without a TPU, Pallas interprets the kernels of "tpu". To run all of them, the
            images are repeated to a multiple of 8. Losses, gradients and training steps stay the same, because they
            divide by the number of boxes.
    """
    images = len(case.images)
    if kernels == "tpu":
        case = _repeated(case, 8 // math.gcd(images, 8))
    padding = padding or ("official" if case.is_padded else "invariant")
    config = config_with(
        case.config,
        {
            "model.dtype": dtype,
            "model.padding": padding,
            "model.remat": False,
            "model.kernels": kernels or ModelConfig.kernels,
            "mesh.fsdp": 1,
        },
    )
    with float_width(dtype):
        plain = dataclasses.replace(config.model, kernels="none")
        variables = variables_from_state_dict(case.state_dict, plain)
        outputs = _forward(case, config, variables)
        if case.targets:
            _losses(case, config, outputs)
            _train(case, config, variables, outputs)
    return _of_first(outputs, images)


def _definition(config: Config) -> ModelDefinition:
    """With the TPU's kernels interpreted, if there is no TPU."""
    if config.model.kernels == "tpu":
        return definition_of(config.model, "tpu", interpret=jax.default_backend() != "tpu")
    return definition_of(config.model)


def _repeated(case: Case, times: int) -> Case:
    return dataclasses.replace(
        case,
        images=case.images * times,
        targets=case.targets * times,
        target_sizes=None if case.target_sizes is None else np.tile(case.target_sizes, (times, 1)),
    )


def _of_first(outputs: Outputs, images: int) -> Outputs:
    """The outputs for the first images. Losses, gradients and training steps are those of all images."""
    total = outputs.logits.shape[1] if outputs.logits is not None else images
    if total == images:
        return outputs
    assert outputs.logits is not None
    assert outputs.boxes is not None
    assert outputs.detections is not None
    stages = {name: array[: len(array) * images // total] for name, array in outputs.stages.items()}
    return dataclasses.replace(
        outputs,
        stages=stages,
        stage_shapes={name: array.shape for name, array in stages.items()},
        logits=outputs.logits[:, :images],
        boxes=outputs.boxes[:, :images],
        detections=DetectionArrays(*(array[:images] for array in outputs.detections)),
        matches={key: pairs for key, pairs in outputs.matches.items() if key[1] < images},
        costs=None if outputs.costs is None else outputs.costs[:, :images],
    )


def _forward(case: Case, config: Config, variables: Mapping[str, Any]) -> Outputs:
    definition = _definition(config)
    images, sizes = case.batch(_given_dtype(config)), case.image_sizes

    @jax.jit
    def forward(variables: Mapping[str, Any], images: jax.Array, sizes: jax.Array) -> Any:
        return run_stages(definition.merge(variables), images, sizes)

    predictions, stages = _to_numpy(forward(variables, images, sizes))
    target_sizes = sizes if case.target_sizes is None else case.target_sizes.astype(np.int32)
    detections = top_detections(
        jnp.asarray(predictions.logits[-1]), jnp.asarray(predictions.boxes[-1]), jnp.asarray(target_sizes)
    )
    return Outputs(
        stages=stages,
        stage_shapes={name: array.shape for name, array in stages.items()},
        layers=tuple(range(config.model.decoder_layers)),
        logits=predictions.logits,
        boxes=predictions.boxes,
        detections=DetectionArrays(*_to_numpy(detections)),
    )


def _losses(case: Case, config: Config, outputs: Outputs) -> None:
    """Adds matching and losses of the predictions to the outputs."""
    batch = _batch(case, config)
    logits, boxes = jnp.asarray(outputs.logits), jnp.asarray(outputs.boxes)
    targets = Targets(jnp.asarray(batch.boxes), jnp.asarray(batch.labels), jnp.asarray(batch.num_boxes))

    @jax.jit
    def find(logits: jax.Array, boxes: jax.Array, targets: Targets) -> Any:
        matches = match(logits, boxes, targets, config.matcher)
        num_boxes = jnp.maximum(targets.num_boxes.sum(), 1)
        losses = detection_losses(logits, boxes, targets, matches, num_boxes=num_boxes, config=config.loss)
        return matches, matching_costs(logits, boxes, targets, config.matcher), losses

    matches, outputs.costs, losses = _to_numpy(find(logits, boxes, targets))
    outputs.losses = _official_losses(losses)
    outputs.matches = matched_pairs(matches)


def _train(case: Case, config: Config, variables: Mapping[str, Any], outputs: Outputs) -> None:
    definition, mesh, batch = (
        _definition(config),
        make_mesh(config.mesh, jax.devices()[:1]),
        _batch(case, config),
    )
    optimizer = _keeping_gradients(
        make_optimizer(config.optimizer, steps_before=lambda epoch: STEPS_AN_EPOCH * epoch, epochs=config.train.epochs)
    )
    arrays = {path: jnp.asarray(value) for path, value in variables.items()}
    state = new_state(*split_variables(arrays, trainable_paths(definition, config.optimizer.freeze)), optimizer.init)
    state = jax.device_put(state, state_shardings(state, mesh))
    train_step = make_train_step(definition, optimizer, config, mesh, state)
    losses, norms = [], []
    for step in range(max(1, case.steps)):
        state, metrics = train_step(state, batch)
        losses.append(float(metrics["loss"]))
        norms.append(float(metrics["grad_norm"]))
        if step == 0:
            outputs.gradient_norms = _official_norms(_to_numpy(state.opt_state.gradients), config.model)
    if case.steps:
        outputs.step_losses, outputs.step_gradient_norms = np.array(losses), np.array(norms)
        after = state_dict_from_variables(_to_numpy({**state.params, **state.frozen}), config.model)
        outputs.tensors_after = after
        outputs.norms_after = {name: float(np.linalg.norm(array.astype(np.float64))) for name, array in after.items()}


def matched_pairs(matches: np.ndarray) -> dict[tuple[int, int], dict[int, int]]:
    """The query of each target by decoder layer and image. `matches` is int [L,B,N], -1 where a target has no query."""
    layers, images, _ = matches.shape
    return {
        (layer, image): {target: query for target, query in enumerate(matches[layer, image].tolist()) if query >= 0}
        for layer in range(layers)
        for image in range(images)
    }


class _WithGradients(NamedTuple):
    state: Any
    gradients: Variables


def _keeping_gradients(optimizer: Optimizer) -> Optimizer:
    """The optimiser, with the gradients of the last step kept in its state."""

    def init(params: Variables) -> _WithGradients:
        return _WithGradients(optimizer.init(params), jax.tree.map(jnp.zeros_like, params))

    def update(
        gradients: Variables, state: _WithGradients, params: Variables, step: jax.Array, norm: jax.Array
    ) -> tuple[Variables, _WithGradients]:
        changes, inner = optimizer.update(gradients, state.state, params, step, norm)
        return changes, _WithGradients(inner, gradients)

    return Optimizer(init, update, optimizer.learning_rates)


def _given_dtype(config: Config) -> str:
    """The dtype of images and boxes."""
    return "float32" if config.model.dtype == "bfloat16" else config.model.dtype


def _batch(case: Case, config: Config) -> Batch:
    dtype, images = _given_dtype(config), len(case.images)
    most = max(1, *(len(objects.labels) for objects in case.targets))
    boxes, labels = np.zeros((images, most, 4), dtype), np.zeros((images, most), np.int32)
    for i, objects in enumerate(case.targets):
        boxes[i, : len(objects.labels)] = objects.boxes
        labels[i, : len(objects.labels)] = objects.labels
    return Batch(
        images=case.batch(dtype),
        image_sizes=case.image_sizes,
        boxes=boxes,
        labels=labels,
        num_boxes=np.array([len(objects.labels) for objects in case.targets], np.int32),
        rows=np.arange(images, dtype=np.int32),
        valid=np.ones(images, bool),
        original_sizes=case.image_sizes,
    )


def _official_losses(losses: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Our losses by official name. The names of the last layer have no number."""
    named = {"class_error": float(class_error(losses["right"], losses["matched"]))}
    for theirs, ours in {"loss_ce": "class", "loss_bbox": "box", "loss_giou": "giou"}.items():
        *earlier, last = losses[ours].tolist()
        named |= {theirs: last} | {f"{theirs}_{layer}": value for layer, value in enumerate(earlier)}
    return named


def _official_norms(gradients: Mapping[str, np.ndarray], config: ModelConfig) -> dict[str, float]:
    """Gradient norms by official name. A fused projection has the norm of all its parts. A shared head counts once."""
    return {
        row.sources[0]: float(
            np.sqrt(sum(np.sum(np.square(gradients[part].astype(np.float64))) for part in row.targets))
        )
        for row in correspondences(config)
        if all(part in gradients for part in row.targets)
    }


def _to_numpy(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)
