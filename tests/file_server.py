"""An HTTP server on this machine that misbehaves on request."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Page:
    """What the server has at a path.

    Attributes:
        content: the file.
        cuts: bytes after which the connection breaks, answer by answer; later ones are whole.
        ranges: whether parts are sent when asked for.
        etag: the version's name; "" for none.
        statuses: answers by these numbers come first.
        kind: Content-Type.
        sized: whether Content-Length is told.
        requests: Range header of every request so far.
    """

    content: bytes
    cuts: list[int] = field(default_factory=list)
    ranges: bool = True
    etag: str = '"one"'
    statuses: list[int] = field(default_factory=list)
    kind: str = "application/octet-stream"
    sized: bool = True
    requests: list[str] = field(default_factory=list)


class Server:
    """Serves `pages` by their paths, which begin with /."""

    def __init__(self, port: int):
        self.pages: dict[str, Page] = {}
        self.address = f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A server that runs until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            page = server.pages.get(self.path)
            asked = self.headers.get("Range", "")
            if page is None:
                self.send_error(404)
                return
            page.requests.append(asked)
            if page.statuses:
                self.send_error(page.statuses.pop(0))
                return
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and page.ranges else 0
            if self.headers.get("If-Range", page.etag) != page.etag:
                start = 0
            if start and start >= len(page.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(page.content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(page.content) - 1}/{len(page.content)}")
            if page.sized:
                self.send_header("Content-Length", str(len(page.content) - start))
            if page.etag:
                self.send_header("ETag", page.etag)
            self.send_header("Content-Type", page.kind)
            self.end_headers()
            body = page.content[start:]
            self.wfile.write(body[: page.cuts.pop(0)] if page.cuts else body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server = Server(http.server_address[1])
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
