"""A small data set that is drawn, not downloaded: textured shapes on busy backgrounds, as a standard COCO folder.

    anchordetr shapes OUT --train 2000 --val 200 --seed 0 --classes circle square star

It has what real data has: objects that overlap, objects of very different sizes and aspect ratios, images of different
sizes, grey images, images without objects, category ids with gaps, crowd regions, and a few boxes without area.
"""

from anchordetr_jax.data.shapes.settings import ShapesConfig as ShapesConfig
from anchordetr_jax.data.shapes.writing import write_shapes_dataset as write_shapes_dataset
