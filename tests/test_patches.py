"""Training patches: a function of seed and step, fair over positions and symmetries, with the noise asked for."""

import hashlib
from collections import Counter
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repro.data import catalog, patches
from repro.data.images import write_image
from repro.data.noise import add_gaussian_noise
from repro.data.patches import Patches, read_photographs
from repro.data.training import corruption
from repro.errors import ReproError
from repro.train_config import TrainConfig


def untouched(clean, generator):
    return clean


def gaussian(clean, generator):
    return add_gaussian_noise(clean, 25, generator=generator)


def photographs(*sizes, channels=3):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(0, 256, (channels, height, width), dtype=torch.uint8, generator=generator)
        for height, width in sizes
    ]


IMAGES = photographs((40, 60), (50, 33))


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_batch_depends_on_seed_and_step_alone():
    drawn = Patches(IMAGES, 16, 4, seed=3, corrupt=gaussian)
    forwards = [drawn.batch(step) for step in range(6)]
    torch.manual_seed(99)  # torch's global generator has no part in it
    backwards = [Patches(IMAGES, 16, 4, 3, gaussian).batch(step) for step in reversed(range(6))][::-1]
    assert all(map(same, forwards, backwards))
    assert not any(same(forwards[0], other) for other in forwards[1:])
    assert not same(forwards[0], Patches(IMAGES, 16, 4, seed=4, corrupt=gaussian).batch(0))


@pytest.mark.parametrize("workers", [1, 3])
def test_working_ahead_changes_nothing(workers):
    drawn = Patches(IMAGES, 16, 4, 0, gaussian)
    ahead = list(islice(drawn.batches(5, workers=workers), 9))
    assert all(same(batch, drawn.batch(5 + k)) for k, batch in enumerate(ahead))


def test_the_same_patches_as_ever():
    """Runs of earlier versions can be resumed and redone: crops, symmetries and seeds of the noise are pinned."""
    images = [
        (torch.arange(3 * height * width) * factor % 251).byte().reshape(3, height, width)
        for factor, height, width in ((37, 40, 60), (101, 50, 33))
    ]
    seeds = []

    def note_the_seed(clean, generator):
        seeds.append(generator.initial_seed())
        return clean

    drawn, digest = Patches(images, 16, 4, 3, note_the_seed), hashlib.sha256()
    for step in (0, 7, 10**6):
        digest.update((drawn.batch(step)[1] * 255).round().byte().contiguous().numpy())
    digest.update(repr(seeds).encode())
    assert digest.hexdigest() == "bff2f6bb87cdeca0abd60833da983a0c89473c45fcb49290b3aa687cb7dbb664"


def test_an_error_in_the_background_is_raised_in_front():
    def broken(clean, generator):
        raise RuntimeError("no noise today")

    with pytest.raises(RuntimeError, match="no noise today"):
        next(Patches(IMAGES, 16, 4, 0, broken).batches(0))


def test_processes_share_one_batch():
    whole = Patches(IMAGES, 16, 6, 0, gaussian).batch(7)
    parts = [Patches(IMAGES, 16, 6, 0, gaussian, part=(rank, 3)).batch(7) for rank in range(3)]
    assert same(whole, [torch.cat(tensors) for tensors in zip(*parts, strict=True)])
    with pytest.raises(ReproError, match="6 cannot be shared equally by 4"):
        Patches(IMAGES, 16, 6, 0, gaussian, part=(0, 4))


def numbered_windows(images):
    """All 2 x 2 windows of images [1, H, W], turned and mirrored, as tuples of their values."""
    return {
        tuple(turned.flatten().tolist())
        for image in images
        for window in image[0].unfold(0, 2, 1).unfold(1, 2, 1).flatten(0, 1)
        for square in (window, window.flip(1))
        for turned in (square.rot90(k) for k in range(4))
    }


def test_every_position_and_symmetry_is_equally_likely():
    """Pixels are numbered, so that the corners of a crop say where it was cut and how it was turned."""
    # 3 x 2 and 1 x 4 positions of a 2 x 2 window: 10 in all, times 8 symmetries
    images = [torch.arange(12, dtype=torch.uint8).view(1, 4, 3), 100 + torch.arange(10).view(1, 2, 5).byte()]
    drawn = Patches(images, 2, 50, 0, untouched)
    seen = Counter()
    for step in range(80):
        _, clean = drawn.batch(step)
        seen.update(tuple(patch.flatten().tolist()) for patch in (clean * 255).round().int())
    windows = numbered_windows(images)
    assert set(seen) == windows and len(windows) == 80
    expected = 4000 / 80
    chi_squared = sum((count - expected) ** 2 / expected for count in seen.values())
    assert chi_squared < 79 + 5 * (2 * 79) ** 0.5  # five standard deviations of its distribution


def test_values_are_the_photograph_s():
    noisy, clean = Patches(IMAGES, 33, 8, 0, untouched).batch(0)
    assert noisy.shape == (8, 3, 33, 33) and noisy.dtype == clean.dtype == torch.float32
    assert torch.equal(noisy, clean)
    assert torch.equal((clean * 255).round() / 255, clean)


@pytest.mark.parametrize(
    ("options", "low", "high"),
    [
        ({"sigma_255": 25}, 25, 25),
        ({"sigma_255": (5.0, 55.0)}, 5, 55),
        ({"sigma_255": [5.0, 55.0]}, 5, 55),  # as JSON has it
    ],
)
def test_noise_is_the_configuration_s(options, low, high):
    corrupt = corruption(TrainConfig(steps=1, **options))
    noisy, clean = Patches(photographs((80, 80)), 64, 40, 0, corrupt).batch(0)
    sigmas = 255 * (noisy - clean).std(dim=(1, 2, 3))
    tolerance = 4 / (2 * 3 * 64 * 64) ** 0.5  # four standard errors of a standard deviation
    assert sigmas.min() > low * (1 - tolerance) and sigmas.max() < high * (1 + tolerance)
    if low < high:
        assert sigmas.min() < low + 10 and sigmas.max() > high - 10
        assert abs(sigmas.mean() - (low + high) / 2) < 10


def test_noise_conventions():
    def batch(**options):
        return Patches(IMAGES, 32, 4, 0, corruption(TrainConfig(steps=1, **options))).batch(0)[0]

    plain, clipped, rounded = batch(), batch(clip=True), batch(round_8bit=True)
    assert plain.min() < 0 and plain.max() > 1
    assert torch.equal(clipped, plain.clamp(0, 1))
    assert torch.equal(rounded, (clipped * 255).round() / 255)


def test_what_cannot_be_cut_is_said():
    with pytest.raises(ReproError, match="64 x 64 cannot be cut from an image of 33 x 50 pixels"):
        Patches(photographs((80, 80), (50, 33)), 64, 4, 0, untouched)
    with pytest.raises(ReproError, match="without images"):
        Patches([], 64, 4, 0, untouched)


# --- pairs ----------------------------------------------------------------------------------------

PAIRS = [(255 - clean, clean) for clean in photographs((30, 45), (64, 20))]


def forbidden(clean, generator):
    raise AssertionError("noise was drawn for a real photograph")


def test_both_of_a_pair_are_cut_and_turned_alike():
    """Pixels are numbered, and the noisy photograph has the numbers of the clean one, counted from 200 down."""
    numbered = [torch.arange(12, dtype=torch.uint8).view(1, 4, 3), 100 + torch.arange(10).view(1, 2, 5).byte()]
    drawn = Patches([], 2, 50, 0, forbidden, pairs=[(200 - image, image) for image in numbered], pairs_in_batch=50)
    seen = set()
    for step in range(40):
        noisy, clean = ((tensor * 255).round().int() for tensor in drawn.batch(step))
        assert torch.equal(noisy, 200 - clean)
        seen |= {tuple(patch.flatten().tolist()) for patch in clean}
    assert seen == numbered_windows(numbered)


@given(
    batch=st.integers(1, 12), share=st.data(), seed=st.integers(0, 2**63), step=st.integers(0, 10**9),
    patch=st.integers(1, 20),
)  # fmt: skip
def test_a_stated_share_is_real_and_the_rest_is_what_it_would_be_without(batch, share, seed, step, patch):
    count = share.draw(st.integers(0, batch))
    drawn = Patches(IMAGES, patch, batch, seed, gaussian, pairs=PAIRS, pairs_in_batch=count)
    noisy, clean = drawn.batch(step)
    assert drawn.real.dtype == torch.bool and drawn.real.sum() == count
    torch.testing.assert_close(noisy[drawn.real], 1 - clean[drawn.real])
    without = Patches(IMAGES, patch, batch, seed, gaussian).batch(step)
    assert same((noisy[~drawn.real], clean[~drawn.real]), [tensor[~drawn.real] for tensor in without])


@pytest.mark.parametrize("count", [1, 3, 6])
def test_processes_share_one_mixed_batch(count):
    mixed = {"pairs": PAIRS, "pairs_in_batch": count}
    whole = Patches(IMAGES, 16, 6, 0, gaussian, **mixed)
    parts = [Patches(IMAGES, 16, 6, 0, gaussian, part=(rank, 2), **mixed) for rank in range(2)]
    assert same(whole.batch(7), [torch.cat(both) for both in zip(*(part.batch(7) for part in parts), strict=True)])
    assert torch.equal(whole.real, torch.cat([part.real for part in parts]))
    assert max(part.real.sum() for part in parts) - min(part.real.sum() for part in parts) <= 1


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three pairs as files, and a cache of the test's own."""
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    for number, clean in enumerate(photographs((20, 30), (25, 18), (30, 20))):
        for place, image in (("clean", clean), ("noisy", 255 - clean)):
            (tmp_path / "set" / place).mkdir(parents=True, exist_ok=True)
            write_image(tmp_path / "set" / place / f"{number}.png", image / 255)
    return tmp_path / "set"


def test_pairs_come_from_a_folder(folder):
    found = read_photographs(str(folder), pairs=True)
    assert [photograph.name for photograph in found] == ["0", "1", "2"]
    expected = photographs((20, 30), (25, 18), (30, 20))
    assert same([photograph.clean for photograph in found], expected)
    assert same([photograph.noisy for photograph in found], [255 - clean for clean in expected])
    assert all(photograph.noisy is None for photograph in read_photographs(str(folder)))
    assert not (folder.parent / "cache" / "decoded").exists()  # small enough to stay in memory


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("limit", [0, 3_000])  # from the first photograph on, or all of them when it is passed
def test_a_large_set_is_decoded_once_and_mapped(folder, monkeypatch, pairs, limit):
    in_memory = read_photographs(str(folder), pairs=pairs)
    monkeypatch.setattr(patches, "IN_MEMORY_BYTES", limit)

    def assert_the_same(found):
        for one, other in zip(found, in_memory, strict=True):
            assert one.name == other.name and torch.equal(one.clean, other.clean)
            assert (one.noisy is None) == (not pairs) and (not pairs or torch.equal(one.noisy, other.noisy))

    assert_the_same(read_photographs(str(folder), pairs=pairs))
    assert len(list((folder.parent / "cache" / "decoded").glob("*/*.uint8"))) == 3
    with monkeypatch.context() as context:
        context.setattr(catalog, "samples", None)  # nothing is decoded again
        assert_the_same(read_photographs(str(folder), pairs=pairs))
    write_image(folder / "clean" / "1.png", torch.zeros(3, 25, 18))
    assert read_photographs(str(folder), pairs=pairs)[1].clean.max() == 0


def test_pairs_that_are_none_are_said(folder):
    with pytest.raises(ReproError, match="embedded-train has no noisy photographs"):
        read_photographs("embedded-train", pairs=True)
    write_image(folder / "noisy" / "1.png", torch.zeros(3, 24, 18))
    with pytest.raises(ReproError, match=r"^1 of .* is 18 x 24 pixels where it is noisy and 18 x 25 where it is clean"):
        read_photographs(str(folder), pairs=True)
    with pytest.raises(ReproError, match="without images"):
        Patches(IMAGES, 16, 4, 0, untouched, pairs_in_batch=2)
