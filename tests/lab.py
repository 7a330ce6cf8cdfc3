"""JupyterLab with a notebook in a browser without a window.

``python tests/lab.py`` takes the picture of the gallery notebook that the README shows.
"""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from chromium import Browser
from PIL import Image

from repro import files

QUIET = {"fetchNews": "false", "checkForUpdates": False}  # no question about news over the notebook
WIDTH, HEIGHT = 1000, 1040  # the controls and the pictures, in a picture of a README


class Lab:
    """A server of JupyterLab on a port of its own, in ``folder``, which nothing outside is read from or written to."""

    def __init__(self, folder: Path, patience_s: float = 120):
        self.folder = folder
        settings = folder / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
        settings.parent.mkdir(parents=True)
        settings.write_text(json.dumps(QUIET))
        places = {
            "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
            "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "IPYTHONDIR": "ipython",
        }  # fmt: skip
        (folder / "notebooks").mkdir()
        self._log = (folder / "lab.log").open("w")
        self._process = subprocess.Popen(
            [
                sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0",
                "--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True",
                f"--ServerApp.root_dir={folder / 'notebooks'}",
            ],
            env={**os.environ, **{name: str(folder / place) for name, place in places.items()}},
            stdout=self._log, stderr=subprocess.STDOUT, cwd=folder,
        )  # fmt: skip
        try:
            self.address = self._find_address(time.monotonic() + patience_s)
        except BaseException:
            self.close()
            raise

    def _find_address(self, end: float) -> str:
        while time.monotonic() < end:
            for path in (self.folder / "runtime").glob("jpserver-*.json"):
                return json.loads(path.read_text())["url"]
            if self._process.poll() is not None:
                break
            time.sleep(0.2)
        raise RuntimeError(f"JupyterLab did not start: {(self.folder / 'lab.log').read_text()[-2000:]}")

    def add(self, path: Path) -> None:
        """Copy a notebook to where the server serves it."""
        shutil.copy(path, self.folder / "notebooks")

    def run_all(self, browser: Browser, name: str, shown: str) -> None:
        """Open a notebook, run its cells, and return when the page has an element ``shown`` (a CSS selector)."""
        browser.resize(WIDTH, HEIGHT)
        browser.open(f"{self.address}lab/tree/{name}.ipynb")
        browser.wait_for("window.jupyterapp && document.querySelectorAll('.jp-Notebook .jp-Cell').length > 3")
        panel = "[...jupyterapp.shell.widgets('main')].find((one) => one.sessionContext)"
        browser.wait_for(f"{panel}?.sessionContext.session?.kernel?.status === 'idle'")  # before, it runs nothing
        browser.run(f"void jupyterapp.shell.activateById({panel}.id)")
        browser.run("void jupyterapp.commands.execute('notebook:run-all-cells')")
        browser.wait_for(f"document.querySelector({shown!r})")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        self._process.terminate()  # which ends the kernels, too
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


PICTURES = ".gallery-pictures img"
KERNELS = "img.gallery-kernels"


def shoot_gallery(path: Path) -> None:
    """The gallery notebook's controls and pictures as a PNG of 256 colours."""
    with tempfile.TemporaryDirectory() as place, Lab(Path(place)) as lab, Browser(lab.folder / "profile") as browser:
        lab.add(files.root() / "notebooks" / "gallery.ipynb")
        lab.run_all(browser, "gallery", KERNELS)
        browser.run("void jupyterapp.shell.collapseLeft()")
        browser.run(f"document.querySelector('{KERNELS}').decode().then(() => 0)")
        for _ in range(3):  # JupyterLab lays out anew what comes into sight
            browser.run("document.querySelector('.widget-vbox').scrollIntoView()")
            time.sleep(1)
        shot = base64.b64decode(browser.send("Page.captureScreenshot", format="png")["data"])
    picture = Image.open(io.BytesIO(shot)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    with files.write_atomically(path) as temporary:
        picture.save(temporary, "png", optimize=True)


if __name__ == "__main__":
    shoot_gallery(files.root() / "book" / "_static" / "gallery.png")
