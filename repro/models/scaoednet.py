"""ScaoedNet, the enhanced latent space blind model with self-correction alternative optimisation.

C. Ren, Y. Pan, J. Huang: Enhanced Latent Space Blind Model for Real Image Denoising via Alternative
Optimization. NeurIPS 2022.

The idea: model-based methods estimate a clean image by alternating between two sub-problems, what the image
is and what the noise is. ScaoedNet does so with networks, in a space of features. An encoder E gives the
noisy image's features; an initial estimator sees the noise map u, one number per pixel; then, stage after
stage, a reconstruction network (RE, "z-Net") improves the clean features z with u at hand, and a degradation
estimator (DE, "u-Net") improves u with z at hand. Each sees its own last estimate as well: this is the
self-correction. The two networks are the same at every stage, so that the number of stages K changes the
arithmetic and not the number of parameters. Everything happens at half resolution, after 2x2 pixels have been
folded into channels. The network is blind: the noise map is its own.

Differences between paper and authors' code
-------------------------------------------
At hand are the authors' slides and their test code; the paper's body and a training script are not. Where
slides and code differ, this file follows the code.

- Stages. Slides: K = 5. Code: an argument ``T`` = 4 counts the stages after the first, K = T + 1. The slides'
  T = 16 is the number of attention blocks, a constant in the code. Here: ``stages`` and ``blocks``.
- Weights. Slides: "multiple DE networks". Code: one DE and one RE, used at every stage.
- Self-correction. Slides: u and z take their last estimates. Code: u is updated by a residual,
  u + DE(u, Q, z); z is not: a RE(z, E, u) + b E, with two learned numbers a, b that all stages share.
- G module. Slides: a module beside the others. Code: a part of RE, computed anew from u at every stage.
- Fusion layers. Slides: two are drawn. Code: one layer, registered under two names; by its look an accident
  that every checkpoint carries. ``separate_fusion=True`` has two.
- Parameters. Slides: about 3 M. This network and the authors' code: 3,371,750, for every K.
- Operations at 512x512. Slides: 212, 640, 1071 G for K = 1, 3, 5. Multiply-accumulates of the convolutions
  here and in the code: 206.8, 629.9, 1053.0 G. No convention meets all three: printed steps are unequal,
  though each stage costs the same.
- Output. No residual to the noisy image, although denoisers usually have one.
- Loss, optimiser, patches, length of training: in no source. All of it is chosen here; see the objectives at
  the end of this file.
- Ablations. Slides: FSM and DEM on or off, FSM against "SCA", with and without NFAE; what takes the place of
  a part is not said. Here nothing does: without FSM the block's features pass unchanged; without DEM nothing
  is multiplied by the guidance, which then is not computed either. SCA is read as the usual spatial and
  channel attention (Woo et al., CBAM), side by side as in FSM: the same without the guidance of one branch
  by the other.
- Noise map. Slides: "the real noise map", with L1 distances that are not defined. Code: one channel at full
  resolution. Here: the standard deviation of the noise at each pixel, over the colour channels (root mean
  square), in units of [0, 1].
- Sides. Code: even ones only. Here: any, by reflection inside.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from repro.data import realistic
from repro.models.base import Denoiser, pad_to_multiple

SHARPNESS, EPSILON = 10, 1e-16  # of NFAE's sigmoids


@dataclass(frozen=True)
class ScaoedNetSizes:
    """What may vary. The defaults are the authors' network."""

    channels: int = 3  # 3 colour, 1 gray
    width: int = 64  # features, the same everywhere
    stages: int = 5  # K of the slides; T + 1 in the authors' code
    blocks: int = 16  # attention blocks (FM2ARB) in RE; T of the slides
    attention: str = "fsm"  # of a block; "sca": plain spatial and channel attention; "none"
    dem: bool = True  # guidance by the noise map, in every block and after the last
    nfae: bool = True  # enhancement of what stands out, in both estimators of the noise
    separate_fusion: bool = False  # two fusion layers in RE, as drawn in the slides
    initialisation: str = "xavier"  # the authors' initialiser; or "default", PyTorch's
    checkpointing: bool = False  # recompute each stage in the backward pass: less memory, same numbers

    def __post_init__(self):
        if min(self.channels, self.width, self.stages, self.blocks) < 1:
            raise ValueError("every size is at least 1.")
        if self.attention not in ("fsm", "sca", "none"):
            raise ValueError(f"attention is 'fsm', 'sca' or 'none', not {self.attention!r}.")
        if self.initialisation not in ("xavier", "default"):
            raise ValueError(f"initialisation is 'xavier' or 'default', not {self.initialisation!r}.")


class Estimate(NamedTuple):
    """What one stage knows."""

    image: Tensor  # [B, C, H, W], the clean image
    noise_map: Tensor  # [B, 1, H, W], standard deviation of the noise in units of [0, 1]


def conv3x3(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, padding=1)


def conv1x1(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 1)


def three_activated_one_linear(width: int) -> nn.Sequential:
    layers = [layer for _ in range(3) for layer in (conv3x3(width, width), nn.ReLU(inplace=True))]
    return nn.Sequential(*layers, conv3x3(width, width))


# --- what the noise is


class NFAE(nn.Module):
    """Weigh each value by how far it stands out of its channel and of its position. No parameters."""

    def forward(self, x: Tensor) -> Tensor:
        energy = (x - x.mean((2, 3), keepdim=True)).square()
        in_channel = torch.sigmoid(SHARPNESS * energy / (energy.mean((2, 3), keepdim=True) + EPSILON))
        at_position = torch.sigmoid(SHARPNESS * energy / (energy.mean(1, keepdim=True) + EPSILON))
        return x * in_channel * at_position


class InitialEstimator(nn.Module):
    """u_ini-Net: features Q of the noise, and the first noise map, from the folded image."""

    def __init__(self, sizes: ScaoedNetSizes):
        super().__init__()
        width = sizes.width
        layers = [conv3x3(4 * sizes.channels, width), nn.ReLU(inplace=True)]
        layers += [layer for _ in range(3) for layer in (conv3x3(width, width), nn.ReLU(inplace=True))]
        self.body = nn.Sequential(*layers)
        self.enhance = NFAE() if sizes.nfae else nn.Identity()
        self.last = conv3x3(width, 4)

    def forward(self, folded: Tensor) -> tuple[Tensor, Tensor]:
        features = self.enhance(self.body(folded))  # [B, 4 C, h, w] -> [B, 64, h, w]
        return features, F.pixel_shuffle(self.last(features), 2)  # [B, 1, H, W]


class DegradationEstimator(nn.Module):
    """DE, u-Net: what must be added to the noise map u, from u, the features Q and the clean features z."""

    def __init__(self, sizes: ScaoedNetSizes):
        super().__init__()
        width = sizes.width
        self.embed_map = conv3x3(4, width)
        self.embed_features = conv3x3(width, width)
        self.merge_clean = conv1x1(2 * width, width)
        self.merge_map = conv1x1(2 * width, width)
        layers = [layer for _ in range(4) for layer in (conv3x3(width, width), nn.ReLU(inplace=True))]
        self.body = nn.Sequential(*layers)
        self.enhance = NFAE() if sizes.nfae else nn.Identity()
        self.last = conv3x3(width, 4)

    def forward(self, noise_map: Tensor, features: Tensor, clean: Tensor) -> Tensor:
        u = self.embed_map(F.pixel_unshuffle(noise_map, 2))  # [B, 1, H, W] -> [B, 64, h, w]
        guidance = self.merge_clean(torch.cat([self.embed_features(features), clean], 1))
        x = self.body(self.merge_map(torch.cat([u, guidance], 1)))
        return F.pixel_shuffle(self.last(self.enhance(x)), 2)  # [B, 1, H, W]


# --- what the image is


class SpatialAttention(nn.Module):
    """CIG SA: a weight per position, found with the help of an attention over channels inside."""

    def __init__(self, width: int):
        super().__init__()
        self.compress = conv1x1(width, 2)
        self.mix = conv3x3(4, 4)
        self.guide = conv1x1(4, 4)  # the channel attention inside
        self.weigh = conv1x1(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True), self.compress(x)], 1)
        maps = self.mix(maps)  # [B, 4, h, w]
        maps = maps + maps * torch.sigmoid(self.guide(maps.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.weigh(maps))


class ChannelAttention(nn.Module):
    """CIG CA: a weight per channel, found with the help of an attention over positions inside."""

    def __init__(self, width: int):
        super().__init__()
        self.guide = conv3x3(width, 1)  # the spatial attention inside
        self.squeeze = conv1x1(width, 4)
        self.excite = conv1x1(4, width)
        self.weigh = conv1x1(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        guided = x * torch.sigmoid(self.guide(x))
        found = [x.mean((2, 3)), x.amax((2, 3)), guided.mean((2, 3)), guided.amax((2, 3))]
        descriptors = torch.stack(found, 2)[..., None]  # [B, 64, 4, 1]
        descriptors = self.excite(F.relu(self.squeeze(descriptors)))
        weights = self.weigh(descriptors.transpose(1, 2))  # [B, 4, 64, 1] -> [B, 1, 64, 1]
        return x * torch.sigmoid(weights.transpose(1, 2))


class PlainSpatialAttention(nn.Module):
    """A weight per position from mean and maximum over the channels (Woo et al. 2018, 3x3)."""

    def __init__(self, width: int):
        super().__init__()
        self.weigh = conv3x3(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.weigh(maps))


class PlainChannelAttention(nn.Module):
    """A weight per channel from its mean and maximum (Woo et al. 2018)."""

    def __init__(self, width: int):
        super().__init__()
        self.squeeze = conv1x1(width, 4)
        self.excite = conv1x1(4, width)

    def forward(self, x: Tensor) -> Tensor:
        mean, most = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        weights = self.excite(F.relu(self.squeeze(mean)) + F.relu(self.squeeze(most)))
        return x * torch.sigmoid(weights)


class FSM(nn.Module):
    """Recalibrate features by channel and by position, side by side."""

    def __init__(self, width: int, kind: str):
        super().__init__()
        guided = kind == "fsm"
        self.channel = (ChannelAttention if guided else PlainChannelAttention)(width)
        self.spatial = (SpatialAttention if guided else PlainSpatialAttention)(width)
        self.fuse = conv1x1(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fuse(torch.cat([self.channel(x), self.spatial(x)], 1))


class DEM(nn.Module):
    """The guidance g as weights in (0, 1) for every value of the features."""

    def __init__(self, width: int, conv):
        super().__init__()
        self.conv1 = conv(width, width)
        self.conv2 = conv(width, width)

    def forward(self, guidance: Tensor) -> Tensor:
        return torch.sigmoid(self.conv2(F.relu(self.conv1(guidance))))


class AttentionBlock(nn.Module):
    """FM2ARB: a residual block whose features FSM recalibrates and DEM weighs by the guidance."""

    def __init__(self, sizes: ScaoedNetSizes):
        super().__init__()
        width = sizes.width
        self.body = three_activated_one_linear(width)
        self.fsm = nn.Identity() if sizes.attention == "none" else FSM(width, sizes.attention)
        self.dem = DEM(width, conv1x1) if sizes.dem else None

    def forward(self, x: Tensor, guidance: Tensor | None) -> Tensor:
        features = self.fsm(self.body(x))
        if self.dem is not None:
            features = features * self.dem(guidance)
        return features + x


class Reconstruction(nn.Module):
    """RE, z-Net: clean features from their last estimate z, the noisy features E and the noise map u."""

    def __init__(self, sizes: ScaoedNetSizes):
        super().__init__()
        width = sizes.width
        self.embed_noisy = conv3x3(width, width)
        self.embed_map = conv3x3(4, width)
        self.embed_clean = conv3x3(width, width)
        self.guide = three_activated_one_linear(width) if sizes.dem else None  # the G module
        self.fuse = conv1x1(2 * width, width)
        self.fuse_noisy = conv1x1(2 * width, width) if sizes.separate_fusion else None
        self.blocks = nn.ModuleList(AttentionBlock(sizes) for _ in range(sizes.blocks))
        self.conv = conv3x3(width, width)
        self.dem = DEM(width, conv3x3) if sizes.dem else None
        self.last = conv3x3(width, width)

    def forward(self, clean: Tensor, noisy: Tensor, noise_map: Tensor) -> Tensor:
        z = self.embed_clean(clean)
        u = self.embed_map(F.pixel_unshuffle(noise_map, 2))
        guidance = self.guide(u) if self.guide is not None else None
        fuse_noisy = self.fuse if self.fuse_noisy is None else self.fuse_noisy
        x = fuse_noisy(torch.cat([self.embed_noisy(noisy), u], 1))
        x = self.fuse(torch.cat([z, x], 1))
        for block in self.blocks:
            x = block(x, guidance)
        x = self.conv(x)
        if self.dem is not None:
            x = x * self.dem(guidance)
        return self.last(x + z)


# --- the network


class ScaoedNet(Denoiser):
    """The network: ``net(noisy) -> clean``, as :class:`~repro.models.base.Denoiser` promises."""

    name = "scaoednet"
    Sizes = ScaoedNetSizes
    halo = None  # means and maxima over the whole image: each pixel depends on all others
    alignment = 2

    def __init__(self, sizes: ScaoedNetSizes = ScaoedNetSizes()):
        super().__init__()
        self.sizes = sizes
        self.encode = conv3x3(4 * sizes.channels, sizes.width)
        self.initial = InitialEstimator(sizes)
        self.degradation = DegradationEstimator(sizes)  # idle where there is one stage, but always there
        self.reconstruction = Reconstruction(sizes)
        self.decode = conv3x3(sizes.width, 4 * sizes.channels)
        self.a = nn.Parameter(torch.ones(1))
        self.b = nn.Parameter(torch.ones(1))
        if sizes.initialisation == "xavier":
            self.apply(initialise_as_the_authors)

    def forward(self, noisy: Tensor, every_stage: bool = False) -> Tensor | list[Estimate]:
        """Denoise [B, C, H, W] in [0, 1]; the result has the same shape.

        ``every_stage=True`` returns what each of the K stages knows instead, a list of :class:`Estimate`
        from the first to the last, whose image is the result.
        """
        self.require_image(noisy)
        height, width = noisy.shape[-2:]
        folded = F.pixel_unshuffle(pad_to_multiple(noisy, 2), 2)  # [B, 4 C, H/2, W/2]
        encoded = self.encode(folded)
        features, u = self.initial(folded)
        z = self._run(self.reconstruct, encoded, encoded, u)
        known = [(z, u)]
        for _ in range(1, self.sizes.stages):
            u, z = self._run(self.advance, u, z, features, encoded)
            known.append((z, u))
        if not every_stage:
            return F.pixel_shuffle(self.decode(z), 2)[..., :height, :width]
        return [
            Estimate(F.pixel_shuffle(self.decode(z), 2)[..., :height, :width], u[..., :height, :width])
            for z, u in known
        ]

    def reconstruct(self, z: Tensor, encoded: Tensor, u: Tensor) -> Tensor:
        """The next z: Z of the slides' Eq. 2."""
        return self.a * self.reconstruction(z, encoded, u) + self.b * encoded

    def advance(self, u: Tensor, z: Tensor, features: Tensor, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """One stage after the first: the next u, then the next z (the slides' Eq. 2)."""
        u = u + self.degradation(u, features, z)
        return u, self.reconstruct(z, encoded, u)

    def _run(self, stage, *inputs: Tensor):
        if self.sizes.checkpointing and torch.is_grad_enabled():
            # Nothing in a stage is drawn at random: there is no random state to bring back.
            return checkpoint(stage, *inputs, use_reentrant=False, preserve_rng_state=False)
        return stage(*inputs)

    @classmethod
    def upstream_sizes(cls, arrays: dict[str, Tensor]) -> dict:
        """The sizes that a state dict of the authors' code shows. The number of stages leaves no trace."""
        sizes: dict = {"blocks": len({name.split(".")[2] for name in arrays if name.startswith("RE_Net.body.")})}
        if "head.0.conv.weight" in arrays:
            sizes["width"], folded = arrays["head.0.conv.weight"].shape[:2]
            sizes["channels"] = folded // 4
        ends = ("weight", "bias")
        pairs = [[arrays.get(f"RE_Net.{name}.0.conv.{end}") for name in ("y_u_cat", "fusion")] for end in ends]
        sizes["separate_fusion"] = any(
            one is not None and other is not None and not torch.equal(one, other) for one, other in pairs
        )
        return sizes

    def upstream_aliases(self) -> dict[str, str]:
        """Second names, in a state dict of the authors' code, of layers that it registers twice."""
        layers = {
            f"RE_Net.body.{k}.CIG_SA.conv_du.1.Conv.conv": f"RE_Net.body.{k}.CIG_SA.inplaceCA.Conv.conv"
            for k in range(self.sizes.blocks)
        }
        if not self.sizes.separate_fusion:
            layers["RE_Net.y_u_cat.0.conv"] = "RE_Net.fusion.0.conv"
        return {f"{alias}.{end}": f"{name}.{end}" for alias, name in layers.items() for end in ("weight", "bias")}

    @classmethod
    def upstream_name(cls, name: str) -> str:
        """What the authors' code calls a parameter of this network."""
        for ours, theirs in UPSTREAM_NAMES:
            name = re.sub(ours, theirs, name)
        return name


# --- objectives: `loss="<name>"` of repro.train_config.TrainConfig
#
# All chosen here, for no source says how the authors train. The mean absolute error suits noise of many
# strengths, since large errors of the noisiest patches do not outweigh the rest. The image counts at the last
# stage alone: in the slides' Table S4 the first stage's image is 3 dB worse than the second's, which no network
# would let stand that was told to make it good. The noise map counts at every stage, where its truth is known.
#
# `real` [B] marks the samples whose noise is a camera's: it is left as it is, and since nobody knows its map such a
# sample counts by its image alone. The map's term stays a mean over the whole batch, so that each sample weighs the
# same in whatever company.

NOISE_MAP_WEIGHT = 0.1


def gaussian(net: nn.Module, noisy: Tensor, clean: Tensor, step: int, real: Tensor | None = None) -> Tensor:
    """Image and noise map under the run's own noise, equally strong over each patch but not over all."""
    return _image_and_noise_map(net, noisy, clean, realistic.measure_noise_map(noisy, clean), real)


def signal_dependent(net: nn.Module, noisy: Tensor, clean: Tensor, step: int, real: Tensor | None = None) -> Tensor:
    """Image and noise map under signal-dependent noise of random parameters, in place of the run's own noise."""
    made, noise_map = _make_noisy(clean)
    return _image_and_noise_map(net, _keep_real(noisy, made, real), clean, noise_map, real)


def signal_dependent_image(
    net: nn.Module, noisy: Tensor, clean: Tensor, step: int, real: Tensor | None = None
) -> Tensor:
    """The same noise, and nobody tells the network what a noise map is: to see what telling it is worth."""
    made, _ = _make_noisy(clean)
    return F.l1_loss(net(_keep_real(noisy, made, real)), clean)


def _make_noisy(clean: Tensor) -> tuple[Tensor, Tensor]:
    gain, sigma_255 = (value.to(clean) for value in realistic.draw_parameters(len(clean)))
    noisy = realistic.add_poisson_gaussian_noise(clean, gain, sigma_255)
    return noisy, realistic.noise_map(clean, gain, sigma_255)


def _keep_real(noisy: Tensor, made: Tensor, real: Tensor | None) -> Tensor:
    return made if real is None else torch.where(real[:, None, None, None], noisy, made)


def _image_and_noise_map(
    net: nn.Module, noisy: Tensor, clean: Tensor, noise_map: Tensor, real: Tensor | None
) -> Tensor:
    estimates = net(noisy, every_stage=True)
    maps = [estimate.noise_map for estimate in estimates]
    if real is not None:  # no error, and no gradient, where the map is not known
        maps = [_keep_real(noise_map, estimate, real) for estimate in maps]
    of_map = torch.stack([F.l1_loss(estimate, noise_map) for estimate in maps]).mean()
    return F.l1_loss(estimates[-1].image, clean) + NOISE_MAP_WEIGHT * of_map


# --- the authors' names


def initialise_as_the_authors(module: nn.Module) -> None:
    """Xavier uniform and zero biases. The authors' code has it, and their test scripts do not call it."""
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def _halve(found: re.Match) -> str:
    """Position in a sequence with an activation after every layer -> position among the layers."""
    return f"{int(found[1]) // 2}."


# Names here and names in the authors' code, applied one after the other.
UPSTREAM_NAMES = (
    (r"(?<=body\.)(\d)\.(?=weight|bias)", _halve),
    (r"(?<=guide\.)(\d)\.(?=weight|bias)", _halve),
    (r"\.(weight|bias)$", r".conv.\1"),
    (r"^encode\.", r"head.0."),
    (r"^decode\.", r"tail.0."),
    (r"^initial\.body\.", r"ini_DE_Net.ConvNet."),
    (r"^initial\.last\.", r"ini_DE_Net.conv1."),
    (r"^degradation\.embed_map\.", r"DE_Net.head_noisy."),
    (r"^degradation\.embed_features\.", r"DE_Net.head_Q."),
    (r"^degradation\.merge_clean\.", r"DE_Net.ConvNet_f0noise.0."),
    (r"^degradation\.merge_map\.", r"DE_Net.ConvNet_Input.0."),
    (r"^degradation\.body\.(\d)\.", lambda found: f"DE_Net.ConvNet_Input.{int(found[1]) + 1}."),
    (r"^degradation\.last\.", r"DE_Net.conv1."),
    (r"^reconstruction\.embed_noisy\.", r"RE_Net.head_E."),
    (r"^reconstruction\.embed_map\.", r"RE_Net.head_noisy."),
    (r"^reconstruction\.embed_clean\.", r"RE_Net.head_z."),
    (r"^reconstruction\.guide\.", r"RE_Net.GR."),
    (r"^reconstruction\.fuse\.", r"RE_Net.fusion.0."),
    (r"^reconstruction\.fuse_noisy\.", r"RE_Net.y_u_cat.0."),
    (r"^reconstruction\.conv\.", r"RE_Net.Conv."),
    (r"^reconstruction\.last\.", r"RE_Net.tail.0."),
    (r"^reconstruction\.blocks\.(\d+)\.", r"RE_Net.body.\1."),
    (r"^reconstruction\.", r"RE_Net."),
    (r"(?<=\d\.)body\.", r"head."),
    (r"\.dem\.conv1\.", r".DEM.0."),
    (r"\.dem\.conv2\.", r".DEM.1."),
    (r"\.fsm\.fuse\.", r".cat."),
    (r"\.fsm\.channel\.guide\.", r".CIG_CA.inplaceSA.Conv."),
    (r"\.fsm\.channel\.squeeze\.", r".CIG_CA.cat.0."),
    (r"\.fsm\.channel\.excite\.", r".CIG_CA.cat.1."),
    (r"\.fsm\.channel\.weigh\.", r".CIG_CA.conv_du.0."),
    (r"\.fsm\.spatial\.compress\.", r".CIG_SA.compress.Conv."),
    (r"\.fsm\.spatial\.guide\.", r".CIG_SA.inplaceCA.Conv."),
    (r"\.fsm\.spatial\.mix\.", r".CIG_SA.conv_du.0."),
    (r"\.fsm\.spatial\.weigh\.", r".CIG_SA.conv_du.2."),
)
