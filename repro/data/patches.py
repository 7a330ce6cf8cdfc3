"""Training patches as a pure function of (seed, step).

The batch of step ``s`` is drawn from a counter-based generator (Philox) whose key is the seed and whose
counter is (step, sample). Nothing is remembered between steps, so a resumed run needs no sampler state,
several processes can each draw their own slice of the same batch, and a background thread may work ahead
without changing a bit.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from repro.errors import ReproError

Corrupt = Callable[[Tensor, torch.Generator], Tensor]
"""Takes a clean patch ``[C,H,W]`` in [0, 1] and a random generator, returns the noisy patch."""


class Patches:
    """Random crops, turned and mirrored, with fresh noise.

    Every position of a ``patch`` x ``patch`` window in every image is equally likely, with replacement (so
    larger images are seen more often, as when a data set is cut into crops beforehand). Each crop undergoes
    one of the eight symmetries of the square ("rotate and flip", SADNet section 4.1), then ``corrupt``
    makes its noisy version.

    Images are uint8 ``[C,H,W]`` on the CPU, decoded once; 400 photographs of 481 x 321 take 185 MB.
    ``part`` is ``(rank, processes)``: the processes of a distributed run share one batch, a contiguous
    slice each.
    """

    def __init__(
        self,
        images: Sequence[Tensor],
        patch: int,
        batch: int,
        seed: int,
        corrupt: Corrupt,
        part: tuple[int, int] = (0, 1),
    ):
        rank, processes = part
        if batch % processes:
            raise ReproError(f"A batch of {batch} cannot be shared equally by {processes} processes.")
        small = [tuple(image.shape[1:]) for image in images if min(image.shape[1:]) < patch]
        if small or not images:
            what = f"an image of {small[0][1]} x {small[0][0]} pixels" if small else "a set without images"
            raise ReproError(f"Patches of {patch} x {patch} cannot be cut from {what}.")
        self.images, self.patch, self.seed, self.corrupt = images, patch, seed, corrupt
        self.samples = range(rank * batch // processes, (rank + 1) * batch // processes)
        self._columns = [image.shape[2] - patch + 1 for image in images]
        rows = [image.shape[1] - patch + 1 for image in images]
        self._ends = np.cumsum(np.multiply(rows, self._columns))

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """``(noisy, clean)`` of this step: float32 ``[B,C,patch,patch]``, clean in [0, 1]."""
        noisy, clean = zip(*(self._sample(step, sample) for sample in self.samples), strict=True)
        return torch.stack(noisy), torch.stack(clean)

    def batches(
        self, first: int, workers: int = 1, pin_memory: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
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
        position = int(random.integers(self._ends[-1]))
        index = int(np.searchsorted(self._ends, position, side="right"))
        top, left = divmod(position - int(self._ends[index - 1] if index else 0), self._columns[index])
        turns, mirror, noise_seed = random.integers(4), random.integers(2), random.integers(2**63)
        crop = self.images[index][:, top : top + self.patch, left : left + self.patch].rot90(
            int(turns), (1, 2)
        )
        clean = (crop.flip(2) if mirror else crop).to(torch.float32) / 255
        return self.corrupt(clean, torch.Generator().manual_seed(int(noise_seed))), clean
