"""ScaoedNet: the authors' arithmetic, parameters and operations, stages, switches, objectives."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import repro
from repro.data import realistic
from repro.data.catalog import Sample
from repro.errors import ReproError
from repro.evaluate import denoise, evaluate
from repro.models import scaoednet
from repro.models.base import count_parameters, pad_to_multiple
from repro.models.ensemble import SelfEnsemble
from repro.models.scaoednet import NFAE, ScaoedNet
from repro.study.costs import measure_cost
from repro.study.experiments import Evaluation
from repro.train import train
from repro.train_config import TrainConfig
from repro.weights import from_upstream

SHARED = Path(os.environ.get("REPRO_SHARED") or Path(__file__).parents[2] / "shared")
GOLDEN = SHARED / "vectors" / "scaoednet_1stage_2blocks.npz"
NAMES = SHARED / "vectors" / "upstream_names" / "scaoednet.txt"
SMALL = {"width": 8, "blocks": 1, "stages": 2}


@pytest.fixture(scope="module")
def golden():
    if not GOLDEN.exists():
        pytest.skip(f"{GOLDEN} is not here (set REPRO_SHARED to the folder with vectors/)")
    with np.load(GOLDEN) as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="module")
def state(golden):
    """The authors' state dict, second names of shared layers included, as a real one has them."""
    arrays = {name[3:]: torch.from_numpy(array) for name, array in golden.items() if name.startswith("sd/")}
    return arrays | {alias: arrays[name] for alias, name in json.loads(str(golden["aliases"])).items()}


def small(**sizes) -> ScaoedNet:
    torch.manual_seed(0)
    return repro.build("scaoednet", **(SMALL | sizes))


def test_the_authors_numbers(golden, state):
    net = from_upstream("scaoednet", state, stages=1)
    noisy = torch.from_numpy(golden["in/x"])
    with torch.no_grad():
        clean = net(noisy)
        (estimate,) = net(noisy, every_stage=True)
        exact = net.double()(noisy.double())
    torch.testing.assert_close(clean, torch.from_numpy(golden["out/y"]), atol=2e-5, rtol=0)
    assert torch.equal(estimate.image, clean)
    noise_map = torch.from_numpy(golden["out/noise_map_0"])
    torch.testing.assert_close(estimate.noise_map, noise_map, atol=2e-5, rtol=0)
    torch.testing.assert_close(exact, torch.from_numpy(golden["out/y_float64"]), atol=1e-12, rtol=0)


def test_the_second_stage_in_the_authors_names(state):
    """The degradation estimator, which one stage leaves idle, written out once more with the authors' layers."""
    net = from_upstream("scaoednet", state, stages=2).double()
    arrays = {name: array.double() for name, array in state.items()}
    fold, unfold = torch.nn.functional.pixel_unshuffle, torch.nn.functional.pixel_shuffle

    def layer(name, x):
        weight = arrays[f"{name}.conv.weight"]
        return torch.nn.functional.conv2d(x, weight, arrays[f"{name}.conv.bias"], padding=weight.shape[-1] // 2)

    noisy = torch.rand(1, 3, 8, 12, dtype=torch.float64)
    with torch.no_grad():
        x = fold(noisy, 2)
        for k in range(4):
            x = layer(f"ini_DE_Net.ConvNet.{k}", x).relu()
        q = NFAE()(x)
        u0 = unfold(layer("ini_DE_Net.conv1", q), 2)
        encoded = layer("head.0", fold(noisy, 2))
        z0 = 0.875 * net.reconstruction(encoded, encoded, u0) + 1.125 * encoded
        m = layer("DE_Net.ConvNet_f0noise.0", torch.cat([layer("DE_Net.head_Q", q), z0], 1))
        x = layer("DE_Net.ConvNet_Input.0", torch.cat([layer("DE_Net.head_noisy", fold(u0, 2)), m], 1))
        for k in range(1, 5):
            x = layer(f"DE_Net.ConvNet_Input.{k}", x).relu()
        u1 = u0 + unfold(layer("DE_Net.conv1", NFAE()(x)), 2)
        z1 = 0.875 * net.reconstruction(z0, encoded, u1) + 1.125 * encoded
        first, second = net(noisy, every_stage=True)
    torch.testing.assert_close(first.noise_map, u0)
    torch.testing.assert_close(second.noise_map, u1)
    torch.testing.assert_close(second.image, unfold(layer("tail.0", z1), 2))


def test_every_name_and_shape_of_the_authors():
    if not NAMES.exists():
        pytest.skip(f"{NAMES} is not here (set REPRO_SHARED to the folder with vectors/)")
    lines = [line.split("\t") for line in NAMES.read_text().splitlines() if not line.startswith("#")]
    net = repro.build("scaoednet")
    shapes = {net.upstream_name(name): str(tuple(array.shape)) for name, array in net.state_dict().items()}
    assert shapes == {name: shape for name, shape in lines if not shape.startswith("<-")}
    assert net.upstream_aliases() == {name: of.removeprefix("<- ") for name, of in lines if of.startswith("<-")}


def test_second_names_are_optional_and_must_agree(golden, state):
    alias = "RE_Net.body.1.CIG_SA.conv_du.1.Conv.conv.bias"
    without = {name: array for name, array in state.items() if name != alias}
    one, other = (from_upstream("scaoednet", arrays, stages=1) for arrays in (state, without))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    with pytest.raises(ReproError, match=r"conv_du\.1\.Conv\.conv\.bias"):
        from_upstream("scaoednet", state | {alias: state[alias] + 1}, stages=1)
    with pytest.raises(ReproError, match="head_z"):
        from_upstream("scaoednet", {n: a for n, a in state.items() if "head_z" not in n}, stages=1)
    with pytest.raises(ReproError, match="surplus"):
        from_upstream("scaoednet", state | {"surplus": torch.zeros(1)}, stages=1)


def test_two_fusion_layers_that_differ_are_two_layers(state):
    name = "RE_Net.y_u_cat.0.conv.weight"
    net = from_upstream("scaoednet", state | {name: -state[name]}, stages=1)
    assert net.sizes.separate_fusion
    assert torch.equal(net.reconstruction.fuse_noisy.weight, -net.reconstruction.fuse.weight)
    assert not from_upstream("scaoednet", state, stages=1).sizes.separate_fusion


@pytest.mark.parametrize(("stages", "macs"), [(1, 206.83), (3, 629.90), (5, 1052.96)])
def test_parameters_and_operations(stages, macs):
    cost = measure_cost(repro.build("scaoednet", stages=stages), 512, 512)
    assert cost.parameters == 3_371_750
    assert cost.macs / 1e9 == pytest.approx(macs, abs=0.005)


@pytest.mark.parametrize(
    ("sizes", "more"),
    [
        ({"nfae": False}, 0),
        ({"stages": 7}, 0),
        ({"separate_fusion": True}, 128 * 64 + 64),
        ({"dem": False}, -(16 * 2 * (64 * 64 + 64) + 6 * (9 * 64 * 64 + 64))),  # G, too, has nobody to guide
        # a block's FSM: channel branch, spatial branch, fusion
        ({"attention": "none"}, -16 * ((577 + 260 + 320 + 5) + (130 + 148 + 20 + 5) + 8256)),
        ({"attention": "sca"}, -16 * ((577 + 5) + (130 + 148 + 20 + 5) - 19)),
    ],
)
def test_what_a_switch_adds_and_takes(sizes, more):
    assert count_parameters(repro.build("scaoednet", **sizes)) == 3_371_750 + more


@pytest.mark.parametrize(
    "sizes",
    [{"nfae": False}, {"dem": False}, {"attention": "none"}, {"attention": "sca"}, {"separate_fusion": True},
     {"attention": "none", "dem": False}, {"stages": 1}, {"stages": 3}, {"blocks": 2}],
)  # fmt: skip
def test_every_switch_changes_the_result_and_learns(sizes):
    plain, net = small().eval(), small(**sizes)
    own = net.state_dict()
    plain.load_state_dict(
        {n: own[n] if n in own and own[n].shape == a.shape else a for n, a in plain.state_dict().items()}
    )
    noisy = torch.rand(2, 3, 12, 16)
    clean = net(noisy)
    assert clean.shape == noisy.shape
    assert (clean - plain(noisy)).abs().max() > 1e-5
    scaoednet.gaussian(net, noisy, noisy, 0).backward()
    idle = {name for name, parameter in net.named_parameters() if parameter.grad is None}
    assert all(name.startswith("degradation.") for name in idle)
    assert bool(idle) == (net.sizes.stages == 1)


@pytest.mark.parametrize("height", [1, 2, 5, 8])
@pytest.mark.parametrize("width", [1, 3, 16])
def test_any_height_and_width(height, width):
    net = small().eval()
    noisy = torch.rand(2, 3, height, width)
    with torch.no_grad():
        estimates = net(noisy, every_stage=True)
        again = net(pad_to_multiple(noisy, 2))[..., :height, :width]
    assert [estimate.image.shape for estimate in estimates] == 2 * [noisy.shape]
    assert [estimate.noise_map.shape for estimate in estimates] == 2 * [(2, 1, height, width)]
    assert estimates[-1].image.isfinite().all()
    torch.testing.assert_close(estimates[-1].image, again)


def test_the_stages_of_a_longer_network_begin_like_a_shorter_one():
    long, short = small(stages=4), small(stages=2)
    short.load_state_dict(long.state_dict())
    noisy = torch.rand(1, 3, 8, 8)
    for one, other in zip(long(noisy, every_stage=True), short(noisy, every_stage=True), strict=False):
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.noise_map, other.noise_map)
    assert not torch.equal(long(noisy), short(noisy))


def test_nfae_by_hand():
    """One channel of two values 0 and 2: each differs from the mean by 1, as the mean does."""
    x = torch.tensor([0.0, 2.0]).reshape(1, 1, 1, 2)
    weight = torch.sigmoid(torch.tensor(10.0)) ** 2  # both ratios are 1
    torch.testing.assert_close(NFAE()(x), x * weight)
    flat = torch.full((1, 3, 4, 4), 0.5)
    torch.testing.assert_close(NFAE()(flat), flat / 4)  # nothing stands out: sigmoid(0) twice


def test_checkpointing_changes_no_gradient():
    noisy, clean = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    gradients, kept = [], []
    for checkpointing in (False, True):
        net = small(stages=3, checkpointing=checkpointing)
        counted = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, c=counted: c.append(t.nbytes) or t, lambda t: t):
            loss = scaoednet.gaussian(net, noisy, clean, 0)
        kept.append(sum(counted))
        loss.backward()
        gradients.append([parameter.grad for parameter in net.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    assert kept[1] < kept[0] / 2, "what a stage computes is not kept for the backward pass"


def test_channels_last_and_bfloat16():
    net = small().eval()
    noisy = torch.rand(2, 3, 24, 16)
    expected = net(noisy)
    like = net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(like(noisy.to(memory_format=torch.channels_last)), expected, atol=1e-5, rtol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = like(noisy)
    assert (rough.float() - expected).abs().mean() < 0.03 * expected.std()
    rough.float().square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in like.parameters() if parameter.grad is not None)


def test_xavier_is_the_authors_and_the_framework_may_be_left_alone():
    torch.manual_seed(0)
    layer = (3 * 4, 64, 9)  # the convolution that encodes: [64, 12, 3, 3]
    limits = {"xavier": math.sqrt(6 / (9 * (12 + 64))), "default": 1 / math.sqrt(9 * 12)}
    for initialisation, limit in limits.items():
        encode = repro.build("scaoednet", initialisation=initialisation, stages=1, blocks=1).encode
        assert encode.weight.numel() == math.prod(layer)
        assert 0.99 * limit < encode.weight.abs().max() <= limit
        assert bool(encode.bias.any()) == (initialisation == "default")


@pytest.mark.parametrize(
    ("sizes", "complaint"),
    [({"stages": 0}, "at least 1"), ({"attention": "all"}, "fsm"), ({"initialisation": "zero"}, "xavier")],
)
def test_what_cannot_be_built_is_said_in_a_sentence(sizes, complaint):
    with pytest.raises(ReproError, match=complaint):
        repro.build("scaoednet", **sizes)


# --- large images


def test_a_large_image_is_not_cut_without_being_asked(monkeypatch):
    monkeypatch.setattr("repro.evaluate.PIXELS_AT_ONCE", 200 * 200)
    net = small().eval()
    image = torch.rand(3, 150, 300)
    with pytest.raises(ReproError, match=r"tile=72 .* tile=0"):
        denoise(image, net)
    whole = denoise(image, net, tile=0)
    with torch.no_grad():
        torch.testing.assert_close(whole, net(image[None])[0].clamp(0, 1), atol=1e-5, rtol=0)
    assert denoise(image, net, tile=72).shape == image.shape


def test_each_tile_has_means_of_its_own():
    """Half dark, half bright: a tile knows nothing of the other half, and says something else."""
    net = small().eval()
    image = torch.cat([0.05 * torch.rand(3, 16, 256), 0.9 + 0.05 * torch.rand(3, 16, 256)], 2)
    assert (denoise(image, net, tile=128) - denoise(image, net, tile=0)).abs().max() > 1e-6


# --- objectives


def test_the_objective_is_image_plus_noise_map_at_every_stage():
    torch.manual_seed(1)
    net, clean = small(), torch.rand(2, 3, 8, 8)
    noisy = clean + torch.tensor([0.1, 0.2]).reshape(2, 1, 1, 1) * torch.randn(2, 3, 8, 8)
    sigma = [(noisy - clean)[k].square().mean().sqrt() for k in (0, 1)]
    of_map = [(e.noise_map[k] - sigma[k]).abs().mean() for e in net(noisy, every_stage=True) for k in (0, 1)]
    expected = (net(noisy) - clean).abs().mean() + scaoednet.NOISE_MAP_WEIGHT * torch.stack(of_map).mean()
    torch.testing.assert_close(scaoednet.gaussian(net, noisy, clean, 0), expected)


def test_signal_dependent_objectives_make_their_own_noise():
    net, clean = small(), torch.rand(2, 3, 8, 8)

    def lose(objective, noisy, seed):
        torch.manual_seed(seed)
        return objective(net, noisy, clean, 0).item()

    of_both = lose(scaoednet.signal_dependent, clean, 3)
    assert of_both == lose(scaoednet.signal_dependent, torch.zeros_like(clean), 3)
    assert of_both != lose(scaoednet.signal_dependent, clean, 4)
    assert of_both > lose(scaoednet.signal_dependent_image, clean, 3), "the same image error, the map's beside it"


@pytest.mark.parametrize("name", ["gaussian", "signal_dependent", "signal_dependent_image"])
def test_a_real_sample_counts_by_its_image_alone(name):
    net, objective = small(), getattr(scaoednet, name)
    clean, noisy = torch.rand(2, 4, 3, 8, 8)

    def lose(real):
        torch.manual_seed(5)
        return objective(net, noisy, clean, 0, real=real)

    nobody, everybody = torch.zeros(4, dtype=torch.bool), torch.ones(4, dtype=torch.bool)
    assert lose(nobody) == lose(None)
    torch.testing.assert_close(lose(everybody), (net(noisy) - clean).abs().mean())
    # Every sample weighs the same in whatever company.
    alone = [lose(everybody.clone().index_fill(0, torch.tensor(k), False)) - lose(everybody) for k in range(4)]
    torch.testing.assert_close(sum(alone), lose(nobody) - lose(everybody))


def test_what_the_network_says_of_an_unknown_noise_map_has_no_gradient():
    net, real = small(stages=1), torch.tensor([True, False])
    noisy = torch.rand(2, 3, 8, 8, requires_grad=True)
    maps = net(noisy, every_stage=True)[0].noise_map
    net.forward = lambda noisy, every_stage: [scaoednet.Estimate(noisy.detach(), maps)]
    maps.retain_grad()
    scaoednet.gaussian(net, noisy, noisy.detach(), 0, real).backward()
    assert maps.grad[0].abs().max() == 0 and maps.grad[1].abs().min() > 0


def test_training_tells_the_network_how_strong_the_noise_is():
    """A few steps on the noise map alone, seen from the outside: its error falls."""
    net = small(stages=1, width=16)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    errors = []
    for _ in range(60):
        clean = torch.rand(4, 3, 1, 1, generator=generator).expand(4, 3, 16, 16)
        gain, sigma_255 = realistic.draw_parameters(4, generator)
        noisy = realistic.add_poisson_gaussian_noise(clean, gain, sigma_255, generator=generator)
        truth = realistic.noise_map(clean, gain, sigma_255)
        error = (net(noisy, every_stage=True)[0].noise_map - truth).abs().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        errors.append(error.item())
    assert np.mean(errors[-10:]) < 0.6 * np.mean(errors[:10])


@pytest.mark.parametrize("loss", ["gaussian", "signal_dependent", "signal_dependent_image"])
def test_a_run_with_an_idle_estimator_goes_on_where_it_stopped(tmp_path, loss):
    """With one stage DE gets no gradient, and the optimiser knows nothing of it."""
    config = TrainConfig(
        model="scaoednet", sizes={"width": 4, "blocks": 1, "stages": 1}, data="embedded-train", sigma_255=(0, 50),
        loss=loss, steps=2, patch=16, batch=2, validation_images=1, checkpoint_every=1, precision="32",
    )  # fmt: skip
    path = train(config, tmp_path, progress=lambda row: None, device="cpu")
    trained = repro.load(path).state_dict()
    path.unlink()
    again = repro.load(train(config, tmp_path, progress=lambda row: None, device="cpu")).state_dict()
    assert all(torch.equal(trained[name], again[name]) for name in trained)


# --- self-ensemble


def test_self_ensemble_is_the_mean_over_the_eight_symmetries():
    net = small().eval()
    noisy = torch.rand(1, 3, 10, 6)
    with torch.no_grad():
        mean = SelfEnsemble(net)(noisy)
        assert (mean - net(noisy)).abs().max() > 1e-5
        for seen, back in (
            (noisy.rot90(1, (2, 3)), lambda image: image.rot90(-1, (2, 3))),
            (noisy.flip(2), lambda image: image.flip(2)),
            (noisy.transpose(2, 3), lambda image: image.transpose(2, 3)),
        ):
            # What the mean over a group is: turning the image first changes nothing.
            torch.testing.assert_close(back(SelfEnsemble(net)(seen)), mean, atol=1e-5, rtol=0)


def test_self_ensemble_of_a_network_without_direction_is_the_network():
    """Convolutions whose kernels are constant see no direction, so the eight estimates agree."""
    net = small().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() == 4:
                parameter.copy_(parameter.mean((2, 3), keepdim=True).expand_as(parameter))
        # Folding 2 x 2 pixels has an order; a network that treats all four alike does not see it either.
        for layer in (net.encode, net.initial.body[0]):
            layer.weight.copy_(layer.weight.mean(1, keepdim=True).expand_as(layer.weight))
        for layer in (net.reconstruction.embed_map, net.degradation.embed_map):
            layer.weight.copy_(layer.weight.mean(1, keepdim=True).expand_as(layer.weight))
        for layer in (net.decode, net.initial.last, net.degradation.last):
            layer.weight.copy_(layer.weight.mean(0, keepdim=True).expand_as(layer.weight))
        noisy = torch.rand(1, 3, 8, 12)
        torch.testing.assert_close(SelfEnsemble(net)(noisy), net(noisy), atol=1e-5, rtol=0)


def test_self_ensemble_in_an_evaluation():
    net = small().eval()
    sample = Sample("one", torch.rand(3, 16, 20))
    single = evaluate(net, [sample], 25)
    ensemble = evaluate(net, [sample], 25, ensemble=True)
    assert ensemble["psnr_noisy_db"].equals(single["psnr_noisy_db"])
    assert not ensemble["psnr_db"].equals(single["psnr_db"])
    assert not net.training, "the network's mode is as it was"
    assert Evaluation("kodak24", 50, ensemble=True).name == "kodak24-50-ensemble"
