"""The official checkpoint's tensor names beside this project's variable paths, as one table."""

import dataclasses
import enum
from collections.abc import Iterator

import numpy as np

from anchordetr_jax.config import ModelConfig
from anchordetr_jax.model.resnet import BLOCKS

IGNORED = frozenset({"num_batches_tracked", "total_params", "total_ops"})
"""Last parts of names: counters that PyTorch and profilers leave in state dicts; they mean nothing to the detector."""

PARALLEL_PREFIX = "module."
"""What `DistributedDataParallel` puts before every name."""


class Layout(enum.Enum):
    """How one tensor is laid out on the two sides. The value is the transposition from PyTorch to here."""

    SAME = None
    LINEAR = (1, 0)  # [out, in] -> [in, out]
    CONVOLUTION = (2, 3, 1, 0)  # OIHW -> HWIO

    def from_torch(self, array: np.ndarray) -> np.ndarray:
        """The array as it is laid out here; a view."""
        return array if self.value is None else array.transpose(self.value)

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """The inverse of `from_torch`; a view."""
        return array if self.value is None else array.transpose(np.argsort(self.value))


@dataclasses.dataclass(frozen=True)
class Correspondence:
    """One row of the table.

    Several `sources` are copies of one tensor and must be equal; with several `targets` the source is split among them
    in equal parts along its first axis.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    layout: Layout = Layout.SAME


RCDA_PROJECTIONS = ("query_row", "query_column", "key_row", "key_column", "value")
STANDARD_PROJECTIONS = ("query", "key", "value")


def correspondences(config: ModelConfig) -> tuple[Correspondence, ...]:
    """Every tensor of an official checkpoint of this architecture (a ResNet one), each once."""
    return (*_resnet("backbone.body.", config.backbone), *_transformer(config))


def resnet_correspondences(depth: str) -> tuple[Correspondence, ...]:
    """The tensors of a torchvision ResNet state dict (its classifier aside)."""
    return tuple(_resnet("", depth))


def _resnet(prefix: str, depth: str) -> Iterator[Correspondence]:
    yield _convolution(f"{prefix}conv1", "backbone/stem/conv")
    yield from _batch_norm(f"{prefix}bn1", "backbone/stem/norm")
    for stage, blocks in enumerate(BLOCKS[depth], start=1):
        for block in range(blocks):
            source, target = f"{prefix}layer{stage}.{block}", f"backbone/layer{stage}/blocks/{block}"
            for i in (1, 2, 3):
                yield _convolution(f"{source}.conv{i}", f"{target}/conv{i}")
                yield from _batch_norm(f"{source}.bn{i}", f"{target}/norm{i}")
            if block == 0:
                yield _convolution(f"{source}.downsample.0", f"{target}/shortcut_conv")
                yield from _batch_norm(f"{source}.downsample.1", f"{target}/shortcut_norm")


def _transformer(config: ModelConfig) -> Iterator[Correspondence]:
    projections = RCDA_PROJECTIONS if config.attention == "rcda" else STANDARD_PROJECTIONS
    levels = config.num_feature_levels
    for i in range(levels):
        yield _convolution(f"input_proj.{i}.0", f"input_projections/{i}/conv")
        yield Correspondence((f"input_proj.{i}.0.bias",), (f"input_projections/{i}/conv/bias",))
        yield from _norm(f"input_proj.{i}.1", f"input_projections/{i}/norm")

    level_layers = config.encoder_layers // 2 if levels > 1 else 0
    for i in range(config.encoder_layers - level_layers):
        source, target = f"transformer.encoder_layers.{i}", f"encoder/spatial/{i}"
        yield from _attention(f"{source}.self_attn", f"{target}/attention", projections)
        yield from _norm(f"{source}.norm1", f"{target}/norm")
        yield from _feed_forward(source, target)
    for i in range(level_layers):
        source, target = f"transformer.encoder_layers_level.{i}", f"encoder/level/{i}"
        yield from _attention(f"{source}.self_attn_level", f"{target}/attention", STANDARD_PROJECTIONS)
        yield from _norm(f"{source}.norm1", f"{target}/norm")
        yield from _feed_forward(source, target)
    for i in range(config.decoder_layers):
        source, target = f"transformer.decoder_layers.{i}", f"decoder/layers/{i}"
        yield from _attention(f"{source}.self_attn", f"{target}/self_attention", STANDARD_PROJECTIONS)
        yield from _norm(f"{source}.norm2", f"{target}/self_norm")
        yield from _attention(f"{source}.cross_attn", f"{target}/cross_attention", projections)
        yield from _norm(f"{source}.norm1", f"{target}/cross_norm")
        if levels > 1:
            yield from _linear(f"{source}.level_fc", f"{target}/level_fc")
        yield from _feed_forward(source, target)

    if levels > 1:
        yield Correspondence(("transformer.level_embed.weight",), ("encoder/level_embedding",))
    yield Correspondence(("transformer.pattern.weight",), ("patterns",))
    if config.spatial_prior == "learned":
        yield Correspondence(("transformer.position.weight",), ("anchors",))
    for name in ("adapt_pos1d", "adapt_pos2d"):
        for i in (0, 1):
            yield from _linear(f"transformer.{name}.{2 * i}", f"{name}/layers/{i}")
    heads = range(config.decoder_layers)  # one head, shared, but written once a layer
    yield from _linear([f"transformer.class_embed.{layer}" for layer in heads], "class_head")
    for i in (0, 1, 2):
        yield from _linear([f"transformer.bbox_embed.{layer}.layers.{i}" for layer in heads], f"box_head/layers/{i}")


def _convolution(source: str, target: str) -> Correspondence:
    return Correspondence((f"{source}.weight",), (f"{target}/kernel",), Layout.CONVOLUTION)


def _batch_norm(source: str, target: str) -> Iterator[Correspondence]:
    names = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    for theirs, ours in names.items():
        yield Correspondence((f"{source}.{theirs}",), (f"{target}/{ours}",))


def _norm(source: str, target: str) -> Iterator[Correspondence]:
    yield Correspondence((f"{source}.weight",), (f"{target}/scale",))
    yield Correspondence((f"{source}.bias",), (f"{target}/bias",))


def _linear(source: str | list[str], target: str) -> Iterator[Correspondence]:
    sources = [source] if isinstance(source, str) else source
    yield Correspondence(tuple(f"{name}.weight" for name in sources), (f"{target}/kernel",), Layout.LINEAR)
    yield Correspondence(tuple(f"{name}.bias" for name in sources), (f"{target}/bias",))


def _attention(source: str, target: str, projections: tuple[str, ...]) -> Iterator[Correspondence]:
    parts = tuple(f"{target}/{name}" for name in projections)
    yield Correspondence((f"{source}.in_proj_weight",), tuple(f"{part}/kernel" for part in parts), Layout.LINEAR)
    yield Correspondence((f"{source}.in_proj_bias",), tuple(f"{part}/bias" for part in parts))
    yield from _linear(f"{source}.out_proj", f"{target}/out")


def _feed_forward(source: str, target: str) -> Iterator[Correspondence]:
    yield from _linear(f"{source}.ffn.linear1", f"{target}/ffn/linear1")
    yield from _linear(f"{source}.ffn.linear2", f"{target}/ffn/linear2")
    yield from _norm(f"{source}.ffn.norm2", f"{target}/ffn/norm")
