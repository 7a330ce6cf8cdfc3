import re
import tomllib

import pytest
import torch

import repro
from repro import files
from repro.data import catalog
from repro.errors import ReproError
from repro.study import claims, experiments, verdicts

EXPERIMENTS = experiments.load()
TEXT = (files.results() / "experiments.toml").read_text()


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.name)
def test_every_row_makes_a_run(experiment):
    ledger = claims.load()
    for pattern in experiment.claims:
        assert len(claims.match(ledger, [pattern])), f"{pattern} fits no claim"
    for evaluation in experiment.evaluate:
        # What learns nothing may be measured on any set.
        assert experiment.train is None or catalog.find(evaluation.dataset).role.startswith("test")
    if experiment.train is not None:
        config = experiment.train_config(experiment.seeds[0])
        assert config.steps or config.seconds
        assert catalog.find(experiment.data).role.startswith("train")


def test_a_row_lists_the_claims_that_rest_on_it():
    ledger, rows = claims.load(), {experiment.name: experiment for experiment in EXPERIMENTS}
    listed = {name: set(claims.match(ledger, row.claims).index) for name, row in rows.items()}
    resting = [
        (claim, name)
        for claim, evidence in verdicts.load()["evidence"].items()
        for name in re.findall(r"(\S+)-seed\d+\b", evidence)
    ]
    assert len(resting) > 300
    assert not [(claim, name) for claim, name in resting if claim not in listed.get(name, ())]


def test_what_a_row_needs_stands_above_it():
    names = [experiment.name for experiment in EXPERIMENTS]
    needing = [experiment for experiment in EXPERIMENTS if experiment.needs]
    assert len(needing) > 10
    for experiment in needing:
        for needed in experiment.needs:
            assert names.index(needed) < names.index(experiment.name), f"{experiment.name} needs {needed}"
            assert EXPERIMENTS[names.index(needed)].publishes(0)


def test_budgets_keep_their_limits():
    gpu = [e for e in EXPERIMENTS if e.budget == "gpu" and e.train is not None]
    bound = [(e.method == "sadnet", e.train["seconds"]) for e in gpu]
    assert max(seconds for _, seconds in bound) <= 1_500, "25 minutes"
    for sitting in (True, False):  # SADNet's rows first, the rest another time: `repro accelerator`
        assert 0 < sum(seconds for first, seconds in bound if first == sitting) < 1_500
    for e in EXPERIMENTS:
        if e.train is not None and e.budget != "gpu":
            assert e.train["steps"] and not e.train.get("seconds"), f"{e.name} ends with its steps, to be repeated"


HEADLINES = {  # what the study is asked for first: method and variant's beginning, colour, levels
    ("sadnet", "full", "rgb", 30), ("sadnet", "full", "rgb", 50), ("sadnet", "full", "rgb", 70),
    ("sadnet", "full", "gray", 50), ("ssdn", "known", "rgb", 25), ("ssdn", "variable", "rgb", 25),
    ("unet", "N2C", "rgb", 25), ("unet", "N2N", "rgb", 25), ("unet", "N2V", "rgb", 25),
    ("gradnet-impl", "DnCNN", "rgb", None), ("scaoednet", "real", "rgb", None),
}  # fmt: skip


@pytest.mark.parametrize("budget", ["cpu", "gpu", "paper"])
def test_every_budget_has_the_headline_rows(budget):
    rows = [e for e in EXPERIMENTS if e.headline and e.budget == budget]
    variant = {e.name: "real" if (e.train or {}).get("pairs") and e.method == "scaoednet" else e.variant for e in rows}
    found = {(e.method, variant[e.name].split(",")[0], e.colour, e.sigma_255) for e in rows}
    assert found == HEADLINES and len(rows) == len(found)
    if budget == "cpu":
        assert {e.seeds for e in rows} == {(0, 1, 2)}
        assert all(len(e.seeds) == 1 for e in EXPERIMENTS if not e.headline)


def test_published_weights_keep_their_limit():
    """What is there, and what rows that have not run yet will add."""
    folder, size = files.results() / "weights", 0
    published = {f"{e.name}-seed{e.seeds[0]}": e for e in EXPERIMENTS if e.publishes(e.seeds[0])}
    with torch.device("meta"):
        for name, experiment in published.items():
            if (path := folder / f"{name}.safetensors").exists():
                size += path.stat().st_size
            elif experiment.budget in ("cpu", "gpu"):
                sizes = {key: value for key, value in experiment.sizes.items() if key != "naive_weights"}
                state = repro.build(experiment.method, **sizes).state_dict()
                size += 2 * sum(tensor.numel() for tensor in state.values()) + 50_000  # float16, and a header
    assert size < 80e6
    assert {path.stem for path in folder.iterdir()} <= published.keys(), (
        "what no row publishes takes the room of others"
    )


def test_no_measured_quality_is_typed_into_the_list():
    published = claims.find(claims.load(), metric=["psnr", "ssim"])["value"]
    data = re.sub(r"#.*", "", TEXT)
    assert not set(re.findall(r"\d+\.\d+", data)) & set(published)
    assert "psnr" not in data.lower()


def test_the_list_begins_with_the_main_result_and_covers_the_ablation():
    first = EXPERIMENTS[0]
    assert (first.method, first.variant, first.colour, first.sigma_255) == ("sadnet", "full", "rgb", 50)
    states = {e.variant for e in EXPERIMENTS if e.name.startswith("ablation-")}
    assert states == {"none", "rsab", "context", "rsab+context", "rsab+transfer", "full"}
    recipes = [e.train for e in EXPERIMENTS if e.name.startswith("ablation-") and e.budget == "cpu"]
    assert all(recipe == recipes[0] for recipe in recipes)


def test_names_of_evaluations():
    name = experiments.Evaluation("kodak24", 50, clip=True, round_8bit=True, patch=128, limit=2).name
    assert name == "kodak24-50-clipped-rounded-patch128-first2"
    assert experiments.Evaluation("nam25", None).name == "nam25"
    assert experiments.Evaluation("kodak24", 25, seed=3, repeats=10, pad="clean").name == (
        "kodak24-25-padded-clean-seed3-x10"
    )
    assert experiments.Evaluation("kodak24", None, events=30).name == "kodak24-poisson30"
    assert experiments.Evaluation("kodak24", None, alpha=0.5).name == "kodak24-impulse0.5"


def test_an_evaluation_has_one_kind_of_noise(tmp_path):
    old = 'name = "smoke-colour"'
    row = 'name = "other"\nwhy = ""\nmethod = "median"\nvariant = ""\ncolour = "rgb"\nsigma_255 = 25\nbudget = "cpu"\n'
    for evaluation in ("events = 30", "alpha = 0.5, sigma_255 = 25", "alpha = 0.5, events = 3"):
        more = f'{row}evaluate = [{{ dataset = "kodak24", {evaluation} }}]\n\n[[experiment]]\n{old}'
        (tmp_path / "list.toml").write_text(TEXT.replace(old, more))
        if "," in evaluation:
            with pytest.raises(ReproError, match="more than one kind of noise"):
                experiments.load(tmp_path / "list.toml")
        else:
            (found,) = experiments.get("other", experiments.load(tmp_path / "list.toml")).evaluate
            assert (found.sigma_255, found.events) == (None, 30)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('budget = "smoke"', 'budget = "huge"'), "huge|no budget"),
        (('name = "smoke-gray"', 'name = "smoke-colour"'), "twice"),
        (('data = "embedded-train"', 'data = "embedded-test"'), "on which it is trained"),
        (('pairs = "polyu"', 'pairs = "cc15"'), "tested on cc15, on which it is trained"),
        (('why = "The same in gray', 'because = "The same in gray'), "surplus|complete"),
        (("[[experiment]]", "[[experiment]"), "Cannot read"),
        (("[budget.paper]", "[budget]\npaper = 3\n[budget.other]"), "no budget|complete"),
        (('name = "smoke-gray"', 'name = "smoke-gray"\nclaims = "000-*"'), "smoke-gray has claims = '000-.'"),
        (('name = "smoke-gray"', 'name = "smoke-gray"\nseeds = ["0"]'), "smoke-gray has seeds"),
        (('name = "smoke-gray"', 'name = "smoke-gray"\nseeds = [0, 0]'), "each named once"),
        (('name = "smoke-gray"', 'name = "smoke-gray"\nheadline = "no"'), "smoke-gray has headline = 'no'"),
    ],
)
def test_a_wrong_row_is_said_in_a_sentence(tmp_path, change, says):
    assert change[0] in TEXT
    (tmp_path / "experiments.toml").write_text(TEXT.replace(*change))
    with pytest.raises(ReproError, match=says):
        experiments.load(tmp_path / "experiments.toml")


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("train = { loss = 'l1' }", "names no data to train on"),
        ("evaluate = ['kodak24']", "not complete"),
        ("data = 'bsd400'\ntrain = { seconds = 'a minute' }", "seconds = 'a minute', which is no number"),
        ("data = 'bsd400'\ntrain = { steps = true }", "steps = True, which is no number"),
        ("evaluate = [{ dataset = 'kodak24', limit = '3' }]", "limit = '3'"),
        ("evaluate = [{ dataset = 'kodak24', clip = 'false' }]", "clip = 'false'"),
    ],
)
def test_what_a_row_may_not_hold_is_said_in_a_sentence(tmp_path, lines, says):
    row = 'name = "x"\nwhy = ""\nmethod = "dncnn"\nvariant = ""\ncolour = "rgb"\nsigma_255 = 50\nbudget = "smoke"'
    (tmp_path / "list.toml").write_text(f"[[experiment]]\n{row}\n{lines}\n")
    with pytest.raises(ReproError, match=f"^list.toml: x .*{says}"):
        experiments.load(tmp_path / "list.toml")


def test_none_stands_for_nothing():
    recipe = tomllib.loads(TEXT)["budget"]["paper"]
    assert recipe["ema_decay"] == "none"
    assert experiments.get("sadnet-colour-50-paper").train["ema_decay"] is None
    with pytest.raises(ReproError, match="did you mean sadnet-colour"):
        experiments.get("sadnet-color")
