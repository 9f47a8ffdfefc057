"""The names of a detector's class outputs."""

import dataclasses
import operator
from collections.abc import Mapping, Sequence

from anchordetr_jax.data.categories import Categories
from anchordetr_jax.errors import UserError

Names = Mapping[int, str] | Sequence[str]
"""Class names by class output; or a list with one for each output, from output 0."""


def class_names(categories: Categories | None, names: Names | None, num_classes: int) -> dict[int, str]:
    """Names by class output, without the outputs that stand for no class.

    Raises `UserError` if `names` is a list of another length, or names an output that does not exist.
    """
    if names is not None:
        given = _by_output(names)
        if not isinstance(names, Mapping) and len(given) != num_classes:
            raise UserError(
                f"names is a list of {len(given)}, but the detector has {num_classes} class outputs, from 0 to "
                f"{num_classes - 1}: give {{output: name}}, such as names={{1: 'person', 3: 'car'}}. The outputs of "
                "official weights are category ids."
            )
        if beyond := [label for label in given if not 0 <= label < num_classes]:
            raise UserError(
                f"names has class output {beyond[0]}, but the {num_classes} outputs of the detector have the numbers 0 "
                f"to {num_classes - 1}."
            )
        return {label: given[label] for label in sorted(given)}
    if categories is None:
        return {label: f"class {label}" for label in range(num_classes)}
    return {
        label: categories.name_of(label) for label in range(num_classes) if categories.category_of(label) is not None
    }


def renamed_categories(categories: Categories | None, names: Names | None) -> Categories | None:
    """The categories with other names. Without categories, each named class output is one, and its number the id."""
    if names is None:
        return categories
    given = _by_output(names)
    if categories is None:
        return Categories(ids=tuple(sorted(given)), names=tuple(given[i] for i in sorted(given)), scheme="raw")
    renamed = tuple(
        given.get(categories.label_of(i), name) for i, name in zip(categories.ids, categories.names, strict=True)
    )
    return dataclasses.replace(categories, names=renamed)


def _by_output(names: Names) -> dict[int, str]:
    if isinstance(names, str) or not isinstance(names, Mapping | Sequence):
        raise UserError(f"names cannot be a {type(names).__name__}: give {{output: name}}, or a list of names.")
    given = dict(names.items() if isinstance(names, Mapping) else enumerate(names))
    try:
        numbers = [operator.index(label) for label in given]
    except TypeError:
        raise UserError(
            f"names has {list(given)} as class outputs: give whole numbers, such as {{1: 'person'}}."
        ) from None
    if other := [name for name in given.values() if not isinstance(name, str)]:
        raise UserError(f"names has the name {other[0]!r}: give text.")
    return dict(zip(numbers, given.values(), strict=True))
