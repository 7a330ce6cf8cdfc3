"""The methods that the sources compare with: which of them this study can run, and why not the others.

A method can be scored again where its authors' weights are at hand (:mod:`repro.published`) or where it has none to
begin with. What is said of the others is what their authors' repositories hold; the study looked into those of the
methods whose printed rows lie on images that it has, and of those whose networks it counts.
"""

from dataclasses import dataclass

import pandas as pd

from repro.study import claims as ledger

ELSEWHERE = "its weights are published ({}), but no copy of them is at hand"
NOWHERE = "its authors' repository ({}) holds no weights"


@dataclass(frozen=True)
class Comparator:
    """A compared method. ``model`` is what :func:`repro.build` calls its network; empty where there is none here."""

    model: str = ""
    reason: str = ""  # why its own weights are not scored; empty where they are


# By the name that the sources print.
COMPARATORS = {
    "BM3D": Comparator("bm3d"),
    "CBM3D": Comparator("bm3d"),
    "DnCNN": Comparator("dncnn"),
    "CDnCNN-B": Comparator("dncnn"),
    "FFDNet": Comparator("ffdnet"),
    "PD": Comparator("pd"),
    "MemNet": Comparator(
        "memnet", "its authors' Caffe network (tyshiwo/MemNet) is another one, for gray images, and not at hand"
    ),
    "RNAN": Comparator("rnan", NOWHERE.format("yulunzhang/RNAN")),
    "RIDNet": Comparator("ridnet", NOWHERE.format("saeed-anwar/RIDNet")),
    "AINDNet": Comparator(reason=NOWHERE.format("terryoo/AINDNet")),
    "CBDNet": Comparator(reason=ELSEWHERE.format("GuoShi28/CBDNet")),
    "CBDNet*": Comparator(reason=ELSEWHERE.format("GuoShi28/CBDNet") + ", and what the star stands for is not said"),
    "DANet": Comparator(reason=ELSEWHERE.format("zsyOAOA/DANet")),
    "DeamNet": Comparator(reason=ELSEWHERE.format("chaoren88/DeamNet")),
    "InvDN": Comparator(reason=ELSEWHERE.format("Yang-Liu1082/InvDN")),
    "VDN": Comparator(reason=ELSEWHERE.format("zsyOAOA/VDNet")),
    "N3Net": Comparator(
        reason="the licence of its weights (visinf/n3net) asks for a written permission to hand them on, so that "
        "no reader could repeat the score"
    ),
}
# The rest is printed on these sets alone, on which nothing can be scored here.
UNSOUGHT = "it is printed on {} only, which cannot be scored here, and its weights were not looked for"


def find_compared(claims: pd.DataFrame) -> list[str]:
    """The methods, in the sources' order, that a table of quality or cost compares a paper's own method with."""
    own = {"SADNet", "SSDN", "GradNet", "ScaoedNet", "N2C", "N2N", "N2V", ""}  # a chapter each, or part of one
    tables = claims[claims["metric"].isin({"psnr", "ssim", "parameters", "flops", "time"})]
    return [method for method in tables["method"].unique() if method not in own]


def explain(method: str, claims: pd.DataFrame) -> str:
    """Why a compared method's own weights are not scored here, as a part of a sentence; empty where they are."""
    if method in COMPARATORS:
        return COMPARATORS[method].reason
    sets = ledger.find(claims, method=method, metric=["psnr", "ssim"])["dataset"].unique()
    return UNSOUGHT.format(", ".join(sets))


def explain_claim(claim: pd.Series) -> str:
    """Why there is no score for one printed value of a compared method, on images that are here."""
    if claim["method"] not in COMPARATORS:
        return f"there is no record of {claim['method']} here"
    absence = explain_absence(claim["method"], claim["colour"], claim["sigma_255"])
    return absence or "no experiment of the list measures it"


def explain_absence(method: str, colour: str, sigma: float) -> str:
    """Why a compared method has no weights for a noise level (NaN: real noise) that could be scored here, as a part of
    a sentence; empty where it has, where it needs none, and where nobody looked for them."""
    from repro.published import SOURCES

    if method not in COMPARATORS:
        return ""
    comparator = COMPARATORS[method]
    if comparator.reason:
        return f"{method} cannot be scored here: {comparator.reason}"
    sources = [s for s in SOURCES.values() if (s.model, s.colour) == (comparator.model, colour) and s.path]
    levels = sorted({source.sigma_255 for source in sources if source.sigma_255 is not None})
    blind_to = max((source.levels_255[1] for source in sources if source.levels_255), default=0)
    if levels and pd.notna(sigma) and sigma not in levels and sigma > blind_to:
        blind = f", and blind for levels up to {blind_to:g}" if blind_to else ""
        listed = ", ".join(f"{level:g}" for level in levels)
        kind = {"rgb": "colour", "gray": "gray"}[colour]
        return f"{method}'s authors published {kind} weights for sigma {listed}{blind}, none for {sigma:g}"
    return ""


def explain_difference(claim: pd.Series, weights: str, about: dict) -> str:
    """What may explain a printed PSNR that published weights do not meet, as a part of a sentence; else empty.

    ``weights`` is their name in :data:`repro.published.SOURCES`, ``about`` the evaluation's entry in the record.
    """
    from repro.published import SOURCES

    if claim["method"] in ("BM3D", "CBM3D"):
        return "ours is the package that its authors published in 2020; with which program it was printed is not said"
    source, sigma = SOURCES.get(weights), claim["sigma_255"]
    if source is None:
        return ""
    if pd.isna(sigma):
        pd_stride = "its authors choose how far to shrink each photograph, here all are halved"
        return pd_stride if source.model == "pd" else ""
    if source.model == "dncnn" and source.sigma_255 is None:
        reason = f"its authors published no network for level {sigma:g} in colour, so this is the blind one"
    else:
        reason = "the network is the authors' own for this level"
    rounded = {words: about[f"psnr_{words}_db"] for words in ("rounded", "truncated")}
    nearest = min(rounded, key=lambda words: abs(rounded[words] - claim["number"]))
    if abs(rounded[nearest] - claim["number"]) < abs(about["psnr_db"] - claim["number"]) - 0.01:
        return f"{reason}, and with the result {nearest} to 8 bits it is {rounded[nearest]:.2f} dB"
    return f"{reason}; to round or to truncate the result to 8 bits brings it no nearer"
