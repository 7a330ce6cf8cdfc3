"""Training patches as a pure function of (seed, step).

The batch of step ``s`` is drawn from a counter-based generator (Philox) whose key is the seed and whose
counter is (step, sample). Nothing is remembered between steps, so a resumed run needs no sampler state,
several processes can each draw their own slice of the same batch, and a background thread may work ahead
without changing a bit.

Noise is drawn on top of clean photographs, or it is a camera's: some of each batch, or all of it, may come from
pairs of a noisy and a clean photograph of the same view.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from repro import files
from repro.data import catalog
from repro.errors import ReproError

IN_MEMORY_BYTES = 4 << 30
"""Decoded photographs of a set that takes more are kept in files and mapped: SIDD Medium would take 30 GB."""

Corrupt = Callable[[Tensor, torch.Generator], Tensor]
"""Takes a clean patch ``[C,H,W]`` in [0, 1] and a random generator, returns the noisy patch."""


class Patches:
    """Random crops, turned and mirrored, with fresh noise or a camera's.

    Every position of a ``patch`` x ``patch`` window in every image is equally likely, with replacement (so
    larger images are seen more often, as when a data set is cut into crops beforehand). Each crop undergoes
    one of the eight symmetries of the square ("rotate and flip", SADNet section 4.1), then ``corrupt``
    makes its noisy version.

    ``pairs_in_batch`` samples of each batch are cut from ``pairs`` instead, (noisy, clean), both with the same
    window and symmetry and otherwise as they are. They are spread evenly over the batch: always the same
    samples, which ``real`` [B] marks. Where all are, ``images`` may be empty.

    Images are uint8 ``[C,H,W]`` on the CPU, decoded once (:func:`read_photographs`); 400 photographs of
    481 x 321 take 185 MB. ``part`` is ``(rank, processes)``: the processes of a distributed run share one
    batch, a contiguous slice each.
    """

    def __init__(
        self,
        images: Sequence[Tensor],
        patch: int,
        batch: int,
        seed: int,
        corrupt: Corrupt,
        part: tuple[int, int] = (0, 1),
        pairs: Sequence[tuple[Tensor, Tensor]] = (),
        pairs_in_batch: int = 0,
    ):
        rank, processes = part
        if batch % processes:
            raise ReproError(f"A batch of {batch} cannot be shared equally by {processes} processes.")
        self.patch, self.seed, self.corrupt = patch, seed, corrupt
        self.samples = range(rank * batch // processes, (rank + 1) * batch // processes)
        share = [(sample + 1) * pairs_in_batch // batch > sample * pairs_in_batch // batch for sample in range(batch)]
        self.real = torch.tensor([share[sample] for sample in self.samples])
        self._images = _Windows([(image,) for image in images], patch) if pairs_in_batch < batch else None
        self._pairs = _Windows(pairs, patch) if pairs_in_batch else None

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """``(noisy, clean)`` of this step: float32 ``[B,C,patch,patch]``, clean in [0, 1]."""
        noisy, clean = zip(*(self._sample(step, sample) for sample in self.samples), strict=True)
        return torch.stack(noisy), torch.stack(clean)

    def batches(self, first: int, workers: int = 1, pin_memory: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of steps ``first``, ``first + 1``, ... without end, prepared in ``workers``
        threads."""

        def prepare(step):
            noisy, clean = self.batch(step)
            return (noisy.pin_memory(), clean.pin_memory()) if pin_memory else (noisy, clean)

        with ThreadPoolExecutor(workers, thread_name_prefix="patches") as pool:
            ahead = 2 * workers
            pending = [pool.submit(prepare, first + k) for k in range(ahead)]
            try:
                while True:
                    first += 1
                    yield pending.pop(0).result()
                    pending.append(pool.submit(prepare, first + ahead - 1))
            finally:
                pool.shutdown(cancel_futures=True)

    def _sample(self, step: int, sample: int) -> tuple[Tensor, Tensor]:
        random = np.random.Generator(np.random.Philox(key=self.seed, counter=(0, 0, sample, step)))
        real = bool(self.real[sample - self.samples.start])
        windows = self._pairs if real else self._images
        crops = windows.cut(int(random.integers(windows.count)))
        turns, mirror, noise_seed = random.integers(4), random.integers(2), random.integers(2**63)
        turned = (crop.rot90(int(turns), (1, 2)) for crop in crops)
        *noisy, clean = ((crop.flip(2) if mirror else crop).to(torch.float32) / 255 for crop in turned)
        if real:
            return noisy[0], clean
        return self.corrupt(clean, torch.Generator().manual_seed(int(noise_seed))), clean


class _Windows:
    """All positions of a square in images, or in pairs of equal size, numbered."""

    def __init__(self, images: Sequence[tuple[Tensor, ...]], patch: int):
        sizes = [image.shape[1:] for image, *_ in images]
        small = [tuple(size) for size in sizes if min(size) < patch]
        if small or not sizes:
            what = f"an image of {small[0][1]} x {small[0][0]} pixels" if small else "a set without images"
            raise ReproError(f"Patches of {patch} x {patch} cannot be cut from {what}.")
        self.images, self.patch = images, patch
        self._columns = [width - patch + 1 for _, width in sizes]
        self._ends = np.cumsum(np.multiply([height - patch + 1 for height, _ in sizes], self._columns))

    @property
    def count(self) -> int:
        return self._ends[-1]

    def cut(self, position: int) -> list[Tensor]:
        """The window of that number, [C, patch, patch], from an image or from both of a pair."""
        index = int(np.searchsorted(self._ends, position, side="right"))
        top, left = divmod(position - int(self._ends[index - 1] if index else 0), self._columns[index])
        return [image[:, top : top + self.patch, left : left + self.patch] for image in self.images[index]]


# --- the photographs


@dataclass(frozen=True)
class Photograph:
    """A decoded image of a set: uint8 [C, H, W], and its noisy photograph of the same size where it was asked for."""

    name: str
    clean: Tensor
    noisy: Tensor | None = None


def read_photographs(name: str, colour: str = "RGB", pairs: bool = False) -> list[Photograph]:
    """Every image of the set, or folder, ``name``, in the catalogue's order; with its noisy photograph for ``pairs``.

    ``colour`` is "RGB" or "L". A set that takes more than :data:`IN_MEMORY_BYTES` is decoded once, into files in the
    folder ``decoded`` of the cache, and from then on mapped: what a crop touches is read from there, and the system
    drops it again where memory is short. Raises :class:`ReproError` for a set without pairs that is to have them, and
    for a pair of unequal sizes.
    """
    shelf = files.cache() / "decoded" / _fingerprint(name, colour, pairs)
    if (shelf / "index.json").exists():
        return _map(shelf)
    found: list[Photograph] = []
    taken, mapped = 0, False
    for sample in catalog.samples(name, colour):
        if pairs:
            _require_pair(name, sample)
        clean, noisy = (
            None if image is None else (image * 255).round().to(torch.uint8)
            for image in (sample.clean, sample.noisy if pairs else None)
        )
        taken += clean.numel() * (1 + pairs)
        found.append(Photograph(sample.name, clean, noisy))
        if taken > IN_MEMORY_BYTES:
            first = len(found) - 1 if mapped else 0
            found[first:] = [_put(photograph, shelf, first + k) for k, photograph in enumerate(found[first:])]
            mapped = True
    if mapped:
        shapes = [[photograph.name, list(photograph.clean.shape), pairs] for photograph in found]
        with files.write_atomically(shelf / "index.json") as temporary:
            temporary.write_text(json.dumps(shapes))
    return found


def _require_pair(name: str, sample: catalog.Sample) -> None:
    if sample.noisy is None:
        raise ReproError(f"{name} has no noisy photographs: pairs are a set like polyu, or folders clean and noisy.")
    if sample.noisy.shape != sample.clean.shape:
        noisy, clean = (f"{image.shape[2]} x {image.shape[1]}" for image in (sample.noisy, sample.clean))
        raise ReproError(f"{sample.name} of {name} is {noisy} pixels where it is noisy and {clean} where it is clean.")


def _fingerprint(name: str, colour: str, pairs: bool) -> str:
    """Of what would be decoded: another when one of the files that the set lists changes."""
    about: list = [colour, pairs]
    for image, *paths in catalog.paths(name):
        stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths if path is not None]
        about.append([image, *stats])
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]


def _put(photograph: Photograph, shelf: Path, number: int) -> Photograph:
    """The photograph in a file, the noisy image behind the clean one, and mapped from there."""
    both = [image for image in (photograph.clean, photograph.noisy) if image is not None]
    with files.write_atomically(shelf / f"{number}.uint8") as temporary, temporary.open("wb") as file:
        for image in both:
            file.write(image.contiguous().numpy())
    return _take(shelf, number, photograph.name, photograph.clean.shape, len(both) == 2)


def _take(shelf: Path, number: int, name: str, shape: Sequence[int], pair: bool) -> Photograph:
    images = 1 + pair
    size = images * int(np.prod(shape))
    decoded = torch.from_file(str(shelf / f"{number}.uint8"), shared=False, size=size, dtype=torch.uint8)
    return Photograph(name, *decoded.view(images, *shape))


def _map(shelf: Path) -> list[Photograph]:
    index = json.loads((shelf / "index.json").read_text())
    return [_take(shelf, number, *about) for number, about in enumerate(index)]
