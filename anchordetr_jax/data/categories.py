"""The classes of a data set, and the class outputs of a model that stand for them."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

LabelScheme = Literal["raw", "contiguous"]


@dataclasses.dataclass(frozen=True)
class Categories:
    """The classes of a data set, and the class output (label) of the model that each class has.

    With the scheme `raw` a label is the category's id itself, so some outputs can be unused. With `contiguous` the
    labels are 0, 1, 2, … in the order of the ids.
    """

    ids: tuple[int, ...]
    """Ascending."""
    names: tuple[str, ...]
    scheme: LabelScheme = "contiguous"

    @property
    def num_labels(self) -> int:
        """The number of class outputs that a model needs."""
        return max(self.ids) + 1 if self.scheme == "raw" else len(self.ids)

    def label_of(self, category_id: int) -> int:
        """Raises `KeyError` for an id that no category has."""
        if category_id not in self.ids:
            raise KeyError(category_id)
        return category_id if self.scheme == "raw" else self.ids.index(category_id)

    def category_of(self, label: int) -> int | None:
        """The category id of a class output; None for an output that no category uses."""
        if self.scheme == "raw":
            return label if label in self.ids else None
        return self.ids[label] if 0 <= label < len(self.ids) else None

    def name_of(self, label: int) -> str:
        """The category's name, or `unused N` for an output that no category uses."""
        category_id = self.category_of(label)
        return f"unused {label}" if category_id is None else self.names[self.ids.index(category_id)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON and for `from_dict`."""
        return {"ids": list(self.ids), "names": list(self.names), "scheme": self.scheme}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Categories":
        return cls(ids=tuple(values["ids"]), names=tuple(values["names"]), scheme=values["scheme"])
