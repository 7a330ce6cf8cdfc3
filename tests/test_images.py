"""Image files as people have them: every depth and kind is read exactly, and what is broken says so."""

import errno
import io
import os
import struct
import subprocess
import sys
import tempfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from repro.data import images
from repro.data.images import check_format, luma, read_image, read_picture, write_image
from repro.errors import ReproError

SHARED = Path(os.environ.get("REPRO_SHARED") or Path(__file__).parents[2] / "shared")


def noise_image(channels: int, bits: int, height: int = 5, width: int = 7, seed: int = 0) -> torch.Tensor:
    top = 2**bits - 1
    values = np.random.default_rng(seed).integers(0, top + 1, (channels, height, width))
    return torch.from_numpy(values.astype(np.float32) / np.float32(top))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(array: np.ndarray, colour_type: int, *chunks: bytes) -> bytes:
    """A 16-bit PNG by the book, written without the code under test: filter type 0 in every row."""
    height, width = array.shape[:2]
    rows = array.astype(">u2").reshape(height, -1).view(np.uint8)
    rows = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    body = [
        chunk(b"IHDR", header),
        *chunks,
        chunk(b"IDAT", zlib.compress(rows.tobytes())),
        chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def photograph(path: Path, **options) -> Path:
    Image.effect_noise((64, 48), 50).convert("RGB").save(path, **options)
    return path


@contextmanager
def one_sentence(*words: str):
    """The block raises ReproError with one line, one full stop at its end, that holds all the words."""
    with pytest.raises(ReproError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and "Traceback" not in message
    for word in words:
        assert str(word) in message, message


# ---- what is written is what is read


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bits", [8, 16])
def test_exact_round_trip(tmp_path, bits, channels, transparent, suffix):
    image, alpha = noise_image(channels, bits), noise_image(1, bits, seed=1) if transparent else None
    write_image(tmp_path / f"a{suffix}", image, bits, alpha=alpha, icc_profile=b"profile" * 30)
    picture = read_picture(tmp_path / f"a{suffix}")
    assert picture.bits == bits and picture.icc_profile == b"profile" * 30
    assert torch.equal(picture.pixels, image)
    assert picture.alpha is None if alpha is None else torch.equal(picture.alpha, alpha)
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]


@settings(max_examples=40, deadline=None)
@given(
    bits=st.sampled_from([8, 16]),
    channels=st.sampled_from([1, 3]),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_round_trip_of_any_size(bits, channels, height, width, seed):
    image = noise_image(channels, bits, height, width, seed)
    with tempfile.TemporaryDirectory() as folder:
        write_image(Path(folder) / "a.png", image, bits)
        assert torch.equal(read_image(Path(folder) / "a.png", None), image)


def test_lossy_formats_stay_close(tmp_path):
    smooth = torch.linspace(0, 1, 64).expand(3, 48, 64)
    for suffix in (".jpg", ".webp", ".bmp"):
        write_image(tmp_path / f"a{suffix}", smooth)
        assert (read_image(tmp_path / f"a{suffix}") - smooth).abs().max() < 4 / 255


def test_values_outside_the_range_are_clipped(tmp_path):
    write_image(tmp_path / "a.png", torch.tensor([[[-0.3, 0.5, 1.7]]]))
    assert (read_image(tmp_path / "a.png", "L") * 255).round().tolist() == [[[0, 128, 255]]]


def test_1x1(tmp_path):
    for bits in (8, 16):
        write_image(tmp_path / "a.png", torch.full((3, 1, 1), 0.2), bits)
        assert read_image(tmp_path / "a.png").shape == (3, 1, 1)


# ---- what other programs write


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_16_bit_png_is_exact(tmp_path, colour_type, channels):
    values = np.random.default_rng(0).integers(0, 65536, (6, 5, channels)).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(png(values, colour_type))
    picture = read_picture(tmp_path / "a.png")
    whole = picture.pixels if picture.alpha is None else torch.cat([picture.pixels, picture.alpha])
    assert picture.bits == 16
    assert np.array_equal(np.rint(whole.double().numpy() * 65535).transpose(1, 2, 0), values)


def test_16_bit_png_with_every_filter(tmp_path):
    # Pillow chooses a filter per row, the sub, average and Paeth ones among them; gray is the one it writes.
    smooth = (np.add.outer(np.arange(40) ** 2, np.arange(50) * 37) * 11 % 65536).astype(np.uint16)
    Image.fromarray(smooth).save(tmp_path / "a.png")
    assert np.array_equal(np.rint(read_image(tmp_path / "a.png", "L")[0].double().numpy() * 65535), smooth)


def test_16_bit_png_with_a_transparent_colour(tmp_path):
    values = np.full((2, 2, 3), 1000, np.uint16)
    values[0, 0] = (1, 2, 3)
    (tmp_path / "a.png").write_bytes(png(values, 2, chunk(b"tRNS", struct.pack(">3H", 1, 2, 3))))
    assert read_picture(tmp_path / "a.png").alpha[0].tolist() == [[0, 1], [1, 1]]


@pytest.mark.parametrize("options", [{}, {"compression": "zlib", "predictor": 2}, {"planarconfig": "separate"}])
def test_16_bit_tiff(tmp_path, options):
    values = np.random.default_rng(0).integers(0, 65536, (6, 5, 3)).astype(np.uint16)
    stored = values.transpose(2, 0, 1) if "planarconfig" in options else values
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", **options)
    assert np.array_equal(np.rint(read_image(tmp_path / "a.tif").double().numpy() * 65535).transpose(1, 2, 0), values)


def test_palette_1_bit_and_cmyk(tmp_path):
    source = Image.open(photograph(tmp_path / "a.png")).quantize(16)
    source.save(tmp_path / "palette.png")
    assert np.array_equal(
        (read_image(tmp_path / "palette.png") * 255).round().numpy().transpose(1, 2, 0),
        np.asarray(source.convert("RGB")),
    )
    source.save(tmp_path / "clear.png", transparency=3)
    assert read_picture(tmp_path / "clear.png").alpha.unique().tolist() == [0, 1]
    Image.fromarray(np.eye(5, dtype=bool)).save(tmp_path / "bits.png")
    assert torch.equal(read_image(tmp_path / "bits.png", None), torch.eye(5)[None])
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.jpg")
    red = read_image(tmp_path / "print.jpg")[:, 4, 4]
    assert red[0] > 0.9 and red[1] < 0.1 and red[2] < 0.1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_camera_orientation_is_applied(tmp_path, orientation):
    stored = torch.arange(6.0).reshape(1, 2, 3) / 255
    # What brings the stored pixels upright, by the table of the EXIF standard.
    upright = {1: "identity", 2: "flip 2", 3: "flip 1 2", 4: "flip 1", 5: "turn", 6: "turn flip 2",
               7: "turn flip 1 2", 8: "turn flip 1"}[orientation]  # fmt: skip
    expected = stored.transpose(1, 2) if "turn" in upright else stored
    for axis in (1, 2):
        expected = expected.flip(axis) if str(axis) in upright else expected
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = (stored[0].numpy() * 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "8.png", exif=exif)
    Image.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / "16.png", exif=exif)
    tifffile.imwrite(tmp_path / "16.tif", pixels.astype(np.uint16) * 257, extratags=[(274, 3, 1, orientation, True)])
    for name in ("8.png", "16.png", "16.tif"):
        assert torch.allclose(read_image(tmp_path / name, "L"), expected, atol=1e-6), name


def test_colour_or_gray_as_asked(tmp_path):
    write_image(tmp_path / "rgb.png", noise_image(3, 8))
    write_image(tmp_path / "gray.png", noise_image(1, 8))
    assert read_image(tmp_path / "rgb.png").shape == (3, 5, 7)
    assert torch.equal(read_image(tmp_path / "rgb.png", "L"), luma(noise_image(3, 8)))
    assert torch.equal(read_image(tmp_path / "gray.png"), noise_image(1, 8).expand(3, 5, 7))
    assert torch.equal(read_image(tmp_path / "gray.png", None), noise_image(1, 8))
    with pytest.raises(ValueError, match="colour is"):
        read_image(tmp_path / "gray.png", "CMYK")


def test_luma():
    primaries = torch.eye(3).reshape(3, 3, 1)  # red, green, blue
    assert (luma(primaries) * 255).round().flatten().tolist() == [76, 150, 29]
    assert torch.equal(luma(torch.ones(2, 3, 4, 5)), torch.ones(2, 1, 4, 5))
    assert torch.equal((luma(noise_image(3, 8)) * 255).round() / 255, luma(noise_image(3, 8)))


def test_luma_makes_the_gray_test_set_of_the_literature():
    colour, gray = (sorted((SHARED / "data" / name).glob("*.png")) for name in ("cbsd68", "bsd68"))
    if not colour or not gray:
        pytest.skip(f"cbsd68 and bsd68 are not in {SHARED / 'data'}")
    for a, b in list(zip(colour, gray, strict=True))[::7]:
        assert torch.equal(read_image(a, "L"), read_image(b, None)), a.name


# ---- what cannot be read or written


def test_missing_empty_and_folder(tmp_path):
    with one_sentence("no file", tmp_path / "none.png"):
        read_image(tmp_path / "none.png")
    with one_sentence("folder", tmp_path):
        read_image(tmp_path)
    (tmp_path / "empty.png").touch()
    with one_sentence("empty.png", "empty"):
        read_image(tmp_path / "empty.png")


def test_a_text_file_with_the_name_of_an_image(tmp_path):
    (tmp_path / "a.png").write_text("This is not a picture.\n")
    with one_sentence("a.png", "not an image"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["png", "png16", "jpg", "tif", "tif16", "bmp", "webp"])
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path, kind):
    path = tmp_path / f"a.{kind.removesuffix('16')}"
    if kind.endswith("16"):
        write_image(path, noise_image(3, 16, 24, 32), 16)
    else:
        photograph(path)
    data = path.read_bytes()
    for length in {1, 4, 9, 30, 60, len(data) // 3, len(data) // 2, len(data) * 9 // 10}:
        path.write_bytes(data[:length])
        with one_sentence("a."):
            read_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_damaged_bytes_never_show_a_traceback(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    data = photograph(path).read_bytes()
    random = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(data)
        for position in random.integers(0, min(len(data), 400), 6):
            damaged[position] = random.integers(256)
        path.write_bytes(damaged)
        try:  # some damage cannot be seen; what is seen is one sentence
            read_image(path)
        except ReproError as error:
            assert "\n" not in str(error)


def test_several_pictures_and_other_pixels_are_refused(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with one_sentence("a.gif", "2 pictures"):
        read_image(tmp_path / "a.gif")
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((2, 8, 8), np.uint16), photometric="minisblack")
    with one_sentence("b.tif", "2 pictures"):
        read_image(tmp_path / "b.tif")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "c.tif")
    with one_sentence("c.tif", "8 or 16 bits"):
        read_image(tmp_path / "c.tif")
    for kind in ("float32", "int32", "float16"):
        tifffile.imwrite(tmp_path / "d.tif", np.zeros((8, 8, 3), kind), photometric="rgb")
        with one_sentence("d.tif", f"as {kind}; images of 8 or 16 bits"):
            read_image(tmp_path / "d.tif")


def test_size_limits():
    # Headers alone: no test should take gigabytes.
    def header(width, height):
        start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        return start + chunk(b"IDAT", zlib.compress(b"\0" * 9))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.png"
        path.write_bytes(header(20_000, 10_001))
        with one_sentence("200 million pixels"):
            read_image(path)
    limit = Image.MAX_IMAGE_PIXELS
    opened = images._open(header(19_000, 10_000))  # beyond what Pillow refuses by itself
    assert opened.size == (19_000, 10_000) and limit == Image.MAX_IMAGE_PIXELS


def test_20_megapixels(tmp_path):
    Image.new("L", (5500, 3700), 7).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", "L").shape == (1, 3700, 5500)


def test_formats_that_cannot_hold_the_image(tmp_path):
    image = noise_image(3, 8)
    with one_sentence("a.jpg", "16"):
        write_image(tmp_path / "a.jpg", image, bits=16)
    with one_sentence("a.jpg", "transparency"):
        write_image(tmp_path / "a.jpg", image, alpha=noise_image(1, 8))
    with one_sentence("a.xyz", ".png"):
        write_image(tmp_path / "a.xyz", image)
    with one_sentence("a.png", "not numbers"):
        write_image(tmp_path / "a.png", image * float("nan"))
    with pytest.raises(ValueError, match=r"\[1, H, W\]"):
        write_image(tmp_path / "a.png", image[None])
    check_format(tmp_path / "a.png", bits=16, alpha=True)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_image(path, noise_image(3, 8))
    before = path.read_bytes()

    def full(self, data):
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with one_sentence("a.png", "No space left on device"):
        write_image(path, noise_image(3, 8, 40, 50))
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are a Unix matter")
def test_a_disk_that_really_refuses(tmp_path):
    # The kernel stops the write after 4 KiB, as it would on a full disk.
    code = (
        "import resource, signal, sys, torch\n"
        "from repro.data.images import write_image\n"
        "from repro.errors import ReproError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n    write_image(sys.argv[1], torch.rand(3, 100, 100))\n"
        "except ReproError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.png")],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert "Cannot write" in done.stdout and "File too large" in done.stdout and not done.stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_that_may_not_be_written(tmp_path):
    (tmp_path / "file").touch()
    with one_sentence("Cannot write"):
        write_image(tmp_path / "file" / "a.png", noise_image(1, 8))


def test_pillow_reads_what_is_written_here(tmp_path):
    write_image(tmp_path / "a.png", noise_image(3, 16), 16)
    with Image.open(io.BytesIO((tmp_path / "a.png").read_bytes())) as image:
        image.load()
        high = np.asarray(image)
    expected = (noise_image(3, 16).double() * 65535).round().numpy().transpose(1, 2, 0) // 256
    assert np.array_equal(high, expected)


def test_a_raw_photograph_is_not_its_preview(tmp_path):
    preview, whole = np.zeros((20, 30, 3), np.uint8), np.zeros((200, 300, 3), np.uint8)
    with tifffile.TiffWriter(tmp_path / "photo.tif") as tiff:
        tiff.write(preview, subfiletype=1, subifds=1, photometric="rgb")
        tiff.write(whole, photometric="rgb")
    with pytest.raises(ReproError, match="begins with a preview, as the raw files of cameras do"):
        read_picture(tmp_path / "photo.tif")


def test_colours_under_transparency_are_kept(tmp_path):
    pixels = torch.tensor([200, 100, 50]).view(3, 1, 1).expand(3, 4, 4) / 255
    for suffix in ("png", "webp"):
        write_image(tmp_path / f"a.{suffix}", pixels, 8, alpha=torch.zeros(1, 4, 4))
        assert np.asarray(Image.open(tmp_path / f"a.{suffix}"))[0, 0].tolist() == [200, 100, 50, 0], suffix
