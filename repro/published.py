"""Weights that other methods' authors published: read, checked, converted, never passed on.

``repro.load("dncnn-gray-50-published")`` finds the file it is made from, checks its SHA-256, converts it to the
study's own format in the user's cache, and loads that. A file is looked for in this order:

1. the folder that the environment variable ``REPRO_WEIGHTS`` names;
2. the folder ``weights`` beside the data mirror that ``REPRO_DATA`` names;
3. the cache of earlier downloads (:func:`repro.files.cache`);
4. the authors' repository, from which it is downloaded into the cache.

Most of these repositories state no licence. So the files are fetched from where their authors put them, and
neither they nor what is made of them is part of this repository.
"""

import hashlib
import math
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

import h5py
import numpy as np
import torch
from torch import Tensor

from repro import files, weights
from repro.errors import ReproError
from repro.models.base import Denoiser


@dataclass(frozen=True)
class Source:
    """One published file. ``sigma_255`` is the level it was trained for; None: for a range of them, ``levels_255``
    (low, high) as far as its authors say which."""

    model: str
    file: str  # in a folder of weights
    sha256: str
    colour: str  # rgb or gray
    sigma_255: float | None
    repository: str
    commit: str
    path: str  # in the repository; empty where what is there is not what is read here
    licence: str = "not stated in the repository"
    note: str = ""
    part: str = ""  # which part of the network it holds, where a network's parts lie in several files
    rest: tuple["Source", ...] = ()  # the other parts
    sizes: dict = field(default_factory=dict)  # of the network, which its arrays do not show
    photographs: bool = False  # whether those sizes are for the noise of photographs, whose level nobody tells
    levels_255: tuple[float, float] | None = None


def _dncnn(name: str, sha256: str, colour: str, sigma_255: float | None, path: str) -> Source:
    commit = "e93b27812d3ff523a3a79d19e5e50d233d7a8d0a"
    note = "trained on BSDS images outside the 68 test images" if colour == "rgb" else ""
    file = f"dncnn/{name}.mat"
    levels = (0, 55) if sigma_255 is None else None  # of the blind network: Zhang et al. 2017, Section IV
    return Source(
        "dncnn", file, sha256, colour, sigma_255, "cszn/DnCNN", commit, f"model/{path}", note=note, levels_255=levels
    )


def _ffdnet(name: str, sha256: str, colour: str) -> Source:
    commit = "e787f46df2f374ff3591186706229cb9a0591fea"
    note = "trained for levels 0 to 75 on images of BSDS500, ImageNet and the Waterloo Exploration Database"
    file, path = f"ffdnet/{name}.mat", f"models/{name}.mat"
    return Source("ffdnet", file, sha256, colour, None, "cszn/FFDNet", commit, path, note=note, levels_255=(0, 75))


def _pd(name: str, sha256: str, path: str, part: str, rest: tuple[Source, ...] = ()) -> Source:
    commit = "240a3cd708965146cb87b9dfb5aff6b94e5c6e2f"
    file, path, note = (
        f"pd/{name}.pth",
        f"logs/logs_color_MC_AWGN_RVIN/{path}",
        "trained on CBSD outside the 68 test images",
    )
    return Source(
        "pd", file, sha256, "rgb", None, "yzhouas/PD-Denoising-pytorch", commit, path, note=note, part=part, rest=rest
    )


_PD_ESTIMATOR = _pd(
    "color_est_net", "3ce3af70fc179c79ea71dd420c0750ab7d60de1314659649b7dbe7f9622a4264", "est_net.pth", "estimator"
)

SOURCES = {
    "dncnn-gray-25-published": _dncnn(
        "gray_sigma25", "5a5404c9e3ef14e353760e14b885439408a654618e14f13b2e97b99b9835020b",
        "gray", 25, "specifics/sigma=25.mat",
    ),
    "dncnn-gray-30-published": _dncnn(
        "gray_sigma30", "4fb9782689cd04f4398265412e3403372dfaf33b6374ffcf22906c3b6634d102",
        "gray", 30, "specifics/sigma=30.mat",
    ),
    "dncnn-gray-50-published": _dncnn(
        "gray_sigma50", "517dc0b55a8da2c129704ed7921b8557aac40cf3aae9f700dc41a9e25cad0983",
        "gray", 50, "specifics/sigma=50.mat",
    ),
    "dncnn-gray-70-published": _dncnn(
        "gray_sigma70", "545e251b5e66b456bf028bf395ae479d474ada5635aac2397708fe7763b1576f",
        "gray", 70, "specifics/sigma=70.mat",
    ),
    "dncnn-colour-25-published": _dncnn(
        "color_sigma25", "99ac1aaaa4f851a48e5a686d13de05cf8dd8863606b477d1a917e8004e9e42cf",
        "rgb", 25, "specifics_color/color_sigma=25.mat",
    ),
    "dncnn-colour-50-published": _dncnn(
        "color_sigma50", "84632c872b1191826f1c493eba6926cf626173b80c2b52889401616ee1eb7ad5",
        "rgb", 50, "specifics_color/color_sigma=50.mat",
    ),
    "dncnn-colour-blind-published": _dncnn(
        "color_blind", "57db5437a44037e7675a99042fe7b14d3dcdf1c333d3ec665855566e8a59795c",
        "rgb", None, "GD_Color_Blind.mat",
    ),
    "ffdnet-gray-published": _ffdnet(
        "FFDNet_gray", "14c231e87a444a9bd85b0b5e174e73b4f6ac50bf4050e75a0d3f4d69f77a2093", "gray"
    ),
    "ffdnet-colour-published": _ffdnet(
        "FFDNet_color", "a4b5a9da21294ab9ba6ed5c6cc459c46dff20c025eb7d3ab82e8e0bb00541793", "rgb"
    ),
    "pd-colour-published": _pd(
        "color_net", "101cf2478fff814d232d5b02f10a221780bdc89acb2d50a087d3af9130b9b419", "net.pth",
        "denoiser", (_PD_ESTIMATOR,),
    ),
    "dncnn-gradnet-impl-published": Source(
        "dncnn", "gradnet_dncnn/dncnn_nonres_state_dict.pt",
        "109a3db4099ec98ed0ebe8cce9f0bed07f3a70f52103b442599b393cf041fbeb", "rgb", None,
        "Bretan-Cezar/gradnet-impl", "3bb73678e4385f560f4428a85e45b7e1e62bb9a8", "", "MIT",
        "the naive denoiser of 003; trained on all of BSDS500, PolyU, SIDD and RENOIR: for Kodak24 only; its "
        "repository has a pickled module, from which the tensors were taken unchanged",
    ),
}  # fmt: skip


# The same arrays, used as for photographs: PD at half the size, FFDNet with the level that it estimates.
SOURCES["pd-colour-real-published"] = replace(SOURCES["pd-colour-published"], sizes={"stride": 2}, photographs=True)
SOURCES["ffdnet-colour-real-published"] = replace(
    SOURCES["ffdnet-colour-published"], sizes={"level": "estimated"}, photographs=True
)


def choose(model: str, colour: str, sigma_255: float | None = None) -> str:
    """The name of the published weights of ``model`` for rgb or gray images of a noise level.

    Weights for exactly that level come before those for a range of levels. Without a level, it is for the noise of
    photographs: weights that are used in a way of their own there come first. Where there are none, a ReproError
    lists what there is; one names the range where the level lies outside of it.
    """
    colours = {"rgb": "rgb", "colour": "rgb", "gray": "gray", "l": "gray"}
    if colour.lower() not in colours:
        raise ReproError(f"colour is RGB or L, not {colour!r}.")
    known = {name: source for name, source in SOURCES.items() if source.model == model and source.path}
    photographs = sigma_255 is None
    for wanted in ((sigma_255, photographs), (None, photographs), (None, False)):
        for name, source in known.items():
            if (source.colour, source.sigma_255, source.photographs) == (colours[colour.lower()], *wanted):
                low, high = source.levels_255 or (0, math.inf)
                if sigma_255 is not None and not low <= sigma_255 <= high:
                    raise ReproError(
                        f"{name} is for levels from {low:g} to {high:g}, and {model} has no published weights for "
                        f"sigma {sigma_255:g}; to try it all the same, name it as the model."
                    )
                return name
    listed = ", ".join(known) or "none"
    level = "" if sigma_255 is None else f" at sigma {sigma_255:g}"
    raise ReproError(f"There are no published weights of {model} for {colour}{level}; there are: {listed}.")


def convert(name: str) -> Path:
    """The file of ``name`` in the study's own format, in the cache; converted first if need be."""
    source = SOURCES[name]
    path = files.cache() / "weights" / f"{name}-{source.sha256[:12]}.safetensors"
    if not path.exists():
        about = {key: value for key, value in asdict(source).items() if key not in ("model", "file", "part")}
        weights.save(_read(source), path, about)
    return path


def locate(source: Source) -> Path | None:
    """Where the published file lies on this machine, unverified, or None."""
    named = os.environ.get("REPRO_WEIGHTS")
    if named and not Path(named).is_dir():
        raise ReproError(f"REPRO_WEIGHTS names {named}, which is not a folder.")
    data = os.environ.get("REPRO_DATA")
    folders = [Path(named)] if named else []
    folders += [Path(data).parent / "weights"] if data else []
    folders += [_downloads()]
    return next((folder / source.file for folder in folders if (folder / source.file).is_file()), None)


def _downloads() -> Path:
    return files.cache() / "weights" / "published"


def _read(source: Source) -> Denoiser:
    if source.part:
        arrays = {}
        for part in (source, *source.rest):
            for name, array in weights.read_torch_file(_obtain(part)).items():
                arrays[f"{part.part}.{name.removeprefix('module.')}"] = array
        return weights.from_upstream(source.model, arrays, **source.sizes)
    path = _obtain(source)
    if path.suffix != ".mat":
        return weights.load(path, source.model)
    arrays = read_matconvnet(path, reorder=source.model == "ffdnet")
    return weights.from_upstream(source.model, arrays, **source.sizes)


def _obtain(source: Source) -> Path:
    path = locate(source) or _download(source)
    if hashlib.sha256(path.read_bytes()).hexdigest() != source.sha256:
        raise ReproError(f"{path} is not the published file: it has another SHA-256 than {source.sha256}.")
    return path


def _download(source: Source) -> Path:
    advice = f"with a copy at hand, set REPRO_WEIGHTS to the folder that holds {source.file}"
    if not source.path:
        raise ReproError(f"{source.file} of {source.repository} cannot be downloaded; {advice}.")
    import pooch
    from requests import RequestException

    pooch.get_logger().setLevel("WARNING")
    address = f"https://raw.githubusercontent.com/{source.repository}/{source.commit}/{quote(source.path)}"
    target = _downloads() / source.file
    try:
        found = pooch.retrieve(
            address, f"sha256:{source.sha256}", target.name, target.parent, downloader=pooch.HTTPDownloader(timeout=60)
        )
    except (OSError, RequestException) as error:
        raise ReproError(f"Cannot download {address} ({type(error).__name__}); {advice}.") from None
    except ValueError:  # pooch: the checksum differs
        raise ReproError(f"{address} arrived damaged; {advice}.") from None
    return Path(found)


def read_matconvnet(path: str | Path, *, reorder: bool = False) -> dict[str, Tensor]:
    """The convolutions of a MatConvNet network in a .mat file of version 7.3, which is HDF5.

    Returns ``model.0.weight`` [out, in, height, width], ``model.0.bias`` [out], ``model.2.weight`` ...: KAIR's
    names, where activations take every second number. ``reorder``: the first and the last layer's image
    channels are a picture's four half-size images, which MATLAB orders down the columns and PyTorch along the
    rows. A file that is something else is a ReproError.
    """
    try:
        with h5py.File(path) as content:
            layers = [content[reference] for reference in content["net"]["layers"][()].flat]
            kernels = [
                [content[reference][()] for reference in layer["weights"][()].flat]
                for layer in layers
                if "".join(map(chr, layer["type"][()].flat)) == "conv"
            ]
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ReproError(f"{path} is not a MatConvNet network in a .mat file of version 7.3.") from error
    arrays = {}
    for index, (kernel, bias) in enumerate(kernels):
        # MATLAB stores height x width x in x out by columns, which HDF5 gives back as out, in, width, height; of a
        # single output it drops the axis.
        kernel = kernel if kernel.ndim == 4 else kernel[None]
        arrays[f"model.{2 * index}.weight"] = torch.from_numpy(np.ascontiguousarray(kernel.transpose(0, 1, 3, 2)))
        arrays[f"model.{2 * index}.bias"] = torch.from_numpy(bias.reshape(-1).copy())
    if reorder:
        first, last = "model.0", f"model.{2 * len(kernels) - 2}"
        order = _by_rows(arrays[f"{first}.weight"].shape[1])
        arrays[f"{first}.weight"] = arrays[f"{first}.weight"][:, order]
        order = _by_rows(len(arrays[f"{last}.bias"]))
        for name in (f"{last}.weight", f"{last}.bias"):
            arrays[name] = arrays[name][order]
    return arrays


def _by_rows(channels: int) -> list[int]:
    """Which channel of the order by columns comes where by rows: the middle two of every four change places."""
    whole = channels // 4 * 4  # what is left is the noise level
    swapped = [4 * (n // 4) + (0, 2, 1, 3)[n % 4] for n in range(whole)]
    return swapped + list(range(whole, channels))
