"""Denoising a photograph of any size, and measuring a denoiser on a set of images."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from math import isfinite
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from repro import files
from repro.data import catalog, noise
from repro.data.catalog import Sample
from repro.errors import ReproError
from repro.metrics import WINDOW, psnr_db, psnr_of_crops_db, ssim
from repro.models.base import Denoiser, pad_to_multiple
from repro.models.classical import advise
from repro.models.ensemble import SelfEnsemble
from repro.models.gradnet import fixed_pixelwise_noise
from repro.models.ssdn import KEYWORDS, MULTIPLE
from repro.weights import load

# An image of more pixels is denoised in tiles. SADNet takes 2.3 KB per pixel, most of it the offsets at
# full size; with tiles of this size, the program itself and a 20-megapixel photograph it stays under 4 GiB.
PIXELS_AT_ONCE = 896 * 896
HALO_OF_WHOLE = 64  # surroundings of a tile for a network that would look at the whole image

# --- one photograph


def denoise(
    image: Tensor | np.ndarray,
    model: Denoiser | str | Path,
    sigma: float | None = None,
    tile: int | None = None,
    *,
    events: float | None = None,
    alpha: float | None = None,
) -> Tensor | np.ndarray:
    """The clean estimate of ``image``, of the same kind, shape, type and range.

    - ``image``: a tensor [C, H, W] or [B, C, H, W], or an array [H, W], [H, W, 1] or [H, W, 3]; floating
      point in [0, 1] (noise may stick out) or uint8. The estimate is clipped to that range.
    - ``model``: a network, or what :func:`repro.load` takes. It works where its parameters are.
    - ``sigma``: standard deviation of the noise in units of [0, 1], for networks that must be told; blind
      ones do without.
    - ``tile``: side in pixels of the tiles in which a large image is denoised, 0 for all at once; left out,
      896 with its surroundings, which SADNet works on in less than 4 GiB, and MemNet in 11. Each tile sees
      ``model.halo`` pixels of its surroundings, enough for a result within 1/255 of the one obtained at once. A
      network with global means (``halo = None``) has no such tiles: for it a large image is a ReproError unless
      ``tile`` is given, and every tile is then an image of its own that overlaps its neighbours.
    - ``events``, ``alpha``: instead of ``sigma`` for networks that are for Poisson noise (a white pixel counts
      ``events`` on average) or impulse noise (``alpha`` is the share of replaced pixels).

    A gray image given to a colour network is repeated three times, and the three estimates averaged. A
    colour image given to a gray network is denoised channel by channel, as if each were a photograph.

    Raises ReproError for values that are no numbers or far from [0, 1], for a missing or impossible ``sigma``, and
    for noise of a family that the network was not trained for; ValueError and TypeError for shapes and types that
    are no image.
    """
    net = load(model) if isinstance(model, str | Path) else model
    level = check_level(net, sigma=sigma, events=events, alpha=alpha)
    batch, restore = _as_batch(image)
    low, high = (float(value) for value in batch.aminmax())
    if not (isfinite(low) and isfinite(high)):
        raise ReproError(f"The image {NO_NUMBERS}.")
    if max(-low, high) > 16:
        raise ReproError(f"The image has values from {low:g} to {high:g}; floating point means [0, 1] here.")
    like = next(net.parameters(), batch)
    with _evaluating(net):
        clean = [_run_in_channels(net, single[None].to(like.device, like.dtype), tile, **level) for single in batch]
    return restore(torch.cat(clean).clamp_(0, 1).to(batch.device))


def _as_batch(image: Tensor | np.ndarray) -> tuple[Tensor, Callable[[Tensor], Tensor | np.ndarray]]:
    """``image`` as float [B, C, H, W], and what turns such a tensor into the likes of ``image`` again."""
    if isinstance(image, Tensor):
        if image.dim() not in (3, 4) or image.shape[-3] not in (1, 3) or 0 in image.shape:
            raise ValueError(f"A tensor image is [C, H, W] or [B, C, H, W], C = 1 or 3, not {list(image.shape)}.")
        pixels = image.detach()
    elif isinstance(image, np.ndarray):
        if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)) or 0 in image.shape:
            raise ValueError(f"An array image is [H, W], [H, W, 1] or [H, W, 3], not {list(image.shape)}.")
        image_3d = image if image.ndim == 3 else image[..., None]
        # torch wants memory it could write to, which a picture opened by Pillow does not offer.
        pixels = torch.from_numpy(np.require(image_3d, requirements=("C", "W"))).permute(2, 0, 1)
    else:
        raise TypeError(f"An image is a torch tensor or a NumPy array, not {type(image).__name__}.")
    if not (pixels.is_floating_point() or pixels.dtype == torch.uint8):
        raise TypeError(f"An image is floating point in [0, 1] or uint8, not {image.dtype}.")

    def restore(batch: Tensor) -> Tensor | np.ndarray:
        if pixels.dtype == torch.uint8:
            batch = batch.mul_(255).round_()
        result = batch.to(pixels.dtype).reshape(pixels.shape)
        return result if isinstance(image, Tensor) else result.permute(1, 2, 0).reshape(image.shape).numpy()

    batch = pixels if pixels.dim() == 4 else pixels[None]
    return (batch.float() / 255 if pixels.dtype == torch.uint8 else batch), restore


def _run_in_channels(net: Denoiser, image: Tensor, tile: int | None, **level: float) -> Tensor:
    """The network on [1, C, H, W] where C need not be its own number of channels."""
    given, wanted = image.shape[1], net.sizes.channels
    run = partial(_run_in_tiles, net, tile=tile, **level)
    if given == wanted or net.weightless:
        return run(image)
    if given == 1:
        return run(image.expand(1, wanted, -1, -1)).mean(1, keepdim=True)
    return torch.cat([run(channel) for channel in image.split(1, 1)], 1)


def _run_in_tiles(net: Denoiser, image: Tensor, tile: int | None, **level: float) -> Tensor:
    """The network on [1, C, H, W], at once or tile by tile.

    Tiles begin at multiples of ``net.alignment``, where strided layers and padding fall as they do in the
    whole. Their surroundings end in phase with the end of the whole, from which turned and mirrored views count.
    """
    height, width = image.shape[-2:]
    if tile is None:
        # A filter that looks at the whole image takes a few copies of it, and no maps of features.
        at_once = PIXELS_AT_ONCE * (10 if net.weightless and net.halo is None else 1)
        tile = 0 if height * width <= at_once else _choose_tile(net, height, width)
    if tile < 0:
        raise ValueError(f"tile is a side in pixels, or 0 for the whole image, not {tile}.")
    if tile == 0 or max(height, width) <= tile:
        return _run(net, image, **level)
    halo = HALO_OF_WHOLE if net.halo is None else net.halo
    clean = torch.empty_like(image, memory_format=torch.contiguous_format)
    tiles = list(product(_cut(height, tile, net.alignment), _cut(width, tile, net.alignment)))

    def surround(top: int, bottom: int, left: int, right: int) -> tuple[Tensor, tuple]:
        """A tile with its surroundings, and where it lies in them."""
        above, before = max(top - halo, 0), max(left - halo, 0)
        below, beyond = bottom + halo + height % net.alignment, right + halo + width % net.alignment
        core = (..., slice(top - above, bottom - above), slice(left - before, right - before))
        return image[..., above:below, before:beyond], core

    level |= net.look_over(surround(*rows, *columns) for rows, columns in tiles)
    for (top, bottom), (left, right) in tqdm(tiles, unit="tile", leave=False, disable=None):
        window, core = surround(top, bottom, left, right)
        clean[..., top:bottom, left:right] = _run(net, window, **level)[core]
    return clean


def _choose_tile(net: Denoiser, height: int, width: int) -> int:
    """The side of tiles for an image too large to be denoised at once."""
    side = int(PIXELS_AT_ONCE**0.5)
    if net.halo is None:
        tile = side - 2 * HALO_OF_WHOLE
        raise ReproError(
            f"{net.name} looks at the image as a whole, and {width} x {height} pixels are many for it at once. "
            f"Choose: tile={tile} denoises tiles on their own, each by its own means, which is another result; "
            f"tile=0 takes the memory that the whole image needs."
        )
    return side - 2 * net.halo - max(height % net.alignment, width % net.alignment)


def _cut(length: int, tile: int, alignment: int) -> list[tuple[int, int]]:
    """[0, length) in about equal parts of at most ``tile``, each beginning at a multiple of ``alignment``."""
    tile = max(tile // alignment, 1) * alignment
    count = -(-length // tile)
    step = -(-length // (count * alignment)) * alignment
    return [(start, min(start + step, length)) for start in range(0, length, step)]


def _run(net: Denoiser, noisy: Tensor, sigma: float | None = None, **level: float) -> Tensor:
    noisy = noisy.contiguous(memory_format=torch.channels_last)  # the faster layout for convolutions on a CPU too
    keyword, given = _find_keyword(net), {"sigma": sigma} | level
    told = {keyword: given[keyword]} if keyword else {}
    return net(noisy, **told, **({"strength": level["strength"]} if "strength" in level else {}))


MOST_EVENTS = 1e9  # beyond, noise is nothing and its table of counts does not fit into memory
NO_NUMBERS = "has values that are no numbers (NaN or infinite)"
FAMILIES = {keyword: family for family, keyword in KEYWORDS.items()}


def takes_no_level(net: Denoiser) -> bool:
    """Whether the network or filter finds by itself how strong the noise is."""
    return _find_keyword(net) is None


def check_level(
    net: Denoiser, *, sigma: float | None = None, events: float | None = None, alpha: float | None = None
) -> dict[str, float]:
    """The level that is given, by its keyword, or nothing: what :func:`denoise` can tell ``net`` of the noise.

    Raises ReproError where several are given, one is impossible, of a family that the network was not trained for, or
    missing though the network must be told.
    """
    level = _choose_level(sigma=sigma, events=events, alpha=alpha)
    _require_family(net, level)
    _require_level(net, **level)
    return level


def _find_keyword(net: Denoiser) -> str | None:
    """The keyword by which the network must be told how strong the noise is, None for a blind one."""
    net = net.net if isinstance(net, SelfEnsemble) else net
    if net.needs_sigma:
        return "sigma"
    return KEYWORDS[net.sizes.noise] if getattr(net, "is_told", False) else None


Level = float | tuple[float, float]  # of noise: one, or the lowest and highest of many


def _choose_level(**levels: Level | None) -> dict[str, Level]:
    """The one level that is not None by its keyword, or nothing; a ReproError for several or an impossible one."""
    given = {keyword: level for keyword, level in levels.items() if level is not None}
    if len(given) > 1:
        raise ReproError(f"Noise is of one kind: give one of {', '.join(given)}.")
    for keyword, level in given.items():
        if keyword == "levels_255":
            low, high = level if isinstance(level, tuple | list) and len(level) == 2 else (-1, -1)
            if not 0 <= low <= high < float("inf"):
                raise ReproError(f"levels_255 are two noise levels of 0 or more, the lower one first, not {level}.")
            continue
        low, high = {"events": (0, MOST_EVENTS), "alpha": (0, 1)}.get(keyword, (0, float("inf")))
        if not (low <= level <= high and isfinite(level) and (level or keyword != "events")):
            special = {"events": f"more than 0 and at most {MOST_EVENTS:g}", "alpha": "from 0 to 1"}
            allowed = special.get(keyword, "0 or more")
            raise ReproError(f"{keyword} is {allowed}, not {level:g}.")
    return given


def _require_family(net: Denoiser, level: dict[str, float]) -> None:
    """Raise a ReproError where the noise is of a family for which the network was not trained.

    Networks of this study are for Gaussian noise unless their sizes say otherwise; filters take whatever comes.
    """
    if net.weightless or not level:
        return
    (keyword,) = level
    trained = getattr(net.sizes, "noise", "gaussian")
    if FAMILIES[keyword] != trained:
        raise ReproError(
            f"This {net.name} was trained for {trained} noise, which has {KEYWORDS[trained]}: "
            f"it knows nothing of {FAMILIES[keyword]} noise ({keyword} = {level[keyword]:g})."
        )


def _require_level(net: Denoiser, **level: float) -> None:
    keyword = _find_keyword(net)
    if keyword is None:
        return
    if keyword not in level:
        raise ReproError(f"{net.name} must be told the noise level: {advise(net.name, keyword)}.")
    if keyword == "sigma" and level["sigma"] > 1:
        raise ReproError(f"sigma = {level['sigma']:g} is not in [0, 1]; 50 gray levels of 255 are {50 / 255:.3f}.")


@contextmanager
def _evaluating(net: Denoiser) -> Iterator[None]:
    """Evaluation mode, without gradients, float32 not rounded to TF32, for the duration of a block."""
    training, tf32 = net.training, torch.backends.cudnn.allow_tf32
    try:
        net.eval()
        torch.backends.cudnn.allow_tf32 = False
        with torch.no_grad():
            yield
    finally:
        net.train(training)
        torch.backends.cudnn.allow_tf32 = tf32


# --- a set of images


def evaluate(
    net: Denoiser,
    dataset: str | Iterable[Sample],
    sigma_255: float | None = None,
    *,
    events: float | None = None,
    alpha: float | None = None,
    levels_255: tuple[float, float] | None = None,
    seed: int = 0,
    repeats: int = 1,
    clip: bool = False,
    round_8bit: bool = False,
    pad: str | None = None,
    crop_multiple: int | None = None,
    patch: int | None = None,
    crop_side: int | None = None,
    ensemble: bool = False,
    limit: int | None = None,
    device: str = "cpu",
    progress: Callable[[dict], None] | None = None,
    journal: Path | None = None,
) -> pd.DataFrame:
    """Denoise every image of a set and measure the result, one row per image.

    - ``dataset``: a name in the catalogue, a folder of images, or samples. A gray network gets the luma of
      colour images.
    - ``sigma_255``: noise of standard deviation ``sigma_255 / 255`` is added that depends on image, sigma and
      ``seed`` alone; ``clip`` and ``round_8bit`` as in :mod:`repro.data.noise`.
    - ``events``, ``alpha``: instead, Poisson noise of so many counts per white pixel, or impulse noise that replaces
      this share of pixels, fixed in the same way.
    - ``levels_255``: instead, Gaussian noise with a level of its own for every value, uniform from the first of the two
      to the second (the slides about GradNet train so: 8.16 to 63.75, clipped), fixed in the same way. No network can
      be told such a level. None of the four: the set's own noisy photographs are used.
    - ``repeats``: so many independent draws of the noise per image, of the seeds ``seed``, ``seed + 1`` and so on
      (SSDN's authors: 10 on Kodak, 3 on BSD300). A row then has means over the draws, and two more columns:
      ``draws``, their number, and ``psnr_std_db``, the standard deviation of ``psnr_db`` between them.
    - ``pad``: the image grows by reflection at the bottom and the right to sides that 32 divides, and the estimate
      is cropped. "clean": before noise is added, so that what is reflected has noise of its own (SSDN's authors,
      who pad to a square); "noisy": afterwards (its reproduction). The image itself has the same noise either way,
      the one it has without padding. None: each network pads as it likes.
    - ``crop_multiple``: clean and noisy image are cropped at the top left to multiples of this (8: SADNet's
      authors).
    - ``patch``: the network sees non-overlapping patches of this side, each by itself, from the top left
      (128: the replication of SADNet). What does not fill a patch at the right and the bottom is left out,
      and every metric is the mean over the patches. One more column, ``psnr_assembled_db``, has the PSNR of
      the patches put together again, in float: it tells what the network loses at borders from what
      averaging adds.
    - ``crop_side``: what a test on one random square crop of each denoised image would give (256: the slides about
      GradNet, which denoise the crop).
      Two more columns over all crops of this side of the image and its estimate: ``psnr_crop_db``, the mean PSNR,
      truncated to 8 bits, and ``psnr_crop_std_db``, the standard deviation.
    - ``ensemble``: the mean of the estimates of the image turned and mirrored in eight ways.
    - ``limit``: only the first images.
    - ``device``: the network is moved there, and back afterwards. On a GPU float32 is not rounded to TF32, and a first
      pass that is not timed compiles what is needed. Images too large for it at once are denoised in
      tiles, as in :func:`denoise`, except by a network with global means: whose result tiles would change.
    - ``progress``: called with each row that is measured, not with those of the journal; left out, there is a bar on
      a terminal.
    - ``journal``: a file that gets each row as soon as it is measured. Images that it has already are not measured
      again, so that hours of a slow filter outlive an interruption. It belongs to one network and one set of options.

    The estimate is clipped to [0, 1]. Columns: dataset, image, height, width, sigma_255, noise_clipped,
    noise_rounded, noise_seed, psnr_noisy_db (of what the network was given), psnr_db, psnr_rounded_db,
    psnr_truncated_db, ssim, ssim_3d (:mod:`repro.metrics`; SSIM is NaN for sides below 11 pixels), seconds
    (of the network alone); and ``events``, ``alpha`` or ``levels_255`` ("8.16 to 63.75") where one is given. Published
    averages are means of such a column.

    Raises ReproError for a missing or impossible level, for noise of a family that the network was not trained for,
    for options that exclude each other, and for an image with values that are no numbers.
    """
    if patch and crop_side:
        raise ReproError("patch and crop_side: patches are measured one by one, crops are of the whole.")
    given = _choose_level(sigma_255=sigma_255, events=events, alpha=alpha, levels_255=levels_255)
    level = _check_given(net, given)
    if repeats < 1 or (repeats > 1 and not given):
        raise ReproError(f"repeats = {repeats}: noise that is added can be drawn once or more, a set's own noise once.")
    if pad not in (None, "clean", "noisy") or (pad and patch) or (pad == "clean" and not given):
        raise ReproError(
            f"pad = {pad!r}: 'clean' pads before noise is added, 'noisy' afterwards; patches are not padded, and "
            "photographs with noise of their own have none to be added."
        )
    net = SelfEnsemble(net) if ensemble else net
    name, count, samples = _samples(net, dataset, limit)
    draw = partial(_draw_noise, given=given, clip=clip, round_8bit=round_8bit)
    home = next(net.parameters(), torch.empty(0)).device
    rows, known = [], _open_journal(journal) if journal else {}
    # A bar on a terminal only, and only where nobody else reports.
    bar = tqdm(samples, desc=name, total=count, unit="image", disable=True if progress else None)
    warm = torch.device(device).type != "cuda"
    try:
        net.to(device)
        with _evaluating(net):
            for sample in bar:
                if sample.name in known:
                    rows.append(known[sample.name])
                    continue
                if not given and sample.noisy is None:
                    raise ReproError(f"{name} has no noisy photographs of its own; give sigma_255 (--sigma).")
                for image in filter(lambda image: image is not None, (sample.clean, sample.noisy)):
                    if not image.isfinite().all():
                        raise ReproError(f"The image {sample.name} of {name} {NO_NUMBERS}.")
                clean, measured = _crop(sample.clean, crop_multiple), []
                for number in range(seed, seed + repeats):
                    noisy = draw(sample.clean, sample.name, number) if given else sample.noisy
                    noisy = _crop(noisy, crop_multiple)
                    if pad == "clean":
                        noisy = _replace_corner(draw(_grow(clean), f"{sample.name} grown", number), noisy)
                    elif pad == "noisy":
                        noisy = _grow(noisy)
                    if not warm:
                        _measure(net, clean, noisy, level, patch, crop_side)
                        warm = True
                    measured.append(_measure(net, clean, noisy, level, patch, crop_side))
                row = {
                    "dataset": name,
                    "image": sample.name,
                    "height": clean.shape[1],
                    "width": clean.shape[2],
                    "sigma_255": sigma_255,
                    **{keyword: _name_level(value) for keyword, value in given.items() if keyword != "sigma_255"},
                    "noise_clipped": bool(given) and (clip or round_8bit),
                    "noise_rounded": bool(given) and round_8bit,
                    "noise_seed": seed,
                    **{metric: float(np.mean([values[metric] for values in measured])) for metric in measured[0]},
                }
                if repeats > 1:
                    spread = np.std([values["psnr_db"] for values in measured], ddof=1)
                    row |= {"draws": repeats, "psnr_std_db": float(spread)}
                rows.append(row)
                if journal:
                    with journal.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
                if progress:
                    progress(row)
    finally:
        net.to(home)
    return pd.DataFrame(rows)


def _open_journal(path: Path) -> dict[str, dict]:
    """The rows of a journal by image; a line that was cut off in the writing is dropped from the file."""
    rows, lines = {}, path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for line in lines:
        try:
            row = json.loads(line)
            rows[row["image"]] = row
        except (ValueError, TypeError, KeyError):
            break
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.write_atomically(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows.values()), encoding="utf-8")
    return rows


DRAWN = noise.FIXED | {"levels": fixed_pixelwise_noise}  # the evaluation noise by the keyword that names its level


def _draw_noise(clean: Tensor, name: str, seed: int, given: dict[str, Level], **convention: bool) -> Tensor:
    """The evaluation noise of the level ``given`` on ``clean``."""
    ((keyword, level),) = given.items()
    return DRAWN[keyword.removesuffix("_255")](clean, name, level, seed, **convention)


def _check_given(net: Denoiser, given: dict[str, Level]) -> dict[str, float]:
    """What ``net`` can be told of the noise that is ``given``; a ReproError as of :func:`check_level`."""
    if not given and (keyword := _find_keyword(net)):
        raise ReproError(
            f"{net.name} must be told the noise level: {advise(net.name, keyword)}. Such noise is added to the clean "
            "images; how strong a photograph's own is, is not known."
        )
    if "levels_255" not in given:
        return check_level(net, **({"sigma": given["sigma_255"] / 255} if "sigma_255" in given else given))
    if not takes_no_level(net):
        raise ReproError(f"{net.name} must be told one noise level; with levels_255 every value has its own.")
    check_level(net, sigma=given["levels_255"][1] / 255)
    return {}


def _name_level(level: Level) -> float | str:
    """A level as a table has it."""
    return level if isinstance(level, int | float) else f"{level[0]:g} to {level[1]:g}"


def _grow(image: Tensor) -> Tensor:
    """[C, H, W] with sides that 32 divides, by reflection."""
    return pad_to_multiple(image[None], MULTIPLE)[0]


def _replace_corner(image: Tensor, corner: Tensor) -> Tensor:
    """``image`` [C, H, W] with the smaller ``corner`` at its top left."""
    image[:, : corner.shape[1], : corner.shape[2]] = corner
    return image


def _samples(
    net: Denoiser, dataset: str | Path | Iterable[Sample], limit: int | None
) -> tuple[str, int, Iterable[Sample]]:
    """Name, number and samples of a set; those of the catalogue are read one by one."""
    if not isinstance(dataset, str | Path):
        given = list(dataset)[:limit]
        return "samples", len(given), given
    dataset = str(dataset)
    colour = "L" if net.sizes.channels == 1 else "RGB"
    return dataset, len(catalog.paths(dataset)[:limit]), catalog.samples(dataset, colour, limit)


def _measure(
    net: Denoiser, clean: Tensor, noisy: Tensor, level: dict[str, float], patch: int | None, crop_side: int | None
) -> dict:
    """The columns from ``psnr_noisy_db`` on, for [C, H, W]; ``noisy`` may have grown at the bottom and the right.

    ``level``: sigma (in units of [0, 1]), events or alpha by its keyword, or nothing.
    """
    parts = [(slice(None), slice(None))]
    if patch:
        rows, columns = (_fixed_patches(length, patch) for length in clean.shape[-2:])
        parts = [(y, x) for y in rows for x in columns]
    device = next(net.parameters(), noisy).device
    began = time.perf_counter()
    if patch:
        together = max(PIXELS_AT_ONCE // patch**2, 1)
        batches = torch.stack([noisy[:, y, x] for y, x in parts]).split(together)
        estimates = torch.cat([_run(net, batch.to(device), **level) for batch in batches])
    else:
        whole = 0 if net.halo is None else None
        estimates = _run_in_tiles(net, noisy[None].to(device), whole, **level)
    estimates = estimates.float().clamp(0, 1).cpu()
    seconds = time.perf_counter() - began  # the copy back has waited for the device
    if not patch:
        height, width = clean.shape[-2:]
        noisy, estimates = noisy[..., :height, :width], estimates[..., :height, :width]
    each = [
        _compare(clean[:, y, x], noisy[:, y, x], estimate) for (y, x), estimate in zip(parts, estimates, strict=True)
    ]
    row = {metric: float(np.mean([values[metric] for values in each])) for metric in each[0]}
    row["seconds"] = seconds
    if patch:
        cut = torch.stack([clean[:, y, x] for y, x in parts])
        row["psnr_assembled_db"] = psnr_db(cut.flatten(1), estimates.flatten(1))
    if crop_side:
        crops = psnr_of_crops_db(clean, estimates[0], crop_side)
        row |= {"psnr_crop_db": float(crops.mean()), "psnr_crop_std_db": float(crops.std())}
    return row


def _compare(clean: Tensor, noisy: Tensor, estimate: Tensor) -> dict[str, float]:
    large_enough = min(clean.shape[-2:]) >= WINDOW
    return {
        "psnr_noisy_db": psnr_db(clean, noisy),
        "psnr_db": psnr_db(clean, estimate),
        "psnr_rounded_db": psnr_db(clean, estimate, "rounded"),
        "psnr_truncated_db": psnr_db(clean, estimate, "truncated"),
        "ssim": ssim(clean, estimate) if large_enough else float("nan"),
        "ssim_3d": ssim(clean, estimate, "3d") if large_enough else float("nan"),
    }


def _fixed_patches(length: int, side: int) -> list[slice]:
    """Whole patches from the beginning; one smaller patch where not even one fits."""
    return [slice(start, start + side) for start in range(0, max(length - side, 0) + 1, side)]


def _crop(image: Tensor, multiple: int | None) -> Tensor:
    """[C, H, W] cropped at the top left to multiples; a side shorter than one stays."""
    if not multiple:
        return image
    height, width = (length // multiple * multiple or length for length in image.shape[-2:])
    return image[:, :height, :width]
