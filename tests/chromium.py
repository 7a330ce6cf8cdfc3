"""The browser with a keyboard, a mouse and fingers: just enough to try the pages that have scripts."""

from repro import chromium
from repro.chromium import PROGRAM

__all__ = ["PROGRAM", "Browser"]


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
