"""Opens an annotation file in COCO's form, without settings."""

from typing import Any

from etils import epath

from anchordetr_jax.data.records.findings import Findings
from anchordetr_jax.data.records.reading import read_records
from anchordetr_jax.data.source import Split
from anchordetr_jax.data.sources.annotated import AnnotatedImages
from anchordetr_jax.data.sources.coco import read_coco


def open_coco(
    images_dir: epath.PathLike,
    annotations_file: epath.PathLike,
    *,
    split: Split = "val",
    annotated: bool = True,
    **options: Any,
) -> AnnotatedImages:
    """A split of a data set; `options` are those of `read_records`."""
    raw = read_coco(images_dir, annotations_file, annotated=annotated)
    findings = Findings(raw.name)
    return AnnotatedImages(read_records(raw, split, findings, **options), findings)
