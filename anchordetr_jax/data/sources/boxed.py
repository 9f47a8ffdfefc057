"""The answers of a `DetectionSource` that follow from its annotations: boxes by row, and the ground truth."""

from typing import Any

import numpy as np

from anchordetr_jax.data.records.annotations import Annotations
from anchordetr_jax.data.records.boxes import boxes_by_row
from anchordetr_jax.data.records.findings import Findings
from anchordetr_jax.data.records.reading import Records


class BoxedImages:
    """Images with checked records. A source adds how an image is read, and what it is called in messages.

    Rows are in the order of the image ids. Crowd regions and boxes without area are left out, and boxes are clipped to
    their image, as in the official training.

    Raises `UserError` for the first finding that stops training and evaluation.
    """

    def __init__(self, records: Records, findings: Findings):
        findings.stop_if_needed()
        self.name = records.name
        self.remarks: tuple[str, ...] = (*records.raw.remarks, *findings.lines())
        self.categories = records.categories
        self.image_ids = tuple(image.id for image in records.images)
        self.sizes = records.sizes
        self._file_names = [image.name for image in records.images]
        self._annotations = records.annotations
        self._boxes, self._labels, self._first_box = self._by_row(records.annotations)

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

    def _by_row(self, annotations: Annotations | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if annotations is None:
            nothing = np.zeros(0, int)
            return boxes_by_row(np.zeros((0, 4)), nothing, nothing.astype(bool), nothing, self.sizes)
        labels = annotations.category_ids
        if self.categories.scheme != "raw":
            labels = np.searchsorted(np.array(self.categories.ids), labels)
        return boxes_by_row(annotations.xywh, labels, annotations.crowds, annotations.rows, self.sizes)

    def ground_truth(self) -> dict[str, Any] | None:
        """The annotations in the form of COCO's annotation files, for scoring. None without annotations."""
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
