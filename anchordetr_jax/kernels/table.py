"""One row of a platform's table: which function of which layer is replaced by what."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Replacement(NamedTuple):
    """A function that takes the place of a layer's plain one. It has the same arguments and results."""

    layer: type
    """The layer's class."""
    role: str | None
    """Which of the layers of that class, by their `role`; None where the class has no roles."""
    attribute: str
    """Where the layer holds the function."""
    function: Callable[..., Any]
