"""Names of settings: those of older versions, which still load, and those of other tools, which get an answer."""

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from anchordetr_jax.errors import UserError

OTHER_NAMES = {
    "augment.flip_probability": "flip fliplr hflip random_flip",
    "augment.vertical_flip_probability": "flipud vertical_flip vflip",
    "augment.max_size": "max_input_size max_size_train max_size_test test_max_size",
    "augment.train_sizes": "imgsz img_size image_size input_size min_size min_size_train resolution scales size",
    "data.num_workers": "workers n_workers dataloader_num_workers",
    "data.root": "coco_path data_dir data_path data_root dataset dataset_dir dataset_path img_dir root_dir",
    "data.val_fraction": "val_split validation_split val_ratio split_ratio",
    "eval.batch_size": "eval_batch_size per_device_eval_batch_size test_batch_size val_batch_size",
    "eval.max_detections": "detections_per_image max_dets max_det num_select num_top_queries",
    "init_from": "finetune from_pretrained load_from pretrain_weights pretrained pretrained_model weights",
    "loss.box_weight": "bbox_loss_coef l1_loss_coef loss_bbox",
    "loss.class_weight": "cls_loss_coef class_loss_coef loss_ce",
    "loss.giou_weight": "giou_loss_coef loss_giou",
    "matcher.box_cost": "bbox_cost cost_bbox set_cost_bbox",
    "matcher.class_cost": "cost_class set_cost_class",
    "matcher.giou_cost": "cost_giou set_cost_giou",
    "model.attention": "attention_type attn_type",
    "model.decoder_layers": "dec_layers num_decoder_layers",
    "model.dtype": "amp bf16 fp16 half mixed_precision precision",
    "model.encoder_layers": "enc_layers num_encoder_layers",
    "model.ffn_dim": "dim_feedforward feedforward_dim",
    "model.hidden_dim": "d_model embed_dim",
    "model.num_anchors": "n_queries num_query_position num_queries",
    "model.num_classes": "class_count n_classes nc",
    "model.num_heads": "n_heads nhead nheads num_attention_heads",
    "model.num_patterns": "num_query_pattern",
    "model.remat": "checkpointing gradient_checkpointing use_checkpoint",
    "optimizer.backbone_learning_rate": "backbone_lr lr_backbone lr_encoder",
    "optimizer.clip_norm": "clip_grad_norm clip_max_norm grad_clip gradient_clip_norm gradient_clip_val max_grad_norm",
    "optimizer.drop_epoch": "lr_drop lr_step milestones step_size steps_lr",
    "optimizer.freeze": "freeze_at frozen frozen_layers",
    "optimizer.learning_rate": "base_lr init_lr initial_lr lr lr0",
    "optimizer.name": "optim optimizer_type solver",
    "optimizer.schedule": "cos_lr lr_schedule lr_scheduler lr_scheduler_type scheduler",
    "optimizer.warmup_steps": "num_warmup_steps warmup warmup_epochs warmup_iters",
    "optimizer.weight_decay": "decay wd",
    "train.accumulate": "accumulate_grad_batches accumulation grad_accum grad_accum_steps gradient_accumulation_steps",
    "train.batch_size": "batch batch_size ims_per_batch per_device_train_batch_size samples_per_gpu train_batch_size",
    "train.checkpoint_every": "checkpoint_interval checkpoint_period save_every save_interval save_period save_steps",
    "train.ema_decay": "ema ema_momentum use_ema",
    "train.epochs": "epoch max_epochs n_epochs num_epochs num_train_epochs",
    "train.evaluate_every": "eval_every eval_interval eval_period eval_steps val_interval val_period",
    "train.keep_best": "save_best save_best_only",
    "train.keep_checkpoints": "keep max_to_keep save_total_limit save_top_k",
    "train.log_every": "log_interval log_period logging_steps print_freq",
    "train.patience": "early_stop early_stopping early_stopping_patience",
    "train.seed": "random_seed random_state",
    "train.tensorboard": "tb use_tensorboard",
}
"""The setting's name here, and its names in other tools, separated by spaces."""

OLD_SWITCHES = frozenset({"model.cpu_forms", "model.tpu_forms", "model.gpu_forms"})
"""Settings that were true or false in older versions, and became `model.kernels`."""

_FORMS = frozenset(name.removeprefix("model.") for name in OLD_SWITCHES)

_HERE = {other: name for name, others in OTHER_NAMES.items() for other in others.split()}


def nearest_setting(name: str, known: Iterable[str]) -> str | None:
    """The setting that a name that does not exist most likely means.

    Args:
        name: the name as given, with or without its group, e.g. "optimizer.lr", "lr" or "LR".
        known: the dotted names of all settings and of their groups.

    Returns:
        One of `known`; None where none is near.
    """
    known = list(known)
    plain = name.strip().lower().replace("-", "_")
    if plain in known:
        return plain
    group, _, last = plain.rpartition(".")
    for other in (plain.replace(".", "_"), last):
        if _HERE.get(other) in known:
            return _HERE[other]
    same_last_part = [setting for setting in known if setting.rpartition(".")[2] == last]
    if same_last_part:
        return difflib.get_close_matches(plain, same_last_part, n=1, cutoff=0)[0]
    # A typing mistake is most likely in the last part of the name, and else anywhere.
    own_group = {setting.rpartition(".")[2]: setting for setting in known if setting.rpartition(".")[0] == group}
    if near := difflib.get_close_matches(last, own_group, n=1):
        return own_group[near[0]]
    return next(iter(difflib.get_close_matches(plain, known, n=1, cutoff=0.75)), None)


def setting_named(name: str, known: Collection[str], group: str = "train") -> str:
    """The full name of a setting that is given with or without its group: "batch_size" is "train.batch_size".

    If several groups have it, that of `group` counts, or the first one. Raises `UserError` if there is none.
    """
    if name in known:
        return name
    same = [setting for setting in known if setting.rpartition(".")[2] == name]
    if same:
        return f"{group}.{name}" if f"{group}.{name}" in same else same[0]
    near = nearest_setting(name, known)
    raise UserError(f"There is no setting {name!r}" + (f"; did you mean {near!r}?" if near else "."))


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one dict with dotted names: `{"train": {"epochs": 3}}` -> `{"train.epochs": 3}`."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= flat_settings(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def with_present_names(settings: Any) -> Any:
    """Translates settings of older versions to their present names and values."""
    if not isinstance(settings, Mapping):
        return settings
    settings = dict(settings)
    train, model = settings.get("train"), settings.get("model")
    if isinstance(train, Mapping) and "init_from" in train:
        settings["train"] = {name: value for name, value in train.items() if name != "init_from"}
        settings["init_from"] = train["init_from"] or settings.get("init_from", "")
    if settings.get("architecture") == "start":
        settings["architecture"] = "init_from"
    if isinstance(model, Mapping) and not _FORMS.isdisjoint(model):
        settings["model"] = {name: value for name, value in model.items() if name not in _FORMS}
        settings["model"]["kernels"] = _kernels_of_forms(model)
    return settings


def _kernels_of_forms(model: Mapping[str, Any]) -> str:
    """`model.kernels` from the settings before it. The functions for GPUs do not exist any more: plain ones compute."""
    for name in sorted(_FORMS & model.keys()):
        if not isinstance(model[name], bool):
            raise UserError(f"Setting 'model.{name}' (now: model.kernels) must be True or False, not {model[name]!r}.")
    if model.get("tpu_forms"):
        return "tpu"
    return str(model.get("kernels", "auto")) if model.get("cpu_forms", True) else "none"
