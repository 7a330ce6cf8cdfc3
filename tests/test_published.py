import os
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

import repro
import repro.evaluate
from repro import cli, published, weights
from repro.data.images import write_image
from repro.errors import ReproError

SHARED = Path(os.environ.get("REPRO_SHARED") or Path(__file__).parents[2] / "shared")


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """A cache of its own, and neither downloads nor mirrors unless a test names one."""
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("REPRO_WEIGHTS", raising=False)
    monkeypatch.delenv("REPRO_DATA", raising=False)

    def refuse(*arguments, **settings):
        raise OSError("no network in tests")

    monkeypatch.setattr("pooch.retrieve", refuse)


@pytest.fixture
def mirror(monkeypatch):
    if not (SHARED / "weights").is_dir():
        pytest.skip(f"{SHARED / 'weights'} is not here (set REPRO_SHARED to the folder with weights/)")
    monkeypatch.setenv("REPRO_WEIGHTS", str(SHARED / "weights"))


def write_mat(path, kernels):
    """A network as MATLAB would write it: kernels [height, width, in, out] and biases by columns, in HDF5."""
    with h5py.File(path, "w") as content:
        references = []
        for index, (kernel, bias) in enumerate(kernels):
            for kind in ("conv", "relu"):
                layer = content.create_group(f"#refs#/{index}{kind}")
                layer["type"] = np.array([[ord(letter)] for letter in kind], "uint16")
                references.append([layer.ref])
                if kind == "conv":
                    kernel = kernel[..., 0] if kernel.shape[-1] == 1 else kernel  # MATLAB drops it
                    stored = [("k", kernel.T), ("b", bias.reshape(-1, 1).T)]
                    for name, array in stored:
                        content[f"#refs#/{index}{name}"] = array
                    where = [[content[f"#refs#/{index}{name}"].ref] for name, _ in stored]
                    layer.create_dataset("weights", data=np.array(where, h5py.ref_dtype), dtype=h5py.ref_dtype)
        data = np.array(references, h5py.ref_dtype)
        content.create_dataset("net/layers", data=data, dtype=h5py.ref_dtype)
    return path


def test_a_matlab_kernel_becomes_the_same_correlation(tmp_path):
    generator = np.random.default_rng(0)
    kernels = [
        (generator.normal(size=(3, 3, 2, 5)).astype("float32"), generator.normal(size=5).astype("float32")),
        (generator.normal(size=(3, 3, 5, 1)).astype("float32"), generator.normal(size=1).astype("float32")),
    ]
    arrays = published.read_matconvnet(write_mat(tmp_path / "net.mat", kernels))
    assert list(arrays) == ["model.0.weight", "model.0.bias", "model.2.weight", "model.2.bias"]
    for index, (kernel, bias) in enumerate(kernels):
        image = generator.normal(size=(kernel.shape[2], 3, 3)).astype("float32")
        by_hand = np.einsum("hwio,ihw->o", kernel, image) + bias
        weight, offset = (arrays[f"model.{2 * index}.{kind}"] for kind in ("weight", "bias"))
        ours = F.conv2d(torch.from_numpy(image)[None], weight, offset).flatten()
        np.testing.assert_allclose(ours, by_hand, rtol=1e-5, atol=1e-5)


def test_ffdnet_s_images_change_from_columns_to_rows():
    assert published._by_rows(13) == [0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12]
    assert published._by_rows(4) == [0, 2, 1, 3]


@pytest.mark.parametrize("text", [b"", b"MATLAB 5.0 MAT-file", b"\x89HDF\r\n\x1a\n" + bytes(600)])
def test_another_file_is_refused_in_a_sentence(tmp_path, text):
    (tmp_path / "net.mat").write_bytes(text)
    with pytest.raises(ReproError, match="not a MatConvNet network"):
        published.read_matconvnet(tmp_path / "net.mat")


def test_an_hdf5_file_without_a_network_is_refused(tmp_path):
    with h5py.File(tmp_path / "net.mat", "w") as content:
        content["net"] = np.zeros(3)
    with pytest.raises(ReproError, match="not a MatConvNet network"):
        published.read_matconvnet(tmp_path / "net.mat")


# --- choosing


@pytest.mark.parametrize(
    ("model", "colour", "sigma_255", "name"),
    [
        ("dncnn", "L", 50, "dncnn-gray-50-published"),
        ("dncnn", "RGB", 50, "dncnn-colour-50-published"),
        ("dncnn", "rgb", 30, "dncnn-colour-blind-published"),
        ("ffdnet", "gray", 70, "ffdnet-gray-published"),
        ("ffdnet", "RGB", 30, "ffdnet-colour-published"),
        ("pd", "RGB", 30, "pd-colour-published"),
        ("pd", "RGB", None, "pd-colour-real-published"),
        ("ffdnet", "RGB", None, "ffdnet-colour-real-published"),
        ("ffdnet", "gray", None, "ffdnet-gray-published"),
        ("dncnn", "RGB", None, "dncnn-colour-blind-published"),
    ],
)
def test_the_level_s_own_weights_come_before_those_for_a_range(model, colour, sigma_255, name):
    assert published.choose(model, colour, sigma_255) == name


@pytest.mark.parametrize(
    ("model", "colour", "sigma_255"), [("dncnn", "L", 40), ("dncnn", "L", None), ("rnan", "L", 50)]
)
def test_what_is_not_published_is_said(model, colour, sigma_255):
    with pytest.raises(ReproError, match="no published weights"):
        published.choose(model, colour, sigma_255)


@pytest.mark.parametrize(("model", "highest"), [("dncnn", 55), ("ffdnet", 75)])
def test_weights_for_a_range_of_levels_are_not_chosen_outside_of_it(model, highest):
    name = published.choose(model, "RGB", highest)
    with pytest.raises(
        ReproError, match=f"{name} is for levels from 0 to {highest}, .* sigma {highest + 1}; .*name it"
    ):
        published.choose(model, "RGB", highest + 1)


def test_colour_is_one_of_two():
    with pytest.raises(ReproError, match="RGB or L"):
        published.choose("dncnn", "blue", 50)


# --- finding


def test_without_a_copy_and_without_a_network_the_way_out_is_said():
    with pytest.raises(ReproError, match=r"Cannot download https://.*sigma%3D50\.mat .*REPRO_WEIGHTS"):
        repro.load("dncnn-gray-50-published")


def test_what_has_no_address_is_not_asked_for():
    with pytest.raises(ReproError, match=r"cannot be downloaded; .*REPRO_WEIGHTS"):
        repro.load("dncnn-gradnet-impl-published")


def test_a_mirror_that_is_no_folder_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("REPRO_WEIGHTS", str(tmp_path / "nowhere"))
    with pytest.raises(ReproError, match="nowhere, which is not a folder"):
        repro.load("ffdnet-gray-published")


def test_an_altered_file_is_refused(monkeypatch, tmp_path):
    (tmp_path / "ffdnet").mkdir()
    (tmp_path / "ffdnet" / "FFDNet_gray.mat").write_bytes(b"something else")
    monkeypatch.setenv("REPRO_WEIGHTS", str(tmp_path))
    with pytest.raises(ReproError, match="another SHA-256"):
        repro.load("ffdnet-gray-published")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ReproError, match="dncnn-gray-50-published"):
        repro.load("dncnn-gray-51-published")


# --- the real files


@pytest.mark.parametrize("name", published.SOURCES)
def test_every_published_file_becomes_a_network(mirror, name):
    net = repro.load(name)
    source = published.SOURCES[name]
    assert (net.name, net.sizes.channels) == (source.model, 1 if source.colour == "gray" else 3)
    described = weights.describe(name)
    assert described["repository"] == source.repository and described["licence"]


def test_what_is_converted_is_not_converted_again(mirror, monkeypatch):
    first = repro.load("ffdnet-gray-published")
    monkeypatch.delenv("REPRO_WEIGHTS")
    again = repro.load("ffdnet-gray-published")
    for name, value in first.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_the_folder_beside_the_data_mirror_is_found(mirror, monkeypatch):
    monkeypatch.setenv("REPRO_DATA", str(SHARED / "data"))
    monkeypatch.delenv("REPRO_WEIGHTS")
    assert repro.load("dncnn-gray-25-published").sizes.depth == 17


@pytest.mark.parametrize("name", [name for name, source in published.SOURCES.items() if source.path])
def test_published_networks_denoise(mirror, name):
    """On an image they know nothing of they must be worth several decibels: no axis and no channel is swapped."""
    source = published.SOURCES[name]
    sigma_255 = source.sigma_255 or 30
    if name == "pd-colour-real-published":
        pytest.skip("made for noise that neighbouring pixels share")
    table = repro.evaluate.evaluate(repro.load(name), [crop(source.colour)], sigma_255)
    assert table["psnr_db"][0] > table["psnr_noisy_db"][0] + 8


def test_pd_for_photographs_works_at_half_the_size(mirror):
    assert repro.load("pd-colour-published").sizes.stride == 1
    assert repro.load("pd-colour-real-published").sizes.stride == 2


def test_ffdnet_for_photographs_takes_the_estimated_level(mirror):
    from repro.models.classical import estimate_noise

    told, blind = (repro.load(f"ffdnet-colour-{kind}published") for kind in ("", "real-"))
    assert told.needs_sigma and not blind.needs_sigma
    torch.manual_seed(0)
    pair = [crop("rgb").clean + level / 255 * torch.randn(3, 96, 128) for level in (10, 40)]
    levels = [estimate_noise(noisy.permute(1, 2, 0).double().numpy()) for noisy in pair]
    assert levels[0] < 20 / 255 < levels[1]
    with torch.no_grad():
        for clean, noisy, level in zip(blind(torch.stack(pair)), pair, levels, strict=True):
            torch.testing.assert_close(clean, told(noisy[None], sigma=level)[0])


def test_pd_finds_the_level_of_the_noise(mirror):
    net, sample = repro.load("pd-colour-published"), crop("rgb")
    with torch.no_grad():
        torch.manual_seed(0)
        noisy = (sample.clean + 25 / 255 * torch.randn_like(sample.clean)).clamp(0, 1)
        levels = net.estimator(noisy[None]).clamp(0, 1).mean((0, 2, 3))  # Gaussian of R, G, B, then impulses
    assert ((75 * levels[:3] - 25).abs() < 8).all()


def crop(colour):
    """A piece of a photograph that scikit-image ships."""
    import skimage.data

    from repro.data.catalog import Sample

    pixels = torch.from_numpy(skimage.data.astronaut()[:96, 160:288].copy()).permute(2, 0, 1) / 255
    return Sample("astronaut", pixels.mean(0, keepdim=True) if colour == "gray" else pixels)


def test_ffdnet_needs_its_images_in_the_right_order(mirror):
    net, sample = repro.load("ffdnet-colour-published"), crop("rgb")
    right = repro.evaluate.evaluate(net, [sample], 30)["psnr_db"][0]
    arrays = published.read_matconvnet(SHARED / "weights" / published.SOURCES["ffdnet-colour-published"].file)
    wrong = repro.evaluate.evaluate(weights.from_upstream("ffdnet", arrays), [sample], 30)["psnr_db"][0]
    assert right > wrong + 0.5


def test_the_command_line_scores_published_weights(mirror, tmp_path):
    write_image(tmp_path / "photographs" / "astronaut.png", crop("rgb").clean)
    command = ["evaluate", "--model", "dncnn", "--weights", "published", "--colour", "L", "--sigma", "50"]
    command += ["--data", str(tmp_path / "photographs")]
    result = CliRunner().invoke(cli.app, command)
    assert result.exit_code == 0, result.output
    assert "dncnn-gray-50-published" in result.output and "psnr_db" in result.output
    command += ["--crop-multiple", "50", "--out", str(tmp_path / "scores.csv")]
    assert CliRunner().invoke(cli.app, command).exit_code == 0
    assert pd.read_csv(tmp_path / "scores.csv")[["height", "width"]].to_numpy().tolist() == [[50, 100]]
