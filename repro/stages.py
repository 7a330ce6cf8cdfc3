"""What ScaoedNet knows after each of its stages: the image and the noise map, measured on known noise.

The noise is signal-dependent, of random strength (:func:`repro.data.realistic.fixed_realistic_noise`), so
that its map is known and differs from image to image and from dark to bright. These are the measures of the
slides' Tables 5, S3 and S4, which do not say on which noise they were taken.
"""

from collections.abc import Iterable

import pandas as pd
import torch
from torch import Tensor

from repro.data.catalog import Sample
from repro.data.realistic import fixed_realistic_noise
from repro.metrics import WINDOW, psnr_db, ssim
from repro.models.scaoednet import ScaoedNet


def noise_map_l1_255(truth: Tensor, estimate: Tensor) -> float:
    """Mean absolute difference of two noise maps [1, H, W] in units of [0, 1], in gray levels of 0..255."""
    if truth.shape != estimate.shape:
        raise ValueError(f"Two maps of one shape are compared, not {list(truth.shape)} and {list(estimate.shape)}.")
    return 255 * float((truth.double() - estimate.double()).abs().mean())


@torch.no_grad()
def measure(net: ScaoedNet, dataset: str, samples: Iterable[Sample], seed: int = 0) -> pd.DataFrame:
    """One row per image and stage.

    Columns: dataset, image, noise_seed, stage (from 1), psnr_noisy_db, psnr_db and ssim of the stage's image
    (clipped to [0, 1]), noise_map_l1_255 and noise_map_psnr_db of its noise map.
    """
    rows, training = [], net.training
    parameter = next(net.parameters())
    net.eval()
    try:
        for sample in samples:
            noisy, noise_map = fixed_realistic_noise(sample.clean, sample.name, seed)
            same = {"dataset": dataset, "image": sample.name, "noise_seed": seed}
            same["psnr_noisy_db"] = psnr_db(sample.clean, noisy)
            estimates = net(noisy[None].to(parameter), every_stage=True)
            for stage, estimate in enumerate(estimates, start=1):
                image = estimate.image[0].float().cpu().clamp(0, 1)
                estimated = estimate.noise_map[0].float().cpu()
                measured = {
                    "stage": stage,
                    "psnr_db": psnr_db(sample.clean, image),
                    "ssim": ssim(sample.clean, image) if min(image.shape[1:]) >= WINDOW else float("nan"),
                    "noise_map_l1_255": noise_map_l1_255(noise_map, estimated),
                    "noise_map_psnr_db": psnr_db(noise_map, estimated),
                }
                rows.append(same | measured)
    finally:
        net.train(training)
    return pd.DataFrame(rows)
