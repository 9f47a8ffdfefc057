"""Images in files with checked records: what COCO, YOLO and Pascal VOC data sets become."""

import numpy as np
from etils import epath

from anchordetr_jax.data.images import read_image
from anchordetr_jax.data.records.findings import Findings
from anchordetr_jax.data.records.reading import Records
from anchordetr_jax.data.sources.boxed import BoxedImages


class AnnotatedImages(BoxedImages):
    """One split of a data set of image files. See `DetectionSource` for its answers."""

    def __init__(self, records: Records, findings: Findings):
        super().__init__(records, findings)
        self.images_dir = records.raw.folder
        self.orientation = records.orientation

    def file_path(self, row: int) -> epath.Path:
        return self.images_dir / self._file_names[row]

    def describe(self, row: int) -> str:
        """For messages: the image's file."""
        return str(self.file_path(row))

    def open_image(self, row: int) -> np.ndarray:
        """uint8 RGB [h, w, 3]. Raises `UserError` naming the file if it is missing, damaged, or of another size."""
        height, width = self.sizes[row].tolist()
        return read_image(self.file_path(row), (height, width), self.orientation)
