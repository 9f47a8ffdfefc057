"""Records of one split as a source gives them, before they are checked."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from etils import epath

from anchordetr_jax.data.records.findings import Finding

Record = Mapping[str, Any]

WHERE = "__where__"
"""The key of a record's file and line."""

BoxForm = Literal["pixels", "corners", "relative"]
"""What the numbers of a box were in the file.

- `pixels`: x, y, width, height in pixels, from the top left corner at 0. Some files hold other numbers: it is checked.
- `corners`: four numbers with names, which the source has made x, y, width, height in pixels.
- `relative`: centre x, centre y, width, height as shares of the image as it is shown.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RawSplit:
    """Records in the form of a COCO annotation file, with any values.

    A record may have a `WHERE`: the file and line that it comes from, for messages. Without it, messages name `name`.
    """

    name: str
    """For messages: the annotation file, or the folder."""
    folder: epath.Path
    """The folder to which the file names of images are relative."""
    images: Sequence[Record]
    """With `id`, `file_name`, `width` and `height`. Where `has_sizes` is False, the last two are not needed."""
    annotations: Sequence[Record] | None
    """With `id`, `image_id`, `category_id`, `bbox`, `area` and `iscrowd`. None for a split without annotations."""
    categories: Sequence[Record]
    """With `id`, `name` and `supercategory`."""
    box_form: BoxForm = "pixels"
    remarks: tuple[str, ...] = ()
    """Lines for the person, such as where the files were found."""
    findings: tuple[Finding, ...] = ()
    """What the source itself found to be wrong: lines and files that it cannot read."""
    has_sizes: bool = True
    """Whether the format has image sizes at all. Otherwise they come from the image files."""
