"""The controls of the notebook ``gallery``: what :mod:`repro.gallery` can do, for mouse and keyboard.

ipywidgets draws the controls. The two that it lacks, pictures that can be clicked and a file control for files of
any size, are a few lines of JavaScript beside this file (anywidget), which load nothing from elsewhere. A choice
that cannot be carried out is said in one sentence below the controls; there is never a traceback.
"""

import html
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anywidget
import traitlets
from ipywidgets import HTML, Dropdown, FloatSlider, IntSlider, RadioButtons, Text, VBox

from repro import gallery, plots
from repro.errors import ReproError
from repro.gallery import Photograph, Trial

HERE = Path(__file__).parent
MOST_BYTES = 400_000_000  # of a file that is handed over, which takes twice its size for a moment
ADD, TAKE = "add noise to it", "it is noisy already"


class Pictures(anywidget.AnyWidget):
    """Pictures side by side; a click sets ``position``."""

    _esm = HERE / "gallery_pictures.js"
    _css = HERE / "gallery.css"
    pictures = traitlets.List().tag(sync=True)  # of {"title", "caption", "alt", "address"}
    size = traitlets.List([1, 1]).tag(sync=True)  # height and width in pixels
    position = traitlets.List([0, 0]).tag(sync=True)  # y and x in pixels
    marked = traitlets.Bool(False).tag(sync=True)  # whether there is a position to see and to choose


class Upload(anywidget.AnyWidget):
    """A file control. ``receive`` is called with the name and the bytes of each file, ``refuse`` with a sentence."""

    _esm = HERE / "gallery_upload.js"
    _css = HERE / "gallery.css"
    label = traitlets.Unicode("").tag(sync=True)
    most_bytes = traitlets.Int(MOST_BYTES).tag(sync=True)

    def __init__(self, receive: Callable[[str, bytes], None], refuse: Callable[[str], None], **values):
        super().__init__(**values)
        self._receive, self._refuse, self._arrived = receive, refuse, bytearray()
        self.on_msg(self._take)

    def _take(self, _widget, content: dict, buffers: list) -> None:
        name, bytes_, start = content["name"], content["bytes"], content["start"]
        if start < 0:
            self._refuse(f"{name} has {bytes_ / 1e6:.0f} MB; {self.most_bytes / 1e6:.0f} are the most that is read.")
            return
        if start == 0:
            self._arrived = bytearray()
        self._arrived += b"".join(bytes(buffer) for buffer in buffers)
        if len(self._arrived) == bytes_:
            data, self._arrived = bytes(self._arrived), bytearray()
            self._receive(name, data)


class Gallery:
    """The controls and what they show: ``Gallery(trial).box`` is the widget to display.

    ``trial`` is what is shown first, ``position`` (y, x) in pixels whose kernels are; ``seed`` is that of the noise.
    """

    def __init__(self, trial: Trial, position: tuple[int, int] | None = None, seed: int = 0):
        self.trial, self.seed, self._quiet = trial, seed, False
        self._own: dict[str, Photograph] = {}
        if trial.photograph.name not in gallery.list_photographs():
            self._own[trial.photograph.name] = trial.photograph
        methods = {f"{name}, {about}": name for name, about in gallery.list_methods().items()}
        if trial.method not in methods.values():
            methods = {trial.method or "a network that is not the study's": trial.method} | methods
        wide, style = {"width": "min(100%, 640px)"}, {"description_width": "110px"}
        look = {"layout": wide, "style": style}
        self.photograph = Dropdown(description="photograph", options=self._list_names(), **look)
        self.upload = Upload(self._receive, self._refuse, label="your own file")
        self.path = Text(description="or its path", placeholder="~/photo.png", continuous_update=False, **look)
        self.noise = RadioButtons(description="noise", options=[ADD, TAKE], orientation="horizontal", **look)
        self.sigma_255 = FloatSlider(
            description="sigma of 255", min=0, max=gallery.SIGMA_255_MAX, step=1, readout_format=".0f",
            continuous_update=False, **look,
        )  # fmt: skip
        self.method = Dropdown(description="method", options=methods, **look)
        self.status = HTML()
        self.pictures = Pictures()
        self.column = IntSlider(description="pixel, x", min=0, continuous_update=False, **look)
        self.row = IntSlider(description="pixel, y", min=0, continuous_update=False, **look)
        self.kernels = HTML()
        with self._quietly():
            self.photograph.value = trial.photograph.name
            self.noise.value = TAKE if trial.clean is None else ADD
            self.sigma_255.value = trial.sigma_255
            self.method.value = trial.method
        for control in (self.photograph, self.noise, self.sigma_255, self.method):
            control.observe(self._try, "value")
        self.path.observe(self._read, "value")
        self.column.observe(self._move, "value")
        self.row.observe(self._move, "value")
        self.pictures.observe(self._click, "position")
        self.box = VBox(
            [
                self.photograph, self.upload, self.path, self.noise, self.sigma_255, self.method, self.status,
                self.pictures, self.column, self.row, self.kernels,
            ]
        )  # fmt: skip
        self._attempt(lambda: self._show(trial, position))

    # --- what the controls do

    def _try(self, _change=None) -> None:
        if not self._quiet:
            self._say("Denoising …")
            self._attempt(self._denoise, clear=True)

    def _denoise(self) -> None:
        name = self.photograph.value
        photograph = self._own.get(name) or gallery.load_photograph(name)
        trial = gallery.try_method(
            photograph, self.method.value, self.sigma_255.value, self.noise.value == ADD, self.seed
        )
        self._show(trial, tuple(self.pictures.position) if photograph.name == self.trial.photograph.name else None)

    def _read(self, _change=None) -> None:
        if self.path.value.strip():
            self._attempt(lambda: self._take(gallery.load_photograph(self.path.value.strip())))

    def _receive(self, name: str, data: bytes) -> None:
        self._attempt(lambda: self._take(gallery.decode_photograph(name, data)))

    def _refuse(self, sentence: str) -> None:
        self._say(sentence, wrong=True)

    def _take(self, photograph: Photograph) -> None:
        self._own[photograph.name] = photograph
        with self._quietly():
            self.photograph.options = self._list_names()
            self.photograph.value = photograph.name
        self._try()

    def _move(self, _change=None) -> None:
        if not self._quiet:
            self.pictures.position = [self.row.value, self.column.value]

    def _click(self, _change=None) -> None:
        if self._quiet:
            return
        with self._quietly():
            self.row.value, self.column.value = self.pictures.position
        self._attempt(self._look)

    # --- what they show

    def _show(self, trial: Trial, position: tuple[int, int] | None) -> None:
        self.trial = trial
        height, width = trial.noisy.shape[1:]
        shown = [
            {
                "title": picture.title,
                "caption": picture.caption,
                "alt": picture.alt,
                "address": gallery.encode_address(picture.image),
            }
            for picture in gallery.list_pictures(trial)
        ]
        deformed = trial.sampling is not None
        with self._quietly(), self.pictures.hold_sync(), self.pictures.hold_trait_notifications():
            self.row.max, self.column.max = height - 1, width - 1
            y, x = position or gallery.choose_position(trial)
            self.row.value, self.column.value = y, x
            self.row.disabled = self.column.disabled = not deformed
            self.pictures.set_trait("size", [height, width])
            self.pictures.position = [self.row.value, self.column.value]
            self.pictures.marked, self.pictures.pictures = deformed, shown
        self._say(gallery.describe_trial(trial))
        self._look()

    def _look(self) -> None:
        if self.trial.sampling is None:
            self.kernels.value = "<p>This method has no deformed kernels to look at; SADNet has.</p>"
            return
        position = (self.row.value, self.column.value)
        about = html.escape(gallery.describe_kernels(self.trial, position))
        address = gallery.wrap_png(plots.encode_png(gallery.draw_kernels(self.trial, position)))
        self.kernels.value = (
            f'<img class="gallery-kernels" src="{address}" alt="The sampling points of the deformed kernels at the '
            f'four scales, from coarse to fine. {about}"><p>{about}</p>'
        )

    def _say(self, sentence: str, wrong: bool = False) -> None:
        kind = "gallery-status is-wrong" if wrong else "gallery-status"
        self.status.value = f'<div class="{kind}" role="status">{html.escape(sentence)}</div>'

    def _list_names(self) -> list[str]:
        return [*self._own, *gallery.list_photographs()]

    def _attempt(self, action: Callable[[], None], clear: bool = False) -> None:
        """Carry out a choice; what prevents it is said, and pictures that would not belong to it are taken away."""
        try:
            action()
            return
        except ReproError as error:
            self._say(str(error), wrong=True)
        except Exception as error:  # as on the command line: a sentence, whatever happens
            self._say(f"Unexpected {type(error).__name__}: {str(error).strip() or 'no more is known'}", wrong=True)
        if clear:
            with self._quietly():
                self.pictures.pictures, self.pictures.marked, self.kernels.value = [], False, ""
                self.row.disabled = self.column.disabled = True

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """Controls set by the program rather than by a person start nothing."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before
