"""The loop that all benchmarks share, and what they store."""

import pandas as pd

from repro import timing


def test_cases_take_turns_and_each_round_begins_with_another():
    called = []
    rounds = {"a": 3, "b": 1, "c": 2}
    cases = {name: timing.Case(lambda name=name: called.append(name), n) for name, n in rounds.items()}
    seconds = timing.time_in_turns(cases, "cpu")
    assert called == ["a", "b", "c", "c", "a", "a"]  # round by round: abc, (b)ca, (c)a(b)
    assert {name: len(samples) for name, samples in seconds.items()} == rounds
    assert list(seconds) == list(cases)


def test_repeats_are_calls_within_one_measurement():
    called = []
    assert timing.time_calls(lambda: called.append(1), "cpu", repeats=5) >= 0
    assert len(called) == 5


def test_a_summary_is_median_and_quartiles():
    summary = timing.summarise([0.004, 0.001, 0.002, 0.003, 0.005], "ms", 1e3)
    assert summary == {"ms": 3, "ms_lower_quartile": 2, "ms_upper_quartile": 4}


def test_what_is_stored_is_read_again_cpus_first(tmp_path):
    table, lines = pd.DataFrame({"network": ["x"], "seconds": [0.25]}), []
    for device in ("AMD Radeon (TM) 7", "cpu Some Processor(R) 2 threads"):
        timing.store(table, {"device": device, "load_before": 3.0}, "cost", tmp_path, 6, lines.append)
    assert sum("measure again in quiet" in line for line in lines) == 2
    assert {path.name for path in tmp_path.glob("*.csv")} == {
        "cost-amd-radeon-7.csv", "cost-cpu-some-processor-2-threads.csv",
    }  # fmt: skip
    found = timing.load("cost", tmp_path)
    assert [about["device"][:3] for about, _ in found] == ["cpu", "AMD"]
    pd.testing.assert_frame_equal(found[0][1], table)
    assert timing.load("op", tmp_path) == [] == timing.load("cost", tmp_path / "nowhere")
