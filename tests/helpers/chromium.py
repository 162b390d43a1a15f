"""Chromium without a window, driven over a pipe by its DevTools protocol: no other program or package is needed."""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="Chromium is missing: sudo apt-get install chromium")
# Root has no sandbox; pages are those that the test wrote.
OPTIONS = ("--headless", "--no-sandbox", "--no-first-run")
# WebGL by the processor, as there may be no GPU, and in a page that would rather have none than a slow one.
SOFTWARE_WEBGL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
TAKE_SLOW_WEBGL = """{
  const get = HTMLCanvasElement.prototype.getContext;
  HTMLCanvasElement.prototype.getContext = function (kind, options) {
    return get.call(this, kind, { ...options, failIfMajorPerformanceCaveat: false });
  };
}"""
# Plain pictures, drawn by the processor.
NO_WEBGL = ("--disable-gpu", "--disable-3d-apis")
PATIENCE = 120


class Page:
    """An opened page: what it asked for, what it complained of, and scripts that are run in it.

    Parameters
    ----------
    commands, replies : int
        File descriptors of the pipe.
    """

    def __init__(self, commands: int, replies: int) -> None:
        self.commands, self.replies = commands, replies
        self.number, self.session = 0, None
        self.received = b""
        self.requests: list[str] = []
        self.complaints: list[str] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; events that come before its reply are noted."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while (reply := self.next_message()).get("id") != self.number:
            self.note(reply)
        if "error" in reply:
            raise RuntimeError(f"{method}: {reply['error']['message']}")
        return reply["result"]

    def next_message(self) -> dict[str, Any]:
        """Wait for a message, but not for ever."""
        deadline = time.monotonic() + PATIENCE
        while b"\0" not in self.received:
            if not select.select([self.replies], [], [], max(0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"Chromium says nothing for {PATIENCE} s")
            if not (piece := os.read(self.replies, 1 << 20)):
                raise RuntimeError("Chromium ended")
            self.received += piece
        message, self.received = self.received.split(b"\0", 1)
        return json.loads(message)

    def note(self, event: dict[str, Any]) -> None:
        """Note a request, an error or a warning."""
        about = event.get("params", {})
        match event.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(about["request"]["url"])
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(about["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if about["type"] in ("error", "warning", "assert"):
                self.complaints.append(json.dumps(about["args"]))
            case "Log.entryAdded" if about["entry"]["level"] in ("error", "warning"):
                self.complaints.append(f"{about['entry']['text']} {about['entry'].get('url', '')}")

    def run(self, script: str) -> Any:
        """Run an expression of JavaScript, wait for it where it is a promise, and return its value."""
        reply = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in reply:
            raise RuntimeError(json.dumps(reply["exceptionDetails"]))
        return reply["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + PATIENCE
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < deadline, f"not true within {PATIENCE} s: {condition}; {self.complaints}"
            time.sleep(0.05)

    def screenshot(self, path: Path | None = None) -> bytes:
        """Return the page as it looks, a PNG, and write it where a path is given."""
        picture = base64.b64decode(self.call("Page.captureScreenshot")["data"])
        if path:
            path.write_bytes(picture)
        return picture


@contextmanager
def open_page(
    address: str, profile: Path, *, graphics: tuple[str, ...] = NO_WEBGL, size: tuple[int, int] = (1400, 900)
) -> Iterator[Page]:
    """Open an address in a Chromium of its own.

    Parameters
    ----------
    address : str
    profile : path
        Folder of its settings.
    graphics : tuple of str
        `NO_WEBGL`, `SOFTWARE_WEBGL`, or nothing for what there is.
    size : (int, int)
        Of the window, in pixels.
    """
    (read_commands, commands), (replies, write_replies) = os.pipe(), os.pipe()
    window = (f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}")
    options = (*OPTIONS, *graphics, *window, "--remote-debugging-pipe")
    # It reads file descriptor 3 and writes 4.
    shell = f'exec "$@" 3<&{read_commands} 4>&{write_replies}'
    browser = subprocess.Popen(
        ["bash", "-c", shell, "bash", str(PROGRAM), *options, "about:blank"],
        pass_fds=(read_commands, write_replies),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(read_commands)
    os.close(write_replies)
    try:
        page = Page(commands, replies)
        [target, *_] = [each for each in page.call("Target.getTargets")["targetInfos"] if each["type"] == "page"]
        page.session = page.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            page.call(f"{domain}.enable")
        if graphics == SOFTWARE_WEBGL:
            page.call("Page.addScriptToEvaluateOnNewDocument", source=TAKE_SLOW_WEBGL)
        page.call("Page.navigate", url=address)
        page.wait_for("document.readyState === 'complete'")
        yield page
    finally:
        browser.terminate()
        browser.wait(PATIENCE)
        os.close(commands)
        os.close(replies)
