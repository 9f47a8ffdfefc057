"""A COCO folder as TFDS's own `coco` builder would prepare it, without TensorFlow."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds


def object_features(num_classes: int) -> dict[str, Any]:
    """What TFDS's `coco/2017` knows of an object."""
    return {
        "id": np.int64,
        "area": np.int64,
        "bbox": tfds.features.BBoxFeature(),
        "label": tfds.features.ClassLabel(num_classes=num_classes),
        "is_crowd": np.bool_,
    }


def prepare(
    data_dir: Path,
    images_of_splits: Mapping[str, Path],
    annotations_of_splits: Mapping[str, Path],
    *,
    features: Mapping[str, Any] | None = None,
    named: bool = True,
) -> Path:
    """Prepares the data set `photos/2017` in a TFDS data folder, and returns the folder of its version.

    Args:
        data_dir: TFDS's data folder.
        images_of_splits: by split, the folder of images.
        annotations_of_splits: by split, COCO's annotation file.
        features: those to be kept, if not all of TFDS's `coco/2017`; `objects` without `Sequence`.
        named: whether the labels have names.
    """
    contents = {split: json.loads(file.read_text()) for split, file in annotations_of_splits.items()}
    categories = sorted(next(iter(contents.values()))["categories"], key=lambda category: category["id"])
    wanted: dict[str, Any] = dict(
        features
        or {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "image/filename": tfds.features.Text(),
            "image/id": np.int64,
            "objects": object_features(len(categories)),
        }
    )
    labels = [category["id"] for category in categories]

    class Photos(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        """Photos."""

        VERSION = tfds.core.Version("1.1.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="2017")]  # noqa: RUF012

        def _info(self) -> Any:
            kinds = {
                key: tfds.features.Sequence(value) if isinstance(value, dict) else value
                for key, value in wanted.items()
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(kinds))

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Any]]:
            if named and "label" in wanted.get("objects", {}):
                self.info.features["objects"]["label"].names = [category["name"] for category in categories]
            return {split: self._generate_examples(split) for split in contents}

        def _generate_examples(self, split: str) -> Iterator[Any]:
            annotations: dict[int, list[dict[str, Any]]] = defaultdict(list)
            for annotation in contents[split]["annotations"]:
                annotations[annotation["image_id"]].append(annotation)
            for image in contents[split]["images"]:
                example = {
                    "image": str(images_of_splits[split] / image["file_name"]),
                    "image/filename": image["file_name"],
                    "image/id": image["id"],
                    "objects": [self._object(image, annotation) for annotation in annotations[image["id"]]],
                }
                yield image["file_name"], {key: example[key] for key in wanted}

        def _object(self, image: Mapping[str, Any], annotation: Mapping[str, Any]) -> dict[str, Any]:
            x, y, w, h = annotation["bbox"]
            height, width = image["height"], image["width"]
            everything = {
                "id": annotation["id"],
                "area": annotation["area"],
                "bbox": tfds.features.BBox(
                    ymin=y / height, xmin=x / width, ymax=(y + h) / height, xmax=(x + w) / width
                ),
                "label": labels.index(annotation["category_id"]),
                "is_crowd": bool(annotation["iscrowd"]),
            }
            return {key: everything[key] for key in wanted.get("objects", ())}

    tfds.disable_progress_bar()
    builder = Photos(data_dir=str(data_dir), config="2017", file_format="array_record")
    builder.download_and_prepare()
    return Path(builder.data_dir)
