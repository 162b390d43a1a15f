"""A small Hugging Face Hub on this machine, which misbehaves on demand."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

STALL_S = 20.0
# Files that Git LFS keeps.
LARGE = (".safetensors", ".bin")
Fault = Callable[["Handler", bytes], None]


def commit(name: str) -> str:
    """A commit's digest, of the name of what it holds."""
    return hashlib.sha1(name.encode()).hexdigest()


class Repository:
    """A repository: files by commit, and what the Hub says of it."""

    def __init__(self, *, gated: bool = False, card: dict | None = None) -> None:
        self.gated, self.card = gated, card or {"license": "mit"}
        self.revisions: dict[str, dict[str, bytes]] = {}
        self.branches: dict[str, str] = {}

    def push(self, files: dict[str, bytes], name: str = "first", branch: str = "main") -> str:
        """Put files in place as the newest commit of a branch."""
        self.revisions[commit(name)] = files
        self.branches[branch] = commit(name)
        return commit(name)

    def find(self, revision: str) -> str | None:
        """The commit of a revision."""
        found = self.branches.get(revision, revision)
        return found if found in self.revisions else None


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Handler(BaseHTTPRequestHandler):
    """Serves descriptions and files, a request for a large file in the way of the next of `server.faults`."""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        server, path = self.server, urlsplit(self.path).path
        server.requests.append((path, self.headers.get("Range"), self.headers.get("Authorization")))
        is_api = path.startswith("/api/models/")
        parts = path.removeprefix("/api/models/").strip("/").split("/")
        repository = server.repositories.get("/".join(parts[:2]))
        if repository is None:
            self.refuse(404, "RepoNotFound")
            return
        found = repository.find(parts[3] if len(parts) > 3 else "main")
        if found is None:
            self.refuse(404, "RevisionNotFound")
        elif is_api:
            if server.api_faults:
                server.api_faults.pop(0)(self, b"")
            else:
                self.answer(200, self.describe("/".join(parts[:2]), repository, found))
        elif repository.gated and self.headers.get("Authorization") != f"Bearer {server.token}":
            self.refuse(403, "GatedRepo")
        else:
            data = repository.revisions[found]["/".join(parts[4:])]
            fault = server.faults.pop(0) if server.faults and parts[-1].endswith(LARGE) else serve
            fault(self, data)

    def describe(self, name: str, repository: Repository, found: str) -> bytes:
        """What the Hub says of a model."""
        siblings = []
        for file, data in repository.revisions[found].items():
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            about = {"rfilename": file, "size": len(data), "blobId": blob}
            if file.endswith(LARGE):
                about["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            siblings.append(about)
        about = {"id": name, "sha": found, "siblings": siblings, "cardData": repository.card, "tags": []}
        return json.dumps({**about, "gated": "manual" if repository.gated else False, "private": False}).encode()

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, b"{}", {"X-Error-Code": code})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for header, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(header, value)
        self.end_headers()
        self.wfile.write(body)

    def begin(self, data: bytes) -> bytes:
        """Send the head of a file's answer, and return the bytes that should follow."""
        first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - first))
        self.end_headers()
        return data[first:]


def serve(handler: Handler, data: bytes) -> None:
    handler.wfile.write(handler.begin(data))


def drop(handler: Handler, data: bytes) -> None:
    """Break off after a third of what is left."""
    rest = handler.begin(data)
    handler.wfile.write(rest[: len(rest) // 3])
    handler.wfile.flush()
    handler.close_connection = True
    handler.connection.close()


def drop_at_once(handler: Handler, data: bytes) -> None:
    handler.close_connection = True
    handler.connection.close()


def stall(handler: Handler, data: bytes) -> None:
    """Send a third of what is left, then nothing."""
    rest = handler.begin(data)
    handler.wfile.write(rest[: len(rest) // 3])
    handler.wfile.flush()
    handler.server.stop.wait(STALL_S)
    handler.close_connection = True


def other_bytes(handler: Handler, data: bytes) -> None:
    """Another file of the same length."""
    serve(handler, bytes(len(data)))


def whole(handler: Handler, data: bytes) -> None:
    """All of it, whatever Range says."""
    handler.answer(200, data)


def fail(status: int) -> Fault:
    return lambda handler, data: handler.answer(status, b"")


class Hub(ThreadingHTTPServer):
    """The server, and what it has been asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.faults: list[Fault] = []
        self.api_faults: list[Fault] = []
        self.requests: list[tuple[str, str | None, str | None]] = []
        self.token = "hf_secretofatest"
        self.stop = threading.Event()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def asked(self) -> list[str]:
        """Names of the files that were asked for."""
        return [path.rpartition("/")[2] for path, *_ in self.requests if "/resolve/" in path]


@contextmanager
def serve_hub() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.stop.set()
        hub.shutdown()
        hub.server_close()
        thread.join()
