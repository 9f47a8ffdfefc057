"""Fine-tunes a small detector on a data set of your own, on a CPU.

    anchordetr train MY_DATA --config finetune-cpu --workdir runs/first

Its backbone is EfficientNet-Lite0 with ImageNet weights, which come with the package; the rest begins with random
weights. Anchor points, epochs, learning rates, image sizes and augmentation are chosen for the data set, so that the
run takes 12 to 30 minutes on two CPU cores. Each is printed with its reason. To change one: --config.train.epochs=20.
Larger and better: configs/finetune.py, with published weights, on a GPU or TPU.
Hardware: two CPU cores. Expected AP: 0.57 to 0.58 (AP50 0.87 to 0.88) on 205 photographs of blood cells (BCCD).
"""

import runpy
from pathlib import Path

import ml_collections

HERE = Path(__file__).resolve().parent


def get_config() -> ml_collections.ConfigDict:
    config = runpy.run_path(str(HERE / "finetune.py"))["get_config"]()
    config.fit = "cpu"
    config.init_from = "efficientnet_lite0"
    config.architecture = "detector"
    model = config.model
    model.backbone = "efficientnet_lite0"
    model.initialization = "local"
    model.num_patterns = 1
    model.hidden_dim = 128
    model.num_heads = 4
    model.ffn_dim = 256
    model.encoder_layers = 1
    model.decoder_layers = 3

    config.augment.crop_probability = 0.0
    config.loss.classification = "iou_aware"
    config.loss.class_weight = 1.0
    config.optimizer.name = "muon"
    # With Muon for the backbone's kernels, too, a step takes longer, and AP is not higher (docs/learning.md).
    config.optimizer.muon_parameters = (r"(?!backbone/).*",)
    # Gradients of depthwise kernels take as long as all others of the backbone together.
    config.optimizer.freeze = (r"backbone/(stem|layer1|layer2)/.*", r"backbone/.*/depthwise_conv/.*")
    config.train.denoising_groups = 2  # With 4 a step takes longer, and AP is not higher (docs/learning.md).
    config.train.batch_size = 8  # The default, which `fit` may change.
    config.eval.batch_size = 8
    return config
