"""The files that the SIDD and DND benchmarks score: their noisy images denoised, in the form that they take.

>>> from repro.submission import submit_dnd, submit_sidd
>>> submit_sidd(net, "BenchmarkNoisyBlocksSrgb.mat", "upload", method="SADNet")
>>> submit_dnd(net, "dnd_2017", "upload", method="SADNet")

Neither benchmark hands out its clean images, so the score comes from its home, to which one uploads by hand.

- **SIDD**: ``SubmitSrgb.mat``, which its submission kit writes (``DenoisedBlocksSrgb``, a cell array [image, block] of
  uint8 [row, column, colour]; ``TimeMPSrgb``, seconds per megapixel; ``OptionalData.MethodName``), and
  ``SubmitSrgb.csv``, which its contest on Kaggle takes since (``ID`` from 0, and ``BLOCK``, the bytes of the block in
  base64).
- **DND**: the folder ``bundled`` with ``0001.mat`` to ``0050.mat``: ``Idenoised``, a cell for each box with float32
  [row, column, colour] in [0, 1]; ``israw`` false; ``eval_version`` "1.0". Each box is denoised by itself, as its kit
  does.

A run may be killed at any moment: every finished image is kept, and the same call goes on behind it. Files appear whole
or not at all. ``submission.json`` says what they were made with, and another network, setting or input is refused.
"""

import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from tqdm import tqdm

from repro.data import catalog, official
from repro.errors import ReproError
from repro.evaluate import check_level, denoise
from repro.files import locked, sha256, write_atomically
from repro.models.base import Denoiser
from repro.models.ensemble import SelfEnsemble
from repro.weights import checksum

Progress = Callable[[str], None]
"""Called with the name of each image when it is done."""


def submit_sidd(
    net: Denoiser,
    data: str | Path,
    folder: str | Path,
    *,
    method: str,
    sigma_255: float | None = None,
    ensemble: bool = False,
    progress: Progress | None = None,
) -> list[Path]:
    """Denoise the SIDD benchmark and write ``SubmitSrgb.mat`` and ``SubmitSrgb.csv`` in ``folder``; returns both.

    - ``net``: works where its parameters are.
    - ``data``: a name in the catalogue, ``BenchmarkNoisyBlocksSrgb.mat``, or its folder.
    - ``method``: what the upload calls the method.
    - ``sigma_255``: the level of the noise, for a network that must be told.
    - ``ensemble``: the mean of the estimates of the eight turned and mirrored versions.
    - ``progress``: left out, there is a bar on a terminal.

    Raises :class:`ReproError` for input that is not the benchmark's, and for a folder with another submission.
    """
    folder = Path(folder)
    noisy = official.read_sidd_benchmark(catalog.find_layout(str(data), "sidd-benchmark"))
    check_level(net, sigma=_of_unit(sigma_255))  # before the folder is claimed for it
    made_with = _describe(net, method, sigma_255, ensemble)
    with _claimed(folder, "sidd", made_with, {noisy.path.name: sha256(noisy.path)}):
        return _write_sidd(SelfEnsemble(net) if ensemble else net, noisy, folder, method, sigma_255, progress)


def _write_sidd(
    net: Denoiser,
    noisy: official.Variable,
    folder: Path,
    method: str,
    sigma_255: float | None,
    progress: Progress | None,
) -> list[Path]:
    images, blocks, height, width, _ = noisy.shape
    done = [folder / "SubmitSrgb.mat", folder / "SubmitSrgb.csv"]
    if all(path.exists() for path in done):
        return done
    parts = [folder / "parts" / f"{image + 1:02d}.npz" for image in range(images)]
    with _bar(parts, "sidd", progress) as bar:
        for image, part in enumerate(parts):
            if not part.exists():
                began = time.perf_counter()
                clean = np.stack([_denoise(net, noisy.image(image, block), sigma_255) for block in range(blocks)])
                with write_atomically(part) as temporary:
                    np.savez(temporary, blocks=clean, seconds=time.perf_counter() - began)
            _advance(bar, part.stem, progress)
    finished = np.empty((images, blocks), dtype=object)
    seconds = 0.0
    for image, part in enumerate(parts):
        with official.reading(part), np.load(part) as content:
            seconds += float(content["seconds"])
            for block, clean in enumerate(content["blocks"]):
                finished[image, block] = clean
    megapixels = images * blocks * height * width / 2**20
    content = {
        "DenoisedBlocksSrgb": finished,
        "TimeMPSrgb": seconds / megapixels,
        "OptionalData": {"MethodName": method},
    }
    _write_matlab(done[0], content, compress=True)
    with write_atomically(done[1]) as temporary, temporary.open("w", newline="") as file:
        file.write("ID,BLOCK\n")
        for number, clean in enumerate(finished.flat):
            file.write(f"{number},{base64.b64encode(clean.tobytes()).decode('ascii')}\n")
    with suppress(OSError):  # what is left of them does no harm
        for part in parts:
            part.unlink()
        parts[0].parent.rmdir()
    return done


def submit_dnd(
    net: Denoiser,
    data: str | Path,
    folder: str | Path,
    *,
    method: str,
    sigma_255: float | None = None,
    ensemble: bool = False,
    progress: Progress | None = None,
) -> list[Path]:
    """Denoise DND and write one file per image in ``folder/bundled``; returns them all.

    ``data`` is a name in the catalogue or the folder of ``info.mat`` and ``images_srgb``. A network that must be told
    the level of the noise is told ``sigma_255`` or, left out, the level that ``info.mat`` states for each box. The rest
    is as in :func:`submit_sidd`; ``method`` is only noted in ``submission.json``, since DND asks for it in its form.
    """
    folder = Path(folder)
    where = catalog.find_layout(str(data), "dnd")
    photographs = official.read_dnd(where)
    for photograph in photographs:  # all of them now, rather than after hours of work
        photograph.check()
        for level in _find_levels(net, photograph, sigma_255):
            check_level(net, sigma=_of_unit(level))
    sizes = {photograph.path.name: photograph.path.stat().st_size for photograph in photographs}
    read = {"info.mat": sha256(where / "info.mat"), "bytes": sizes}
    with _claimed(folder, "dnd", _describe(net, method, sigma_255, ensemble), read):
        return _write_dnd(SelfEnsemble(net) if ensemble else net, photographs, folder, sigma_255, progress)


def _write_dnd(
    net: Denoiser,
    photographs: list[official.DNDImage],
    folder: Path,
    sigma_255: float | None,
    progress: Progress | None,
) -> list[Path]:
    done = [folder / "bundled" / f"{photograph.name}.mat" for photograph in photographs]
    with _bar(photographs, "dnd", progress) as bar:
        for photograph, path in zip(photographs, done, strict=True):
            if not path.exists():
                levels = _find_levels(net, photograph, sigma_255)
                finished = np.empty(len(levels), dtype=object)
                for box, (noisy, level) in enumerate(zip(photograph.crop(), levels, strict=True)):
                    finished[box] = _denoise(net, noisy, level)
                _write_matlab(path, {"Idenoised": finished, "israw": False, "eval_version": "1.0"})
            _advance(bar, photograph.name, progress)
    return done


def _find_levels(net: Denoiser, photograph: official.DNDImage, sigma_255: float | None) -> list[float | None]:
    """What the network is told of the noise in each box."""
    if sigma_255 is None and net.needs_sigma and photograph.sigmas is not None:
        return [255 * sigma for sigma in photograph.sigmas]
    return [sigma_255] * len(photograph.boxes)


def _denoise(net: Denoiser, noisy: np.ndarray, sigma_255: float | None) -> np.ndarray:
    """[H, W, 3], of the kind and range that ``noisy`` is."""
    return denoise(noisy, model=net, sigma=_of_unit(sigma_255))


def _of_unit(sigma_255: float | None) -> float | None:
    """The same level in units of [0, 1]."""
    return None if sigma_255 is None else sigma_255 / 255


def _describe(net: Denoiser, method: str, sigma_255: float | None, ensemble: bool) -> dict:
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    return {
        "method": method,
        "network": net.name,
        "sizes": repr(net.sizes),
        "weights_sha256": checksum(weights),
        "sigma_255": sigma_255,
        "ensemble": ensemble,
    }


@contextmanager
def _claimed(folder: Path, benchmark: str, made_with: dict, read: dict) -> Iterator[None]:
    """Within the block the folder is this submission's, and no other process writes there.

    Raises :class:`ReproError` where one does, and where the folder holds something else than the beginning of this.
    """
    if folder.exists() and not folder.is_dir():
        raise ReproError(f"{folder} is a file; a submission goes to a folder.")
    with locked(folder / ".lock", f"Another process is writing a submission in {folder}."):
        _claim(folder, {"benchmark": benchmark, **made_with, "input": read})
        yield


def _claim(folder: Path, wanted: dict) -> None:
    """Write ``submission.json``, or raise :class:`ReproError` if the folder holds something else than its beginning.

    A note of a submission of which nothing is there yet is written anew.
    """
    note = folder / "submission.json"
    begun = any((folder / name).exists() for name in ("bundled", "parts", "SubmitSrgb.mat", "SubmitSrgb.csv"))
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if begun:
            raise ReproError(f"{folder} holds a submission of unknown origin: name another folder.") from None
        found = dict.fromkeys(wanted)
    except (OSError, ValueError) as error:
        raise ReproError(f"Cannot read {note}: {error}.") from None
    found = found if isinstance(found, dict) else {}
    differing = [key for key in wanted | found if found.get(key) != wanted.get(key)]
    if differing and not begun and found.keys() == wanted.keys():  # by other keys it is no note of a submission
        with write_atomically(note) as temporary:
            temporary.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
    elif differing:
        raise ReproError(
            f"{folder} holds a submission that was made otherwise (submission.json: {', '.join(differing)}): name "
            f"another folder."
        )


def _write_matlab(path: Path, content: dict, compress: bool = False) -> None:
    from scipy.io import savemat

    with write_atomically(path) as temporary:
        savemat(temporary, content, do_compression=compress)


def _bar(items: list, name: str, progress: Progress | None) -> tqdm:
    # A bar on a terminal only, and only where nobody else reports.
    return tqdm(total=len(items), desc=name, unit="image", disable=True if progress else None)


def _advance(bar: tqdm, name: str, progress: Progress | None) -> None:
    bar.update()
    if progress:
        progress(name)
