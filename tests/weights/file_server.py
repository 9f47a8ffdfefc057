"""A server on this machine that has files, and that can be as unreliable as servers are."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """Files by name, and what goes wrong with them."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.types: dict[str, str] = {}
        """Content type by name, where it is not that of bytes."""
        self.cuts: list[int] = []
        """Each of the next answers ends after this number of bytes."""
        self.ranges = True
        """Whether a part of a file can be asked for."""
        self.silent_after: int | None = None
        """After this number of bytes nothing more comes, but the connection stays open."""
        self.pause = 0.0
        """Seconds before each piece."""
        self.requests: list[tuple[str, str]] = []
        """Name and asked range of every request."""
        self.url = ""


@contextmanager
def serving() -> Iterator[FileServer]:
    """A `FileServer` on the loopback, while it is open."""
    state = FileServer()
    closing = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            name, asked = self.path.lstrip("/"), self.headers.get("Range", "")
            state.requests.append((name, asked))
            content = state.files.get(name)
            if content is None:
                self.send_error(404)
                return
            etag, start = f'"{hash(content)}"', 0
            if asked and state.ranges and self.headers.get("If-Range", etag) == etag:
                start = int(asked.removeprefix("bytes=").split("-")[0])
                if start >= len(content):
                    self.send_error(416)
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            self.send_header("Content-Type", state.types.get(name, "application/octet-stream"))
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("ETag", etag)
            self.end_headers()
            body = content[start:]
            if state.cuts:
                body = body[: state.cuts.pop(0)]
            if state.silent_after is not None:
                body = body[: state.silent_after]
            for place in range(0, len(body), 4096):
                time.sleep(state.pause)
                self.wfile.write(body[place : place + 4096])
            self.wfile.flush()
            if state.silent_after is not None:
                closing.wait(10)
            if len(body) < len(content) - start:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
