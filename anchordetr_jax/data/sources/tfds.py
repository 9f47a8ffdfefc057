"""Prepared TFDS data sets of object detection, such as `coco/2017`."""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from etils import epath

from anchordetr_jax.data.categories import Categories, LabelScheme
from anchordetr_jax.data.image_sizes import complete_sizes
from anchordetr_jax.data.images import decode_image
from anchordetr_jax.data.records.findings import Findings
from anchordetr_jax.data.records.raw import RawSplit
from anchordetr_jax.data.records.reading import read_records
from anchordetr_jax.data.source import Split
from anchordetr_jax.data.sources.boxed import BoxedImages
from anchordetr_jax.data.sources.coco_categories import COCO_NAMES
from anchordetr_jax.data.sources.tfds_index import TfdsIndex, load_index, pixel_areas, pixel_boxes
from anchordetr_jax.data.sources.tfds_records import StoredRecords
from anchordetr_jax.errors import UserError


class TfdsDataset(BoxedImages):
    """One split of a prepared TFDS data set. See `DetectionSource` for what it answers.

    Rows are in the order of the image ids (`image/id`). Without that feature, images are numbered from 1 in the order
    of their file names. So rows are the same as in a COCO folder of these images. Boxes are in pixels, with the digits
    that COCO's annotation files have. Its records are checked as those of all other data sets are.

    Args:
        directory: of the prepared data set, with `dataset_info.json` in it; see `tfds_records.find_prepared`.
        split: in TFDS's language, for example `validation[:100]`.
        use: what the images are for.
        labels: how class outputs are numbered.
        categories: those of a detector. They are taken where they have all class names of the data set. Otherwise
            COCO's classes get COCO's category ids, and other classes get the ids 1, 2, 3, …

    Raises `UserError` when the data set cannot be read by index, has no such split, has no boxes and labels, or
    contradicts itself. A damaged image is named when it is read.
    """

    def __init__(
        self,
        directory: epath.PathLike,
        split: str,
        use: Split = "val",
        *,
        labels: LabelScheme = "contiguous",
        categories: Categories | None = None,
    ):
        self._records = StoredRecords(directory, split)
        if len(self._records) == 0:
            raise UserError(f"{self._records.name} holds no images.")
        index = load_index(self._records)
        known, ids_of_labels = match_categories(self._records.label_names, labels, categories)
        raw = self._raw(index, ids_of_labels)
        self._record_of = np.argsort([image["id"] for image in raw.images])
        findings = Findings(raw.name, inspectable=False)
        for place in np.flatnonzero(index.sizes[:, 0] == 0).tolist():
            image = raw.images[place]
            findings.unreadable("unreadable file", "it is not an image", image["file_name"], use, image["id"])
        # Boxes of TFDS are relative to the pixels that TensorFlow decodes, and it does not turn pictures.
        super().__init__(read_records(raw, use, findings, look=False, orientation="stored", categories=known), findings)

    def describe(self, row: int) -> str:
        """For messages: data set, split and the image's file name."""
        return str(PurePosixPath(f"{self._records.directory}:{self._records.split}") / self._file_names[row])

    def open_image(self, row: int) -> np.ndarray:
        """uint8 RGB [h, w, 3]. Raises `UserError` naming the image if it is damaged or its record cannot be read."""
        height, width = self.sizes[row].tolist()
        data = self._records[int(self._record_of[row])]["image"]
        return decode_image(data, self.describe(row), (height, width), orientation="stored")

    def _raw(self, index: TfdsIndex, ids_of_labels: Sequence[int]) -> RawSplit:
        """The records in the order in which they are stored. Raises `UserError` where no image is readable."""
        name, n = self._records.name, len(index.counts)
        sizes = complete_sizes([(height, width) if height else None for height, width in index.sizes.tolist()])
        if sizes is None:
            raise UserError(f"None of the {n} images of {name} is readable; prepare it again.")
        numbers = index.image_ids.tolist() if len(index.image_ids) == n else _numbered_by_name(index)
        names = index.file_names.tolist() if len(index.file_names) == n else [str(number) for number in numbers]
        images = [
            {"id": number, "file_name": file, "height": height, "width": width}
            for number, file, (height, width) in zip(numbers, names, sizes.tolist(), strict=True)
        ]
        return RawSplit(
            name=name,
            folder=epath.Path(f"{self._records.directory}:{self._records.split}"),
            images=images,
            annotations=self._annotations_of(index, sizes, numbers, ids_of_labels) if len(index.labels) else None,
            categories=[
                {"id": number, "name": label}
                for number, label in zip(ids_of_labels, self._records.label_names, strict=True)
            ],
        )

    def _annotations_of(
        self, index: TfdsIndex, sizes: np.ndarray, numbers: Sequence[int], ids_of_labels: Sequence[int]
    ) -> list[dict[str, Any]]:
        places = np.repeat(np.arange(len(numbers)), index.counts)
        order = np.argsort(np.array(numbers)[places], kind="stable")
        places = places[order]
        xywh = pixel_boxes(index.boxes[order], sizes[places])
        areas = pixel_areas(index.areas[order] if len(index.areas) else index.areas, xywh)
        ids = index.annotation_ids[order] if len(index.annotation_ids) == len(order) else np.arange(1, len(order) + 1)
        category_of = dict(enumerate(ids_of_labels))
        columns = (ids, places, index.labels[order], xywh, areas, index.crowds[order].astype(int))
        return [
            {"id": number, "image_id": numbers[place], "category_id": category_of.get(label, f"label {label}")}
            | {"bbox": box, "area": area, "iscrowd": crowd}
            for number, place, label, box, area, crowd in zip(*(column.tolist() for column in columns), strict=True)
        ]


def _numbered_by_name(index: TfdsIndex) -> list[int]:
    """Numbers from 1 in the order of the file names, or of the records where there are no names."""
    n = len(index.counts)
    order = np.argsort(index.file_names, kind="stable") if len(index.file_names) == n else np.arange(n)
    numbers = np.empty(n, int)
    numbers[order] = np.arange(1, n + 1)
    return numbers.tolist()


def match_categories(
    names: Sequence[str], scheme: LabelScheme, known: Categories | None
) -> tuple[Categories, tuple[int, ...]]:
    """The categories of a data set whose labels have these names, and the category id of each label.

    Args:
        names: by label. Where the names are the digits of the labels, the labels have no names.
        scheme: how class outputs are numbered, unless `known` says so.
        known: the categories of a detector. They are taken where they have all the names. They are also taken where the
            labels have no names and there are as many labels as categories.
    """
    if known is not None:
        id_of_name = dict(zip(known.names, known.ids, strict=True))
        if set(names) <= id_of_name.keys():
            return known, tuple(id_of_name[name] for name in names)
        if list(names) == [str(label) for label in range(len(known.ids))]:
            return known, known.ids
    id_of_name = {name: number for number, name in COCO_NAMES.items()}
    ids = tuple(id_of_name.get(name, 0) for name in names)
    if 0 in ids:
        ids = tuple(range(1, len(names) + 1))
    pairs = sorted(zip(ids, names, strict=True))
    return Categories(tuple(number for number, _ in pairs), tuple(name for _, name in pairs), scheme), ids
