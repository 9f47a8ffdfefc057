"""Reads the records of a prepared TFDS data set by index, without TensorFlow."""

import os
import re
import threading
from typing import Any

from etils import epath

from anchordetr_jax.errors import UserError
from anchordetr_jax.files import stored_path

INFO_FILE = "dataset_info.json"
PREPARE = "tfds build {name} --data_dir={root} --file_format=array_record"
CONVERT = "tfds convert_format --dataset_version_dir={directory} --out_file_format=array_record"


def find_prepared(root: str, name: str) -> epath.Path:
    """The folder that holds a prepared data set's files.

    Args:
        root: TFDS's data folder, which is searched for `name`, or the folder of one prepared data set. The default is
            TFDS's own: `$TFDS_DATA_DIR`, or `~/tensorflow_datasets`.
        name: TFDS's name of the data set, e.g. `coco/2017` or `coco/2017:1.1.0`. The default is the latest version.

    Raises:
        UserError: there is no such data set. The sentence says what there is instead, or how to prepare it.
    """
    data_dir = stored_path(root or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    folder = data_dir / name.replace(":", "/")
    for directory in (data_dir, folder):
        if (directory / INFO_FILE).exists():
            return directory
    inside = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    versions = {_version(path.name): path for path in inside if (path / INFO_FILE).exists()}
    if versions:
        return versions[max(versions)]
    configs = sorted(f"{name}/{path.name}" for path in inside if any(path.glob(f"*/{INFO_FILE}")))
    if configs:
        raise UserError(f"TFDS data set {name} has configurations; set data.tfds_name to one of {', '.join(configs)}.")
    raise UserError(
        f"There is no prepared TFDS data set {name} in {data_dir}; set data.root and data.tfds_name, or prepare it "
        f"with '{PREPARE.format(name=name, root=data_dir)}', for which TFDS needs TensorFlow."
    )


class StoredRecords:
    """The records of one split as dicts of features. The image is the bytes of its file. Many threads can read them.

    Args:
        directory: of the prepared data set; see `find_prepared`.
        split: in TFDS's language, for example `validation[:100]`.

    Raises `UserError` when the data set cannot be read by index, has no such split, or has no boxes and labels.
    """

    def __init__(self, directory: epath.PathLike, split: str):
        self.directory, self.split = epath.Path(directory), split
        self._lock = threading.Lock()
        builder = self._builder()
        self._source: Any = self._open(builder)
        self._check_features(builder.info.features)
        self.label_names: tuple[str, ...] = tuple(builder.info.features["objects"]["label"].names)
        """By label. Labels without names have their digits as names."""

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.directory} (split {self.split})"

    def __len__(self) -> int:
        return len(self._opened())

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises `UserError` when the record cannot be read."""
        try:
            return self._opened()[index]
        except Exception as error:  # Many kinds: files are missing or cut, records are damaged.
            raise UserError(f"Record {index} of {self.name} cannot be read ({_first_line(error)}).") from None

    def __getstate__(self) -> dict[str, Any]:
        # Readers are not sent to worker processes with a data set.
        return {"directory": self.directory, "split": self.split, "label_names": self.label_names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock, self._source = threading.Lock(), None

    def _opened(self) -> Any:
        if self._source is None:
            with self._lock:
                if self._source is None:
                    self._source = self._open(self._builder())
        return self._source

    def _builder(self) -> Any:
        import tensorflow_datasets as tfds  # This import takes a second or more.

        try:
            return tfds.builder_from_directory(self.directory)
        except Exception as error:  # Damaged JSON files raise many kinds of exceptions.
            raise UserError(
                f"{self.directory} holds no TFDS data set that can be read ({_first_line(error)})."
            ) from None

    def _open(self, builder: Any) -> Any:
        import tensorflow_datasets as tfds

        splits = ", ".join(builder.info.splits)
        if not splits:
            raise UserError(f"TFDS data set {self.directory} is not completely prepared; prepare it again.")
        try:
            return builder.as_data_source(self.split, decoders={"image": tfds.decode.SkipDecoding()})
        except NotImplementedError:
            form, command = builder.info.file_format.value, CONVERT.format(directory=self.directory)
            raise UserError(
                f"TFDS data set {self.directory} is prepared as {form}, which cannot be read by index; prepare it with "
                f"--file_format=array_record, or convert it with '{command}', for which TFDS needs TensorFlow."
            ) from None
        except Exception as error:  # ValueError and other kinds.
            reason = _first_line(error)
            if reason.startswith("Unknown split"):
                raise UserError(
                    f"TFDS data set {self.directory} has no split '{self.split}' but {splits}; "
                    f"set data.tfds_train, data.tfds_val or data.tfds_test."
                ) from None
            raise UserError(f"{self.name} cannot be read ({reason}).") from None

    def _check_features(self, features: Any) -> None:
        import tensorflow_datasets as tfds

        try:
            image, box, label = features["image"], features["objects"]["bbox"], features["objects"]["label"]
        except (KeyError, TypeError, AttributeError):
            listed = ", ".join(features) if isinstance(features, tfds.features.FeaturesDict) else "none by name"
            raise UserError(
                f"TFDS data set {self.directory} is not one of object detection: that needs 'image' and 'objects' with "
                f"'bbox' and 'label', and its features are {listed}."
            ) from None
        relative = getattr(box, "bbox_format", None) in (None, tfds.features.bounding_boxes_utils.BBoxFormat.REL_YXYX)
        kinds = (
            ("image", isinstance(image, tfds.features.Image), "an image"),
            ("bbox", isinstance(box, tfds.features.BBoxFeature) and relative, "a box in relative (y, x, y, x)"),
            ("label", isinstance(label, tfds.features.ClassLabel), "a class label"),
        )
        for key, is_right, expected in kinds:
            if not is_right:
                raise UserError(f"In TFDS data set {self.directory} the feature '{key}' is not {expected}.")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
