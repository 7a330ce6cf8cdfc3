"""What the chapter on GradNet answers: why the slides fell short, as far as records tell, and what fusion is worth."""

from repro.pages import render_rows
from repro.study.statistics import Interval, compare
from repro.study.verdicts import REPRODUCED, Group, Study, settle

LEVELS = (25.0, 50.0)
# Experiment -> its neighbour, and what the two differ in.
SUSPECTS = {
    "gradnet-naive-residual": ("gradnet-naive", "learns the noise"),
    "gradnet-naive-image-level": ("gradnet-naive", "first weights; no inner biases"),
    "gradnet-naive-clipped": ("gradnet-naive-image-level", "clipped in training"),
    "gradnet-naive-pixel-level": ("gradnet-naive-clipped", "level for every value"),
    "gradnet-noisy": ("gradnet-none", "fusion, of what is there anyway; a larger network"),
    "gradnet-dncnn": ("gradnet-noisy", "the gradient after DnCNN"),
    "gradnet-mskresnet": ("gradnet-noisy", "the gradient after MSKResNet"),
    "gradnet-add": ("gradnet-dncnn", "addition"),
    "gradnet-add-reduction-2": ("gradnet-add", "reduction"),
    "gradnet-add-bias": ("gradnet-add", "biases"),
    "gradnet-add-first-weights": ("gradnet-add", "first weights"),
    "gradnet-impl-normalised": ("gradnet-add", "reduction, biases, first weights"),
    "gradnet-impl-dncnn": ("gradnet-impl-normalised", "no normalisation"),
    "gradnet-impl-mixup-4-units": ("gradnet-impl-dncnn", "copies of the gradient"),
    "gradnet-impl-mixup": ("gradnet-impl-mixup-4-units", "three units"),
    "gradnet-impl-lambda-0": ("gradnet-impl-dncnn", "loss without gradients"),
    "gradnet-impl-clipped": ("gradnet-impl-dncnn", "clipped in training"),
    "gradnet-impl-pixel-level": ("gradnet-impl-clipped", "level for every value"),
    "gradnet-impl-noisy": ("gradnet-impl-dncnn", "the noisy image's gradient"),
    "gradnet-impl-bm3d": ("gradnet-impl-dncnn", "BM3D's gradient"),
}
# With the gradient -> without, otherwise alike; without it the network is a little smaller.
FUSED = {
    "gradnet-dncnn": "gradnet-none",
    "gradnet-mskresnet": "gradnet-none",
    "gradnet-impl-dncnn": "gradnet-impl-none",
}
# With the gradient of DnCNN's estimate -> with that of the noisy image, which says nothing new.
OF_EQUAL_SIZE = {"gradnet-dncnn": "gradnet-noisy", "gradnet-impl-dncnn": "gradnet-impl-noisy"}
# Trained on a level for every value -> on one for a patch, both clipped.
TRAINED_PER_VALUE = {
    "gradnet-naive-pixel-level": "gradnet-naive-clipped",
    "gradnet-impl-pixel-level": "gradnet-impl-clipped",
}
PER_VALUE = "kodak24-levels8.16to63.75-clipped"  # the evaluation that is like the first's training
READERS = ("gradnet-dncnn", "gradnet-impl-dncnn")  # of both forms one, trained with the gradient that it is used with


def describe_findings(study: Study) -> str:
    """The chapter's answer, from the records that there are: how much is explained, and what each change is worth."""
    groups = {group.first["experiment"]: group for group in study.groups}
    told = [_describe_own_network(groups, study), _describe_gap(groups), _describe_worth(groups), _tabulate(groups)]
    told += [_describe_oracle(groups), _describe_largest(groups), _describe_brief(groups, study)]
    told += [_describe_levels(groups)]
    missing = [f"`{name}`" for name, (other, _) in SUSPECTS.items() if not {name, other} <= groups.keys()]
    if missing:
        told.append(f"Not compared with its neighbour yet: {', '.join(missing)}.")
    return "\n\n".join(part for part in told if part)


def _describe_own_network(groups: dict[str, Group], study: Study) -> str:
    """What the slides' own DnCNN gives here, beside what is printed of it."""
    own = groups.get("gradnet-naive-003")
    if own is None:
        return ""
    reached, words = [], set()
    for level in LEVELS:
        claim = study.claims.loc[f"003-results-kodak24-{level:g}-dncnn"]
        words.add(settle(claim, study).word)
        mean = own.per_image(f"kodak24-{level:g}").mean()
        reached.append(f"{mean:.2f} dB at sigma {level:g} (printed: {claim['value']})")
    lead, scatter = "What the slides' weights give.", ""
    if words == {REPRODUCED}:
        lead = "What the slides print of their DnCNN is what its weights give."
        scatter = " The printed values are of one random crop of each, and lie within the scatter of such crops."
    alike = ""
    if has_evaluation(own, PER_VALUE):
        alike = (
            " On noise made as in its training, clipped and with a level for every value, it reaches "
            f"{show_mean(own, PER_VALUE)} dB."
        )
    return f"**{lead}** On whole photographs: {' and '.join(reached)}.{scatter}{alike}"


def _describe_gap(groups: dict[str, Group]) -> str:
    """How far the slides' own DnCNN is below CBM3D, and how much of that clipping the test's noise gives back."""
    own, gaps, gains = groups.get("gradnet-naive-003"), [], []
    for level in LEVELS:
        classical, name = groups.get(f"bm3d-colour-{level:g}"), f"kodak24-{level:g}"
        if own is None or classical is None or not has_evaluation(own, f"{name}-clipped"):
            return ""
        gaps.append(compare(classical.per_seed(name), own.per_seed(name)).mean)
        gains.append(compare(own.per_seed(f"{name}-clipped"), own.per_seed(name)).mean)
    rest = [gap - gain for gap, gain in zip(gaps, gains, strict=True)]
    told = [" and ".join(f"{value:.2f}" for value in values) for values in (gaps, gains, rest)]
    most = "Most of its shortfall" if min(rest) > max(gains) else "A part of its shortfall"
    return (
        f"**{most} is not explained.** The slides' DnCNN lies {told[0]} dB below CBM3D at sigma {_name_levels()}. It "
        f"was trained on clipped noise; where the noise of the test is clipped as well, it gets {told[1]} dB back. "
        f"What is left against CBM3D on noise that is not clipped, {told[2]} dB, has no explanation "
        "here; CBM3D on clipped noise was not measured. The short trainings of smaller networks in the table can rank "
        "what went into that, but do not add up to it."
    )


def _describe_worth(groups: dict[str, Group]) -> str:
    """In how many pairs of networks the one that reads a naive denoiser's gradient is ahead at both levels."""
    pairs = [pair for pair in (*FUSED.items(), *OF_EQUAL_SIZE.items()) if set(pair) <= groups.keys()]
    if not pairs:
        return ""
    ahead = sum(all(gain.sign > 0 for gain in _compare(groups, *pair)) for pair in pairs)
    lead = "Fusion helps" if ahead == len(pairs) else "Fusion does not always help"
    return (
        f"**{lead}.** In {ahead} of {len(pairs)} pairs the network that reads the gradient of a naive denoiser's "
        f"estimate is ahead of its partner at sigma {_name_levels()}. The partner is the same network without a "
        "gradient, which is smaller, or one of the same size that reads the gradient of the noisy image."
        f"{_describe_chance(groups, pairs)}"
    )


def _describe_chance(groups: dict[str, Group], pairs: list[tuple[str, str]]) -> str:
    """How much another start changed of a network, where those of a comparison were mostly trained once."""
    names = {name for pair in pairs for name in pair}
    once = sum(len(groups[name].records) == 1 for name in names)
    if not once or not {"gradnet-naive-image-level", "gradnet-naive"} <= groups.keys():
        return ""
    told = " and ".join(f"{gain.mean:+.2f}" for gain in _compare(groups, "gradnet-naive-image-level", "gradnet-naive"))
    count = "all" if once == len(names) else once
    return (
        f" But {count} of these {len(names)} networks were trained once, and intervals are over images: other first "
        f"weights, and no inner biases, changed a DnCNN by {told} dB."
    )


def _tabulate(groups: dict[str, Group]) -> str:
    """HTML: a line for each change, with what it is worth at both levels."""
    lines = []
    if own := groups.get("gradnet-naive-003"):
        names = [f"kodak24-{level:g}" for level in LEVELS]
        if all(has_evaluation(own, f"{name}-clipped") for name in names):
            gains = [compare(own.per_seed(f"{name}-clipped"), own.per_seed(name)) for name in names]
            lines.append(("test noise clipped, as in training", "the slides' own DnCNN", gains))
    for name, other in FUSED.items():
        if {name, other} <= groups.keys():
            sizes = f"; {_count(groups[name])} parameters against {_count(groups[other])}"
            about = f"{_name_pair(name, other)}{sizes}"
            lines.append(("a gradient instead of none", about, _compare(groups, name, other)))
    for name, other in OF_EQUAL_SIZE.items():
        if {name, other} <= groups.keys():
            what = "a naive denoiser's gradient instead of the noisy image's"
            lines.append((what, f"{_name_pair(name, other)}; equal in size", _compare(groups, name, other)))
    for kind, what in (("zero", "no gradient instead of DnCNN's"), ("bm3d", "BM3D's gradient instead of DnCNN's")):
        for name in READERS:
            gains = _exchange(groups, (name, kind), (name, "own"))
            if gains:
                lines.append((what, f"<code>{name}</code>, as trained; central crops", gains))
    gains = _exchange(groups, ("gradnet-impl-oracle", "clean"), ("gradnet-impl-dncnn", "own"))
    if gains:
        about = f"{_name_pair('gradnet-impl-oracle', 'gradnet-impl-dncnn')}; central crops"
        lines.append(("the clean image's gradient instead of DnCNN's", about, gains))
    if not lines:
        return ""
    columns = {"change": [what for what, _, _ in lines], "networks": [about for _, about, _ in lines]}
    for number, level in enumerate(LEVELS):
        columns[f"at sigma {level:g}"] = [_wrap(gains[number]) for _, _, gains in lines]
    return render_rows("PSNR in dB on Kodak24: what a change is worth, with 95 % intervals", columns)


def _wrap(gain: Interval | None) -> str:
    """A difference, whose line may break before its interval and not inside."""
    return gain.signed().replace(", ", ",\N{NO-BREAK SPACE}") if gain else ""


def _describe_largest(groups: dict[str, Group]) -> str:
    """The steps from a network to its neighbour that change most."""
    pairs = {name: pair for name, pair in SUSPECTS.items() if {name, pair[0]} <= groups.keys()}
    effects = [
        (_compare(groups, name, other)[1], change, name)
        for name, (other, change) in pairs.items()
        if all(LEVELS[1] in list_levels(groups[side]) for side in (name, other))
    ]
    telling = sorted((e for e in effects if e[0].sign), key=lambda effect: -abs(effect[0].mean))[:4]
    if not telling:
        return ""
    each = "\n".join(f"- {change} (`{name}`): {paired.signed()} dB" for paired, change, name in telling)
    return (
        f"Of {len(effects)} steps from a network to its neighbour, listed {{ref}}`one by one below <suspects>`, these "
        f"change most at sigma {LEVELS[1]:g}:\n\n{each}"
    )


def _describe_brief(groups: dict[str, Group], study: Study) -> str:
    """Our brief training in the slides' form beside what they print of theirs."""
    if not {"gradnet-impl-dncnn", "gradnet-impl-clipped"} <= groups.keys():
        return ""
    printed = study.claims.loc["003-results-kodak24-50-gradnet-dncnn", "number"]
    means = (groups[f"gradnet-impl-{n}"].per_image("kodak24-50").mean() - printed for n in ("dncnn", "clipped"))
    plain, clipped = (f"{abs(mean):.2f} dB {'above' if mean > 0 else 'below'}" for mean in means)
    return (
        f"At sigma 50 `gradnet-impl-dncnn`, narrow and briefly trained, is {plain} what the slides print for their "
        f"whole network, and {clipped} once it is trained on clipped noise, as theirs was."
    )


def _describe_oracle(groups: dict[str, Group]) -> str:
    """What the last line of the table means."""
    if not _exchange(groups, ("gradnet-impl-oracle", "clean"), ("gradnet-impl-dncnn", "own")):
        return ""
    return (
        "Nobody has the clean image's gradient: its line shows what a perfect naive denoiser would bring, in so short "
        "a training at this width."
    )


def _describe_levels(groups: dict[str, Group]) -> str:
    """Whether it matters that a network was trained on a level for every value."""
    gains = []
    for name, other in TRAINED_PER_VALUE.items():
        sides = [groups[side] for side in (name, other) if side in groups and has_evaluation(groups[side], PER_VALUE)]
        if len(sides) == 2:
            gained = compare(*(side.per_seed(PER_VALUE) for side in sides))
            gains.append(f"{gained.signed()} dB (`{name}` against `{other}`)")
    if not gains:
        return ""
    return (
        "On clipped noise with a level for every value, a network that was trained on such noise differs from one that "
        f"was trained with one level for a patch by {' and '.join(gains)}."
    )


def _name_levels() -> str:
    return " and ".join(f"{level:g}" for level in LEVELS)


def _name_pair(name: str, other: str) -> str:
    return f"<code>{name}</code> against <code>{other}</code>"


def _compare(groups: dict[str, Group], name: str, other: str) -> list[Interval]:
    """The difference of two networks at each level."""
    sides = [groups[side] for side in (name, other)]
    return [compare(*(side.per_seed(f"kodak24-{level:g}") for side in sides)) for level in LEVELS]


def _exchange(groups: dict[str, Group], *sides: tuple[str, str]) -> list[Interval | None]:
    """The difference of two networks with the gradients that they were given, at each level; empty where a network, or
    what it does with such a gradient, is not known."""
    gains: list[Interval | None] = []
    for level in LEVELS:
        values = [groups[name].given_gradients(level, kind) for name, kind in sides if name in groups]
        gains.append(compare(*values) if len(values) == 2 and all(map(len, values)) else None)
    return gains if any(gains) else []


def describe_reason(study: Study) -> str:
    """What each step between the slides' network and the authors' changes in short trainings."""
    groups = {group.first["experiment"]: group for group in study.groups}

    def change(name: str, other: str) -> str:
        sides = [groups[side] for side in (name, other) if side in groups]
        levels = [level for level in LEVELS if len(sides) == 2 and all(level in list_levels(side) for side in sides)]
        if not levels:
            return f"not measured yet (`{name}`)"
        each = []
        for level in levels:
            paired = compare(*(side.per_seed(f"kodak24-{level:g}") for side in sides))
            each.append(f"{paired.signed()} dB at sigma {level:g}")
        return f"{' and '.join(each)} (`{name}`)"

    form = _describe_form(groups)
    return f"""*The noise of the test is not that of the training.* In training the slides' DnCNN
saw clipped noise with a level of its own for every value; it was tested on unclipped noise of one level. Their GradNet
was trained in the same way. What each step changes:

- clipped in training, DnCNN: {change("gradnet-naive-clipped", "gradnet-naive-image-level")};
  GradNet: {change("gradnet-impl-clipped", "gradnet-impl-dncnn")};
- then a level for every value, DnCNN: {change("gradnet-naive-pixel-level", "gradnet-naive-clipped")};
  GradNet: {change("gradnet-impl-pixel-level", "gradnet-impl-clipped")};
- the clean image as target, where DnCNN as published learns the noise:
  {change("gradnet-naive", "gradnet-naive-residual")};
- half of each batch photographs with noise of their own, as in the slides' training (theirs were SIDD's):
  {change("gradnet-real-naive", "gradnet-naive")}.

Other first weights and no inner biases change the same DnCNN by
{change("gradnet-naive-image-level", "gradnet-naive")}: what is smaller than that proves little in a single training.

*The two forms are not two ways to write the same network.* The slides' form differs from the authors' in five things:
addition in place of concatenation (where the attention then stands in another place), normalisation, the squeeze of the
attention, biases and first weights.

- addition: {change("gradnet-add", "gradnet-dncnn")};
- on top of it, each alone, a squeeze to half of the channels: {change("gradnet-add-reduction-2", "gradnet-add")};
  biases: {change("gradnet-add-bias", "gradnet-add")};
  first weights: {change("gradnet-add-first-weights", "gradnet-add")};
- these three together: {change("gradnet-impl-normalised", "gradnet-add")};
- and then no normalisation: {change("gradnet-impl-dncnn", "gradnet-impl-normalised")}.

{form}The authors begin their batch normalisation with small scales, which may need more steps than any network had
here: this ranks brief trainings, and not the forms.

*A gradient may say nothing.* The noisy image's own gradient is mostly that of the noise. Against no gradient at all it
changes the authors' form by {change("gradnet-noisy", "gradnet-none")}, and that of the slides by
{change("gradnet-impl-noisy", "gradnet-impl-none")}, although it makes the network larger. So the table at the head of
this chapter holds fusion against both neighbours: the network without a gradient, which is smaller, and the one that
reads the gradient of its own input, which is as large but may be misled by it."""


def describe_fusion(study: Study) -> str:
    """What the slides' network gains from its gradient, against none and against one that says nothing new."""
    groups = {group.first["experiment"]: group for group in study.groups}
    if not {"gradnet-impl-dncnn", "gradnet-impl-none", "gradnet-impl-noisy"} <= groups.keys():
        return ""
    ours, none, noisy = (groups[f"gradnet-impl-{kind}"] for kind in ("dncnn", "none", "noisy"))
    return (
        f"The gradient of DnCNN's estimate is worth {_gain(ours, none)} at sigma {_name_levels()} against the slides' "
        f"network without a gradient, which is smaller, and {_gain(ours, noisy)} against one of its size that reads "
        "the gradient of its own noisy input: no source prints this."
    )


def _gain(one: Group, other: Group) -> str:
    each = [compare(*(side.per_seed(f"kodak24-{level:g}") for side in (one, other))) for level in LEVELS]
    return f"{' and '.join(gain.signed() for gain in each)} dB"


def _count(group: Group) -> str:
    return f"{group.first['parameters']:,}"


def _describe_form(groups: dict[str, Group]) -> str:
    """Whether the slides' form of GradNet, as a whole, is behind the authors' in short trainings."""
    sides = [groups.get(name) for name in ("gradnet-impl-dncnn", "gradnet-dncnn")]
    if None in sides:
        return ""
    gained = [compare(*(side.per_seed(f"kodak24-{level:g}") for side in sides)) for level in LEVELS]
    each = " and ".join(f"{gain.signed()} dB at sigma {level:g}" for gain, level in zip(gained, LEVELS, strict=True))
    meaning = {
        1: "So nothing here says that the slides fell short by their form. ",
        -1: "So their form may be a part of what the slides fell short by. ",
    }
    signs = {gain.sign for gain in gained}
    concluded = meaning.get(signs.pop(), "") if len(signs) == 1 else ""
    return f"As a whole, the slides' form is {each} against the authors'. {concluded}"


def list_levels(group) -> set[float]:
    """Noise levels at which a group was tested on Kodak24."""
    return {about["sigma_255"] for about in group.first["evaluations"] if about["dataset"] == "kodak24"}


def has_evaluation(group: Group, evaluation: str) -> bool:
    return evaluation in {about["name"] for about in group.first["evaluations"]}


def show_mean(group: Group, evaluation: str) -> str:
    if not has_evaluation(group, evaluation):
        return "-"
    return f"{group.per_image(evaluation).mean():.2f}"
