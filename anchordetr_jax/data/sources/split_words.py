"""The words by which files and folders are named after splits."""

import re

from anchordetr_jax.data.source import Split

WORDS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""The words for the splits in the names of files and folders."""


def words_of(name: str) -> list[str]:
    """The words in the name of a file or folder, in lower case."""
    return re.findall(r"[a-z]+", name.lower())


def split_in(name: str) -> Split | None:
    """The split that the name of a file or folder contains."""
    words = words_of(name)
    return next((split for split, spellings in WORDS.items() if any(word in words for word in spellings)), None)
