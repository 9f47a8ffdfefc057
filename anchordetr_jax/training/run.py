"""The fixed parts of a training run, and the state that it begins or continues with."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, Self

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from anchordetr_jax.config import Config, config_to_dict
from anchordetr_jax.data.batching import Batch
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.data.epochs import Epochs
from anchordetr_jax.data.mosaic import PIECES
from anchordetr_jax.data.records.values import counted
from anchordetr_jax.errors import UserError
from anchordetr_jax.experiments import change_values
from anchordetr_jax.files import write_json
from anchordetr_jax.kernels.building import InitialKeys, ModelDefinition, build, count
from anchordetr_jax.model.anchor_detr import AnchorDETR
from anchordetr_jax.settings.names import flat_settings
from anchordetr_jax.training.best import Best
from anchordetr_jax.training.initial_weights import load_initial_weights
from anchordetr_jax.training.optimizer import make_optimizer
from anchordetr_jax.training.run_checkpoints import restore_newest
from anchordetr_jax.training.run_record import RunRecord
from anchordetr_jax.training.state import TrainState, abstract_state, initial_state

FILLED_IN = frozenset({"augment.shown_ratios"})
"""Settings that follow from the data and other settings."""


class TrainingData(Protocol):
    """The source of batches. The batch of step k depends only on the settings, the epochs and k."""

    @property
    def categories(self) -> Categories: ...

    @property
    def epochs(self) -> Epochs:
        """Which steps make up which epoch."""

    @property
    def box_counts(self) -> np.ndarray:
        """int [n]: the number of boxes of each image."""

    def with_epochs(self, epochs: Epochs) -> Self:
        """The same images, with other steps for the epochs."""

    def batches(self, first_step: int) -> Iterator[tuple[int, Batch]]:
        """(step, this process's share of its batch) from `first_step` on. Steps count from 0."""

    def describe_image(self, row: int) -> str:
        """The file of an image, for messages."""

    def reading_problem(self, row: int) -> str | None:
        """One sentence that names an image and says why it cannot be read. None if it can."""

    def describe(self) -> str:
        """One line for the log: the number of images, their shapes and the padding."""


class Beginning(NamedTuple):
    """What a run begins or continues with."""

    state: TrainState
    record: RunRecord


class Run:
    """Settings, data, model and optimiser of a run, and the steps at which its epochs end."""

    def __init__(self, config: Config, workdir: epath.Path, data: TrainingData, mesh: Mesh):
        self.config, self.workdir, self.mesh = config, workdir, mesh
        self.definition = ModelDefinition.abstract(self._build)
        self._use(data)

    def _build(self) -> AnchorDETR:
        platform = self.mesh.devices.flat[0].platform
        return build(self.config.model, rngs=InitialKeys(self.config.train.seed), platform=platform)

    def _use(self, data: TrainingData) -> None:
        """Takes the data and what follows from its epochs."""
        train, epochs = self.config.train, data.epochs
        self.data = data
        self.total_steps = epochs.steps_before(train.epochs)
        self.optimizer = make_optimizer(
            self.config.optimizer, steps_before=epochs.steps_before, epochs=train.epochs, mesh=self.mesh
        )
        every, last = train.evaluate_every, train.epochs
        evaluated = [*range(every, last, every), last] if every else []
        self._evaluation_steps = frozenset(epochs.steps_before(epoch) for epoch in evaluated)

    def begin(self) -> Beginning:
        """The newest checkpoint of the workdir; else a new state, with the weights of `init_from` if that is set.

        After it the epochs of the data count on from those of the checkpoint. All processes must call it.
        """
        config, data = self.config, self.data
        freeze, ema = config.optimizer.freeze, config.train.ema_decay > 0
        abstract = abstract_state(self.definition, self.optimizer, self.mesh, freeze=freeze, ema=ema)
        say(data.describe())
        total, trained = count({**abstract.params, **abstract.frozen}), count(abstract.params)
        say(f"Model: {total / 1e6:.2f} M parameters, {trained / 1e6:.2f} M of them trained.")
        restored = restore_newest(self.workdir, abstract, config, data.categories)
        if restored is not None:
            state, meta = restored
            record = RunRecord.of(meta, data.epochs.images)
            say(f"Continuing from step {meta.step} ({meta.path}).")
            for line in changed_settings(meta.config, config):
                say(f"Changed since: {line}")
            self._keep_shown_ratios(meta.config)
            self._continue_epochs(record.epochs, meta.step)
            self._say_steps()
            return Beginning(state, record)
        self._say_steps()
        state = initial_state(self.definition, self._build, self.optimizer, self.mesh, freeze=freeze, ema=ema)
        if config.init_from:
            renamed = config.classes.renamed()
            state, report = load_initial_weights(config.init_from, state, config.model, data.categories, renamed)
            say(str(report))
        return Beginning(state, RunRecord(data.epochs))

    def _keep_shown_ratios(self, before: Config) -> None:
        """What the run has shown before, with other data or augmentation, stays shown."""
        ratios = {*self.config.augment.shown_ratios, *before.augment.shown_ratios}
        self.config = change_values(self.config, {"augment.shown_ratios": sorted(ratios)})

    def _continue_epochs(self, before: Epochs, step: int) -> None:
        """Keeps the epochs that are done if the batch size or the number of images has changed since."""
        now = self.data.epochs
        continued = before.continued(step, now.images, now.batch_size)
        if before.images != now.images:
            say(f"Changed since: the training images: {before.images} -> {now.images}")
        if continued != now:
            self._use(self.data.with_epochs(continued))
        if continued != before:
            say(f"{before.at(step):.4g} epochs are done. They stay done; the remaining ones have other steps now.")

    def _say_steps(self) -> None:
        epochs = self.data.epochs
        say(
            f"Steps: {self.total_steps} of {epochs.batch_size} images, "
            f"{epochs.images / epochs.batch_size:.1f} per epoch; "
            f"{self.mesh.size} device(s), {jax.process_count()} process(es)."
        )
        warmup, steps = self.config.optimizer.warmup_steps, self.total_steps
        if warmup >= max(steps, 2):  # A warm-up of one step is none.
            say(
                f"Warning: optimizer.warmup_steps={warmup} is as long as the run or longer ({counted(steps, 'step')}): "
                f"learning rates rise until its end, to at most {steps / warmup:.0%} of their values. Lower it, or "
                "raise train.epochs."
            )

    def check_data(self) -> None:
        """Raises `UserError` if there is nothing to train on. Says which images have more objects than queries, or
        than detections are reported.

        Images that become mosaics can have more objects than any image of the data set.
        """
        train, counts, model = self.config.train, self.data.box_counts, self.config.model
        if self.total_steps == 0:
            raise UserError(
                f"The training images do not fill one batch in {train.epochs} epoch(s): raise train.epochs, or "
                f"lower train.batch_size={train.batch_size}."
            )
        if not counts.any():
            raise UserError(
                f"None of the {len(counts)} training images has a box to train on: check the annotations with "
                "anchordetr inspect."
            )
        queries = model.num_queries
        if (crowded := counts > queries).any():
            fullest = int(counts.argmax())
            needed = math.ceil(counts[fullest] / model.num_patterns)
            if model.spatial_prior == "grid":  # Which is a square.
                needed = math.ceil(math.sqrt(needed)) ** 2
            say(
                f"Warning: {crowded.sum()} training image(s) have more objects than the model has queries ({queries}): "
                f"only {queries} objects of an image can be matched, the others are not learned. The fullest is "
                f"{self.data.describe_image(fullest)} with {counts[fullest]} objects: set model.num_anchors to at "
                f"least {needed}."
            )
        limit = self.config.eval.max_detections
        if many := int((counts > limit).sum()):
            say(
                f"Warning: {many} training image(s) have more objects than evaluation and prediction report "
                f"(eval.max_detections={limit}); the fullest has {counts.max()}: raise eval.max_detections."
            )
        if self.config.augment.mosaic_probability > 0 and (most := PIECES * int(counts.max())) > queries:
            say(
                f"Warning: a mosaic of {PIECES} images can have up to {most} objects, more than the model has queries "
                f"({queries}): then some of them are not learned. A larger model.num_anchors solves this, or "
                "augment.mosaic_probability=0."
            )

    def is_evaluation_step(self, step: int) -> bool:
        """Whether the model is evaluated after `step` steps."""
        return step in self._evaluation_steps

    def end(self, step: int, best: Best) -> str:
        """Why the run is finished after `step` steps, and how to continue it. Empty if it is not finished."""
        train = self.config.train
        if step >= self.total_steps:
            return f"{counted(step, 'step')}, {counted(train.epochs, 'epoch')}. Raise train.epochs"
        if 0 < train.patience <= best.since:
            return (
                f"no better AP than {best.ap:.3f} (step {best.step}) in {best.since} evaluations. Raise train.patience"
            )
        return ""

    def write_config(self) -> None:
        """Writes the settings and the classes into `WORKDIR/config.json`."""
        if jax.process_index() == 0:
            contents = {"config": config_to_dict(self.config), "categories": self.data.categories.to_dict()}
            write_json(self.workdir / "config.json", contents, indent=1)


def changed_settings(before: Config, now: Config) -> list[str]:
    """Settings that a person changed, as "name: old -> new"."""
    old, new = flat_settings(config_to_dict(before)), flat_settings(config_to_dict(now))
    return [
        f"{name}: {old[name]!r} -> {value!r}"
        for name, value in new.items()
        if old[name] != value and name not in FILLED_IN
    ]


def say(line: Any) -> None:
    """Prints a line, on process 0."""
    if jax.process_index() == 0:
        print(line, flush=True)
