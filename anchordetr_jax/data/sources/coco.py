"""Data sets in COCO's form: a folder of images and a JSON file of annotations."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from etils import epath

from anchordetr_jax.config import DataConfig
from anchordetr_jax.data.categories import Categories, LabelScheme
from anchordetr_jax.data.images import read_image
from anchordetr_jax.data.source import Split
from anchordetr_jax.data.sources.layouts import image_name, split_files
from anchordetr_jax.data.sources.portion import Portion
from anchordetr_jax.errors import UserError

MAX_RAW_LABELS = 10_000  # far beyond any data set, and a class head of this size still fits
MAX_IMAGE_SIDE = 1_000_000

_SINGULAR = {"images": "image", "annotations": "annotation", "categories": "category"}


class CocoDataset:
    """The index of one split: image sizes and annotations, no pixels. See `DetectionSource` for what it answers.

    Rows are in the order of the image ids. Crowd regions and boxes without area are left out, and boxes are clipped to
    their image, as in the official training. With `annotated=False` the file may lack annotations (COCO's test-dev).
    With a `portion` only the images on one side of a split are there. With `bare_names` images lie in their folder
    under the last part of their listed paths. `remarks` are sentences for the person.

    Raises `UserError` when the folder or the file is missing, or the file is not of COCO's form or contradicts itself.
    Image files are not looked at before they are read.
    """

    def __init__(
        self,
        images_dir: epath.PathLike,
        annotations_file: epath.PathLike,
        *,
        labels: LabelScheme = "contiguous",
        annotated: bool = True,
        portion: Portion | None = None,
        bare_names: bool = False,
    ):
        self.images_dir = epath.Path(images_dir)
        self.annotations_file = epath.Path(annotations_file)
        self.name = str(annotations_file)
        self.annotated = annotated
        self.remarks: tuple[str, ...] = ()
        self._elsewhere: frozenset[int] = frozenset()
        if not self.images_dir.is_dir():
            raise UserError(
                f"There is no image folder {images_dir}; check data.root and the image folders set beside it."
            )
        content = _load_json(self.annotations_file)
        images = self._records(content, "images")
        annotations = self._records(content, "annotations") if annotated or "annotations" in content else []
        if not images:
            raise UserError(f"{self.name} lists no images.")

        if portion is not None:
            images, annotations = self._portion(portion, images, annotations)
        ids = self._integers(images, "images", "id")
        heights, widths = (self._integers(images, "images", key) for key in ("height", "width"))
        impossible = (np.minimum(heights, widths) < 1) | (np.maximum(heights, widths) > MAX_IMAGE_SIDE)
        if impossible.any():
            index = int(impossible.argmax())
            raise UserError(f"{self.name}: image {ids[index]} has the size {widths[index]} x {heights[index]}.")
        order = np.argsort(ids, kind="stable")
        ids = ids[order]
        repeated = ids[1:][ids[1:] == ids[:-1]]
        if repeated.size:
            raise UserError(f"{self.name} lists two images with the id {repeated[0]}.")
        names = self._strings(images, "images", "file_name")
        self._file_names = [image_name(names[index], bare=bare_names) for index in order]
        self.image_ids: tuple[int, ...] = tuple(ids.tolist())
        self.sizes = np.stack([heights, widths], axis=1)[order].astype(np.int32)
        self.categories = self._read_categories(content, annotations, labels)
        self._read_annotations(annotations, ids)

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def box_counts(self) -> np.ndarray:
        """int64 [n]: how many boxes each image has."""
        return np.diff(self._first_box)

    @property
    def max_boxes(self) -> int:
        """Boxes of the fullest image."""
        return int(self.box_counts.max())

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
        return read_image(self.file_path(row), (height, width))

    def ground_truth(self) -> dict[str, Any] | None:
        """The annotation file's content, as far as it is about these images and classes; None with
        `annotated=False`."""
        if not self.annotated:
            return None
        content = _load_json(self.annotations_file)
        content["categories"] = [record for record in content["categories"] if record["id"] in self.categories.ids]
        if self._elsewhere:
            for key, name in (("images", "id"), ("annotations", "image_id")):
                content[key] = [record for record in content[key] if record[name] not in self._elsewhere]
        return content

    def _portion(
        self, portion: Portion, images: list[dict[str, Any]], annotations: list[dict[str, Any]]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The images on one side of a split, and their annotations."""
        takes = portion.takes(self._strings(images, "images", "file_name")).tolist()
        ids = self._integers(images, "images", "id").tolist()
        self._elsewhere = frozenset(number for number, taken in zip(ids, takes, strict=True) if not taken)
        self.name = f"{self.name} ({portion.side} images by data.val_fraction={portion.held_out:g})"
        return (
            [image for image, taken in zip(images, takes, strict=True) if taken],
            [annotation for annotation in annotations if annotation.get("image_id") not in self._elsewhere],
        )

    def _records(self, content: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
        if key not in content:
            raise UserError(f"{self.name} is not in COCO's form: it has no '{key}'.")
        records = content[key]
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise UserError(f"{self.name} is not in COCO's form: '{key}' is not a list of objects.")
        return records

    def _values(self, records: Iterable[dict[str, Any]], group: str, key: str) -> list[Any]:
        try:
            return [record[key] for record in records]
        except KeyError:
            record = next(record for record in records if key not in record)
        where = f"{_SINGULAR[group]} {record.get('id', record)}"
        raise UserError(f"{self.name} is not in COCO's form: {where} has no '{key}'.")

    def _integers(self, records: list[dict[str, Any]], group: str, key: str) -> np.ndarray:
        values = self._values(records, group, key)
        for value, record in zip(values, records, strict=True):
            if type(value) is not int or abs(value) >= 2**63:
                self._wrong_value(group, key, record, "an integer")
        return np.array(values, dtype=np.int64)

    def _strings(self, records: list[dict[str, Any]], group: str, key: str) -> list[str]:
        values = self._values(records, group, key)
        for value, record in zip(values, records, strict=True):
            if not isinstance(value, str) or not value:
                self._wrong_value(group, key, record, "a text")
        return values

    def _wrong_value(self, group: str, key: str, record: Mapping[str, Any], expected: str) -> NoReturn:
        where = f"{_SINGULAR[group]} {record.get('id', record)}"
        raise UserError(f"{self.name} is not in COCO's form: '{key}' of {where} is {record[key]!r}, not {expected}.")

    def _read_categories(
        self, content: Mapping[str, Any], annotations: list[dict[str, Any]], scheme: LabelScheme
    ) -> Categories:
        records = self._records(content, "categories")
        if not records:
            raise UserError(f"{self.name} lists no categories.")
        ids = self._integers(records, "categories", "id").tolist()
        names = self._strings(records, "categories", "name")
        if len(set(ids)) < len(ids):
            twice = next(number for number in ids if ids.count(number) > 1)
            raise UserError(f"{self.name} lists two categories with the id {twice}.")
        if scheme == "raw" and not (min(ids) >= 0 and max(ids) < MAX_RAW_LABELS):
            raise UserError(
                f"{self.name} has category ids from {min(ids)} to {max(ids)}, which cannot number class outputs; "
                f"set data.labels='contiguous'."
            )
        stand_in = heading_category(records, annotations)
        if stand_in is not None:
            self.remarks += (f"Category {ids[stand_in]} ('{names[stand_in]}') only heads the others: it is no class.",)
            del ids[stand_in], names[stand_in]
        pairs = sorted(zip(ids, names, strict=True))
        return Categories(ids=tuple(i for i, _ in pairs), names=tuple(n for _, n in pairs), scheme=scheme)

    def _read_annotations(self, annotations: list[dict[str, Any]], image_ids: np.ndarray) -> None:
        group = "annotations"
        named_images = self._integers(annotations, group, "image_id")
        named_categories = self._integers(annotations, group, "category_id")
        category_ids = np.array(self.categories.ids)
        rows = self._look_up(annotations, "image", named_images, image_ids)
        labels = self._look_up(annotations, "category", named_categories, category_ids)
        if self.categories.scheme == "raw":
            labels = named_categories

        xywh = self._boxes_of(annotations)
        crowds = np.array([bool(a.get("iscrowd")) for a in annotations], dtype=bool)
        self._boxes, self._labels, self._first_box = boxes_by_row(xywh, labels, crowds, rows, self.sizes)

    def _look_up(
        self, annotations: list[dict[str, Any]], what: str, named: np.ndarray, known: np.ndarray
    ) -> np.ndarray:
        places = np.searchsorted(known, named).clip(max=len(known) - 1)
        unknown = known[places] != named
        if unknown.any():
            index = int(unknown.argmax())
            where = f"annotation {annotations[index].get('id', annotations[index])}"
            raise UserError(f"{self.name}: {where} names the {what} {named[index]}, which the file does not list.")
        return places

    def _boxes_of(self, annotations: list[dict[str, Any]]) -> np.ndarray:
        values = self._values(annotations, "annotations", "bbox")
        try:
            boxes = np.array(values) if values else np.zeros((0, 4))
        except ValueError:  # lists of different lengths
            boxes = np.zeros(0)
        if boxes.shape != (len(values), 4) or boxes.dtype.kind not in "if" or not np.isfinite(boxes).all():
            wrong = next(annotation for annotation in annotations if not _is_box(annotation["bbox"]))
            self._wrong_value("annotations", "bbox", wrong, "four numbers")
        return boxes.astype(np.float64)


def boxes_by_row(
    xywh: np.ndarray, labels: np.ndarray, crowds: np.ndarray, rows: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The objects to be found among m annotations, of n images: those that are no crowd regions and have an area.

    Args:
        xywh: float64 [m, 4] in pixels.
        labels: int [m].
        crowds: bool [m].
        rows: int [m]: the image of each.
        sizes: int [n, 2]: (height, width) of the images, to which boxes are clipped.

    Returns:
        Boxes float32 [k, 4], xyxy in pixels, image after image; their labels int32 [k]; and int64 [n + 1] the place
        where the boxes of each image begin.
    """
    bounds = np.tile(sizes[rows][:, ::-1], 2).astype(np.float64)
    boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1).clip(0, bounds).astype(np.float32)
    kept = np.flatnonzero(~crowds & (boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    kept = kept[np.argsort(rows[kept], kind="stable")]
    return boxes[kept], labels[kept].astype(np.int32), np.searchsorted(rows[kept], np.arange(len(sizes) + 1))


def open_split(config: DataConfig, split: Split) -> CocoDataset:
    """The images of a COCO folder that the settings name, or that are found in it (`layouts.split_files`).

    Raises `UserError` like those and `CocoDataset`.
    """
    portion = None
    if config.val_fraction > 0 and split != "test":
        portion = Portion(config.val_fraction, split)
    files = split_files(config, split if portion is None else "train")
    dataset = CocoDataset(
        files.images,
        files.annotations,
        labels=config.labels,
        annotated=split != "test",
        portion=portion,
        bare_names=files.bare,
    )
    if files.found:
        how = ", by the last parts of the paths in it" if files.bare else ""
        dataset.remarks = (f"Found the {split} images: {files.images}, {files.annotations}{how}.", *dataset.remarks)
    return dataset


def heading_category(categories: Sequence[Mapping[str, Any]], annotations: Iterable[Mapping[str, Any]]) -> int | None:
    """The place of a category that has no annotations and is the supercategory of all others; Roboflow adds one."""
    if len(categories) < 2:
        return None
    for place, category in enumerate(categories):
        others = [*categories[:place], *categories[place + 1 :]]
        if all(other.get("supercategory") == category.get("name") for other in others):
            unused = all(annotation.get("category_id") != category.get("id") for annotation in annotations)
            return place if unused else None
    return None


def _load_json(path: epath.Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(
            f"There is no annotation file {path}; check data.root and the annotation files beside it."
        ) from None
    except OSError as error:
        raise UserError(f"Annotation file {path} cannot be read ({error.strerror or error}).") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"Annotation file {path} is not valid JSON, or not all of it is there ({error}).") from None
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise UserError(
            f"{path} is not in COCO's form: a JSON object with images, annotations and categories, not a {kind}."
        )
    return content


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(_is_finite(number) for number in value)


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 2**63
