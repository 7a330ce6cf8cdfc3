"""What a run is trained and validated on: photographs and the noise they are given, or noisy and clean pairs."""

import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from repro.data import catalog, noise, official
from repro.data.images import crop_centre
from repro.data.patches import Photograph, read_photographs
from repro.errors import ReproError
from repro.train_config import TrainConfig

VALIDATION_SIZE = 256
# What of an image's name is its scene. PolyU: camera, aperture, shutter speed, ISO, subject, number of the crop.
SCENES = {"polyu": r"([A-Za-z]+)_+\d+$"}
# SIDD, by whatever name or folder: recording, scene, camera, its settings, light, number. Others: scene and number.
SCENES_BY_THEMSELVES = (r"^\d{4}_(\d{3})_[A-Z0-9]{2}_", r"^(.+?)_+\d+$")


def corruption(config: TrainConfig) -> Callable[[Tensor, torch.Generator], Tensor]:
    """The noise of the configuration as a function of a clean patch and a random generator."""
    low, high = config.sigma_range

    def corrupt(clean: Tensor, generator: torch.Generator) -> Tensor:
        sigma_255 = low if low == high else low + (high - low) * torch.rand((), generator=generator).item()
        return noise.add_gaussian_noise(
            clean, sigma_255, clip=config.clip, round_8bit=config.round_8bit, generator=generator
        )

    return corrupt


def gather(
    config: TrainConfig, keyword: str, level: float
) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]:
    """Clean images and (noisy, clean) pairs for training, uint8 ``[C,H,W]``; validation pairs, float32 ``[C,h,w]``.

    ``keyword``, ``level``: of the noise on validation photographs (:func:`repro.train._middle_level`).
    """
    images, pairs, validation = [], [], []
    if config.pairs_in_batch < config.batch:
        images, validation = split_photographs(config, keyword, level)
    if config.pairs is not None:  # what is trained for real noise is judged by it
        pairs, validation = split_pairs(config)
    return images, pairs, validation


def split_photographs(
    config: TrainConfig, keyword: str, level: float
) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
    """Training images (uint8 ``[C,H,W]``) and validation pairs (noisy, clean: float32 ``[C,h,w]``)."""
    catalog.find(config.data)  # a name, no folder
    found = _read_training_set(config, config.data)
    kept = len(found) - _count_held_out(config, config.data, len(found))
    corrupt, validation = noise.FIXED[keyword], []
    for photograph in found[kept:]:
        clean = crop_centre(photograph.clean, VALIDATION_SIZE).to(torch.float32) / 255
        noisy = corrupt(clean, photograph.name, level, clip=config.clip, round_8bit=config.round_8bit)
        validation.append((noisy, clean))
    return [photograph.clean for photograph in found[:kept]], validation


def split_pairs(config: TrainConfig) -> tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]:
    """Training pairs (noisy, clean: uint8 ``[C,H,W]``) and validation pairs (float32 ``[C,h,w]``), of other scenes."""
    found = _read_training_set(config, config.pairs, pairs=True)
    held_out = _count_held_out(config, config.pairs, len(found))
    apart = keep_scenes_apart(config.pairs, [photograph.name for photograph in found], held_out)
    pairs = [(photograph.noisy, photograph.clean) for photograph in found]
    training = [pair for index, pair in enumerate(pairs) if index not in apart]
    validation = [
        tuple(crop_centre(image, VALIDATION_SIZE).to(torch.float32) / 255 for image in pairs[index])
        for index in sorted(apart)[:held_out]
    ]
    return training, validation


def keep_scenes_apart(dataset: str, names: list[str], count: int) -> set[int]:
    """Indices of the images that are kept out of training: whole scenes, ``count`` images or a few more.

    The smallest scenes are taken first, of equally small ones the last: training loses least, and what is kept out
    shows most. The largest scene always stays. A scene is read off the names (``kitchen_1``, ``kitchen_2``); where all
    names are of fewer than four scenes (``IMG_0001``, ``IMG_0002``), each image is one.
    """
    patterns = [SCENES[dataset]] if dataset in SCENES else SCENES_BY_THEMSELVES
    scenes = defaultdict(list)
    for index, name in enumerate(names):
        found = next(filter(None, (re.search(pattern, name) for pattern in patterns)), None)
        scenes[found[1] if found else name].append(index)
    members = list(scenes.values()) if len(scenes) > 3 else [[index] for index in range(len(names))]
    apart: set[int] = set()
    for scene in sorted(members, key=lambda scene: (len(scene), -scene[-1]))[:-1]:
        if len(apart) >= count:
            break
        apart.update(scene)
    return apart


def _read_training_set(config: TrainConfig, name: str, pairs: bool = False) -> list[Photograph]:
    if name in catalog.DATASETS:
        roles = [catalog.find(name).role]
    else:  # a folder of one's own may hold a known set
        layout = official.recognise(Path(name)) if Path(name).exists() else None
        roles = [entry.role for entry in catalog.DATASETS.values() if entry.layout and entry.layout == layout]
    if roles and not any(role.startswith("train") for role in roles):
        raise ReproError(f"{name} is a test set; nothing is trained on it.")
    return read_photographs(name, {"rgb": "RGB", "gray": "L"}[config.colour], pairs)


def _count_held_out(config: TrainConfig, name: str, images: int) -> int:
    held_out = min(config.validation_images, images // 4)
    if not held_out:
        raise ReproError(f"{name} has {images} images; training needs at least 4.")
    return held_out
