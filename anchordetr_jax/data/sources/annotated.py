"""Images in files with checked records: what COCO, YOLO and Pascal VOC data sets become."""

from typing import Any

import numpy as np
from etils import epath

from anchordetr_jax.data.images import read_image
from anchordetr_jax.data.records.boxes import boxes_by_row
from anchordetr_jax.data.records.findings import Findings
from anchordetr_jax.data.records.reading import Records


class AnnotatedImages:
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
        self.image_ids: tuple[int, ...] = tuple(image.id for image in records.images)
        self.sizes = records.sizes
        self.orientation = records.orientation
        self._file_names = [image.name for image in records.images]
        self._annotations = annotations = records.annotations
        if annotations is None:
            xywh, category_ids, crowds, rows = np.zeros((0, 4)), np.zeros(0, int), np.zeros(0, bool), np.zeros(0, int)
        else:
            xywh, category_ids = annotations.xywh, annotations.category_ids
            crowds, rows = annotations.crowds, annotations.rows
        ids = np.array(self.categories.ids)
        labels = category_ids if self.categories.scheme == "raw" else np.searchsorted(ids, category_ids)
        self._boxes, self._labels, self._first_box = boxes_by_row(xywh, labels, crowds, rows, self.sizes)

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def box_counts(self) -> np.ndarray:
        """int64 [n]: the number of boxes of each image."""
        return np.diff(self._first_box)

    def boxes(self, row: int) -> np.ndarray:
        """float32 [m, 4]: xyxy in pixels, inside the image, each with an area."""
        return self._boxes[self._first_box[row] : self._first_box[row + 1]]

    def labels(self, row: int) -> np.ndarray:
        """int32 [m]: the class output of each box."""
        return self._labels[self._first_box[row] : self._first_box[row + 1]]

    def file_path(self, row: int) -> epath.Path:
        return self.images_dir / self._file_names[row]

    def describe(self, row: int) -> str:
        """For messages: the image's file."""
        return str(self.file_path(row))

    def open_image(self, row: int) -> np.ndarray:
        """uint8 RGB [h, w, 3]. Raises `UserError` naming the file if it is missing, damaged, or of another size."""
        height, width = self.sizes[row].tolist()
        return read_image(self.file_path(row), (height, width), self.orientation)

    def ground_truth(self) -> dict[str, Any] | None:
        """The checked records in the form of COCO's annotation files, for scoring. None without annotations."""
        found = self._annotations
        if found is None:
            return None
        sizes = self.sizes.tolist()
        images = [
            {"id": number, "file_name": name, "height": height, "width": width}
            for number, name, (height, width) in zip(self.image_ids, self._file_names, sizes, strict=True)
        ]
        columns = (found.ids, found.rows, found.category_ids, found.xywh, found.areas, found.crowds)
        annotations = [
            {"id": number, "image_id": self.image_ids[row], "category_id": category, "bbox": box, "area": area}
            | {"iscrowd": int(crowd)}
            for number, row, category, box, area, crowd in zip(*(column.tolist() for column in columns), strict=True)
        ]
        categories = [
            {"id": number, "name": name}
            for number, name in zip(self.categories.ids, self.categories.names, strict=True)
        ]
        return {"images": images, "annotations": annotations, "categories": categories}
