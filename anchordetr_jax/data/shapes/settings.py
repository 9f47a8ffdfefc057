"""What the images of a drawn data set are like."""

import dataclasses

from anchordetr_jax.data.shapes.outlines import CLASSES, FIRST_CLASSES
from anchordetr_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShapesConfig:
    """What the drawn images are like."""

    classes: tuple[str, ...] = FIRST_CLASSES
    short_side: tuple[int, int] = (80, 128)
    """The short side of an image is drawn from this range, in pixels. Both ends are included."""
    max_side: int = 128
    """The longest side that an image can have, in pixels."""
    object_size: tuple[float, float] = (0.14, 0.75)
    """Smallest and largest length of an object, as a share of the short side. Its logarithm is drawn uniformly."""
    min_object_pixels: float = 9.0
    """The smallest width of an object."""
    max_stretch: float = 2.0
    """An object is stretched by up to this factor, and then turned by any angle."""
    max_objects: int = 12
    """The most objects of one image."""
    hue_by_class: float = 0.0
    """Probability that an object has the hue of its class. 0: colour says nothing about the class."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.classes if name not in CLASSES]
        if unknown or not self.classes or len(set(self.classes)) < len(self.classes):
            wrong = ", ".join(unknown or self.classes) or "none"
            raise UserError(
                f"The classes of a shapes data set are one or more of {', '.join(CLASSES)}, each once; not {wrong}."
            )
        if not 32 <= self.short_side[0] <= self.short_side[1] <= self.max_side:
            sizes = f"{self.short_side[0]}, {self.short_side[1]} and {self.max_side}"
            raise UserError(
                f"The shortest and longest short side and the longest side must rise and be at least 32, not {sizes}."
            )
        if not 0 < self.object_size[0] <= self.object_size[1] <= 1:
            sizes = f"{self.object_size[0]:g} and {self.object_size[1]:g}"
            raise UserError(
                f"The smallest and largest size of an object must rise, be above 0 and at most 1, not {sizes}."
            )
        if not 0 <= self.hue_by_class <= 1:
            raise UserError(
                f"The probability that an object has the hue of its class must be 0 to 1, not {self.hue_by_class:g}."
            )
        if self.max_objects < 1:
            raise UserError(f"The most objects of an image must be at least 1, not {self.max_objects}.")
