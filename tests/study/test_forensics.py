"""Disagreements: what may be written about one, what its effect is, and that nothing is claimed without a record."""

import re
import shlex

import click
import pandas as pd
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from repro import forensic_pages, gradients
from repro.cli import _assignments, app
from repro.data import catalog
from repro.errors import ReproError
from repro.models import model_class
from repro.models.sadnet import SADNetSizes
from repro.study import claims, experiments, forensics, verdicts
from repro.study import records as archive
from repro.study.forensics import Column, Comparison, Effect, Gap
from repro.study.statistics import Interval
from repro.study.verdicts import Group, Study
from repro.train_config import TrainConfig

ENTRIES = forensics.load()
EXPERIMENTS = {experiment.name: experiment for experiment in experiments.load()}
LEDGER = claims.load()
COMPARISONS = [pytest.param(c, id=f"{entry.id}-{k}") for entry in ENTRIES for k, c in enumerate(entry.comparisons)]
COMMANDS = [pytest.param(c, id=f"{entry.id}-{k}") for entry in ENTRIES for k, c in enumerate(entry.commands)]


def make_study(*records) -> Study:
    return Study(LEDGER, [], list(records))


def compare_experiments(a="one", b="two", metric="psnr_db", **settings) -> Comparison:
    columns = (Column.parse(f"{name}/kodak24-50/{metric}") for name in (a, b))
    return Comparison("changed", *columns, **settings)


# --- the committed list


@pytest.mark.parametrize(
    ("words", "experiment"),
    [
        ("truncated", "sadnet-colour-50"), ("clipped and rounded", "noise-clipped"), ("128x128", "reading-replication"),
        ("initialisation", "initialisation-default"), ("from zeros", "initialisation-zero-offsets"),
        ("head, tail and activations", "reading-replication"),
        ("nothing handed on", "ablation-rsab-context"), ("clipped in training and testing", "ssdn-known-clipped"),
        ("rounded to 8 bits", "ssdn-known"), ("second draw", "ssdn-n2v-port"), ("no averaging", "ssdn-n2v-plain"),
        ("a level for every value", "gradnet-naive-pixel-level"), ("slides' form", "gradnet-impl-dncnn"),
        ("no gradients", "gradnet-impl-dncnn"), ("two layers", "scaoednet-separate-fusion"),
    ],
)  # fmt: skip
def test_what_must_be_measured_is_listed(words, experiment):
    assert any(
        words in comparison.change and comparison.a.experiment == experiment
        for entry in ENTRIES
        for comparison in entry.comparisons
    )


@pytest.mark.parametrize("comparison", COMPARISONS)
def test_a_comparison_can_be_measured_by_the_experiments_it_names(comparison):
    for column in (comparison.a, comparison.b):
        experiment = EXPERIMENTS[column.experiment]
        kind, _, rest = column.evaluation.partition("-")
        if kind == "stage":
            assert experiment.stages and 1 <= int(rest) <= experiment.sizes.get("stages", 5)
        elif kind == "gradient":
            assert experiment.gradients and rest.rpartition("-")[0] in gradients.KINDS
        else:
            assert column.evaluation in {evaluation.name for evaluation in experiment.evaluate}


@pytest.mark.parametrize("comparison", COMPARISONS)
def test_two_trainings_differ_in_what_is_declared_and_in_nothing_else(comparison):
    one, two = (EXPERIMENTS[column.experiment] for column in (comparison.a, comparison.b))
    if one.train is None or two.train is None:
        assert not comparison.differs
        return
    first, second = (experiment.train_config(0).hyperparameters() for experiment in (one, two))
    found = {name for name in first if first[name]["value"] != second[name]["value"]}
    assert found - {"model", "sizes", "seed"} == set(comparison.differs)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_printed_command_is_one_that_runs(command):
    assert not set(shlex.shlex(command, posix=True, punctuation_chars=True)) & set("()<>|&;"), "a shell reads these"
    program, name, *arguments = shlex.split(command)
    assert program == "repro"
    group = typer.main.get_command(app)
    context = group.get_command(click.Context(group), name).make_context(name, arguments)
    given_here = context.params
    if name == "evaluate":
        catalog.find(given_here["data"])
        return
    assert name == "train"
    experiment = EXPERIMENTS[given_here["experiment"]]
    settings = {key: given_here[key] for key in ("data", "steps", "patch", "batch") if given_here[key] is not None}
    sizes = {"sizes": _assignments(given_here["size"])} if given_here["size"] else {}
    before = experiment.train_config(0).hyperparameters()
    kept = {key: entry["value"] for key, entry in before.items()} | settings | sizes
    config = TrainConfig(**(kept | _assignments(given_here["setting"])))
    if sizes:
        assert set(experiment.sizes) - {"naive", "naive_weights"} <= set(config.sizes), "--size replaces all of them"
        sizes_of = model_class(config.model).Sizes
        assert sizes_of(**config.sizes) != sizes_of(**experiment.sizes)


def test_what_no_option_measures_is_not_said_to_have_no_effect():
    assert not [entry.id for entry in ENTRIES if "option" in entry.no_effect]


def test_a_joint_effect_is_told_once_and_its_points_say_why_not_theirs():
    joint = [comparison for entry in ENTRIES for comparison in entry.comparisons if comparison.joint]
    assert len(joint) > 1
    told = [(comparison.a, comparison.b) for entry in ENTRIES for comparison in entry.comparisons]
    by_id = {entry.id: entry for entry in ENTRIES}
    for comparison in joint:
        assert told.count((comparison.a, comparison.b)) == 1
        for point in map(by_id.get, comparison.joint):
            assert point.comparisons or point.commands or point.unmeasured, point.id


def test_the_joint_effect_of_the_replication_is_taken_apart_by_experiments():
    """The parts that are trained apart make up the replication's network, and nothing else does."""
    (joint,) = (c for e in ENTRIES for c in e.comparisons if c.a.experiment == "reading-replication" and c.joint)
    apart = [c for entry in ENTRIES if entry.id in joint.joint for c in entry.comparisons if c.b == joint.b]
    readings = {EXPERIMENTS[comparison.a.experiment].sizes["reading"] for comparison in apart}
    named = {reading: SADNetSizes(reading=reading) for reading in readings}
    whole, authors = SADNetSizes(reading="replication"), SADNetSizes()
    assert len(named) == 2
    for option in ("activates_everywhere", "concatenates_input"):
        assert getattr(whole, option) and not getattr(authors, option)
        assert sum(getattr(part, option) for part in named.values()) == 1, "each in one part alone"


def test_a_change_of_our_recipe_alone_does_not_count_as_measured(make_record, tmp_path):
    body = 'commands = ["repro doctor"]\n' + COMPARISON.format("one") + "ours_only = true\n"
    study = make_study(make_record("one", [40.0, 41.0, 39.0]), make_record("base", [29.0, 30.5, 28.8]))
    (finding,) = forensics.find(study, forensics.load(write(tmp_path, make_entry("rate", body))))
    assert finding.effects and (finding.state, finding.order) == (forensics.WAITING, (True, 0))
    assert not forensics.list_effects([finding])


def test_claims_are_in_the_ledger():
    named = [name for entry in ENTRIES for name in (*entry.claims, *(side for pair in entry.printed for side in pair))]
    assert named and set(named) <= set(LEDGER.index)


def test_no_result_is_typed():
    for entry in ENTRIES:
        reasons = (entry.unmeasured, entry.no_effect)
        for text in (entry.point, entry.paper, entry.reproduction, entry.code, entry.ours, *reasons):
            assert not re.search(r"\d\s*dB|\b\d\d\.\d", text), (entry.id, text)


# --- reading


def write(tmp_path, text: str):
    path = tmp_path / "forensics.toml"
    path.write_text(text)
    return path


HEAD = '[[disagreement]]\nid = "x"\nmethod = "SADNet"\npoint = "p"\nours = "o"\n'
COMPARISON = '[[disagreement.comparison]]\nchange = "c"\na = "{}/kodak24-50/psnr_db"\nb = "base/kodak24-50/psnr_db"\n'


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('paper = "s"\n', "what measures it"),
        ('paper = "s"\nno_effect = "n"\ncommands = ["repro doctor"]\n', "not both"),
        ('paper = "s"\nno_effect = "n"\nunmeasured = "u"\n', "not both"),
        ('no_effect = "n"\n', "no source"),
        ('paper = "s"\nno_effect = "n"\nsize = 1\n', "surplus"),
        ('paper = "s"\n[[disagreement.comparison]]\nchange = "c"\na = "one/two"\nb = "a/b/psnr_db"\n', "form"),
        ('paper = "s"\n[[disagreement.comparison]]\nchange = "c"\na = "a/b/seconds"\nb = "a/b/psnr_db"\n', "measure"),
        ('paper = "s"\n[[disagreement.comparison]]\nchange = "c"\na = "a/b/ssim"\nb = "a/b/psnr_db"\n', "SSIM with dB"),
        ('paper = "s"\n[[disagreement.comparison]]\nchange = "c"\na = "a/b/ssim"\nb = "a/b/ssim"\n', "itself"),
        ('paper = "s"\n' + COMPARISON.format("a") + 'joint = ["y", "x"]\n', "'y', which is not listed"),
        ('paper = "s"\n' + COMPARISON.format("a") + 'joint = ["x"]\n', "single point"),
        ('paper = "s"\n' + COMPARISON.format("a") + "ours_only = true\n", "nobody's way"),
        ('paper = "s"\nno_effect = "n"\n' + HEAD + 'paper = "s"\nno_effect = "n"\n', "twice"),
    ],
)
def test_a_wrong_entry_is_named_in_one_sentence(tmp_path, body, said):
    with pytest.raises(ReproError, match=said) as raised:
        forensics.load(write(tmp_path, HEAD + body))
    assert "x" in str(raised.value)


@pytest.mark.parametrize("body", ['disagreement = ["x"]\n', '[disagreement]\nid = "x"\n'])
def test_what_is_no_list_of_tables_is_refused(tmp_path, body):
    with pytest.raises(ReproError, match=r"\[\[disagreement\]\]"):
        forensics.load(write(tmp_path, body))


def test_a_foreign_method_is_refused(tmp_path):
    with pytest.raises(ReproError, match="no method of"):
        forensics.load(write(tmp_path, HEAD.replace("SADNet", "BM3D") + 'paper = "s"\nno_effect = "n"\n'))


# --- measuring


def test_an_effect_comes_from_the_records(make_record):
    study = make_study(make_record("one", [30.0, 31.0, 29.0]), make_record("two", [29.0, 30.5, 28.8]))
    effect = forensics.measure(compare_experiments(), study)
    assert effect.interval.mean == pytest.approx((1.0 + 0.5 + 0.2) / 3)
    assert (effect.interval.count, effect.unit, effect.same_network, effect.word) == (3, "dB", False, "higher")
    assert effect.runs == "two trainings of 10 steps"


def test_two_columns_of_one_record_are_one_network(make_record):
    study = make_study(make_record("one", [30.0, 31.0]))
    a, b = (Column.parse(f"one/kodak24-50/{metric}") for metric in ("psnr_rounded_db", "psnr_db"))
    effect = forensics.measure(Comparison("rounded", a, b), study)
    assert effect.same_network and effect.interval.mean == -10.5 and effect.tolerance == verdicts.PSNR_DB


def test_a_published_network_scored_in_another_experiment_is_still_one_network(make_record):
    trained = make_record("two", [30.0, 31.0])
    again = make_record("one", [29.0, 30.0], weights="two-seed0")
    effect = forensics.measure(compare_experiments(), make_study(trained, again))
    assert effect.same_network and effect.interval.mean == -1
    assert effect.runs == "one network, two"


def test_where_one_seed_was_scored_again_the_others_take_no_part(make_record):
    seeds = [make_record("two", [value, value + 1], seed=k) for k, value in enumerate((30.0, 35.0))]
    again = make_record("one", [29.0, 30.5], weights="two")
    effect = forensics.measure(compare_experiments(), make_study(*seeds, again))
    assert effect.same_network and effect.interval.mean == -0.75 and effect.runs == "one network, two"


def test_seeds_are_averaged_and_their_spread_is_in_the_interval(make_record):
    seeds = [make_record("one", values, seed=k) for k, values in enumerate(([30.0, 32.0], [32.0, 30.0]))]
    effect = forensics.measure(compare_experiments(), make_study(*seeds, make_record("two", [30.0, 30.0])))
    assert (effect.interval.mean, effect.interval.count) == (1.0, 2)
    assert effect.interval.low < 1 < effect.interval.high, "each seed is better on another image"
    assert effect.runs == "the mean of 2 trainings against one training, of 10 steps"


def test_what_has_no_record_is_missing_with_its_command(make_record):
    gap = forensics.measure(compare_experiments(), make_study(make_record("two", [29.0, 30.0])))
    assert isinstance(gap, Gap) and gap.command == "repro campaign --only one"
    assert forensics.measure(compare_experiments(), make_study()).command == "repro campaign --only one --only two"


def test_a_smoke_run_measures_nothing(make_record):
    records = make_record("one", [30.0, 31.0], budget="smoke"), make_record("two", [30.0, 31.0])
    assert isinstance(forensics.measure(compare_experiments(), make_study(*records)), Gap)


def test_runs_that_differ_in_something_else_are_not_compared(make_record):
    study = make_study(make_record("one", [30.0, 31.0], lr=1e-3), make_record("two", [30.0, 31.0], lr=1e-4))
    gap = forensics.measure(compare_experiments(), study)
    assert isinstance(gap, Gap) and "lr" in gap.reason and not gap.command
    assert isinstance(forensics.measure(compare_experiments(differs=("lr",)), study), Effect)


def test_a_missing_column_is_no_effect(make_record):
    study = make_study(make_record("one", [30.0, 31.0]), make_record("two", [30.0, 31.0]))
    for evaluation in ("kodak24-30", "stage-2", "gradient-zero-25"):
        column = Column("one", evaluation, "psnr_db")
        gap = forensics.measure(Comparison("changed", column, compare_experiments().b), study)
        assert isinstance(gap, Gap) and evaluation in gap.reason


def test_other_images_are_an_error(make_record):
    study = make_study(make_record("one", [30.0, 31.0, 32.0]), make_record("two", [30.0, 31.0]))
    with pytest.raises(ReproError, match="same images"):
        forensics.measure(compare_experiments(), study)


def test_stages_and_gradients_are_read_from_their_tables(make_record):
    record = make_record("one", [30.0, 31.0])
    stages = pd.DataFrame({"image": ["a", "b"] * 2, "stage": [1, 1, 2, 2], "psnr_db": [20.0, 21.0, 25.0, 26.0]})
    stages.to_csv(record.folder / "stages.csv", index=False)
    kinds = pd.DataFrame({"image": ["a", "b"] * 2, "gradient": ["own", "own", "zero", "zero"]})
    kinds = kinds.assign(sigma_255=25.0, psnr_db=[30.0, 31.0, 29.0, 28.0])
    kinds.to_csv(record.folder / "gradients.csv", index=False)
    for a, b, mean in (("stage-2", "stage-1", 5.0), ("gradient-zero-25", "gradient-own-25", -2.0)):
        comparison = Comparison("changed", *(Column("one", side, "psnr_db") for side in (a, b)))
        assert forensics.measure(comparison, make_study(record)).interval.mean == mean


# --- words and order


def make_effect(mean, low, high, metric="psnr_db", same=False) -> Effect:
    comparison = compare_experiments(metric=metric)
    one, two = (Group(({"experiment": name, "seed": 0, "hyperparameters": {}},)) for name in ("one", "two"))
    return Effect(comparison, Interval(mean, low, high, 24), two if same else one, two)


@pytest.mark.parametrize(
    ("numbers", "word"),
    [
        ((0.5, 0.4, 0.6), "higher"), ((-0.5, -0.6, -0.4), "lower"), ((0.5, -0.1, 1.0), "not told from 0"),
        ((-0.09, -0.1, -0.08), "lower, within tolerance"), ((0.01, 0.009, 0.011), "higher, within tolerance"),
        ((0.5, float("nan"), float("nan")), "one image, no interval"),
    ],
)  # fmt: skip
def test_the_word_follows_from_the_number(numbers, word):
    assert make_effect(*numbers).word == word


@given(st.tuples(*[st.floats(-5, 5)] * 3).map(sorted))
def test_the_other_way_round_the_word_turns_and_nothing_else(numbers):
    low, mean, high = numbers
    there, back = make_effect(mean, low, high).word, make_effect(-mean, -high, -low).word
    turned = {"higher": "lower", "lower": "higher"}
    assert back == " ".join(turned.get(part, part) for part in there.replace(",", " ,").split()).replace(" ,", ",")
    assert ("not told" in there) == (low <= 0 <= high)


def test_one_network_scored_again_has_the_narrower_tolerance():
    assert make_effect(-0.09, -0.1, -0.08, same=True).word == "lower"


def test_ssim_has_no_tolerance_in_decibels():
    assert make_effect(0.01, 0.005, 0.02, metric="ssim").word == "higher"


def make_entry(name: str, body: str) -> str:
    return HEAD.replace('"x"', f'"{name}"').replace('"p"', f'"point {name}"') + 'paper = "s"\n' + body


def test_measured_first_by_size_then_what_waits_then_what_cannot_be(make_record, tmp_path):
    texts = [
        make_entry("never", 'no_effect = "n"\n'), make_entry("no-option", 'unmeasured = "u"\n'),
        make_entry("waits", COMPARISON.format("absent")), make_entry("small", COMPARISON.format("near")),
        make_entry("by-hand", 'commands = ["repro doctor"]\n'),
        make_entry("large", COMPARISON.format("far") .replace("[[", 'unmeasured = "u"\n[[', 1)),
    ]  # fmt: skip
    records = [make_record(name, [30 + d, 31 + d]) for name, d in (("base", 0.0), ("near", 0.1), ("far", -2.0))]
    study = make_study(*records)
    found = forensics.find(study, forensics.load(write(tmp_path, "".join(texts))))
    assert [finding.disagreement.id for finding in found] == [
        "large", "small", "waits", "by-hand", "no-option", "never",
    ]  # fmt: skip
    states = [forensics.MEASURED] * 2 + [forensics.WAITING] * 3 + [forensics.NO_EFFECT]
    assert [finding.state for finding in found] == states
    assert [finding.can_be_run for finding in found] == [False, False, True, True, False, False]
    counts = forensic_pages.describe_counts(found)
    assert "The effect of 2 is measured. Of the rest, 2 are not measured yet, with the command" in counts
    assert "1 are not measured, with the reason; and 1 have no effect on a picture" in counts
    assert [effect.comparison.a.experiment for _, effect in forensics.list_effects(found)] == ["far", "near"]


def test_what_is_told_from_0_comes_before_larger_means_that_are_not(make_record, tmp_path):
    names = ("untold", "told", "small")
    shifts = ([-9.0, 1.0], [-1.0, -0.9], [0.2, 0.3])
    base = make_record("base", [30.0, 31.0])
    records = [make_record(name, [30 + a, 31 + b]) for name, (a, b) in zip(names, shifts, strict=True)]
    entries = "".join(make_entry(name, COMPARISON.format(name)) for name in names)
    found = forensics.find(make_study(base, *records), forensics.load(write(tmp_path, entries)))
    assert [finding.disagreement.id for finding in found] == ["told", "small", "untold"]
    assert [effect.comparison.a.experiment for _, effect in forensics.list_effects(found)] == [
        "told",
        "small",
        "untold",
    ]
    shown = forensic_pages.describe_effects(found, tmp_path)
    assert "The 2 largest effects that can be told from 0." in shown and shown.count("−4.00 dB") == 0
    assert shown.endswith("1 other mean as large cannot be told from 0.")
    assert forensic_pages.describe_effects(found[2:], tmp_path) == forensic_pages.UNCLEAR


def test_an_effect_that_rests_on_a_failed_training_names_it(make_record, tmp_path):
    base = make_record("base", [30.0, 31.0])
    seeds = [make_record("one", [value, value + 1], seed=seed) for seed, value in enumerate((30.1, 20.0))]
    table = pd.read_csv(seeds[1].folder / "metrics.csv")
    table.assign(sigma_255=50.0, psnr_noisy_db=table["psnr_db"]).to_csv(seeds[1].folder / "metrics.csv", index=False)
    seeds[1] = archive.read(seeds[1].folder)
    near = make_record("near", [30.2, 31.3])
    entries = forensics.load(write(tmp_path, "".join(make_entry(n, COMPARISON.format(n)) for n in ("one", "near"))))
    found = forensics.find(make_study(base, near, *seeds), entries)
    shown = forensic_pages.describe_effects(found, tmp_path)
    assert "1 other mean as large cannot be told from 0. It rests on trainings that failed" in shown
    assert "(`one-seed1`)" in shown
    page = forensic_pages.describe_table(found, pd.DataFrame())
    assert page.count("failed, and gave back the noisy images: one-seed1") == 1
    rows = forensic_pages.list_rows(found).set_index("id")
    assert rows.loc["one", "gave_back_noise"] == "one-seed1" and not rows.loc["near", "gave_back_noise"]


# --- the page


@pytest.fixture(scope="module")
def findings():
    return forensics.find(Study.load())


@pytest.fixture(scope="module")
def table(findings):
    return forensic_pages.describe_table(findings, LEDGER.join(verdicts.load().drop(columns="id")))


def test_every_disagreement_has_a_row_and_nothing_is_left_unsaid(findings, table):
    rows = dict(re.findall(r'<tr id="([^"]+)".*?(<td>.*?)</tr>', table))
    assert list(rows) == [finding.disagreement.id for finding in findings]
    for finding in findings:
        effect = rows[finding.disagreement.id].rpartition("<td>")[2]
        if finding.state == forensics.WAITING:
            assert "not measured" in effect and "nothing to measure" not in effect
            why = [gap.reason for gap in finding.gaps] + [finding.disagreement.unmeasured]
            assert ("<code>repro " in effect) == finding.can_be_run or all(why)
            assert finding.can_be_run or any(why)
        whole = re.sub("for scale, as no source does it: <b>.*?</b>", "", effect)
        assert bool(re.search(r"<b>[+−]\d", whole)) == (finding.state == forensics.MEASURED)


def test_an_effect_of_a_training_whose_sampling_points_ran_away_is_marked(findings, table, tmp_path):
    every = [effect for finding in findings for effect in finding.effects]
    away = [effect for effect in every if effect.ran_away]
    assert 0 < len(away) < len(every) / 4 and any(effect.same_network for effect in away)
    assert table.count("sampling points ran away") == len(away)
    shown = forensic_pages.describe_effects(findings, tmp_path)
    assert "An asterisk marks" in shown
    told = re.search(r":alt: (.*)", shown)[1]
    for entry, effect in forensics.list_effects(findings)[:3]:
        mark, value = "*" if effect.ran_away else "", forensic_pages.show_interval(effect.interval, "dB")
        assert f"{forensic_pages.name_effect(entry, effect)}{mark}: {value}" in told
    calm = [f for f in findings if not any(effect.ran_away for effect in f.effects)]
    assert "asterisk" not in forensic_pages.describe_effects(calm, tmp_path)


def test_a_row_escapes_what_it_shows(make_record, tmp_path):
    text = HEAD.replace('"p"', '"<script>"') + 'paper = "a < b and `c > d`"\nno_effect = "n & m"\n'
    found = forensics.find(make_study(), forensics.load(write(tmp_path, text)))
    page = forensic_pages.describe_table(found, pd.DataFrame())
    assert "<script>" not in page and "a &lt; b and <code>c &gt; d</code>" in page and "n &amp; m" in page


def test_what_cannot_be_measured_says_why(tmp_path):
    found = forensics.find(
        make_study(), forensics.load(write(tmp_path, make_entry("x", 'unmeasured = "no `x < y`"\n')))
    )
    page = forensic_pages.describe_table(found, pd.DataFrame())
    assert 'data-state="not measured"' in page
    assert 'not measured<div class="why">no <code>x &lt; y</code></div>' in page
    assert forensic_pages.list_rows(found)["command"].tolist() == ["no `x < y`"]


def test_a_joint_effect_has_one_number_and_names_its_points(make_record, tmp_path):
    texts = [
        make_entry("all", COMPARISON.format("far") + 'joint = ["one", "two"]\n'),
        make_entry("one", 'unmeasured = "u"\n'), make_entry("two", 'commands = ["repro doctor"]\n'),
    ]  # fmt: skip
    entries = forensics.load(write(tmp_path, "".join(texts)))
    for records in ([], [make_record("base", [30.0, 31.0]), make_record("far", [28.0, 29.0])]):
        page = forensic_pages.describe_table(forensics.find(make_study(*records), entries), pd.DataFrame())
        rows = dict(re.findall(r'<tr id="([^"]+)".*?(<td>.*?)</tr>', page))
        links = '<a href="#one">point one</a>; <a href="#two">point two</a>'
        assert f"one joint effect of 2 points: {links}" in rows["all"]
        assert page.count("<b>−2.00 dB") == bool(records) == rows["all"].count("<b>−2.00 dB")
        for name in ("one", "two"):
            assert "not measured separately" in rows[name]
            assert 'one of the 2 points whose joint effect stands at <a href="#all">point all</a>' in rows[name]


def test_without_records_the_page_says_so(tmp_path):
    found = forensics.find(make_study())
    assert forensic_pages.describe_effects(found, tmp_path) == forensic_pages.EMPTY
    assert "not measured yet" in forensic_pages.describe_patches(found)
    assert "The effect of 0 is measured" in forensic_pages.describe_counts(found)
    assert not list(tmp_path.iterdir())


def test_the_picture_has_a_description_and_is_small(findings, tmp_path):
    shown = forensic_pages.describe_effects(findings, tmp_path)
    if shown == forensic_pages.EMPTY:
        pytest.skip("nothing is measured yet")
    assert re.search(r":alt: Effects of \d+ ", shown)
    assert (tmp_path / "forensics_effects.png").stat().st_size < 300 * 1024


def test_intervals_have_a_true_minus_and_enough_digits():
    assert forensic_pages.show_interval(Interval(-1.654, -2.2357, -1.2104, 24), "dB") == "−1.65 dB [−2.24, −1.21]"
    assert forensic_pages.show_interval(Interval(0.0048, 0.004, 0.0057, 24), "dB") == "+0.005 dB [+0.004, +0.006]"
    assert forensic_pages.show_interval(Interval(0.5, float("nan"), float("nan"), 1), "dB") == "+0.50 dB"


def test_the_spreadsheet_has_every_comparison(findings):
    rows = forensic_pages.list_rows(findings)
    assert set(rows["id"]) == {entry.id for entry in ENTRIES}
    assert rows["change"].notna().sum() == sum(len(entry.comparisons) for entry in ENTRIES)
