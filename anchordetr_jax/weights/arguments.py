"""One table of the official command line's arguments and this project's settings.

Checkpoints of the official training contain these arguments. Files of golden values name the arguments that they were
made with. The proofs run the official code with them.
"""

from collections.abc import Mapping
from typing import Any

from anchordetr_jax.config import Config, LossConfig, config_from_dict, config_to_dict
from anchordetr_jax.errors import UserError

SETTINGS = {
    "backbone": "model.backbone",
    "dilation": "model.dilation",
    "num_feature_levels": "model.num_feature_levels",
    "attention_type": "model.attention",
    "spatial_prior": "model.spatial_prior",
    "num_query_pattern": "model.num_patterns",
    "num_query_position": "model.num_anchors",
    "hidden_dim": "model.hidden_dim",
    "nheads": "model.num_heads",
    "dim_feedforward": "model.ffn_dim",
    "enc_layers": "model.encoder_layers",
    "dec_layers": "model.decoder_layers",
    "set_cost_class": "matcher.class_cost",
    "set_cost_bbox": "matcher.box_cost",
    "set_cost_giou": "matcher.giou_cost",
    "cls_loss_coef": "loss.class_weight",
    "bbox_loss_coef": "loss.box_weight",
    "giou_loss_coef": "loss.giou_weight",
    "focal_alpha": "loss.focal_alpha",
    "sgd": "optimizer.name",
    "lr": "optimizer.learning_rate",
    "lr_backbone": "optimizer.backbone_learning_rate",
    "weight_decay": "optimizer.weight_decay",
    "clip_max_norm": "optimizer.clip_norm",
    "lr_drop": "optimizer.drop_epoch",
    "epochs": "train.epochs",
    "batch_size": "train.batch_size",
    "seed": "train.seed",
}
"""Official argument: our setting. The defaults are the same, except for the batch size: theirs is for one GPU."""

VALUES: dict[str, dict[Any, Any]] = {
    "attention_type": {"RCDA": "rcda", "nn.MultiheadAttention": "standard"},
    "sgd": {False: "adamw", True: "sgd"},
}
"""Values with another spelling here: official value: our value."""

FIXED: dict[str, Any] = {
    "dropout": 0.0,
    "aux_loss": True,
    "masks": False,
    "frozen_weights": None,
    "lr_backbone_names": ["backbone"],
    "lr_linear_proj_names": [],
    "dataset_file": "coco",
}
"""Arguments that could change the detector or its training, with the only value that this project supports."""

WITHOUT_EFFECT = frozenset(
    {
        *("lr_linear_proj_mult", "lr_drop_epochs", "mask_loss_coef", "dice_loss_coef", "remove_difficult"),
        *("eval", "eval_set", "coco_path", "coco_panoptic_path", "output_dir", "resume", "auto_resume", "start_epoch"),
        *("override_resumed_lr_drop", "num_workers", "cache_mode", "device", "gpu"),
        *("distributed", "rank", "world_size", "dist_url", "dist_backend"),
    }
)
"""Arguments about files and machines, and about parts that are not used."""

FROZEN_BACKBONE = r"backbone/.*"


def is_argument(name: str) -> bool:
    """True if the official command line has this argument, or adds it while it runs."""
    return name in SETTINGS or name in FIXED or name in WITHOUT_EFFECT


def refuse_unknown(arguments: Mapping[str, Any], where: str) -> None:
    """Raises `UserError` that names all arguments which are unknown or which this project does not support."""
    problems = [f"{name}={value!r} is not known" for name, value in arguments.items() if not is_argument(name)]
    problems += [
        f"{name}={arguments[name]!r} is not supported, only {only!r}"
        for name, only in FIXED.items()
        if name in arguments and arguments[name] != only
    ]
    if problems:
        raise UserError(f"{where} has arguments with no counterpart here: {'; '.join(problems)}.")


def settings_from_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Translates official arguments to our settings by dotted name ("model.dilation"). Others are left out.

    Raises:
        UserError: the official command line does not take a value.
    """
    settings: dict[str, Any] = {}
    for name, setting in SETTINGS.items():
        if arguments.get(name) is not None:
            settings[setting] = _our_value(name, arguments[name])
    if "train.batch_size" in settings and isinstance(arguments.get("world_size"), int):
        settings["train.batch_size"] *= arguments["world_size"]
    if arguments.get("lr_backbone", 1) <= 0:  # The official code then trains no part of the backbone.
        settings["optimizer.backbone_learning_rate"] = 0.0
        settings["optimizer.freeze"] = (FROZEN_BACKBONE,)
    if arguments.get("clip_max_norm", 1) < 0:
        settings["optimizer.clip_norm"] = 0.0
    if (arguments.get("focal_alpha") or 0) < 0:  # The official code then weights all classes alike, with 1.
        settings["loss.focal_alpha"] = 0.5
        settings["loss.class_weight"] = 2 * settings.get("loss.class_weight", LossConfig().class_weight)
    return settings


def config_with(config: Config, settings: Mapping[str, Any]) -> Config:
    """`config` with some settings replaced, by dotted name. Raises `UserError` for a wrong type or value."""
    nested = config_to_dict(config)
    for setting, value in settings.items():
        group, name = setting.split(".")
        nested[group][name] = value
    return config_from_dict(nested)


def arguments_from_config(config: Config) -> dict[str, Any]:
    """The official arguments for these settings. Settings and values that the official code lacks are left out."""
    nested = config_to_dict(config)
    arguments = {}
    for name, setting in SETTINGS.items():
        group, ours = setting.split(".")
        value = nested[group][ours]
        spellings = {ours: theirs for theirs, ours in VALUES.get(name, {}).items()}
        if not spellings or value in spellings:
            arguments[name] = spellings.get(value, value)
    if FROZEN_BACKBONE in config.optimizer.freeze:
        arguments["lr_backbone"] = 0.0
    return arguments


def architecture_arguments(config: Config) -> dict[str, Any]:
    """The arguments that the official command needs for this network: C5 or DC5, and all that differ from defaults."""
    usual, asked = arguments_from_config(Config()), arguments_from_config(config)
    return {
        name: asked[name]
        for name, setting in SETTINGS.items()
        if setting.startswith("model.") and (name == "dilation" or asked[name] != usual[name])
    }


def _our_value(name: str, value: Any) -> Any:
    if name == "dilation" and isinstance(value, str):  # The official command line also takes these words.
        value = {"true": True, "false": False}.get(value.lower(), value)
    if name in VALUES:
        if value not in VALUES[name]:
            raise UserError(
                f"The official argument {name} is one of {', '.join(map(repr, VALUES[name]))}, not {value!r}."
            )
        return VALUES[name][value]
    return value
