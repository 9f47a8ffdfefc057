"""A pretended bucket in memory: what is at `gs://…` for etils.epath (by fsspec) and for tensorstore (by HTTP).

It speaks as much of Cloud Storage's JSON interface as tensorstore asks for when Orbax saves and restores.
"""

import contextlib
import http.server
import json
import re
import threading
import urllib.parse
import zlib
from collections.abc import Iterator
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from orbax.checkpoint._src.path import gcs_utils


class Bucket(MemoryFileSystem):
    """Files by "/bucket/name"."""

    protocol = ("gcs", "gs")
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return MemoryFileSystem._strip_protocol(re.sub(r"^(gs|gcs):/", "", path))

    def unstrip_protocol(self, name: str) -> str:
        return "gs:/" + name


@contextlib.contextmanager
def pretended_bucket(patch: pytest.MonkeyPatch) -> Iterator[type[Bucket]]:
    """While it is entered, paths at `gs://` are in memory. Gives the class that has them in `store`."""
    for name in ("gs", "gcs"):
        fsspec.register_implementation(name, Bucket, clobber=True)
    Bucket.store.clear()
    # Asks Google's own client, which is not installed.
    patch.setattr(gcs_utils, "is_hierarchical_namespace_enabled", lambda path: False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", f"http://127.0.0.1:{server.server_port}")
        patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "none")
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Bucket
        server.shutdown()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        key, query = self._asked()
        if "name" not in query:  # a list
            prefix = f"{key}{query.get('prefix', '')}"
            self._answer(200, json.dumps({"items": [_about(name) for name in sorted(_names(prefix))]}).encode())
        elif key not in Bucket.store:
            self._answer(404)
        elif "alt" not in query:
            self._answer(200, json.dumps(_about(key)).encode())
        else:
            data = Bucket.store[key].getvalue()
            headers = {"x-goog-generation": str(_generation(key)), "x-goog-stored-content-length": str(len(data))}
            asked = re.fullmatch(r"bytes=(-?\d+)-?(\d*)", self.headers.get("Range", ""))
            if asked is None:
                self._answer(200, data, headers)
                return
            first, last = asked.groups()
            start = max(len(data) + int(first), 0) if first.startswith("-") else int(first)
            stop = min(int(last) + 1, len(data)) if last else len(data)
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            self._answer(206, data[start:stop], headers)

    def do_POST(self) -> None:
        key, query = self._asked()
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        expected = query.get("ifGenerationMatch")
        if expected is not None and int(expected) != _generation(key):
            self._answer(412)
            return
        Bucket().pipe_file(key, data)
        self._answer(200, json.dumps(_about(key)).encode())

    def do_DELETE(self) -> None:
        key, _ = self._asked()
        self._answer(404 if Bucket.store.pop(key, None) is None else 204)

    def _asked(self) -> tuple[str, dict[str, str]]:
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        match = re.fullmatch(r"(?:/upload)?/storage/v1/b/([^/]+)/o(?:/(.*))?", url.path)
        assert match is not None
        if match[2]:
            query["name"] = urllib.parse.unquote(match[2])
        return f"/{match[1]}/{query.get('name', '')}", query

    def _answer(self, code: int, data: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        pass


def _names(start: str) -> list[str]:
    return [name for name in list(Bucket.store) if name.startswith(start)]


def _generation(key: str) -> int:
    """0 if there is no such file; another number for other contents."""
    return zlib.crc32(Bucket.store[key].getvalue()) + 1 if key in Bucket.store else 0


def _about(key: str) -> dict[str, str]:
    return {
        "name": key.split("/", 2)[2],
        "generation": str(_generation(key)),
        "size": str(len(Bucket.store[key].getvalue())),
        "updated": "2026-01-01T00:00:00.000Z",
    }
