"""Downloads from a server on this machine that does what servers do."""

import errno
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anchordetr_jax.errors import UserError
from anchordetr_jax.weights import download as module
from anchordetr_jax.weights.download import UnreachableError, download
from tests.weights.file_server import FileServer, serving

CONTENT = bytes(range(256)) * 2000
PIECE = 1 << 16
"""What is read at a time: of a piece that arrives in part, nothing is kept."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.0)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving() as state:
        state.files["f.pth"] = CONTENT
        yield state


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    return tmp_path / "f.pth.partial"


def test_a_file_arrives_whole_and_nothing_is_left_beside_it(server: FileServer, partial: Path) -> None:
    download(f"{server.url}/f.pth", partial)
    assert partial.read_bytes() == CONTENT
    assert list(partial.parent.iterdir()) == [partial]


def test_progress_is_shown_with_its_rate(server: FileServer, partial: Path, capsys: pytest.CaptureFixture[str]) -> None:
    download(f"{server.url}/f.pth", partial)
    shown = capsys.readouterr().err
    assert "f.pth: 100%" in shown
    assert "B/s" in shown


def test_a_download_that_breaks_goes_on_where_it_ended(server: FileServer, partial: Path) -> None:
    server.cuts = [3 * PIECE, 2 * PIECE]
    download(f"{server.url}/f.pth", partial)
    assert partial.read_bytes() == CONTENT
    ranges = [asked for _, asked in server.requests]
    assert ranges == ["", f"bytes={3 * PIECE}-", f"bytes={5 * PIECE}-"]


def test_a_download_that_was_given_up_goes_on_with_the_next_call(server: FileServer, partial: Path) -> None:
    server.cuts = [3 * PIECE, 0, 0, 0, 0]
    with pytest.raises(UserError, match=r"broke off .* give the same command again"):
        download(f"{server.url}/f.pth", partial)
    assert partial.stat().st_size == 3 * PIECE
    server.cuts = []
    download(f"{server.url}/f.pth", partial)
    assert server.requests[-1] == ("f.pth", f"bytes={3 * PIECE}-")
    assert partial.read_bytes() == CONTENT


def test_without_ranges_it_begins_again(server: FileServer, partial: Path) -> None:
    server.ranges, server.cuts = False, [200_000]
    download(f"{server.url}/f.pth", partial)
    assert partial.read_bytes() == CONTENT


def test_parts_of_two_files_are_never_joined(server: FileServer, partial: Path) -> None:
    server.cuts = [3 * PIECE, 0, 0, 0, 0]
    with pytest.raises(UserError):
        download(f"{server.url}/f.pth", partial)
    server.cuts, server.files["f.pth"] = [], CONTENT[::-1]
    download(f"{server.url}/f.pth", partial)
    assert partial.read_bytes() == CONTENT[::-1]


def test_bytes_of_another_address_are_not_used(server: FileServer, partial: Path) -> None:
    partial.write_bytes(b"something else")
    download(f"{server.url}/f.pth", partial)
    assert partial.read_bytes() == CONTENT


def test_a_slow_server_is_waited_for(server: FileServer, partial: Path) -> None:
    server.files["f.pth"], server.pause = CONTENT[:40_000], 0.01
    download(f"{server.url}/f.pth", partial)
    assert partial.read_bytes() == CONTENT[:40_000]


def test_a_silent_server_counts_as_broken(server: FileServer, partial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_SECONDS", 0.1)
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    server.silent_after = PIECE
    with pytest.raises(UserError, match="broke off"):
        download(f"{server.url}/f.pth", partial)


def test_a_server_that_never_sends_a_byte_cannot_be_reached(server: FileServer, partial: Path) -> None:
    server.cuts = [0, 0, 0, 0]
    with pytest.raises(UnreachableError, match=r"/f\.pth cannot be reached"):
        download(f"{server.url}/f.pth", partial)


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_web_page_is_not_a_file(server: FileServer, partial: Path, content_type: str) -> None:
    server.files["f.pth"], server.types["f.pth"] = b"\n<!doctype html><p>Log in</p>", content_type
    with pytest.raises(UserError, match=r"/f\.pth answered with a web page"):
        download(f"{server.url}/f.pth", partial)


def test_a_file_that_the_server_does_not_have_is_said(server: FileServer, partial: Path) -> None:
    with pytest.raises(UnreachableError, match=r"/other\.pth cannot be had \(the server answered 404 Not Found\)"):
        download(f"{server.url}/other.pth", partial)


def test_without_a_connection_it_ends_at_once(partial: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UnreachableError, match="cannot be reached \\(Connection refused\\)"):
        download(f"http://127.0.0.1:{port}/f.pth", partial)


def test_a_full_disk_is_said_before_the_download(
    server: FileServer, partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"1 MB are needed, and 0 MB are free.*make room, or set .*ANCHORDETR_CACHE"):
        download(f"{server.url}/f.pth", partial)


def test_a_disk_that_fills_up_on_the_way_is_said(
    server: FileServer, partial: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Path.open

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *exception: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    def opened(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = original(path, mode, *args, **kwargs)
        return Full(file) if path == partial and mode in ("wb", "ab") else file

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(UserError, match="No space left on device"):
        download(f"{server.url}/f.pth", partial)


def test_a_path_is_copied(tmp_path: Path, partial: Path) -> None:
    (tmp_path / "mirror.pth").write_bytes(CONTENT)
    download(str(tmp_path / "mirror.pth"), partial)
    assert partial.read_bytes() == CONTENT
