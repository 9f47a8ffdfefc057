"""Downloads one file: with a progress bar, and again from where a broken download ended."""

import contextlib
import errno
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
import urllib3
from tqdm.auto import tqdm

from anchordetr_jax.errors import UserError

CONNECT_SECONDS, READ_SECONDS = 20, 60
"""A server that does not answer, or sends nothing, for this long counts as broken."""
ATTEMPTS = 4
"""This many failures in a row, without a new byte, end a download."""
FIRST_PAUSE = 1.0
"""Seconds before the second attempt; each further pause is twice as long."""
_CHUNK = 1 << 16
_LATER = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses of a server that may answer soon."""
_BROKEN = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,
)


class UnreachableError(UserError):
    """Nothing was downloaded: no connection, no such file, or the server sends nothing. Another source may have it."""


class _BrokenError(Exception):
    """The connection ended early; `args[0]` says how."""


def download(url: str, partial: Path) -> None:
    """Downloads a file to `partial`. Bytes that an earlier, broken download left there are kept.

    A file `partial` + ".json" beside it says what these bytes belong to; it is removed at the end.

    Args:
        url: an address (http or https), or a path on this machine.
        partial: where the bytes go. Its folder exists.

    Raises:
        UnreachableError: there is no connection, or the server does not have the file, or sends nothing of it.
        UserError: the download broke several times, the server sent a web page, or the disk is full.
    """
    try:
        if "://" not in url:
            _copy(Path(url), partial)
            return
        broken = 0
        while True:
            before = _size(partial)
            try:
                _continue(url, partial)
                break
            except _BrokenError as error:
                broken = 1 if _size(partial) > before else broken + 1
                if broken >= ATTEMPTS:
                    if not _arrived(url, partial):
                        raise UnreachableError(f"{url} cannot be reached ({error}).") from None
                    raise UserError(
                        f"The download of {url} broke off ({error}); what arrived is kept: give the same command "
                        "again, and it goes on from there."
                    ) from None
            time.sleep(FIRST_PAUSE * 2 ** (broken - 1))
        _record(partial).unlink(missing_ok=True)
    except OSError as error:
        hint = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check the folder"
        raise UserError(
            f"{partial.parent} cannot take the file of {url} ({error.strerror or error}): {hint}, or set the "
            "environment variable ANCHORDETR_CACHE to another folder."
        ) from error


def discard_part(partial: Path) -> None:
    """Removes the bytes that a broken `download` left. Bytes from elsewhere stay."""
    if _record(partial).exists():
        partial.unlink(missing_ok=True)
        _record(partial).unlink()


def _continue(url: str, partial: Path) -> None:
    """Downloads what is missing. Raises `_BrokenError` if the connection ends early."""
    known = _read_record(partial)
    start = _arrived(url, partial)
    headers = {"Accept-Encoding": "identity"}  # Sizes and ranges then mean the file itself.
    if start:
        headers |= {"Range": f"bytes={start}-"}
        if known.get("validator"):
            headers["If-Range"] = known["validator"]
    try:
        response = requests.get(url, headers=headers, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS))
    except requests.Timeout as error:
        raise _BrokenError("the server does not answer") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise UnreachableError(f"{url} cannot be reached ({reason_of(error)}).") from None
    with response:
        if response.status_code in _LATER:
            raise _BrokenError(f"the server answered {response.status_code} {response.reason}")
        if response.status_code == 416:  # The file changed, or these bytes are more than it has.
            partial.unlink(missing_ok=True)
            raise _BrokenError("the server has no such range")
        if response.status_code >= 400:
            raise UnreachableError(
                f"{url} cannot be had (the server answered {response.status_code} {response.reason})."
            )
        total = _total(response)
        if start and not (response.status_code == 206 and _starts_at(response, start) and total == known.get("size")):
            if response.status_code == 206:  # A part of another file: ask for the whole one.
                partial.unlink(missing_ok=True)
                raise _BrokenError("the file changed")
            start = 0
        _refuse_page(url, response)
        _record(partial).write_text(json.dumps({"url": url, "size": total, "validator": _validator(response)}))
        _check_room(partial.parent, None if total is None else total - start)
        _write(response, partial, start, total)
    if total is not None and _size(partial) != total:
        raise _BrokenError(f"{_size(partial)} of {total} bytes arrived")


def _write(response: requests.Response, partial: Path, start: int, total: int | None) -> None:
    with (
        partial.open("ab" if start else "wb") as file,
        tqdm(
            desc=partial.name.removesuffix(".partial"),
            initial=start,
            total=total,
            unit="B",
            unit_scale=True,
            dynamic_ncols=True,
            mininterval=0.1 if sys.stderr.isatty() else 10,
        ) as bar,
    ):
        first = start == 0
        chunks = response.iter_content(_CHUNK)
        while True:
            try:
                chunk = next(chunks, b"")
            except _BROKEN as error:
                raise _BrokenError(reason_of(error)) from error
            if not chunk:
                return
            if first and chunk.lstrip()[:1] == b"<":
                raise _page_error(response.url)
            first = False
            file.write(chunk)
            bar.update(len(chunk))


def _copy(source: Path, partial: Path) -> None:
    if not source.is_file():
        raise UnreachableError(f"There is no file {source}.")
    _check_room(partial.parent, source.stat().st_size)
    shutil.copyfile(source, partial)


def _check_room(folder: Path, needed: int | None) -> None:
    if needed is not None and needed > (free := shutil.disk_usage(folder).free):
        raise OSError(errno.ENOSPC, f"{needed / 1e6:.0f} MB are needed, and {free / 1e6:.0f} MB are free")


def _refuse_page(url: str, response: requests.Response) -> None:
    if response.headers.get("Content-Type", "").partition(";")[0].strip().lower() == "text/html":
        raise _page_error(url)


def _page_error(url: str) -> UserError:
    return UnreachableError(
        f"{url} answered with a web page, not with the file (a login or an error page, perhaps of a proxy)."
    )


def _total(response: requests.Response) -> int | None:
    """Size of the whole file, where the server says it."""
    if response.status_code == 206:
        text = response.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        text = response.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else None


def _starts_at(response: requests.Response, start: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {start}-")


def _validator(response: requests.Response) -> str:
    """What tells whether the server still has the same file. A weak ETag does not tell it for ranges."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def _record(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def _read_record(partial: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        record = json.loads(_record(partial).read_text())
        if isinstance(record, dict):
            return record
    return {}


def _arrived(url: str, partial: Path) -> int:
    """The number of bytes of this address that are there."""
    return _size(partial) if _read_record(partial).get("url") == url else 0


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        reason = getattr(current, "reason", None)
        inner = next((part for part in current.args if isinstance(part, BaseException)), None)
        current = reason if isinstance(reason, BaseException) else (current.__cause__ or current.__context__ or inner)


def reason_of(error: BaseException) -> str:
    """What the system says went wrong with a download, in a few words."""
    chain = list(_causes(error))
    for cause in reversed(chain):
        if isinstance(cause, OSError) and cause.strerror and not isinstance(cause, requests.RequestException):
            return cause.strerror
    return " ".join(str(chain[-1]).split())[:100] or type(error).__name__
