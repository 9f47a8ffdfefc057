"""Prepared TFDS data sets of object detection, such as `coco/2017`."""

from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
from etils import epath

from anchordetr_jax.data.categories import Categories, LabelScheme
from anchordetr_jax.data.image_sizes import complete_sizes
from anchordetr_jax.data.images import decode_image
from anchordetr_jax.data.records.annotations import Annotations
from anchordetr_jax.data.sources.boxed import BoxedImages
from anchordetr_jax.data.sources.coco_categories import COCO_NAMES
from anchordetr_jax.data.sources.tfds_index import TfdsIndex, load_index, pixel_areas, pixel_boxes
from anchordetr_jax.data.sources.tfds_records import Records
from anchordetr_jax.errors import UserError


class TfdsDataset(BoxedImages):
    """One split of a prepared TFDS data set. See `DetectionSource` for what it answers.

    Rows are in the order of the image ids (`image/id`). Without that feature, images are numbered from 1 in the order
    of their file names. So rows are the same as in a COCO folder of these images. Boxes are in pixels, with the digits
    that COCO's annotation files have. Crowd regions and boxes without area are left out, and boxes are clipped to their
    image, as for a COCO folder.

    Args:
        directory: of the prepared data set, with `dataset_info.json` in it; see `tfds_records.find_prepared`.
        split: in TFDS's language, for example `validation[:100]`.
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
        *,
        labels: LabelScheme = "contiguous",
        categories: Categories | None = None,
    ):
        self._records = Records(directory, split)
        self.name = self._records.name
        self.remarks: tuple[str, ...] = ()
        if len(self._records) == 0:
            raise UserError(f"{self.name} holds no images.")
        index = load_index(self._records)
        self.categories, ids_of_labels = match_categories(self._records.label_names, labels, categories)

        sizes = complete_sizes([(height, width) if height else None for height, width in index.sizes.tolist()])
        if sizes is None:
            raise UserError(f"None of the {len(self._records)} images of {self.name} is readable; prepare it again.")
        image_ids, self._record_of = self._rows(index)
        self.image_ids = tuple(image_ids.tolist())
        self.sizes = sizes[self._record_of]
        names = index.file_names if len(index.file_names) == len(image_ids) else image_ids.astype(np.str_)
        self._file_names = names[self._record_of].tolist()
        self._read_objects(index, ids_of_labels)

    def describe(self, row: int) -> str:
        """For messages: data set, split and the image's file name."""
        return str(PurePosixPath(f"{self._records.directory}:{self._records.split}") / self._file_names[row])

    def open_image(self, row: int) -> np.ndarray:
        """uint8 RGB [h, w, 3]. Raises `UserError` naming the image if it is damaged or its record cannot be read."""
        height, width = self.sizes[row].tolist()
        data = self._records[int(self._record_of[row])]["image"]
        # Boxes of TFDS are relative to the pixels that TensorFlow decodes, and it does not turn pictures.
        return decode_image(data, self.describe(row), (height, width), orientation="stored")

    def _rows(self, index: TfdsIndex) -> tuple[np.ndarray, np.ndarray]:
        """The image ids by row, ascending, and the record of each row."""
        n = len(index.counts)
        if len(index.image_ids) != n:
            order = np.argsort(index.file_names, kind="stable") if len(index.file_names) == n else np.arange(n)
            return np.arange(1, n + 1), order
        order = np.argsort(index.image_ids, kind="stable")
        image_ids = index.image_ids[order]
        repeated = image_ids[1:][image_ids[1:] == image_ids[:-1]]
        if repeated.size:
            raise UserError(f"{self.name} has two images with the id {repeated[0]}.")
        return image_ids, order

    def _read_objects(self, index: TfdsIndex, ids_of_labels: Sequence[int]) -> None:
        row_of_record = np.empty(len(self), np.int64)
        row_of_record[self._record_of] = np.arange(len(self))
        rows = np.repeat(row_of_record, index.counts)
        order = np.argsort(rows, kind="stable")
        rows = rows[order]

        known = (index.labels >= 0) & (index.labels < len(ids_of_labels))
        sound = known & np.isfinite(index.boxes).all(axis=1)
        if not sound.all():
            wrong = int(sound.argmin())
            row, what = int(np.repeat(row_of_record, index.counts)[wrong]), "box" if known[wrong] else "label"
            value = index.boxes[wrong].tolist() if known[wrong] else int(index.labels[wrong])
            raise UserError(f"An object in {self.describe(row)} has the {what} {value}, which is impossible.")

        numbers = index.annotation_ids
        numbered = len(numbers) == len(rows) and len(np.unique(numbers)) == len(numbers)
        xywh = pixel_boxes(index.boxes[order], self.sizes[rows])
        annotations = Annotations(
            ids=numbers[order] if numbered else np.arange(1, len(rows) + 1),
            rows=rows,
            category_ids=np.array(ids_of_labels, np.int64)[index.labels[order]],
            xywh=xywh,
            areas=pixel_areas(index.areas[order] if len(index.areas) else index.areas, xywh),
            crowds=index.crowds[order],
        )
        label_of_label = np.array([self.categories.label_of(number) for number in ids_of_labels], np.int64)
        self._hold(annotations if len(rows) else None, label_of_label[index.labels[order]])


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
