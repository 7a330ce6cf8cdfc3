"""SSDN: parameter counts, the blind spot, every closed form against brute force, the baselines' objectives."""

import os
from ast import literal_eval
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import repro
from repro.data.catalog import Sample
from repro.data.noise import add_impulse_noise, add_poisson_noise
from repro.errors import ReproError
from repro.evaluate import evaluate
from repro.models import ssdn
from repro.models.base import count_parameters
from repro.models.ensemble import SelfEnsemble
from repro.models.ssdn import Prior, SSDNSizes, UNetSizes, negative_log_likelihood, posterior_mean
from repro.study.costs import measure_cost
from repro.train import train
from repro.train_config import TrainConfig, learning_rate
from repro.weights import from_upstream

SHARED = Path(os.environ.get("REPRO_SHARED") or Path(__file__).parents[2] / "shared")
NAMES = SHARED / "vectors" / "upstream_names" / "ssdn_port_blindspot_9out.txt"
SMALL = {"width": 4}
KINDS = [
    {"parameter": parameter, "covariance": covariance, "channels": channels}
    for parameter in ("known", "constant", "variable")
    for covariance in ("full", "diagonal", "none")
    for channels in (3, 1)
]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def random_net(name="ssdn", **sizes):
    """A small network with biases that are not zero, in float64 and evaluation mode."""
    net = repro.build(name, **(SMALL | sizes)).double().eval()
    for parameter in net.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return net


# --- networks


@pytest.mark.parametrize(
    ("name", "sizes", "parameters"),
    [
        ("ssdn", {}, 1_269_129),
        ("ssdn", {"covariance": "diagonal"}, 1_268_838),
        ("ssdn", {"covariance": "none"}, 1_268_547),
        ("ssdn", {"channels": 1}, 1_265_858),
        ("ssdn", {"parameter": "constant"}, 1_269_129 + 1),
        ("ssdn", {"parameter": "variable"}, 1_269_129 + 1_102_177),
        ("unet", {}, 1_102_371),
        ("unet", {"outputs": 1}, 1_102_177),
        ("unet", {"channels": 1}, 1_099_585),
    ],
)
def test_parameter_counts(name, sizes, parameters):
    assert count_parameters(repro.build(name, **sizes)) == parameters


def test_multiply_accumulates():
    blind, baseline = (measure_cost(repro.build(name), 256, 256).macs / 1e9 for name in ("ssdn", "unet"))
    assert (round(blind, 2), round(baseline, 2)) == (81.89, 18.67)


@pytest.mark.parametrize(("height", "width"), [(7, 12), (33, 3), (1, 1), (1, 9), (8, 8)])
def test_no_pixel_sees_itself(height, width):
    """One image per pixel, in which it alone is changed beyond all measure."""
    net = random_net(width=2)
    image = torch.rand(1, 3, height, width).double()
    places = torch.arange(height * width)
    changed = image.repeat(len(places), 1, 1, 1)
    changed.flatten(2)[places, :, places] += 100
    with torch.no_grad():  # in one batch: sums over another one may be taken in another order
        base, statistics = net._look_around(torch.cat([image, changed])).split([1, len(places)])
    own = statistics.flatten(2)[places, :, places]
    assert torch.equal(own, base.flatten(2)[0].T)
    if height * width > 1:
        assert not torch.equal(statistics[0], base[0]), "but others do see it"


@pytest.mark.parametrize(("height", "width"), [(5, 9), (34, 2)])
def test_the_gradient_at_the_own_pixel_is_exactly_zero(height, width):
    net = random_net(covariance="none", channels=1)
    image = torch.rand(1, 1, height, width).double().requires_grad_()
    clean = net(image)
    rows = torch.autograd.grad(
        clean.flatten(), image, torch.eye(clean.numel()).double().view(-1, *clean.shape[1:])[:, None].flatten(1),
        is_grads_batched=True,
    )[0]  # fmt: skip
    jacobian = rows.reshape(clean.numel(), -1)
    assert torch.equal(jacobian.diagonal(), torch.zeros(clean.numel()).double())
    others = jacobian[~torch.eye(clean.numel()).bool()]
    assert (others != 0).double().mean() > 0.99, "and every other pixel is seen"


def test_the_baseline_sees_its_own_pixel():
    net = random_net("unet")
    image = torch.rand(1, 3, 8, 8).double().requires_grad_()
    net(image)[0, :, 3, 4].sum().backward()
    assert (image.grad[0, :, 3, 4] != 0).all()


def naive_network(arrays, image, blind):
    """The port's network from its parameter names, in its own order of work: rotations stacked into one square
    batch, explicit pads and crops."""

    def rotate(x, degrees):
        if degrees == 90:
            return x.flip(3).transpose(2, 3)
        if degrees == 180:
            return x.flip(3).flip(2)
        return x.flip(2).transpose(2, 3) if degrees == 270 else x

    def down(x):
        zeros = torch.zeros_like(x[:, :, :1])
        return torch.cat([zeros, x], 2)

    def conv(x, name):
        if blind:
            return F.leaky_relu(F.conv2d(down(x), arrays[f"{name}.weight"], arrays[f"{name}.bias"], padding=1), 0.1)[
                :, :, :-1
            ]
        return F.leaky_relu(F.conv2d(x, arrays[f"{name}.weight"], arrays[f"{name}.bias"], padding=1), 0.1)

    def pool(x):
        return F.max_pool2d(down(x)[:, :, :-1] if blind else x, 2)

    def point(x, name):
        return F.conv2d(x, arrays[f"{name}.weight"], arrays[f"{name}.bias"])

    x = torch.cat([rotate(image, degrees) for degrees in (0, 90, 180, 270)]) if blind else image
    skips = [x, pool(conv(conv(x, "encode_block_1.0"), "encode_block_1.2"))]
    for level in (2, 3, 4, 5):
        skips.append(pool(conv(skips[-1], f"encode_block_{level}.0")))
    x = conv(skips[5], "encode_block_6.0")
    for level in (5, 4, 3, 2, 1):
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = conv(torch.cat([x, skips[level - 1]], 1), f"decode_block_{level}.0")
        x = conv(x, f"decode_block_{level}.2")
    if blind:
        quarters = down(x)[:, :, :-1].chunk(4)
        x = torch.cat([rotate(q, degrees) for q, degrees in zip(quarters, (0, 270, 180, 90), strict=True)], 1)
    x = F.leaky_relu(point(x, "output_block.0"), 0.1)
    x = F.leaky_relu(point(x, "output_block.2"), 0.1)
    return point(x, "output_conv")


@pytest.mark.parametrize(("name", "sizes"), [("ssdn", {}), ("ssdn", {"channels": 1}), ("unet", {})])
def test_upstream_names_lead_to_the_ports_arithmetic(name, sizes):
    net = random_net(name, **sizes)
    arrays = {net.upstream_name(ours): value for ours, value in net.state_dict().items()}
    arrays |= {alias: arrays[theirs] for alias, theirs in net.upstream_aliases().items()}
    again = from_upstream(name, arrays).double()
    assert again.sizes == net.sizes
    image = torch.rand(2, net.sizes.channels, 64, 64).double()
    with torch.no_grad():
        expected = naive_network(arrays, image, blind=name == "ssdn")
        # from_upstream builds float32: compare through the network that was never rounded
        actual = net._look_around(image) if name == "ssdn" else net(image)
        rounded = again._look_around(image) if name == "ssdn" else again(image)
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(rounded, expected, atol=1e-5, rtol=1e-5)


@pytest.fixture
def port():
    if not NAMES.exists():
        pytest.skip(f"{NAMES} is not here (set REPRO_SHARED to the folder with vectors/)")
    rows = [line.split("\t") for line in NAMES.read_text().splitlines() if not line.startswith("#")]
    arrays = {name: 0.05 * torch.randn(literal_eval(shape)) for name, shape in rows if shape.startswith("(")}
    aliases = {name: arrow.split()[1] for name, arrow in rows if arrow.startswith("<-")}
    return arrays | {alias: arrays[name] for alias, name in aliases.items()}


def test_the_ports_names_and_shapes_are_those_of_the_colour_network(port):
    net = from_upstream("ssdn", port)
    assert net.sizes == SSDNSizes()
    noisy = torch.rand(1, 3, 32, 32)
    statistics = naive_network(port, noisy, blind=True)
    torch.testing.assert_close(net._look_around(noisy), statistics, atol=2e-5, rtol=2e-5)

    # Mean, then the upper triangular root of the covariance row by row; one posterior, pixel by pixel.
    mean, a = (part.double().permute(0, 2, 3, 1) for part in statistics.split([3, 6], 1))
    root = torch.zeros(*a.shape[:3], 3, 3).double()
    root[..., [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]] = a
    eye = torch.eye(3).double()
    prior, noise = torch.linalg.inv(root @ root.mT + 1e-6 * eye), eye / (0.1**2 + 1e-6)
    y = noisy.double().permute(0, 2, 3, 1)
    seen = prior @ mean[..., None] + noise @ y[..., None]
    expected = torch.linalg.solve(prior + noise + 1e-6 * eye, seen)[..., 0].permute(0, 3, 1, 2)
    with torch.no_grad():
        torch.testing.assert_close(net(noisy, sigma=0.1).double(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["output_conv.weight", "encode_block_3.0.bias"])
def test_a_missing_or_changed_upstream_array_is_named(port, name):
    second = {theirs: alias for alias, theirs in repro.build("ssdn").upstream_aliases().items()}
    lacking = {key: value for key, value in port.items() if key not in (name, second.get(name))}
    with pytest.raises(ReproError, match=name):
        from_upstream("ssdn", lacking)
    if name in second:
        with pytest.raises(ReproError, match="one and the same"):
            from_upstream("ssdn", port | {second[name]: port[name] + 1})
    with pytest.raises(ReproError, match=r"surplus\.weight"):
        from_upstream("ssdn", port | {"surplus.weight": torch.zeros(1)})


@pytest.mark.parametrize("sizes", KINDS, ids=lambda kind: "-".join(map(str, kind.values())))
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 40)])
def test_every_configuration_denoises_any_size(sizes, height, width):
    net = repro.build("ssdn", **SMALL, **sizes).eval()
    noisy = torch.randn(2, sizes["channels"], height, width)
    level = {"sigma": 0.1} if net.needs_sigma else {}
    with torch.no_grad():
        clean = net(noisy, **level)
    assert (clean.shape, clean.dtype) == (noisy.shape, torch.float32)
    assert clean.isfinite().all()


def test_views_are_turned_back():
    """Turning the image by 90 degrees turns the result, if the tail treats all four views alike."""
    net = random_net(covariance="none")
    with torch.no_grad():
        weight = net.tail.nin_a.weight
        weight.copy_(weight[:, : 2 * SMALL["width"]].repeat(1, 4, 1, 1))
        image = torch.rand(1, 3, 32, 64).double()
        torch.testing.assert_close(net(image.rot90(1, (2, 3))), net(image).rot90(1, (2, 3)))


def test_one_level_per_image():
    net = random_net()
    noisy = torch.rand(2, 3, 6, 5).double()
    together = net(noisy, sigma=torch.tensor([0.1, 0.3]))
    each = [net(noisy[k : k + 1], sigma=sigma) for k, sigma in enumerate((0.1, 0.3))]
    torch.testing.assert_close(together, torch.cat(each))


@pytest.mark.parametrize(("gain", "initialisation"), [(2**0.5, "authors"), ((2 / 1.01) ** 0.5, "port")])
def test_initialisation(gain, initialisation):
    net = repro.build("ssdn", initialisation=initialisation)
    for layer, expected in ((net.trunk.dec_a[1], gain), (net.tail.nin_a, gain), (net.tail.nin_c, 1.0)):
        deviation = expected / layer.weight[0].numel() ** 0.5
        assert abs(layer.weight.std() / deviation - 1) < 4 / (2 * layer.weight.numel()) ** 0.5
        assert not layer.bias.any()


def test_the_estimator_starts_from_a_level_near_five_or_from_where_it_is_told():
    noisy = torch.rand(3, 3, 32, 32)
    for parameter in ("constant", "variable"):
        strength = repro.build("ssdn", parameter=parameter, **SMALL)(noisy, prior=True).strength.detach()
        assert strength.flatten() * 255 == pytest.approx(4.88, abs=0.005)
        sizes = {"parameter": parameter, "first_strength": 0.2, "estimate_gain": 4.0}
        above = repro.build("ssdn", **sizes, **SMALL)(noisy, prior=True).strength.detach()
        assert above.flatten() == pytest.approx(0.2)
    with pytest.raises(ReproError, match="first_strength"):
        repro.build("ssdn", parameter="variable", first_strength=0.0)
    free = repro.build("ssdn", parameter="variable", zero_estimator=False, **SMALL)(noisy, prior=True).strength
    assert free.unique().numel() == 3


# --- posterior means and losses against brute force


def colour_prior(mean, root, strength=None):
    """A prior of one pixel: mean and the six entries of the root, as the network would give them."""
    statistics = torch.tensor([*mean, *root]).double().reshape(1, -1, 1, 1)
    return Prior(statistics, None if strength is None else torch.tensor(strength).double().reshape(1, 1, 1))


MEAN, ROOT, Y = (0.4, 0.55, 0.3), (0.12, 0.03, -0.05, 0.1, 0.04, 0.09), (0.5, 0.45, 0.42)
COVARIANCE = torch.tensor([
    [0.12**2 + 0.03**2 + 0.05**2, 0.03 * 0.1 - 0.05 * 0.04, -0.05 * 0.09],
    [0.03 * 0.1 - 0.05 * 0.04, 0.1**2 + 0.04**2, 0.04 * 0.09],
    [-0.05 * 0.09, 0.04 * 0.09, 0.09**2],
]).double()  # fmt: skip


def grid(steps=81, deviations=6.0):
    """Clean colours around the prior's mean [n, 3], and the prior's density there, up to a factor."""
    spread = COVARIANCE.diagonal().sqrt()
    axes = [
        torch.linspace(m - deviations * s, m + deviations * s, steps).double()
        for m, s in zip(MEAN, spread.tolist(), strict=True)
    ]
    x = torch.cartesian_prod(*axes)
    d = x - torch.tensor(MEAN).double()
    return x, (-(d @ torch.linalg.inv(COVARIANCE) * d).sum(1) / 2).exp()


def pixel(values):
    return torch.tensor(values).double().reshape(1, -1, 1, 1)


@pytest.mark.parametrize("noise", ["gaussian", "poisson"])
def test_colour_posterior_is_the_integral_over_clean_colours(noise):
    strength = 0.1 if noise == "gaussian" else 1 / 30
    x, weight = grid()
    y, mean = torch.tensor(Y).double(), torch.tensor(MEAN).double()
    deviation = 0.1 if noise == "gaussian" else (mean / 30).sqrt()
    weight = weight * (-(((y - x) / deviation) ** 2).sum(1) / 2).exp()
    expected = (x * weight[:, None]).sum(0) / weight.sum()
    actual = posterior_mean(pixel(Y), colour_prior(MEAN, ROOT, strength), SSDNSizes(noise=noise))
    torch.testing.assert_close(actual.flatten(), expected, atol=2e-5, rtol=0)


def test_diagonal_posterior_is_three_gray_ones():
    root = (0.12, 0.1, 0.09)
    colour = posterior_mean(pixel(Y), colour_prior(MEAN, root, 0.1), SSDNSizes(covariance="diagonal"))
    gray = [
        posterior_mean(pixel([y]), colour_prior([m], [r], 0.1), SSDNSizes(channels=1))
        for y, m, r in zip(Y, MEAN, root, strict=True)
    ]
    torch.testing.assert_close(colour, torch.cat(gray, 1), atol=2e-5, rtol=0)


def test_gray_posterior_is_the_integral_over_clean_values():
    x = torch.linspace(-1, 2, 20_001).double()
    weight = (-(((x - 0.4) / 0.12) ** 2) / 2 - ((0.55 - x) / 0.1) ** 2 / 2).exp()
    expected = (x * weight).sum() / weight.sum()
    actual = posterior_mean(pixel([0.55]), colour_prior([0.4], [0.12], 0.1), SSDNSizes(channels=1))
    torch.testing.assert_close(actual.squeeze(), expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize(("alpha", "y"), [(0.5, Y), (0.9, Y), (0.5, (0.9, 0.1, 0.9)), (0.02, Y)])
def test_impulse_posterior_is_the_integral_over_clean_colours(alpha, y):
    """Replaced: every colour is equally likely to be seen, so the integral is over the whole prior. Kept: the
    integral is over colours within a narrow kernel around the one seen."""
    x, weight = grid()
    near, volume = torch.cartesian_prod(*3 * [torch.linspace(-0.004, 0.004, 25).double()]), (0.008 / 24) ** 3
    cell = (COVARIANCE.diagonal().sqrt() * 12 / 80).prod()  # volume of a cell of the wide grid
    kernel = (-(near**2).sum(1) / (2 * 0.001**2)).exp() / (2 * torch.pi * 0.001**2) ** 1.5
    close = torch.tensor(y).double() - near
    d = close - torch.tensor(MEAN).double()
    kept = (1 - alpha) * (-(d @ torch.linalg.inv(COVARIANCE) * d).sum(1) / 2).exp() * kernel * volume
    replaced = alpha * weight * cell
    expected = ((x * replaced[:, None]).sum(0) + (close * kept[:, None]).sum(0)) / (replaced.sum() + kept.sum())
    actual = posterior_mean(pixel(y), colour_prior(MEAN, ROOT, alpha), SSDNSizes(noise="impulse"))
    torch.testing.assert_close(actual.flatten(), expected, atol=1e-4, rtol=0)


def test_impulse_moments_are_those_of_simulated_pixels():
    draws, alpha = 400_000, 0.3
    clean = torch.distributions.MultivariateNormal(torch.tensor(MEAN).double(), COVARIANCE).sample((draws,))
    replaced = torch.rand(draws, 1) < alpha
    noisy = torch.where(replaced, torch.rand(draws, 3).double(), clean)
    mean, covariance = ssdn.split_statistics(colour_prior(MEAN, ROOT).statistics, SSDNSizes())
    mean, mixed = ssdn.impulse_moments(mean, covariance, torch.full((1, 1, 1), alpha).double())
    torch.testing.assert_close(mean.flatten(), noisy.mean(0), atol=2e-3, rtol=0)
    expected = noisy.T.cov()
    entries = expected[[0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]
    torch.testing.assert_close(torch.stack(mixed).flatten(), entries, atol=1e-3, rtol=0)


@pytest.mark.parametrize("noise", ["gaussian", "poisson"])
def test_colour_loss_is_the_likelihood_of_the_noisy_colour(noise):
    """Differences between two colours, integrated over clean ones: the loss is known up to a constant."""
    strength = 0.1 if noise == "gaussian" else 1 / 30
    deviation = 0.1 if noise == "gaussian" else (torch.tensor(MEAN).double() / 30).sqrt()
    x, prior = grid()
    sizes, believed = SSDNSizes(noise=noise), colour_prior(MEAN, ROOT, strength)

    def brute(y):
        likelihood = (-(((torch.tensor(y).double() - x) / deviation) ** 2).sum(1) / 2).exp()
        return -(prior * likelihood).sum().log()

    other = (0.1, 0.7, 0.35)
    actual = negative_log_likelihood(pixel(Y), believed, sizes) - negative_log_likelihood(pixel(other), believed, sizes)
    torch.testing.assert_close(actual, brute(Y) - brute(other), atol=1e-5, rtol=1e-5)


def test_losses_are_the_normal_densities_they_stand_for():
    y, mean = torch.tensor(Y).double(), torch.tensor(MEAN).double()
    normal = torch.distributions.MultivariateNormal(mean, COVARIANCE + 0.1**2 * torch.eye(3).double())
    constant = 1.5 * torch.log(torch.tensor(2 * torch.pi)).double()
    colour = negative_log_likelihood(pixel(Y), colour_prior(MEAN, ROOT, 0.1), SSDNSizes())
    torch.testing.assert_close(colour, -normal.log_prob(y) - constant)
    # Gray: twice the negative log-likelihood, as in the authors' code.
    gray = negative_log_likelihood(pixel([0.55]), colour_prior([0.4], [0.12], 0.1), SSDNSizes(channels=1))
    normal = torch.distributions.Normal(0.4, (0.12**2 + 0.1**2) ** 0.5)
    torch.testing.assert_close(gray.float(), -2 * normal.log_prob(torch.tensor(0.55)) - constant.float() * 2 / 3)


def test_impulse_loss_is_the_normal_density_of_the_simulated_moments():
    alpha, y = 0.3, torch.tensor(Y).double()
    uniform = torch.eye(3).double() / 12 + 0.25
    mean = torch.tensor(MEAN).double()
    second = alpha * uniform + (1 - alpha) * (COVARIANCE + 1e-6 * torch.eye(3).double() + mean.outer(mean))
    mixed = alpha / 2 + (1 - alpha) * mean
    normal = torch.distributions.MultivariateNormal(mixed, second - mixed.outer(mixed))
    constant = 1.5 * torch.log(torch.tensor(2 * torch.pi)).double()
    actual = negative_log_likelihood(pixel(Y), colour_prior(MEAN, ROOT, alpha), SSDNSizes(noise="impulse"))
    torch.testing.assert_close(actual, 2 * (-normal.log_prob(y) - constant))


@pytest.mark.parametrize("sizes", [{}, {"channels": 1}, {"noise": "poisson"}, {"noise": "impulse"}])
def test_an_unknown_level_is_drawn_upwards_by_a_tenth_of_it_except_for_impulses(sizes):
    known, unknown = SSDNSizes(**sizes), SSDNSizes(parameter="constant", **sizes)
    prior = colour_prior(MEAN[: known.channels], ROOT[: known.outputs - known.channels], 0.04)
    y = pixel(Y[: known.channels])
    difference = negative_log_likelihood(y, prior, known) - negative_log_likelihood(y, prior, unknown)
    poisson = torch.tensor(MEAN).double().mul(0.04).sqrt().mean().item()
    expected = {"poisson": 0.1 * poisson, "impulse": 0}.get(known.noise, 0.1 * 0.04)
    assert difference.item() == pytest.approx(expected)


def test_levels_below_a_thousandth_count_as_one():
    sizes, noisy = SSDNSizes(), pixel(Y)
    low, least = (posterior_mean(noisy, colour_prior(MEAN, ROOT, sigma), sizes) for sigma in (0.0, 0.001))
    torch.testing.assert_close(low, least, atol=1e-9, rtol=0)
    assert not torch.allclose(low, noisy, atol=1e-6)


def test_poisson_gradients_flow_through_the_predicted_mean():
    prior = colour_prior(MEAN, ROOT, 1 / 30)
    statistics = prior.statistics.requires_grad_()
    deviation = ssdn.noise_deviation(statistics[:, :3], prior.strength, "poisson")
    deviation.sum().backward()
    assert (statistics.grad[:, :3] > 0).all()


def test_a_certain_prior_in_float64_is_not_lost():
    """Entries near 1e-9 make a determinant of 1e-54: the sums with epsilon keep it invertible."""
    prior = colour_prior(MEAN, [1e-9] * 6, 0.1)
    assert posterior_mean(pixel(Y), prior, SSDNSizes()).flatten() == pytest.approx(torch.tensor(MEAN), abs=1e-4)
    assert negative_log_likelihood(pixel(Y), prior, SSDNSizes()).isfinite()


# --- objectives


def test_the_blindspot_objective_never_looks_at_the_clean_image():
    net = repro.build("ssdn", level=25, **SMALL)
    noisy, clean = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    first, second = (ssdn.blindspot(net, noisy, target, 0) for target in (clean, 1 - clean))
    assert torch.equal(first, second)
    expected = negative_log_likelihood(noisy, net(noisy, 25 / 255, prior=True), net.sizes)
    assert torch.equal(first, expected)


@pytest.mark.parametrize("noise", ["gaussian", "poisson", "impulse"])
@pytest.mark.parametrize("parameter", ["known", "constant", "variable"])
def test_every_configuration_learns(noise, parameter):
    level = {"gaussian": (5, 50), "poisson": (5, 50), "impulse": (0, 1)}[noise]
    net = repro.build("ssdn", noise=noise, parameter=parameter, level=level, **SMALL)
    clean = torch.rand(2, 3, 32, 32)
    ssdn.blindspot(net, clean, clean, 0).backward()
    gradients = {name: parameter.grad for name, parameter in net.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    learned = [name for name, gradient in gradients.items() if gradient.any()]
    # Behind the estimator's zero weights nothing moves in the first step, but its last layer does.
    waiting = {name for name in gradients if name.startswith("estimator") and "nin_c" not in name}
    assert set(gradients) - set(learned) <= waiting
    assert parameter == "known" or any(name.startswith("estimat") for name in learned)


def test_the_mean_alone_is_fitted_to_the_noisy_image():
    net = repro.build("ssdn", covariance="none", **SMALL)
    noisy = torch.rand(1, 3, 32, 32)
    assert torch.equal(ssdn.blindspot(net, noisy, torch.zeros(1, 3, 32, 32), 0), F.mse_loss(net(noisy), noisy))


def test_noise2clean_and_noise2noise_targets():
    net = repro.build("unet", level=50, **SMALL)
    noisy, clean = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    assert torch.equal(ssdn.n2c(net, noisy, clean, 0), F.mse_loss(net(noisy), clean))
    torch.manual_seed(7)
    loss = ssdn.n2n(net, noisy, clean, 0)
    torch.manual_seed(7)
    target = clean + torch.randn(clean.shape) * 50 / 255
    torch.testing.assert_close(loss, F.mse_loss(net(noisy), target))


def test_the_exponent_of_impulse_noise_falls_from_two_to_a_half():
    net = repro.build("unet", noise="impulse", level=0.0, anneal_steps=1000, **SMALL)
    clean = torch.rand(1, 3, 32, 32)
    difference = (net(clean) - clean).abs() + 1e-8
    for step, power in ((0, 2), (500, 1), (750, 0.5), (1000, 0.5)):
        torch.testing.assert_close(ssdn.n2n(net, clean, clean, step), difference.pow(power).mean())


@pytest.mark.parametrize(("height", "width"), [(64, 64), (19, 9), (2, 2)])
def test_noise2void_hides_one_pixel_of_each_box_behind_a_neighbour(height, width):
    noisy = torch.arange(2.0 * height * width).reshape(2, 1, height, width).repeat(1, 3, 1, 1)
    hidden, masked = ssdn.hide_pixels(noisy)
    changed = (hidden != noisy).any(1)
    assert changed.sum() == masked.numel() == 2 * -(-height // 8) * -(-width // 8)
    for image, row, column in changed.nonzero():
        source = int(hidden[image, 0, row, column]) - int(image) * height * width
        distance = max(abs(source // width - row), abs(source % width - column))
        assert 1 <= distance <= 2
        assert (hidden[image, :, row, column] == hidden[image, 0, row, column]).all()
    assert torch.equal(changed.flatten(1).nonzero()[:, 1].view(2, -1), masked.sort(1)[0])


def test_noise2void_draws_its_neighbours_evenly():
    noisy = torch.arange(25.0).reshape(1, 1, 5, 5).repeat(20_000, 1, 1, 1)
    hidden, masked = ssdn.hide_pixels(noisy)
    centre = hidden[masked[:, 0] == 12][:, 0, 2, 2]
    counts = torch.bincount(centre.long(), minlength=25)
    assert counts[12] == 0
    expected = len(centre) / 24
    assert ((counts[counts > 0] - expected).abs() < 5 * expected**0.5).all() and (counts > 0).sum() == 24


def test_noise2void_learns_its_own_noisy_values_and_the_port_a_second_draw():
    clean = torch.full((2, 3, 64, 64), 0.5)
    noisy = clean + 0.25
    shown = []

    class Black(torch.nn.Module):
        sizes = UNetSizes(level=25)

        def forward(self, image):
            shown.append(image)
            return torch.zeros_like(image)

    assert ssdn.n2v(Black(), noisy, clean, 0).item() == pytest.approx(0.75**2)
    # Independent noise of variance (25 / 255)^2 around the clean value, on 2 x 3 x 64 numbers.
    port = ssdn.n2v_port(Black(), noisy, clean, 0).item()
    assert port == pytest.approx(0.5**2 + (25 / 255) ** 2, abs=0.025)


def test_the_ports_window_begins_at_the_corner():
    noisy = torch.arange(4096.0).reshape(1, 1, 64, 64).repeat(3, 1, 1, 1)
    hidden, masked = ssdn.hide_pixels(noisy, as_port=True)
    assert (masked == masked[0]).all(), "the same places for the whole batch"
    source = hidden.flatten(2).gather(2, masked[:, None])[:, 0].long()
    rows, columns = masked // 64, masked % 64
    other_rows, other_columns = source // 64, source % 64
    assert (other_rows <= rows + 1).all() and (other_columns <= columns + 1).all()
    assert (other_rows != rows).all() and (other_columns != columns).all()
    assert (rows - other_rows).max() > 2, "far beyond 5 x 5"


# --- what cannot be done is said


@pytest.mark.parametrize(
    ("sizes", "level", "says"),
    [
        ({}, {}, "give sigma"),
        ({"level": (5, 50)}, {}, "give sigma"),
        ({}, {"sigma": -0.1}, "0 or more"),
        ({}, {"sigma": float("nan")}, "0 or more"),
        ({}, {"alpha": 0.5}, "gaussian noise, which has sigma, not alpha"),
        ({"noise": "poisson"}, {"sigma": 0.1}, "poisson noise, which has events"),
        ({"noise": "poisson"}, {"events": 0}, "more than 0"),
        ({"noise": "impulse"}, {"alpha": 1.5}, "from 0 to 1"),
        ({"parameter": "constant"}, {"sigma": 0.1}, "estimates the noise itself"),
        ({"covariance": "none"}, {"sigma": 0.1}, "uses no noise model"),
        ({}, {"sigma": torch.tensor([0.1, 0.2])}, "2 values of sigma for 1 images"),
    ],
)
def test_a_missing_or_foreign_level_is_a_sentence(sizes, level, says):
    with pytest.raises(ReproError, match=says):
        repro.build("ssdn", **SMALL, **sizes)(torch.rand(1, 3, 8, 8), **level)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"noise": "salt"}, "gaussian"), ({"covariance": "half"}, "diagonal"), ({"parameter": "guess"}, "variable"),
        ({"channels": 2}, "1 .gray. or 3"), ({"noise": "impulse", "channels": 1}, "colour"),
        ({"noise": "impulse", "level": 2}, "no strength"), ({"initialisation": "zero"}, "port"),
        ({"level": [50, 5]}, "no strength"), ({"parameter": "constant", "first_strength": 1000}, "at most 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_a_sentence(sizes, says):
    with pytest.raises(ReproError, match=says):
        repro.build("ssdn", **sizes)


def test_objectives_say_what_they_need():
    noisy = torch.rand(1, 3, 32, 32)
    for name, sizes, says in (
        ("unet", {}, "level"), ("unet", {"noise": "poisson"}, "level"),
        ("unet", {"noise": "impulse", "level": 0.5}, "anneal_steps"),
    ):  # fmt: skip
        with pytest.raises(ReproError, match=says):
            ssdn.n2n(repro.build(name, **SMALL, **sizes), noisy, noisy, 0)
    with pytest.raises(ReproError, match="level=25"):
        ssdn.blindspot(repro.build("ssdn", **SMALL), noisy, noisy, 0)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"sizes": {"level": 25}, "loss": "blindspot"}, "level 25, and would be trained on 50"),
        ({"sizes": {"level": 25}, "loss": "blindspot", "sigma_255": (5, 25)}, "trained on 5 to 25"),
        ({"sizes": {"level": 25}, "loss": "n2n", "sigma_255": 25, "clip": True, "model": "unet"}, "never clipped"),
        ({"sizes": {"level": 25}, "loss": "n2n", "sigma_255": 25, "round_8bit": True, "model": "unet"}, "never"),
        ({"sizes": {"noise": "poisson", "level": 30}, "loss": "blindspot", "clip": True}, "never clipped"),
        ({"sizes": {"noise": "poisson", "level": 30}, "loss": "l2", "model": "unet"}, "drawn by blindspot, n2c, n2n"),
        ({"sizes": {"level": (5, 50)}, "loss": "l2", "model": "unet", "sigma_255": 25}, "level 5 to 50, and would be"),
        (
            {"sizes": {"noise": "impulse", "level": 0.5, "anneal_steps": 7}, "loss": "n2n", "model": "unet"},
            "anneal_steps = 7 is the length of training, which is",
        ),
    ],
)
def test_training_on_other_noise_than_the_network_is_told_of_is_refused(tmp_path, settings, says):
    settings = {"model": "ssdn", "data": "embedded-train", "steps": 1} | settings
    config = TrainConfig(**(settings | {"sizes": SMALL | settings["sizes"]}))
    with pytest.raises(ReproError, match=says):
        train(config, tmp_path / "run")


def test_impulse_noise_that_replaces_nothing_leaves_every_pixel():
    net = repro.build("ssdn", noise="impulse", **SMALL)
    noisy = torch.rand(1, 3, 16, 16)
    certain = Prior(torch.full((1, 9, 16, 16), 1e-4, dtype=torch.float64), torch.zeros(1, 1, 1))
    assert torch.equal(posterior_mean(noisy, certain, net.sizes).float(), noisy)


def test_a_known_level_is_kept_with_the_network_for_the_training_loop():
    net = random_net(level=25)
    noisy = torch.rand(1, 3, 8, 8).double()
    assert torch.equal(net(noisy), net(noisy, sigma=25 / 255))
    assert net.needs_sigma, "whoever evaluates it must still say the level"


def test_photographs_through_the_front_door():
    photograph = torch.rand(3, 20, 30)
    net = repro.build("ssdn", **SMALL)
    assert repro.denoise(photograph, net, sigma=0.1).shape == photograph.shape
    with pytest.raises(ReproError, match="sigma"):
        repro.denoise(photograph, net)
    assert repro.denoise(photograph, repro.build("ssdn", parameter="constant", **SMALL)).shape == photograph.shape


@pytest.mark.parametrize(("noise", "level"), [("poisson", {"events": 30}), ("impulse", {"alpha": 0.5})])
@pytest.mark.parametrize("parameter", ["known", "variable"])
def test_networks_for_other_noise_are_evaluated_in_it_and_in_no_other(noise, level, parameter):
    net = repro.build("ssdn", noise=noise, parameter=parameter, **SMALL)
    samples = [Sample("one", torch.rand(3, 20, 1))]
    assert evaluate(net, samples, **level)["psnr_db"].notna().all()
    assert repro.denoise(samples[0].clean, net, **level).isfinite().all()
    with pytest.raises(ReproError, match=f"trained for {noise} noise"):
        evaluate(net, samples, 25)
    with pytest.raises(ReproError, match="trained for gaussian noise"):
        evaluate(repro.build("unet", **SMALL), samples, **level)


# --- training


def test_the_learning_rate_of_the_authors_code():
    config = TrainConfig(steps=40_000, lr=3e-4, schedule="ramps", warmup_steps=0)
    printed = {
        0: 0,
        1000: 4.393e-5,
        2000: 1.5e-4,
        4000: 3e-4,
        28000: 3e-4,
        31000: 2.1857e-4,
        34000: 7.5e-5,
        37000: 6.434e-6,
    }
    for step, rate in printed.items():
        assert learning_rate(config, step) == pytest.approx(rate, rel=1e-3, abs=1e-12)


def test_poisson_noise_counts_and_is_not_clipped():
    clean = torch.rand(2, 1, 1, 1).expand(2, 1, 400, 400)
    noisy = add_poisson_noise(clean, torch.tensor([5.0, 50.0]).reshape(2, 1, 1, 1))
    assert torch.equal((noisy[0] * 5).round() / 5, noisy[0])
    for k, events in enumerate((5, 50)):
        value = clean[k, 0, 0, 0]
        assert noisy[k].mean() == pytest.approx(value.item(), abs=0.01)
        assert noisy[k].var() == pytest.approx((value / events).item(), rel=0.03)
    assert add_poisson_noise(torch.ones(1, 1, 50, 50), 5).max() > 1
    with pytest.raises(ValueError, match="more than 0"):
        add_poisson_noise(clean, 0)


def test_impulse_noise_replaces_whole_pixels():
    clean = torch.full((2, 3, 300, 300), 0.5)
    noisy = add_impulse_noise(clean, torch.tensor([0.2, 1.0]).reshape(2, 1, 1, 1))
    changed = noisy != clean
    assert (changed.all(1) == changed.any(1)).all()
    assert changed[0].float().mean() == pytest.approx(0.2, abs=0.01)
    assert changed[1].all()
    assert noisy[1].var() == pytest.approx(1 / 12, rel=0.02)
    correlation = noisy[1].flatten(1).corrcoef()
    assert (correlation - torch.eye(3)).abs().max() < 0.02
    with pytest.raises(ValueError, match="between 0 and 1"):
        add_impulse_noise(clean, 1.5)


def test_tiles_of_an_image_share_its_estimated_level(monkeypatch):
    torch.manual_seed(0)
    net = repro.build("ssdn", parameter="variable", zero_estimator=False, first_strength=0.2, **SMALL).eval()
    net.estimator.tail.nin_c.weight.data *= 10  # so that the level depends on the picture
    # Noise on the right alone: a tile on the left would take its noise for less than the whole image's.
    image = torch.cat([torch.full((3, 64, 448), 0.5), torch.rand(3, 64, 448)], 2)
    whole, tiled = (repro.denoise(image, net, tile=tile) for tile in (0, 64))
    assert (tiled - whole).abs().max() <= 1 / 255
    monkeypatch.setattr(ssdn.SSDN, "look_over", lambda self, tiles: {})
    assert (repro.denoise(image, net, tile=64) - whole).abs().max() > 1 / 255


@pytest.mark.parametrize(
    ("noise", "level", "measure"),
    [
        ("gaussian", (5, 50), lambda added: added.std((1, 2, 3))),
        ("poisson", (5, 50), lambda added: 0.5 / added.var((1, 2, 3))),
        ("impulse", (0.1, 0.9), lambda added: (added != 0).float().mean((1, 2, 3))),
    ],
)
def test_a_range_of_levels_is_drawn_per_image_and_told(noise, level, measure):
    clean = torch.full((8, 3, 128, 128), 0.5)
    noisy, told = ssdn.draw_noise(clean, clean, UNetSizes(noise=noise, level=level))
    (told,) = told.values()
    torch.testing.assert_close(measure(noisy - clean), told, rtol=0.05, atol=0)
    assert told.unique().numel() == 8
    low, high = (end / 255 if noise == "gaussian" else end for end in level)  # sigma is told in units of [0, 1]
    assert low <= told.min() and told.max() <= high


@pytest.mark.parametrize("name", ["n2c", "n2v"])
def test_an_objective_shows_the_noise_of_the_sizes(name):
    shown = []

    class Seen(torch.nn.Module):
        sizes = UNetSizes(noise="impulse", level=1.0)

        def forward(self, image):
            shown.append(image)
            return image

    clean = torch.full((2, 3, 32, 32), 0.5)
    getattr(ssdn, name)(Seen(), clean, clean, 0)
    assert (shown[0] != clean).float().mean() > 0.99


def test_a_self_ensemble_looks_over_tiles_as_its_network_does():
    net = repro.build("ssdn", width=4, parameter="variable", zero_estimator=False, first_strength=0.2).eval()
    tiles = [(torch.rand(1, 3, 32, 32), (..., slice(None), slice(None)))]
    assert torch.equal(SelfEnsemble(net).look_over(tiles)["strength"], net.look_over(tiles)["strength"])
