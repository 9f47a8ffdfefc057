r"""Anchor DETR R101-C5 on COCO by the official recipe: 50 epochs, 8 images a step, learning rates cut after epoch 40.

    python scripts/train.py --config configs/anchordetr_r101_c5.py --workdir runs/anchordetr_r101_c5 \
        --config.data.root=COCO_FOLDER --config.init_from=IMAGENET_CHECKPOINT

Hardware: 8 devices with one image each; any number of devices that divides 8 computes the same. The backbone
starts from ImageNet weights: convert_weights.py imports torchvision's ResNet. Expected on val2017: AP 43.5,
that of the released model. Outputs are COCO's category ids, as in the official checkpoints.
"""

import ml_collections

from anchordetr_jax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    config.model.backbone = "resnet101"
    config.model.dilation = False
    config.model.num_classes = 91  # Category ids up to 90; output 0 belongs to none.
    config.data.labels = "raw"
    return config
