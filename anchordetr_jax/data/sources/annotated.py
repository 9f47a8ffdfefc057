"""Images in files with checked records: what COCO, YOLO and Pascal VOC data sets become."""

import numpy as np
from etils import epath

from anchordetr_jax.data.images import read_image
from anchordetr_jax.data.records.findings import Findings
from anchordetr_jax.data.records.reading import Records
from anchordetr_jax.data.sources.boxed import BoxedImages


class AnnotatedImages(BoxedImages):
    """One split of a data set of image files. See `DetectionSource` for its answers.

    Rows are in the order of the image ids. Crowd regions and boxes without area are left out, and boxes are clipped to
    their image, as in the official training.

    Raises `UserError` for the first finding that stops training and evaluation.
    """

    def __init__(self, records: Records, findings: Findings):
        findings.stop_if_needed()
        self.name = records.name
        self.remarks: tuple[str, ...] = (*records.raw.remarks, *findings.lines())
        self.images_dir = records.raw.folder
        self.categories = records.categories
        self.image_ids = tuple(image.id for image in records.images)
        self.sizes = records.sizes
        self.orientation = records.orientation
        self._file_names = [image.name for image in records.images]
        annotations = records.annotations
        category_ids = np.zeros(0, int) if annotations is None else annotations.category_ids
        raw = self.categories.scheme == "raw"
        self._hold(annotations, category_ids if raw else np.searchsorted(np.array(self.categories.ids), category_ids))

    def file_path(self, row: int) -> epath.Path:
        return self.images_dir / self._file_names[row]

    def describe(self, row: int) -> str:
        """For messages: the image's file."""
        return str(self.file_path(row))

    def open_image(self, row: int) -> np.ndarray:
        """uint8 RGB [h, w, 3]. Raises `UserError` naming the file if it is missing, damaged, or of another size."""
        height, width = self.sizes[row].tolist()
        return read_image(self.file_path(row), (height, width), self.orientation)
