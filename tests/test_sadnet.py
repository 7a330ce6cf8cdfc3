"""SADNet: the published parameter counts, the authors' arithmetic, every size of image."""

import os
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
import torch

import repro
from repro.errors import ReproError
from repro.models.base import count_parameters, pad_to_multiple
from repro.models.sadnet import READINGS, SADNet, SADNetSizes, enlarge
from repro.weights import from_upstream

SHARED = Path(os.environ.get("REPRO_SHARED") or Path(__file__).parents[2] / "shared")
GOLDEN = SHARED / "vectors" / "sadnet_8ch_colour.npz"
SMALL = {"width": 8, "offset_width": 8}


@pytest.fixture(scope="module")
def golden():
    if not GOLDEN.exists():
        pytest.skip(f"{GOLDEN} is not here (set REPRO_SHARED to the folder with vectors/)")
    return {name: torch.from_numpy(array) for name, array in np.load(GOLDEN).items()}


@pytest.mark.parametrize(
    ("sizes", "parameters"),
    [
        ({}, 4_234_723),
        ({"channels": 1}, 4_234_081),
        ({"dilations": (1, 2, 4, 8)}, 4_234_723),
        ({"rsab": False, "transfer": False, "context": False}, 3_524_323),
        ({"transfer": False, "context": False}, 3_949_379),
        ({"rsab": False}, 3_754_275),
        ({"transfer": False}, 4_179_331),
        ({"context": False}, 4_004_771),
        ({"reading": "replication"}, 4_234_723 - 867 + 948),
        ({"reading": "replication-tail"}, 4_234_723 - 867 + 948),
        ({"reading": "replication-activations"}, 4_234_723),
        ({"reading": "paper-tail"}, 4_234_723 - 768),
        ({"reading": "paper-transfer"}, 4_234_723 + 3 * 9 * 32 * (216 - 32)),
        ({"width": 8, "offset_width": 8}, 313_027),
        ({"channels": 1, "width": 8}, 612_073),
    ],
)
def test_parameter_counts(sizes, parameters):
    assert count_parameters(repro.build("sadnet", **sizes)) == parameters


def test_the_authors_small_network_gives_the_authors_numbers(golden):
    arrays = {name[3:]: array for name, array in golden.items() if name.startswith("sd/")}
    net = from_upstream("sadnet", arrays)
    noisy = golden["in/x"].clone().requires_grad_()
    clean = net(noisy)
    torch.testing.assert_close(clean, golden["out/y"], atol=2e-5, rtol=0)

    (clean * golden["grad/cotangent"]).sum().backward()
    ours = {
        "grad/x": noisy.grad,
        "grad/dres1.dcnpack.weight": net.decode1.block.deform.weight.grad,
        "grad/dres1.dcnpack.conv_offset_mask.weight": net.decode1.block.locate.weight.grad,
        "grad/res1.conv0.weight": net.first.weight.grad,
    }
    for name, gradient in ours.items():
        scale = golden[name].abs().max().item()
        torch.testing.assert_close(gradient, golden[name], atol=2e-5 * scale, rtol=0, msg=name)

    with torch.no_grad():
        exact = net.double()(golden["in/x"].double())
    torch.testing.assert_close(exact, golden["out/y_float64"], atol=1e-12, rtol=0)


@pytest.mark.parametrize("height", [1, 2, 7, 8, 9])
@pytest.mark.parametrize("width", [1, 5, 8, 17])
def test_any_height_and_width(height, width):
    torch.manual_seed(0)
    noisy = torch.rand(2, 3, height, width)
    net = repro.build("sadnet", **SMALL).eval()
    with torch.no_grad():
        clean = net(noisy)
        assert clean.shape == noisy.shape
        # What is outside the image is made from it: the padded image, given explicitly, gives the same.
        again = net(pad_to_multiple(noisy, 8))[..., :height, :width]
    torch.testing.assert_close(clean, again)


def test_padding_reflects_and_replicates_only_where_too_short():
    image = torch.arange(6.0).reshape(1, 1, 1, 6)
    padded = pad_to_multiple(image, 8)
    assert padded.shape == (1, 1, 8, 8)
    assert padded[0, 0, 7].tolist() == [0, 1, 2, 3, 4, 5, 4, 3]
    assert pad_to_multiple(padded, 8) is padded


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("channels", [1, 3])
def test_head_and_tail(reading, channels):
    """With a last layer of zeros the authors' tail returns the network's input, the replication's returns black."""
    net = repro.build("sadnet", channels=channels, reading=reading, **SMALL)
    torch.nn.init.zeros_(net.last.weight)
    torch.nn.init.zeros_(net.last.bias)
    noisy = torch.rand(1, channels, 8, 16)
    expected = torch.zeros_like(noisy) if reading in ("replication", "replication-tail") else noisy
    assert torch.equal(net(noisy), expected)


def test_replication_activates_after_every_block():
    """Where the authors' block outputs are negative, the replication's are a fifth of them."""
    net = repro.build("sadnet", reading="replication", **SMALL)
    before, after = [], []
    net.encode2.register_forward_hook(lambda _block, _inputs, output: before.append(output))
    net.down2.register_forward_pre_hook(lambda _conv, inputs: after.append(inputs[0]))
    net(torch.rand(1, 3, 16, 16))
    negative = before[0] < 0
    assert negative.any()
    torch.testing.assert_close(after[0][negative], 0.2 * before[0][negative])


def test_enlarging_keeps_the_corners_of_the_picture_in_place():
    # Half-pixel centres: 0, 1/4, 3/4, 1 of the way from the first value to the second.
    assert enlarge(torch.tensor([[[[0.0, 4.0]]]])).tolist() == [[[[0, 1, 3, 4], [0, 1, 3, 4]]]]


def record_transfer(reading):
    """The network; what scale 3 merges beside its own features; the features that scale 4's offsets come from."""
    torch.manual_seed(0)
    net, merged, features = repro.build("sadnet", reading=reading, **SMALL), [], []
    net.decode3.offset.merge.register_forward_pre_hook(lambda _conv, inputs: merged.append(inputs[0]))
    net.decode4.offset.register_forward_hook(lambda _block, _inputs, output: features.append(output))
    noisy = torch.rand(1, 3, 16, 24)
    with torch.no_grad():
        net(noisy)
    return net, noisy, merged[0][:, net.sizes.offset_width :], features[0]


def test_the_authors_hand_on_their_features_doubled():
    _, _, merged, features = record_transfer("authors")
    assert torch.equal(merged, enlarge(2 * features))


def test_the_papers_equation_hands_on_offsets_doubled_and_modulation_as_it_is():
    net, noisy, merged, _ = record_transfer("paper-transfer")
    offset, modulation = net.offsets(noisy)[0]
    assert offset.std() > 0 and modulation.std() > 0, "neither is the same everywhere"
    doubled, kept = merged.split([offset.shape[1], modulation.shape[1]], 1)
    torch.testing.assert_close(doubled, 2 * enlarge(offset))
    torch.testing.assert_close(kept, enlarge(modulation))


def test_xavier_covers_the_offset_convolution_and_not_the_deformable_kernel():
    torch.manual_seed(0)
    net = repro.build("sadnet")
    locate, deform = net.decode1.block.locate, net.decode1.block.deform
    xavier = sqrt(6 / (9 * 32 + 9 * 216))
    assert 0.99 * xavier < locate.weight.abs().max() <= xavier
    limit = 1 / sqrt(9 * 32)
    assert 0.99 * limit < deform.weight.abs().max() <= limit
    biases = [value for name, value in net.named_parameters() if name.endswith("bias")]
    assert all(not bias.any() for bias in biases)


def test_default_initialisation_is_torchs():
    torch.manual_seed(0)
    net = repro.build("sadnet", initialisation="default")
    limit = 1 / sqrt(9 * 32)  # Kaiming uniform with a = sqrt(5)
    assert 0.99 * limit < net.decode1.block.locate.weight.abs().max() <= limit
    assert net.decode1.block.locate.bias.any()


def test_zero_offsets_start_every_kernel_on_the_grid_with_half_its_weight():
    net = repro.build("sadnet", initialisation="zero-offsets", **SMALL)
    for offset, modulation in net.offsets(torch.rand(1, 3, 16, 24)):
        assert not offset.any()
        assert (modulation == 0.5).all()


def test_zero_offsets_make_the_deformable_convolution_half_an_ordinary_one():
    net = repro.build("sadnet", initialisation="zero-offsets", **SMALL)
    seen = []
    net.decode1.block.deform.register_forward_hook(lambda op, inputs, output: seen.append((op, inputs[0], output)))
    net(torch.rand(1, 3, 16, 24))
    (op, features, result), *_ = seen
    ordinary = torch.nn.functional.conv2d(features, 0.5 * op.weight, op.bias, padding=1)
    assert result.std() > 0
    torch.testing.assert_close(result, ordinary, atol=1e-5, rtol=0)


def test_zero_offsets_are_the_authors_weights_but_for_what_predicts_them():
    torch.manual_seed(0)
    authors = repro.build("sadnet", **SMALL).state_dict()
    torch.manual_seed(0)
    zeroed = repro.build("sadnet", initialisation="zero-offsets", **SMALL).state_dict()
    changed = {name for name in authors if not torch.equal(authors[name], zeroed[name])}
    assert changed == {f"decode{scale}.block.locate.weight" for scale in (1, 2, 3, 4)}, "their biases are 0 in both"


def test_kernels_leave_the_grid_in_the_first_step():
    """Zeros in the layer that predicts offsets do not keep it from learning."""
    torch.manual_seed(0)
    net = repro.build("sadnet", initialisation="zero-offsets", **SMALL)
    noisy, clean = torch.rand(2, 1, 3, 16, 16)
    (net(noisy) - clean).square().mean().backward()
    torch.optim.SGD(net.parameters(), lr=1.0).step()
    for offset, modulation in net.offsets(noisy):
        assert offset.any() and (modulation != 0.5).any()


def test_dilations_change_the_result_and_not_the_parameters():
    one = repro.build("sadnet", **SMALL)
    other = repro.build("sadnet", dilations=(1, 2, 4, 8), **SMALL)
    other.load_state_dict(one.state_dict())
    noisy = torch.rand(1, 3, 128, 128)
    assert not torch.allclose(one(noisy), other(noisy))


def test_offsets_from_coarse_to_fine():
    net = repro.build("sadnet", **SMALL)
    found = net.offsets(torch.rand(2, 3, 20, 30))
    assert [offset.shape for offset, _ in found] == [(2, 144, 3 * k, 4 * k) for k in (1, 2, 4, 8)]
    assert [mask.shape for _, mask in found] == [(2, 72, 3 * k, 4 * k) for k in (1, 2, 4, 8)]
    assert all((mask > 0).all() and (mask < 1).all() for _, mask in found)
    for block in (net.decode4.block, net.decode1.block):
        assert not block.locate._forward_hooks, "listening is over when the offsets are handed out"


def test_offsets_are_those_the_kernels_use():
    net = repro.build("sadnet", **SMALL)
    used = []
    for block in (net.decode4.block, net.decode3.block, net.decode2.block, net.decode1.block):
        block.deform.register_forward_pre_hook(lambda _op, inputs: used.append(inputs[1:]))
    found = net.offsets(torch.rand(1, 3, 16, 16))
    for (offset, mask), (offset_used, mask_used) in zip(found, used, strict=True):
        assert torch.equal(offset, offset_used)
        assert torch.equal(mask, mask_used)


def test_channels_last_gives_the_same():
    torch.manual_seed(0)
    net = repro.build("sadnet", **SMALL).eval()
    noisy = torch.rand(2, 3, 24, 16)
    with torch.no_grad():
        expected = net(noisy)
        actual = net.to(memory_format=torch.channels_last)(noisy.to(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_bfloat16_autocast_stays_near_and_learns():
    torch.manual_seed(0)
    net = repro.build("sadnet", **SMALL)
    noisy = torch.rand(1, 3, 16, 16)
    expected = net(noisy)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        clean = net(noisy)
    assert clean.dtype == torch.float32, "the residual sum is in the image's precision"
    assert (clean - expected).abs().mean() < 0.02 * expected.std()
    clean.square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())


def test_a_single_channel_image_is_refused_by_a_colour_network():
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\]"):
        repro.build("sadnet", **SMALL)(torch.rand(1, 1, 8, 8))


@pytest.mark.parametrize(
    ("name", "sizes", "complaint"),
    [
        ("sednet", {}, "sadnet"),
        ("sadnet", {"breadth": 8}, "breadth"),
        ("sadnet", {"width": 12}, "deform_groups"),
        ("sadnet", {"reading": "mine"}, "replication"),
        ("sadnet", {"reading": "paper-transfer", "transfer": False}, "needs rsab"),
        ("sadnet", {"initialisation": "zero"}, "zero-offsets"),
        ("sadnet", {"width": "wide"}, "sadnet"),
        ("sadnet", {"width": 8 * 10**9}, "sadnet"),
    ],
)
def test_what_cannot_be_built_is_said_in_a_sentence(name, sizes, complaint):
    with pytest.raises(ReproError, match=complaint):
        repro.build(name, **sizes)


def test_without_rsab_there_is_nothing_to_transfer():
    assert SADNetSizes(rsab=False) == SADNetSizes(rsab=False, transfer=False)
    with pytest.raises(ValueError, match="RSAB"):
        SADNet(SADNetSizes(rsab=False, **SMALL)).offsets(torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize("reading", ["replication", "replication-activations"])
def test_the_replication_activates_after_every_block_and_transition(reading):
    """Everything that a block, a transposed or a 1x1 convolution gives is activated, and exactly once."""
    net, given, seen = repro.build("sadnet", reading=reading, **SMALL), [], []
    layers = [net.first, net.encode1, net.encode2, net.encode3, net.encode4, net.context]
    for scale in (net.decode4, net.decode3, net.decode2, net.decode1):
        layers += [getattr(scale, name) for name in ("up", "fuse", "block") if hasattr(scale, name)]
    for layer in layers:
        layer.register_forward_hook(lambda _layer, _inputs, output: given.append(output))
    net.after.register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0]))
    net(torch.rand(1, 3, 16, 16))
    assert len(given) == len(layers) and [id(x) for x in seen] == [id(x) for x in given]


def test_the_two_parts_of_the_replication_are_apart():
    """Its activations change nothing in the tail, its tail nothing in front of the last layer."""
    torch.manual_seed(0)
    net = repro.build("sadnet", **SMALL)
    noisy, features = torch.rand(1, 3, 16, 16), {}
    for reading in ("authors", "replication-activations", "replication-tail", "replication"):
        other = repro.build("sadnet", reading=reading, **SMALL)
        shared = {name: array for name, array in net.state_dict().items() if name != "last.weight"}
        other.load_state_dict(shared, strict=False)
        other.last.register_forward_pre_hook(
            lambda _last, inputs, reading=reading: features.update({reading: inputs[0]})
        )
        other(noisy)
    assert torch.equal(features["replication-tail"][:, :8], features["authors"])
    assert torch.equal(features["replication"][:, :8], features["replication-activations"])
    assert torch.equal(features["replication"][:, 8:], noisy)
    assert not torch.allclose(features["replication-activations"], features["authors"])
