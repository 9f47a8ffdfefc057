"""Reads annotation files in COCO's form: JSON with the lists `images`, `annotations` and `categories`."""

import json
from typing import Any

from etils import epath

from anchordetr_jax.data.categories import Categories, LabelScheme
from anchordetr_jax.data.records.categories import clean_categories
from anchordetr_jax.data.records.findings import Findings
from anchordetr_jax.data.records.raw import RawSplit, Record
from anchordetr_jax.data.records.values import whole_number
from anchordetr_jax.errors import UserError


def read_coco(
    images_dir: epath.PathLike,
    annotations_file: epath.PathLike,
    *,
    annotated: bool = True,
    remarks: tuple[str, ...] = (),
) -> RawSplit:
    """The records of an annotation file, not checked yet.

    Args:
        images_dir: the folder of the images.
        annotations_file: the JSON file.
        annotated: whether the list `annotations` must be there. COCO's files of test images lack it.
        remarks: lines for the person.

    Raises `UserError` when the folder or the file is missing, or the file is not of COCO's form.
    """
    folder, file = epath.Path(images_dir), epath.Path(annotations_file)
    if not folder.is_dir():
        raise UserError(f"There is no image folder {folder}; check data.root and the image folders set beside it.")
    content = _load_json(file)
    images = _records(content, "images", file)
    annotations = _records(content, "annotations", file) if annotated or content.get("annotations") else None
    return RawSplit(
        name=str(file),
        folder=folder,
        images=images,
        annotations=annotations,
        categories=_records(content, "categories", file),
        remarks=remarks,
    )


def read_categories(annotations_file: epath.PathLike, labels: LabelScheme) -> Categories:
    """The classes of an annotation file. Raises `UserError` like `read_coco`, or for the first that is wrong."""
    file = epath.Path(annotations_file)
    content = _load_json(file)
    annotations = _records(content, "annotations", file) if content.get("annotations") else []
    findings = Findings(str(file))
    used = {whole_number(annotation.get("category_id")) for annotation in annotations}
    categories = clean_categories(_records(content, "categories", file), used, labels, findings)
    findings.stop_if_needed()
    return categories


def _records(content: dict[str, Any], key: str, file: epath.Path) -> list[Record]:
    if key not in content:
        raise UserError(f"{file} is not in COCO's form: it has no '{key}'.")
    records = content[key]
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise UserError(f"{file} is not in COCO's form: '{key}' is not a list of objects.")
    return records


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
