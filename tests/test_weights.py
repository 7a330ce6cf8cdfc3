"""Weights on disk and the authors' checkpoints: complete, checked, and never executed."""

import json
import os
import pickle
from ast import literal_eval
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import repro
from repro import files, weights
from repro.errors import ReproError, unknown_name

SHARED = Path(os.environ.get("REPRO_SHARED") or Path(__file__).parents[2] / "shared")
NAMES = SHARED / "vectors" / "upstream_names"
SMALL = {"width": 8, "offset_width": 8}


@pytest.fixture
def net():
    torch.manual_seed(0)
    return repro.build("sadnet", **SMALL).eval()


@pytest.fixture
def saved(net, tmp_path):
    return weights.save(net, tmp_path / "small.safetensors", {"experiment": "none", "sigma_255": 50})


def upstream(net):
    """The network's parameters under its authors' names."""
    return {net.upstream_name(name): value.clone() for name, value in net.state_dict().items()}


# --- our own files


def test_what_is_saved_comes_back(net, saved):
    loaded = repro.load(saved)
    assert loaded.sizes == net.sizes
    assert not loaded.training
    for name, value in net.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_a_file_says_what_it_is(net, saved):
    described = weights.describe(saved)
    assert described["model"] == "sadnet"
    assert described["sizes"]["width"] == 8
    assert described["sigma_255"] == 50
    assert described["sha256"] == weights.checksum(net.state_dict())


def test_weights_that_a_kill_left_half_written_are_not_published(net, tmp_path):
    weights.save(net, tmp_path / "weights" / "small-seed0.safetensors")
    (tmp_path / "weights" / ".small-seed0-abcd1234.safetensors").write_bytes(b"half")
    assert list(weights.published(tmp_path)) == ["small", "small-seed0"]


def test_float16_storage_loads_as_float32(net, saved, tmp_path):
    half = weights.save(net, tmp_path / "half.safetensors", dtype=torch.float16)
    assert half.stat().st_size < 0.6 * saved.stat().st_size
    for name, value in repro.load(half).state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, net.state_dict()[name].half().float()), name


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, 0.999])
def test_a_truncated_file_is_refused(saved, kept):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    with pytest.raises(ReproError, match="not a complete safetensors file"):
        repro.load(saved)


def test_a_single_changed_bit_is_refused(saved):
    altered = bytearray(saved.read_bytes())
    altered[-5000] ^= 1
    saved.write_bytes(altered)
    with pytest.raises(ReproError, match="checksum"):
        repro.load(saved)


def test_a_text_file_is_refused(tmp_path):
    (tmp_path / "note.safetensors").write_text("weights")
    with pytest.raises(ReproError, match="not a complete safetensors file"):
        repro.load(tmp_path / "note.safetensors")


def rewritten(saved, change_tensors=None, **header):
    """The same file with other tensors or another header, and a checksum that fits."""
    tensors = load_file(saved)
    (change_tensors or (lambda tensors: None))(tensors)
    old = {"model": "sadnet", "sizes": json.dumps(weights.describe(saved)["sizes"])}
    save_file(tensors, saved, old | {"sha256": weights.checksum(tensors)} | header)
    return saved


@pytest.mark.parametrize("kind", [torch.int32, torch.bool, torch.complex64])
def test_parameters_that_are_no_floating_point_numbers_are_refused(saved, kind):
    change = lambda tensors: tensors.update({"first.weight": tensors["first.weight"].to(kind)})  # noqa: E731
    with pytest.raises(ReproError, match=r"has first\.weight as (int32|bool|complex64)"):
        repro.load(rewritten(saved, change))


@pytest.mark.parametrize("sizes", [{"width": "eight"}, {"width": True}, {"transfer": 0}, {"dilations": 3}])
def test_sizes_of_another_kind_are_refused(saved, sizes):
    sizes = weights.describe(saved)["sizes"] | sizes
    with pytest.raises(ReproError, match="is damaged"):
        repro.load(rewritten(saved, sizes=json.dumps(sizes)))


def test_a_network_of_more_parts_than_a_file_has_tensors_is_not_built(tmp_path):
    path = weights.save(repro.build("gradnet", width=16, units=1, modules=1), tmp_path / "small.safetensors")
    header = {"model": "gradnet", "sizes": json.dumps(weights.describe(path)["sizes"] | {"modules": 10**9})}
    tensors = load_file(path)
    save_file(tensors, path, header | {"sha256": weights.checksum(tensors)})
    with pytest.raises(ReproError, match="modules = 1000000000 are more than it has tensors"):
        repro.load(path)


def test_missing_and_surplus_parameters_are_named(saved):
    with pytest.raises(ReproError, match=r"lacks decode1\.block\.deform\.weight"):
        repro.load(rewritten(saved, lambda tensors: tensors.pop("decode1.block.deform.weight")))
    with pytest.raises(ReproError, match=r"has extra\.weight"):
        repro.load(
            rewritten(
                saved,
                lambda t: t.update(
                    {"decode1.block.deform.weight": torch.zeros(8, 8, 3, 3), "extra.weight": torch.zeros(1)}
                ),
            )
        )


def test_weights_of_other_sizes_are_refused(saved):
    sizes = weights.describe(saved)["sizes"] | {"width": 16}
    with pytest.raises(ReproError, match=r"first\.weight in the shape \[8, 3, 1, 1\] instead of \[16, 3, 1, 1\]"):
        repro.load(rewritten(saved, sizes=json.dumps(sizes)))


def test_weights_of_another_model_are_refused(saved):
    with pytest.raises(ReproError, match="weights of sadnet, not of dncnn"):
        weights.load(saved, model="dncnn")
    with pytest.raises(ReproError, match="no model 'perpetuum'"):
        repro.load(rewritten(saved, model="perpetuum"))


@pytest.mark.parametrize("sizes", ["", "[3]", '{"width": "wide"}', '{"breadth": 8}'])
def test_a_damaged_header_is_refused(saved, sizes):
    with pytest.raises(ReproError):
        repro.load(rewritten(saved, sizes=sizes))


def test_a_header_that_was_changed_is_refused(saved):
    """The dilations of a context block have no shape that would give the change away."""
    described = weights.describe(saved)["sizes"]
    changed = saved.read_bytes().replace(b"[1, 2, 3, 4]", b"[1, 2, 4, 8]")
    assert described["dilations"] == [1, 2, 3, 4] and changed != saved.read_bytes()
    saved.write_bytes(changed)
    with pytest.raises(ReproError, match="its header does not have the checksum"):
        repro.load(saved)


def test_values_that_are_not_finite_are_refused(net, saved):
    with pytest.raises(ReproError, match=r"first\.bias that are not finite"):
        repro.load(rewritten(saved, lambda tensors: tensors["first.bias"].fill_(float("nan"))))
    with torch.no_grad():
        net.first.bias[0] = 1e6  # finite, but not in float16
    before = saved.read_bytes()
    with pytest.raises(ReproError, match=r"first\.bias that are not finite"):
        weights.save(net, saved, dtype=torch.float16)
    assert saved.read_bytes() == before, "the old file stays"


def test_published_weights_are_found_by_experiment_and_seed(net, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "results", lambda: tmp_path)
    with pytest.raises(ReproError, match="no trained model or filter 'photograph-saver'; there are dncnn"):
        repro.load("photograph-saver")
    for stem in ("tiny-seed10", "tiny-seed2", "other"):
        weights.save(net, tmp_path / "weights" / f"{stem}.safetensors", {"stem": stem})
    assert weights.describe("tiny")["stem"] == "tiny-seed2"
    assert weights.describe("tiny-seed10")["stem"] == "tiny-seed10"
    assert weights.describe("other")["stem"] == "other"
    with pytest.raises(ReproError, match=r"no trained model or filter 'tine'; did you mean tiny\?"):
        repro.load("tine")
    with pytest.raises(ReproError, match=r"there are other, tiny, tiny-seed2.*-published.*bm3d"):
        repro.load("photograph-saver")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ReproError, match=r"no weights file .*gone\.safetensors"):
        repro.load(tmp_path / "gone.safetensors")


# --- the authors' checkpoints


@pytest.mark.parametrize("instance", ["32ch_colour", "8ch_colour", "8ch_gray_offset32"])
def test_upstream_names_are_the_authors(instance):
    path = NAMES / f"sadnet_{instance}.txt"
    if not path.exists():
        pytest.skip(f"{path} is not here (set REPRO_SHARED to the folder with vectors/)")
    lines = [line.split("\t") for line in path.read_text().splitlines() if not line.startswith("#")]
    shapes = {name: literal_eval(shape) for name, shape in lines}
    net = weights.from_upstream("sadnet", {name: np.ones(shape, "float32") for name, shape in shapes.items()})
    assert {net.upstream_name(ours): tuple(value.shape) for ours, value in net.state_dict().items()} == shapes


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"channels": 1, "offset_width": 32},
        {"width": 16, "deform_groups": 4},
        {"rsab": False},
        {"transfer": False},
        {"context": False},
        {"rsab": False, "context": False},
        {"transfer": False, "context": False},
        {"reading": "replication"},
    ],
)
def test_sizes_are_inferred(sizes):
    net = repro.build("sadnet", **(SMALL | sizes)).eval()
    again = weights.from_upstream("sadnet", upstream(net))
    if net.sizes.rsab:  # without offsets there is nothing to read their width off
        assert again.sizes == net.sizes
    noisy = torch.rand(1, net.sizes.channels, 16, 8)
    assert torch.equal(net(noisy), again(noisy))


def test_dilations_are_told(net):
    assert weights.from_upstream("sadnet", upstream(net), dilations=(1, 2, 4, 8)).sizes.dilations == (
        1,
        2,
        4,
        8,
    )


def name_upstream(name):
    """A small GradNet as a state dict under the names of its authors' code."""
    net = repro.build(name, width=8, modules=1, units=1, reduction=4)
    return {net.upstream_name(key): tensor for key, tensor in net.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("gradnet", "block2.block1.ca.c1.body.0.weight"), ("gradnet", "block1.0.weight"), ("gradnet", "block3.weight"),
        ("gradnet-impl", "_GradNet__seq.0._ResModule__att._AttentionUnit__conv1.weight"),
        ("gradnet-impl", "_GradNet__fe.0.weight"), ("gradnet-impl", "_GradNet__reconstruct_conv.weight"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("axis", [0, 1])
def test_a_kernel_without_channels_is_a_sentence(name, kernel, axis):
    arrays = name_upstream(name)
    weights.from_upstream(name, arrays)
    with pytest.raises(ReproError):
        weights.from_upstream(name, arrays | {kernel: arrays[kernel].narrow(axis, 0, 0)})


def test_prefix_and_counters_are_tolerated(net):
    arrays = {f"module.{name}": value for name, value in upstream(net).items()}
    arrays["module.bn.num_batches_tracked"] = torch.tensor(7)
    again = weights.from_upstream("sadnet", arrays)
    assert torch.equal(again.last.weight, net.last.weight)


def test_every_missing_upstream_name_is_named(net):
    arrays = upstream(net)
    for name in arrays:
        with pytest.raises(ReproError, match=f"lacks .*{name}"):
            weights.from_upstream("sadnet", {key: value for key, value in arrays.items() if key != name})


@pytest.mark.parametrize("surplus", ["first.weight", "res2.conv0.weight", "epoch.weight"])
def test_a_surplus_upstream_name_is_named(net, surplus):
    with pytest.raises(ReproError, match=f"has {surplus}"):
        weights.from_upstream("sadnet", upstream(net) | {surplus: torch.zeros(1)})


def test_a_wrong_upstream_shape_is_named(net):
    arrays = upstream(net)
    for name in arrays:
        with pytest.raises(ReproError):
            weights.from_upstream("sadnet", arrays | {name: torch.zeros(5)})


@pytest.mark.parametrize("disguise", [lambda a: a[::-1].copy()[::-1], lambda a: a.astype(a.dtype.newbyteorder())])
def test_arrays_that_torch_does_not_take_as_they_are_are_read(net, disguise):
    arrays = {name: disguise(tensor.numpy()) for name, tensor in upstream(net).items()}
    again = weights.from_upstream("sadnet", arrays)
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in again.state_dict().items())


def test_an_array_of_words_is_named(net):
    arrays = upstream(net)
    name = next(iter(arrays))
    with pytest.raises(ReproError, match=f"{name} is an array of <U4"):
        weights.from_upstream("sadnet", arrays | {name: np.array(["word"])})


def test_a_file_that_does_not_say_its_sizes_is_none_of_ours(tmp_path):
    path = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, path, {"model": "sadnet"})
    with pytest.raises(ReproError, match="does not say its sha256 and sizes"):
        weights.describe(path)


def test_an_entry_that_is_no_array_is_named(net):
    with pytest.raises(ReproError, match="epoch is no array"):
        weights.from_upstream("sadnet", upstream(net) | {"epoch": 200})


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_torch_file_is_read_without_executing_it(net, tmp_path, wrapped):
    arrays = upstream(net)
    torch.save({"epoch": 200, "state_dict": arrays} if wrapped else arrays, tmp_path / "model.pth")
    noisy = torch.rand(1, 3, 8, 8)
    assert torch.equal(weights.load(tmp_path / "model.pth", model="sadnet")(noisy), net(noisy))
    with pytest.raises(ReproError, match="name the model"):
        weights.load(tmp_path / "model.pth")


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path, writer):
    path, sprung = tmp_path / "trap.pth", tmp_path / "sprung"
    if writer == "torch":
        torch.save({"weight": Trap(sprung)}, path)
    else:
        path.write_bytes(pickle.dumps({"weight": Trap(sprung)}, protocol=2))
    with pytest.raises(ReproError, match="refused"):
        weights.load(path, model="sadnet")
    assert not sprung.exists()


@pytest.mark.parametrize("content", [b"", b"weights", "truncated"])
def test_a_torch_file_that_is_none_is_refused(net, tmp_path, content):
    path = tmp_path / "model.pth"
    torch.save(upstream(net), path)
    path.write_bytes(path.read_bytes()[:5000] if content == "truncated" else content)
    with pytest.raises(ReproError):
        weights.load(path, model="sadnet")


def test_a_file_is_what_its_first_bytes_say(tmp_path):
    net = repro.build("dncnn", depth=3, width=4)
    upstream = {net.upstream_name(ours): tensor for ours, tensor in net.state_dict().items()}
    torch.save(upstream, tmp_path / "plain.ckpt")
    assert isinstance(weights.load(tmp_path / "plain.ckpt", "dncnn"), type(net))
    weights.save(net, tmp_path / "ours.safetensors")
    (tmp_path / "ours.safetensors").rename(tmp_path / "ours.pth")
    assert isinstance(weights.load(tmp_path / "ours.pth"), type(net))


def test_a_filter_is_no_network():
    with pytest.raises(ReproError, match="median is a filter without weights, and no sadnet"):
        weights.load("median", "sadnet")


def test_a_name_may_have_been_one_that_begins_with_it():
    known = ["scaoednet-sca", "sadnet-colour-50", "SADNet-gray", *(f"sadnet-{k}" for k in range(9))]
    error = str(unknown_name("model", "sadnet", known))
    assert "sadnet-0 or sadnet-1" in error and "scaoednet" not in error and "another of 11" in error
    assert "did you mean bm3d?" in str(unknown_name("model", "BM3D", ["bm3d"]))
    assert "did you mean median?" in str(unknown_name("model", "mediam", ["median", "bm3d"]))
    assert "there are bm3d." in str(unknown_name("model", "zzz", ["bm3d"]))
