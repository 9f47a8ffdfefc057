"""A stand-in detector that compiles in a moment, and batches for it."""

import copy
import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

from anchordetr_jax.config import Config, MatcherConfig, MeshConfig, ModelConfig, OptimizerConfig, TrainConfig
from anchordetr_jax.data.batching import Batch
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.data.epochs import Epochs
from anchordetr_jax.devices import global_batch, make_mesh
from anchordetr_jax.kernels.building import ModelDefinition
from anchordetr_jax.model.anchor_detr import AnchorDETR, Predictions
from anchordetr_jax.model.transformer import Queries
from anchordetr_jax.small_backbones import small_backbone
from anchordetr_jax.training.optimizer import Optimizer, make_optimizer
from anchordetr_jax.training.run_record import RunRecord
from anchordetr_jax.training.sharding import ShardingRule
from anchordetr_jax.training.state import TrainState, abstract_state, initial_state
from anchordetr_jax.training.step import TrainStep, make_train_step

Tree = TypeVar("Tree")

SPLIT_ALL = (ShardingRule(r".*", 8),)
"""Splits every array of the stand-in over `fsdp` that can be."""
CATEGORIES = Categories(ids=(1, 2, 5), names=("circle", "square", "star"), scheme="contiguous")
MODEL = ModelConfig(
    backbone="compact",
    num_classes=3,
    num_patterns=1,
    num_anchors=8,
    hidden_dim=32,
    num_heads=2,
    ffn_dim=32,
    encoder_layers=1,
    decoder_layers=2,
)
CONFIG = Config(
    model=MODEL,
    optimizer=OptimizerConfig(learning_rate=1e-2, backbone_learning_rate=1e-3, freeze=()),
    matcher=MatcherConfig(backend="device"),  # JAX keeps no compiled program that calls the host.
    train=TrainConfig(epochs=2, batch_size=8, log_every=2, checkpoint_every=3),
)


class FixedScale(nnx.Variable[Any]):
    """A variable that is no parameter."""


class StandIn(nnx.Module):
    """The interface of AnchorDETR around a handful of linear maps of an image's mean colour."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.config = config
        dtype = jnp.dtype(config.dtype)
        C = config.hidden_dim
        self.backbone = nnx.Linear(3, C, param_dtype=dtype, rngs=rngs)
        self.scale = FixedScale(jnp.ones((), dtype))
        self.patterns = nnx.Param(jax.random.normal(rngs.params(), (config.num_anchors, C), dtype))
        self.layers = nnx.List([nnx.Linear(C, C, param_dtype=dtype, rngs=rngs) for _ in range(config.decoder_layers)])
        self.class_head = nnx.Linear(C, config.num_classes, param_dtype=dtype, rngs=rngs)
        self.box_head = nnx.Linear(C, 4, param_dtype=dtype, rngs=rngs)

    def __call__(self, images: jax.Array, image_sizes: jax.Array) -> Predictions:
        return self.decode(*self.encode(images, image_sizes), self.queries())

    def encode(self, images: jax.Array, image_sizes: jax.Array) -> tuple[jax.Array, None]:
        pixels = images.astype(self.patterns.dtype) / (255 if images.dtype == jnp.uint8 else 1)
        return jnp.tanh(self.backbone(pixels.mean(axis=(1, 2))))[:, None], None

    def decode(self, features: jax.Array, grid: None, queries: Queries) -> Predictions:
        x = features + queries.contents + queries.point
        outputs = []
        for layer in self.layers:
            x = jnp.tanh(layer(x)) * self.scale[...]
            outputs.append(x)
        decoded = jnp.stack(outputs)
        return Predictions(self.class_head(decoded), jax.nn.sigmoid(self.box_head(decoded)))

    def queries(self) -> Queries:
        nothing = jnp.zeros((1, len(self.patterns[...]), 1), self.patterns.dtype)
        return Queries(self.patterns[...][None], nothing, nothing, nothing, nothing)

    def query_positions(self, anchors: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        point = jnp.repeat(anchors, self.config.hidden_dim // 2, axis=-1)
        return point, point, point


def build_in_place(config: ModelConfig, *, rngs: nnx.Rngs, platform: str) -> StandIn:
    """Takes the place of `kernels.building.build` in the module `training.run`."""
    del platform
    return StandIn(config, rngs=rngs)


def build_stand_in() -> StandIn:
    """A stand-in with the weights of seed 0."""
    return StandIn(MODEL, rngs=nnx.Rngs(0))


def batch(seed: int = 0, *, images: int = 8, size: tuple[int, int] = (8, 12), boxes: int = 3) -> Batch:
    """A batch of noise with up to `boxes` objects an image."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, boxes + 1, images).astype(np.int32)
    counts[0] = boxes
    centres, sides = rng.uniform(0.3, 0.7, (images, boxes, 2)), rng.uniform(0.1, 0.5, (images, boxes, 2))
    real = (np.arange(boxes)[None] < counts[:, None])[..., None]
    return Batch(
        images=rng.integers(0, 256, (images, *size, 3), dtype=np.uint8),
        image_sizes=np.tile(np.array(size, np.int32), (images, 1)),
        boxes=np.where(real, np.concatenate([centres, sides], axis=-1), 0).astype(np.float32),
        labels=np.where(real[..., 0], rng.integers(0, 3, (images, boxes)), 0).astype(np.int32),
        num_boxes=counts,
        rows=np.arange(images, dtype=np.int32),
        valid=np.ones(images, bool),
        original_sizes=np.tile(np.array(size, np.int32), (images, 1)),
    )


@dataclasses.dataclass
class Trainer:
    """A step with all that it is made of."""

    config: Config
    mesh: jax.sharding.Mesh
    definition: ModelDefinition
    optimizer: Optimizer
    abstract: TrainState
    state: TrainState
    step: TrainStep


def trainer(
    config: Config = CONFIG, *, model: type[Any] = StandIn, devices: int = 1, fsdp: int = 1, rules: Any = SPLIT_ALL
) -> Trainer:
    """A step on the first `devices` devices, and its first state.

    That of another model than the stand-in gets random weights: its own take long to compile.
    """
    x64: bool = jax.config.read("jax_enable_x64")
    parts = _parts(config, model, devices, fsdp, rules, x64=x64)  # type: ignore[arg-type]  # Classes have a hash.
    mesh, definition, optimizer, abstract, step = parts
    if model is StandIn:
        freeze, ema = config.optimizer.freeze, config.train.ema_decay > 0
        build = functools.partial(_build, model, config)
        state = initial_state(definition, build, optimizer, mesh, freeze=freeze, rules=rules, ema=ema)
    else:
        state = random_state(abstract)
    return Trainer(config, mesh, definition, optimizer, abstract, state, step)


def _build(model: type[Any], config: Config) -> Any:
    rngs = nnx.Rngs(0)
    if model is AnchorDETR:
        return AnchorDETR(config.model, rngs=rngs, backbone=small_backbone(config.model, rngs=rngs))
    return model(config.model, rngs=rngs)


@functools.cache
def _parts(
    config: Config, model: type[Any], devices: int, fsdp: int, rules: Any, *, x64: bool
) -> tuple[jax.sharding.Mesh, ModelDefinition, Optimizer, TrainState, TrainStep]:
    """What has no state. Tests that ask for the same step share what is traced and compiled."""
    del x64  # A step that was traced without it is another one.
    mesh = make_mesh(MeshConfig(fsdp=fsdp), jax.devices()[:devices])
    definition = ModelDefinition.abstract(functools.partial(_build, model, config))
    optimizer = make_optimizer(
        config.optimizer, steps_before=lambda epoch: 5 * epoch, epochs=config.train.epochs, mesh=mesh
    )
    ema = config.train.ema_decay > 0
    abstract = abstract_state(definition, optimizer, mesh, freeze=config.optimizer.freeze, rules=rules, ema=ema)
    return mesh, definition, optimizer, abstract, make_train_step(definition, optimizer, config, mesh, abstract)


def run(made: Trainer, batches: Iterable[Batch]) -> list[dict[str, float]]:
    """Takes a step with each batch (this process's share of it); gives the metrics, and leaves the last state in
    `made`."""
    metrics = []
    for one in batches:
        made.state, values = made.step(made.state, global_batch(one, made.mesh))
        metrics.append({name: float(value) for name, value in values.items()})
    return metrics


def changed(config: Config, **settings: Any) -> Config:
    """The settings with some changed, given as group={name: value}."""
    groups = {group: dataclasses.replace(getattr(config, group), **values) for group, values in settings.items()}
    return dataclasses.replace(config, **groups)


def random_state(abstract: TrainState) -> TrainState:
    """Small random weights, and zeros for the rest of the state."""
    rng = np.random.default_rng(0)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract)
    weights = {name: (0.1 * rng.standard_normal(leaf.shape)).astype(leaf.dtype) for name, leaf in zeros.params.items()}
    return jax.tree.map(
        lambda value, leaf: jax.device_put(value, leaf.sharding), dataclasses.replace(zeros, params=weights), abstract
    )


class NoiseData:
    """Training data without files: five batches per epoch. A step decides its batch."""

    categories = CATEGORIES
    epochs = Epochs(images=40, batch_size=8)
    box_counts = np.full(40, 3)

    def with_epochs(self, epochs: Epochs) -> Self:
        other = copy.copy(self)
        other.epochs = epochs
        return other

    def batches(self, first_step: int) -> Iterator[tuple[int, Batch]]:
        step = first_step
        while True:
            yield step, self.batch(step)
            step += 1

    def batch(self, step: int) -> Batch:
        """The batch of a step; tests put mistakes in here."""
        return batch(step)

    def describe_image(self, row: int) -> str:
        return f"image{row}.jpg"

    def reading_problem(self, row: int) -> str | None:
        return None

    def describe(self) -> str:
        return "noise"


RECORD = RunRecord(NoiseData.epochs)
"""What a checkpoint of a run on noise keeps besides its arrays."""


def to_host(tree: Tree) -> Tree:
    """Whole numpy arrays, on every process, of global arrays that may be split. All processes must call it."""

    def fetch(array: Any) -> Any:
        if isinstance(array, jax.Array) and not array.is_fully_addressable and not array.is_fully_replicated:
            return np.asarray(multihost_utils.process_allgather(array, tiled=True))
        return np.asarray(array)

    return jax.tree.map(fetch, tree)


def equal(a: Any, b: Any) -> bool:
    """Whether two trees of arrays agree in structure and to the last bit."""
    same_structure: bool = jax.tree.map(lambda _: 0, a) == jax.tree.map(lambda _: 0, b)
    return same_structure and all(
        np.array_equal(np.asarray(x), np.asarray(y)) and x.dtype == y.dtype
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )
