"""The answers of a `DetectionSource` that follow from its annotations: boxes by row, and the ground truth."""

from typing import Any

import numpy as np

from anchordetr_jax.data.categories import Categories
from anchordetr_jax.data.records.annotations import Annotations
from anchordetr_jax.data.records.boxes import boxes_by_row


class BoxedImages:
    """Images with annotations in memory. A source sets the attributes, then calls `_hold`."""

    categories: Categories
    image_ids: tuple[int, ...]
    sizes: np.ndarray
    """int32 [n, 2]: (height, width) of each image."""
    _file_names: list[str]

    def _hold(self, annotations: Annotations | None, labels: np.ndarray) -> None:
        """Keeps the annotations (None: there are none); `labels` int [m] are their class outputs."""
        self._annotations = annotations
        if annotations is None:
            xywh, crowds, rows = np.zeros((0, 4)), np.zeros(0, bool), np.zeros(0, int)
        else:
            xywh, crowds, rows = annotations.xywh, annotations.crowds, annotations.rows
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
