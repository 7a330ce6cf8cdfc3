"""Chromium without a window, driven over its debugging protocol: it prints the book, and the tests try its pages."""

import base64
import itertools
import json
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import requests
import websocket  # websocket-client

from repro.errors import ReproError

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class NavigatedError(RuntimeError):
    """The page was left before it could answer."""


class Browser:
    """One page, with no network but this machine's own addresses.

    What the page logs as an error is kept in ``errors``, what it asks for in ``requested``, and what it asked for in
    vain in ``failed``. The three go on growing from page to page until they are cleared.
    """

    def __init__(self, profile: Path, patience_s: float = 120):
        self.patience_s, self.errors, self.requested, self.failed = patience_s, [], [], []
        self._number, self._addresses, self._shown, self._socket = itertools.count(1), {}, None, None
        port_file = profile / "DevToolsActivePort"
        port_file.unlink(missing_ok=True)  # an earlier browser's, where the profile was used before
        self._process = subprocess.Popen(
            [
                PROGRAM, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
                "--remote-allow-origins=*", f"--user-data-dir={profile}", "--proxy-server=127.0.0.1:9", "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            port = self._wait(lambda: port_file.read_text().split()[0], OSError, IndexError)
            pages = self._wait(lambda: self._list_pages(port), requests.RequestException, StopIteration)
            self._socket = websocket.create_connection(pages["webSocketDebuggerUrl"], timeout=patience_s)
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.send(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

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
                if self._process.poll() is not None:
                    raise ReproError(f"{PROGRAM} ended before it showed a page; does it start by itself?") from None
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
                if "error" in message:
                    left = any(word in message["error"]["message"] for word in ("navigated", "context"))
                    raise (NavigatedError if left else RuntimeError)(f"{method}: {message['error']}")
                return message["result"]

    def _note(self, message: dict) -> None:
        event, values = message.get("method"), message.get("params", {})
        if event == "Runtime.exceptionThrown":
            about = values["exceptionDetails"]
            self.errors.append(about.get("exception", {}).get("description", about["text"]))
        elif event == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning"):
            self.errors.append(" ".join(str(part.get("value", part)) for part in values["args"]))
        elif event == "Log.entryAdded" and values["entry"]["level"] == "error":
            self.errors.append(values["entry"]["text"])
        elif event == "Network.requestWillBeSent":
            self._addresses[values["requestId"]] = values["request"]["url"]
            self.requested.append(values["request"]["url"])
        elif event == "Page.frameNavigated" and "parentId" not in values["frame"]:
            self._shown = values["frame"]["loaderId"]
        elif event == "Network.loadingFailed" and not values.get("canceled"):
            self.failed.append(self._addresses.get(values["requestId"], values["requestId"]))

    def run(self, script: str):
        """The value of ``script``, a JavaScript expression; promises are waited for."""
        answer = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Return once the expression ``condition`` is true."""
        end = time.monotonic() + self.patience_s
        while not self._holds(condition):
            if time.monotonic() > end:
                raise TimeoutError(f"never true: {condition}; the page says {self.errors}")
            time.sleep(0.1)

    def _holds(self, condition: str) -> bool:
        with suppress(NavigatedError):
            return self.run(f"Boolean({condition})")
        return False

    def open(self, page: Path | str) -> None:
        """Open a file, or an address of this machine, and return when it and what it names are loaded."""
        begun = self.send("Page.navigate", url=page.resolve().as_uri() if isinstance(page, Path) else page)
        if begun.get("errorText"):
            raise RuntimeError(f"{page}: {begun['errorText']}")
        self._wait(lambda: self._expect(begun["loaderId"]), LookupError)  # until then the old page would answer
        self.wait_for("document.readyState === 'complete'")

    def _expect(self, page: str) -> None:
        self.run("0")  # to hear what happened
        if self._shown != page:
            raise LookupError(page)

    def typeset(self) -> None:
        """Return when the page's letters are loaded, its formulas set and its pictures decoded, hidden ones too."""
        self.run("window.MathJax?.startup?.promise ?? null")
        self.run("document.fonts.ready.then(() => null)")
        self.run(
            "Promise.all([...document.images].map((one) => { one.loading = 'eager'; "
            "return one.decode().catch(() => 0); })).then(() => null)"
        )

    def resize(self, width: int, height: int, touch: bool = False) -> None:
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)
        self.send("Emulation.setTouchEmulationEnabled", enabled=touch, maxTouchPoints=5)

    def print_pdf(self, **options) -> bytes:
        """The page on paper; ``options`` are those of the protocol's ``Page.printToPDF``."""
        return base64.b64decode(self.send("Page.printToPDF", **options)["data"])

    def settle(self) -> None:
        """Two frames later, what an event has changed is drawn, or the page is another one."""
        with suppress(NavigatedError):
            self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def close(self) -> None:
        """Ask Chromium to end, so that none of its processes writes in the profile any more, which may be deleted then;
        one that has not ended after 10 seconds is killed."""
        try:
            if self._socket is not None:
                with suppress(websocket.WebSocketException, OSError, ValueError):
                    self._socket.send(json.dumps({"id": next(self._number), "method": "Browser.close"}))
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(10)
        finally:
            self._process.kill()
            self._process.wait()
