"""The denoisers by name: one paper, one file. :class:`repro.models.base.Denoiser` says what all promise."""

import dataclasses
from importlib import import_module

from repro.errors import ReproError, unknown_name
from repro.kinds import find_misfit
from repro.models.base import Denoiser

# name -> (module, class); imported when first asked for, so that one broken dependency hides one model only
MODELS = {
    "sadnet": ("repro.models.sadnet", "SADNet"),
    "ssdn": ("repro.models.ssdn", "SSDN"),
    "unet": ("repro.models.ssdn", "UNet"),
    "gradnet": ("repro.models.gradnet", "GradNet"),
    "gradnet-impl": ("repro.models.gradnet", "GradNetImpl"),
    "scaoednet": ("repro.models.scaoednet", "ScaoedNet"),
    "dncnn": ("repro.models.dncnn", "DnCNN"),
    "ffdnet": ("repro.models.ffdnet", "FFDNet"),
    "memnet": ("repro.models.memnet", "MemNet"),
    "rnan": ("repro.models.rnan", "RNAN"),
    "ridnet": ("repro.models.ridnet", "RIDNet"),
    "pd": ("repro.models.pd", "PD"),
    "bm3d": ("repro.models.classical", "BM3D"),
    "median": ("repro.models.classical", "Median"),
    "adaptive-median": ("repro.models.classical", "AdaptiveMedian"),
    "contraharmonic": ("repro.models.classical", "Contraharmonic"),
    "wavelet": ("repro.models.classical", "Wavelet"),
    "dct": ("repro.models.classical", "SlidingDCT"),
    "nlm": ("repro.models.classical", "NonLocalMeans"),
    "tv": ("repro.models.classical", "TotalVariation"),
}


def model_class(name: str) -> type[Denoiser]:
    """The class behind a name. An unknown name is a ReproError that lists the known ones."""
    if name not in MODELS:
        raise unknown_name("model", name, MODELS)
    module, attribute = MODELS[name]
    return getattr(import_module(module), attribute)


def build(name: str, **sizes) -> Denoiser:
    """A network with random weights: ``build("sadnet", channels=1)``.

    ``sizes`` are the fields of the model's ``Sizes`` dataclass, whose defaults are the published network.
    Random numbers come from torch's global generator. An unknown model or size, or sizes that do not fit
    together, is a ReproError.
    """
    cls = model_class(name)
    known = [field.name for field in dataclasses.fields(cls.Sizes)]
    if unknown := sorted(set(sizes) - set(known)):
        raise ReproError(f"{name} has no size {', '.join(unknown)}; its sizes are {', '.join(known)}.")
    if misfit := find_misfit(cls.Sizes, sizes):
        raise ReproError(f"These sizes do not make a {name}: {misfit}.")
    try:
        return cls(cls.Sizes(**sizes))
    except (TypeError, ValueError, RuntimeError, MemoryError) as error:  # the latter two: beyond all memory
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ReproError(f"These sizes do not make a {name}: {reason}") from error
