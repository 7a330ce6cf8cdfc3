"""What the chapter on comparators and costs shows: published weights scored again, counts, times, and both together."""

from functools import cache
from html import escape
from pathlib import Path
from statistics import fmean

import pandas as pd

from repro import pages, plots, published, timing
from repro.benchmark_cost import HEIGHT, NETWORKS, WIDTH
from repro.data import catalog
from repro.models import build
from repro.study import claims as ledger
from repro.study import comparators, tables
from repro.study.comparators import COMPARATORS
from repro.study.costs import Cost, measure_cost
from repro.study.records import Record
from repro.study.verdicts import CLOSED, NOT_TESTABLE, PSNR_DB, REPRODUCED, Study

REAL = ("cc15", "nam25", "polyu", "sidd_samples")
# Printed name in SADNet's Table 7 or the slide on cost -> name in repro.benchmark_cost.
PRINTED = {
    "DnCNN": "dncnn",
    "MemNet": "memnet",
    "RNAN": "rnan",
    "RIDNet": "ridnet",
    "SADNet": "sadnet",
    "FFDNet": "ffdnet",
}
TITLES = {
    **{network: method for method, network in PRINTED.items()},
    **{f"scaoednet-{stages}": f"ScaoedNet, {stages} stage{'s'[: stages > 1]}" for stages in (1, 3, 5)},
    "dncnn-20": "DnCNN, 20 layers",
    "pd": "PD for photographs",
    "ssdn": "SSDN",
    "unet": "U-Net of N2C, N2N, N2V",
    "gradnet": "GradNet",
    "gradnet-impl": "GradNet of the slides",
}
NO_BENCHMARK = (
    "The times are not measured yet; `repro bench cost` measures all networks in one run, in about ten minutes."
)


PRINTERS = {"001": "SADNet's paper", "004": "ScaoedNet's slides"}  # whose values of other methods are scored again

# --- scored again ------------------------------------------------------------------------------------------------


def describe_rescored(settled: pd.DataFrame) -> str:
    """Every printed PSNR of a compared method that this study has measured with published weights or none."""
    scored = settled[settled["method"].isin(COMPARATORS) & (settled["metric"] == "psnr")]
    scored = scored[(scored["word"] != NOT_TESTABLE) & scored["source"].isin(PRINTERS)]
    if scored.empty:
        return "No comparator is scored again yet; `repro campaign --only 'dncnn-*'` begins with it."
    met = int((scored["word"] == REPRODUCED).sum())
    furthest = scored.loc[scored["difference"].abs().idxmax()]
    told = (
        f"Of {len(scored)} values that SADNet's paper and ScaoedNet's slides print, {met} are met within {PSNR_DB:g} "
        f"dB. Furthest off is {furthest['method']} on {_images(furthest)}, by {furthest['difference']:+.2f} dB."
    )
    levels = sorted({claim["sigma_255"] for _, claim in scored.iterrows() if pd.notna(claim["sigma_255"])})
    columns = {None: "real noise"} | {level: f"sigma {level:g}" for level in levels}
    rows: dict[str, dict[str, str]] = {}
    missed = []
    for _, claim in scored.iterrows():
        colour = "gray " if claim["colour"] == "gray" else ""
        place = f"{claim['method']}, {colour}{claim['dataset']} ({PRINTERS[claim['source']]}, {claim['table']})"
        row = rows.setdefault(place, {})
        ours = f"{claim['ours']:.2f} ({round(claim['difference'], 2) + 0.0:+.2f})"
        mark = f'<span class="verdict {tables.CLASSES[claim["word"]]}">{ours}</span>'
        column = columns[None if pd.isna(claim["sigma_255"]) else claim["sigma_255"]]
        row[column] = f"{claim['value']} {mark}"
        if claim["word"] != REPRODUCED:
            missed.append(f"- {claim['method']}, {_images(claim)}: {escape(claim['reason'])}")
    names = [name for name in columns.values() if any(name in row for row in rows.values())]
    table = {"method, images": list(map(escape, rows))}
    table |= {name: [row.get(name, "") for row in rows.values()] for name in names}
    caption = (
        "Mean PSNR in dB, of published weights or a classical method: printed, then ours with the difference, "
        f"reproduced within {PSNR_DB:g} dB"
    )
    shown = f"{told}\n\n{pages.render_rows(caption, table)}"
    return shown + ("\n\nWhere the difference is larger:\n\n" + "\n".join(missed) if missed else "")


def _images(claim: pd.Series) -> str:
    colour = "gray " if claim["colour"] == "gray" else ""
    sigma = "" if pd.isna(claim["sigma_255"]) else f", sigma {claim['sigma_255']:g}"
    return f"{colour}{claim['dataset']}{sigma}"


def describe_real(study: Study) -> str:
    """Mean PSNR on photographs with the noise of their cameras.

    Of networks trained here those that were measured on every set for testing: the ablations, measured on two, are
    compared in their own chapter.
    """
    rows: dict[str, dict[str, list[float]]] = {}  # a value for each seed
    noisy: dict[str, str] = {}
    tests = {name for name in REAL if catalog.find(name).role.startswith("test")}
    for record in study.records:
        if record["steps"] and not tests <= {about["dataset"] for about in record["evaluations"]}:
            continue
        for about in record["evaluations"]:
            added = (about["sigma_255"], about.get("events"), about.get("alpha"))
            if about["dataset"] in REAL and added == (None, None, None) and not about["limit"]:
                name = _name_network(record) + (", self-ensemble" if about.get("ensemble") else "")
                rows.setdefault(name, {}).setdefault(about["dataset"], []).append(about["psnr_db"])
                noisy[about["dataset"]] = f"{about['psnr_noisy_db']:.2f}"
    if not rows:
        return "No network is scored on real noise yet; `repro campaign --only '*-real*'` does it."
    sets = {name: catalog.find(name) for name in REAL}
    table = {"network": ["as taken", *map(escape, rows)]}
    for name in sets:
        means = (f"{fmean(row[name]):.2f}" if name in row else "–" for row in rows.values())
        table[name] = [noisy.get(name, "–"), *means]
    counts = ", ".join(f"{name} {entry.images}" for name, entry in sets.items())
    return pages.render_rows(f"Mean PSNR in dB on photographs, real noise, level not told. Images: {counts}", table)


def _name_network(record: Record) -> str:
    title = METHODS.get(record["method"], record["method"])
    title += ", blind" if record["method"] == "dncnn" and not record["steps"] else ""
    variant = "" if record["variant"] == "full" else f", {record['variant']}"
    variant += ", real" if record["steps"] and record.settings.get("pairs") and "real" not in variant else ""
    budget = f", trained at the {record['budget']} budget" if record["steps"] else ""
    return title + variant + budget


METHODS = {
    "bm3d": "CBM3D",
    "dncnn": "DnCNN",
    "ffdnet": "FFDNet",
    "gradnet": "GradNet",
    "gradnet-impl": "GradNet of the slides",
    "pd": "PD",
    "sadnet": "SADNet",
    "scaoednet": "ScaoedNet",
    "ssdn": "SSDN",
    "unet": "U-Net",
}


def describe_weights() -> str:
    """The published weights that this study reads, and on what terms."""
    rows = []
    for name, source in published.SOURCES.items():
        level = "a range of levels" if source.sigma_255 is None else f"sigma {source.sigma_255:g}"
        level = "photographs" if source.photographs else level
        rows.append((f"<code>{name}</code>", source.colour, level, escape(source.repository), escape(source.licence)))
    names = ("weights", "colour", "made for", "repository", "licence")
    return pages.render_rows(
        "Published weights that are read here", dict(zip(names, zip(*rows, strict=True), strict=True))
    )


def describe_methods(settled: pd.DataFrame) -> str:
    """Every compared method: how many printed values, what was done, and why not more."""
    rows, untested = [], []
    for method in comparators.find_compared(settled):
        of_method = settled[(settled["method"] == method) & (settled["metric"] != "ordering")]
        quality = pages.drop_copies(of_method[of_method["metric"].isin(["psnr", "ssim"])])
        scored = int((quality["word"] != NOT_TESTABLE).sum())
        model = COMPARATORS[method].model if method in COMPARATORS else ""
        counted = any(model == name for name, _ in NETWORKS.values())
        done = [f"{scored} of {len(quality)} values scored again"] if scored else []
        done += ["network built and counted"] if counted else []
        reason = comparators.explain(method, settled)
        if not reason and scored < len(quality):
            reason = _summarise_reasons(quality[quality["word"] == NOT_TESTABLE])
        untested.append(not done)
        where = ", ".join(sorted(set(quality["dataset"])))
        reason = reason and reason[0].upper() + reason[1:]
        rows.append((escape(method), escape(where), "; ".join(done) or "nothing", escape(reason)))
    names = ("method", "printed on", "done here", "why not more")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    caption = f"The {len(rows)} methods of the papers' tables of image quality and cost; what one copies counts once"
    return pages.render_rows(caption, columns, untested=untested)


def _summarise_reasons(claims: pd.DataFrame) -> str:
    closed = claims["dataset"].isin(CLOSED) | (claims["dataset"] == "SIDD")
    sets = ", ".join(sorted(set(claims.loc[closed, "dataset"])))
    reasons = [f"{sets}: cannot be scored here."] if sets else []
    for reason, alike in claims[~closed].groupby("reason", sort=False):
        images = "; ".join(dict.fromkeys(_images(claim) for _, claim in alike.iterrows()))
        told = reason[0].lower() + reason[1:] if reason.startswith(("It ", "No ", "The ")) else reason
        reasons.append(f"{images}: {told}")
    return " ".join(reasons)


# --- counts and times --------------------------------------------------------------------------------------------


def describe_table7(settled: pd.DataFrame) -> str:
    """Parameters and operations of every network, printed and counted, with the ratio."""
    counts = count_all()
    columns: dict[str, list[str]] = {
        name: []
        for name in (
            "network", "params, printed", "counted, k", "FLOPs, printed", "counted, G", "ratio", "true, G",
        )
    }  # fmt: skip
    for name, cost in counts.items():
        method = next((method for method, network in PRINTED.items() if network == name), "")
        printed = {
            metric: _printed(settled, source="001", table="Table 7", method=method, metric=metric)
            for metric in ("parameters", "flops")
        }
        values = (
            TITLES[name],
            printed["parameters"] or "–",
            f"{cost.parameters / 1e3:,.1f}",
            printed["flops"] or "–",
            f"{cost.flops / 1e9:,.2f}",
            f"{cost.flops / 1e9 / float(printed['flops']):.4f}" if printed["flops"] else "–",
            f"{cost.macs / 1e9:,.2f}",
        )
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
    caption = (
        f"One colour image of {WIDTH}x{HEIGHT} pixels: parameters (thousands), FLOPs as the profilers count them, "
        "their ratio to the printed ones, and true multiply-adds (billions). Printed: SADNet's Table 7"
    )
    return pages.render_rows(caption, columns)


@cache
def count_all() -> dict[str, Cost]:
    """Counts of every network of the benchmark, by its name there."""
    return {name: measure_cost(build(model, **sizes), HEIGHT, WIDTH) for name, (model, sizes) in NETWORKS.items()}


def _printed(settled: pd.DataFrame, **fields) -> str:
    found = ledger.find(settled, **fields)
    return found["value"].iloc[0] if len(found) == 1 else ""


def describe_slide(settled: pd.DataFrame) -> str:
    """The slide on cost: ScaoedNet by its stages, and DeamNet."""
    rows, untested = [], []
    for _, claim in ledger.find(settled, source="004", table="Computational Cost", metric="flops").iterrows():
        ratio = claim["ours"] / claim["number"]
        missing = pd.isna(claim["ours"])
        untested.append(missing)
        rows.append(
            (
                escape(f"{claim['method']} {claim['variant']}".strip()),
                claim["value"],
                "–" if missing else f"{claim['ours']:,.1f}",
                "–" if missing else f"{ratio:.3f}",
                pages.show_verdict(claim["word"]),
                escape(claim["reason"]),
            )
        )
    names = ("network", "printed, G", "true multiply-adds, G", "ratio", "verdict", "why")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    return pages.render_rows(
        "One colour image of 512x512 pixels; printed values from ScaoedNet's slides", columns, untested
    )


def describe_nonlocal(settled: pd.DataFrame) -> str:
    """The products in RNAN's non-local blocks, which the printed number leaves out."""
    cost = count_all()["rnan"]
    printed = _printed(settled, source="001", table="Table 7", method="RNAN", metric="flops")
    products, macs = cost.products / 1e9, cost.macs / 1e9
    return (
        f"At full resolution RNAN's printed {printed} G leave most of its work out. Its two non-local blocks compare "
        f"every pixel with every other. At {WIDTH}x{HEIGHT} pixels this takes {products:,.0f} G multiply-adds of "
        f"matrix products, which a profiler that looks at layers does not see; the convolutions take {macs:,.0f} G. "
        f"In all RNAN costs {(products + macs) / macs:.1f} times what its convolutions alone cost, and the products "
        "grow with the square of the number of pixels. Its authors' code cuts large images into parts and so "
        "forms fewer products; how many was not counted. Here they are formed in portions, and are part "
        "of the measured time."
    )


def describe_times(settled: pd.DataFrame, folder: Path | None = None) -> str:
    """Measured seconds and memory of every network, one table per machine."""
    parts = []
    for about, table in timing.load("cost", folder):
        columns: dict[str, list[str]] = {
            name: [] for name in ("network", "seconds", "quartiles", "measurements", "memory, MiB", "printed")
        }
        for row in table.itertuples():
            method = next((method for method, network in PRINTED.items() if network == row.network), "")
            printed = _printed(settled, source="001", table="Table 7", method=method, metric="time")
            quartiles = f"{row.seconds_lower_quartile:.3g} to {row.seconds_upper_quartile:.3g}"
            values = (TITLES.get(row.network, row.network), f"{row.seconds:.3g}", quartiles, str(row.rounds))
            values += (
                "–" if pd.isna(row.peak_memory_mib) else f"{row.peak_memory_mib:,.0f}",
                f"{float(printed) / 1000:.3g}" if printed else "–",
            )
            for column, value in zip(columns.values(), values, strict=True):
                column.append(value)
        size = f"{about['width']}x{about['height']}"
        few = ", ".join(TITLES.get(name, name) for name in about["few_rounds"])
        note = f" {few}: measured less often, since one image takes so long." if few else ""
        load = about.get("load_before", 0)
        busy = f" In the minute before the measurement, other processes were computing (load {load:g})."
        note += busy if load > 0.5 else ""
        caption = (
            f"{about['device']}, torch {about['versions']['torch']}, {about['date'][:10]}: one colour image of {size} "
            "pixels. Median, quartiles, memory beyond the network; printed: SADNet's Table 7, on its authors' GPU"
        )
        parts.append(pages.render_rows(escape(caption), columns) + (f"\n\n{note.strip()}" if note else ""))
    return "\n\n".join(parts) or NO_BENCHMARK


# --- both together -----------------------------------------------------------------------------------------------


def collect_points(settled: pd.DataFrame, study: Study) -> pd.DataFrame:
    """PSNR on Kodak24 in colour at sigma 50 of every network that is counted: columns method, network, psnr_db, kind.

    ``kind`` is "printed" for SADNet's Table 3 and "measured" for the records of this study, whose network is found
    by its name and its number of parameters.
    """
    column = {"dataset": "Kodak24", "colour": "rgb", "sigma_255": 50, "metric": "psnr"}
    rows = []
    for _, claim in ledger.find(settled, source="001", table="Table 3", **column).iterrows():
        if claim["method"] in PRINTED:
            rows.append((claim["method"], PRINTED[claim["method"]], claim["number"], "printed"))
    parameters = {name: cost.parameters for name, cost in count_all().items()}
    for group in study.groups:
        record = group.first
        about = record.find_evaluation("kodak24", 50)
        if about is None or record["colour"] != "rgb" or record["sigma_255"] not in (50, None):
            continue
        for name, (model, _) in NETWORKS.items():
            if (model, parameters[name]) == (record["method"], record["parameters"]) and not name.startswith("scaoed"):
                label = TITLES[name] + (f", {record['budget']} budget" if group.smaller else "")
                rows.append((label, name, float(group.per_image(about["name"]).mean()), "measured"))
    points = pd.DataFrame(rows, columns=["method", "network", "psnr_db", "kind"])
    # The groups come in the order of their budgets: of several runs of a network the longest is shown.
    return points.drop_duplicates(["network", "kind"], ignore_index=True)


def describe_figure(settled: pd.DataFrame, study: Study, folder: Path, benchmarks: Path | None = None) -> str:
    """PSNR against multiply-adds and against measured seconds, side by side, one above the other on a phone."""
    points = collect_points(settled, study)
    counts = {name: (cost.macs + cost.products) / 1e9 for name, cost in count_all().items()}
    column = {"source": "001", "table": "Table 3", "dataset": "Kodak24", "colour": "rgb", "sigma_255": 50}
    classical = ledger.find(settled, method="CBM3D", metric="psnr", **column)["number"].iloc[0]
    panels = [("macs", points["network"].map(counts), "billion multiply-adds")]
    stored = timing.load("cost", benchmarks)
    if stored:
        about, table = stored[0]
        seconds = points["network"].map(table.set_index("network")["seconds"])
        threads = f"{about['threads']} threads of a CPU" if "threads" in about else about["device"]
        panels.append(("seconds", seconds, f"seconds on {threads}"))
    blocks = []
    for name, cost, label in panels:
        shown = points.assign(cost=cost).dropna(subset="cost")
        figure = plots.draw_quality_against_cost(shown, label, {"CBM3D, printed": classical})
        plots.save(figure, folder / f"cost_{name}.png")
        listed = "; ".join(
            f"{row.method} {row.kind} {row.psnr_db:.2f} dB at {row.cost:.3g}"
            for row in shown.sort_values("cost").itertuples()
        )
        alt = f"PSNR on Kodak24, colour, sigma 50, against {label} of one {WIDTH}x{HEIGHT} image: {listed}."
        blocks.append(f"```{{image}} _generated/cost_{name}.png\n:alt: {alt}\n```")
    told = (
        f"PSNR on Kodak24 (colour, sigma 50) against what one {WIDTH}x{HEIGHT} image costs. Hollow: printed in "
        "SADNet's Table 3. Filled: measured by this study, with published weights or with its own at the budget that "
        "is named. Multiply-adds are the true ones, RNAN's matrix products included. DnCNN's published colour weights "
        "are of a network of 20 layers; the network that the paper counts has 17."
    )
    told += "" if stored else f" {NO_BENCHMARK}"
    return "````{container} panels\n" + "\n".join(blocks) + f"\n````\n\n{told}"
