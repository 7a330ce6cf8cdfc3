"""The pictures of the study. Each function takes data, returns a matplotlib figure, and reads no file.

Figures have an opaque light ground, so that they read the same in the book's light and dark theme; colours
are those of Okabe and Ito, told apart by colour-blind readers too, and never the only sign: markers, dashes
or words go with them.
"""

import base64
import functools
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib
import matplotlib.ticker
import numpy as np
import pandas as pd
from IPython.display import HTML, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from repro.offsets import place_points

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
CYCLE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
GROUND, INK, FAINT = "#FBFBF8", "#22262B", "#8A9099"
DASHES = ("-", "--", "-.", ":")

VERDICT_MARKS = {
    "reproduced": (BLUE, "●"),
    "direction reproduced": (SKY, "◐"),
    "not reproduced": (VERMILION, "✕"),
    "not testable here": (FAINT, "–"),
}

STYLE = {
    "figure.facecolor": GROUND,
    "axes.facecolor": GROUND,
    "savefig.facecolor": GROUND,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.prop_cycle": matplotlib.cycler(color=CYCLE),
}
WIDTH_IN = 7.2  # of a figure as wide as the book's text
NARROW_IN = 4.4  # of a figure that a phone shows at about its own size, and a wide page beside another


def _styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Text takes its size and colour when it is made, so the whole drawing happens within the style."""

    @functools.wraps(draw)
    def within(*args, **kwargs):
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return within


def show(figure: Figure, alt: str, limit_kib: int = 300) -> None:
    """Display ``figure`` in a notebook as a PNG of at most ``limit_kib``, with ``alt`` for those who do not
    see it."""
    if not alt.strip():
        raise ValueError("a picture in the book needs a description")
    data = base64.b64encode(encode_png(figure, limit_kib)).decode()
    display({"image/png": data, "text/plain": alt}, metadata={"image/png": {"alt": alt}}, raw=True)


def encode_png(figure: Figure, limit_kib: int = 300) -> bytes:
    """PNG bytes of ``figure``: at 160 dots per inch where that fits, else in 256 colours, else at fewer
    dots."""
    for dpi in (160, 128, 96, 72, 54):
        buffer = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            figure.savefig(buffer, format="png", dpi=dpi)
        if len(buffer.getvalue()) > limit_kib * 1024:
            image = Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")
            buffer = io.BytesIO()
            image.quantize(256, dither=Image.Dither.NONE).save(buffer, "png", optimize=True)
        if len(buffer.getvalue()) <= limit_kib * 1024:
            return buffer.getvalue()
    raise ValueError(f"the figure does not fit into {limit_kib} KiB even at {dpi} dots per inch")


def save(figure: Figure, path: str | Path, limit_kib: int = 300) -> None:
    """Write ``figure`` to ``path`` as :func:`encode_png` would show it."""
    from repro.files import write_atomically

    with write_atomically(path) as temporary:
        temporary.write_bytes(encode_png(figure, limit_kib))


@_styled
def draw_learning_curves(
    curves: Mapping[str, pd.DataFrame],
    against: str = "hours",
) -> Figure:
    """Validation PSNR against the budget spent.

    ``curves``: ``{label: table}`` with columns ``step``, ``seconds`` and ``psnr_db``; rows without a PSNR are
    skipped. ``against``: "minutes", "hours" or "step".
    """
    figure, axes = _canvas(3.6)
    divide = {"minutes": 60, "hours": 3600}.get(against)
    for number, (label, table) in enumerate(curves.items()):
        table = table.dropna(subset=["psnr_db"])
        spent = table["step"] if divide is None else table["seconds"] / divide
        axes.plot(
            spent, table["psnr_db"], color=CYCLE[number % len(CYCLE)], linestyle=DASHES[number // 6 % 4],
            marker="o" if len(table) < 40 else None, markersize=3.5, linewidth=1.8, label=label,
        )  # fmt: skip
    axes.set_xlabel({"step": "steps", "minutes": "minutes of training", "hours": "hours of training"}[against])
    axes.set_ylabel("PSNR, dB")
    axes.grid(color="#E3E5E0", linewidth=0.8)
    axes.set_axisbelow(True)
    if curves:
        axes.legend(loc="lower right")
    return figure


@_styled
def draw_curves_twice(curves: Mapping[str, Sequence[pd.DataFrame]]) -> Figure:
    """Validation PSNR of every training against steps on the left and against wall-clock minutes on the right.

    ``curves``: ``{label: tables}``, a table for each training of a method, with columns ``step``, ``seconds`` and
    ``psnr_db``; rows without a PSNR are skipped.
    """
    figure = Figure(figsize=(WIDTH_IN, 3.9), layout="constrained")
    grid = figure.subplots(1, 2, sharey=True)
    for number, (label, tables) in enumerate(curves.items()):
        for training, table in enumerate(tables):
            table = table.dropna(subset=["psnr_db"])
            for axes, spent in zip(grid, (table["step"], table["seconds"] / 60), strict=True):
                axes.plot(
                    spent, table["psnr_db"], color=CYCLE[number % len(CYCLE)], linestyle=DASHES[number // 6 % 4],
                    marker="osD^vP"[number % 6], markersize=3, linewidth=1.3, label=None if training else label,
                )  # fmt: skip
    for axes, words in zip(grid, ("steps", "minutes of training"), strict=True):
        axes.set_xlabel(words)
        axes.grid(color="#E3E5E0", linewidth=0.8)
        axes.set_axisbelow(True)
    grid[0].set_ylabel("PSNR, dB")
    if curves:
        figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper left", ncols=4)
    return figure


@_styled
def draw_spread(values: Mapping[str, pd.Series]) -> Figure:
    """One mark per image, a row per method, and the mean of each: how far images differ, and methods on them.

    ``values``: ``{label: PSNR in dB by image name}``.
    """
    import seaborn  # takes a second, and few figures need it

    table = pd.concat({label: column.rename("psnr_db") for label, column in values.items()}, names=["method"])
    table = table.reset_index(level="method")
    figure, axes = _canvas(0.36 * len(values) + 0.8)
    shared = {"data": table, "x": "psnr_db", "y": "method", "ax": axes}
    seaborn.swarmplot(**shared, color=BLUE, size=3.5, alpha=0.6)  # without chance, unlike a strip plot
    mean = {"color": VERMILION, "linestyle": "none", "marker": "|", "markersize": 16, "markeredgewidth": 2}
    seaborn.pointplot(**shared, errorbar=None, **mean)
    axes.set(xlabel="PSNR of an image, dB", ylabel="")
    axes.grid(axis="x", color="#E3E5E0", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure


@_styled
def draw_gallery(
    images: Mapping[str, np.ndarray], captions: Mapping[str, str] | None = None, columns: int = 4
) -> Figure:
    """Several versions of one picture in rows, pixels kept as squares.

    ``images``: ``{title: [C, H, W] in [0, 1]}``, all of one size; ``captions``: ``{title: line below}``.
    """
    height, width = next(iter(images.values())).shape[1:]
    rows = math.ceil(len(images) / columns)
    figure = Figure(figsize=(WIDTH_IN, rows * (WIDTH_IN / columns * height / width + 0.45)), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes, (title, image) in zip(grid, images.items(), strict=False):
        axes.imshow(_displayable(image), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(title, fontsize=9.5)
        axes.set_xlabel((captions or {}).get(title, ""), fontsize=8.5)
    for axes in figure.axes:
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set_visible(False)
    return figure


@_styled
def draw_kernels(
    photograph: np.ndarray,
    sampling: Mapping[int, tuple[np.ndarray, np.ndarray]],
    positions: Mapping[str, tuple[int, int]],
    half_width_cells: int = 6,
) -> Figure:
    """The learned kernels at every scale around a few positions, over the photograph, as in the paper's
    Figure 4.

    ``photograph``: [C, H, W] in [0, 1]; ``sampling``: ``{pixels per cell: (offset [2K, h, w], mask [K, h,
    w])}``, coarse to fine; ``positions``: ``{name: (y, x) in pixels}``. Each panel is ``2 *
    half_width_cells`` cells wide, so coarse panels show more of the photograph. A dot is one sampling point,
    the more solid the larger its mask; hollow squares are the plain 3x3 kernel.
    """
    image = _displayable(photograph)
    rows, columns = len(positions), len(sampling)
    figure = Figure(figsize=(WIDTH_IN, WIDTH_IN / columns * rows + 0.25), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for row, (name, (y, x)) in zip(grid, positions.items(), strict=True):
        for axes, (cell_px, (offset, mask)) in zip(row, sampling.items(), strict=True):
            _draw_kernel(axes, image, cell_px, offset, mask, y, x, half_width_cells)
        row[0].set_ylabel(name, fontsize=10)
    for axes, cell_px in zip(grid[0], sampling, strict=True):
        number = int(math.log2(cell_px)) + 1
        cells = "1 px" if cell_px == 1 else f"{cell_px} px"
        axes.set_title(f"scale {number}, cell {cells}", fontsize=9)
    return figure


def _draw_kernel(axes: Axes, image, cell_px, offset, mask, y, x, half_width_cells):
    row = min(y // cell_px, mask.shape[1] - 1)
    column = min(x // cell_px, mask.shape[2] - 1)
    centre = np.array([row + 0.5, column + 0.5]) * cell_px - 0.5  # pixel (i, j) is drawn around (i, j)
    points = place_points(offset[:, row : row + 1, column : column + 1])[:, :, 0, 0] * cell_px + centre
    weight = mask[:, row, column]
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest", alpha=0.85)
    axes.set(xticks=[], yticks=[], facecolor="#D9DCD6")
    for spine in axes.spines.values():
        spine.set_visible(False)
    half = half_width_cells * cell_px
    axes.set_xlim(centre[1] - half, centre[1] + half)
    axes.set_ylim(centre[0] + half, centre[0] - half)
    plain = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing="ij"), -1).reshape(-1, 2) * cell_px + centre
    axes.plot(
        plain[:, 1],
        plain[:, 0],
        "s",
        markersize=5,
        markerfacecolor="none",
        markeredgecolor="white",
        markeredgewidth=2,
    )
    axes.plot(
        plain[:, 1],
        plain[:, 0],
        "s",
        markersize=5,
        markerfacecolor="none",
        markeredgecolor=BLACK,
        markeredgewidth=0.8,
    )
    colours = np.tile(matplotlib.colors.to_rgba(YELLOW), (len(weight), 1))
    edges = np.tile(matplotlib.colors.to_rgba(VERMILION), (len(weight), 1))
    colours[:, 3], edges[:, 3] = 0.15 + 0.6 * weight, 0.25 + 0.75 * weight
    axes.scatter(points[:, 1], points[:, 0], s=16, facecolors=colours, edgecolors=edges, linewidths=0.9, zorder=3)
    inside = (np.abs(points - centre) <= half).all(1).mean()
    if inside < 1:
        axes.text(
            0.02, 0.02, f"{1 - inside:.0%} outside", transform=axes.transAxes, fontsize=7,
            bbox={"facecolor": GROUND, "edgecolor": "none", "pad": 1.5},
        )  # fmt: skip


@_styled
def draw_alignment(summary: pd.DataFrame) -> Figure:
    """Mean and 95 % interval of each statement at each scale, one panel per statement.

    ``summary``: rows of :func:`repro.offsets.summarise`, with columns claim, cell_px, mean, low, high.
    """
    panels = {
        "even where smooth": "anisotropy, smooth\nminus edge",
        "along edges": "alignment at edges,\nminus shuffled",
        "on similar texture": "contrast sampled at\nedges, minus shuffled",
        "farther than plain": "radius beyond the\nplain 3x3, px",
    }
    figure = Figure(figsize=(WIDTH_IN, 2.6), layout="constrained")
    grid = figure.subplots(1, len(panels))
    for axes, (statement, title) in zip(grid, panels.items(), strict=True):
        rows = summary[summary["claim"] == statement].sort_values("cell_px", ascending=False)
        place = np.arange(len(rows))
        error = np.abs(rows[["low", "high"]].to_numpy().T - rows["mean"].to_numpy())
        axes.axhline(0, color=FAINT, linewidth=1)
        axes.errorbar(place, rows["mean"], yerr=error, fmt="o", color=BLUE, capsize=4, markersize=5)
        axes.set_xticks(place, [str(cell) for cell in rows["cell_px"]])
        axes.set_xlim(-0.5, len(rows) - 0.5)
        axes.set_title(title)
        axes.set_xlabel("cell, px")
    return figure


@_styled
def draw_gains(rows: pd.DataFrame, label: str) -> Figure:
    """A printed gain beside the one found here with its 95 % interval, a line for each network.

    ``rows``: columns state, printed, mean, low, high, from top to bottom. ``label`` names the axis.
    """
    figure = Figure(figsize=(NARROW_IN, 0.9 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    place = np.arange(len(rows))
    error = np.abs(rows[["low", "high"]].to_numpy().T - rows["mean"].to_numpy())
    axes.axvline(0, color=FAINT, linewidth=1)
    axes.hlines(place, rows["mean"], rows["printed"], color=FAINT, linewidth=1, linestyle=":")
    axes.plot(rows["printed"], place, "D", color=INK, markerfacecolor=GROUND, markersize=6, label="printed")
    axes.errorbar(rows["mean"], place, xerr=error, fmt="o", color=BLUE, capsize=4, markersize=6, label="here")
    axes.set_yticks(place, rows["state"])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(label)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    return figure


@_styled
def draw_sampling(
    image: np.ndarray, offset: np.ndarray, mask: np.ndarray, position: tuple[int, int], kernel: int = 3
) -> Figure:
    """What a deformable convolution reads for one output position of a small image, with the pixel values
    written in.

    ``image``: [H, W]; ``offset``: [2 * kernel**2] as (dy, dx) pairs; ``mask``: [kernel**2]; padding kernel //
    2.
    """
    height, width = image.shape
    figure = Figure(figsize=(4.6, 4.6 * (height + 2) / (width + 2)), layout="constrained")
    axes = figure.subplots()
    for y in range(-1, height + 1):
        for x in range(-1, width + 1):
            real = 0 <= y < height and 0 <= x < width
            axes.add_patch(
                matplotlib.patches.Rectangle(
                    (x - 0.5, y - 0.5), 1, 1, facecolor="white" if real else "#EDEFEA", edgecolor=FAINT,
                    linewidth=0.8, linestyle="-" if real else ":",
                )
            )  # fmt: skip
            axes.text(
                x - 0.42,
                y - 0.3,
                f"{image[y, x]:g}" if real else "0",
                color=INK if real else FAINT,
                fontsize=9,
            )
    reach = np.arange(kernel) - kernel // 2
    plain = np.stack(np.meshgrid(reach, reach, indexing="ij"), -1).reshape(-1, 2) + np.asarray(position)
    points = plain + np.asarray(offset).reshape(-1, 2)
    for number, (start, end, weight) in enumerate(zip(plain, points, np.asarray(mask), strict=True)):
        if not np.allclose(start, end):
            axes.annotate(
                "", xy=end[::-1], xytext=start[::-1],
                arrowprops={"arrowstyle": "->", "color": BLUE, "linewidth": 1.3, "shrinkA": 0, "shrinkB": 6},
            )  # fmt: skip
        axes.plot(start[1], start[0], "s", markersize=7, markerfacecolor="none", markeredgecolor=FAINT)
        axes.plot(
            end[1], end[0], "o", markersize=13, markeredgecolor=VERMILION, markeredgewidth=1.3,
            markerfacecolor=(*matplotlib.colors.to_rgb(ORANGE), float(weight)),
        )  # fmt: skip
        axes.text(end[1], end[0], str(number), ha="center", va="center", fontsize=7.5, zorder=5)
    axes.set_xlim(-1.6, width + 0.6)
    axes.set_ylim(height + 0.6, -1.6)
    axes.set_aspect("equal")
    axes.axis("off")
    return figure


@_styled
def draw_crops(
    images: Mapping[str, np.ndarray],
    box: tuple[int, int, int, int],
    captions: Mapping[str, str] | None = None,
) -> Figure:
    """The same crop of several images side by side, pixels kept as squares.

    ``images``: ``{title: [C, H, W] in [0, 1]}``; ``box``: (top, left, height, width); ``captions``: ``{title:
    line below}``.
    """
    top, left, height, width = box
    panel = WIDTH_IN / len(images)
    figure = Figure(figsize=(WIDTH_IN, panel * height / width + 0.55), layout="constrained")
    grid = figure.subplots(1, len(images), squeeze=False)[0]
    for axes, (title, image) in zip(grid, images.items(), strict=True):
        crop = _displayable(image)[top : top + height, left : left + width]
        axes.imshow(crop, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.set_title(title, fontsize=9.5)
        axes.set_xlabel((captions or {}).get(title, ""), fontsize=8.5)
        for spine in axes.spines.values():
            spine.set_visible(False)
    return figure


@_styled
def draw_verdicts(table: pd.DataFrame) -> Figure:
    """A matrix of verdicts. ``table``: index the rows, columns the columns, values a verdict's words or ""
    for none."""
    rows, columns = table.shape
    figure = Figure(figsize=(WIDTH_IN, 0.34 * rows + 1.1), layout="constrained")
    axes = figure.subplots()
    for y, values in enumerate(table.to_numpy()):
        for x, verdict in enumerate(values):
            if verdict:
                colour, mark = VERDICT_MARKS[verdict]
                axes.text(x, y, mark, color=colour, ha="center", va="center", fontsize=14, fontweight="bold")
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_xticks(range(columns), [str(name) for name in table.columns])
    axes.set_yticks(range(rows), [str(name) for name in table.index])
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for y in range(rows + 1):
        axes.axhline(y - 0.5, color="#E3E5E0", linewidth=0.8)
    key = [
        matplotlib.lines.Line2D([], [], linestyle="", marker=f"${mark}$", color=colour, markersize=8, label=words)
        for words, (colour, mark) in VERDICT_MARKS.items()
    ]
    figure.legend(handles=key, loc="outside lower center", ncols=len(key))
    return figure


@_styled
def draw_times(table: pd.DataFrame, unit: str) -> Figure:
    """Dots on a logarithmic axis. ``table``: a row per group, a column per kind of dot, NaN for no dot."""
    rows, columns = table.shape
    figure = Figure(figsize=(WIDTH_IN, 0.42 * rows + 1.0), layout="constrained")
    axes = figure.subplots()
    for number, name in enumerate(table.columns):
        axes.plot(
            table[name].to_numpy(float), range(rows), "osD^vP"[number % 6], color=CYCLE[number % 6],
            markersize=7, label=name,
        )  # fmt: skip
    axes.set_yticks(range(rows), [str(name) for name in table.index])
    axes.set_ylim(rows - 0.5, -0.5)
    axes.grid(color="#E3E5E0", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    axes.set_xlabel(unit)
    figure.legend(loc="outside upper left", ncols=min(columns, 4))
    return figure


@_styled
def draw_quality_against_cost(
    points: pd.DataFrame, label: str, references: Mapping[str, float] | None = None
) -> Figure:
    """PSNR against what one image costs, on a logarithmic axis. Hollow marks are printed, filled ones measured.

    ``points``: columns method, network, psnr_db, kind ("printed" or "measured") and cost, in the unit that
    ``label`` names. A filled mark is named only where it is not within 0.1 dB of its method's hollow one.
    ``references``: horizontal lines ``{label: PSNR in dB}``.
    """
    figure = Figure(figsize=(NARROW_IN, 4.0), layout="constrained")
    axes = figure.subplots()
    families = list(dict.fromkeys(name.split("-")[0] for name in points["network"]))
    for row in points.itertuples():
        family, measured = families.index(row.network.split("-")[0]), row.kind == "measured"
        colour = CYCLE[family % len(CYCLE)]
        axes.plot(
            row.cost, row.psnr_db, "osD^vP"[family % 6], color=colour, markersize=6 if measured else 10,
            markerfacecolor=colour if measured else "none", markeredgewidth=1.6, zorder=3 if measured else 2,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    axes.margins(x=0.14, y=0.09)
    for name, value in (references or {}).items():
        axes.axhline(value, color=FAINT, linestyle="--", linewidth=1)
        axes.annotate(
            name, (1, value), xycoords=("axes fraction", "data"), xytext=(-2, 3), textcoords="offset points",
            ha="right", fontsize=8.5,
        )  # fmt: skip
    axes.set_xlabel(label)
    axes.set_ylabel("PSNR, dB")
    axes.grid(color="#E3E5E0", linewidth=0.8)
    axes.set_axisbelow(True)
    key = [
        matplotlib.lines.Line2D([], [], linestyle="", marker="o", color=INK, markersize=size, markerfacecolor=face,
                                label=words)
        for words, size, face in (("printed", 9, "none"), ("measured here", 6, INK))
    ]  # fmt: skip
    axes.legend(handles=key, loc="lower left")
    printed = points[points["kind"] == "printed"]
    named = [
        row
        for row in points.itertuples()
        if row.kind == "printed"
        or not (printed.loc[printed["method"] == row.method.split(",")[0], "psnr_db"] - row.psnr_db).abs().lt(0.1).any()
    ]
    figure.draw_without_rendering()  # places are known from here on
    _name_points(axes, [(row.method, row.cost, row.psnr_db) for row in named], points[["cost", "psnr_db"]].to_numpy())
    return figure


def _name_points(axes: Axes, names: list[tuple[str, float, float]], points: np.ndarray, size_pt: float = 9) -> None:
    """Write a name beside each point, on the first side where it covers no point, no other name and no border."""
    scale = 72 / axes.figure.dpi
    inside = axes.bbox.extents * scale
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in axes.transData.transform(points) * scale]
    for name, cost, value in names:
        x, y = axes.transData.transform((cost, value)) * scale
        width, height = 0.63 * size_pt * len(name), 1.2 * size_pt
        sides = {
            (8, -height / 2, "left"): (8, 8 + width), (-8, -height / 2, "right"): (-8 - width, -8),
            (0, 8, "center"): (-width / 2, width / 2), (0, -8 - height, "center"): (-width / 2, width / 2),
            (4, 8, "left"): (4, 4 + width), (4, -8 - height, "left"): (4, 4 + width),
            (-4, 8, "right"): (-4 - width, -4), (-4, -8 - height, "right"): (-4 - width, -4),
        }  # fmt: skip
        boxes = {
            side: (x + left, y + side[1], x + right, y + side[1] + height) for side, (left, right) in sides.items()
        }

        def count_overlaps(side, boxes=boxes) -> int:
            left, low, right, high = boxes[side]
            outside = left < inside[0] or low < inside[1] or right > inside[2] or high > inside[3]
            return 2 * outside + sum(left < t[2] and t[0] < right and low < t[3] and t[1] < high for t in taken)

        side = min(boxes, key=count_overlaps)
        taken.append(boxes[side])
        dx, dy, ha = side
        axes.annotate(
            name, (cost, value), xytext=(dx, dy + 0.2 * size_pt), textcoords="offset points", fontsize=size_pt, ha=ha,
        )  # fmt: skip


def compare(before: np.ndarray, after: np.ndarray, labels: Sequence[str], alt: str, limit_kib: int = 300) -> HTML:
    """Two images of one size on top of each other, with a slider that uncovers one: HTML that asks no other
    file.

    ``before`` and ``after``: [C, H, W] in [0, 1]. Where scripts are off, the two halves are seen side by
    side.
    """
    sources = []
    for image in (before, after):
        picture = Image.fromarray(np.round(_displayable(image) * 255).astype(np.uint8))
        buffer = io.BytesIO()
        for quality in (92, 85, 75, 60, 45):
            buffer = io.BytesIO()
            picture.save(buffer, "jpeg", quality=quality)
            if len(buffer.getvalue()) <= limit_kib * 1024 // 2:
                break
        sources.append("data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode())
    _, height, width = np.shape(before)
    layer = "position:absolute;inset:0;width:100%;height:100%;margin:0"
    first, second = labels
    return HTML(
        f'<div style="position:relative;max-width:{width}px;aspect-ratio:{width}/{height};overflow:hidden;'
        f'border-radius:4px;--cut:50%">'
        f'<img src="{sources[1]}" alt="{alt}" style="{layer}">'
        f'<img src="{sources[0]}" alt="" style="{layer};clip-path:inset(0 calc(100% - var(--cut)) 0 0)">'
        f'<span style="{_TAG};left:6px">{first}</span><span style="{_TAG};right:6px">{second}</span>'
        f'<input type="range" min="0" max="100" value="50" aria-label="uncover {first} or {second}" '
        f"oninput=\"this.parentNode.style.setProperty('--cut', this.value + '%')\" "
        f'style="position:absolute;left:2%;bottom:8px;width:96%;margin:0"></div>'
    )


_TAG = "position:absolute;top:6px;padding:1px 7px;border-radius:3px;background:#22262bcc;color:#fff;font-size:.8rem"


def _canvas(height_in: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    return figure, figure.subplots()


def _displayable(image: np.ndarray) -> np.ndarray:
    """[C, H, W] to [H, W, 3] or [H, W], clipped to [0, 1]."""
    image = np.clip(np.asarray(image, np.float32), 0, 1)
    return image[0] if len(image) == 1 else image.transpose(1, 2, 0)
