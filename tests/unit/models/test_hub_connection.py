"""How often a request is tried again."""

import errno

import httpx2
import pytest
from embedome.models import hub_connection
from embedome.models.hub_connection import TRIES, persist


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_connection, "PAUSE_S", 0.0)


class Request:
    """Fails a number of times, each time after some bytes more."""

    def __init__(self, failures: int, step: int, error: Exception) -> None:
        self.failures, self.step, self.error = failures, step, error
        self.calls = self.bytes = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls > self.failures:
            return "done"
        self.bytes += self.step
        raise self.error


def ask(request: Request) -> str:
    return persist(request, lambda: request.bytes)


@pytest.mark.parametrize("error", [httpx2.ReadError("reset"), httpx2.ReadTimeout("stall"), OSError("fewer bytes")])
@pytest.mark.slow
def test_as_long_as_more_arrives(error: Exception) -> None:
    assert ask(Request(10 * TRIES, 1, error)) == "done"
    request = Request(10 * TRIES, 0, error)
    with pytest.raises(type(error)):
        ask(request)
    assert request.calls == TRIES


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "full"), PermissionError(errno.EACCES, "no"), httpx2.LocalProtocolError("a header")],
)
def test_what_does_not_pass_is_not_tried_again(error: Exception) -> None:
    request = Request(3, 1, error)
    with pytest.raises(type(error)):
        ask(request)
    assert request.calls == 1
