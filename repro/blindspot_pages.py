"""What the chapter on SSDN quotes, from claims, records and verdicts: no number is typed."""

from html import escape
from pathlib import Path

import pandas as pd

from repro import pages, plots
from repro.notebooks import render_table
from repro.study import claims as ledger
from repro.study import ssdn
from repro.study.verdicts import Study

NOT_YET = (
    "None of these networks is trained yet; `repro campaign --only 'ssdn-*'` runs the experiments that are listed."
)
CURVES = ("N2C", "N2N", "N2V", "known", "variable", "mean only")  # 002's Figure 1 has most of them


def describe_table(settled: pd.DataFrame) -> str:
    """Table 1 of document 002 with this study's values."""
    rows = []
    for _, claim in ledger.find(settled, source="002", table="Table 1").iterrows():
        name = f"{claim['method']} ({claim['variant']})" if claim["variant"] else claim["method"]
        copied = (
            f", copied from {ledger.CITED[claim['attributed_to']]}" if claim["attributed_to"] in ledger.CITED else ""
        )
        rows.append(
            f"<tr><td>{escape(name)}</td><td>{claim['dataset']}</td><td>{claim['value']}{copied}</td>"
            f"<td>{pages._number(claim['ours'])}</td><td>{pages.show_verdict(claim['word'])}</td>"
            f"<td>{escape(claim['reason'])}</td></tr>"
        )
    head = "".join(f"<th>{name}</th>" for name in ("method", "images", "reproduction", "ours", "verdict", "why"))
    return (
        '<div class="study-table"><table class="study"><caption>Mean PSNR in dB, colour, sigma 25</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def describe_statements(settled: pd.DataFrame) -> str:
    """What document 002 states in words, with verdicts."""
    stated = ledger.find(settled, source="002")
    stated = stated[stated["metric"].isin(ledger.STATEMENTS | {"size_ratio", "time_ratio", "psnr_loss"})]
    items = []
    for _, claim in stated.iterrows():
        where = f", {claim['dataset']}" if claim["dataset"] else ""
        what = f"SSDN, {claim['variant'] or claim['metric'].replace('_', ' ')}{where}"
        if claim["metric"] not in ledger.STATEMENTS:
            what += f": {claim['metric'].replace('_', ' ')} {claim['value']} {claim['unit']}".rstrip()
        items.append(f"- {escape(what)}. {pages.show_verdict(claim['word'])}: {escape(claim['reason'])}")
    return "\n".join(items)


def describe_curves(study: Study, folder: Path) -> str:
    """The learning curves of all methods, by steps and by hours."""
    found = {variant: ssdn._find(variant, study) for variant in CURVES}
    curves = {variant: groups[0].first.curve for variant, groups in found.items() if groups}
    if not curves:
        return NOT_YET
    parts = []
    for against in ("step", "hours"):
        plots.save(plots.draw_learning_curves(curves, against=against), folder / f"ssdn_curves_{against}.png")
        ends = {variant: curve["psnr_db"].dropna().iloc[-1] for variant, curve in curves.items()}
        best = max(ends, key=ends.get)
        alt = (
            f"PSNR against {against} of training for {', '.join(curves)}; {best} ends highest, at {ends[best]:.2f} dB."
        )
        parts.append(f"```{{image}} _generated/ssdn_curves_{against}.png\n:alt: {alt}\n```")
    return "\n\n".join(parts) + "\n\nPSNR on photographs of the training set that are kept out of training."


def describe_conventions(study: Study) -> str:
    """One and the same network under each convention that may explain 002's values on BSD300."""
    groups = ssdn._find("N2C", study)
    if not groups:
        return NOT_YET
    rows = [
        {
            "images": evaluation["dataset"],
            "how many": evaluation["images"],
            "noise": "clipped and rounded"
            if evaluation["round_8bit"]
            else "clipped"
            if evaluation["clip"]
            else "as drawn",
            "cropped to": evaluation.get("crop_multiple") or "",
            "PSNR, dB": evaluation["psnr_db"],
            "PSNR of the rounded result, dB": evaluation["psnr_rounded_db"],
        }
        for evaluation in groups[0].first["evaluations"]
    ]
    return render_table(pd.DataFrame(rows), "ssdn-conventions")
