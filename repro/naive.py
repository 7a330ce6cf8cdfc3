"""Naive estimates that are made once: the slow first step of training a GradNet with BM3D.

BM3D as its package comes takes 2 seconds of a core for a colour patch of 64 x 64, many times what the network's own
step takes; document 003 calls such training extremely long. With equal variances (:mod:`repro.models.classical`) it
takes 0.15, which is still most of such a step. Within a run no training patch comes back: its place and its noise are
new at every step. But they are a function of seed and step (repro.data.patches), so every run with the same seed meets
the same patches: with another loss, another fusion, or resumed. And validation pairs are the same each time. An
estimate is kept under the checksum of what it was made from, in the cache folder, and the patches of a batch are worked
on side by side. What it was made from has the libraries of the filter in it, by their versions.

A camera's noise stays as it is, and 512 x 512 pixels of a photograph take 31 seconds at once, as long as 15 patches. To
make one estimate for each photograph and cut it like the pair would be cheaper for a long training on pairs with BM3D;
no experiment of the study is one, and their patches are estimated one by one like all others.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from repro import files
from repro.errors import ReproError
from repro.models.base import Denoiser

FORMAT = 1  # of what is kept, and of this package's own part in it: another number, and all is made anew
LIBRARIES = {"bm3d": ("bm3d", "scikit-image")}  # others: scikit-image


def recall(
    denoiser: Denoiser, noisy: Tensor, sigma: Tensor | float | None = None, folder: Path | None = None
) -> Tensor:
    """``denoiser(noisy)`` for [B, C, H, W], from the cache where it is there; else computed and kept.

    ``sigma``: a level for all images, or for each [B], for a denoiser that must be told; it is rounded to a thousandth
    of a gray level. Estimates are rounded to float16 (5e-4 at most), whether they come from the cache or not.
    """
    if not len(noisy):
        return noisy.detach().clone()
    folder = folder or files.cache() / "naive"
    levels = [None] * len(noisy)
    if sigma is not None:
        levels = ((torch.as_tensor(sigma) * 255_000).round() / 255_000).expand(len(noisy)).tolist()
    one = partial(_recall_one, denoiser, folder)
    with ThreadPoolExecutor(min(len(noisy), os.cpu_count() or 1)) as pool:  # the filters' libraries work in C
        estimates = list(pool.map(one, noisy.detach().float().cpu(), levels))
    return torch.stack(estimates).to(noisy)


def _recall_one(denoiser: Denoiser, folder: Path, noisy: Tensor, sigma: float | None) -> Tensor:
    pixels = noisy.contiguous().numpy()
    libraries = {name: version(name) for name in LIBRARIES.get(denoiser.name, ("scikit-image",))}
    about = json.dumps([FORMAT, libraries, denoiser.name, asdict(denoiser.sizes), sigma, pixels.shape])
    digest = hashlib.sha256(about.encode() + pixels.tobytes()).hexdigest()
    path = folder / denoiser.name / digest[:2] / f"{digest[2:]}.npy"
    with suppress(OSError, ValueError, EOFError):  # not there yet, or damaged: as good as absent
        kept = torch.from_numpy(np.load(path, allow_pickle=False)).float()
        if kept.shape == noisy.shape:
            return kept
    estimate = denoiser(noisy[None], sigma=sigma)[0] if denoiser.needs_sigma else denoiser(noisy[None])[0]
    estimate = estimate.half()
    # A full disk costs time, not a run.
    with suppress(ReproError, OSError), files.write_atomically(path) as temporary, temporary.open("wb") as file:
        np.save(file, estimate.numpy())
    return estimate.float()
