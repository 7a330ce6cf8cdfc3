"""The tables of the sources again, with this study's values beside them.

>>> study = Study.load()
>>> cells = compare("sadnet-colour", study)      # a row per cell: paper, reproduction, ours, verdict
>>> arrange(cells)                               # as printed: methods down, image sets across
>>> render(cells, "sadnet-colour")               # HTML with the CSV in it
"""

import base64
from dataclasses import dataclass
from html import escape

import pandas as pd

from repro.errors import unknown_name
from repro.study import claims as ledger
from repro.study import scaoednet, ssdn, verdicts
from repro.study.statistics import LEVEL
from repro.study.verdicts import DIRECTION, NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED, WORDS, Study


@dataclass(frozen=True)
class Table:
    """A printed table, and where the earlier reproduction prints its own values of the same cells."""

    title: str
    paper: str  # shell pattern of claim ids
    reproduction: str = ""
    printed_in: str = "paper"  # what the printed values' column is called
    note: str = ""  # what ours are means of, where they differ


TABLES = {
    "sadnet-ablation": Table("Ablation of SADNet, PSNR in dB (Table 1)", "001-t1-*"),
    "sadnet-gray": Table("Gray images, PSNR in dB (Table 2)", "001-t2-*"),
    "sadnet-colour": Table("Colour images, PSNR in dB (Table 3)", "001-t3-*", "000-t3-*-sadnet-replication"),
    "sadnet-dnd": Table("DND (Table 4)", "001-t4-*"),
    "sadnet-sidd": Table("SIDD validation, PSNR in dB (Table 5)", "001-t5-*", "000-t2-*-sadnet-replication"),
    "sadnet-nam": Table("Nam (Table 6)", "001-t6-*"),
    "sadnet-cost": Table(
        "Parameters, arithmetic and time on 480x320 colour images (Table 7)",
        "001-t7-*",
        "000-s5-time-replication",
    ),
    "ssdn": Table("SSDN and its baselines, colour, PSNR in dB (Table 1)", "002-t1-*", printed_in="reproduction"),
    "gradnet": Table(
        "GradNet, PSNR in dB (Results)",
        "003-results-*",
        printed_in="reproduction",
        note="Ours of DnCNN and BM3D are means over all crops of 256 pixels, of which the slides score one; those with "
        "exchanged gradients are of central crops, all others of whole images.",
    ),
    "scaoednet-dnd": Table("ScaoedNet on DND (Table 1)", "004-t1-*"),
    "scaoednet-sidd": Table("ScaoedNet on SIDD (Table 2)", "004-t2-*"),
    "scaoednet-stages": Table("ScaoedNet by number of stages (Table 3)", "004-t3-*"),
    "scaoednet-blocks": Table("ScaoedNet by number of attention blocks (Table 4)", "004-t4-*"),
    "scaoednet-each-stage": Table("The image after each stage (Table S4)", "004-ts4-*"),
    "scaoednet-noise-maps": Table("The noise map after each stage (Table S3)", "004-ts3-*"),
    "scaoednet-nfae": Table("Noise maps with and without NFAE (Table 5)", "004-t5-*"),
    "scaoednet-parts": Table("ScaoedNet with and without FSM and DEM (Table S2)", "004-ts2-*"),
    "scaoednet-sca": Table("FSM against plain attention (Table S1)", "004-ts1-*"),
    "scaoednet-cost": Table("Arithmetic and time on 512x512 colour images", "004-cost-stages-*"),
}
KEY = ["method", "variant", "dataset", "sigma_255", "metric"]
# Of book/_static/book.css: each has a mark and a colour, in the light and in the dark theme.
CLASSES = {
    REPRODUCED: "verdict-reproduced",
    DIRECTION: "verdict-direction",
    NOT_REPRODUCED: "verdict-not-reproduced",
    NOT_TESTABLE: "verdict-not-testable",
}


def compare(name: str, study: Study, settled: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row per cell of a printed table.

    Columns: method, variant, dataset, sigma_255, metric, unit; ``paper`` and ``reproduction`` as printed;
    ``ours`` with ``difference`` (to the paper), ``low``, ``high``, ``budget``, ``steps``, ``verdict``,
    ``reason``, ``evidence``, ``command``; ``ours_as_reproduced``: ours of the earlier reproduction's variant;
    and ``claim``, the id. ``settled`` are the verdicts (:func:`repro.study.verdicts.settle_all`), settled
    anew if left out.
    """
    if name not in TABLES:
        raise unknown_name("table", name, TABLES)
    settled = verdicts.settle_all(study) if settled is None else settled
    table = TABLES[name]
    paper = _join(ledger.match(study.claims, [table.paper]), settled)
    cells = paper.rename(columns={"value": "paper", "id": "claim", "word": "verdict"})
    cells["paper"] = cells["paper"].where(~cells["approx"].astype(bool), "about " + cells["paper"])
    cells.insert(cells.columns.get_loc("paper") + 1, "reproduction", "")
    cells["ours_as_reproduced"] = float("nan")
    if table.reproduction:
        earlier = _join(ledger.match(study.claims, [table.reproduction]), settled)
        for row in earlier.itertuples():
            # The cost table names no image set, and prints a time where the reproduction prints one too.
            same = (cells["method"] == row.method) & (cells["metric"] == row.metric)
            same &= (cells["dataset"] == row.dataset) & ((cells["sigma_255"] == row.sigma_255) | pd.isna(row.sigma_255))
            cells.loc[same, "reproduction"] = row.value
            cells.loc[same, "ours_as_reproduced"] = row.ours
    steps = {record.name: record["steps"] for record in study.records}
    cells["steps"] = [steps.get(evidence.split(" ")[0]) for evidence in cells["evidence"]]
    columns = [*KEY, "unit", "paper", "reproduction", "ours", "difference", "low", "high", "budget", "steps"]
    columns += ["ours_as_reproduced", "verdict", "reason", "evidence", "command", "claim"]
    return cells[columns].reset_index(drop=True)


def arrange(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells as printed: methods down, image sets across, and under each paper, reproduction and ours.

    Ours is text with its budget, ``28.91 (cpu, 10,000 steps)``. Where the earlier reproduction prints none of
    the cells, its column is left out.
    """
    rows = cells.assign(
        row=[_name_row(cell) for cell in cells.itertuples()],
        column=[_name_column(cell) for cell in cells.itertuples()],
        ours=[_show_ours(cell) for cell in cells.itertuples()],
    )
    kinds = ["paper", "reproduction", "ours"]
    kinds = [kind for kind in kinds if kind != "reproduction" or (rows[kind] != "").any()]
    wide = rows.pivot(index="row", columns="column", values=kinds).swaplevel(axis=1)
    order = [(column, kind) for column in rows["column"].unique() for kind in kinds]
    wide = wide.reindex(index=rows["row"].unique(), columns=pd.MultiIndex.from_tuples(order)).fillna("")
    return wide.rename_axis(None, axis=0)


def render(cells: pd.DataFrame, name: str, sets_at_once: int = 3) -> str:
    """HTML of a table as printed, some image sets at a time, and a link that saves all its cells as ``name``.csv.

    The mark and the colour of ours are its verdict's, the reason is its tooltip. A row of which this study has
    measured nothing stays, in grey, and the reasons stand once below the tables, where they cost no width.
    """
    wide = arrange(cells)
    found = {(_name_row(cell), _name_column(cell)): cell for cell in cells.itertuples()}
    kinds: dict[str, list[str]] = {}  # of values that a set of images has
    for column, kind in wide.columns:
        kinds.setdefault(column, []).extend([kind] if (wide[column, kind] != "").any() else [])
    sets = list(kinds)
    names = {"paper": TABLES[name].printed_in}
    reasons: dict[str, dict[str, None]] = {}  # of each row, in order and each once
    parts = []
    for start in range(0, len(sets), sets_at_once):
        shown = sets[start : start + sets_at_once]
        body = ""
        for row in wide.index:
            present = [found[row, column] for column in shown if (row, column) in found]
            untested = bool(present) and all(pd.isna(cell.ours) for cell in present)
            if untested:
                reasons.setdefault(row, {}).update(dict.fromkeys(cell.reason for cell in present))
            cells_html = ""
            for column in shown:
                for kind in kinds[column]:
                    value = wide.loc[row, (column, kind)]
                    ours = kind == "ours" and value
                    cells_html += f"<td>{_mark(value, found[row, column]) if ours else escape(value)}</td>"
            grey = ' class="untested"' if untested else ""
            body += f"<tr{grey}><th>{escape(row)}</th>{cells_html}</tr>"
        head = "".join(f'<th colspan="{len(kinds[column])}">{escape(column)}</th>' for column in shown)
        below = "".join(f"<th>{names.get(kind, kind)}</th>" for column in shown for kind in kinds[column])
        below = below.replace("reproduction", "repro&shy;duction")  # its longest word sets a column's width
        parts.append(
            f'<div class="study-table"><table class="study printed"><caption>{escape(TABLES[name].title)}</caption>'
            f'<thead><tr><th rowspan="2"></th>{head}</tr><tr>{below}</tr></thead><tbody>{body}</tbody></table></div>'
        )
    if TABLES[name].note:
        parts.append(f'<div class="untested-rows">{escape(TABLES[name].note)}</div>')
    if reasons:
        lines = "".join(f"<li><b>{escape(row)}</b>: {escape(' '.join(why))}</li>" for row, why in reasons.items())
        grey = "In grey, because no value of ours can stand beside the printed one:"
        parts.append(f'<div class="untested-rows">{grey}<ul>{lines}</ul></div>')
    return "".join(parts) + link_csv(cells, name)


def _mark(value: str, cell) -> str:
    """Ours with the mark of its verdict, and in small letters what it was reached with."""
    number, _, budget = value.partition(" ")
    about = escape(f"{cell.verdict}: {cell.reason}")
    small = f" <small>{escape(budget)}</small>" if budget else ""
    return f'<span class="verdict {CLASSES[cell.verdict]}" title="{about}">{number}</span>{small}'


def link_csv(frame: pd.DataFrame, name: str, index: bool = False) -> str:
    """A link from which a table is saved as ``name``.csv; it needs no file beside the page."""
    data = base64.b64encode(frame.to_csv(index=index, lineterminator="\n").encode()).decode()
    return f'<a class="csv" download="{name}.csv" href="data:text/csv;base64,{data}">{name}.csv</a>'


def count_verdicts(study: Study, settled: pd.DataFrame) -> pd.DataFrame:
    """Kinds of claims down, the four words across, and how many claims wait for a run."""
    frame = settled.assign(kind=[_name_kind(claim) for _, claim in study.claims.iterrows()])
    matrix = pd.crosstab(frame["kind"], frame["word"]).reindex(columns=list(WORDS), fill_value=0)
    matrix["of these waiting for a run"] = frame[frame["waits_for"] != ""].groupby("kind").size()
    order = [kind for kind in KINDS.values() if kind in matrix.index]
    return matrix.reindex(order).fillna(0).astype(int).rename_axis(index=None, columns=None)


def list_evaluations(study: Study) -> pd.DataFrame:
    """Every evaluation of every record: the same network under each noise and PSNR convention."""
    rows = []
    for record in study.records:
        about = {key: record[key] for key in ("experiment", "method", "variant", "budget", "steps", "seed")}
        for evaluation in record["evaluations"]:
            rows.append(about | {key: value for key, value in evaluation.items() if key != "seed"})
    return pd.DataFrame(rows)


def list_tolerances() -> pd.DataFrame:
    """What counts as reproduced."""
    rows = [
        ("PSNR at the paper's own budget or from published weights", f"within {verdicts.PSNR_DB:g} dB"),
        ("the same where one random crop of each image was scored", f"within {LEVEL:.0%} of such draws"),
        ("which of two is better", f"{LEVEL:.0%} interval of the paired per-image difference excludes 0"),
        ("what differs from sensor to sensor", f"fewer than {1 - LEVEL:.0%} of permuted labels lie as far apart"),
        ("parameters", "exact to the printed digit, or explained"),
        ("a size of the architecture", "the network that matches the authors' code has it"),
        (
            "what a document says of its own printed numbers",
            "never: nothing is measured; *not reproduced* where they contradict it",
        ),
        ("a choice of training or data", "never: it has no outcome"),
        ("FLOPs", f"within {verdicts.FLOPS_RELATIVE:.0%}, of ScaoedNet within {scaoednet.FLOPS_RELATIVE:.0%}"),
        ("how many times the other's size", f"within {ssdn.SIZE_RATIO:g}"),
        ("a training fails", f"it ends more than {ssdn.FAILED_DB:g} dB below what it is compared with"),
        ("more stages or blocks add nothing", f"the interval of their gain ends below {verdicts.PSNR_DB:g} dB"),
        ("what the kernels do", f"the {LEVEL:.0%} interval lies on the side that is said, at every scale"),
    ]
    return pd.DataFrame(rows, columns=["claim", "reproduced if"])


KINDS = {
    "psnr ssim psnr_gain psnr_loss noise_map_psnr noise_map_l1": "image quality",
    "ordering": "which method is better",
    "direction": "what an idea does",
    "parameters flops size_ratio": "parameters and arithmetic",
    "time time_ratio training_time gpu_memory cpu_memory gpus clock": "time and memory",
    "architecture": "architecture",
    "protocol": "protocol and data",
}


def _name_kind(claim: pd.Series) -> str:
    metric = claim["metric"]
    for metrics, kind in KINDS.items():
        if metric in metrics.split():
            return kind
    return KINDS["architecture" if metric in ledger.ARCHITECTURE else "protocol"]


COLUMNS = {
    "psnr": "PSNR",
    "ssim": "SSIM",
    "flops": "FLOPs",
    "noise_map_psnr": "PSNR of the noise map",
    "noise_map_l1": "mean absolute error of the noise map",
}


def _join(chosen: pd.DataFrame, settled: pd.DataFrame) -> pd.DataFrame:
    return chosen.join(settled.drop(columns="id"))


def _name_row(cell) -> str:
    return f"{cell.method} ({cell.variant})" if cell.variant else cell.method


def _name_column(cell) -> str:
    if cell.sigma_255 == cell.sigma_255:
        return f"{cell.dataset}, sigma {cell.sigma_255:g}"
    what = COLUMNS.get(cell.metric, cell.metric)
    unit = f" ({cell.unit})" if cell.unit else ""
    return f"{cell.dataset} {what}{unit}".strip()


def _show_ours(cell) -> str:
    if pd.isna(cell.ours):
        return ""
    digits = {"ssim": 4, "parameters": 0, "flops": 1}.get(cell.metric, 2)
    value = f"{cell.ours:,.{digits}f}" if digits else f"{cell.ours:.0f}"
    if not cell.budget:
        return value
    trainings = len(cell.evidence.split())
    several = f"{trainings} x " if trainings > 1 else ""
    return f"{value} ({cell.budget}, {several}{cell.steps:,.0f} steps)"
