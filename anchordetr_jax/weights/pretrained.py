"""Opens a trained detector, wherever its weights are: the one way from a name or path to a model."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from anchordetr_jax.checkpoints.checkpoint import find_checkpoint, load_model, read_meta, refuse_backbone_alone
from anchordetr_jax.checkpoints.thresholds import Thresholds, recommended_thresholds
from anchordetr_jax.config import Config, ModelConfig, choices
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.errors import UserError
from anchordetr_jax.kernels.building import definition_of, variables_of
from anchordetr_jax.model.anchor_detr import AnchorDETR
from anchordetr_jax.weights.folder import read_folder, to_numpy
from anchordetr_jax.weights.hub import HubOptions
from anchordetr_jax.weights.locating import Location, locate
from anchordetr_jax.weights.published import PublishedModel
from anchordetr_jax.weights.reading import read_weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Weights that were found, and everything that is known about them. The arrays of a checkpoint are read later."""

    name: str
    """What the person called it."""
    config: Config
    """Settings of the run that made it, as far as they are known; the network is always known."""
    categories: Categories | None
    """The classes. None: nobody knows them."""
    remarks: tuple[str, ...] = ()
    """Sentences about what was found and assumed, for the person."""
    published: PublishedModel | None = None
    checkpoint: str | None = None
    """Folder of the checkpoint. None: the arrays are in memory."""
    step: int = 0
    """Number of training steps, for a checkpoint."""
    thresholds: Thresholds | None = None
    """The score thresholds that its evaluation recommends."""
    names: Mapping[int, str] | None = None
    """As in `SavedDetector`."""
    arrays: Mapping[str, np.ndarray] | None = None
    """By variable path, of a whole detector or of a backbone; None for a checkpoint."""

    def model(self, *, sharding: jax.sharding.Sharding | None = None, **overrides: Any) -> AnchorDETR:
        """The model with its weights.

        Args:
            sharding: where all weights go. None: to the first local device.
            overrides: `ModelConfig` settings that differ, such as `dtype="bfloat16"`.

        Raises:
            UserError: the weights are a backbone alone, are damaged, or a setting is impossible.
        """
        for setting in ("dtype", "padding"):
            allowed = choices(ModelConfig, setting)
            if overrides.get(setting, allowed[0]) not in allowed:
                raise UserError(f"{setting} must be one of {', '.join(allowed)}, not {overrides[setting]!r}.")
        if self.checkpoint is not None:
            return load_model(self.checkpoint, sharding=sharding, **overrides)[0]
        assert self.arrays is not None
        refuse_backbone_alone(self.arrays, self.name)
        definition = definition_of(dataclasses.replace(self.config.model, **overrides))
        sharding = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return definition.merge(
            {
                path: jax.make_array_from_callback(
                    shape.shape, sharding, _rows_of(self.arrays[path].astype(shape.dtype))
                )
                for path, shape in definition.shapes.items()
            }
        )

    def variables(self) -> Mapping[str, np.ndarray]:
        """All arrays by variable path, on the host; in float32 from a checkpoint, else in the dtype of the file."""
        if self.arrays is not None:
            return self.arrays
        assert self.checkpoint is not None
        model, _ = load_model(self.checkpoint, dtype="float32")  # Then parameters are float32, in which they are kept.
        return to_numpy(variables_of(model))


def open_pretrained(
    name: str | os.PathLike[str],
    *,
    dilation: bool | None = None,
    num_anchors: int | None = None,
    annotations: str | os.PathLike[str] | None = None,
    hub: HubOptions | None = None,
) -> Pretrained:
    """Finds and opens weights.

    Args:
        name: a run's workdir, its checkpoints folder, one checkpoint, a `.pth` or `.safetensors` file (FILE#ENTRY where
            it has several sets of weights), a folder of `save_pretrained`, "hf://ORGANISATION/NAME", or the name of a
            published model.
        dilation: for a weight file that does not say it: DC5 (True) or C5 (False).
        num_anchors: for a weight file that does not say it: the number of anchors of its grid.
        annotations: for a weight file: the COCO-format file whose categories are its classes.
        hub: for "hf://" addresses.

    Raises:
        UserError: there is nothing of this name, it is damaged, or a setting is not known.
    """
    return open_location(locate(name, hub), dilation=dilation, num_anchors=num_anchors, annotations=annotations)


def open_location(
    location: Location,
    *,
    dilation: bool | None = None,
    num_anchors: int | None = None,
    num_heads: int | None = None,
    annotations: str | os.PathLike[str] | None = None,
) -> Pretrained:
    """Like `open_pretrained`, for weights that were located.

    `num_heads`: for a weight file that does not say it, the number of attention heads; by default the official one.
    """
    name = location.name
    if location.kind == "file":
        weights = read_weights(
            location.path,
            dilation=dilation,
            num_anchors=num_anchors,
            num_heads=num_heads,
            annotations=None if annotations is None else os.fspath(annotations),
            published=location.published,
        )
        return Pretrained(
            name=name,
            config=weights.config,
            categories=weights.categories,
            remarks=weights.remarks,
            published=location.published,
            arrays=weights.variables,
        )
    for setting, value in (("dilation", dilation), ("number of anchors", num_anchors), ("annotations", annotations)):
        if value is not None:
            raise UserError(f"{name} knows its {setting}: leave that out.")
    if location.kind == "folder":
        saved = read_folder(location.path, origin=name)
        return Pretrained(
            name=name,
            config=saved.config,
            categories=saved.categories,
            thresholds=saved.thresholds,
            names=saved.names,
            arrays=saved.variables,
        )
    meta = read_meta(find_checkpoint(location.path))
    config = meta.config
    if meta.categories is not None:  # Older versions could write another value of data.labels beside them.
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, labels=meta.categories.scheme))
    return Pretrained(
        name=name,
        config=config,
        categories=meta.categories,
        checkpoint=meta.path,
        step=meta.step,
        thresholds=recommended_thresholds(meta.path, meta.step),
    )


def _rows_of(array: np.ndarray) -> Any:
    return lambda index: array[index]
