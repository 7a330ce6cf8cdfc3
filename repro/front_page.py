"""What the book opens with: what held of each method and what did not, and the verdicts by method and kind of claim.

Which statements stand for a method is chosen here; what became of them, and every number, follows from the verdicts.
"""

import re
from html import escape

import pandas as pd

from repro.fusion_pages import describe_fusion
from repro.pages import KINDS, PAPERS, count_costs, describe_answer, describe_trust, name_unit, show_verdict
from repro.study import claims as ledger
from repro.study import verdicts
from repro.study.verdicts import DIRECTION, NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED, WORDS, Study

FINDINGS = {
    "SADNet": {
        "001-t3-kodak24-50-sadnet": "PSNR at sigma 50",
        "001-order-kodak24-50-over-dncnn": "above DnCNN at 50",
        "001-order-kodak24-50-over-ffdnet": "above FFDNet at 50",
        "001-order-kodak24-30-over-ffdnet": "above FFDNet at 30",
        "001-order-kodak24-70-over-ffdnet": "above FFDNet at 70",
        "001-order-ablation-full-over-none": "all parts help",
        "001-order-ablation-full-over-rsab-transfer": "context block",
        "001-direction-kernels-extend-along-edges": "kernels along edges",
    },
    "SSDN": {
        "002-t1-kodak-ssdn-known": "PSNR at sigma 25",
        "002-direction-better-than-self-supervised-kodak": "sigma unknown, above N2V",
        "002-order-kodak-known-over-cbm3d": "above CBM3D",
        "002-direction-matches-at-best-kodak": "never above N2C",
        "002-direction-clipping-defeats-estimation": "clipping defeats estimation",
    },
    "GradNet": {
        "003-results-kodak24-50-gradnet-dncnn-paper": "PSNR at sigma 50",
        "003-order-kodak24-50-gradnet-dncnn-over-dncnn": "above its DnCNN",
        "003-direction-kodak24-50-exchanged-gradients": "BM3D's gradients change nothing",
        "003-order-kodak24-50-gradnet-dncnn-over-gradnet-dncnn-mixup": "mixup hurts",
    },
    "ScaoedNet": {
        "004-order-blocks-16-over-4": "16 blocks above 4",
        "004-order-fsm-dem-over-fsm-no-dem": "DEM helps beside FSM",
        "004-order-no-fsm-dem-over-no-fsm-no-dem": "DEM helps alone",
        "004-order-stages-5-over-1": "5 stages above 1",
        "004-order-nfae-over-none": "nearer noise map: NFAE",
        "004-t2-sidd-validation-scaoednet-psnr": "PSNR on SIDD",
    },
}
"""Of each method, claims that say what it is about: ids of the ledger, and what they state in few words."""

GAPS = {
    "002-direction-matches-at-best-kodak": "equal steps",
    "002-direction-clipping-defeats-estimation": "our start:",
    "003-direction-kodak24-50-exchanged-gradients": "here",
}
"""What the difference is that decides, where the statement does not say it."""

SIDES = {"004-order-nfae-over-none": ("nearer", "farther off")}
"""What a positive and a negative difference mean, where its sign alone is hard to read."""

NO_BREAK = "\N{NO-BREAK SPACE}"
SHORT = {REPRODUCED: "reproduced", DIRECTION: "in direction", NOT_REPRODUCED: "not", NOT_TESTABLE: "not testable"}


def describe_glance(settled: pd.DataFrame, study: Study) -> str:
    """The answer, verdicts by method and kind of claim, what is reproduced, and a sentence for each method."""
    more = {paper: describe_failures(settled, study, paper) for paper in PAPERS}
    more["GradNet"] = f"{more['GradNet']} {describe_fusion(study)}".strip()
    findings = "\n".join(f"- {describe_findings(settled, paper)} {more[paper]}".rstrip() for paper in PAPERS)
    quality = settled[settled["metric"].isin(["psnr", "ssim"]) & (settled["word"] == REPRODUCED)]
    others = (~quality["method"].isin(PAPERS)).sum()
    sizes = (settled["metric"].isin(KINDS["architecture"]) & (settled["word"] == REPRODUCED)).sum()
    held = (settled["word"] == REPRODUCED).sum()
    caution = (
        f"Of the {held} claims that are reproduced, {sizes} are sizes of a network, and {others} the image quality of "
        "methods that the four are compared with."
    )
    return f"{describe_answer(settled, *PAPERS)}\n\n{render_matrix(settled)}\n\n{caution}\n\n{findings}"


def describe_counts(settled: pd.DataFrame, study: Study) -> str:
    """What the counts of verdicts do not say by themselves, as a list."""
    told = [*_describe_reproduced(settled), *_describe_failed(settled, study)]
    waiting = settled.loc[settled["waits_for"] != "", "waits_for"]
    if len(waiting):
        told.append(
            f"Of the claims that are *not testable here*, {len(waiting)} wait for experiments of the list that are not "
            f"finished ({waiting.nunique()} of them)."
        )
    told.append("A value that a source prints in two places counts twice.")
    return "\n".join(f"- {sentence}" for sentence in told)


def _describe_reproduced(settled: pd.DataFrame) -> list[str]:
    reproduced = settled[settled["word"] == REPRODUCED]
    others = reproduced[reproduced["metric"].isin(["psnr", "ssim"]) & ~reproduced["method"].isin(PAPERS)]
    filters = int(others["method"].isin(verdicts.CLASSICAL.values()).sum())
    twice = int((others["attributed_to"] != others["source"]).sum())
    sizes = int(reproduced["metric"].isin(KINDS["architecture"]).sum())
    return [
        f"*Reproduced*, image quality: {len(others)} values of methods that the four are compared with, "
        f"{len(others) - filters} of them from weights that others published, {filters} with a filter; {twice} are one "
        "source's copies of another's.",
        f"*Reproduced*, otherwise: {sizes} are sizes of a network, looked up in ours, and {count_costs(settled)} say "
        "which of two networks has more parameters or operations.",
    ]


def _describe_failed(settled: pd.DataFrame, study: Study) -> list[str]:
    small = {record.name for record in study.records if record["steps"] and record["budget"] != "paper"}
    failed = settled[settled["word"] == NOT_REPRODUCED]
    briefly = sum(bool(small & set(evidence.split())) for evidence in failed["evidence"].fillna(""))
    # Of a printed value, the interval is around that value.
    differences = failed[failed["metric"].isin(ledger.STATEMENTS)]
    undecided = int(((differences["low"] <= 0) & (differences["high"] >= 0)).sum())
    unmet = failed[failed["metric"].isin(KINDS["architecture"])]
    copied = int((unmet["source"] == "000").sum())
    told = [
        f"*Not reproduced*: of {len(failed)} claims, {briefly} were held against networks that were trained here in a "
        "small part of the paper's time: these verdicts say what that gives, and do not refute the paper. "
        f"{undecided} of the {len(failed)} are differences that cannot be told from 0."
    ]
    if copied:
        told.append(
            f"*Not reproduced*, architecture: {len(unmet)} are sizes, or numbers of units, in which our network is "
            f"another; {copied} of them stand in the replication's own table, which may be right about its own network."
        )
    return told


def describe_findings(settled: pd.DataFrame, paper: str) -> str:
    """One sentence: what stands for a method, by the words of the verdicts, each with its numbers and its place in the
    ledger."""
    rows = settled.loc[list(FINDINGS[paper])]
    parts = []
    for word in WORDS:
        told = [
            f'{escape(FINDINGS[paper][name])} (<a href="ledger.html#{name}">{_describe_numbers(claim)}</a>)'
            for name, claim in rows[rows["word"] == word].iterrows()
        ]
        if told:
            parts.append(f"{show_verdict(word)}: {', '.join(told)}")
    return f"**{paper}**: {'; '.join(parts)}."


def describe_failures(settled: pd.DataFrame, study: Study, paper: str) -> str:
    """Which of the trainings that a method's claims rest on failed, where others of the same settings did not."""
    named = {name for claim in FINDINGS[paper] for name in str(settled.loc[claim, "evidence"]).split()}
    told = []
    for group in study.groups:
        lost = [record for record in group.records if record.ran_away or record.gives_back_noise]
        if not set(group.names.split()) <= named or not 0 < len(lost) < len(group.records):
            continue
        means = group.per_seed(group.first["evaluations"][0]["name"]).mean()
        failed = [record.name for record in lost]
        how = "sampling points ran away" if lost[0].ran_away else "the noisy image came back"
        values, others = (
            ", ".join(f"{means[record.name]:.2f}" for record in group.records if (record.name in failed) == which)
            for which in (True, False)
        )
        rest = "other has" if len(group.records) - len(lost) == 1 else "others have"
        told.append(
            f"In {len(lost)} of the {len(group.records)} trainings of `{group.first['experiment']}` {how}: {values} "
            f"dB, where the {rest} {others}."
        )
    return " ".join(told)


def _describe_numbers(claim: pd.Series) -> str:
    """``printed 29.64 dB, ours 29.22 dB``, or the difference that decides a statement."""
    unit = f" {name_unit(claim)}".rstrip().replace(" ", NO_BREAK)
    if claim["metric"] in ledger.STATEMENTS:
        sign = f"{claim['difference']:+.2f}".replace("-", "−")
        if claim["id"] in SIDES and pd.notna(claim["difference"]):
            return f"{abs(claim['difference']):.2f}{unit} {SIDES[claim['id']][claim['difference'] < 0]}"
        label = f"{GAPS[claim['id']]} " if claim["id"] in GAPS else ""
        scales = re.match("Holds at ([^.]*)", claim["reason"])
        elsewhere = scales[1] if scales else "see there"
        return f"{label}{sign}{unit}{describe_trust(claim)}" if unit and pd.notna(claim["difference"]) else elsewhere
    printed = f"printed {'about ' if claim['approx'] else ''}{claim['value']}{unit}"
    digits = max(2 if claim["unit"] == "dB" else 1, len(claim["value"].partition(".")[2]))
    return printed if pd.isna(claim["ours"]) else f"{printed}, ours {claim['ours']:.{digits}f}{unit}"


def render_matrix(settled: pd.DataFrame) -> str:
    """HTML of the verdicts: a row for each method, a column for each kind of claim, in every cell counts with their
    words."""
    rows = ""
    for paper, sources in PAPERS.items():
        of_paper = settled[settled["source"].isin(sources)]
        if len(of_paper):
            rows += _row(f'<a href="{paper.lower()}.html">{paper}</a>', of_paper)
    head = "".join(f'<th scope="col">{kind}</th>' for kind in KINDS)
    caption = f"{len(settled)} claims: how many are {', '.join(WORDS[:-1])}, or {WORDS[-1]}"
    return (
        f'<div class="study-table at-a-glance"><table class="study rows matrix"><caption>{caption}</caption>'
        f'<thead><tr><th scope="col">method</th>{head}</tr></thead><tbody>{rows}{_row("all", settled)}</tbody></table>'
        "</div>"
    )


def _row(name: str, claims: pd.DataFrame) -> str:
    cells = ""
    for kind, metrics in KINDS.items():
        words = claims.loc[claims["metric"].isin(metrics), "word"].value_counts()
        counts = "".join(show_verdict(word, f"{words[word]} {SHORT[word]}") for word in WORDS if word in words)
        cells += f'<td data-label="{kind}">{counts}</td>'
    return f'<tr><th scope="row">{name}<div class="why">{len(claims)} claims</div></th>{cells}</tr>'
