"""Chromium without a window, driven over its debugging protocol: just enough to try the pages that have scripts."""

import itertools
import json
import shutil
import subprocess
import time
from pathlib import Path

import requests
import websocket  # websocket-client, which JupyterLab needs

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One page. Network access is off; what the page logs as an error is kept in ``errors``."""

    def __init__(self, profile: Path, patience_s: float = 120):
        self.patience_s, self.errors, self.requested = patience_s, [], []
        self._number = itertools.count(1)
        self._process = subprocess.Popen(
            [
                PROGRAM, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
                "--remote-allow-origins=*", f"--user-data-dir={profile}", "--proxy-server=127.0.0.1:9", "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            port = self._wait(lambda: (profile / "DevToolsActivePort").read_text().split()[0], OSError, IndexError)
            pages = self._wait(lambda: self._list_pages(port), requests.RequestException, StopIteration)
            self._socket = websocket.create_connection(pages["webSocketDebuggerUrl"], timeout=patience_s)
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.send(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _list_pages(port: str) -> dict:
        session = requests.Session()
        session.trust_env = False  # no proxy on the way to this machine
        listed = session.get(f"http://127.0.0.1:{port}/json", timeout=10).json()
        return next(page for page in listed if page["type"] == "page")

    def _wait(self, ask, *tolerated):
        end = time.monotonic() + self.patience_s
        while True:
            try:
                return ask()
            except tolerated:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    def send(self, method: str, **parameters) -> dict:
        """Call ``method`` of the protocol, and return its result."""
        number = next(self._number)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            self._note(message)
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    def _note(self, message: dict) -> None:
        event, values = message.get("method"), message.get("params", {})
        if event == "Runtime.exceptionThrown":
            self.errors.append(values["exceptionDetails"].get("exception", {}).get("description", "exception"))
        elif event == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning"):
            self.errors.append(" ".join(str(part.get("value", part)) for part in values["args"]))
        elif event == "Log.entryAdded" and values["entry"]["level"] == "error":
            self.errors.append(values["entry"]["text"])
        elif event == "Network.requestWillBeSent":
            self.requested.append(values["request"]["url"])

    def run(self, script: str):
        """The value of ``script``, a JavaScript expression; promises are waited for."""
        answer = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Return once the expression ``condition`` is true."""
        end = time.monotonic() + self.patience_s
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < end, f"never true: {condition}; the page says {self.errors}"
            time.sleep(0.1)

    def open(self, page: Path) -> None:
        self.send("Page.navigate", url=page.resolve().as_uri())
        self.wait_for(f"location.href.endsWith({page.name!r}) && document.readyState === 'complete'")

    def resize(self, width: int, height: int, touch: bool = False) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch
        )
        self.send("Emulation.setTouchEmulationEnabled", enabled=touch, maxTouchPoints=5)

    def press(self, key: str, shift: bool = False) -> None:
        text = {"text": key} if len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, modifiers=8 * shift, **text)
        self.settle()

    def move(self, selector: str, x: float, y: float, kind: str = "mouseMoved", **more) -> None:
        """A mouse event at the shares ``x`` and ``y`` of the sides of an element."""
        left, top = self._place(selector, x, y)
        self.send("Input.dispatchMouseEvent", type=kind, x=left, y=top, **more)
        self.settle()

    def drag(self, selector: str, start: tuple[float, float], end: tuple[float, float]) -> None:
        self.move(selector, *start, "mousePressed", button="left", buttons=1, clickCount=1)
        self.move(selector, *end, "mouseMoved", button="left", buttons=1)
        self.move(selector, *end, "mouseReleased", button="left", clickCount=1)

    def touch(self, selector: str, kind: str, *fingers: tuple[float, float]) -> None:
        points = [dict(zip("xy", self._place(selector, *finger), strict=True)) for finger in fingers]
        points = [point | {"id": number} for number, point in enumerate(points)]
        self.send("Input.dispatchTouchEvent", type=kind, touchPoints=points)
        self.settle()

    def _place(self, selector: str, x: float, y: float) -> list[float]:
        box = self.run(
            f"(() => {{ const one = document.querySelector({selector!r}); one.scrollIntoView({{block: 'center', "
            "behavior: 'instant'}); const box = one.getBoundingClientRect(); "
            "return [box.left, box.top, box.width, box.height]; })()"
        )
        return [box[0] + x * box[2], box[1] + y * box[3]]

    def settle(self) -> None:
        """Two frames later, what an event has changed is drawn."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
