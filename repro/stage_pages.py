"""What the chapter on ScaoedNet shows: its verdicts, its stages as curves, and their pictures side by side."""

import copy
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

import repro
from repro import plots, timing
from repro.benchmark_step import KINDS, OTHER
from repro.data import catalog
from repro.data.realistic import fixed_realistic_noise
from repro.errors import ReproError
from repro.metrics import psnr_db
from repro.models.scaoednet import Estimate, ScaoedNet
from repro.pages import describe_difference, render_rows, show_verdict
from repro.study import claims as ledger
from repro.study.records import Record
from repro.study.scaoednet import of_last_stage
from repro.study.statistics import compare
from repro.study.verdicts import DIRECTION, NOT_TESTABLE, Group, Study

NOT_YET = "No ScaoedNet is trained yet; `repro campaign --only 'scaoednet-*'` runs the experiments that are listed."
BATCH, PATCH = 16, 64
CROP = 128  # side of the pictures, in pixels


STATED = {
    "stages 3 over stages 1": "3 stages are better than 1",
    "stages 5 over stages 3": "5 stages are better than 3",
    "stages 5 over stages 1": "5 stages are better than 1",
    "image improves with every stage, ever less": "The image improves from stage to stage, ever less",
    "noise map improves with every stage": "The noise map improves from stage to stage",
    "blocks 8 over blocks 4": "8 blocks are better than 4",
    "blocks 16 over blocks 8": "16 blocks are better than 8",
    "blocks 16 over blocks 4": "16 blocks are better than 4",
    "fsm over sca": "FSM is better than SCA in its place",
    "fsm, dem over no fsm, no dem": "FSM and DEM together help",
    "fsm, dem over fsm, no dem": "DEM helps beside FSM",
    "no fsm, dem over no fsm, no dem": "DEM helps without FSM",
    "fsm, dem over no fsm, dem": "FSM helps beside DEM",
    "fsm, no dem over no fsm, no dem": "FSM helps without DEM",
    "noise map of nfae over no nfae": "NFAE brings the noise map nearer to the true one",
    "psnr of the ensemble over the single network": "The self-ensemble has a higher PSNR than the network alone",
    "ssim of the ensemble over the single network": "The self-ensemble has a higher SSIM than the network alone",
    "psnr over DeamNet": "ScaoedNet has a higher PSNR than DeamNet",
    "ssim over DeamNet": "ScaoedNet has a higher SSIM than DeamNet",
    "stages 2 over stages 1": "2 stages are better than 1",
    "stages 3 over stages 2": "3 stages are better than 2",
    "stages 4 over stages 3": "4 stages are better than 3",
    "stages 5 over stages 4": "5 stages are better than 4",
    "a sixth stage adds nothing": "A sixth stage adds nothing",
    "blocks 12 over blocks 8": "12 blocks are better than 8",
    "blocks 16 over blocks 12": "16 blocks are better than 12",
    "blocks 20 over blocks 16": "20 blocks are better than 16",
    "more than 16 blocks add little": "More than 16 blocks add little",
    "best to the eye": "Its results look best",
}
"""What the slides state or their tables imply, by the variant of a claim, in the order of the chapter."""


def describe_statements(settled: pd.DataFrame) -> str:
    """What the slides state or their tables imply: for each statement the difference that decides, and the verdict."""
    rows = ledger.find(settled, source="004", metric=["ordering", "direction"])
    order = {variant: place for place, variant in enumerate(STATED)}
    rows = rows.assign(place=rows["variant"].map(order)).sort_values("place", kind="stable")
    if rows["place"].isna().any():
        raise KeyError(f"no sentence for {rows.loc[rows['place'].isna(), 'variant'].iloc[0]}")
    tested = rows[rows["word"] != NOT_TESTABLE]
    columns: dict[str, list[str]] = {name: [] for name in ("the slides", "where", "difference here", "verdict")}
    for _, alike in tested.groupby(["place", "word", "difference"], sort=False, dropna=False):
        claim = alike.iloc[0]
        measured = f'<div class="why">{escape(claim["reason"])}</div>'
        cells = (
            STATED[claim["variant"]],
            "; ".join(_name_place(each) for _, each in alike.iterrows()),
            measured if pd.isna(claim["difference"]) else describe_difference(claim),
            f'<a href="ledger.html#{claim["id"]}">{show_verdict(claim["word"])}</a>',
        )
        for column, cell in zip(columns.values(), cells, strict=True):
            column.append(cell)
    caption = (
        "What the slides state or their tables imply, and the difference between networks trained here, with its 95 % "
        "interval; each verdict leads to its reason"
    )
    told = [
        render_rows(caption, columns),
        *_describe_ensembles(tested),
        _describe_untested(rows[rows["word"] == NOT_TESTABLE]),
    ]
    return "\n\n".join(part for part in told if part)


def _name_place(claim: pd.Series) -> str:
    return escape(", ".join(part for part in (claim["dataset"], claim["table"]) if part))


def _describe_ensembles(tested: pd.DataFrame) -> list[str]:
    """What the statements on the ensemble have in common: they are measured on one network and the same photographs."""
    rows = tested[tested["variant"].str.contains("ensemble") & (tested["word"] == DIRECTION)]
    told = []
    for evidence, alike in rows.groupby("evidence"):
        if evidence and len(alike) > 1:
            (name,) = {run.rsplit("-seed", 1)[0] for run in evidence.split()}
            told.append(
                f"The {len(alike)} statements on the ensemble whose direction holds rest on one network, `{name}`, and "
                "on the same photographs: they are one measurement."
            )
    return told


def _describe_untested(rows: pd.DataFrame) -> str:
    """The statements without a measurement, by the reason why there is none."""
    if rows.empty:
        return ""
    items = []
    for reason, alike in rows.groupby("reason", sort=False):
        statements = ". ".join(dict.fromkeys(STATED[variant] for variant in alike["variant"]))
        items.append(f"- *{escape(statements, quote=False)}.* {escape(reason)}")
    return "What could not be tested:\n\n" + "\n".join(items)


def describe_costs(settled: pd.DataFrame) -> str:
    """Printed parameters and operations beside ours."""
    rows = ledger.find(settled, source="004", method="ScaoedNet", metric=["parameters", "flops"])
    names = {"parameters": "Parameters", "flops": "Operations"}
    items = [
        f"- {names[claim['metric']]}{', ' + claim['variant'] if claim['variant'] else ''}: the slides print "
        f"{'about ' if claim['approx'] else ''}{claim['value']} {claim['unit']}. {show_verdict(claim['word'])}: "
        f"{escape(claim['reason'])}"
        for _, claim in rows.iterrows()
    ]
    kept = [measure_kept_gib(repro.build("scaoednet", checkpointing=on)) for on in (False, True)]
    one = measure_kept_gib(repro.build("scaoednet", stages=1))
    stages = repro.build("scaoednet").sizes.stages
    items.append(
        f"- Memory of a training step, here: at {BATCH} patches of {PATCH}x{PATCH} and {stages} stages {kept[0]:.1f} "
        f"GiB of float32 are kept for the backward pass; `checkpointing=True` keeps {kept[1]:.2f}, and {one:.1f} GiB "
        "more while one stage is computed again."
    )
    return "\n".join(items)


def describe_step() -> str:
    """What a training step of the published network costs on the machines measured, and where its time goes."""
    measured = timing.load("step-scaoednet")
    if not measured:
        return "Its time is not measured yet; `repro bench step scaoednet` does it."
    return "\n\n".join(_show_step(about, table) for about, table in measured)


def _show_step(about: dict, table: pd.DataFrame) -> str:
    kinds = [*KINDS, OTHER]
    head = "".join(f"<th>{name}</th>" for name in ("setting", "seconds", "to the floor", "memory, GiB", *kinds))
    body = ""
    for row in table.to_dict("records"):
        cells = [row["setting"], f"{row['seconds']:.2f}", f"{row['floor_ratio']:.1f}x"]
        cells += [f"{row['peak_memory_mib'] / 1024:.1f}", *(f"{row[f'share_{kind}']:.0%}" for kind in kinds)]
        body += f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    rows = table.set_index("setting")
    before, after = rows.loc["contiguous"], rows.loc["in place"]
    stages = about.get("sizes", {}).get("stages", repro.build("scaoednet").sizes.stages)
    caption = (
        f"One training step at {about['batch']} patches of {about['patch']}x{about['patch']}, {stages} stages, on "
        f"{about['device'].removeprefix('cpu ')}; the floor is the time of the multiply-accumulates alone"
    )
    told = (
        f"The last four columns are shares of the step's time. With pictures laid out pixel by pixel (channels last) "
        f"and activations in place a step takes {after['seconds']:.1f} s instead of {before['seconds']:.1f} s. The "
        f"many means and maxima of the attention branches take {before['share_reductions']:.0%} before and "
        f"{after['share_reductions']:.0%} after. Recomputation costs "
        f"{rows.loc['checkpointing', 'seconds'] / after['seconds'] - 1:.0%} more time and needs "
        f"{rows.loc['checkpointing', 'peak_memory_mib'] / after['peak_memory_mib']:.0%} of the memory; bf16 takes "
        f"{rows.loc['bf16', 'seconds'] / after['seconds']:.2f} times as long."
    )
    return (
        f'<div class="study-table"><table class="study"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>\n\n{told}"
    )


def measure_kept_gib(net: ScaoedNet) -> float:
    """What autograd keeps of a forward pass over 16 patches of 64x64, each storage counted once, in GiB.

    Nothing is computed: tensors have shapes and no values.
    """
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage  # held, so that no other storage takes its place
        return tensor

    shapes = copy.deepcopy(net).to("meta")
    patches = torch.empty(BATCH, net.sizes.channels, PATCH, PATCH, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        shapes(patches)
    weights = {parameter.untyped_storage()._cdata for parameter in shapes.parameters()}
    return sum(storage.nbytes() for key, storage in kept.items() if key not in weights) / 2**30


def describe_stages(study: Study, folder: Path) -> str:
    """The stages of the network that has most of them: mean curves over a test set, and one photograph."""
    record = find_record(study)
    if record is None:
        return NOT_YET
    table = record.stages
    plots.save(draw_curves(table), folder / "scaoednet_curves.png")
    means = table.groupby("stage")[["psnr_db", "noise_map_l1_255"]].mean()
    about = (
        f"{record.name}, {table['image'].nunique()} images of {table['dataset'].iloc[0]}, signal-dependent noise of "
        f"random strength. From the first stage to the last the image goes from {means['psnr_db'].iloc[0]:.2f} to "
        f"{means['psnr_db'].iloc[-1]:.2f} dB, the error of the noise map from {means['noise_map_l1_255'].iloc[0]:.2f} "
        f"to {means['noise_map_l1_255'].iloc[-1]:.2f} gray levels."
    )
    shown = f"```{{image}} _generated/scaoednet_curves.png\n:alt: {about}\n```\n\n{about}"
    try:
        net = repro.load(record.name)
    except ReproError:
        return shown  # a record without its weights has curves and no pictures
    figure = draw_photograph(net)
    plots.save(figure, folder / "scaoednet_stages.png")
    alt = (
        "Above, a noisy photograph and the image after each stage, with its PSNR; below, the true noise map and that "
        "of each stage, in gray levels. Only the last image enters the loss, so earlier ones may have odd colours."
    )
    return f"{shown}\n\n```{{image}} _generated/scaoednet_stages.png\n:alt: {alt}\n```\n\n{alt}"


# Experiment -> the neighbour from which it differs in one thing.
NEIGHBOURS = {
    "scaoednet-stages-3": "scaoednet-stages-1",
    "scaoednet-stages-5": "scaoednet-stages-3",
    "scaoednet-blocks-8": "scaoednet-stages-1",
    "scaoednet-blocks-16": "scaoednet-blocks-8",
    "scaoednet-no-nfae": "scaoednet-stages-1",
    **{
        f"scaoednet-{name}": "scaoednet-stages-3"
        for name in ("no-dem", "no-fsm", "sca", "separate-fusion", "image-only", "real")
    },
    "scaoednet-no-fsm-no-dem": "scaoednet-no-dem",
}
REAL = ("cc15", "nam25")


def describe_parts(study: Study) -> str:
    """What every part is worth: each experiment's last stage, and its difference to the neighbour, image by image."""
    groups = {group.first["experiment"]: group for group in study.groups if group.first["method"] == "scaoednet"}
    body, waiting = "", []
    for experiment in study.experiments:
        if experiment.method != "scaoednet" or experiment.budget != "cpu":
            continue
        group = groups.get(experiment.name)
        if group is None:
            waiting.append(f"`{experiment.name}`")
            continue
        neighbour = groups.get(NEIGHBOURS.get(experiment.name, ""))
        beside = f"; compared with {neighbour.first['variant']}" if neighbour else ""
        cells = [f"{experiment.variant}{beside}"]
        for column, digits in (("psnr_db", 2), ("noise_map_l1_255", 2)):
            own, other = (_find_last_stage(side, column) for side in (group, neighbour))
            cells.append("not measured" if own is None else f"{own.to_numpy().mean():.{digits}f}")
            cells.append(_show_difference(own, other, digits))
        for dataset in REAL:
            scored = dataset in {about["name"] for about in group.first["evaluations"]}
            cells.append(f"{group.per_image(dataset).mean():.2f}" if scored else "")
        body += f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
    if not body:
        return NOT_YET
    against = "difference"
    titles = ("network", "image, dB", against, "map, gray levels", against, *REAL)
    head = "".join(f"<th>{title}</th>" for title in titles)
    told = f"\n\nStill to be run: {', '.join(waiting)}." if waiting else ""
    return (
        '<div class="study-table"><table class="study"><caption>The last stage on kodak24 with signal-dependent noise, '
        f"and PSNR in dB on photographs with real noise ({', '.join(REAL)}). A smaller error of the map is better. A "
        "network and the one that it is compared with differ in one thing; intervals are of 95 %</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{told}"
    )


def describe_real(study: Study) -> str:
    """What pairs of real photographs in training are worth on those of other sets, and both against doing nothing."""
    found = {group.first["experiment"]: group for group in study.groups}
    with_pairs, without = (found.get(f"scaoednet-{name}") for name in ("real", "stages-3"))
    if with_pairs is None or without is None:
        return "Not compared yet: it needs `scaoednet-real` and `scaoednet-stages-3`."
    names = [about["name"] for about in with_pairs.first["evaluations"]]
    lines = []
    for about in without.first["evaluations"]:
        if about["sigma_255"] is None and about["name"] in names:
            own, other = (group.per_seed(about["name"]) for group in (with_pairs, without))
            reached = own.to_numpy().mean()
            lines.append(
                f"- {about['dataset']}: {compare(own, other).signed()} dB, to {reached:.2f} dB; the photographs as "
                f"they are have {about['psnr_noisy_db']:.2f} dB."
            )
    return "What pairs in training change on photographs of other sets, with 95 % intervals:\n\n" + "\n".join(lines)


def _find_last_stage(group: Group | None, column: str) -> pd.DataFrame | None:
    return None if group is None or group.first.stages is None else of_last_stage(group, column)


def _show_difference(own: pd.DataFrame | None, other: pd.DataFrame | None, digits: int) -> str:
    if own is None or other is None:
        return ""
    paired = compare(own, other)
    return f"{paired.mean:+.{digits}f} [{paired.low:+.{digits}f}, {paired.high:+.{digits}f}]"


def find_record(study: Study) -> Record | None:
    """The published run, measured stage by stage, of most stages; of equals the larger budget."""
    groups = [group for group in study.groups if group.first["method"] == "scaoednet"]
    found = [group.first for group in groups if group.first.stages is not None]
    return max(found, key=lambda record: record.stages["stage"].max(), default=None)


@plots._styled
def draw_curves(table: pd.DataFrame) -> Figure:
    """PSNR of the image and error of the noise map over the stages; thin lines are single images."""
    figure = Figure(figsize=(plots.WIDTH_IN, 2.8), layout="constrained")
    sides = figure.subplots(1, 2)
    labels = {"psnr_db": "PSNR of the image, dB", "noise_map_l1_255": "error of the noise map, gray levels"}
    for axes, (column, label), colour in zip(sides, labels.items(), plots.CYCLE, strict=False):
        wide = table.pivot(index="stage", columns="image", values=column)
        axes.plot(wide.index, wide, color=plots.FAINT, linewidth=0.6)
        axes.plot(wide.index, wide.mean(axis=1), color=colour, linewidth=2, marker="o", markersize=4)
        axes.set_xticks(wide.index)
        axes.set_xlabel("stage")
        axes.set_ylabel(label)
    return figure


@plots._styled
@torch.no_grad()
def draw_photograph(net, photograph: str = "astronaut") -> Figure:
    """Above the noisy crop and each stage's image, below the true noise map and each stage's."""
    sample = catalog.sample("embedded-test", photograph)
    noisy, truth = fixed_realistic_noise(sample.clean, sample.name)
    top, left = 64, 160  # the face
    window = (..., slice(top, top + CROP), slice(left, left + CROP))
    estimates = [Estimate(noisy, truth)]
    estimates += [Estimate(image[0], noise_map[0]) for image, noise_map in net(noisy[None], every_stage=True)]
    figure = Figure(figsize=(plots.WIDTH_IN, 2.9), layout="constrained")
    cells = figure.subplots(2, len(estimates), squeeze=False)
    low, high = 255 * float(truth[window].min()), 255 * float(truth[window].max())
    for column, estimate in enumerate(estimates):
        reached = psnr_db(sample.clean[window], estimate.image[window].clamp(0, 1))
        title = f"{f'stage {column}' if column else 'noisy'}\n{reached:.1f} dB"
        cells[0, column].imshow(np.moveaxis(estimate.image[window].clamp(0, 1).numpy(), 0, 2))
        cells[0, column].set_title(title, fontsize=8)
        noise_map_255 = 255 * estimate.noise_map[window][0].numpy()
        shown = cells[1, column].imshow(noise_map_255, cmap="viridis", vmin=low, vmax=high)
    figure.colorbar(shown, ax=list(cells[1]), label="noise, gray levels", fraction=0.03, pad=0.01)
    for axes in cells.flat:
        axes.set_axis_off()
    return figure
