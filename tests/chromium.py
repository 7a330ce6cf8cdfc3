"""The browser with a keyboard, a mouse and fingers: just enough to try the pages that have scripts."""

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from repro import chromium
from repro.chromium import PROGRAM

__all__ = ["PROGRAM", "Browser", "serve"]


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """The address of ``folder`` on a server of this machine, within the block."""

    class Quiet(SimpleHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/favicon.ico":  # browsers ask for it of their own accord
                self.send_response(204)
                self.end_headers()
            else:
                super().do_GET()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


class Browser(chromium.Browser):
    def press(self, key: str, shift: bool = False) -> None:
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, modifiers=8 * shift, **text)
        self.settle()

    def type(self, text: str) -> None:
        """Into whatever has the focus, as from a keyboard that writes all at once."""
        self.send("Input.insertText", text=text)
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
