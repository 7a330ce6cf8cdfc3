"""The catalogue: complete entries, verified files, and one clear sentence for whatever is not right."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from repro.data import catalog
from repro.data.images import luma, write_image
from repro.errors import ReproError

SHARED = Path(os.environ.get("REPRO_SHARED") or Path(__file__).parents[2] / "shared")
LISTED = [name for name, entry in catalog.DATASETS.items() if entry.files]
ON_REQUEST = [name for name, entry in catalog.DATASETS.items() if not entry.files]


@pytest.fixture(autouse=True)
def nothing_at_hand(tmp_path, monkeypatch):
    """An empty cache and no mirror."""
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("REPRO_DATA", raising=False)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A mirror with a set of three images, which the catalogue knows as "small"; and its folder."""
    where = tmp_path / "mirror" / "small"
    for number in range(3):
        write_image(where / f"{number}.png", torch.rand(3, 10 + number, 12))
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(where.iterdir())}
    entry = catalog.DataSet("small", "", "test", "colour", "https://example.org", "", "", "", files, folder="small")
    monkeypatch.setitem(catalog.DATASETS, "small", entry)
    monkeypatch.setenv("REPRO_DATA", str(tmp_path / "mirror"))
    return where


@pytest.fixture
def mirror(monkeypatch):
    if not (SHARED / "data").is_dir():
        pytest.skip(f"the data sets are not in {SHARED / 'data'}")
    monkeypatch.setenv("REPRO_DATA", str(SHARED / "data"))


# ---- the embedded photographs


def test_embedded_photographs_need_nothing():
    train, test = catalog.load("embedded-train"), catalog.load("embedded-test")
    names = {sample.name for sample in train}, {sample.name for sample in test}
    assert not names[0] & names[1] and {"astronaut", "chelsea"} <= names[1]
    for sample in train + test:
        assert sample.clean.dtype == torch.float32 and sample.clean.shape[0] == 3 and sample.noisy is None
        assert sample.clean.min() >= 0 and sample.clean.max() <= 1 and sample.clean.std() > 0.01
        assert torch.equal((sample.clean * 255).round() / 255, sample.clean)
    for sample in test:  # colour, so that a mean over the set is a mean over colour images
        assert not torch.equal(sample.clean[0], sample.clean[1])


def test_gray_versions_and_limits():
    colour, gray = catalog.load("embedded-test"), catalog.load("embedded-test", colour="L")
    assert torch.equal(gray[0].clean, luma(colour[0].clean))
    assert [sample.name for sample in catalog.load("embedded-test", limit=1)] == [colour[0].name]
    native = {sample.name: len(sample.clean) for sample in catalog.samples("embedded-train", colour=None)}
    assert native["brick"] == 1 and native["coffee"] == 3


# ---- the entries


@pytest.mark.parametrize("name", catalog.DATASETS)
def test_entries_say_what_one_must_know(name):
    entry = catalog.DATASETS[name]
    assert entry.title and entry.licence and entry.citation and entry.home.startswith("http")
    assert entry.role.split()[0] in ("train", "test")
    assert sum(entry.sizes.values()) == len(entry.files)
    assert all(len(sha256) == 64 for sha256 in entry.files.values())
    offered = entry.at_home()
    if entry.download:
        assert len(offered) == len(entry.files), "an address for every file"
        assert len({address for address, _ in offered.values()}) == len(offered), "and none twice"
        assert len(entry.download["commit"]) == 40
    else:
        assert entry.obtain or name.startswith("embedded-")
    assert json.dumps(entry.sha256) and (entry.sha256 != catalog.DATASETS["kodak24"].sha256 or name == "kodak24")


@pytest.mark.parametrize("name", ON_REQUEST)
def test_sets_that_must_be_asked_for(name):
    with pytest.raises(ReproError) as caught:
        catalog.folder(name)
    assert catalog.DATASETS[name].home in str(caught.value) and "REPRO_DATA" in str(caught.value)


def test_unknown_names_list_the_known():
    with pytest.raises(ReproError, match=r"no data set 'kodk'.*kodak24"):
        catalog.load("kodk")


# ---- files that are not as they should be


def test_a_corrupt_file_is_named_with_its_set(small):
    assert catalog.folder("small") == small
    data = bytearray((small / "1.png").read_bytes())
    data[-20] ^= 1
    (small / "1.png").write_bytes(data)
    for _ in range(2):  # the failure is not remembered as a success
        with pytest.raises(ReproError) as caught:
            catalog.folder("small")
        assert str(small / "1.png") in str(caught.value) and "data set small" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_missing_file_is_named_with_its_set(small):
    (small / "2.png").unlink()
    with pytest.raises(ReproError, match=r"2\.png of the data set small cannot be read: No such file"):
        catalog.load("small")


def test_checksums_are_computed_once_until_something_changes(small, monkeypatch):
    hashed = []
    original = catalog.places.sha256
    monkeypatch.setattr(catalog.places, "sha256", lambda path: hashed.append(path.name) or original(path))
    catalog.folder("small")
    catalog.folder("small")
    assert hashed == ["0.png", "1.png", "2.png"]
    os.utime(small / "0.png", ns=(0, 0))
    catalog.folder("small")
    assert len(hashed) == 6, "a file that may have changed has all of them looked at again"
    catalog.verify("small")
    assert len(hashed) == 9, "verify does not rely on memory"


def test_a_cache_that_cannot_be_written_is_no_obstacle(small, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "file" / "cache"))
    assert len(catalog.load("small")) == 3


def test_a_mirror_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("REPRO_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(ReproError, match=r"REPRO_DATA names .*nowhere, which is not a folder"):
        catalog.folder("kodak24")


# ---- downloads, from a folder that plays the part of the home


@pytest.fixture
def home(small, monkeypatch):
    """The set "small" is no longer in a mirror, its home is a server that the test controls."""
    import pooch

    served = small.rename(small.with_name("home"))
    monkeypatch.delenv("REPRO_DATA")
    source = {"repository": "someone/images", "commit": "0" * 40, "rename": [["(.+)", "set/\\1"]]}
    entry = catalog.DATASETS["small"]
    monkeypatch.setitem(catalog.DATASETS, "small", catalog.replace(entry, download=source))

    def downloader(**_):
        def copy(url, output, _pooch):
            assert url.startswith(f"https://raw.githubusercontent.com/someone/images/{'0' * 40}/set/")
            shutil.copy(served / url.rsplit("/", 1)[1], output)

        return copy

    monkeypatch.setattr(pooch, "HTTPDownloader", downloader)
    return served


def test_a_download_is_verified_and_kept(home, tmp_path):
    assert catalog.locate("small") is None
    assert catalog.folder("small") == tmp_path / "cache" / "data" / "small"
    shutil.rmtree(home)
    assert [sample.name for sample in catalog.load("small")] == ["0", "1", "2"], "from the cache now"


def test_a_download_that_arrives_damaged(home, tmp_path):
    (home / "1.png").write_bytes(b"not what it was")
    with pytest.raises(ReproError, match=r"1\.png of small arrived damaged"):
        catalog.folder("small")
    assert not (tmp_path / "cache" / "data" / "small" / "1.png").exists()
    assert catalog.locate("small") is None


def test_a_download_without_a_network(home, monkeypatch):
    import pooch
    import requests

    def fail(*_):
        raise requests.ConnectionError("a long story\nin several lines")

    monkeypatch.setattr(pooch, "HTTPDownloader", lambda **_: fail)
    with pytest.raises(ReproError) as caught:
        catalog.folder("small")
    message = str(caught.value)
    assert "no connection" in message and "REPRO_DATA" in message and "\n" not in message


def test_originals_stand_in_for_converted_copies(small, monkeypatch):
    # McMaster: the catalogue lists PNG copies, the home has TIFF of other names.
    files, originals = dict(catalog.DATASETS["small"].files), {}
    for number in range(3):
        tiff = small / f"{number}.tif"
        Image.open(small / f"{number}.png").save(tiff)
        originals[f"{number}.png"] = [tiff.name, hashlib.sha256(tiff.read_bytes()).hexdigest()]
    entry = catalog.replace(catalog.DATASETS["small"], originals=originals)
    monkeypatch.setitem(catalog.DATASETS, "small", entry)
    copies = catalog.load("small")
    for path in files:
        (small / path).unlink()
    for copy, original in zip(copies, catalog.load("small"), strict=True):
        assert copy.name == original.name and torch.equal(copy.clean, original.clean)


@pytest.fixture
def numbered(tmp_path, monkeypatch):
    """A set of which names are known and checksums are not, as DIV2K is: 1.png and 2.png."""
    where = tmp_path / "numbered"
    for number in (1, 2):
        write_image(where / "train" / f"{number}.png", torch.full((3, 4, 5), number / 10))
    listed = {"files": {}, "sizes": {}, "members": {"name": "{}.png", "first": 1, "last": 2}}
    entry = catalog.replace(catalog.DATASETS["div2k"], name="numbered", folder="numbered", **listed)
    monkeypatch.setitem(catalog.DATASETS, "numbered", entry)
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))
    return where


def test_what_lies_beside_a_set_of_known_names_is_left_alone(numbered):
    write_image(numbered / "validation" / "3.png", torch.rand(3, 4, 5))
    write_image(numbered / "train_x2" / "1x2.png", torch.rand(3, 2, 2))
    before = catalog.identify("numbered")
    assert [sample.name for sample in catalog.load("numbered")] == ["1", "2"]
    (numbered / "validation" / "3.png").unlink()
    assert catalog.identify("numbered") == before
    write_image(numbered / "train" / "2.png", torch.full((3, 4, 5), 0.9))
    assert catalog.identify("numbered") != before


def test_a_set_unpacked_in_part_is_refused(numbered):
    (numbered / "train" / "2.png").unlink()
    with pytest.raises(ReproError, match=r"does not hold all 2 images of numbered: 2\.png is missing\.$"):
        catalog.load("numbered")
    (numbered / "train" / "1.png").rename(numbered / "train" / "7.png")
    with pytest.raises(ReproError, match=r"1\.png is missing, and 1 more\.$"):
        catalog.load("numbered")


# ---- one's own folders


def test_images_of_one_name_or_pairs_of_two_sizes_are_refused(tmp_path):
    write_image(tmp_path / "twice" / "x" / "a.png", torch.rand(3, 4, 5))
    write_image(tmp_path / "twice" / "y" / "a.png", torch.rand(3, 4, 5))
    with pytest.raises(ReproError, match=r"Two images in .* are called a"):
        catalog.load(str(tmp_path / "twice"))
    write_image(tmp_path / "pairs" / "clean" / "a.png", torch.rand(3, 4, 5))
    write_image(tmp_path / "pairs" / "noisy" / "a.png", torch.rand(3, 8, 5))
    with pytest.raises(ReproError, match="5 x 8 pixels where it is noisy and 5 x 4 where it is clean"):
        catalog.load(str(tmp_path / "pairs"))


def test_a_folder_of_ones_own(tmp_path):
    write_image(tmp_path / "own" / "b.png", torch.rand(3, 4, 5))
    write_image(tmp_path / "own" / "a.png", torch.rand(1, 4, 5))
    assert [sample.name for sample in catalog.load(str(tmp_path / "own"))] == ["a", "b"]
    for part in ("clean", "noisy"):
        write_image(tmp_path / "pairs" / part / "x.png", torch.full((3, 4, 5), 0.2 if part == "clean" else 0.8))
    (pair,) = catalog.load(str(tmp_path / "pairs"))
    assert pair.clean.max() < 0.5 < pair.noisy.min()
    (tmp_path / "pairs" / "noisy" / "x.png").rename(tmp_path / "pairs" / "noisy" / "y.png")
    with pytest.raises(ReproError, match="do not have the same names"):
        catalog.load(str(tmp_path / "pairs"))
    (tmp_path / "none").mkdir()
    with pytest.raises(ReproError, match="no image in"):
        catalog.load(str(tmp_path / "none"))


def test_what_is_hidden_or_no_regular_file_is_no_image_of_a_folder(tmp_path):
    for name in ("a.png", ".thumbnails/b.png", "deeper/c.png"):
        write_image(tmp_path / name, torch.rand(3, 4, 5))
    (tmp_path / "._a.png").write_bytes(b"what a Mac leaves on other disks")
    (tmp_path / "folder.png").mkdir()
    assert [sample.name for sample in catalog.load(str(tmp_path))] == ["a", "c"]
    hidden = tmp_path / ".mine"  # a hidden folder that is named itself is looked into
    write_image(hidden / "d.png", torch.rand(3, 4, 5))
    assert [sample.name for sample in catalog.load(str(hidden))] == ["d"]


# ---- the real sets


@pytest.mark.parametrize("name", LISTED)
def test_the_mirror_holds_what_the_catalogue_lists(mirror, name):
    entry = catalog.DATASETS[name]
    where = catalog.verify(name)
    if not name.startswith("embedded-"):
        assert sum((where / path).stat().st_size for path in entry.files) == entry.bytes
    first = catalog.load(name, limit=2)
    assert len(catalog.paths(name)) == entry.images and len(first) == 2
    for sample in first:
        assert f"{sample.clean.shape[2]}x{sample.clean.shape[1]}" in entry.sizes
        assert (sample.noisy is not None) == entry.pairs
        if sample.noisy is not None:
            assert sample.noisy.shape == sample.clean.shape and not torch.equal(sample.noisy, sample.clean)


def test_training_and_test_sets_share_no_file(mirror):
    by_role = {"train": set(), "test": set()}
    for entry in catalog.DATASETS.values():
        by_role[entry.role.split()[0]] |= set(entry.files.values())
    assert not by_role["train"] & by_role["test"]


def test_the_crops_of_kodak24_are_the_centres(mirror):
    whole, crop = catalog.load("kodak24", limit=4), catalog.load("kodak24-crop500", limit=4)
    for a, b in zip(whole, crop, strict=True):
        top, left = (6, 134) if a.clean.shape[2] == 768 else (134, 6)
        assert torch.equal(a.clean[:, top : top + 500, left : left + 500], b.clean)


def test_noisy_images_have_the_published_quality(mirror):
    # Mean PSNR of the noisy photographs, measured independently of this code.
    for name, published_db in (("cc15", 33.41), ("nam25", 37.06), ("sidd_samples", 17.58)):
        values = [-10 * torch.log10((s.clean - s.noisy).double().square().mean()) for s in catalog.samples(name)]
        assert torch.stack(values).mean().item() == pytest.approx(published_db, abs=0.006), name


def test_one_image_by_its_name():
    assert catalog.sample("embedded-test", "astronaut").clean.shape[0] == 3
    with pytest.raises(ReproError, match=r"no photograph 'astronot'; did you mean astronaut\?"):
        catalog.sample("embedded-test", "astronot")
    with pytest.raises(ReproError, match=r"no photograph '7'; there are .*astronaut"):
        catalog.sample("embedded-test", 7)  # as papermill hands on a name that looks like a number


def test_what_nobody_can_download_is_not_advised_to_be(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path))
    with pytest.raises(ReproError) as refused:
        catalog.verify("dnd")
    assert catalog.find("dnd").obtain.rstrip(".") in str(refused.value) and "fetch" not in str(refused.value)
    with pytest.raises(ReproError, match="`repro data fetch kodak24` downloads it"):
        catalog.verify("kodak24")
