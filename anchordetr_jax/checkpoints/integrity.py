"""Finds damaged checkpoints, by the size and checksum of every file, which each checkpoint keeps in a file."""

import json
import os
import shlex
import zlib

from etils import epath

from anchordetr_jax.files import write_json

CHECKSUMS_FILE = "checksums.json"
RESCUE_COMMAND = "anchordetr convert rescue"
_FINISHED_MARK = "commit_success.txt"
_BLOCK_BYTES = 1 << 20


def write_checksums(directory: epath.Path) -> None:
    """Records all files of a finished checkpoint. Call it on one process only."""
    record = {name: list(_size_and_checksum(path)) for name, path in sorted(_files(directory).items())}
    write_json(directory / CHECKSUMS_FILE, record, indent=1)


def find_damage(directory: epath.Path) -> str | None:
    """What is wrong with the files of a checkpoint, in a few words. None if they are sound, or have no checksums.

    A run that is killed at the end of a save may leave a good checkpoint without checksums. In a bucket a folder cannot
    get its name at the end of a save; there Orbax marks finished checkpoints by a file.
    """
    if items := unjoined_items(directory):
        return (
            f"the parts of {' and '.join(items)} were never joined; this command completes it: {RESCUE_COMMAND} "
            f"{shlex.quote(os.fspath(directory))}"
        )
    try:
        record = json.loads((directory / CHECKSUMS_FILE).read_text())
        expected = {name: (int(size), int(checksum)) for name, (size, checksum) in record.items()}
    except FileNotFoundError:
        unfinished = "://" in os.fspath(directory) and not (directory / _FINISHED_MARK).exists()
        return "it is only half written" if unfinished else None
    except (ValueError, TypeError, AttributeError):
        return f"{CHECKSUMS_FILE} is unreadable"
    files = _files(directory)
    for name, (size, checksum) in expected.items():
        if name not in files:
            return f"{name} is missing"
        if _size_and_checksum(files[name]) != (size, checksum):
            return f"{name} was altered"
    return None


def unjoined_items(directory: epath.Path) -> list[str]:
    """The items of a checkpoint whose parts, one for each process, were never joined (see `checkpoints.rescue`)."""
    return sorted(
        item.name
        for item in directory.iterdir()
        if item.is_dir() and not (item / "manifest.ocdbt").exists() and (item / "ocdbt.process_0").exists()
    )


def _files(directory: epath.Path) -> dict[str, epath.Path]:
    found: dict[str, epath.Path] = {}
    for path in directory.iterdir():
        if path.is_dir():
            found |= {f"{path.name}/{name}": file for name, file in _files(path).items()}
        elif path.name != CHECKSUMS_FILE:
            found[path.name] = path
    return found


def _size_and_checksum(path: epath.Path) -> tuple[int, int]:
    size, checksum = 0, 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            size, checksum = size + len(block), zlib.crc32(block, checksum)
    return size, checksum
