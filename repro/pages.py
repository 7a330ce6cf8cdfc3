"""What prose pages quote, written to ``book/_generated`` from claims, records and verdicts: no number is
typed.

Each function returns Markdown (with HTML for tables) that a page of the book includes.
"""

import math
import re
from collections import Counter
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from html import escape
from pathlib import Path

import pandas as pd

from repro import files
from repro.data import catalog
from repro.models import build
from repro.notebooks import render_table
from repro.study import claims as ledger
from repro.study import experiments, tables, verdicts
from repro.study.statistics import LEVEL
from repro.study.tables import CLASSES
from repro.study.verdicts import DIRECTION, HINT, NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED, WORDS, Study

KINDS = {
    "quality and cost": ledger.OUTCOMES,
    "statements": ledger.STATEMENTS,
    "architecture": ledger.ARCHITECTURE,
    "training and data": ledger.PROTOCOL | ledger.DATA,
}


PAPERS = {"SADNet": ("001", "000"), "SSDN": ("002",), "GradNet": ("003",), "ScaoedNet": ("004",)}


def write_all(folder: Path, study: Study, settled: pd.DataFrame) -> None:
    """Write every fragment into ``folder``; pages that include them are built afterwards."""
    # They use this module.
    from repro import (
        blindspot_pages,
        cost_pages,
        front_page,
        fusion_pages,
        gradient_pages,
        sadnet_pages,
        stage_pages,
        viewers,
    )

    fragments: dict[str, Callable[[], str]] = {
        "glance": lambda: front_page.describe_glance(settled, study),
        "counts": lambda: front_page.describe_counts(settled, study),
        **{f"glance_{paper.lower()}": partial(describe_paper, settled, paper) for paper in PAPERS},
        "picture": viewers.show_comparison,
        "viewer": viewers.show_kernels,
        "tolerances": describe_tolerances,
        "seeds": lambda: describe_seeds(study),
        "sadnet_result": lambda: describe_result(settled, study),
        "sadnet_shortfall": lambda: describe_shortfall(
            study, "How brief is it?", "sadnet-colour-50*", "sadnet-colour-50-paper", "The published code's"
        ),
        "gradnet_shortfall": lambda: describe_shortfall(
            study, "How brief is it?", "gradnet-impl-dncnn", "gradnet-impl-paper", "The slides'"
        ),
        "sadnet_costs": lambda: describe_costs(settled),
        "sadnet_ablation": lambda: sadnet_pages.describe_ablation(settled, study, folder),
        "sadnet_parts": lambda: sadnet_pages.describe_parts(study),
        "sadnet_recipes": lambda: sadnet_pages.describe_recipes(study),
        "sadnet_other_runs": lambda: sadnet_pages.describe_other_runs(settled, study),
        "sadnet_runaways": lambda: sadnet_pages.describe_runaways(study),
        "sadnet_other_levels": lambda: sadnet_pages.describe_other_levels(study),
        "sadnet_kernels": lambda: sadnet_pages.describe_kernels(settled),
        "sadnet_real": lambda: sadnet_pages.describe_real(settled),
        "sadnet_curve": lambda: sadnet_pages.describe_curves(study, folder),
        "sadnet_budget": lambda: describe_budgets(study, "sadnet"),
        "ssdn_budget": lambda: describe_budgets(study, "ssdn", "unet"),
        "gradnet_budget": lambda: describe_budgets(study, "gradnet", "gradnet-impl", "dncnn"),
        "scaoednet_budget": lambda: describe_budgets(study, "scaoednet"),
        "scaoednet_statements": lambda: stage_pages.describe_statements(settled),
        "scaoednet_costs": lambda: stage_pages.describe_costs(settled),
        "scaoednet_real": lambda: stage_pages.describe_real(study),
        "scaoednet_parts": lambda: stage_pages.describe_parts(study),
        "scaoednet_step": stage_pages.describe_step,
        "scaoednet_stages": lambda: stage_pages.describe_stages(study, folder),
        "ssdn_table": lambda: blindspot_pages.describe_table(settled),
        "ssdn_statements": lambda: blindspot_pages.describe_statements(settled),
        "ssdn_curves": lambda: blindspot_pages.describe_curves(study, folder),
        "ssdn_photograph": lambda: blindspot_pages.describe_photograph(folder),
        "ssdn_spread": lambda: blindspot_pages.describe_spread(study, folder),
        "ssdn_collapses": lambda: blindspot_pages.describe_collapses(study),
        "ssdn_recipe": lambda: blindspot_pages.describe_recipe(study),
        "ssdn_conventions": lambda: blindspot_pages.describe_conventions(study),
        "gradnet_results": lambda: gradient_pages.describe_results(settled),
        "gradnet_naive_times": gradient_pages.describe_naive_times,
        "gradnet_reason": lambda: fusion_pages.describe_reason(study),
        "gradnet_findings": lambda: fusion_pages.describe_findings(study),
        "gradnet_real": lambda: gradient_pages.describe_real(study),
        "gradnet_camera_noise": lambda: gradient_pages.describe_camera_noise(study),
        "gradnet_suspects": lambda: gradient_pages.describe_suspects(study),
        "gradnet_gradients": lambda: gradient_pages.describe_gradients(study),
        "gradnet_line": lambda: gradient_pages.describe_line(folder),
        "costs_rescored": lambda: cost_pages.describe_rescored(settled),
        "costs_real": lambda: cost_pages.describe_real(study),
        "costs_weights": cost_pages.describe_weights,
        "costs_methods": lambda: cost_pages.describe_methods(settled),
        "costs_table7": lambda: cost_pages.describe_table7(settled),
        "costs_slide": lambda: cost_pages.describe_slide(settled),
        "costs_nonlocal": lambda: cost_pages.describe_nonlocal(settled),
        "costs_times": lambda: cost_pages.describe_times(settled),
        "costs_figure": lambda: cost_pages.describe_figure(settled, study, folder),
        "data_sets": describe_data_sets,
        "experiments": lambda: describe_experiments(study),
        "ledger": lambda: describe_ledger(settled),
    }
    for name, describe in fragments.items():
        with files.write_atomically(folder / f"{name}.md") as path:
            path.write_text(describe().strip() + "\n", encoding="utf-8")


def show_verdict(word: str, text: str = "") -> str:
    """HTML of one verdict: a mark, a colour and the words, or a ``text`` that has them."""
    return f'<span class="verdict {CLASSES[word]}">{text or word}</span>'


def count_costs(settled: pd.DataFrame) -> int:
    """How many of the reproduced statements compare what two networks cost, which nothing is trained for."""
    statements = settled[(settled["metric"] == "ordering") & (settled["word"] == REPRODUCED)]
    return int(statements["variant"].str.contains("flops|parameters").sum())


def describe_answer(settled: pd.DataFrame, *papers: str) -> str:
    """Whether the image quality that is printed of one method, or of several, was reproduced: one sentence.

    A value that one source copies from another counts once.
    """
    sources = {source for paper in papers for source in PAPERS[paper]}
    claims = settled[settled["metric"].isin(["psnr", "ssim"]) & settled["source"].isin(sources)]
    claims = drop_copies(claims)
    words = claims.loc[claims["method"].isin(papers), "word"].value_counts().reindex(WORDS, fill_value=0)
    held, direction, failed, untested = words
    whose = "the four methods'" if len(papers) > 1 else f"{papers[0]}'s"
    parts = [f"{held or 'none'} {'is' if held <= 1 else 'are'} reproduced"]
    parts += [f"{direction} hold{'s' if direction == 1 else ''} in direction"] if direction else []
    not_even = "" if direction else " hold even in direction"
    parts += [f"{failed} {'does' if failed == 1 else 'do'} not{not_even}"] if failed else []
    parts += [f"{untested} could not be tested"] if untested else []
    why = ": nothing here was trained as long as its source trains" if direction + failed and not held else ""
    return f"**Of {words.sum()} printed values of {whose} image quality, {_enumerate(parts)}{why}.**"


def drop_copies(claims: pd.DataFrame) -> pd.DataFrame:
    """The claims without those that one source copies from another."""
    return claims[~claims["attributed_to"].isin(ledger.SOURCES) | (claims["attributed_to"] == claims["source"])]


def describe_tolerances() -> str:
    """What counts as reproduced."""
    rows = tables.list_tolerances()
    margin = f"The margin for networks trained here at a smaller budget is {verdicts.PSNR_TRAINED_HERE_DB:g} dB."
    lines = "\n".join(f"| {claim} | {needed} |" for claim, needed in rows.values)
    return f"| statement | reproduced if |\n|---|---|\n{lines}\n\n{margin}"


def describe_seeds(study: Study) -> str:
    """What trainings gave that differ in nothing but the seed: a line for each network that has several."""
    names = ("network", "test: set, sigma", "PSNR of each training, dB", "apart, dB", "machines")
    columns: dict[str, list[str]] = {name: [] for name in names}
    for group in study.groups:
        if group.trained and len(group.records) > 1 and group.first["evaluations"]:
            evaluation = group.first["evaluations"][0]["name"]
            means = group.per_seed(evaluation).mean()
            cells = (
                f"<code>{escape(group.first['experiment'])}</code>",
                escape(evaluation),
                ", ".join(f"{mean:.2f}" for mean in means),
                f"{means.max() - means.min():.2f}",
                str(len({record["device"] for record in group.records})),
            )
            for column, cell in zip(columns.values(), cells, strict=True):
                column.append(cell)
    if not columns["network"]:
        return "No network was trained more than once yet."
    caption = "Trainings whose settings differ in nothing but the seed; how many kinds of machine they ran on"
    return render_rows(caption, columns)


def describe_paper(settled: pd.DataFrame, paper: str) -> str:
    """What a chapter begins with: the answer, and counts of verdicts on all claims of its sources by their kind."""
    of_paper = settled[settled["source"].isin(PAPERS[paper])]
    groups = {kind: of_paper[of_paper["metric"].isin(metrics)] for kind, metrics in KINDS.items()}
    lines = [_count(kind, claims) for kind, claims in groups.items() if len(claims)]
    everything = _count(f"all {len(of_paper)} claims", of_paper, "paper")
    reproduced = of_paper[of_paper["word"] == REPRODUCED]
    sizes = int(reproduced["metric"].isin(KINDS["architecture"]).sum())
    others = int((reproduced["metric"].isin(["psnr", "ssim"]) & (reproduced["method"] != paper)).sum())
    looked_up = [f"{sizes} {'are sizes' if sizes > 1 else 'is a size'} of a network, read off ours"]
    scored = [f"{others} {'are values' if others > 1 else 'is a value'} of another method"]
    costs = count_costs(of_paper)
    compared = [f"{costs} {'say' if costs > 1 else 'says'} which of two networks has more parameters or operations"]
    parts = (looked_up if sizes else []) + (scored if others else []) + (compared if costs else [])
    of_these = f" Of the {len(reproduced)} claims below that are reproduced, {_enumerate(parts)}." if parts else ""
    table = _glance(f"<tbody>{''.join(lines)}{everything}</tbody>")
    return f"{describe_answer(settled, paper)}{of_these}\n\n{table}"


def _glance(bodies: str) -> str:
    head = "".join(f"<th>{show_verdict(word)}</th>" for word in WORDS)
    return (
        '<div class="study-table"><table class="study glance">'
        f"<thead><tr><th></th>{head}</tr></thead>{bodies}</table></div>"
    )


def _count(label: str, claims: pd.DataFrame, kind: str = "") -> str:
    words = claims["word"].value_counts()
    cells = "".join(
        f'<td data-label="{word}">{words[word]}</td>' if word in words else "<td data-empty>–</td>" for word in WORDS
    )
    return f'<tr class="{kind}"><th>{label}</th>{cells}</tr>'


def describe_headline(settled: pd.DataFrame, study: Study) -> str:
    """SADNet at its most quoted setting in one sentence."""
    paper, replication, classical = (
        _value(settled, source="001", table="Table 3", method="SADNet", dataset="Kodak24", sigma_255=50),
        _value(settled, source="000", table="Table 3", variant="replication", dataset="Kodak24", sigma_255=50),
        _value(settled, source="001", table="Table 3", method="CBM3D", dataset="Kodak24", sigma_255=50),
    )
    printed = (
        f"the paper prints {paper['value']} dB, and {classical['value']} dB for CBM3D, a filter; the "
        f"replication prints {replication['value']} dB"
    )
    if pd.isna(paper["ours"]):
        return (
            f"**SADNet on Kodak24 at sigma 50**: {printed}. Our own training of it is not finished; its "
            "place in the tables is empty until then."
        )
    value = f"{paper['ours']:.2f} dB"
    reason = escape(paper["reason"]).replace(value, f"**{value}**", 1)
    beside = ledger.find(settled, source="001", metric="ordering", dataset="Kodak24", colour="rgb", sigma_255=50)
    beside = beside[beside["variant"].str.startswith("over ")]  # others are between states of the ablation study
    beside = beside[beside["variant"] != "over CBM3D"]  # the reason has it
    missed = beside[(beside["word"] == NOT_REPRODUCED) & beside["high"].notna()]
    also = ""
    for rows, told in (
        (missed[missed["high"] < 0], "ours is not"),
        (missed[missed["high"] >= 0], "of ours that cannot be told"),
    ):
        names = [variant.removeprefix("over ") for variant in rows["variant"]]
        differences = [f"{difference:+.2f} dB" for difference in rows["difference"]]
        if names:
            also += (
                f" The paper's network is ahead of {_enumerate(names)}, too; {told} ({_enumerate(differences)}, "
                "image by image)."
            )
    return (
        f"**SADNet on Kodak24 at sigma 50**: {printed}. {show_verdict(paper['word'], paper['word'].capitalize())}: "
        f"{reason[0].lower() + reason[1:]}{also} {_describe_noise(paper, study)}".rstrip()
    )


def _describe_noise(claim: pd.Series, study: Study) -> str:
    """How the noise behind a value differs from the authors', and what its network gives on theirs."""
    named = set(str(claim["evidence"]).split())
    group = next((group for group in study.groups if set(group.names.split()) <= named), None)
    about = group and group.first.find_evaluation("kodak24", claim["sigma_255"])
    if not about or about["clip"]:
        return ""
    told = "Our noise is neither clipped nor rounded; the authors' is clipped, and in the test rounded, too."
    theirs = f"kodak24-{claim['sigma_255']:g}-clipped-rounded"
    if theirs in {evaluation["name"] for evaluation in group.first["evaluations"]}:
        same = "networks have" if len(group.records) > 1 else "network has"
        reached = group.per_image(theirs).mean()
        told += f" Tested on such noise, and trained on ours, the same {same} {reached:.2f} dB."
    return told


def _enumerate(words: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``"""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def describe_result(settled: pd.DataFrame, study: Study) -> str:
    """PSNR of SADNet on colour and on gray images: paper, replication, ours, verdict."""
    colour = ledger.find(settled, source="001", table="Table 3", method="SADNet")
    gray = ledger.find(settled, source="001", table="Table 2", method="SADNet")
    return "\n\n".join(
        [
            describe_headline(settled, study),
            _list_values("Mean PSNR in dB, colour", colour, settled),
            _list_values("Mean PSNR in dB, gray", gray, settled),
        ]
    )


def _list_values(caption: str, claims: pd.DataFrame, settled: pd.DataFrame) -> str:
    """A row for each claim on a network's PSNR; what the replication prints, where it has the same value."""
    others = ledger.find(settled, source="000", metric="psnr", variant="replication")
    columns: dict[str, list[str]] = {name: [] for name in ("images", "paper", "replication", "ours", "verdict", "why")}
    for _, claim in claims.iterrows():
        where = {name: claim[name] for name in ("dataset", "sigma_255", "colour")}
        other = ledger.find(others, **where)
        cells = (
            f"{claim['dataset']}, sigma {claim['sigma_255']:g}",
            claim["value"],
            other["value"].iloc[0] if len(other) else "–",
            _decibels(claim["ours"]),
            show_verdict(claim["word"]),
            escape(claim["reason"]),
        )
        for column, cell in zip(columns.values(), cells, strict=True):
            column.append(cell)
    if set(columns["replication"]) == {"–"}:
        del columns["replication"]
    return render_rows(caption, columns)


def describe_shortfall(study: Study, question: str, ours: str, published: str, whose: str) -> str:
    """What a network trained here has seen, against what the printed one has: begins with the ``question``.

    ``ours``: a shell pattern of experiments, of which the longest with a record counts. ``published``: the experiment
    that trains as its source does; ``whose`` training that is, as a sentence begins.
    """
    theirs = experiments.get(published, study.experiments).train_config(0)
    for group in study.groups:
        record = group.first
        if not fnmatchcase(record["experiment"], ours) or not group.smaller:
            continue
        settings = record.settings
        seen = record["steps"] * settings["batch"] * settings["patch"] ** 2
        share = theirs.steps * theirs.batch * theirs.patch**2 / seen
        images = next(entry["images"] for entry in record["data"] if entry["name"] == settings["data"])
        images -= min(settings["validation_images"], images // 4)
        narrow = settings["sizes"].get("width")
        full = build(record["method"]).sizes.width if narrow else None
        width = f", and is {narrow} channels wide in place of {full}" if narrow not in (None, full) else ""
        return (
            f"**{question}** `{record['experiment']}` saw {record['steps']:,} steps of {settings['batch']} "
            f"patches of {settings['patch']}², cut from {images} photographs of `{settings['data']}`{width}. "
            f"{whose} training has {theirs.steps:,} steps of {theirs.batch} patches of {theirs.patch}²: "
            f"{share:,.0f} times as many pixels."
        )
    return "No network of ours is finished yet."


def render_rows(caption: str, columns: dict[str, list[str]], untested: list[bool] | None = None) -> str:
    """HTML of a table from columns of HTML cells. ``untested`` says which rows are shown in grey.

    On a phone each row becomes a block: its first cell on top, below it a line for every other one with its
    column's name.
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = ""
    for number, cells in enumerate(zip(*columns.values(), strict=True)):
        grey = ' class="untested"' if untested and untested[number] else ""
        body += f"<tr{grey}>" + "".join(
            f'<td data-label="{escape(name)}"{" class=why" if name.startswith("why") else ""}>{cell}</td>'
            for name, cell in zip(columns, cells, strict=True)
        )
        body += "</tr>"
    return (
        f'<div class="study-table"><table class="study rows"><caption>{caption}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def list_statements(claims: pd.DataFrame, sentences: dict[str, str]) -> str:
    """What a source states, an item for each sentence; below, the sentences of which nothing could be tested.

    ``claims``: some of the ledger with their verdicts. ``sentences``: the sentence by the claim's variant or id, in
    the order in which they are told; ``{value}`` stands for what is printed. Claims that share a sentence stand in one
    item, by their data sets. KeyError for a claim without a sentence.
    """
    places = {key: place for place, key in enumerate(sentences)}
    keys = [variant if variant in sentences else name for name, variant in claims["variant"].items()]
    told = [sentences[key].format(value=value) for key, value in zip(keys, claims["value"], strict=True)]
    rows = claims.assign(told=told, place=[places[key] for key in keys]).sort_values("place", kind="stable")
    tested, untested = [], []
    for sentence, group in rows.groupby("told", sort=False):
        reasons = {}
        for _, claim in group.iterrows():
            where = f"{claim['dataset']}: " if len(group) > 1 and claim["dataset"] else ""
            reasons.setdefault(claim["word"], []).append(f"{where}{escape(claim['reason'])}")
        if set(reasons) == {NOT_TESTABLE}:
            untested.append(f"- *{escape(sentence, quote=False)}.* {' '.join(reasons[NOT_TESTABLE])}")
        else:
            stop = "." if len(group) > 1 else ":"
            became = " ".join(f"{show_verdict(word)}{stop} {' '.join(why)}" for word, why in reasons.items())
            tested.append(f"- *{escape(sentence, quote=False)}.* {became}")
    parts = ["\n".join(tested), "What could not be tested:" if untested else "", "\n".join(untested)]
    return "\n\n".join(part for part in parts if part)


def describe_costs(settled: pd.DataFrame) -> str:
    """The paper's parameters and operations of SADNet beside ours."""
    rows = ledger.find(settled, source="001", table="Table 7", method="SADNet")
    items = [
        f"- {claim['metric'].replace('flops', 'FLOPs')}: the paper prints {claim['value']} {claim['unit']}. "
        f"{show_verdict(claim['word'])}: {escape(claim['reason'])}"
        for _, claim in rows.iterrows()
    ]
    return "\n".join(items)


def describe_budgets(study: Study, *methods: str) -> str:
    """What each published training of some methods took."""
    rows = [
        {
            "run": record.name,
            "budget": record["budget"],
            "steps": record["steps"],
            "hours": record["seconds"] / 3600,
            "memory, GiB": record["peak_memory_mib"] / 1024 if record["peak_memory_mib"] else float("nan"),
            "device": record["device"],
            "threads": record["threads"],
        }
        for record in study.records
        if record["method"] in methods and record["budget"] != "smoke" and record["steps"]
    ]
    if not rows:
        return "No run is finished yet."
    table = pd.DataFrame(rows)
    alike = [name for name in ("budget", "device", "threads") if len(table) > 1 and table[name].nunique() == 1]
    caption = ", ".join(f"{name} {table[name].iloc[0]}" for name in alike)
    shown = table.drop(columns=alike)
    return render_table(shown, f"{methods[0]}-runs", f"All runs: {caption}" if caption else "", csv=table)


def describe_data_sets() -> str:
    """The catalogue: how many images each set has, what it is used for, on whose terms, and where it comes from."""
    rows = [
        f"| `{entry.name}` | [{entry.title}]({entry.home}) | {entry.images or '–'} | {entry.role} | {entry.licence} |"
        for entry in catalog.DATASETS.values()
    ]
    return "\n".join(["| name | what it is | images | for | terms |", "|---|---|---|---|---|", *rows])


def describe_experiments(study: Study) -> str:
    """The list of experiments, and how many records each has."""
    done = Counter(record["experiment"] for record in study.records)
    rows = [
        {
            "experiment": experiment.name,
            "budget": experiment.budget,
            "seeds": len(experiment.seeds),
            "records": done[experiment.name],
            "why": experiment.why,
        }
        for experiment in experiments.load()
    ]
    return render_table(pd.DataFrame(rows), "experiments")


def describe_ledger(settled: pd.DataFrame) -> str:
    """All claims with their verdicts: an HTML table, and controls that a script makes work."""
    rows = "".join(_ledger_row(claim) for _, claim in settled.iterrows())
    head = "".join(f"<th>{name}</th>" for name in ("claim", "what", "printed", "ours", "verdict and reason"))
    sources = _options({source: f"{source} {ledger.SOURCES[source]}" for source in settled["source"].unique()})
    words = _options({word: word for word in WORDS if (settled["word"] == word).any()})
    kinds = _options({str(number): kind for number, kind in enumerate(KINDS)})
    methods, sets = (
        _options({name: name for name in sorted(filter(None, settled[column].unique()), key=str.lower)})
        for column in ("method", "dataset")
    )
    return (
        '<div class="ledger-controls" id="ledger-controls" hidden>'
        f'<label>source<select name="source"><option value="">all</option>{sources}</select></label>'
        f'<label>kind<select name="kind"><option value="">all</option>{kinds}</select></label>'
        f'<label>method<select name="method"><option value="">all</option>{methods}</select></label>'
        f'<label>data set<select name="dataset"><option value="">all</option>{sets}</select></label>'
        f'<label>verdict<select name="verdict"><option value="">all</option>{words}</select></label>'
        '<label>words<input type="search" name="words" placeholder="kodak24 50 sadnet"></label>'
        '<span class="ledger-count" id="ledger-count" role="status"></span></div>'
        f'<div class="study-table"><table class="study" id="ledger"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def join_verdicts(study: Study) -> pd.DataFrame:
    """The claims with their verdicts, which are settled here."""
    return study.claims.join(verdicts.settle_all(study).drop(columns="id"))


def _ledger_row(claim: pd.Series) -> str:
    words = [claim["method"], claim["variant"], claim["dataset"], claim["colour"], claim["noise"]]
    words += [f"sigma {claim['sigma_255']:g}"] if pd.notna(claim["sigma_255"]) else []
    what = ", ".join(word for word in (claim["metric"].replace("_", " "), *words) if word)
    printed = f"{'about ' if claim['approx'] else ''}{claim['value']} {claim['unit']}".strip()
    if claim["metric"] in ledger.STATEMENTS:
        printed = {"+1": "yes", "1": "yes", "0": "no difference", "-1": "no"}.get(claim["value"], claim["value"])
    kind = next(str(number) for number, metrics in enumerate(KINDS.values()) if claim["metric"] in metrics)
    reason = escape(claim["reason"])
    reason += f" <code>{escape(claim['command'])}</code>" if claim["command"] else ""
    spread = _describe_spread(claim)
    reason += f'<div class="spread">{spread}</div>' if spread else ""
    place = f"{claim['source']}, {claim['table']}"
    note = f'<div class="why">{escape(claim["note"])}</div>' if claim["note"] else ""
    return (
        f'<tr id="{claim["id"]}" data-source="{claim["source"]}" data-kind="{kind}" '
        f'data-method="{escape(claim["method"])}" data-dataset="{escape(claim["dataset"])}" '
        f'data-verdict="{claim["word"]}">'
        f'<td>{escape(place)}<div class="id">{claim["id"]}</div></td><td>{escape(what)}{note}</td>'
        f'<td class="number" data-label="printed">{escape(printed)}</td>'
        f'<td class="number" data-label="ours">{_number(claim["ours"], "")}</td>'
        f'<td>{show_verdict(claim["word"])}<div class="why">{reason}</div></td></tr>'
    )


def _describe_spread(claim: pd.Series) -> str:
    """The tolerance of a verdict and the interval of its difference, unless the reason tells that interval already."""
    unit = f" {name_unit(claim)}".rstrip()
    told = [] if pd.isna(claim["tolerance"]) else [f"tolerance {claim['tolerance']:.3g}{unit}"]
    bounds = claim["low"], claim["high"]
    # The reason has two digits at least.
    in_reason = [tuple(map(float, pair)) for pair in re.findall(r"\[([+-][\d.]+), ([+-][\d.]+)\]", claim["reason"])]
    if pd.notna(claim["low"]) and not any(math.dist(bounds, pair) < 0.01 for pair in in_reason):
        low, high = (f"{bound:+.2f}" if abs(bound) >= 0.1 else f"{bound:+.2g}" for bound in bounds)
        told.append(f"{100 * LEVEL:.0f} % interval of the difference [{low}, {high}]{unit}")
    return "; ".join(told)


def describe_difference(claim: pd.Series) -> str:
    """``+0.29 [+0.23, +0.34] dB``, the difference that decides a statement, and how far it is to be trusted."""
    unit = name_unit(claim)
    mean, low, high = (f"{claim[name]:+.{2 if unit else 4}f}" for name in ("difference", "low", "high"))
    return f"{mean} [{low}, {high}] {unit}".rstrip() + describe_trust(claim)


def describe_trust(claim: pd.Series) -> str:
    """``, within chance`` or ``, a hint`` after a difference that decides little, nothing after another."""
    rounded = claim["word"] in (REPRODUCED, DIRECTION) and 0 in (claim["low"], claim["high"])  # beyond 0 by little
    if claim["low"] <= 0 <= claim["high"] and not rounded:
        return ", within chance"
    return ", a hint" if HINT in claim["reason"] else ""


def name_unit(claim: pd.Series) -> str:
    """The unit of a claim's difference. A statement has none in the ledger: its reason names what was measured."""
    measured = ("dB", "gray levels", "parameters") if claim["metric"] in ledger.STATEMENTS else ()
    return claim["unit"] or next((unit for unit in measured if re.search(rf"\b{unit}\b", claim["reason"])), "")


def _options(labels: dict[str, str]) -> str:
    return "".join(f'<option value="{escape(value)}">{escape(label)}</option>' for value, label in labels.items())


def _value(settled: pd.DataFrame, **fields) -> pd.Series:
    """The one claim with these fields."""
    found = ledger.find(settled, **fields)
    if len(found) != 1:
        raise ValueError(f"{len(found)} claims have {fields}; expected one")
    return found.iloc[0]


def _decibels(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.2f}"


def _number(value: float, missing: str = "–") -> str:
    if pd.isna(value):
        return missing
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
