"""Requests to the Hugging Face Hub: tried again, and their faults in one line without a token.

No message holds what the library says of a request, and its loggers are silent: addresses of files may be signed.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from embedome.common.errors import UserError, quote_value

if TYPE_CHECKING:
    from huggingface_hub import HfApi

log = logging.getLogger(__name__)

# Tries without a byte more, and seconds between them.
TRIES, PAUSE_S = 5, 2.0
# Of the library and what it is built on: they log addresses, which of a gated model are signed.
LOGGERS = ("huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2")
Found = TypeVar("Found")


def persist(request: Callable[[], Found], reached: Callable[[], int] = lambda: 0) -> Found:
    """Return what a request gives; try again where the connection fails, as long as more arrives, and some times more.

    Raises
    ------
    Exception
        The last try's.
    """
    import httpx2

    failures, best = 0, -1
    while True:
        try:
            return request()
        except (httpx2.TransportError, OSError) as error:
            if not is_passing(error):
                raise
            now = reached()
            failures, best = (1, now) if now > best else (failures + 1, best)
            if failures >= TRIES:
                raise
            log.warning("the connection failed (%s); going on at byte %s", type(error).__name__, f"{now:,}")
        time.sleep(PAUSE_S)


def is_passing(error: Exception) -> bool:
    """Return whether a failure may pass: of the connection, or of a server that is busy."""
    import httpx2

    if isinstance(error, httpx2.TransportError):
        return not isinstance(error, (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError))
    if isinstance(error, httpx2.HTTPError):
        response = getattr(error, "response", None)
        return response is not None and response.status_code in (408, 429, 500, 502, 503, 504)
    # Fewer bytes than announced, for which the library has no class; those of the file system have a number.
    return isinstance(error, OSError) and error.errno is None and type(error) is OSError


@contextmanager
def name_hub_faults(api: "HfApi", repository: str, revision: str | None) -> Iterator[None]:
    """Say in one line what the Hub refuses, or that it is not reached; name no header and no signed address.

    Raises
    ------
    UserError
    """
    import httpx2
    from huggingface_hub import errors

    where, again = find_address(api), "what has come is kept, run again to go on"
    try:
        yield
    except errors.GatedRepoError:
        raise UserError(
            f"{repository}: is gated; accept its terms on {where}/{repository}, set HF_TOKEN or log in by "
            "`hf auth login`, and run again"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(
            f"{repository}: has no revision {quote_value(revision)}; name a commit, tag or branch"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"{repository}: no such model on {where}, or a private one; check the id, or log in by `hf auth login`"
        ) from None
    except errors.OfflineModeIsEnabled:
        raise UserError(f"{repository}: HF_HUB_OFFLINE is set, so nothing can be fetched; unset it") from None
    except errors.HfHubHTTPError as error:
        raise UserError(f"{repository}: {where} answers {error.response.status_code}; {again}") from None
    except httpx2.HTTPError as error:
        raise UserError(f"{repository}: no connection to {where} ({type(error).__name__}); {again}") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise UserError(f"{repository}: {where} broke off within a file; {again}") from None


def find_address(api: "HfApi") -> str:
    """Return the address of the Hub, without a password that may be in it."""
    parts = urlsplit(api.endpoint)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


@contextmanager
def silence_library() -> Iterator[None]:
    """Keep the library from logging addresses, and from bars of its own, in the block."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.setLevel(level)
