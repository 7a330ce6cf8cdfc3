"""Image files in and out, without surprises.

Inside the study an image is a float32 tensor [C, H, W] in [0, 1], C = 3 (RGB) or 1 (gray). Files are more
varied:

* **bit depth**: 8 and 16 bits are read exactly and written back at the depth they came with; 1-bit, palette
  and CMYK files become 8-bit gray or RGB;
* **transparency** is set aside, untouched, and written back; a format that cannot hold it (JPEG, BMP) is
  refused rather than have the picture lose it. A denoiser sees the colours under transparent pixels as they
  are stored;
* **orientation** recorded by a camera (EXIF) is applied to the pixels, and not written back;
* **colour profile** (ICC) is kept, because the numbers mean nothing without it.

What cannot be read raises :class:`ReproError` with one sentence that names the file.
"""

import io
import logging
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from repro.errors import ReproError
from repro.files import write_atomically

SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".webp")
"""What a folder of images is searched for, in lower case. Single files of any kind that Pillow knows are
read."""

MAX_PIXELS = 200_000_000
"""Larger pictures are refused: as float32 RGB this many already take 2.4 GB."""

LUMA_WEIGHTS = (0.298936021293775, 0.587043074451121, 0.114020904255103)
"""BT.601 luma with its weights unrounded. With these the gray BSD68 of the literature follows from the colour
images to the last pixel; with the textbook's 0.299, 0.587, 0.114 one pixel in 22,000 rounds the other way."""

# What decoders raise on damaged data: Pillow's plugins alone use all of these.
_DAMAGE = (OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, struct.error, zlib.error)
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
LONGEST_SIDES = {".webp": 16_383, ".jpg": 65_535, ".jpeg": 65_535}  # pixels, by the formats
_ALPHA_FORMATS = (".png", ".tif", ".tiff", ".webp")
_PNG_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # channels -> colour type


@dataclass(frozen=True)
class Picture:
    """The content of an image file: what a denoiser works on, and what is needed to write its like."""

    pixels: Tensor  # float32 [C, H, W] in [0, 1], C = 1 or 3
    bits: int  # 8 or 16
    alpha: Tensor | None = None  # float32 [1, H, W]
    icc_profile: bytes | None = None


def is_image(path: Path, folder: Path) -> bool:
    """Whether the file ``path``, somewhere in ``folder``, is one of the folder's images: a regular file with one of
    :data:`SUFFIXES` which is neither hidden itself nor in a hidden folder."""
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.suffix.lower() in SUFFIXES and not hidden and path.is_file()


def read_image(path: str | Path, colour: str | None = "RGB") -> Tensor:
    """Read ``path`` as float32 [C, H, W] in [0, 1].

    ``colour`` "RGB" repeats a gray image three times, "L" turns colour into :func:`luma`, None leaves either
    as it is. Transparency is ignored; :func:`read_picture` keeps it.
    """
    if colour not in ("RGB", "L", None):
        raise ValueError(f"colour is 'RGB', 'L' or None, got {colour!r}")
    pixels = read_picture(path).pixels
    if colour == "RGB":
        return pixels.expand(3, -1, -1).contiguous()
    return luma(pixels) if colour == "L" and len(pixels) == 3 else pixels


def read_picture(path: str | Path) -> Picture:
    """Read ``path`` with its bit depth, transparency and colour profile. Raises :class:`ReproError`."""
    path = Path(path)
    if path.is_dir():
        raise ReproError(f"{path} is a folder, not an image.")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ReproError(f"There is no file {path}.") from None
    except OSError as error:
        raise ReproError(f"Cannot read {path}: {error.strerror or error}.") from None
    return decode_picture(data, path)


def decode_picture(data: bytes, name: str | Path) -> Picture:
    """As :func:`read_picture`, from the bytes of a file; ``name`` is what errors call it."""
    if not data:
        raise ReproError(f"{name} is empty.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of damage and of size: both are decided here
            array, icc_profile = _decode(data, name)
    except Image.UnidentifiedImageError:
        raise ReproError(f"{name} is not an image, or of a kind that cannot be read here.") from None
    except _DAMAGE as error:
        raise ReproError(f"{name} is damaged or incomplete: {str(error).rstrip('.')}.") from None
    bits = 8 * array.dtype.itemsize
    tensor = torch.from_numpy(array.transpose(2, 0, 1).astype(np.float32, order="C")).div_(2**bits - 1)
    opaque = 3 if len(tensor) >= 3 else 1
    alpha = tensor[opaque:].clone() if len(tensor) > opaque else None
    return Picture(tensor[:opaque].contiguous(), bits, alpha, icc_profile)


def write_image(
    path: str | Path,
    image: Tensor,
    bits: int = 8,
    *,
    alpha: Tensor | None = None,
    icc_profile: bytes | None = None,
) -> None:
    """Write ``image`` [C, H, W] (C = 1 or 3, clipped to [0, 1]) to ``path``; the suffix chooses the format.

    PNG and TIFF hold 16 bits, the others 8; JPEG is written at quality 95 without chroma subsampling. The
    file appears whole or not at all. Raises :class:`ReproError` for a format that cannot hold the image, NaN,
    or a failed write.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    check_format(path, bits=bits, alpha=alpha is not None, side=max(image.shape[-2:]))
    if image.ndim != 3 or len(image) not in (1, 3):
        raise ValueError(f"an image is [1, H, W] or [3, H, W], got {list(image.shape)}")
    planes = torch.cat([image, alpha]) if alpha is not None else image
    planes = planes.detach().float().cpu()
    if not bool(torch.isfinite(planes).all()):
        raise ReproError(f"Cannot write {path}: the image holds values that are not numbers.")
    top = 2**bits - 1
    array = (planes * top).round().clamp(0, top).permute(1, 2, 0).numpy().astype(f"uint{bits}")
    # Encoded in memory first: Pillow hides the reason when a disk fills up under it.
    data = _encode(array, suffix, icc_profile)
    with write_atomically(path) as temporary:
        temporary.write_bytes(data)


def check_format(path: str | Path, *, bits: int = 8, alpha: bool = False, side: int = 1) -> None:
    """Raise :class:`ReproError` if ``path`` names a format that cannot hold such an image, ``side`` being its longer
    one in pixels: ask before long work."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ReproError(f"Cannot write {path}: name a file that ends in {', '.join(SUFFIXES)}.")
    if bits not in (8, 16):
        raise ValueError(f"bits is 8 or 16, got {bits}")
    if bits == 16 and suffix not in (".png", ".tif", ".tiff"):
        raise ReproError(f"Cannot write {path}: {suffix} holds 8 bits, the image has 16; use .png or .tif.")
    if alpha and suffix not in _ALPHA_FORMATS:
        raise ReproError(f"Cannot write {path}: {suffix} holds no transparency; use .png or .tif.")
    if side > (most := LONGEST_SIDES.get(suffix, side)):
        raise ReproError(f"Cannot write {path}: {suffix} holds sides of up to {most} pixels, not {side}; use .png.")


def luma(image_rgb: Tensor) -> Tensor:
    """BT.601 luma of [..., 3, H, W], rounded to 8 bits as gray test sets are: [..., 1, H, W]."""
    if image_rgb.ndim < 3 or image_rgb.shape[-3] != 3:
        raise ValueError(f"luma needs an RGB image [..., 3, H, W], got {list(image_rgb.shape)}")
    weights = torch.tensor(LUMA_WEIGHTS, dtype=torch.float64, device=image_rgb.device).view(3, 1, 1)
    gray = (image_rgb.double() * 255 * weights).sum(-3, keepdim=True)
    return (gray + 0.5).floor().clamp(0, 255).to(image_rgb.dtype) / 255


def crop_centre(image: Tensor, side: int) -> Tensor:
    """The central square [..., side, side] of [..., H, W]; a side of the image that is shorter stays whole."""
    height, width = (min(side, length) for length in image.shape[-2:])
    top, left = (image.shape[-2] - height) // 2, (image.shape[-1] - width) // 2
    return image[..., top : top + height, left : left + width].contiguous()


def _decode(data: bytes, path: str | Path) -> tuple[np.ndarray, bytes | None]:
    """Pixels uint8 or uint16 [H, W, C], C = 1 or 3, one more where there is transparency; and the ICC
    profile."""
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        decoded = _decode_tiff_16(data, path)
        if decoded:
            return decoded
    image = _open(data)
    _check_count(path, image.size, 1 if image.format == "MPO" else getattr(image, "n_frames", 1))
    # A profile of inks would be wrong for the RGB that is made of them.
    icc_profile = None if image.mode == "CMYK" else image.info.get("icc_profile")
    if image.format == "PNG" and data[24] == 16:  # bits per sample, in the header
        return _turn(_decode_png_16(image, data), image.getexif().get(0x0112, 1)), icc_profile
    if image.mode not in _MODES:
        raise ReproError(f"{path} stores its pixels as {image.mode}; images of 8 or 16 bits can be read.")
    gray, clear = image.mode in ("1", "L", "LA"), image.mode.endswith("A") or "transparency" in image.info
    image = ImageOps.exif_transpose(image.convert(("L" if gray else "RGB") + ("A" if clear else "")))
    array = np.asarray(image)
    return (array if array.ndim == 3 else array[..., None]), icc_profile


def _open(data: bytes) -> Image.Image:
    # Opening reads the header only. Pillow's own limit is global to the process, so it is put back at once.
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        return Image.open(io.BytesIO(data))
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _check_count(path: str | Path, size: tuple[int, int], pictures: int, channels: int = 1) -> None:
    width, height = size
    if (pixels := width * height) > MAX_PIXELS:
        most = f"{MAX_PIXELS // 10**6} are the most that is read"
        raise ReproError(f"{path} has {pixels / 1e6:.0f} million pixels; {most}.")
    if pictures > 1:  # or an array of another order than [H, W, C], of which a TIFF makes pictures
        raise ReproError(
            f"{path} holds {pictures} pictures of {width} x {height} pixels; one of 1 to 4 channels is expected."
        )
    if channels > 4:
        raise ReproError(f"{path} has {channels} channels; gray or RGB is read, with or without transparency.")


def _decode_png_16(image: Image.Image, data: bytes) -> np.ndarray:
    """All 16 bits of a PNG, of which Pillow keeps the high byte only where there is more than one channel.

    Its decompressor is told to unpack the same bytes in another way. Gray with transparency is four bytes a
    pixel, as RGBA is; of colour, a second pass reads the low bytes by calling the order of the bytes
    "little-endian".
    """
    channels = {colour_type: count for count, colour_type in _PNG_COLOUR_TYPES.items()}[data[25]]
    if channels == 1:
        array = np.asarray(image)[..., None].astype(np.uint16)
    elif channels == 2:
        array = _unpack(image, "RGBA").astype(np.uint16)
        array = array[..., 0::2] << 8 | array[..., 1::2]
    else:
        mode = "RGB" if channels == 3 else "RGBA"
        low = _unpack(Image.open(io.BytesIO(data)), f"{mode};16L")
        array = _unpack(image, f"{mode};16B").astype(np.uint16) << 8 | low
    transparent = image.info.get("transparency")  # one colour declared transparent
    if transparent is None or channels not in (1, 3):
        return array
    opaque = (array != np.asarray(transparent, dtype=np.uint16)).any(-1, keepdims=True)
    return np.concatenate([array, opaque * np.uint16(65535)], axis=-1)


def _unpack(image: Image.Image, raw_mode: str) -> np.ndarray:
    image.tile = [tile._replace(args=raw_mode) for tile in image.tile]
    return np.asarray(image)


def _decode_tiff_16(data: bytes, path: str | Path) -> tuple[np.ndarray, bytes | None] | None:
    """A TIFF of 16 bits, of which Pillow knows a few kinds only; None for one of other depth."""
    import tifffile  # takes a while, and few files need it

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong with a file is said once, below

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            page = tiff.pages[0]
            if page.is_reduced or page.tags.get("SubIFDs"):  # the layout of DNG, NEF, ARW and others
                raise ReproError(
                    f"{path} begins with a preview, as the raw files of cameras do: develop it to a PNG or TIFF first."
                )
            _check_count(path, (page.imagewidth, page.imagelength), len(tiff.pages), page.samplesperpixel)
            if page.dtype is not None and (page.dtype.kind in "fc" or page.dtype.itemsize > 2):
                raise ReproError(f"{path} stores its pixels as {page.dtype}; images of 8 or 16 bits can be read.")
            if page.dtype != np.uint16:
                return None
            try:
                array = page.asarray()
            except ValueError as error:
                if "imagecodecs" not in str(error):
                    raise
                how = getattr(page.compression, "name", page.compression)
                raise ReproError(
                    f"{path} is a TIFF of 16 bits compressed by {how}, which is not read: save it as PNG."
                ) from None
            planes_first = page.samplesperpixel > 1 and page.planarconfig == tifffile.PLANARCONFIG.SEPARATE
            kind = tifffile.PHOTOMETRIC(page.photometric)
            if kind not in (kind.MINISWHITE, kind.MINISBLACK, kind.RGB):
                raise ReproError(f"{path} is a TIFF of 16 bits in {kind.name}; gray or RGB is read.")
            white_is_zero = kind == kind.MINISWHITE
            orientation, profile = page.tags.valueof(274, 1), page.tags.valueof(34675)
    except tifffile.TiffFileError as error:
        raise ValueError(str(error)) from None
    array = array.transpose(1, 2, 0) if planes_first else array
    array = array if array.ndim == 3 else array[..., None]
    if array.ndim != 3 or array.shape[2] > 4:
        raise ValueError(f"its pixels are an array of {array.shape}")
    return _turn(65535 - array if white_is_zero else array, orientation), profile


def _turn(array: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation (1 to 8) to [H, W, C]."""
    if orientation in (5, 6, 7, 8):
        array = array.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


def _encode(array: np.ndarray, suffix: str, icc_profile: bytes | None) -> bytes:
    if array.dtype == np.uint16 and suffix == ".png":
        return _encode_png_16(array, icc_profile)
    buffer = io.BytesIO()
    squeezed = array[..., 0] if array.shape[2] == 1 else array
    if array.dtype == np.uint16:
        import tifffile

        colour = "rgb" if array.shape[2] >= 3 else "minisblack"
        extra = ["unassalpha"] if array.shape[2] in (2, 4) else None
        profile = [(34675, 7, len(icc_profile), icc_profile, True)] if icc_profile else []
        tifffile.imwrite(
            buffer,
            squeezed,
            photometric=colour,
            extrasamples=extra,
            extratags=profile,
            metadata=None,
            planarconfig="contig",
        )
        return buffer.getvalue()
    kind = Image.registered_extensions()[suffix]
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[array.shape[2]]
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True, "exact": True}}.get(kind, {})
    if icc_profile and kind != "BMP":
        options = {**options, "icc_profile": icc_profile}
    image = Image.frombytes(mode, array.shape[1::-1], np.ascontiguousarray(array).tobytes())
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _encode_png_16(array: np.ndarray, icc_profile: bytes | None) -> bytes:
    """A 16-bit PNG of any channel count, which Pillow writes for gray only."""
    height, width, channels = array.shape
    rows = np.ascontiguousarray(array, dtype=">u2").reshape(height, -1).view(np.uint8)
    above = np.concatenate([np.zeros_like(rows[:1]), rows[:-1]])
    up = np.full((height, 1), 2, dtype=np.uint8)  # filter type "up": each byte minus the one above it
    filtered = np.concatenate([up, rows - above], axis=1)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, _PNG_COLOUR_TYPES[channels], 0, 0, 0))]
    if icc_profile:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(icc_profile)))
    chunks += [(b"IDAT", zlib.compress(filtered.tobytes(), 6)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body
