"""Self-ensemble: the mean of a network's estimates of the eight turned and mirrored versions of an image.

Of the papers here ScaoedNet prints results of it, marked with a dagger. Eight times the work.
"""

from itertools import product

import torch
from torch import Tensor

from repro.models.base import Denoiser


class SelfEnsemble(Denoiser):
    """Any denoiser, asked eight times; used as the denoiser itself is."""

    def __init__(self, net: Denoiser):
        super().__init__()
        self.net, self.sizes, self.name = net, net.sizes, net.name
        self.needs_sigma, self.halo, self.alignment = net.needs_sigma, net.halo, net.alignment
        self.weightless = net.weightless
        self.train(net.training)  # a module begins in training mode, which leaving evaluation would spread

    def look_over(self, tiles):
        return self.net.look_over(tiles)

    def forward(self, noisy: Tensor, **known) -> Tensor:
        """Denoise [B, C, H, W]; ``known`` is what the network takes beside the image."""
        self.require_image(noisy)
        total = torch.zeros_like(noisy)
        for turns, mirrored in product(range(4), (False, True)):
            seen = noisy.rot90(turns, (2, 3))
            seen = seen.flip(3) if mirrored else seen
            estimate = self.net(seen.contiguous(memory_format=torch.channels_last), **known)
            estimate = estimate.flip(3) if mirrored else estimate
            total += estimate.rot90(-turns, (2, 3))
        return total / 8
