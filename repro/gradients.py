"""What a GradNet does with the gradient it is given: a measurement, not a picture.

Document 003 fed a network trained with DnCNN's gradients BM3D's instead, and printed the same PSNR to three
decimals. Here the same network gets gradients of every kind, on the same noisy pixels. If it uses them, the
gradient of the clean image must serve it best, and none or a scrambled one must cost it something.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from repro.data import noise
from repro.data.catalog import Sample
from repro.data.images import crop_centre
from repro.errors import ReproError, unknown_name
from repro.metrics import psnr_db
from repro.models.base import Denoiser
from repro.models.gradnet import GradNet, gradient_difference, sobel_magnitude

SIDE = 256  # of the central crop that is measured: 003's results are of patches of this size
KINDS = ("own", "zero", "shuffled", "noisy", "bm3d", "clean")


def measure(
    net: GradNet,
    samples: Iterable[Sample],
    levels_255: Iterable[float] = (25, 50),
    kinds: Iterable[str] = KINDS,
    bm3d: Denoiser | None = None,
) -> pd.DataFrame:
    """One row per image, noise level and kind of gradient, on the central 256 x 256 of each sample.

    Kinds: the network's ``own`` naive estimate's (the noisy image's, where it has none, as after a training with the
    clean image); ``zero`` everywhere; its own, pixels ``shuffled``; that of the ``noisy`` image; of ``bm3d`` told the
    true level; of the ``clean`` image. Columns: image, sigma_255, gradient,
    psnr_db (in float, output clipped), gradient_loss (the mean of |difference of G_H| + |difference of G_V| to
    the clean image, of the output as it is), gradient_loss_displayed (divided by 48: 003's curve divides a sum
    over batches by the number of samples, and most of its networks have batches of 48).
    ReproError for a network that takes no gradient.
    """
    if not isinstance(net, GradNet) or net.sizes.fusion == "none":
        raise ReproError(f"A {net.name} of these sizes takes no gradient.")
    if bm3d is None and "bm3d" in kinds:
        from repro.models import build

        bm3d = build("bm3d")
    rows, training = [], net.training
    device = next(net.parameters()).device
    try:
        net.eval()
        with torch.no_grad():
            for sample in samples:
                clean = crop_centre(sample.clean, SIDE)[None]
                for level in levels_255:
                    noisy = noise.fixed_gaussian_noise(clean[0], sample.name, level)[None]
                    for kind in kinds:
                        gradient = _gradient(net, noisy.to(device), clean, level / 255, kind, bm3d)
                        estimate = net.fuse(noisy.to(device), gradient.to(device)).float().cpu()
                        loss = gradient_difference(estimate, clean).mean().item()
                        rows.append(
                            {
                                "image": sample.name,
                                "sigma_255": float(level),
                                "gradient": kind,
                                "psnr_db": psnr_db(clean[0], estimate[0].clamp(0, 1)),
                                "gradient_loss": loss,
                                "gradient_loss_displayed": loss / 48,
                            }
                        )
    finally:
        net.train(training)
    return pd.DataFrame(rows)


def _gradient(net: GradNet, noisy: Tensor, clean: Tensor, sigma: float, kind: str, bm3d: Denoiser | None) -> Tensor:
    if kind in ("own", "shuffled"):
        own = sobel_magnitude(net.estimate_naively(noisy, sigma))
        return own if kind == "own" else _shuffle(own)
    if kind == "zero":
        return torch.zeros_like(noisy)
    naive = {"noisy": lambda: noisy, "clean": lambda: clean, "bm3d": lambda: _recall(bm3d, noisy, sigma)}
    if kind not in naive:
        raise unknown_name("gradient", kind, KINDS)
    return sobel_magnitude(naive[kind]())


def _recall(denoiser: Denoiser, noisy: Tensor, sigma: float) -> Tensor:
    """An estimate that takes seconds and is the same for every network that is measured."""
    from repro.naive import recall

    return recall(denoiser, noisy, torch.tensor([sigma]))


def _shuffle(gradient: Tensor) -> Tensor:
    """The same values at other places, the three channels of a pixel together."""
    order = np.random.default_rng(0).permutation(gradient[0, 0].numel())
    return gradient.flatten(2)[:, :, torch.from_numpy(order).to(gradient.device)].reshape(gradient.shape)
