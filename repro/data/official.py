"""Sets of real noise in the layouts in which their homes hand them out.

========================  ======================================================================================
``sidd-medium``           ``Data/0001_001_S6_00100_00060_3200_L/0001_NOISY_SRGB_010.PNG`` and ``..._GT_SRGB_010.PNG``
                          (SIDD Small is laid out alike)
``sidd-validation``       ``ValidationNoisyBlocksSrgb.mat`` and ``ValidationGtBlocksSrgb.mat``: uint8
                          [image, block, row, column, colour], 40 x 32 blocks of 256 x 256
``sidd-benchmark``        ``BenchmarkNoisyBlocksSrgb.mat``, alike, without clean blocks
``dnd``                   ``images_srgb/0001.mat`` to ``0050.mat`` (HDF5, ``InoisySRGB``) and ``info.mat`` with 20 boxes
                          for each, without clean images
``renoir``                ``Mi3_Aligned``, ``S90_Aligned`` and ``T3i_Aligned``, in each ``Batch_001`` and so on with
                          ``*Noisy.bmp`` (usually two), ``*Reference.bmp`` and ``*full.bmp``
``nam``                   whole images, ``Nikon_D800/ISO_3200/A_1.mat`` (``img_noisy``, ``img_mean``); or patches:
                          ``NAM_patch.mat`` (``noisy_pchs``, ``gt_pchs``: uint8 [patch, row, column, colour]), the
                          folders ``Nam_patches`` and ``Nam_patch_GT``, or ``*_real.png`` beside ``*_mean.png``
========================  ======================================================================================

The folder of an archive may be given, or the one above it. MATLAB files may be of version 5 or, HDF5-based, 7.3; DND's
are 7.3. Whatever is missing, damaged or of another kind raises :class:`ReproError` with one sentence that names it.

Sources: the read-me files of SIDD and DND and their submission kits; SADNet's ``gen_dataset_real.py`` (RENOIR); DANet's
and ScaoedNet's scripts (Nam).
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from repro.data.images import is_image, read_image
from repro.errors import ReproError


@dataclass(frozen=True)
class Pair:
    """A noisy photograph and its clean partner, not read yet.

    ``noisy`` and ``clean`` are the files that hold them, of several that are averaged the first; many pairs may lie in
    the same file.
    """

    name: str
    clean: Path
    noisy: Path
    decode: Callable[[], tuple[Tensor, Tensor]]

    def read(self) -> tuple[Tensor, Tensor]:
        """(clean, noisy), float32 [C, H, W] in [0, 1], of one size."""
        clean, noisy = self.decode()
        if clean.shape[1:] != noisy.shape[1:]:
            of = [f"{image.shape[2]} x {image.shape[1]}" for image in (noisy, clean)]
            raise ReproError(f"{self.noisy} has {of[0]} pixels and its clean partner {self.clean} has {of[1]}.")
        return clean, noisy


@dataclass(frozen=True)
class Layout:
    """One way in which a set lies in a folder."""

    title: str
    contents: str  # what must be there, for messages
    find: Callable[[Path], Path | None]  # a folder, or a file of the set -> where the set lies, if it does
    pairs: Callable[[Path], list[Pair]] | None = None  # None: its clean images are not handed out
    submit: str = ""  # the command for a set without clean images


def recognise(where: Path) -> str | None:
    """The name in :data:`LAYOUTS` of what lies in ``where``, a folder or a ``.mat`` file, or None.

    Raises :class:`ReproError` for a folder that holds several sets.
    """
    found = [name for name, layout in LAYOUTS.items() if layout.find(where)]
    if len(found) > 1:
        raise ReproError(f"{where} holds several sets, {', '.join(found)}: name one by its own folder or file.")
    return found[0] if found else None


def locate(layout: str, where: Path) -> Path:
    """The folder or file in ``where`` in which the layout begins. Raises :class:`ReproError` if it is not there."""
    found = LAYOUTS[layout].find(where) if where.exists() else None
    if found is None:
        raise ReproError(f"{where} is not {LAYOUTS[layout].title}: that is {LAYOUTS[layout].contents}.")
    return found


def list_pairs(layout: str, where: Path) -> list[Pair]:
    """The pairs in ``where``, in the order of their names; their pixels are not read yet.

    Raises :class:`ReproError` for a set whose clean images are not handed out, and for whatever is missing.
    """
    kind, root = LAYOUTS[layout], locate(layout, where)
    if kind.pairs is None:
        raise ReproError(
            f"The clean images of {kind.title} are not handed out, so nothing can be measured on it or learnt from it "
            f"here; `{kind.submit}` writes what its home scores."
        )
    pairs = kind.pairs(root)
    if not pairs:
        raise ReproError(f"There is no image in {root}: {kind.title} is {kind.contents}.")
    return sorted(pairs, key=lambda pair: pair.name)


def count(layout: str, where: Path) -> int:
    """How many images the set in ``where`` has, after a look at all there is short of the pixels."""
    if LAYOUTS[layout].pairs:
        return len(list_pairs(layout, where))
    if layout == "dnd":
        images = read_dnd(where)
        for image in images:
            image.check()
        return len(images)
    images, blocks = read_sidd_benchmark(where).shape[:2]
    return images * blocks


# --- MATLAB files


class Variable:
    """An array in a MATLAB file of version 5 or 7.3, indexed as in MATLAB; read when its content is asked for."""

    def __init__(self, path: Path, name: str):
        self.path, self.name = path, name

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Read without the content."""
        with reading(self.path):
            if not _is_hdf5(self.path):
                from scipy.io import whosmat

                sizes = {name: shape for name, shape, _ in whosmat(self.path)}
                self._require(sizes)
                return tuple(sizes[self.name])
            with _open_hdf5(self.path) as file:
                self._require(_names(file))
                return file[self.name].shape[::-1]

    def read(self) -> np.ndarray:
        """The content."""
        with reading(self.path):
            if not _is_hdf5(self.path):
                from scipy.io import loadmat

                content = loadmat(self.path, variable_names=[self.name])
                self._require(content)
                return content[self.name]
            with _open_hdf5(self.path) as file:
                self._require(_names(file))
                return np.asarray(file[self.name]).T  # MATLAB writes columns first, HDF5 reads rows first

    @cached_property
    def array(self) -> np.ndarray:
        """The content of a file of many images, kept for the next one."""
        return self.read()

    def _require(self, names) -> None:
        found = [name for name in names if not name.startswith(("_", "#"))]
        if self.name not in found:
            has = ", ".join(found) or "none"
            raise ReproError(f"{self.path} has no variable {self.name}; those it has: {has}.")

    def require_colours(self, dimensions: int) -> None:
        """Raise :class:`ReproError` unless the shape is of so many dimensions, the last of which are three colours."""
        if len(self.shape) != dimensions or self.shape[-1] != 3 or 0 in self.shape:
            sides = " x ".join(map(str, self.shape))
            raise ReproError(
                f"{self.name} in {self.path} is {sides}; an array of {dimensions} dimensions, the last of them three "
                f"colours, is expected."
            )

    def image(self, *index: int) -> np.ndarray:
        """The image of that number, or of the whole file: uint8 [H, W, 3], contiguous."""
        content = self.array if index else self.read()  # of a set with one file per image, one is in memory at a time
        if content.dtype != np.uint8:
            raise ReproError(f"{self.name} in {self.path} holds {content.dtype}; 8-bit pixels are expected.")
        return np.ascontiguousarray(content[index])


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever a decoder raises on ``path`` becomes a :class:`ReproError` of one sentence."""
    try:
        yield
    except ReproError:
        raise
    except FileNotFoundError:
        raise ReproError(f"There is no file {path}.") from None
    except Exception as error:  # SciPy and HDF5 raise anything from TypeError to MemoryError on damaged data
        reason = (str(error).splitlines() or [""])[0].rstrip(".") or type(error).__name__
        raise ReproError(f"{path} is damaged, incomplete or no MATLAB file: {reason}.") from error


def _is_hdf5(path: Path) -> bool:
    import h5py

    path.stat()  # h5py calls a file that is not there one of another kind
    return h5py.is_hdf5(path)


def _open_hdf5(path: Path):
    import h5py

    return h5py.File(path, "r")


def _names(file) -> dict[str, None]:
    """The arrays of an HDF5 file, without its groups."""
    return {name: None for name in file if hasattr(file[name], "shape")}


def names_in(path: Path) -> list[str]:
    """The names of the variables in a MATLAB file."""
    with reading(path):
        if _is_hdf5(path):
            with _open_hdf5(path) as file:
                return list(file)
        from scipy.io import whosmat

        return [name for name, *_ in whosmat(path)]


def _as_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1).to(torch.float32).div(255)


def _decode_variables(clean: Variable, noisy: Variable, *index: int) -> tuple[Tensor, Tensor]:
    return _as_tensor(clean.image(*index)), _as_tensor(noisy.image(*index))


# --- SIDD

_SCENE = re.compile(r"\d{4}_\d{3}_[A-Z0-9]{2}_\d+_\d+_\d+_[LNH]")
_SIDD_FILE = re.compile(r"(?:\d{4}_)?(NOISY|GT)_SRGB_(\d{3})\.PNG", re.IGNORECASE)


def _find_sidd_medium(where: Path) -> Path | None:
    inside = ("", "Data", "SIDD_Medium_Srgb", "SIDD_Medium_Srgb/Data", "SIDD_Small_sRGB_Only/Data")
    return _first(where / name for name in inside if any(map(_is_scene, _entries(where / name))))


def _is_scene(path: Path) -> bool:
    return bool(_SCENE.fullmatch(path.name)) and path.is_dir()


def _list_sidd_medium(root: Path) -> list[Pair]:
    pairs = []
    for scene in filter(_is_scene, _entries(root)):
        found: dict[str, dict[str, Path]] = {"NOISY": {}, "GT": {}}
        for path in _entries(scene):
            if match := _SIDD_FILE.fullmatch(path.name):
                found[match[1].upper()][match[2]] = path
        noisy, clean = found["NOISY"], found["GT"]
        if alone := sorted(noisy.keys() ^ clean.keys()):
            here, gone = ("NOISY", "GT") if alone[0] in noisy else ("GT", "NOISY")
            raise ReproError(f"{scene} has {here}_SRGB_{alone[0]} but no {gone}_SRGB_{alone[0]}.")
        if not noisy:
            raise ReproError(f"{scene} has no NOISY_SRGB and GT_SRGB images.")
        pairs += [_pair_files(f"{scene.name}_{take}", clean[take], noisy[take]) for take in sorted(noisy)]
    return pairs


def _pair_files(name: str, clean: Path, noisy: Path) -> Pair:
    return Pair(name, clean, noisy, lambda: (read_image(clean, None), read_image(noisy, None)))


def _find_beside(where: Path, *names: str) -> Path | None:
    """The folder that holds a file of one of the names: ``where``, one folder in it, or the one of a file."""
    if where.is_file():
        return where.parent if where.name in names else None
    folders = [where, *(path for path in _entries(where) if path.is_dir())]
    return _first(folder for folder in folders if any((folder / name).is_file() for name in names))


def _find_sidd_validation(where: Path) -> Path | None:
    return _find_beside(where, "ValidationNoisyBlocksSrgb.mat", "ValidationGtBlocksSrgb.mat")


def _list_sidd_validation(root: Path) -> list[Pair]:
    noisy, clean = (
        Variable(root / f"Validation{which}BlocksSrgb.mat", f"Validation{which}BlocksSrgb") for which in ("Noisy", "Gt")
    )
    noisy.require_colours(5)
    _require_same(noisy, clean)
    return [
        Pair(f"{i + 1:02d}_{k + 1:02d}", clean.path, noisy.path, partial(_decode_variables, clean, noisy, i, k))
        for i, k in np.ndindex(noisy.shape[:2])
    ]


def _require_same(noisy: Variable, clean: Variable) -> None:
    if noisy.shape != clean.shape:
        sides = [" x ".join(map(str, variable.shape)) for variable in (noisy, clean)]
        raise ReproError(f"{noisy.name} in {noisy.path} is {sides[0]}, but {clean.name} in {clean.path} is {sides[1]}.")


def _find_sidd_benchmark(where: Path) -> Path | None:
    return _find_beside(where, "BenchmarkNoisyBlocksSrgb.mat")


def read_sidd_benchmark(where: Path) -> Variable:
    """The noisy blocks of the SIDD benchmark, uint8 [image, block, row, column, colour]."""
    name = "BenchmarkNoisyBlocksSrgb"
    blocks = Variable(locate("sidd-benchmark", where) / f"{name}.mat", name)
    blocks.require_colours(5)
    return blocks


# --- DND


@dataclass(frozen=True)
class DNDImage:
    """A photograph of DND and the boxes in it that are denoised and scored."""

    name: str
    path: Path
    boxes: tuple[tuple[int, int, int, int], ...]  # top, left, bottom, right; from 0, the last row and column excluded
    sigmas: tuple[float, ...] | None  # the noise level of each box that info.mat states, in units of [0, 1]

    @property
    def variable(self) -> Variable:
        return Variable(self.path, "InoisySRGB")

    def check(self) -> None:
        """Raise :class:`ReproError` unless the photograph is there, in colour, and every box lies in it."""
        variable = self.variable
        variable.require_colours(3)
        height, width, _ = variable.shape
        for number, (top, left, bottom, right) in enumerate(self.boxes, 1):
            if not (0 <= top < bottom <= height and 0 <= left < right <= width):
                raise ReproError(
                    f"Box {number} of {self.path} by info.mat, rows {top + 1} to {bottom} and columns {left + 1} to "
                    f"{right}, does not lie in the image of {height} rows and {width} columns."
                )

    def crop(self) -> list[np.ndarray]:
        """The noisy content of the boxes: float32 [H, W, 3] in [0, 1]."""
        self.check()
        pixels = self.variable.read()
        if pixels.dtype.kind != "f":
            raise ReproError(f"InoisySRGB in {self.path} holds {pixels.dtype}; floating point is expected.")
        return [
            np.ascontiguousarray(pixels[top:bottom, left:right], dtype=np.float32)
            for top, left, bottom, right in self.boxes
        ]


def _find_dnd(where: Path) -> Path | None:
    folders = (where / name for name in ("", "dnd_2017"))
    return _first(path for path in folders if (path / "images_srgb").is_dir() or _is_dnd_info(path / "info.mat"))


def _is_dnd_info(path: Path) -> bool:
    return path.is_file() and _is_hdf5(path)


def read_dnd(where: Path) -> list[DNDImage]:
    """The photographs that ``info.mat`` speaks of, with their boxes. Raises :class:`ReproError` if it is not as DND's.

    ``info`` is an array of structures, one for each photograph. ``boundingboxes`` has a row for each box: the first row
    and column and the last, counted from 1. ``sigma_srgb`` has the noise level of each, taken here to be in the units
    of the image, as the kit hands it to a denoiser.
    """
    root = locate("dnd", where)
    path = root / "info.mat"
    with reading(path):
        if not _is_hdf5(path):
            raise ReproError(f"{path} is not a MATLAB file of version 7.3, as DND's is.")
        with _open_hdf5(path) as file:
            if "info" not in file or "boundingboxes" not in file["info"]:
                raise ReproError(f"{path} has no info.boundingboxes.")
            boxes = _read_field(file, file["info/boundingboxes"])
            levels = _read_field(file, file["info/sigma_srgb"]) if "sigma_srgb" in file["info"] else None
    images = []
    for index, rows in enumerate(boxes):
        if rows.ndim != 2 or rows.shape[1] != 4 or not np.array_equal(rows, np.round(rows)):
            raise ReproError(f"info.boundingboxes in {path} has no box of four whole numbers for image {index + 1}.")
        places = tuple((top - 1, left - 1, bottom, right) for top, left, bottom, right in rows.astype(int).tolist())
        sigmas = None
        if levels is not None:
            sigmas = tuple(levels[index].ravel().tolist()) if index < len(levels) else ()
            if len(sigmas) != len(places):
                raise ReproError(f"info.sigma_srgb in {path} does not have a level for each box of image {index + 1}.")
        name = f"{index + 1:04d}"
        images.append(DNDImage(name, root / "images_srgb" / f"{name}.mat", places, sigmas))
    if not images:
        raise ReproError(f"{path} lists no image.")
    return images


def _read_field(file, field) -> list[np.ndarray]:
    """One field of an array of structures, which MATLAB stores as references, element by element."""
    return [np.asarray(file[reference]).T for reference in np.asarray(field).ravel()]


# --- RENOIR

CAMERAS = ("Mi3_Aligned", "S90_Aligned", "T3i_Aligned")


def _find_renoir(where: Path) -> Path | None:
    if any((where / camera).is_dir() for camera in CAMERAS):
        return where
    return where if any(_entries_like(batch, "Reference.bmp") for batch in _batches(where)) else None


def _list_renoir(root: Path) -> list[Pair]:
    if _batches(root):  # the folder of one camera
        return _list_camera(root)
    missing = [camera for camera in CAMERAS if not (root / camera).is_dir()]
    if missing:
        raise ReproError(
            f"There is no folder {missing[0]} in {root}: RENOIR is of three cameras, {', '.join(CAMERAS)}; name the "
            f"folder of one to have it alone."
        )
    return [pair for camera in CAMERAS for pair in _list_camera(root / camera)]


def _list_camera(folder: Path) -> list[Pair]:
    inner = folder / folder.name  # an archive that was unpacked into a folder of its own name
    batches = _batches(folder) or _batches(inner)
    if not batches:
        raise ReproError(f"There is no folder Batch_001 or the like in {folder}.")
    pairs = []
    for batch in batches:
        noisy, references, full = (_entries_like(batch, end) for end in ("Noisy.bmp", "Reference.bmp", "full.bmp"))
        for kind, found in (("Noisy", noisy), ("Reference", references), ("full", full)):
            if not found:
                raise ReproError(f"{batch} has no image *{kind}.bmp.")
        camera = folder.name.removesuffix("_Aligned")
        decode = partial(_decode_renoir, references + full)
        pairs += [
            Pair(f"{camera}_{batch.name}_{number}", references[0], path, partial(decode, path))
            for number, path in enumerate(noisy, 1)
        ]
    return pairs


def _batches(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if re.fullmatch(r"Batch_\d+", path.name) and path.is_dir()]


def _decode_renoir(clean: list[Path], noisy: Path) -> tuple[Tensor, Tensor]:
    """The clean image is the mean of the reference and the full one, truncated to 8 bits (SADNet's code)."""
    images = [read_image(path, None) for path in clean]
    if any(image.shape != images[0].shape for image in images):
        raise ReproError(f"{clean[0]} and {clean[-1]} are of different sizes, so they have no mean.")
    mean = torch.stack(images).mul(255).round().mean(0).floor().div(255)
    return mean, read_image(noisy, None)


# --- Nam


def _find_nam(where: Path) -> Path | None:
    if where.is_file():
        return where if where.suffix == ".mat" and _nam_variables(where) else None
    folders = (where / name for name in ("", "mat"))
    if found := _first(folder for folder in folders if _nam_files(folder)):
        return found
    if (where / "Nam_patches").is_dir() or (where / "Nam_patch_GT").is_dir():
        return where
    stems = [path.stem for path in _images(where)]
    if any(stem.endswith("_real") for stem in stems) and any(stem.endswith("_mean") for stem in stems):
        return where
    return _first(path for path in _entries(where) if re.search(r"patch.*\.mat$", path.name, re.I) and _find_nam(path))


def _list_nam(root: Path) -> list[Pair]:
    if root.is_file():
        return _list_nam_file(root, "")
    if whole := _nam_files(root):
        found = ((path, "_".join(path.relative_to(root).with_suffix("").parts)) for path in whole)
        return [pair for path, name in found for pair in _list_nam_file(path, name)]
    if (root / "Nam_patches").is_dir() or (root / "Nam_patch_GT").is_dir():
        return _pair_names(root / "Nam_patches", "_noise", root / "Nam_patch_GT", "_gt")
    return _pair_names(root, "_real", root, "_mean")


def _nam_files(folder: Path) -> list[Path]:
    """The whole images: <camera>/ISO_<sensitivity>/<scene>.mat."""
    return sorted(folder.glob("*/ISO_*/*.mat")) if folder.is_dir() else []


def _nam_variables(path: Path) -> tuple[str, str, int] | None:
    """The names of the noisy and the clean array in the file, and their dimensions."""
    kinds = (("noisy_pchs", "gt_pchs", 4), ("img_noisy", "img_mean", 3))
    names = names_in(path)
    return _first(kind for kind in kinds if set(names) & set(kind[:2]))


def _list_nam_file(path: Path, name: str) -> list[Pair]:
    noisy_name, clean_name, dimensions = _nam_variables(path) or ("img_noisy", "img_mean", 3)
    noisy, clean = Variable(path, noisy_name), Variable(path, clean_name)
    noisy.require_colours(dimensions)
    _require_same(noisy, clean)
    pair = Pair(name or path.stem, path, path, partial(_decode_variables, clean, noisy))
    if dimensions == 3:
        return [pair]
    return [
        replace(pair, name=f"{number + 1:03d}", decode=partial(pair.decode, number)) for number in range(noisy.shape[0])
    ]


def _pair_names(noisy_folder: Path, noisy_end: str, clean_folder: Path, clean_end: str) -> list[Pair]:
    noisy, clean = (
        {path.stem.removesuffix(end): path for path in _images(folder) if path.stem.endswith(end)}
        for folder, end in ((noisy_folder, noisy_end), (clean_folder, clean_end))
    )
    if alone := sorted(noisy.keys() ^ clean.keys()):
        found, folder, end = (noisy, clean_folder, clean_end) if alone[0] in noisy else (clean, noisy_folder, noisy_end)
        raise ReproError(f"{found[alone[0]]} has no partner {alone[0]}{end} in {folder}.")
    return [_pair_files(name, clean[name], noisy[name]) for name in noisy]


# --- folders


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _entries_like(folder: Path, end: str) -> list[Path]:
    return [path for path in _entries(folder) if path.name.lower().endswith(end.lower())]


def _images(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if is_image(path, folder)]


def _first(found):
    return next(iter(found), None)


LAYOUTS: dict[str, Layout] = {
    "sidd-medium": Layout(
        "SIDD Medium (sRGB)",
        "the folder SIDD_Medium_Srgb, in whose Data lie folders such as 0001_001_S6_00100_00060_3200_L",
        _find_sidd_medium,
        _list_sidd_medium,
    ),
    "sidd-validation": Layout(
        "the SIDD validation blocks (sRGB)",
        "the files ValidationNoisyBlocksSrgb.mat and ValidationGtBlocksSrgb.mat",
        _find_sidd_validation,
        _list_sidd_validation,
    ),
    "sidd-benchmark": Layout(
        "the SIDD benchmark (sRGB)",
        "the file BenchmarkNoisyBlocksSrgb.mat",
        _find_sidd_benchmark,
        submit="repro submit sidd",
    ),
    "dnd": Layout(
        "DND",
        "the folder dnd_2017 with info.mat and the folder images_srgb",
        _find_dnd,
        submit="repro submit dnd",
    ),
    "renoir": Layout("RENOIR", f"the folders {', '.join(CAMERAS)}", _find_renoir, _list_renoir),
    "nam": Layout(
        "Nam's set",
        "folders such as Nikon_D800/ISO_3200 with one .mat per image, or its patches as NAM_patch.mat, as Nam_patches "
        "and Nam_patch_GT, or as *_real.png and *_mean.png",
        _find_nam,
        _list_nam,
    ),
}
"""Every layout by the name that the catalogue uses."""
