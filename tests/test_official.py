"""Sets of real noise as their homes hand them out: every pixel where it belongs, one sentence for what is wrong."""

import shutil
from pathlib import Path

import numpy as np
import official_files as official_set
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from official_files import as_tensor, pixels
from scipy.io import savemat

import repro
from repro import evaluate, weights
from repro.data import catalog, official
from repro.data.images import luma
from repro.errors import ReproError
from repro.train import train
from repro.train_config import TrainConfig

METHODS = {
    "sadnet": {"width": 8, "offset_width": 8},
    "ssdn": {"width": 8, "parameter": "variable"},  # real noise has no level that could be told
    "gradnet": {"width": 8, "modules": 2, "units": 2, "reduction": 4},
    "scaoednet": {"width": 8, "blocks": 1, "stages": 1},
}
SETS = ("sidd-medium", "sidd-validation", "renoir", "nam")


@pytest.fixture(autouse=True)
def nothing_at_hand(monkeypatch):
    monkeypatch.delenv("REPRO_DATA", raising=False)


@pytest.fixture(scope="module")
def mirror(tmp_path_factory) -> Path:
    """All sets, each in the folder in which the catalogue looks for it."""
    home = tmp_path_factory.mktemp("mirror")
    official_set.write_sidd_medium(home / "sidd")
    official_set.write_sidd_validation(home / "sidd" / "SIDD_Validation_sRGB")
    official_set.write_sidd_benchmark(home / "sidd")
    official_set.write_dnd(home / "dnd")
    official_set.write_renoir(home / "renoir")
    official_set.write_nam(home / "nam")
    return home


def complaint(name, match: str) -> None:
    """Loading ``name`` fails with one sentence that fits ``match``."""
    with pytest.raises(ReproError, match=match) as caught:
        catalog.load(str(name))
    assert "\n" not in str(caught.value)


# ---- SIDD


def test_sidd_medium_is_its_files(tmp_path):
    content = official_set.write_sidd_medium(tmp_path)
    for where in (tmp_path, tmp_path / "SIDD_Medium_Srgb", tmp_path / "SIDD_Medium_Srgb" / "Data"):
        found = {sample.name: sample for sample in catalog.load(str(where))}
        assert found.keys() == content.keys()
        for name, (clean, noisy) in content.items():
            assert torch.equal(found[name].clean, as_tensor(clean))
            assert torch.equal(found[name].noisy, as_tensor(noisy))
    listed = catalog.paths(str(tmp_path))
    assert [name for name, *_ in listed] == sorted(content)
    assert all("GT" in clean.name and "NOISY" in noisy.name for _, clean, noisy in listed)


def test_sidd_small_has_one_pair_per_scene_and_shorter_names(tmp_path):
    folder = tmp_path / "SIDD_Small_sRGB_Only" / "Data" / official_set.SCENES[0]
    for kind in ("GT", "NOISY"):
        official_set.save_image(folder / f"{kind}_SRGB_010.PNG", pixels(8, 9, 3))
    assert [sample.name for sample in catalog.load(str(tmp_path))] == [f"{official_set.SCENES[0]}_010"]


def test_a_sidd_photograph_without_its_partner_is_named(tmp_path):
    official_set.write_sidd_medium(tmp_path)
    scene = tmp_path / "SIDD_Medium_Srgb" / "Data" / official_set.SCENES[1]
    (scene / "0002_GT_SRGB_011.PNG").unlink()
    complaint(tmp_path, rf"{scene.name} has NOISY_SRGB_011 but no GT_SRGB_011")
    for path in scene.iterdir():
        path.unlink()
    complaint(tmp_path, rf"{scene.name} has no NOISY_SRGB and GT_SRGB images")


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_sidd_validation_blocks_in_either_version_of_matlab_files(tmp_path, version):
    content = official_set.write_sidd_validation(tmp_path, version=version)
    for where in (tmp_path, tmp_path / "ValidationNoisyBlocksSrgb.mat", tmp_path / "ValidationGtBlocksSrgb.mat"):
        found = catalog.load(str(where))
        assert [sample.name for sample in found] == ["01_01", "01_02", "02_01", "02_02", "03_01", "03_02"]
        assert torch.equal(found[3].clean, as_tensor(content["Gt"][1, 1]))
        assert torch.equal(found[3].noisy, as_tensor(content["Noisy"][1, 1]))
    assert len(catalog.load(str(tmp_path), limit=2)) == 2


def test_gray_networks_get_luma(tmp_path):
    content = official_set.write_sidd_validation(tmp_path)
    sample = catalog.load(str(tmp_path), colour="L", limit=1)[0]
    assert torch.equal(sample.noisy, luma(as_tensor(content["Noisy"][0, 0])))
    assert catalog.load(str(tmp_path), colour=None, limit=1)[0].clean.shape == (3, 32, 32)


def test_pixels_of_blocks_are_not_read_to_list_them(tmp_path, monkeypatch):
    official_set.write_sidd_validation(tmp_path)
    monkeypatch.setattr(official.Variable, "array", property(lambda self: pytest.fail("read")))
    assert len(catalog.paths(str(tmp_path))) == 6


def test_only_files_of_many_images_stay_in_memory(tmp_path, monkeypatch):
    reads, read = [], official.Variable.read
    monkeypatch.setattr(official.Variable, "read", lambda variable: reads.append(variable) or read(variable))
    official_set.write_nam(tmp_path / "nam")
    list(catalog.samples(str(tmp_path / "nam")))
    assert len(reads) == 2 * 4 and not any("array" in vars(variable) for variable in reads)
    reads.clear()
    official_set.write_sidd_validation(tmp_path / "sidd")
    list(catalog.samples(str(tmp_path / "sidd")))
    assert len(reads) == 2  # six blocks each


def test_sidd_validation_that_is_not_as_it_should_be(tmp_path):
    official_set.write_sidd_validation(tmp_path)
    noisy, clean = (tmp_path / f"Validation{which}BlocksSrgb.mat" for which in ("Noisy", "Gt"))
    whole = clean.read_bytes()
    clean.write_bytes(whole[: len(whole) // 2])
    complaint(tmp_path, "ValidationGtBlocksSrgb.mat is damaged, incomplete or no MATLAB file")
    clean.write_bytes(b"")
    complaint(tmp_path, "ValidationGtBlocksSrgb.mat is damaged, incomplete or no MATLAB file")
    clean.unlink()
    complaint(tmp_path, "no file .*ValidationGtBlocksSrgb.mat")
    shutil.copy(noisy, clean)
    complaint(tmp_path, "Gt.*has no variable ValidationGtBlocksSrgb; those it has: ValidationNoisyBlocksSrgb")
    official_set.write_blocks(clean, pixels(3, 1, 32, 32, 3))
    complaint(tmp_path, "is 3 x 2 x 32 x 32 x 3, but ValidationGtBlocksSrgb .* is 3 x 1 x 32 x 32 x 3")
    official_set.write_blocks(clean, pixels(3, 2, 32, 32, 3).astype(float))
    complaint(tmp_path, "holds float64; 8-bit pixels are expected")
    official_set.write_blocks(noisy, pixels(3, 2, 32, 32))
    complaint(tmp_path, "is 3 x 2 x 32 x 32; an array of 5 dimensions")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, Path]:
    """Validation blocks in both versions of MATLAB files."""
    folders = {version: tmp_path_factory.mktemp("whole") for version in ("5", "7.3")}
    for version, folder in folders.items():
        official_set.write_sidd_validation(folder, shape=(2, 1, 8, 8, 3), version=version)
    return folders


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), version=st.sampled_from(["5", "7.3"]))
def test_any_damage_is_one_sentence_or_none_at_all(whole, tmp_path, data, version):
    noisy, clean = (f"Validation{which}BlocksSrgb.mat" for which in ("Noisy", "Gt"))
    raw = bytearray((whole[version] / noisy).read_bytes())
    if data.draw(st.booleans(), label="truncate"):
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    else:
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    shutil.copy(whole[version] / clean, tmp_path)
    (tmp_path / noisy).write_bytes(raw)
    try:
        found = catalog.load(str(tmp_path))
    except ReproError as error:
        assert str(tmp_path / noisy) in str(error) and "\n" not in str(error)
    else:  # a byte that nobody asks for, or that of a pixel
        assert len(found) == 2


# ---- DND


def test_dnd_boxes_count_from_one_and_include_their_ends(tmp_path):
    content = official_set.write_dnd(tmp_path, images=2, boxes=2, side=12)
    for where in (tmp_path, tmp_path / "dnd_2017"):
        first, second = official.read_dnd(where)
        assert (first.name, second.name) == ("0001", "0002")
        crops = second.crop()
        image = content["0002"]
        np.testing.assert_array_equal(crops[0], image[0:12, 1:13])
        np.testing.assert_array_equal(crops[1], image[-12:, -12:])
        assert crops[0].dtype == np.float32 and second.sigmas == pytest.approx((0.02, 0.021))


def test_dnd_without_clean_images_says_what_to_do_instead(mirror, monkeypatch):
    monkeypatch.setenv("REPRO_DATA", str(mirror))
    for name, command in (("dnd", "repro submit dnd"), ("sidd-benchmark", "repro submit sidd")):
        complaint(name, f"not handed out.*`{command}`")
    complaint(mirror / "dnd", "`repro submit dnd`")


def test_dnd_that_is_not_as_it_should_be(tmp_path):
    official_set.write_dnd(tmp_path, images=2)
    root = tmp_path / "dnd_2017"
    box, level = np.array([[1.0, 1.0, 12.0, 12.0]]), np.array([[0.1]])

    def check(match):
        with pytest.raises(ReproError, match=match) as caught:
            official.count("dnd", tmp_path)
        assert "\n" not in str(caught.value)

    official_set.write_dnd_info(root, [box, box + np.array([0, 0, 21, 0])], [level, level])
    check(r"Box 1 of .*0002\.mat by info\.mat, rows 1 to 33 and columns 1 to 12.*of 32 rows and 48 columns")
    official_set.write_dnd_info(root, [box - 1, box], [level, level])
    check(r"Box 1 of .*0001\.mat")
    official_set.write_dnd_info(root, [box[:, :3]], [level])
    check("no box of four whole numbers for image 1")
    official_set.write_dnd_info(root, [box], [level[:0]])
    check("sigma_srgb.*does not have a level for each box of image 1")
    official_set.write_dnd_info(root, [box, box, box], [level, level, level])
    check(r"no file .*0003\.mat")
    official_set.write_dnd_info(root, [box], [level])
    raw = (root / "images_srgb" / "0001.mat").read_bytes()
    (root / "images_srgb" / "0001.mat").write_bytes(raw[:-2000])
    check(r"0001\.mat is damaged, incomplete or no MATLAB file: .*truncated")
    official_set.write_hdf5(
        root / "images_srgb" / "0001.mat", lambda file: official_set.put(file, "Inoisy", np.ones((9, 9)), "double")
    )
    check(r"0001\.mat has no variable InoisySRGB; those it has: Inoisy\.")
    official_set.write_hdf5(root / "info.mat", lambda file: file.create_group("camera"))
    check(r"info\.mat has no info\.boundingboxes")
    savemat(root / "info.mat", {"info": 1})
    check(r"info\.mat is not a MATLAB file of version 7\.3")
    (root / "info.mat").unlink()
    check(r"no file .*info\.mat")


# ---- RENOIR


def test_renoir_reference_is_the_truncated_mean(tmp_path):
    content = official_set.write_renoir(tmp_path)
    found = {sample.name: sample for sample in catalog.load(str(tmp_path))}
    assert found.keys() == content.keys() and len(found) == 12
    for name, (reference, full, noisy) in content.items():
        mean = (reference.astype(np.uint16) + full) // 2
        assert torch.equal(found[name].clean, as_tensor(mean.astype(np.uint8)))
        assert torch.equal(found[name].noisy, as_tensor(noisy))


def test_one_camera_of_renoir_alone(tmp_path):
    official_set.write_renoir(tmp_path)
    assert len(catalog.load(str(tmp_path / "T3i_Aligned"))) == 4


def test_renoir_that_is_not_as_it_should_be(tmp_path):
    official_set.write_renoir(tmp_path, batches=1)
    other = tmp_path / "T3i_Aligned" / "Batch_001" / "IMG_0004full.bmp"
    official_set.save_image(other, pixels(9, 9, 3))
    complaint(tmp_path, "are of different sizes, so they have no mean")
    other.unlink()
    complaint(tmp_path, r"T3i_Aligned.Batch_001 has no image \*full\.bmp")
    shutil.rmtree(other.parent)
    complaint(tmp_path, "no folder Batch_001 or the like in .*T3i_Aligned")
    shutil.rmtree(tmp_path / "S90_Aligned")
    complaint(tmp_path, "no folder S90_Aligned in .*three cameras")
    official_set.save_image(tmp_path / "Mi3_Aligned" / "Batch_001" / "IMG_0001Noisy.bmp", pixels(9, 9, 3))
    complaint(tmp_path / "Mi3_Aligned", "IMG_0001Noisy.bmp has 9 x 9 pixels and its clean partner .* has 38 x 34")


# ---- Nam


def test_nam_whole_images(tmp_path):
    content = official_set.write_nam(tmp_path / "mat")
    for where in (tmp_path, tmp_path / "mat"):
        found = {sample.name: sample for sample in catalog.load(str(where))}
        assert found.keys() == content.keys()
        for name, (clean, noisy) in content.items():
            assert torch.equal(found[name].clean, as_tensor(clean))
            assert torch.equal(found[name].noisy, as_tensor(noisy))
    assert len(catalog.load(str(tmp_path / "mat" / "Nikon_D600" / "ISO_3200" / "C_1.mat"))) == 1


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_nam_patches_in_one_file(tmp_path, version):
    noisy, clean = pixels(3, 16, 18, 3), pixels(3, 16, 18, 3)
    path = tmp_path / "NAM_patch.mat"
    if version == "5":
        savemat(path, {"noisy_pchs": noisy, "gt_pchs": clean})
    else:
        official_set.write_hdf5(
            path, lambda f: [official_set.put(f, n, a, "uint8") for n, a in (("noisy_pchs", noisy), ("gt_pchs", clean))]
        )
    for where in (tmp_path, path):
        found = catalog.load(str(where))
        assert [sample.name for sample in found] == ["001", "002", "003"]
        assert torch.equal(found[2].noisy, as_tensor(noisy[2])) and torch.equal(found[2].clean, as_tensor(clean[2]))


def test_nam_patches_as_images(tmp_path):
    pairs = {"01": (pixels(8, 9, 3), pixels(8, 9, 3)), "02": (pixels(8, 9, 3), pixels(8, 9, 3))}
    for name, (clean, noisy) in pairs.items():
        official_set.save_image(tmp_path / "cbdnet" / "Nam_patch_GT" / f"{name}_gt.png", clean)
        official_set.save_image(tmp_path / "cbdnet" / "Nam_patches" / f"{name}_noise.png", noisy)
        official_set.save_image(tmp_path / "cc" / f"{name}_mean.png", clean)
        official_set.save_image(tmp_path / "cc" / f"{name}_real.png", noisy)
        official_set.save_image(tmp_path / "cc" / f"{name}_ours.png", noisy)  # somebody's result
    for folder in ("cbdnet", "cc"):
        found = {sample.name: sample for sample in catalog.load(str(tmp_path / folder))}
        assert found.keys() == pairs.keys()
        for name, (clean, noisy) in pairs.items():
            assert torch.equal(found[name].clean, as_tensor(clean))
            assert torch.equal(found[name].noisy, as_tensor(noisy))
    (tmp_path / "cbdnet" / "Nam_patch_GT" / "02_gt.png").unlink()
    complaint(tmp_path / "cbdnet", "02_noise.png has no partner 02_gt in .*Nam_patch_GT")
    (tmp_path / "cc" / "01_real.png").unlink()
    complaint(tmp_path / "cc", "01_mean.png has no partner 01_real in .*cc")


def test_nam_that_is_not_as_it_should_be(tmp_path):
    official_set.write_nam(tmp_path)
    path = tmp_path / "Nikon_D600" / "ISO_3200" / "C_1.mat"
    savemat(path, {"img_noisy": pixels(9, 9, 3)})
    complaint(tmp_path, r"C_1\.mat has no variable img_mean; those it has: img_noisy\.")
    savemat(path, {"somebody": 1})
    complaint(path, r"C_1\.mat is no file of pairs.*it holds somebody")
    path.write_bytes(b"MATLAB, it says")
    complaint(path, r"C_1\.mat is damaged, incomplete or no MATLAB file")


# ---- in the catalogue


def test_every_set_is_found_in_its_folder(mirror, monkeypatch):
    monkeypatch.setenv("REPRO_DATA", str(mirror))
    for name, images in {"sidd": 8, "sidd-medium": 8, "sidd-validation": 6, "renoir": 12, "nam": 4}.items():
        entry = catalog.DATASETS[name]
        assert entry.pairs and len(catalog.load(name)) == images
        assert official.count(entry.layout, catalog.verify(name)) == images
    for name, images in {"sidd-benchmark": 6, "dnd": 3}.items():
        entry = catalog.DATASETS[name]
        assert not entry.pairs and official.count(entry.layout, catalog.verify(name)) == images


def test_a_folder_with_several_sets_must_be_named_closer(mirror):
    complaint(mirror / "sidd", "holds several sets, sidd-medium, sidd-validation, sidd-benchmark")


def test_folders_of_ones_own_are_left_alone(tmp_path):
    official_set.save_image(tmp_path / "photo_real.png", pixels(8, 9, 3))
    official_set.save_image(tmp_path / "other.png", pixels(8, 9, 3))
    assert official.recognise(tmp_path) is None
    assert [sample.noisy for sample in catalog.load(str(tmp_path))] == [None, None]


def test_a_mirror_without_the_set(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))
    (tmp_path / "sidd").mkdir()
    assert catalog.locate("sidd-validation") is None
    complaint("sidd-validation", "ValidationGtBlocksSrgb.mat in a folder named sidd, and set REPRO_DATA")


# ---- in use


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_evaluated_on_every_set(mirror, monkeypatch, method):
    monkeypatch.setenv("REPRO_DATA", str(mirror))
    torch.manual_seed(0)
    net = repro.build(method, **METHODS[method]).eval()
    for name in SETS:
        table = evaluate.evaluate(net, name, None, limit=1)
        noisy, clean = (getattr(catalog.load(name, limit=1)[0], which) for which in ("noisy", "clean"))
        mse = (noisy - clean).double().square().mean()
        assert table["psnr_noisy_db"][0] == pytest.approx(-10 * torch.log10(mse).item(), abs=1e-4)


@pytest.mark.parametrize(
    ("method", "name"), [*((method, "sidd-medium") for method in METHODS), ("scaoednet", "renoir")]
)
def test_every_method_learns_from_pairs(mirror, monkeypatch, tmp_path, method, name):
    monkeypatch.setenv("REPRO_DATA", str(mirror))
    config = TrainConfig(
        model=method, sizes=METHODS[method], pairs=name, pairs_share=1.0, loss="l1", steps=2, batch=2, patch=32,
        warmup_steps=0, validation_images=1,
    )  # fmt: skip
    folder = tmp_path / "run"
    path = train(config, folder, device="cpu", progress=lambda row: None)
    assert evaluate.evaluate(weights.load(path), name, None, limit=1)["psnr_db"].notna().all()


def test_nothing_is_trained_on_the_test_sets(mirror, monkeypatch, tmp_path):
    monkeypatch.setenv("REPRO_DATA", str(mirror))
    for name in ("sidd-validation", "nam"):
        with pytest.raises(ReproError, match=f"{name} is a test set"):
            train(TrainConfig(pairs=name, pairs_share=1.0, steps=2), tmp_path / name, device="cpu")
