"""Holds training images out for validation, where a data set has no validation images."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np

from anchordetr_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Portion:
    """One side of a data set that is divided into training and validation images."""

    held_out: float
    """The share of images that is held out for validation."""
    side: Literal["train", "val"]

    def __str__(self) -> str:
        return f"{self.side} images by data.val_fraction={self.held_out:g}"

    def takes(self, file_names: Sequence[str]) -> np.ndarray:
        """bool [n]: whether each image is on this side. Its file name alone decides. Each side has at least one image.

        Raises `UserError` for fewer than two images.
        """
        if len(file_names) < 2:
            raise UserError(
                "A single image cannot be divided by data.val_fraction: add images, or set data.val_fraction to 0."
            )
        digests = [hashlib.sha256(name.encode(errors="surrogatepass")).digest()[:8] for name in file_names]
        places = np.array([int.from_bytes(digest, "big") / 2**64 for digest in digests])
        held_out = places < self.held_out
        held_out[places.argmin()] = True
        held_out[places.argmax()] = False
        return held_out if self.side == "val" else ~held_out
