"""Drives headless Chromium through its DevTools protocol, over pipes, with the standard library alone."""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 20.0  # seconds
# The protocol is spoken on descriptors 3 and 4; the first two arguments are the pipes' own.
_START = (
    "import os, sys; r, w = map(int, sys.argv[1:3]); os.dup2(w, 99); os.dup2(r, 3); os.dup2(99, 4); "
    "os.execv(sys.argv[3], sys.argv[3:])"
)
_CODES = {" ": "Space", "Escape": "Escape", "Enter": "Enter"}
_VIRTUAL = {
    " ": 32,
    "Escape": 27,
    "Enter": 13,
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
    "Tab": 9,
}


class Browser:
    """A browser with one tab. Use it as a context manager."""

    def __init__(self, profile: Path) -> None:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync", "--mute-audio"]
        flags += ["--disable-background-networking", "--disable-component-update", "--disable-extensions"]
        flags += ["--remote-debugging-pipe", f"--user-data-dir={profile}"]
        (to_read, self._to), (self._from, to_write) = os.pipe(), os.pipe()
        start = [sys.executable, "-c", _START, str(to_read), str(to_write), CHROMIUM]
        self._process = subprocess.Popen(
            [*start, *flags], pass_fds=(to_read, to_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_read)
        os.close(to_write)
        self._number, self._rest, self.events, self._session = 0, b"", [], None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._session = None
        try:
            self.send("Browser.close")
            self._process.wait(10)
        except (OSError, EOFError, TimeoutError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def send(self, method, **params):
        """Call a method of the protocol, and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _read(self):
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._rest:
            if not select.select([self._from], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError("Chromium does not answer")
            if not (more := os.read(self._from, 1 << 20)):
                raise EOFError("Chromium ended")
            self._rest += more
        first, _, self._rest = self._rest.partition(b"\0")
        return json.loads(first)

    def open(self, page, width=1280, height=900, *, touch=False, dark=False, fragment=""):
        """Open a file, in a window of a size, and wait until it is loaded."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)
        self.send("Emulation.setTouchEmulationEnabled", enabled=touch)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.navigate", url="about:blank")
        self.events.clear()
        self.send("Page.navigate", url=page.as_uri() + fragment)
        self.wait("location.href != 'about:blank' && document.readyState == 'complete'")

    def run(self, script):
        """The value of an expression in the page."""
        answer = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"].get("exception", answer).get("description", answer))
        return answer["result"].get("value")

    def wait(self, condition):
        """Wait until an expression in the page is true."""
        end = time.monotonic() + PATIENCE
        while not self._holds(condition):
            if time.monotonic() > end:
                raise TimeoutError(condition)
            time.sleep(0.02)

    def _holds(self, condition):
        try:
            return self.run(condition)
        except RuntimeError as error:
            if "navigated" in str(error):  # the page is being left for another
                return False
            raise

    def click(self, x, y):
        """Click at a place of the window."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def tap(self, x, y):
        """Touch a place of the window."""
        self.send("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def click_on(self, selector):
        """Click in the middle of the first element that a selector finds."""
        box = self.run(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)});"
            " one.scrollIntoView({block: 'center'}); const box = one.getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        self.click(*box)

    def press(self, key):
        """Press and release a key."""
        text = {"text": "\r" if key == "Enter" else key} if len(key) == 1 or key == "Enter" else {}
        code = {"code": _CODES.get(key, key), "windowsVirtualKeyCode": _VIRTUAL.get(key, ord(key[0].upper()))}
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, **code, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, **code)

    def complaints(self):
        """What the console and uncaught errors say since the page was opened, and the addresses it asked for."""
        self.run("1")
        said, asked = [], []
        for event in self.events:
            params = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                said.append(str(params["exceptionDetails"].get("exception", {}).get("description")))
            elif event.get("method") == "Runtime.consoleAPICalled":
                said.append(str(params["args"]))
            elif event.get("method") == "Log.entryAdded":
                said.append(params["entry"]["text"])
            elif event.get("method") == "Network.requestWillBeSent":
                asked.append(params["request"]["url"])
        return said, asked

    def picture(self, path):
        """Write a picture of the window as PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))
