"""What a checkpoint and a data set must have in common for an evaluation."""

import dataclasses
from collections.abc import Collection

from anchordetr_jax.config import ARITHMETIC, Config, ModelConfig, config_to_dict
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.errors import UserError
from anchordetr_jax.experiments import change_values
from anchordetr_jax.settings.names import flat_settings

OF_THE_RUN = ("augment.eval_size", "augment.max_size", "eval.max_detections")
"""Settings of an evaluation that belong to a checkpoint: with others its scores are not those of its training."""


def evaluation_config(trained: Config, given: Config, chosen: Collection[str] = ()) -> tuple[Config, tuple[str, ...]]:
    """The settings for the evaluation of a checkpoint: its own network, on the data that `given` describes.

    Args:
        trained: the settings of the checkpoint.
        given: the settings of the user. From these come data, evaluation and mesh, and how the model computes
            (`ARITHMETIC`).
        chosen: those of `OF_THE_RUN` that come from `given` too. The others come from the checkpoint.

    Returns:
        The settings, and sentences about those that the checkpoint has and `given` has otherwise.

    Raises:
        UserError: `given` describes another network than the checkpoint has.
    """
    for field in dataclasses.fields(ModelConfig):
        ours, theirs = getattr(given.model, field.name), getattr(trained.model, field.name)
        if field.name in ARITHMETIC or ours == theirs or (field.name == "num_classes" and ours == 0):
            continue
        raise UserError(
            f"The checkpoint has another architecture than --config describes: its model.{field.name} is {theirs!r}, "
            f"not {ours!r}. Leave --config out, or give the one that it was trained with."
        )
    model = dataclasses.replace(trained.model, **{name: getattr(given.model, name) for name in ARITHMETIC})
    wanted, own = flat_settings(config_to_dict(given)), flat_settings(config_to_dict(trained))
    kept = {name: own[name] for name in OF_THE_RUN if name not in chosen and own[name] != wanted[name]}
    remarks = tuple(
        f"{name}={value!r} is that of the checkpoint, not {wanted[name]!r}: --config.{name}=VALUE takes another."
        for name, value in kept.items()
    )
    # Training decided which class output stands for which category, and which shapes of images it showed.
    data = dataclasses.replace(given.data, labels=trained.data.labels)
    kept["augment.shown_ratios"] = trained.augment.shown_ratios or given.augment.shown_ratios
    return change_values(dataclasses.replace(given, model=model, data=data), kept), remarks


def check_categories(checkpoint: Categories | None, dataset: Categories, annotations_file: str) -> None:
    """Raises `UserError`, which names the first difference, unless a data set has the classes of a checkpoint.

    Each class must also have the same class output in both.

    Args:
        checkpoint: its classes; None (converted weights without class names) fits every data set.
        dataset: the classes of the data set.
        annotations_file: its name, for the message.
    """
    if checkpoint is None:
        return
    known = dict(zip(checkpoint.ids, checkpoint.names, strict=True))
    present = dict(zip(dataset.ids, dataset.names, strict=True))
    for category_id in sorted(known.keys() | present.keys()):
        ours, theirs = known.get(category_id), present.get(category_id)
        if ours != theirs:
            raise UserError(
                f"The classes differ: category {category_id} is {_named(ours)} in the checkpoint and {_named(theirs)} "
                f"in {annotations_file}. Evaluate on the classes that the checkpoint was trained for."
            )
    for category_id in checkpoint.ids:
        output, expected = checkpoint.label_of(category_id), dataset.label_of(category_id)
        if output != expected:
            raise UserError(
                f"The class outputs differ: category {category_id} is output {output} of the checkpoint and output "
                f"{expected} by the setting data.labels={dataset.scheme!r}. Set data.labels to {checkpoint.scheme!r}."
            )


def _named(name: str | None) -> str:
    return "absent" if name is None else f"'{name}'"
