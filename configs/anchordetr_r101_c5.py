r"""Anchor DETR R101-C5 on COCO by the official recipe: 50 epochs, 8 images per step, lower learning rates after epoch
40.

    anchordetr train --config anchordetr-r101-c5 --workdir runs/r101_c5 \
        --config.data.root=COCO_FOLDER

Initial weights: the backbone's are torchvision's ImageNet weights (`resnet101`), which are downloaded
once. For a file of your own: --config.init_from=FILE.
Hardware: 8 devices with one image each. Any number of devices that divides 8 computes the same.
Expected AP on val2017: 43.5, that of the published model.
Class outputs are COCO's category ids, as in the official checkpoints.
"""

import ml_collections

from anchordetr_jax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    config.model.backbone = "resnet101"
    config.model.dilation = False
    config.model.num_classes = 91  # Category ids up to 90; no category has id 0.
    config.data.labels = "raw"
    config.init_from = "resnet101"
    return config
