"""HTTP requests that are tried again where that may help: time-outs, back-off, one line for each failure."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from embedome import __version__

if TYPE_CHECKING:
    import requests

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 20.0
READ_TIMEOUT_S = 60.0
RETRIES = 5
# A download that got this much further has not failed in a row: its retries are counted afresh.
PROGRESS_BYTES = 64 << 20
BACKOFF_S = 1.0
BACKOFF_CAP_S = 60.0
RETRY_AFTER_CAP_S = 120.0
# Answers that another try may better (RFC 9110, sections 15.5 and 15.6; RFC 6585, section 4).
PASSING_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})

T = TypeVar("T")


class MirrorError(Exception):
    """A mirror cannot serve the release; the message says why, in one line."""


class BrokenError(Exception):
    """A request failed in a way that another try may better."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


@contextmanager
def http_get(url: str, headers: Mapping[str, str]) -> Iterator["requests.Response"]:
    """Open a GET request, its body unread; failures, while the body is read too, as `BrokenError` or `MirrorError`."""
    import requests
    import urllib3

    # identity: the file is to arrive as it lies on the server, where its size and md5 were taken.
    headers = {"User-Agent": f"embedome/{__version__}", "Accept-Encoding": "identity", **headers}
    timeout = (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
    try:
        with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
            check_status(response, {200, 206, 416} if "Range" in headers else {200})
            yield response
    except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
        raise BrokenError(root_cause(error)) from error
    except requests.RequestException as error:
        raise MirrorError(root_cause(error)) from error


def check_status(response: "requests.Response", accepted: set[int]) -> None:
    """Refuse an answer that is none."""
    if response.status_code in accepted:
        return
    message = f"{urlsplit(response.url).path.rpartition('/')[2]}: HTTP status {response.status_code} {response.reason}"
    if response.status_code in PASSING_STATUSES:
        raise BrokenError(message, retry_after_s(response.headers.get("Retry-After", "")))
    raise MirrorError(message)


def retry_after_s(text: str) -> float:
    """The seconds to wait that a Retry-After header asks for, a number or a date (RFC 9110, section 10.2.3)."""
    try:
        seconds = int(text) if text.isdecimal() else parsedate_to_datetime(text).timestamp() - time.time()
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return min(max(float(seconds), 0.0), RETRY_AFTER_CAP_S)


def root_cause(error: BaseException) -> str:
    """The innermost reason of an exception, in one line."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return " ".join(str(error).split()) or type(error).__name__


def with_retries(attempt: Callable[[], T], what: str, reached: Callable[[], int]) -> T:
    """Try until it works, at most `RETRIES` times more without getting `PROGRESS_BYTES` further.

    `reached` gives how far it has come, in bytes; only a new furthest point counts, so that the tries are bounded.
    """
    failures, furthest = 0, reached()
    while True:
        try:
            return attempt()
        except BrokenError as error:
            if reached() >= furthest + PROGRESS_BYTES:
                failures, furthest = 0, reached()
            failures += 1
            if failures > RETRIES:
                raise MirrorError(f"{what}: {error}, given up after {failures} tries") from None
            wait_s = max(min(BACKOFF_S * 2 ** (failures - 1), BACKOFF_CAP_S), error.wait_s)
            log.warning("%s: %s; retry %d of %d in %.0f s", what, error, failures, RETRIES, wait_s)
        time.sleep(wait_s)
