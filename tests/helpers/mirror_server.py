"""A web server on this machine that serves a release, and misbehaves on demand."""

import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DATA = random.Random(50).randbytes(900_001)
HALF = 400_001
STALL_S = 20.0
NAME = "uniref50.fasta.gz"
METALINK = """<?xml version="1.0" encoding="UTF-8"?>
<metalink xmlns="http://www.metalinker.org/" version="3.0">
  <publisher>
    <name>UniProt Consortium</name>
    <url>http://www.uniprot.org/</url>
  </publisher>
  <description>UniProt</description>
  <version>2025_03</version>
  <files>
    <file name="README">
      <size>3</size>
      <verification>
        <hash type="md5">acbd18db4cc2f85cedef654fccc4a4d8</hash>
      </verification>
    </file>
    <file name="{name}">
      <size>{size}</size>
      <verification>
        <hash type="md5">{md5}</hash>
      </verification>
      <resources>
        <url type="ftp" location="uk" preference="100">ftp://127.0.0.1/{name}</url>
      </resources>
    </file>
  </files>
</metalink>
"""


def metalink(data: bytes = DATA, **fields: object) -> str:
    """A metalink in UniProt's form for `data`, with fields replaced."""
    return METALINK.format(**{"name": NAME, "size": len(data), "md5": hashlib.md5(data).hexdigest()} | fields)


class Handler(BaseHTTPRequestHandler):
    """Serves the metalink and the file, a request for the file in the way of the next of `server.faults`."""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        if not self.path.startswith(server.folder):
            self.send_error(404)
        elif self.path.endswith("RELEASE.metalink"):
            fault = server.metalink_faults.pop(0) if server.metalink_faults else serve
            fault(self, server.metalink.encode())
        elif self.path.endswith(self.server.name):
            server.ranges.append(self.headers.get("Range"))
            fault = server.faults.pop(0) if server.faults else serve
            fault(self, server.data)
        else:
            self.send_error(404)

    def send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """Send one answer and count the file's bytes."""
        self.send_response(status)
        for header, value in headers.items():
            self.send_header(header, value)
        self.end_headers()
        if self.path.endswith(self.server.name):
            self.server.sent += len(body)  # before the client has it, and the test looks
        self.wfile.write(body)

    def wanted(self, data: bytes) -> tuple[int, int, dict[str, str]]:
        """Status, first byte and headers of the answer that the request's Range and If-Range ask for."""
        headers = {"ETag": self.server.etag} if self.server.etag else {}
        if self.server.modified:
            headers["Last-Modified"] = self.server.modified
        condition = self.headers.get("If-Range")
        if "Range" not in self.headers or condition not in (None, self.server.etag, self.server.modified):
            return 200, 0, headers | {"Content-Length": str(len(data))}
        start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        span = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        return 206, start, headers | span | {"Content-Length": str(len(data) - start)}


Fault = Callable[[Handler, bytes], None]


def serve(handler: Handler, data: bytes) -> None:
    """What a good server does."""
    status, start, headers = handler.wanted(data)
    handler.send(status, headers, data[start:])


def drop(at: int = HALF) -> Fault:
    """Promise everything, close the connection at byte `at`."""

    def fault(handler: Handler, data: bytes) -> None:
        status, start, headers = handler.wanted(data)
        handler.send(status, headers, data[start:at])

    return fault


def trickle(handler: Handler, data: bytes) -> None:
    """Send a byte every hundredth of a second, for some seconds, or until the client has gone."""
    status, start, headers = handler.wanted(data)
    handler.send(status, headers, b"")
    with suppress(OSError):
        for place in range(start, min(start + 300, len(data))):
            handler.wfile.write(data[place : place + 1])
            time.sleep(0.01)


def status(code: int, **headers: str) -> Fault:
    """Answer with a status and no file."""
    return lambda handler, _: handler.send(code, {"Content-Length": "0"} | headers, b"")


def ignore_range(handler: Handler, data: bytes) -> None:
    """Send everything, whatever was asked."""
    handler.send(200, {"Content-Length": str(len(data))}, data)


def unannounced(at: int | None = None) -> Fault:
    """Send up to byte `at` without saying how much it should be."""
    return lambda handler, data: handler.send(200, {}, data[:at])


def flipped(data: bytes) -> bytes:
    """The data with one bit of its middle byte wrong."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def corrupt(handler: Handler, data: bytes) -> None:
    """Send a file of the right size with one wrong bit."""
    serve(handler, flipped(data))


def stall(handler: Handler, data: bytes) -> None:
    """Send half, then nothing until the test is over."""
    status, start, headers = handler.wanted(data)
    handler.send(status, headers, data[start:HALF])
    handler.server.over.wait(STALL_S)


def redirect(to: str) -> Fault:
    return status(302, Location=to)


@contextmanager
def serving() -> Iterator[ThreadingHTTPServer]:
    """A server of `DATA`, as `NAME`; what it serves, and how, are its attributes."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.folder, server.name = "/pub/", NAME
    server.url = f"http://127.0.0.1:{server.server_port}/pub/uniref50"
    server.data, server.metalink = DATA, metalink()
    server.etag, server.modified = '"one"', "Wed, 18 Jun 2025 12:00:00 GMT"
    server.faults, server.metalink_faults, server.ranges, server.sent = [], [], [], 0
    server.over = threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join(10)
