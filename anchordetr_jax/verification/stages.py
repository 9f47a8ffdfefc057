"""Outputs of a model's parts while it runs, so that two implementations can be compared stage by stage."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from flax import nnx

from anchordetr_jax.model import AnchorDETR
from anchordetr_jax.model.anchor_detr import Predictions


def parts_of(model: AnchorDETR) -> dict[str, nnx.Module]:
    """The parts whose outputs are stages, in the order of the computation."""
    parts: dict[str, nnx.Module] = {"backbone": model.backbone}
    parts |= {f"input_projections/{i}": part for i, part in enumerate(model.input_projections)}
    for i, spatial in enumerate(model.encoder.spatial):
        parts[f"encoder/spatial/{i}"] = spatial
        if i < len(model.encoder.level):
            parts[f"encoder/level/{i}"] = model.encoder.level[i]
    return parts | {f"decoder/layers/{i}": part for i, part in enumerate(model.decoder.layers)}


def run_stages(
    model: AnchorDETR, images: jax.Array, image_sizes: jax.Array
) -> tuple[Predictions, dict[str, jax.Array]]:
    """The model's predictions, and the outputs of its parts by name. JAX may trace it.

    `backbone/I`: the backbone's features that the detector uses, [B,h,w,C]. `input_projections/I`: [B,h,w,C].
    `encoder/spatial/I`: [B*S,h,w,C], image-major. `encoder/level/I`: [B,S,h,w,C]. `decoder/layers/I`: [B,Q,C].
    """
    with _recording(parts_of(model)) as outputs:
        predictions = model(images, image_sizes)
    features, _ = outputs.pop("backbone")
    used = features[-model.config.num_feature_levels :]
    return predictions, {f"backbone/{i}": stage for i, stage in enumerate(used)} | outputs


@contextlib.contextmanager
def _recording(parts: Mapping[str, nnx.Module]) -> Iterator[dict[str, Any]]:
    """Collects what the parts return, by name. A call goes through the part's class, so the classes are wrapped."""
    names = {id(part): name for name, part in parts.items()}
    classes: list[Any] = list(dict.fromkeys(type(part) for part in parts.values()))
    originals = [cls.__call__ for cls in classes]
    outputs: dict[str, Any] = {}

    def wrapped(original: Any) -> Any:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(self, *args, **kwargs)
            if id(self) in names:
                outputs[names[id(self)]] = result
            return result

        return call

    try:
        for cls, original in zip(classes, originals, strict=True):
            cls.__call__ = wrapped(original)
        yield outputs
    finally:
        for cls, original in zip(classes, originals, strict=True):
            cls.__call__ = original
