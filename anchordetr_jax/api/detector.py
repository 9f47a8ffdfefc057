"""`Detector`: images in, detections out, and training and evaluation on a data set."""

import dataclasses
import os
from collections.abc import Iterable
from typing import Any, get_args

from etils import epath

from anchordetr_jax.api.run import TrainingRun
from anchordetr_jax.api.training import add_argument, run_here, without_ambiguity
from anchordetr_jax.checkpoints.checkpoint import save_variables
from anchordetr_jax.config import AugmentConfig, Config
from anchordetr_jax.data.source import Split
from anchordetr_jax.data.sources.opening import open_for_evaluation
from anchordetr_jax.errors import UserError
from anchordetr_jax.evaluation.coco_metrics import Scores
from anchordetr_jax.evaluation.evaluate import Evaluator
from anchordetr_jax.evaluation.settings import check_categories
from anchordetr_jax.experiments import change_values, read_experiment
from anchordetr_jax.kernels.building import variables_of
from anchordetr_jax.prediction import detector as prediction
from anchordetr_jax.prediction.tiled_evaluation import evaluate_in_tiles
from anchordetr_jax.training.experiment import fine_tuning_preset

EVALUATION_GROUPS = ("data", "eval", "mesh")
EVALUATION_SIZES = ("augment.eval_size", "augment.max_size")
"""The settings that an evaluation uses: all of these groups, and these two."""


class Detector(prediction.Detector):
    """A trained Anchor DETR: it detects, is fine-tuned and is evaluated."""

    def finetune(
        self,
        data: str | os.PathLike[str],
        *,
        workdir: str | os.PathLike[str],
        config: str | os.PathLike[str] | None = None,
        epochs: int | None = None,
        **settings: Any,
    ) -> TrainingRun:
        """Fine-tunes a copy of this detector. It is the run of the command `anchordetr train`, with the same bits.

        Give the same call again to continue a run that was stopped. The command continues it, too:
        `anchordetr train DATA --workdir WORKDIR`. Ctrl-C, or a notebook's button to interrupt, saves and returns.

        Args:
            data: a COCO, YOLO or Pascal VOC folder.
            workdir: folder of the run. If it has checkpoints, the run continues with those.
            config: an experiment file or a preset; by default the preset for this machine, which a line names.
            epochs: how often each image is seen.
            settings: further settings by name, such as `batch_size=8`, `learning_rate=1e-4`, or
                `**{"eval.batch_size": 4}`.

        Raises:
            UserError: a setting is wrong, or detector, data and workdir do not fit together.
        """
        values = without_ambiguity(settings)
        if "init_from" in values:
            raise UserError("finetune() begins with this detector: leave init_from out, or take train().")
        add_argument(values, "epochs", "train.epochs", epochs)
        add_argument(values, "data", "data.root", data)
        if config is None:
            config, why = fine_tuning_preset()
            print(why, flush=True)
        return run_here(read_experiment(os.fspath(config), values=values), workdir, initial=self._save_as_checkpoint)

    def evaluate(
        self,
        data: str | os.PathLike[str] | None = None,
        *,
        split: Split = "val",
        tiles: int | None = None,
        **settings: Any,
    ) -> Scores:
        """Scores the detector with COCO's own code, as the command `anchordetr evaluate` does.

        The model computes as `from_pretrained` has loaded it. The command computes as the run did: for a run with
        `model.padding="official"` it has the scores of `from_pretrained(…, padding="official")`.

        Args:
            data: a COCO, YOLO or Pascal VOC folder; by default the one that the detector was trained on.
            split: "val", "train" or "test".
            tiles: see `predict`.
            settings: further settings of `data`, `eval` and `mesh` by name, such as `batch_size=4`, and `eval_size` and
                `max_size`.

        Returns:
            COCO's 12 scores by name (`scores["AP"]`), and more. A notebook shows a table.

        Raises:
            UserError: a setting is wrong, the data set has other classes, or it has no annotations to score with.
        """
        values = without_ambiguity(settings, "eval")
        _check_effect(values)
        if split not in get_args(Split):
            raise UserError(f"split must be one of {', '.join(get_args(Split))}, not {split!r}.")
        add_argument(values, "data", "data.root", data)
        trained = self._settings()
        config = change_values(trained, values)
        dataset = open_for_evaluation(config.data, split, self.categories, trained=trained.data)
        check_categories(self.categories, dataset.categories, dataset.name)
        if tiles is None:
            result = Evaluator(dataset, config).run(self.model)
        else:
            result = evaluate_in_tiles(self.model, config, dataset, tiles)
        if result.scores is None:
            raise UserError(f"{dataset.name} has no annotations to score with: predict() detects on plain images.")
        return result.scores

    def _save_as_checkpoint(self, path: epath.Path) -> None:
        """Writes the weights as initial weights of a run."""
        save_variables(path, variables_of(self.model), self.categories, self._settings())

    def _settings(self) -> Config:
        """The settings of the run that made it, as far as they are known, with what was chosen for this detector."""
        config = self.trained or Config()
        limits = dataclasses.replace(config.eval, max_detections=self.max_detections)
        data = dataclasses.replace(config.data, labels=self.labels)
        return dataclasses.replace(
            config, model=self.model.config, data=data, augment=self._augment(config), eval=limits
        )

    def _augment(self, config: Config) -> AugmentConfig:
        sizes = self.augment
        return dataclasses.replace(
            config.augment, eval_size=sizes.eval_size, max_size=sizes.max_size, shown_ratios=sizes.shown_ratios
        )


def _check_effect(settings: Iterable[str]) -> None:
    """Raises `UserError` for a setting that an evaluation does not use."""
    used = f"{', '.join(EVALUATION_GROUPS)}, and {' and '.join(EVALUATION_SIZES)}"
    for name in settings:
        group = name.partition(".")[0]
        if group not in EVALUATION_GROUPS and name not in EVALUATION_SIZES:
            hint = "; from_pretrained takes dtype and padding" if group == "model" else ""
            raise UserError(f"An evaluation does not use the setting {name!r}, only those of {used}{hint}.")
