"""GradNet: published parameter counts, both codes' arithmetic, the gradient, the losses."""

import math
import os
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import repro
from repro import files, gradients, naive
from repro.data import training as training_data
from repro.data.catalog import Sample
from repro.data.noise import fixed_gaussian_noise
from repro.errors import ReproError
from repro.metrics import psnr_db
from repro.models import gradnet
from repro.models.base import count_parameters
from repro.models.classical import Median
from repro.models.gradnet import GradNetSizes, interlace, sobel, sobel_magnitude
from repro.train import train
from repro.train_config import TrainConfig
from repro.weights import from_upstream, load, save

SHARED = Path(os.environ.get("REPRO_SHARED") or Path(__file__).parents[2] / "shared")
NAMES = SHARED / "vectors" / "upstream_names"
SMALL = {"width": 8, "modules": 2, "units": 2, "reduction": 4}


@pytest.mark.parametrize(
    ("name", "sizes", "parameters"),
    [
        ("gradnet", {}, 1_626_561),
        ("gradnet", {"fusion": "none"}, 1_484_688),
        ("gradnet", {"fusion": "image"}, 1_486_416),
        ("gradnet", {"fusion": "end"}, 1_484_769),
        ("gradnet", {"global_sum": False}, 1_626_561),
        ("gradnet", {"body": "dncnn", "fusion": "none", "skip": "none"}, 669_312),
        ("gradnet", {"body": "dncnn", "fusion": "none"}, 671_040),
        ("gradnet", {"body": "dncnn"}, 810_270),
        ("gradnet", {"body": "dncnn", "fusion": "end"}, 671_121),
        ("gradnet", {"body": "dncnn", "fusion": "image"}, 672_768),
        ("gradnet-impl", {}, 1_316_668),
        ("gradnet-impl", {"mixup": 12, "units": 3}, 2_207_495),
        ("gradnet-impl", {"width": 72, "modules": 6, "units": 3}, 1_863_216),
    ],
)
def test_parameter_counts(name, sizes, parameters):
    assert count_parameters(repro.build(name, **sizes)) == parameters


# --- the two codes, written out from the facts with plain functions over their own names ---------------------


def conv(x, state, name):
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, state.get(f"{name}.bias"), padding=weight.shape[-1] // 2)


def attention(x, state, first, second):
    means = x.mean((2, 3), keepdim=True)
    return x * torch.sigmoid(conv(torch.relu(conv(means, state, first)), state, second))


def authors_gradnet(state, noisy, gradient):
    x = start = torch.cat([torch.relu(conv(noisy, state, "block1.0")), gradient], 1)
    for i in (1, 2, 3, 4):
        inside = x
        for j in (1, 2, 3, 4):
            block = f"block2.block{i}.block{j}"
            norm = (state[f"{block}.bn1.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
            y = torch.relu(F.batch_norm(conv(inside, state, f"{block}.conv1"), *norm))
            inside = torch.relu(conv(y, state, f"{block}.conv2") + inside)
        merged = conv(torch.cat([x, inside], 1), state, f"block2.block{i}.conv")
        x = attention(merged, state, f"block2.block{i}.ca.c1.body.0", f"block2.block{i}.ca.c2.body.0")
    return conv(start + x, state, "block3")


def gradnet_of_003(state, noisy, naive, modules, units, copies):
    features = torch.relu(conv(noisy, state, "_GradNet__fe.0"))
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]).repeat(3, 1, 1, 1)
    horizontal = F.conv2d(naive, kernel, padding=1, groups=3)
    vertical = F.conv2d(naive, kernel.transpose(2, 3), padding=1, groups=3)
    gradient = (horizontal**2 + vertical**2).sqrt()
    if copies == 1:
        x = torch.cat([features, gradient], 1)
    else:
        total = features.shape[1] + 3 * copies
        period, queue, x = total // (3 * copies), list(features.unbind(1)), []
        repeated = [gradient[:, c] for _ in range(copies) for c in range(3)]
        for channel in range(total):
            x.append(repeated.pop(0) if channel % period == 0 and repeated else queue.pop(0))
        x = torch.stack(x, 1)
    start = x
    for i in range(modules):
        inside, module = x, f"_GradNet__seq.{i}._ResModule__"
        for j in range(units):
            unit = f"{module}seq.{j}._ResUnit__conv"
            inside = torch.relu(conv(torch.relu(conv(inside, state, f"{unit}1")), state, f"{unit}2") + inside)
        unit = f"{module}att._AttentionUnit__conv"
        x = attention(inside + x, state, f"{unit}1", f"{unit}2")
    return conv(x + start, state, "_GradNet__reconstruct_conv") + noisy


def state_dict(file):
    """Random arrays under the names of a public implementation, aliases included."""
    path = NAMES / file
    if not path.exists():
        pytest.skip(f"{path} is not here (set REPRO_SHARED to the folder with vectors/)")
    generator, state, aliases = torch.Generator().manual_seed(0), {}, {}
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            continue
        if "<-" in line:
            alias, name = (part.strip() for part in line.split("<-"))
            aliases[alias] = name
        else:
            name, shape = line.split("\t")
            size = [int(n) for n in re.findall(r"\d+", shape)]
            array = torch.randn(size, generator=generator) / max(math.prod(size[1:]), 1) ** 0.5
            state[name] = array.abs() + 0.5 if name.endswith("running_var") else array
    return state, {alias: state[name] for alias, name in aliases.items()}


def test_the_authors_network_by_their_names():
    state, _ = state_dict("gradnet_authors_concat_before.txt")
    net = from_upstream("gradnet", state)
    noisy, gradient = torch.rand(2, 3, 11, 13), torch.rand(2, 3, 11, 13)
    with torch.no_grad():
        expected = authors_gradnet(state, noisy, gradient)
        torch.testing.assert_close(net(noisy, gradient), expected, atol=1e-4, rtol=1e-5)
        summed = from_upstream("gradnet", state, global_sum=True)
        torch.testing.assert_close(summed(noisy, gradient), expected + noisy, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ("file", "shape"), [("gradnet_impl_16feat.txt", (4, 4, 1)), ("gradnet_impl_mixup_16feat_2rep.txt", (2, 2, 2))]
)
@pytest.mark.parametrize("with_aliases", [False, True])
def test_the_network_of_003_by_its_names(file, shape, with_aliases):
    state, aliases = state_dict(file)
    net = from_upstream("gradnet-impl", state | aliases if with_aliases else state)
    noisy, naive = torch.rand(2, 3, 11, 13), torch.rand(2, 3, 11, 13)
    with torch.no_grad():
        expected = gradnet_of_003(state, noisy, naive, *shape)
        torch.testing.assert_close(net(noisy, naive), expected, atol=1e-4, rtol=1e-5)
        assert not torch.allclose(net(noisy, noisy), expected, atol=1e-2)


def test_two_arrays_under_one_layers_two_names_are_refused():
    state, aliases = state_dict("gradnet_impl_mixup_16feat_2rep.txt")
    alias = next(iter(aliases))
    with pytest.raises(ReproError, match="one and the same"):
        from_upstream("gradnet-impl", state | {alias: aliases[alias] + 1})


@pytest.mark.parametrize(
    ("fusion", "body"),
    [
        *(
            (fusion, body)
            for fusion in ("none", "image", "before", "end")
            for body in ({}, {"body": "dncnn", "depth": 5})
        ),
        ("none", {"body": "dncnn", "skip": "none", "depth": 4}),
    ],
)
def test_every_variant_comes_back_from_the_authors_names(fusion, body):
    sizes = {"fusion": fusion, "global_sum": False, **(body or SMALL)}
    net = repro.build("gradnet", **sizes).eval()
    fourth = "block4.weight" if body and fusion == "before" else "block3.weight"
    names = {name: fourth if name == "last.weight" else net.upstream_name(name) for name in net.state_dict()}
    again = from_upstream("gradnet", {names[n]: t for n, t in net.state_dict().items()}, global_sum=False)
    image, gradient = torch.rand(1, 3, 6, 5), torch.rand(1, 3, 6, 5)
    with torch.no_grad():
        assert torch.equal(again(image, gradient), net(image, gradient))


def test_wrong_checkpoints_are_named():
    state, _ = state_dict("gradnet_authors_concat_before.txt")
    with pytest.raises(ReproError, match=r"block2\.block2\.ca\.c2\.body\.0\.bias"):
        from_upstream("gradnet", {n: a for n, a in state.items() if n != "block2.block2.ca.c2.body.0.bias"})
    with pytest.raises(ReproError, match="surplus"):
        from_upstream("gradnet", state | {"surplus": torch.zeros(1)})
    with pytest.raises(ReproError, match="lacks"):
        from_upstream("gradnet-impl", state)


# --- the gradient ------------------------------------------------------------------------------------------


def test_sobel_of_a_ramp_and_of_its_border():
    ramp = torch.arange(5.0).expand(1, 1, 4, 5)
    horizontal, vertical = sobel(ramp)
    assert (horizontal[0, 0, 1:3, 1:4] == 8).all()  # two steps of 1, weights 1 + 2 + 1
    assert (vertical[0, 0, 1:3, 1:4] == 0).all()
    assert vertical[0, 0, 0, 2] == 8  # 1 + 2 * 2 + 3 below, 0 above the image
    assert horizontal[0, 0, 0, 2] == 6


def test_magnitude_is_exact_and_its_gradient_finite_everywhere():
    image = torch.zeros(1, 2, 6, 6)
    image[0, 0, :, 3:] = 0.5
    image[0, 1] = 1e-25  # squares to 0 in float32
    image.requires_grad_()
    magnitude = sobel_magnitude(image)
    horizontal, vertical = sobel(image)
    torch.testing.assert_close(magnitude[:, :1], torch.hypot(horizontal, vertical)[:, :1])
    magnitude.sum().backward()
    assert image.grad.isfinite().all() and image.grad.abs().max() > 1
    assert sobel_magnitude(torch.zeros(1, 3, 4, 4)).eq(0).all()


def test_interlaced_channels_by_hand():
    features, gradient = torch.arange(10.0, 26).view(1, 16, 1, 1), torch.tensor([1.0, 2, 3]).view(1, 3, 1, 1)
    first = interlace(features, gradient, 2).flatten().tolist()
    assert first[:9] == [1, 10, 11, 2, 12, 13, 3, 14, 15] and first[15:] == [3, 20, 21, 22, 23, 24, 25]


# --- the contract ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gradnet", "gradnet-impl"])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 2), (9, 12)])
def test_any_height_and_width(name, size):
    net = repro.build(name, **SMALL).eval()
    noisy = torch.rand(2, 3, *size)
    with torch.no_grad():
        assert net(noisy).shape == noisy.shape and net(noisy).isfinite().all()


def test_without_a_naive_denoiser_the_noisy_images_own_gradient_serves():
    noisy = torch.rand(1, 3, 8, 8)
    ours, theirs = repro.build("gradnet", **SMALL).eval(), repro.build("gradnet-impl", **SMALL).eval()
    assert torch.equal(ours(noisy), ours(noisy, sobel_magnitude(noisy)))
    assert torch.equal(theirs(noisy), theirs(noisy, noisy))


def test_the_naive_denoiser_inside_is_frozen_but_saved(tmp_path):
    small = {"naive": "dncnn", "naive_sizes": {"depth": 3, "width": 4}}
    net = repro.build("gradnet", **SMALL, **small)
    assert count_parameters(net) == count_parameters(repro.build("gradnet", **SMALL))
    assert not net.train().naive.training
    noisy = torch.rand(1, 3, 8, 8)
    again = load(save(net, tmp_path / "net.safetensors"))
    assert torch.equal(again.naive(noisy), net.naive(noisy))
    assert torch.equal(again(noisy), again(noisy, sobel_magnitude(net.naive(noisy))))


def test_the_gradient_matters_and_its_shape_is_checked():
    net, noisy = repro.build("gradnet", **SMALL).eval(), torch.rand(1, 3, 8, 8)
    assert not torch.equal(net(noisy), net(noisy, torch.zeros_like(noisy)))
    with pytest.raises(ValueError, match="gradient"):
        net(noisy, torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="takes images"):
        net(torch.zeros(1, 4, 8, 8))


@pytest.mark.parametrize(
    "sizes",
    [
        {"fusion": "middle"}, {"skip": "none"}, {"reduction": 68}, {"mixup": 2, "fusion": "end"}, {"mixup": 22},
        {"naive": "nobody"}, {"width": 0}, {"body": "dncnn", "skip": "none"},
        {"naive": "dncnn", "naive_sizes": {"channels": 1}}, {"naive_sizes": {"channels": 1}},
        {"naive": "ssdn", "naive_sizes": {"noise": "poisson", "parameter": "known", "level": 30}},
    ],
)  # fmt: skip
def test_impossible_sizes(sizes):
    with pytest.raises(ReproError):
        repro.build("gradnet", **sizes)


@pytest.mark.parametrize("name", ["gradnet", "gradnet-impl"])
def test_a_network_that_wants_the_clean_images_gradient_does_nothing_without(name):
    net = repro.build(name, **SMALL, naive="clean").eval()
    noisy, given = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)
    same = repro.build(name, **SMALL).eval()
    same.load_state_dict(net.state_dict())
    assert torch.equal(net(noisy, given), same(noisy, given))
    for attempt in (net, lambda noisy: repro.denoise(noisy, model=net)):
        with pytest.raises(ReproError, match="gradient of the clean image"):
            attempt(noisy)


def test_what_the_oracle_trains_wants_the_clean_images_gradient(tmp_path):
    """And is validated with it: better than with the gradient of the noisy image."""
    config = TrainConfig(
        model="gradnet", sizes=SMALL, data="embedded-train", steps=30, patch=32, batch=2, loss="oracle",
        validation_images=1, validate_every=30, warmup_steps=5, lr=3e-3, ema_decay=None,
    )  # fmt: skip
    rows = []
    net = load(train(config, tmp_path / "run", device="cpu", progress=rows.append))
    ((noisy, clean),) = training_data.split_photographs(config, "sigma", 50)[1]
    with pytest.raises(ReproError, match="gradient of the clean image"):
        repro.denoise(noisy, model=net)
    with torch.no_grad():
        estimate = net(noisy[None], sobel_magnitude(clean[None]))[0].clamp(0, 1)
    assert rows[-1]["psnr_db"] == pytest.approx(psnr_db(clean, estimate), abs=1e-3)


# --- the losses --------------------------------------------------------------------------------------------


class Identity(torch.nn.Module):
    name, needs_sigma, naive, sizes = "gradnet", False, None, GradNetSizes()

    def forward(self, noisy, gradient=None):
        return noisy


def test_sums_and_means_have_the_same_ratio():
    torch.manual_seed(0)
    noisy, clean = torch.rand(2, 3, 6, 7), torch.rand(2, 3, 6, 7)
    terms = (noisy - clean).abs(), sum((a - b).abs() for a, b in zip(sobel(noisy), sobel(clean), strict=True))
    sums, means = (gradnet.consistency_sum, gradnet.consistency)
    torch.testing.assert_close(sums(Identity(), noisy, clean, 0), terms[0].sum() + 0.1 * terms[1].sum())
    torch.testing.assert_close(means(Identity(), noisy, clean, 0), terms[0].mean() + 0.1 * terms[1].mean())
    torch.testing.assert_close(gradnet.fidelity(Identity(), noisy, clean, 0), terms[0].mean())


def test_a_sum_over_several_processes_is_that_of_the_whole_batch(monkeypatch):
    """DDP takes the mean of the processes' gradients."""
    noisy, clean = torch.rand(4, 3, 6, 7), torch.rand(4, 3, 6, 7)
    whole = gradnet.consistency_sum(Identity(), noisy, clean, 0)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    parts = [gradnet.consistency_sum(Identity(), noisy[k : k + 2], clean[k : k + 2], 0) for k in (0, 2)]
    torch.testing.assert_close(sum(parts) / 2, whole)


def test_pixelwise_noise_is_a_mixture():
    torch.manual_seed(0)
    noise = gradnet.add_pixelwise_noise(torch.full((1, 3, 200, 200), 0.5)) - 0.5
    clipped_from = 0.154  # 0.032 to 0.250, uniform: the root of the mean square; clipping takes a little
    assert 0.145 < noise.std() < clipped_from
    assert (noise / noise.std()).pow(4).mean() > 3.1  # heavier tails than a Gaussian


def test_real_noise_is_left_as_it_is():
    """What draws its own noise draws it for the other samples only."""
    torch.manual_seed(0)
    noisy, clean = torch.rand(2, 3, 6, 7), torch.rand(2, 3, 6, 7)
    real = torch.tensor([True, False])
    torch.manual_seed(1)
    made = torch.stack([noisy[0], gradnet.add_pixelwise_noise(clean)[1]])
    torch.manual_seed(1)
    loss = gradnet.pixelwise_l2(Identity(), noisy, clean, 0, real)
    torch.testing.assert_close(loss, (made - clean).square().mean())
    for name in ("consistency", "consistency_sum", "fidelity", "oracle"):
        objective = getattr(gradnet, name)
        assert torch.equal(objective(Identity(), noisy, clean, 0, real), objective(Identity(), noisy, clean, 0))


LOSSES = ["consistency", "consistency_sum", "fidelity", "oracle", "pixelwise", "pixelwise_l2"]


@pytest.mark.parametrize("name", ["gradnet", "gradnet-impl"])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_falls_on_one_batch_and_leaves_the_naive_denoiser_alone(name, loss):
    torch.manual_seed(0)
    net = repro.build(name, **SMALL, naive="dncnn", naive_sizes={"depth": 3, "width": 4}).train()
    frozen = {key: tensor.clone() for key, tensor in net.naive.state_dict().items()}
    clean = F.interpolate(torch.rand(2, 3, 4, 4), size=(16, 16), mode="bilinear")
    noisy, objective, values = clean + 0.1 * torch.randn_like(clean), getattr(gradnet, loss), []
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(25):
        torch.manual_seed(1)  # what a loss draws by itself is the same each time
        value = objective(net, noisy, clean, 0)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        values.append(value.item())
    assert values[-1] < 0.7 * values[0]
    assert all(torch.equal(net.naive.state_dict()[key], tensor) for key, tensor in frozen.items())


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains(tmp_path, loss):
    """From the configuration to the weights: each of them moves, except those of the naive denoiser."""
    sizes = SMALL | {"naive": "dncnn", "naive_sizes": {"depth": 3, "width": 4}}
    config = TrainConfig(
        model="gradnet-impl", sizes=sizes, data="embedded-train", steps=2, patch=16, batch=2, loss=loss,
        validation_images=1, validate_every=2, warmup_steps=1,
    )  # fmt: skip
    torch.manual_seed(config.seed)
    begun = repro.build("gradnet-impl", **sizes)
    net = load(train(config, tmp_path / "run", device="cpu", progress=lambda row: None))
    assert all(not torch.equal(p, net.get_parameter(key)) for key, p in begun.named_parameters())
    assert all(torch.equal(t, net.naive.state_dict()[key]) for key, t in begun.naive.state_dict().items())


def test_training_begins_with_the_published_naive_denoiser(tmp_path):
    torch.manual_seed(1)
    trained_before = repro.build("dncnn", depth=3, width=4)
    path = save(trained_before, tmp_path / "naive.safetensors")
    sizes = SMALL | {"naive": "dncnn", "naive_sizes": {"depth": 3, "width": 4}, "naive_weights": str(path)}
    about = {"data": "embedded-train", "patch": 16, "batch": 2, "validation_images": 1, "loss": "consistency"}
    config = TrainConfig(model="gradnet", sizes=sizes, steps=2, validate_every=2, **about)
    trained = load(train(config, tmp_path / "run", device="cpu", progress=lambda row: None))
    assert all(torch.equal(trained.naive.state_dict()[name], t) for name, t in trained_before.state_dict().items())
    wrong = TrainConfig(model="gradnet", sizes=sizes | {"naive_sizes": {"depth": 4, "width": 4}}, steps=2, **about)
    with pytest.raises(ReproError, match="does not fit"):
        train(wrong, tmp_path / "other", device="cpu", progress=lambda row: None)


class Counted(torch.nn.Module):
    name, needs_sigma, sizes = "counted", True, GradNetSizes()

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, noisy, sigma):
        self.calls.append(sigma)
        return noisy / 3 + sigma


def test_naive_images_are_computed_once(tmp_path):
    denoiser, noisy, sigma = Counted(), torch.rand(3, 3, 5, 4), torch.tensor([0.1, 0.2, 0.3])
    first = naive.recall(denoiser, noisy, sigma, tmp_path)
    torch.testing.assert_close(first, noisy / 3 + sigma[:, None, None, None], atol=5e-4, rtol=0)
    assert torch.equal(naive.recall(denoiser, noisy, sigma, tmp_path), first)
    assert len(denoiser.calls) == 3
    naive.recall(denoiser, noisy, sigma + 0.1, tmp_path)
    naive.recall(denoiser, noisy.flip(0)[:1], sigma.flip(0)[:1], tmp_path)
    assert len(denoiser.calls) == 6


def test_naive_images_of_other_filters_are_others(tmp_path):
    noisy = torch.rand(1, 3, 9, 9)
    for size in (3, 5):
        median = repro.build("median", window=size)
        torch.testing.assert_close(naive.recall(median, noisy, None, tmp_path), median(noisy), atol=5e-4, rtol=0)


def test_naive_images_of_other_versions_are_others(tmp_path, monkeypatch):
    denoiser, noisy, sigma = Counted(), torch.rand(1, 3, 5, 4), torch.tensor([0.1])
    naive.recall(denoiser, noisy, sigma, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(naive, "version", lambda library: "99.0")
        naive.recall(denoiser, noisy, sigma, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(naive, "FORMAT", 99)
        naive.recall(denoiser, noisy, sigma, tmp_path)
    assert len(denoiser.calls) == 3


@pytest.mark.parametrize("left", [0, 60, 150])
def test_a_damaged_naive_image_is_made_again(tmp_path, left):
    denoiser, noisy, sigma = Counted(), torch.rand(1, 3, 5, 4), torch.tensor([0.1])
    first = naive.recall(denoiser, noisy, sigma, tmp_path)
    (kept,) = tmp_path.rglob("*.npy")
    kept.write_bytes(kept.read_bytes()[:left])
    assert torch.equal(naive.recall(denoiser, noisy, sigma, tmp_path), first) and len(denoiser.calls) == 2
    naive.recall(denoiser, noisy, sigma, tmp_path)
    assert len(denoiser.calls) == 2


def test_a_cache_that_cannot_be_written_costs_time_alone(tmp_path):
    place = tmp_path / "full"
    place.write_text("a file where the folder should be")
    denoiser, noisy, sigma = Counted(), torch.rand(1, 3, 5, 4), torch.tensor([0.1])
    for _ in range(2):
        torch.testing.assert_close(naive.recall(denoiser, noisy, sigma, place), noisy / 3 + 0.1, atol=5e-4, rtol=0)
    assert len(denoiser.calls) == 2


def test_no_images_have_no_naive_estimates(tmp_path):
    none = torch.zeros(0, 3, 16, 16)
    assert naive.recall(repro.build("bm3d"), none, 0.1, tmp_path).shape == none.shape


def test_training_with_a_slow_filter_uses_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "cache", lambda: tmp_path / "cache")
    about = {"data": "embedded-train", "patch": 16, "batch": 2, "validation_images": 1, "validate_every": 1}
    filtered, original = [], Median.filter
    monkeypatch.setattr(Median, "filter", lambda *given: filtered.append(given[1].shape) or original(*given))
    sizes = SMALL | {"naive": "median"}
    for loss in ("consistency", "fidelity"):
        config = TrainConfig(model="gradnet", sizes=sizes, steps=2, loss=loss, **about)
        train(config, tmp_path / loss, device="cpu", progress=lambda row: None)
        # Two steps of two patches, and the pair on which the network is validated twice: the same for both.
        assert sorted(filtered) == 4 * [(16, 16, 3)] + [(256, 256, 3)]


def test_a_network_with_bm3d_inside_is_told_the_level():
    net = repro.build("gradnet-impl", **SMALL, naive="bm3d").eval()
    noisy = torch.rand(1, 3, 16, 16)
    assert net.needs_sigma
    bm3d = repro.build("bm3d")
    torch.testing.assert_close(net(noisy, sigma=0.1), net(noisy, bm3d(noisy, sigma=0.1)))
    with pytest.raises(ReproError, match="sigma"):
        repro.denoise(noisy, model=net)


# --- what the gradient is worth --------------------------------------------------------------------------------


def test_gradients_of_every_kind_are_measured():
    torch.manual_seed(0)
    net = repro.build("gradnet", **SMALL)
    clean = torch.rand(3, 12, 10)
    samples = [Sample("a", clean, None), Sample("b", clean.flip(1), None)]
    table = gradients.measure(net, samples, (25,), bm3d=repro.build("dct"))
    assert set(table["gradient"]) == set(gradients.KINDS) and len(table) == 2 * len(gradients.KINDS)
    by_kind = table[table["image"] == "a"].set_index("gradient")["psnr_db"]
    assert by_kind["own"] == by_kind["noisy"]  # there is no naive denoiser inside
    assert len({round(by_kind[kind], 6) for kind in ("own", "zero", "shuffled", "clean", "bm3d")}) == 5
    assert (table["gradient_loss"] > 0).all()
    with pytest.raises(ReproError, match="takes no gradient"):
        gradients.measure(repro.build("gradnet", **SMALL, fusion="none"), samples)


def test_a_network_deaf_to_gradients_is_found_out():
    net = repro.build("gradnet-impl", **SMALL)
    with torch.no_grad():
        for stage in net.body.stages:
            for unit in stage.units:
                unit.conv1.weight[:, -3:] = 0
        net.last.weight[:, -3:] = 0
        for stage in net.body.stages:  # nor may it reach the others through the attention
            stage.attention.squeeze.weight[:, -3:] = 0
            stage.units[0].conv2.weight[-3:] = 0
            stage.units[1].conv2.weight[-3:] = 0
    table = gradients.measure(net, [Sample("a", torch.rand(3, 12, 10), None)], (50,), ("own", "zero", "clean"))
    assert table["psnr_db"].nunique() == 1


@pytest.mark.parametrize(
    ("name", "denoiser"), [("gradnet", "median"), ("gradnet-impl", "median"), ("gradnet-impl", "bm3d")]
)
def test_a_slow_filter_from_the_cache_is_what_the_network_computes_itself(name, denoiser, monkeypatch, tmp_path):
    monkeypatch.setattr(files, "cache", lambda: tmp_path)
    torch.manual_seed(0)
    net, clean = repro.build(name, **SMALL, naive=denoiser).eval(), torch.rand(2, 3, 16, 16)
    noisy = clean + 0.1 * torch.randn_like(clean)
    level = {"sigma": (noisy - clean).std((1, 2, 3))} if net.needs_sigma else {}
    each = [net(noisy[k : k + 1], **{word: values[k].item() for word, values in level.items()}) for k in (0, 1)]
    estimate = gradnet.estimate_in_training(net, noisy, clean)
    torch.testing.assert_close(estimate, torch.cat(each), atol=0.02, rtol=0)


class Shown(torch.nn.Module):
    """Notes what a loss gives it, and gives the noisy image back."""

    needs_sigma, naive, sizes = False, None, GradNetSizes()

    def __init__(self, name):
        super().__init__()
        self.name, self.shown = name, []

    def forward(self, noisy, gradient=None):
        self.shown.append((noisy, gradient))
        return noisy


@pytest.mark.parametrize("loss", ["consistency", "fidelity", "pixelwise"])
def test_a_learned_naive_denoiser_is_told_the_level_of_each_pair(loss, monkeypatch):
    torch.manual_seed(0)
    sizes = {"naive": "ffdnet", "naive_sizes": {"depth": 2, "width": 4}}
    net, told = repro.build("gradnet-impl", **SMALL, **sizes).train(), []
    original = type(net.naive).forward
    monkeypatch.setattr(
        type(net.naive), "forward", lambda self, x, sigma: told.append(sigma.tolist()) or original(self, x, sigma)
    )
    clean = torch.full((2, 3, 40, 40), 0.5)
    noisy = clean + torch.tensor([0.05, 0.2])[:, None, None, None] * torch.randn_like(clean)
    getattr(gradnet, loss)(net, noisy, clean, 0).backward()
    assert net.first.weight.grad.abs().sum() > 0
    drawn = [0.15, 0.15] if loss == "pixelwise" else [0.05, 0.2]
    assert told == [pytest.approx(drawn, rel=0.1)]


def test_the_gradient_term_is_noted_before_lambda():
    noisy, clean = torch.rand(2, 3, 6, 7), torch.rand(2, 3, 6, 7)
    expected = sum((a - b).abs() for a, b in zip(sobel(noisy), sobel(clean), strict=True)).mean()
    for loss in (gradnet.consistency, gradnet.consistency_sum, gradnet.oracle):
        terms = {}
        loss(Identity(), noisy, clean, 0, terms=terms)
        assert list(terms) == list(gradnet.TERMS)
        torch.testing.assert_close(terms["gradient_loss"], expected)


def test_fixed_pixelwise_noise_is_that_of_training_and_always_the_same():
    clean = torch.full((3, 300, 300), 0.5)
    levels = gradnet.SIGMA_255_OF_003
    made = gradnet.fixed_pixelwise_noise(clean, "a", levels)
    assert torch.equal(made, gradnet.fixed_pixelwise_noise(clean, "a", levels))
    for other in (("b", levels), ("a", levels, 1), ("a", (levels[0], 60.0))):
        assert not torch.allclose(made, gradnet.fixed_pixelwise_noise(clean, *other), atol=1e-3)
    torch.manual_seed(0)
    drawn = gradnet.add_pixelwise_noise(clean[None])[0] - 0.5
    noise = gradnet.fixed_pixelwise_noise(clean, "a", levels, clip=True) - 0.5
    for statistic in (lambda x: x.std(), lambda x: x.abs().mean(), lambda x: x.square().square().mean()):
        assert statistic(noise).item() == pytest.approx(statistic(drawn).item(), rel=0.05)
    assert abs(noise.mean()) < 0.005 and noise.abs().max() == 0.5, "clipped"
    assert (made - 0.5).abs().max() > 0.5
    rounded = gradnet.fixed_pixelwise_noise(clean, "a", levels, round_8bit=True)
    assert torch.equal((rounded * 255).round() / 255, rounded) and rounded.min() >= 0 and rounded.max() <= 1
    gaussian = gradnet.fixed_pixelwise_noise(clean, "a", (25, 25)) - 0.5
    assert gaussian.std().item() == pytest.approx(25 / 255, rel=0.01)


@pytest.mark.parametrize("name", ["gradnet", "gradnet-impl"])
def test_the_oracle_is_given_the_clean_image(name):
    net, (noisy, clean) = Shown(name), torch.rand(2, 2, 3, 6, 7)
    gradnet.oracle(net, noisy, clean, 0)
    assert torch.equal(net.shown[0][1], clean if name == "gradnet-impl" else sobel_magnitude(clean))


@pytest.mark.parametrize("name", ["pixelwise", "pixelwise_l2"])
def test_pixelwise_losses_show_noise_of_their_own(name):
    net, (noisy, clean) = Shown("gradnet"), torch.rand(2, 2, 3, 6, 7)
    torch.manual_seed(1)
    made = gradnet.add_pixelwise_noise(clean)
    torch.manual_seed(1)
    getattr(gradnet, name)(net, noisy, clean, 0)
    assert torch.equal(net.shown[0][0], made)


def test_gradients_are_measured_on_the_centre_and_their_loss_is_that_of_the_slides():
    torch.manual_seed(0)
    net, clean = repro.build("gradnet", **SMALL).eval(), torch.rand(3, 258, 260)
    (row,) = gradients.measure(net, [Sample("a", clean, None)], (25,), ("own",)).to_dict("records")
    crop = clean[:, 1:257, 2:258]
    noisy = fixed_gaussian_noise(crop, "a", 25)[None]
    with torch.no_grad():
        estimate = net(noisy)
    assert row["psnr_db"] == pytest.approx(psnr_db(crop, estimate[0].clamp(0, 1)))
    loss = sum((a - b).abs() for a, b in zip(sobel(estimate), sobel(crop[None]), strict=True)).mean().item()
    assert row["gradient_loss"] == pytest.approx(loss) and row["gradient_loss_displayed"] == pytest.approx(loss / 48)


def test_bm3d_is_told_the_true_level_when_gradients_are_exchanged(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "cache", lambda: tmp_path)
    net, told = repro.build("gradnet", **SMALL), []

    class Told(torch.nn.Module):
        name, needs_sigma, sizes = "told", True, GradNetSizes()

        def forward(self, noisy, sigma):
            told.append(sigma)
            return noisy

    gradients.measure(net, [Sample("a", torch.rand(3, 12, 10), None)], (25, 50), ("bm3d",), bm3d=Told())
    assert told == pytest.approx([25 / 255, 50 / 255], abs=1e-5)
