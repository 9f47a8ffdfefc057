"""Small networks that take the place of the ResNet. The official Anchor DETR has none of them."""

from flax import nnx

from anchordetr_jax.config import ModelConfig
from anchordetr_jax.model.precision import compute_dtype
from anchordetr_jax.model.resnet import Backbone
from anchordetr_jax.small_backbones.compact import CompactBackbone
from anchordetr_jax.small_backbones.efficientnet import EfficientNetLite0


def small_backbone(config: ModelConfig, *, rngs: nnx.Rngs) -> Backbone | None:
    """The backbone that `config` names. None: it names a ResNet, which the model makes itself."""
    if config.backbone == "compact":
        kind: type[CompactBackbone] | type[EfficientNetLite0] = CompactBackbone
    elif config.backbone == "efficientnet_lite0":
        kind = EfficientNetLite0
    else:
        return None
    return kind(dilation=config.dilation, remat=config.remat, dtype=compute_dtype(config), rngs=rngs)
