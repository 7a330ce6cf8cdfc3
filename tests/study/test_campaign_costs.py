"""What a budget costs: arithmetic by hand, and no plan that pays less than the arithmetic or wins more than it has."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import repro
from repro.study import campaign_costs, experiments
from repro.study.campaign_costs import Run, Throughput, choose_throughput, measure_throughputs, plan, speed_up
from repro.study.costs import measure_cost

TERA = 1e12
CPU = Throughput("A Processor, 2 cores", "sadnet", "32", 1e11, "a record")
GPU = Throughput("A GPU", "sadnet", "32", TERA, "another")


def run(hours, batch=16, name="r"):
    """A run of so many hours on one GPU."""
    return Run(name, "sadnet", "32", batch, hours * 3600 * TERA)


def test_the_arithmetic_of_the_paper_s_run_by_hand():
    entry = experiments.get("sadnet-colour-50-paper")
    (found,) = campaign_costs.list_runs([entry])
    macs = measure_cost(repro.build("sadnet"), 128, 128).macs
    assert found.multiply_adds == 960_000 * 16 * macs
    assert (found.batch, found.precision, found.name) == (16, "32", "sadnet-colour-50-paper-seed0")


def test_only_trainings_of_the_budget_are_counted():
    listed = experiments.load()
    runs = campaign_costs.list_runs(listed, "paper")
    assert len(runs) == sum(len(e.seeds) for e in listed if e.budget == "paper" and e.train is not None)
    assert campaign_costs.list_runs(listed, "gpu") == []  # they end by the clock


def test_the_throughput_of_a_record_by_hand(make_record):
    record = make_record("one", [30.0], steps=100, patch=64, batch=8, precision="32")
    (found,) = [t for t in measure_throughputs([record]) if t.source == "one-seed0"]
    macs = measure_cost(repro.build("sadnet"), 64, 64).macs
    assert found.multiply_adds_per_second == 100 * 8 * macs / 1.0  # records of the tests take a second
    record.content["device"] = "8 x A GPU"
    assert not [t for t in measure_throughputs([record]) if t.source == "one-seed0"]


def test_the_measurement_that_says_most_is_taken():
    brief = Throughput("A GPU", "sadnet", "bf16", 3 * TERA, "bf16")
    other = Throughput("A GPU", "ssdn", "32", 2 * TERA, "ssdn")
    assert choose_throughput(run(1), [CPU, brief, other, GPU]) is GPU
    assert choose_throughput(run(1), [CPU, brief, other]) is other
    assert choose_throughput(run(1), [CPU, brief]) is brief
    assert choose_throughput(run(1), [CPU]) is CPU and not CPU.is_accelerator
    assert choose_throughput(run(1), []) is None


def test_a_cpu_s_device_is_a_core():
    two = Throughput("A Processor, 2 cores", "sadnet", "32", 3e11, "on two", threads=2)
    one = Throughput("A Processor, 2 cores", "sadnet", "32", 2e11, "on one", threads=1)
    assert choose_throughput(run(1), [two, one]) is one
    assert plan([run(1)], [two], 1).seconds == pytest.approx(3600 * TERA / 1.5e11)
    assert Throughput("A GPU", "sadnet", "32", TERA, "fed by many", threads=16).per_device == TERA


def test_one_device_takes_the_sum():
    whole = plan([run(3, name="a"), run(5, name="b")], [GPU], 1)
    assert whole.seconds == whole.device_seconds == 8 * 3600


def test_a_run_uses_no_more_devices_than_its_batch_can_be_divided_by():
    alone = plan([run(16)], [GPU], 64, efficiency_per_doubling=1.0)
    assert alone.devices_per_run == 16
    assert alone.seconds == pytest.approx(3600)
    assert plan([run(16, batch=6)], [GPU], 4, efficiency_per_doubling=1.0).devices_per_run == 3


def test_runs_side_by_side_cost_nothing_but_sharing_one_does():
    runs = [run(1, name=str(k)) for k in range(8)]
    assert plan(runs, [GPU], 8).devices_per_run == 1
    assert plan(runs, [GPU], 8).device_seconds == 8 * 3600
    shared = plan(runs[:1], [GPU], 8)
    assert shared.seconds == pytest.approx(3600 / (8 * 0.9**3))
    assert speed_up(8) == pytest.approx(8 * 0.9**3)


@given(
    st.lists(st.tuples(st.floats(0.1, 50), st.sampled_from([4, 6, 16])), min_size=1, max_size=6),
    st.sampled_from([1, 3, 8, 64]),
    st.floats(0.5, 1.0),
)
def test_no_plan_beats_perfect_sharing_or_one_device(hours, devices, efficiency):
    runs = [run(h, batch, str(k)) for k, (h, batch) in enumerate(hours)]
    found = plan(runs, [GPU], devices, efficiency)
    total = 3600 * math.fsum(h for h, _ in hours)
    assert total / devices * (1 - 1e-9) <= found.seconds <= total * (1 + 1e-9)
    assert found.device_seconds >= total * (1 - 1e-9)
    assert found.seconds <= plan(runs, [GPU], 1, efficiency).seconds * (1 + 1e-9)


def test_nothing_to_plan():
    with pytest.raises(ValueError, match="throughput"):
        plan([run(1)], [], 8)
