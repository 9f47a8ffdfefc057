import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anchordetr_jax.config import Config, DataConfig
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.data.image_sizes import read_header
from anchordetr_jax.data.loader import eval_batches
from anchordetr_jax.data.sources.annotated import AnnotatedImages
from anchordetr_jax.data.sources.coco_categories import coco_categories
from anchordetr_jax.data.sources.folder import ImageFolder
from anchordetr_jax.data.sources.opening import open_source
from anchordetr_jax.errors import UserError

CATEGORIES = Categories((3, 7), ("circle", "square"))
ORIENTATION = 0x0112


def save(path: Path, height: int, width: int, orientation: int = 1) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path, exif=exif)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, an unrelated file, a hidden one, a folder, and one with the name of an image."""
    images = tmp_path / "images"
    (images / "more").mkdir(parents=True)
    (images / "album.jpg").mkdir()
    save(images / "b.JPG", 10, 20)
    save(images / "a.png", 30, 40)
    save(images / "c.webp", 10, 20)
    save(images / "more" / "d.png", 5, 5)
    (images / "._a.png").write_bytes(b"of macOS")
    (images / "notes.txt").write_text("no image")
    return images


def test_images_are_numbered_in_the_order_of_their_names(folder: Path) -> None:
    source = ImageFolder(folder, CATEGORIES)
    assert [source.file_path(row).name for row in range(len(source))] == ["a.png", "b.JPG", "c.webp"]
    assert source.image_ids == (1, 2, 3)
    assert source.sizes.tolist() == [[30, 40], [10, 20], [10, 20]]
    assert source.sizes.dtype == np.int32


def test_numbers_as_file_names_are_the_ids(tmp_path: Path) -> None:
    for name in ("000000000139.jpg", "99.jpg", "000000000285.png"):
        save(tmp_path / name, 8, 8)
    source = ImageFolder(tmp_path, CATEGORIES)
    assert source.image_ids == (99, 139, 285)
    assert source.file_path(0).name == "99.jpg"


@pytest.mark.parametrize("names", [("1.jpg", "x.jpg"), ("1.jpg", "01.jpg"), ("1.jpg", "1.png")])
def test_numbers_that_cannot_be_ids_are_names_like_others(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        save(tmp_path / name, 8, 8)
    assert ImageFolder(tmp_path, CATEGORIES).image_ids == (1, 2)


def test_it_has_the_detectors_classes_and_no_boxes(folder: Path) -> None:
    source = ImageFolder(folder, CATEGORIES)
    assert source.categories is CATEGORIES
    assert source.box_counts.tolist() == [0, 0, 0]
    assert (source.boxes(1).shape, source.labels(1).shape) == ((0, 4), (0,))
    assert source.ground_truth() is None


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_are_those_of_the_images_as_they_are_turned(tmp_path: Path, suffix: str, orientation: int) -> None:
    save(tmp_path / f"x.{suffix}", 12, 20, orientation)
    source = ImageFolder(tmp_path, CATEGORIES)
    assert source.sizes.tolist() == [[12, 20] if orientation < 5 else [20, 12]]
    assert source.open_image(0).shape == (*source.sizes[0], 3)


def exif_after_the_pixels(png: bytes) -> bytes:
    """The file with its eXIf chunk moved to the end."""
    start = png.index(b"eXIf") - 4
    stop = start + int.from_bytes(png[start : start + 4]) + 12
    end = png.index(b"IEND") - 4
    return png[:start] + png[stop:end] + png[start:stop] + png[end:]


def test_a_png_may_tell_its_orientation_after_its_pixels(tmp_path: Path) -> None:
    save(tmp_path / "x.png", 12, 20, 6)
    (tmp_path / "x.png").write_bytes(exif_after_the_pixels((tmp_path / "x.png").read_bytes()))
    source = ImageFolder(tmp_path, CATEGORIES)
    assert source.sizes.tolist() == [[20, 12]]
    assert source.open_image(0).shape == (20, 12, 3)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_sizes_take_no_pixels(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 12)).save(buffer, form)

    def refuse(*_: object) -> None:
        raise AssertionError("pixels were decoded")

    for kind in (type(Image.open(buffer)), Image.Image):
        monkeypatch.setattr(kind, "load", refuse)
    header = read_header(buffer)
    assert header is not None
    assert header.shown == (12, 20)


def test_damaged_images_keep_their_rows_and_are_named_when_read(folder: Path) -> None:
    (folder / "a.png").write_bytes(b"<html>")
    (folder / "b.JPG").write_bytes((folder / "b.JPG").read_bytes()[:-300])
    source = ImageFolder(folder, CATEGORIES)
    assert source.sizes.tolist() == [[10, 20]] * 3
    for row, message in ((0, r"a\.png is not an image"), (1, r"b\.JPG is damaged")):
        with pytest.raises(UserError, match=message):
            source.open_image(row)


def test_a_file_that_changed_meanwhile_is_named(folder: Path) -> None:
    source = ImageFolder(folder, CATEGORIES)
    save(folder / "a.png", 31, 40)
    with pytest.raises(UserError, match=r"a\.png has changed"):
        source.open_image(0)


def test_it_can_be_sent_to_worker_processes(folder: Path) -> None:
    source = ImageFolder(folder, CATEGORIES)
    assert np.array_equal(pickle.loads(pickle.dumps(source)).open_image(2), source.open_image(2))


def test_it_makes_evaluation_batches(folder: Path) -> None:
    config = Config(data=DataConfig(source="folder", root=str(folder), num_buckets=2))
    rows = [batch.rows for batch in eval_batches(open_source(config.data, "test", CATEGORIES), config)]
    assert sorted(row for batch in rows for row in batch.tolist() if row >= 0) == [0, 1, 2]


def test_without_a_detectors_classes_it_has_cocos(folder: Path) -> None:
    config = DataConfig(source="folder", root=str(folder), labels="raw")
    assert open_source(config, "val").categories == coco_categories("raw")


def test_a_coco_folder_is_the_source_by_default(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (30, 40)).save(tmp_path / "images" / "a.png")
    categories = [{"id": 7, "name": "square"}]
    image = {"id": 4, "file_name": "a.png", "width": 30, "height": 40}
    (tmp_path / "info.json").write_text(f'{{"images": [{image}], "categories": {categories}}}'.replace("'", '"'))
    config = DataConfig(root=str(tmp_path), test_images="images", test_annotations="info.json")
    source = open_source(config, "test")
    assert isinstance(source, AnnotatedImages)
    assert source.image_ids == (4,)
    assert source.ground_truth() is None


@pytest.mark.parametrize(
    ("root", "message"),
    [("nowhere", r"no image folder .*/nowhere; set data\.root"), ("empty", r"/empty holds no image \(\.jpg")],
)
def test_a_folder_without_images_is_answered_with_the_setting(tmp_path: Path, root: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        open_source(DataConfig(source="folder", root=str(tmp_path / root)), "test")


def test_a_folder_of_nothing_but_damaged_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="None of the 1 images"):
        ImageFolder(tmp_path, CATEGORIES)


def test_a_folder_that_is_not_set_is_answered_with_the_setting() -> None:
    with pytest.raises(UserError, match=r"'data\.root' is empty; set it to a folder of images"):
        open_source(DataConfig(source="folder"), "test")


def test_a_plain_folder_is_nothing_to_train_on(folder: Path) -> None:
    with pytest.raises(UserError, match="no annotations to train on"):
        open_source(DataConfig(source="folder", root=str(folder)), "train")
