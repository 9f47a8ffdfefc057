"""Fine-tunes a detector on a data set of your own: a COCO, YOLO or Pascal VOC folder.

    anchordetr inspect MY_DATA
    anchordetr train MY_DATA --config finetune --config.init_from=anchordetr-r50-dc5 --workdir runs/mine

Initial weights: a published model, a weight file of the official code (or of torchvision's ResNet), a checkpoint or a
run's workdir. They decide the architecture. If a weight file does not say whether it is DC5 or C5, add
--config.model.dilation=True (DC5) or False (C5).
No validation images: a tenth of the training images is held out; --config.data.val_fraction=0.2 holds out a fifth.
Little memory: --config.train.batch_size=2, and smaller images: --config.augment.train_sizes=400,448,512
--config.augment.eval_size=512 --config.augment.max_size=853.
Hardware: one GPU or TPU. Without one: configs/finetune_cpu.py, with a detector that is small enough for a CPU.
Expected AP: it depends on the data. curves.png and predictions/ show after every epoch whether it learns.
"""

import ml_collections

from anchordetr_jax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    config.architecture = "init_from"
    config.fit = "gpu"
    config.optimizer.schedule = "cosine"
    config.train.batch_size = 4
    config.train.keep_best = True
    config.eval.batch_size = 4
    return config
