"""HTTP requests that are tried again where that may help: time-outs, back-off, one line for each failure."""

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from embedome import __version__

if TYPE_CHECKING:
    import requests

log = logging.getLogger(__name__)


CONNECT_TIMEOUT_S = 20.0
READ_TIMEOUT_S = 60.0
BLOCK_BYTES = 1 << 20
# The least speed, and how long it is measured.
LEAST_BYTES_S, SPEED_WINDOW_S = 1000, 60.0
RETRIES = 5
# After this much progress the count of retries starts again: failures are no longer in a row.
PROGRESS_BYTES = 64 << 20
BACKOFF_S = 1.0
BACKOFF_CAP_S = 60.0
RETRY_AFTER_CAP_S = 120.0
VALIDATORS = ("ETag", "Last-Modified")
# Answers after which another try may succeed (RFC 9110, sections 15.5 and 15.6; RFC 6585, section 4).
PASSING_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})

T = TypeVar("T")


class MirrorError(Exception):
    """A mirror cannot serve the release; the message says why, in one line."""


class RetryableError(Exception):
    """A request failed in a way that another try may put right."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


@contextmanager
def http_get(url: str, headers: Mapping[str, str]) -> Iterator["requests.Response"]:
    """Open a GET request, its body unread; failures, also while it is read, as `RetryableError` or `MirrorError`."""
    import requests
    import urllib3

    # identity: the file must arrive as it lies on the server, where its size and md5 were taken.
    headers = {"User-Agent": f"embedome/{__version__}", "Accept-Encoding": "identity", **headers}
    timeout = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
    try:
        with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
            check_status(response, {200, 206, 416} if "Range" in headers else {200})
            yield response
    except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
        raise RetryableError(root_cause(error)) from error
    except requests.RequestException as error:
        raise MirrorError(root_cause(error)) from error


def check_status(response: "requests.Response", accepted: set[int]) -> None:
    """Raise if the status is not an accepted one.

    Raises
    ------
    RetryableError
        For the statuses of `PASSING_STATUSES`.
    MirrorError
        For all others.
    """
    if response.status_code in accepted:
        return
    message = f"{urlsplit(response.url).path.rpartition('/')[2]}: HTTP status {response.status_code} {response.reason}"
    if response.status_code in PASSING_STATUSES:
        raise RetryableError(message, retry_after_s(response.headers.get("Retry-After", "")))
    raise MirrorError(message)


def retry_after_s(text: str) -> float:
    """Return the seconds to wait that a Retry-After header asks for, a number or a date (RFC 9110, section 10.2.3)."""
    try:
        seconds = int(text) if text.isdecimal() else parsedate_to_datetime(text).timestamp() - time.time()
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return min(max(float(seconds), 0.0), RETRY_AFTER_CAP_S)


def root_cause(error: BaseException) -> str:
    """Return the innermost reason of an exception, in one line."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return " ".join(str(error).split()) or type(error).__name__


def read_body(response: "requests.Response") -> Iterator[bytes]:
    """Yield the blocks of an answer's body, as they lie on the server.

    Raises
    ------
    RetryableError
        Where it comes too slowly: a byte now and then is no time-out, and would hold the run for ever.
    """
    began, count = time.monotonic(), 0
    # What has arrived, and not a whole block, for which a slow server takes hours.
    while block := response.raw.read1(BLOCK_BYTES, decode_content=False):
        yield block
        count += len(block)
        if (elapsed := time.monotonic() - began) >= SPEED_WINDOW_S:
            if count < LEAST_BYTES_S * elapsed:
                raise RetryableError(f"{count / elapsed:,.0f} bytes a second, fewer than {LEAST_BYTES_S:,}")
            began, count = time.monotonic(), 0


def read_validators(response: "requests.Response") -> dict[str, str]:
    """Return the headers of an answer that name the version of its file."""
    return {header: response.headers[header] for header in VALIDATORS if header in response.headers}


def range_headers(start: int, known: Mapping[str, Any]) -> dict[str, str]:
    """Return headers that ask for a file from byte `start` on, or for all of it where it is not the one `known`."""
    headers = {"Range": f"bytes={start}-"}
    etag, modified = (known.get(header, "") for header in VALIDATORS)
    # If-Range takes no weak ETag (RFC 9110, section 13.1.5).
    if validator := etag if etag.startswith('"') else modified:
        headers["If-Range"] = validator
    return headers


def is_continuation(response: "requests.Response", start: int, size: int | None, known: Mapping[str, Any]) -> bool:
    """Return whether an answer is the rest, from byte `start` on, of the very file of `size` bytes that is `known`."""
    span = f"bytes {start}-[0-9]+/{size}"
    if response.status_code != 206 or not re.fullmatch(span, response.headers.get("Content-Range", "")):
        return False
    return all(known.get(header, value) == value for header, value in read_validators(response).items())


@contextmanager
def open_rest(
    url: str, name: str, start: int, size: int | None, known: Mapping[str, Any]
) -> Iterator[tuple["requests.Response", int | None]]:
    """Ask for a file from byte `start` on; yield the answer, and the byte at which it begins: `start`, or 0.

    None stands for an answer that is neither: the server no longer has the file of `size` bytes that is `known`, by
    its validators. `size` may be None for a file that is not begun.
    """
    with http_get(url, range_headers(start, known) if start else {}) as response:
        if response.status_code == 200:
            yield response, 0
        elif is_continuation(response, start, size, known):
            log.info("%s: resumed at %d of %d bytes", name, start, size)
            yield response, start
        else:
            yield response, None


class Retries:
    """Counts failed tries, and waits before the next: at most `RETRIES` without getting `PROGRESS_BYTES` further.

    Parameters
    ----------
    what : str
        What is fetched, for messages.
    reached : function
        How far it has come, in bytes; only a new furthest point counts, so that the tries are bounded.
    """

    def __init__(self, what: str, reached: Callable[[], int]) -> None:
        self.what, self.reached = what, reached
        self.failures, self.furthest = 0, reached()

    def after(self, error: RetryableError) -> None:
        """Wait after a failure.

        Raises
        ------
        MirrorError
            Where it was one too many.
        """
        if self.reached() >= self.furthest + PROGRESS_BYTES:
            self.failures, self.furthest = 0, self.reached()
        self.failures += 1
        if self.failures > RETRIES:
            raise MirrorError(f"{self.what}: {error}, given up after {self.failures} tries") from None
        wait_s = max(min(BACKOFF_S * 2 ** (self.failures - 1), BACKOFF_CAP_S), error.wait_s)
        log.warning("%s: %s; retry %d of %d in %.0f s", self.what, error, self.failures, RETRIES, wait_s)
        time.sleep(wait_s)


def with_retries(attempt: Callable[[], T], what: str, reached: Callable[[], int]) -> T:
    """Try until it works, or as often as `Retries` allows."""
    retries = Retries(what, reached)
    while True:
        try:
            return attempt()
        except RetryableError as error:
            failure = error
        retries.after(failure)
