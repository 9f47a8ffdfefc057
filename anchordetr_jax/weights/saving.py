"""Saves a detector with its model card, into a folder or on the Hugging Face Hub."""

import dataclasses
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from anchordetr_jax.checkpoints.checkpoint import refuse_backbone_alone
from anchordetr_jax.checkpoints.scores import scores_of_checkpoint
from anchordetr_jax.checkpoints.thresholds import Thresholds
from anchordetr_jax.config import AugmentConfig, Config, DataConfig, EvalConfig
from anchordetr_jax.data.categories import Categories, LabelScheme
from anchordetr_jax.kernels.building import variables_of
from anchordetr_jax.model.anchor_detr import AnchorDETR
from anchordetr_jax.weights.folder import SavedDetector, to_numpy, write_folder
from anchordetr_jax.weights.hub import parse_address, push_folder
from anchordetr_jax.weights.model_card import folder_name, model_card
from anchordetr_jax.weights.pretrained import Pretrained

COCO = "COCO 2017"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a model card says beyond what the detector itself knows."""

    license: str | None = None
    """SPDX identifier, such as "apache-2.0"."""
    data: str | None = None
    """Name of the data set that it was trained and scored on."""
    scores: Mapping[str, float] | None = None
    """COCO's numbers by name ("AP", "AP50", …), between 0 and 1."""

    def completed(self, known: "CardFacts") -> "CardFacts":
        """These facts, and of those that are None the known ones."""
        return CardFacts(
            license=known.license if self.license is None else self.license,
            data=known.data if self.data is None else self.data,
            scores=known.scores if self.scores is None else self.scores,
        )


def save_detector(folder: str | os.PathLike[str], detector: SavedDetector, facts: CardFacts, name: str = "") -> None:
    """Writes a detector into a folder, as `Detector.save_pretrained` does. Raises like `folder.write_folder`."""
    text = os.fspath(folder)
    card = model_card(
        name or folder_name(text),
        detector.config,
        _used_categories(detector),
        license=facts.license,
        data=facts.data,
        scores=facts.scores,
    )
    write_folder(text, detector, card)


def _used_categories(detector: SavedDetector) -> Categories | None:
    """The classes that it detects: those whose outputs it uses."""
    all_of_them, used = detector.categories, detector.names
    if all_of_them is None or used is None:
        return all_of_them
    named = {
        i: name for i, name in zip(all_of_them.ids, all_of_them.names, strict=True) if all_of_them.label_of(i) in used
    }
    return Categories(ids=tuple(named), names=tuple(named.values()), scheme="raw")


def push_detector(
    repo: str,
    detector: SavedDetector,
    facts: CardFacts,
    *,
    token: str | bool | None = None,
    private: bool | None = None,
) -> str:
    """Uploads a detector to the Hub, and returns its address. Raises like `hub.push_folder`."""
    with tempfile.TemporaryDirectory() as folder:
        save_detector(folder, detector, facts, parse_address(repo).repo)
        return push_folder(Path(folder), repo, token=token, private=private)


def saved_detector(found: Pretrained) -> SavedDetector:
    """A detector that was found, ready to be saved. Raises `UserError` if it is a backbone alone."""
    variables = found.variables()
    refuse_backbone_alone(variables, found.name)
    return SavedDetector(
        variables=variables,
        config=found.config,
        categories=found.categories,
        thresholds=found.thresholds,
        names=found.names,
    )


def saved_from_model(
    model: AnchorDETR,
    categories: Categories | None,
    augment: AugmentConfig,
    max_detections: int,
    thresholds: Thresholds | None = None,
    labels: LabelScheme = "contiguous",
) -> SavedDetector:
    """A detector in memory, ready to be saved. `labels`: how its class outputs are numbered."""
    config = Config(
        model=model.config,
        augment=augment,
        data=DataConfig(labels=labels),
        eval=EvalConfig(max_detections=max_detections),
    )
    return SavedDetector(
        variables=to_numpy(variables_of(model)), config=config, categories=categories, thresholds=thresholds
    )


def facts_of(found: Pretrained) -> CardFacts:
    """What is known about a detector: the published figures, or the scores that its run found for this very step."""
    if found.published is not None:
        scores = None if found.published.ap is None else {"AP": found.published.ap / 100}
        return CardFacts(license=found.published.license, data=COCO, scores=scores)
    if found.checkpoint is None:
        return CardFacts()
    known = scores_of_checkpoint(found.checkpoint, found.step)
    if known is None:
        return CardFacts()
    return CardFacts(scores={name: value for name, value in known.items() if isinstance(value, float)})
