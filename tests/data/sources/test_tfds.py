import dataclasses
import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow_datasets
from hypothesis import given

from anchordetr_jax.config import AugmentConfig, Config, DataConfig
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.data.loader import eval_batches
from anchordetr_jax.data.shapes import write_shapes_dataset
from anchordetr_jax.data.source import Split
from anchordetr_jax.data.sources import tfds, tfds_index
from anchordetr_jax.data.sources.annotated import AnnotatedImages
from anchordetr_jax.data.sources.coco_categories import COCO_NAMES
from anchordetr_jax.data.sources.opening import open_for_evaluation, open_source
from anchordetr_jax.data.sources.tfds import TfdsDataset, match_categories
from anchordetr_jax.data.sources.tfds_index import TfdsIndex, pixel_areas, pixel_boxes
from anchordetr_jax.data.sources.tfds_records import StoredRecords, find_prepared
from anchordetr_jax.errors import UserError
from anchordetr_jax.evaluation.coco_metrics import coco_scores
from tests.data.coco_folder import open_coco
from tests.data.sources.prepared import object_features, prepare

DAMAGED, NO_IMAGE = 2, 5  # rows


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO folder of shapes: with an empty image, a crowd region and a box without area."""
    root = tmp_path_factory.mktemp("shapes")
    write_shapes_dataset(root, train_images=2, val_images=12)
    return root


@pytest.fixture(scope="module")
def prepared(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TFDS's data folder with the same images prepared as `photos/2017`."""
    data_dir = tmp_path_factory.mktemp("tensorflow_datasets")
    prepare(
        data_dir,
        {"train": shapes / "train2017", "validation": shapes / "val2017"},
        {
            "train": shapes / "annotations" / "instances_train2017.json",
            "validation": shapes / "annotations" / "instances_val2017.json",
        },
    )
    return data_dir


@pytest.fixture(scope="module")
def coco(shapes: Path) -> AnnotatedImages:
    return open_coco(shapes / "val2017", shapes / "annotations" / "instances_val2017.json")


@pytest.fixture(scope="module")
def same(prepared: Path, coco: AnnotatedImages) -> TfdsDataset:
    """The same images from TFDS."""
    return TfdsDataset(find_prepared(str(prepared), "photos/2017"), "validation", categories=coco.categories)


def content_of(coco: AnnotatedImages) -> dict[str, Any]:
    content = coco.ground_truth()
    assert content is not None
    return content


def test_rows_sizes_and_names_are_those_of_the_coco_folder(coco: AnnotatedImages, same: TfdsDataset) -> None:
    assert same.image_ids == coco.image_ids
    assert same.sizes.tolist() == coco.sizes.tolist()
    assert same.sizes.dtype == coco.sizes.dtype
    assert [Path(same.describe(row)).name for row in range(len(same))] == [
        Path(coco.describe(row)).name for row in range(len(coco))
    ]


def test_boxes_and_labels_are_those_of_the_coco_folder_to_the_bit(coco: AnnotatedImages, same: TfdsDataset) -> None:
    assert same.box_counts.tolist() == coco.box_counts.tolist()
    assert sum(coco.box_counts) > 12
    for row in range(len(coco)):
        assert np.array_equal(same.boxes(row), coco.boxes(row))
        assert np.array_equal(same.labels(row), coco.labels(row))
        assert same.boxes(row).dtype == np.float32
        assert same.labels(row).dtype == np.int32


def test_pixels_are_those_of_the_coco_folder(coco: AnnotatedImages, same: TfdsDataset) -> None:
    assert all(np.array_equal(same.open_image(row), coco.open_image(row)) for row in range(len(coco)))


def test_evaluation_batches_are_those_of_the_coco_folder(coco: AnnotatedImages, same: TfdsDataset) -> None:
    config = Config(data=DataConfig(num_buckets=2), augment=AugmentConfig(eval_size=64))
    both = zip(eval_batches(coco, config), eval_batches(same, config), strict=True)
    assert all(np.array_equal(a, b) for pair in both for a, b in zip(*pair, strict=True))


def test_the_ground_truth_is_that_of_the_annotation_file(coco: AnnotatedImages, same: TfdsDataset) -> None:
    truth, file = same.ground_truth(), content_of(coco)
    assert truth is not None
    keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
    by_id = {annotation["id"]: {key: annotation[key] for key in keys} for annotation in file["annotations"]}
    assert {annotation["id"]: annotation for annotation in truth["annotations"]} == by_id
    assert any(annotation["iscrowd"] for annotation in truth["annotations"])
    assert json.loads(json.dumps(truth)) == truth
    image_keys = ("id", "file_name", "height", "width")
    assert truth["images"] == sorted(
        ({key: image[key] for key in image_keys} for image in file["images"]), key=lambda image: image["id"]
    )


def near_misses(annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Detections that overlap the truth by about what COCO's thresholds ask for."""
    rng = np.random.default_rng(0)
    return [
        {
            "image_id": annotation["image_id"],
            "category_id": annotation["category_id"],
            "bbox": [x, y, w * share, h],
            "score": float(rng.random()),
        }
        for annotation in annotations
        for x, y, w, h in [annotation["bbox"]]
        for share in (rng.choice([0.5, 0.6, 0.75, 0.85, 0.95]),)
    ]


def test_scores_are_those_of_the_annotation_file_to_the_bit(coco: AnnotatedImages, same: TfdsDataset) -> None:
    results = near_misses(content_of(coco)["annotations"])
    truth = same.ground_truth()
    assert truth is not None
    expected, found = coco_scores(content_of(coco), results), coco_scores(truth, results)
    assert found.metrics == expected.metrics
    assert found.per_class == expected.per_class
    assert 0.1 < found.metrics["AP"] < 0.9


def test_the_settings_lead_to_the_split(prepared: Path, coco: AnnotatedImages) -> None:
    config = DataConfig(source="tfds", root=str(prepared), tfds_name="photos/2017")
    sources = [open_source(config, split, coco.categories) for split in ("train", "val")]  # type: ignore[arg-type]
    assert [len(source) for source in sources] == [2, 12]
    assert sources[1].image_ids == coco.image_ids


def test_a_part_of_a_split_can_be_asked_for(prepared: Path, same: TfdsDataset) -> None:
    part = TfdsDataset(find_prepared(str(prepared), "photos/2017"), "validation[:3]")
    assert len(part) == 3
    assert set(part.image_ids) < set(same.image_ids)


def test_it_can_be_sent_to_worker_processes(same: TfdsDataset) -> None:
    sent = pickle.loads(pickle.dumps(same))
    assert np.array_equal(sent.open_image(3), same.open_image(3))
    assert sent.boxes(0).tolist() == same.boxes(0).tolist()


@pytest.mark.processes
def test_reading_needs_no_tensorflow_and_others_do_not_wait_for_tfds(
    prepared: Path, script_environment: dict[str, str]
) -> None:
    program = (
        "import sys\n"
        "from anchordetr_jax.config import AugmentConfig, Config, DataConfig\n"
        "from anchordetr_jax.data.sources.opening import open_source\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
        f"config = DataConfig(source='tfds', root={str(prepared)!r}, tfds_name='photos/2017')\n"
        "print(open_source(config, 'val').open_image(0).dtype)\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], env=script_environment, capture_output=True, text=True)
    assert done.stdout == "uint8\n", done.stderr


# Category ids ---------------------------------------------------------------------------------------------------------


def test_names_of_coco_have_cocos_ids() -> None:
    names = tuple(COCO_NAMES.values())
    categories, ids = match_categories(names, "contiguous", None)
    assert ids == tuple(COCO_NAMES)
    assert [categories.label_of(number) for number in ids] == list(range(80))
    assert match_categories(("dog", "cat"), "raw", None) == (Categories((17, 18), ("cat", "dog"), "raw"), (18, 17))


def test_other_names_are_numbered_from_one() -> None:
    assert match_categories(("zebra", "gnu"), "contiguous", None) == (Categories((1, 2), ("zebra", "gnu")), (1, 2))


def test_a_detectors_categories_are_taken_by_name() -> None:
    known = Categories((3, 7, 9), ("circle", "square", "star"), "raw")
    assert match_categories(("star", "circle"), "contiguous", known) == (known, (9, 3))


def test_labels_without_names_are_a_detectors_categories_in_their_order() -> None:
    known = Categories((3, 7), ("circle", "square"))
    assert match_categories(("0", "1"), "contiguous", known) == (known, (3, 7))
    assert match_categories(("0", "1"), "contiguous", None)[1] == (1, 2)


def test_a_detector_of_other_classes_changes_nothing() -> None:
    known = Categories((3, 7), ("circle", "square"))
    assert match_categories(("circle", "gnu"), "contiguous", known)[0].names == ("circle", "gnu")


# Boxes and areas ------------------------------------------------------------------------------------------------------


def relative(xywh: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """As TFDS's `coco` keeps boxes."""
    x, y, w, h = xywh.T
    height, width = sizes.T
    return np.stack([y / height, x / width, (y + h) / height, (x + w) / width], axis=1).astype(np.float32)


@given(st.integers(1, 20_000), st.integers(1, 20_000), st.integers(0, 2**32 - 1))
def test_numbers_of_two_decimals_are_found_again_exactly(height: int, width: int, seed: int) -> None:
    corners = np.random.default_rng(seed).integers(0, [100 * width + 1, 100 * height + 1], (50, 2, 2))
    low, high = corners.min(axis=1), corners.max(axis=1)
    xywh = np.concatenate([low, high - low], axis=1) / 100
    sizes = np.tile([height, width], (50, 1))
    assert np.array_equal(pixel_boxes(relative(xywh, sizes), sizes), xywh)


@given(st.integers(1, 2_000), st.integers(1, 2_000), st.integers(0, 2**32 - 1))
def test_other_numbers_are_found_again_as_closely_as_float32_knows_them(height: int, width: int, seed: int) -> None:
    corners = np.sort(np.random.default_rng(seed).uniform(0, [width, height], (50, 2, 2)), axis=1)
    xywh = np.concatenate([corners[:, 0], corners[:, 1] - corners[:, 0]], axis=1)
    sizes = np.tile([height, width], (50, 1))
    assert np.abs(pixel_boxes(relative(xywh, sizes), sizes) - xywh).max() <= 2.0**-22 * max(height, width)


@pytest.mark.parametrize(
    ("kept", "box", "area"),
    [
        pytest.param(1024, [3.25, 4, 32.02, 32], 1024.64, id="the box's own area"),
        pytest.param(1024, [3, 4, 40, 60], 1024.0, id="pixels counted in a box of whole pixels"),
        pytest.param(1024, [3.25, 4, 40.5, 60], 1024.5, id="a polygon's area, its fraction cut off"),
        pytest.param(1024.3, [3.25, 4, 40.5, 60], 1024.3, id="an area kept whole"),
    ],
)
def test_areas_fall_on_the_side_of_a_size_limit_where_coco_has_them(kept: float, box: list[float], area: float) -> None:
    assert pixel_areas(np.array([kept]), np.array([box])) == pytest.approx([area], rel=1e-12)


def test_areas_that_are_not_known_are_the_boxes() -> None:
    assert pixel_areas(np.zeros(0), np.array([[1.0, 2.0, 3.0, 4.0]])).tolist() == [12.0]


# Other data sets ------------------------------------------------------------------------------------------------------


def prepare_val(shapes: Path, data_dir: Path, **options: Any) -> Path:
    annotations = {"validation": shapes / "annotations" / "instances_val2017.json"}
    return prepare(data_dir, {"validation": shapes / "val2017"}, annotations, **options)


def test_a_data_set_of_boxes_and_labels_alone_is_enough(shapes: Path, tmp_path: Path, coco: AnnotatedImages) -> None:
    objects = object_features(len(coco.categories.ids))
    features = {
        "image": tensorflow_datasets.features.Image(encoding_format="jpeg"),
        "image/filename": tensorflow_datasets.features.Text(),
        "objects": {key: objects[key] for key in ("bbox", "label")},
    }
    dataset = TfdsDataset(prepare_val(shapes, tmp_path, features=features, named=False), "validation")
    assert dataset.image_ids == tuple(range(1, 13))
    assert dataset.sizes.tolist() == coco.sizes.tolist()  # shapes' files are named by their ids
    truth = dataset.ground_truth()
    assert truth is not None
    assert [annotation["id"] for annotation in truth["annotations"]] == list(range(1, len(truth["annotations"]) + 1))
    assert all(annotation["area"] == np.prod(annotation["bbox"][2:]) for annotation in truth["annotations"])


def test_test_images_without_annotations_have_no_ground_truth(shapes: Path, tmp_path: Path) -> None:
    content = json.loads((shapes / "annotations" / "instances_val2017.json").read_text())
    file = tmp_path / "test.json"
    file.write_text(json.dumps({**content, "annotations": []}))
    directory = prepare(tmp_path / "data", {"test": shapes / "val2017"}, {"test": file})
    dataset = TfdsDataset(directory, "test")
    assert dataset.ground_truth() is None
    assert dataset.box_counts.tolist() == [0] * 12


@pytest.mark.parametrize(("use", "severity"), [("train", "Warning"), ("val", "Error")])
def test_images_that_cannot_be_read_are_counted(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, use: Split, severity: str
) -> None:
    def forged(records: StoredRecords) -> TfdsIndex:
        index = tfds_index.load_index(records)
        return dataclasses.replace(index, sizes=np.where(np.arange(len(index.sizes))[:, None] < 2, 0, index.sizes))

    monkeypatch.setattr(tfds, "load_index", forged)
    dataset = TfdsDataset(find_prepared(str(prepared), "photos/2017"), "validation", use)
    assert [line.split(",")[0] for line in dataset.remarks if "unreadable" in line] == [
        f"{severity}: unreadable file: 2"
    ]


def test_damaged_images_keep_their_rows_and_are_named_when_read(
    shapes: Path, tmp_path: Path, coco: AnnotatedImages
) -> None:
    images = tmp_path / "images"
    shutil.copytree(shapes / "val2017", images)
    for row, content in ((DAMAGED, lambda data: data[: len(data) // 2]), (NO_IMAGE, lambda data: b"<html>")):
        file = images / coco.file_path(row).name
        file.write_bytes(content(file.read_bytes()))
    annotations = {"validation": shapes / "annotations" / "instances_val2017.json"}
    dataset = TfdsDataset(prepare(tmp_path, {"validation": images}, annotations), "validation")
    assert dataset.image_ids == coco.image_ids
    assert dataset.box_counts.sum() == coco.box_counts.sum()
    for row in (DAMAGED, NO_IMAGE):
        with pytest.raises(UserError, match=rf"validation/{coco.file_path(row).name} is (damaged|not an image)"):
            dataset.open_image(row)
    assert dataset.open_image(3).shape == (*coco.sizes[3], 3)


# Mistakes -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(prepared: Path, tmp_path: Path) -> Path:
    """The folder of a prepared data set's version, to be spoilt."""
    shutil.copytree(prepared / "photos", tmp_path / "photos")
    return tmp_path / "photos" / "2017" / "1.1.0"


def edit(file: Path, *keys: str, value: Any) -> None:
    content = json.loads(file.read_text())
    target = content
    for key in keys[:-1]:
        target = target[key]
    target[keys[-1]] = value
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_fraction_that_has_no_effect_is_refused(prepared: Path, split: Split) -> None:
    config = DataConfig(source="tfds", root=str(prepared), val_fraction=0.1)
    with pytest.raises(UserError, match=r"val_fraction has no effect.*tfds_train='train\[:90%\]' and data\.tfds_val="):
        open_source(config, split)


def test_a_detector_whose_run_held_files_out_is_evaluated_on_tfds(prepared: Path) -> None:
    config = DataConfig(source="tfds", root=str(prepared), tfds_name="photos/2017", val_fraction=0.1)
    found = open_for_evaluation(config, "val", trained=DataConfig(val_fraction=0.1))
    assert len(found) == len(open_source(dataclasses.replace(config, val_fraction=0.0), "val"))


def test_a_data_set_that_is_not_there_is_answered_with_the_command_that_prepares_it(prepared: Path) -> None:
    with pytest.raises(
        UserError, match=r"no prepared TFDS data set coco/2017 in .*'tfds build coco/2017 .*array_record"
    ):
        open_source(DataConfig(source="tfds", root=str(prepared)), "val")


def test_a_configuration_left_out_is_answered_with_those_there_are(prepared: Path) -> None:
    with pytest.raises(UserError, match=r"set data\.tfds_name to one of photos/2017\."):
        find_prepared(str(prepared), "photos")


def test_the_latest_version_is_taken_unless_one_is_named(copy: Path) -> None:
    for version in ("1.9.0", "1.10.0", "incomplete.X_2.0.0"):
        shutil.copytree(copy, copy.parent / version)
    (copy.parent / "incomplete.X_2.0.0" / "dataset_info.json").unlink()
    root = str(copy.parents[2])
    assert find_prepared(root, "photos/2017").name == "1.10.0"
    assert find_prepared(root, "photos/2017:1.9.0").name == "1.9.0"
    assert find_prepared(str(copy), "photos/2017").name == "1.1.0"


def test_tfds_own_data_folder_is_the_default(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    assert find_prepared("", "photos/2017").parents[2] == prepared


def test_a_missing_split_is_answered_with_those_there_are(copy: Path) -> None:
    with pytest.raises(UserError, match=r"1\.1\.0 has no split 'val' but train, validation; set data\.tfds_train"):
        TfdsDataset(copy, "val")


@pytest.mark.parametrize("split", ["train[:zz]", "train[:0]"])
def test_a_part_of_a_split_that_makes_no_sense_is_named(copy: Path, split: str) -> None:
    with pytest.raises(UserError, match=rf"\(split {re.escape(split)}\) cannot be read"):
        TfdsDataset(copy, split)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("labels", r"\.jpg \(.*: the category .label 10\d+. is not listed"),
        ("boxes", r"\.jpg \(.*: bbox is \[NaN, .*\], not four numbers"),
        ("image_ids", r"image 1000006 is also \S+6\.jpg"),
        ("sizes", "None of the 12 images"),
    ],
)
def test_records_that_contradict_themselves_are_named(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, field: str, message: str
) -> None:
    def forged(records: StoredRecords) -> TfdsIndex:
        index = tfds_index.load_index(records)
        changed = {
            "labels": index.labels + 100,
            "boxes": index.boxes * np.nan,
            "image_ids": index.image_ids // 2 * 2,
            "sizes": index.sizes * 0,
        }
        return dataclasses.replace(index, **{field: changed[field]})

    monkeypatch.setattr(tfds, "load_index", forged)
    with pytest.raises(UserError, match=message):
        TfdsDataset(find_prepared(str(prepared), "photos/2017"), "validation")


def test_a_format_that_cannot_be_read_by_index_is_answered_with_the_one_that_can(copy: Path) -> None:
    edit(copy / "dataset_info.json", "fileFormat", value="tfrecord")
    with pytest.raises(
        UserError, match=r"prepared as tfrecord, .*--file_format=array_record, or convert it with 'tfds"
    ):
        TfdsDataset(copy, "validation")


def test_a_damaged_description_is_named(copy: Path) -> None:
    (copy / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match=r"1\.1\.0 holds no TFDS data set that can be read"):
        TfdsDataset(copy, "validation")


@pytest.mark.parametrize("spoil", ["unlink", "cut"])
def test_files_that_are_not_all_there_are_named(copy: Path, spoil: str) -> None:
    (file,) = copy.glob("*validation*")
    if spoil == "unlink":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"^Record 0 of .*1\.1\.0 \(split validation\) cannot be read"):
        TfdsDataset(copy, "validation")


def test_a_data_set_without_objects_is_answered_with_the_features_it_has(shapes: Path, tmp_path: Path) -> None:
    features = {"image": tensorflow_datasets.features.Image(encoding_format="jpeg"), "image/id": np.int64}
    with pytest.raises(
        UserError, match=r"not one of object detection: .* features are (image, image/id|image/id, image)\."
    ):
        TfdsDataset(prepare_val(shapes, tmp_path, features=features), "validation")


def test_boxes_of_another_kind_are_refused(copy: Path) -> None:
    box = ("featuresDict", "features", "objects", "sequence", "feature", "featuresDict", "features", "bbox")
    edit(copy / "features.json", *box, "boundingBox", "bboxFormat", value="XYWH")
    with pytest.raises(UserError, match=r"the feature 'bbox' is not a box in relative"):
        TfdsDataset(copy, "validation")


# The kept index -------------------------------------------------------------------------------------------------------


@pytest.fixture
def gathered(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How often an index was gathered, when each is worth keeping."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tfds_index, "KEPT_FROM_SECONDS", 0.0)
    calls: list[str] = []
    gather = tfds_index.gather_index

    def counted(records: StoredRecords) -> TfdsIndex:
        calls.append(records.split)
        return gather(records)

    monkeypatch.setattr(tfds_index, "gather_index", counted)
    return calls


def test_an_index_that_took_long_is_kept(copy: Path, gathered: list[str]) -> None:
    first, second = TfdsDataset(copy, "validation"), TfdsDataset(copy, "validation")
    assert gathered == ["validation"]
    assert second.ground_truth() == first.ground_truth()
    assert second.describe(0) == first.describe(0)
    assert np.array_equal(second.sizes, first.sizes)
    TfdsDataset(copy, "train")
    assert gathered == ["validation", "train"]


def test_a_kept_index_is_not_taken_for_changed_files(copy: Path, gathered: list[str]) -> None:
    TfdsDataset(copy, "validation")
    with (copy / "dataset_info.json").open("a") as file:
        file.write("\n")
    TfdsDataset(copy, "validation")
    assert len(gathered) == 2


def test_a_damaged_kept_index_is_gathered_anew(copy: Path, gathered: list[str], tmp_path: Path) -> None:
    TfdsDataset(copy, "validation")
    (file,) = (tmp_path / "cache").rglob("*.npz")
    file.write_bytes(file.read_bytes()[:100])
    TfdsDataset(copy, "validation")
    assert len(gathered) == 2


def test_a_short_pass_leaves_no_file(
    copy: Path, gathered: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tfds_index, "KEPT_FROM_SECONDS", 60.0)
    TfdsDataset(copy, "validation")
    assert not list((tmp_path / "cache").rglob("*.npz"))
