"""A COCO-format data set of drawn shapes: `python -m anchordetr_jax.data.shapes OUT`."""

from anchordetr_jax.data.shapes.drawing import ShapesConfig as ShapesConfig
from anchordetr_jax.data.shapes.drawing import write_shapes_dataset as write_shapes_dataset
