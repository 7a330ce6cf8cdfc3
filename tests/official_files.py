"""Writes tiny sets of real noise in the layouts of their homes, for the tests that read them.

Pixels are random with a fixed seed; names, shapes, types and orders are those of the real files.
"""

from pathlib import Path

import h5py
import numpy as np
import torch
from PIL import Image
from scipy.io import savemat

RANDOM = np.random.default_rng(0)
SCENES = (
    "0001_001_S6_00100_00060_3200_L",
    "0002_001_S6_00100_00020_3200_N",
    "0003_002_GP_00800_00350_5500_N",
    "0004_003_IP_01600_00400_3200_H",
)


def pixels(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


def save_image(path: Path, array: np.ndarray) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return array


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """uint8 [H, W, 3] as float32 [3, H, W] in [0, 1]."""
    return torch.from_numpy(array).permute(2, 0, 1).float() / 255


def write_hdf5(path: Path, fill) -> Path:
    """A MATLAB file of version 7.3: HDF5 behind 512 bytes of MATLAB's own; ``fill(file)`` writes the content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        fill(file)
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Jan 1 00:00:00 2018 HDF5 schema 1.00 ."
    with path.open("r+b") as raw:
        raw.write(header.ljust(124) + b"\x00\x02IM")
    return path


def put(group, name: str, array: np.ndarray, kind: str):
    """An array as MATLAB stores it: its dimensions in reverse order, its class beside it."""
    stored = group.create_dataset(name, data=np.ascontiguousarray(array.T))
    stored.attrs["MATLAB_class"] = np.bytes_(kind)
    return stored


def put_field(file, group, name: str, arrays: list[np.ndarray]) -> None:
    """A field of an array of structures: references to arrays in the group that MATLAB calls #refs#."""
    hidden = file.require_group("#refs#")
    references = [put(hidden, f"{name}{k}", array, "double").ref for k, array in enumerate(arrays)]
    group.create_dataset(name, data=np.array([references], dtype=h5py.ref_dtype), dtype=h5py.ref_dtype)


def write_sidd_medium(home: Path, size: tuple[int, int] = (40, 36)) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Four scene instances of three scenes, two takes each, in ``SIDD_Medium_Srgb``; {name: (clean, noisy)}."""
    content = {}
    for scene in SCENES:
        folder = home / "SIDD_Medium_Srgb" / "Data" / scene
        for take in ("010", "011"):
            content[f"{scene}_{take}"] = tuple(
                save_image(folder / f"{scene[:4]}_{kind}_SRGB_{take}.PNG", pixels(*size, 3)) for kind in ("GT", "NOISY")
            )
    (home / "SIDD_Medium_Srgb" / "Scene_Instances.txt").write_text("\n".join(SCENES))
    return content


def write_sidd_validation(folder: Path, shape=(3, 2, 32, 32, 3), version: str = "5") -> dict[str, np.ndarray]:
    """Both files of the validation blocks; {"Noisy": ..., "Gt": ...}."""
    content = {which: pixels(*shape) for which in ("Noisy", "Gt")}
    for which, array in content.items():
        write_blocks(folder / f"Validation{which}BlocksSrgb.mat", array, version)
    return content


def write_sidd_benchmark(folder: Path, shape=(3, 2, 16, 16, 3), version: str = "5") -> np.ndarray:
    blocks = pixels(*shape)
    write_blocks(folder / "BenchmarkNoisyBlocksSrgb.mat", blocks, version)
    return blocks


def write_blocks(path: Path, array: np.ndarray, version: str = "5") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if version == "5":
        savemat(path, {path.stem: array}, do_compression=True)
    else:
        write_hdf5(path, lambda file: put(file, path.stem, array, "uint8"))


def write_dnd(home: Path, images: int = 3, boxes: int = 2, side: int = 12) -> dict[str, np.ndarray]:
    """``dnd_2017``, HDF5 throughout; {name: float32 [H, W, 3]}. Images differ in size, boxes in place."""
    root, content, places, levels = home / "dnd_2017", {}, [], []
    for number in range(1, images + 1):
        height, width = 30 + number, 50 - number
        content[f"{number:04d}"] = image = RANDOM.random((height, width, 3), dtype=np.float32)
        write_hdf5(
            root / "images_srgb" / f"{number:04d}.mat",
            lambda file, image=image: put(file, "InoisySRGB", image, "single"),
        )
        corners = [(1 + 3 * k, 2 + 5 * k) for k in range(boxes)]  # of rows and columns, from 1
        corners[-1] = (height - side + 1, width - side + 1)
        places.append(np.array([[top, left, top + side - 1, left + side - 1] for top, left in corners], dtype=float))
        levels.append(np.array([[0.01 * number + 0.001 * k] for k in range(boxes)]))
    write_dnd_info(root, places, levels)
    return content


def write_dnd_info(root: Path, places: list[np.ndarray], levels: list[np.ndarray]) -> None:
    def fill(file):
        info = file.create_group("info")
        info.attrs["MATLAB_class"] = np.bytes_("struct")
        put_field(file, info, "boundingboxes", places)
        put_field(file, info, "sigma_srgb", levels)

    write_hdf5(root / "info.mat", fill)


def write_renoir(home: Path, batches: int = 2, size: tuple[int, int] = (34, 38)) -> dict[str, tuple[np.ndarray, ...]]:
    """Three cameras; {name of the pair: (reference, full, noisy)}. One archive lies in a folder of its own name."""
    content = {}
    for camera in ("Mi3", "S90", "T3i"):
        folder = home / f"{camera}_Aligned"
        folder = folder / folder.name if camera == "S90" else folder
        for batch in range(1, batches + 1):
            where = folder / f"Batch_{batch:03d}"
            reference = save_image(where / "IMG_0003Reference.bmp", pixels(*size, 3))
            full = save_image(where / "IMG_0004full.bmp", pixels(*size, 3))
            save_image(where / "Mask.bmp", pixels(*size))
            (where / "Thumbs.db").write_bytes(b"not an image")
            for take in (1, 2):
                noisy = save_image(where / f"IMG_000{take}Noisy.bmp", pixels(*size, 3))
                content[f"{camera}_Batch_{batch:03d}_{take}"] = reference, full, noisy
    return content


def write_nam(home: Path, size: tuple[int, int] = (33, 35)) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Whole images; {name: (clean, noisy)}."""
    content = {}
    for place in ("Canon_EOS_5D_Mark3/ISO_3200/C_1", "Nikon_D600/ISO_3200/C_1", "Nikon_D800/ISO_1600/A_1",
                  "Nikon_D800/ISO_6400/B_3"):  # fmt: skip
        clean, noisy = pixels(*size, 3), pixels(*size, 3)
        path = home / f"{place}.mat"
        path.parent.mkdir(parents=True, exist_ok=True)
        savemat(path, {"img_mean": clean, "img_noisy": noisy, "img_cov": np.eye(3), "img_mask": clean[..., 0] > 9})
        content[place.replace("/", "_")] = clean, noisy
    return content
