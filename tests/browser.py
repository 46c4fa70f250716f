"""A real browser, driven over a pipe by the DevTools protocol: real keys, clicks, reloads and downloads."""

import base64
import contextlib
import fcntl
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import time
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe",
         "--no-first-run", "--disable-background-networking", "--disable-extensions", "about:blank")  # fmt: skip
# The browser reads commands from file descriptor 3 and writes answers to 4.
LAUNCH = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execvp(sys.argv[3], sys.argv[3:])"
)
PATIENCE = 120.0  # seconds, on a busy machine
CODES = {"ArrowLeft": 37, "ArrowRight": 39, "Backspace": 8, "Enter": 13}


def program() -> str | None:
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Browser:
    """One page. `folder` takes the profile and downloads."""

    def __init__(self, folder: pathlib.Path):
        commands, answers = os.pipe(), os.pipe()
        # Numbers that the two wanted ones cannot overwrite.
        theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands[0], answers[1])]
        for end in (commands[0], answers[1]):
            os.close(end)
        self.out, self.into, self.pending, self.number = commands[1], answers[0], b"", 0
        command = [sys.executable, "-c", LAUNCH, *map(str, theirs), program(), f"--user-data-dir={folder / 'profile'}"]
        self.process = subprocess.Popen(
            [*command, *FLAGS], pass_fds=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for end in theirs:
            os.close(end)
        self.session, self.folder = None, folder
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")

    def call(self, method: str, **parameters: Any) -> dict:
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.out, json.dumps(message).encode() + b"\0")
        return self._until(lambda answer: answer.get("id") == self.number).get("result", {})

    def _until(self, wanted) -> dict:
        deadline = time.monotonic() + PATIENCE
        while True:
            while b"\0" in self.pending:
                line, _, self.pending = self.pending.partition(b"\0")
                answer = json.loads(line)
                if "error" in answer:
                    raise RuntimeError(answer["error"])
                if wanted(answer):
                    return answer
            if not select.select([self.into], [], [], max(0, deadline - time.monotonic()))[0]:
                raise TimeoutError("the browser did not answer")
            content = os.read(self.into, 1 << 20)
            if not content:
                raise RuntimeError("the browser ended")
            self.pending += content

    def open(self, path: pathlib.Path) -> None:
        self.call("Page.navigate", url=path.as_uri())
        self._loaded()

    def reload(self) -> None:
        self.call("Page.reload")
        self._loaded()

    def _loaded(self) -> None:
        self._until(lambda answer: answer.get("method") == "Page.loadEventFired")

    def evaluate(self, expression: str) -> Any:
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"])
        return found["result"].get("value")

    def press(self, key: str, repeat: bool = False) -> None:
        code = CODES.get(key) or ord(key)
        letter = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        about = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", autoRepeat=repeat, **about, **letter)
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def write(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        where = f"document.querySelector('{selector}').getBoundingClientRect()"
        box = self.evaluate(f"(r => [r.x + r.width / 2, r.y + r.height / 2])({where})")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def screenshot(self, path: pathlib.Path, width: int, height: int, dark: bool) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        time.sleep(0.5)  # pictures fade in
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def downloaded(self, pattern: str) -> list[pathlib.Path]:
        """The files of that pattern, once there are some."""
        deadline = time.monotonic() + PATIENCE
        while not (found := list(self.folder.glob(pattern))) and time.monotonic() < deadline:
            time.sleep(0.1)
        return found

    def close(self) -> None:
        with contextlib.suppress(RuntimeError, OSError, TimeoutError):
            self.session = None
            self.call("Browser.close")
        for end in (self.out, self.into):
            os.close(end)
        self.process.wait(PATIENCE)
