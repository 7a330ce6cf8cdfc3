import numpy as np
import pandas as pd
import pytest

from repro.study.statistics import bootstrap, bootstrap_average, compare, compare_trainings, permute


def test_two_values_by_hand():
    # Resampled means of {0, 1} are 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4: 95 % of that is all of it.
    assert bootstrap([0.0, 1.0])[:3] == (0.5, 0.0, 1.0)


def test_constant_values_leave_no_doubt():
    interval = bootstrap([3.0] * 10)
    assert interval == (3.0, 3.0, 3.0, 10)
    assert interval.sign == 1
    assert bootstrap([-3.0] * 10).sign == -1


def test_interval_is_that_of_the_normal_law():
    values = np.random.default_rng(1).normal(5, 2, 400)
    mean, low, high, _ = bootstrap(values)
    half = 1.96 * values.std() / 20
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.015)


def test_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(2)
    hits = sum(low <= 0 <= high for _, low, high, _ in (bootstrap(random.normal(size=40), 500) for _ in range(400)))
    assert 0.90 <= hits / 400 <= 0.97


def test_the_seed_fixes_the_interval():
    values = np.sqrt(np.arange(24.0))
    assert bootstrap(values, seed=3) == bootstrap(values, seed=3)
    assert bootstrap(values, seed=3) != bootstrap(values, seed=4)


def test_trainings_without_images_are_drawn_on_each_side_by_themselves():
    assert compare_trainings([1.0, 3.0], [0.0, 10.0]) == (-3.0, -9.0, 3.0, 4), "by hand: 1 - 10 and 3 - 0"
    for other in ([2.0], [3.0]):
        once = compare_trainings([1.0, 3.0], other)
        assert once.mean == 2 - other[0] and np.isnan([once.low, once.high]).all(), "of one training nothing is drawn"


def test_each_set_counts_the_same_in_an_average_and_small_ones_scatter_more():
    random = np.random.default_rng(3)
    small, large = random.normal(20, 1, 25), random.normal(30, 1, 900)
    mean, low, high, count = bootstrap_average([small, large])
    half = 1.96 * np.sqrt(small.var() / 25 + large.var() / 900) / 2
    assert mean == pytest.approx((small.mean() + large.mean()) / 2) and count == 925
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.015)
    assert np.isnan(bootstrap_average([small, large[:1]]).low)
    with pytest.raises(ValueError, match="same trainings"):
        bootstrap_average([small, np.zeros((9, 2))])
    turned = _trainings(0.0, 1.0).iloc[:, ::-1]
    with pytest.raises(ValueError, match="same trainings"):
        bootstrap_average([_trainings(0.0, 1.0), turned])


def test_sets_of_the_same_trainings_go_up_and_down_together():
    one, other = _trainings(-1.0, 1.0, count=50), _trainings(-1.0, 1.0, count=80, random_state=1)
    apart = _trainings(1.0, -1.0, count=80, random_state=1)
    widths = [np.subtract(*bootstrap_average([one, second])[2:0:-1]) for second in (other, apart)]
    assert widths[0] > 1.9 > 0.5 > widths[1], "what one set loses by a training the other wins by it"


def test_pairing_removes_the_spread_between_images():
    names = [f"image{k}" for k in range(24)]
    hard = np.linspace(20, 40, 24)
    first, second = pd.Series(hard + 0.1, names), pd.Series(hard, names)
    paired = compare(first, second.sample(frac=1, random_state=0))
    assert paired.mean == pytest.approx(0.1)
    assert paired.sign == 1
    assert bootstrap(hard + 0.1 - hard.mean()).sign == 0


def _trainings(*shifts, count=200, random_state=0):
    """Images x seeds: images that scatter by 1 dB, and a shift for each training."""
    images = np.random.default_rng(random_state).normal(30, 1, count)
    return pd.DataFrame({f"seed{k}": images + shift for k, shift in enumerate(shifts)})


def test_trainings_that_differ_widen_the_interval():
    one, several = _trainings(0.0), _trainings(-0.3, 0.0, 0.3)
    other = _trainings(-0.1)["seed0"]
    assert compare(one, other).sign == 1
    paired = compare(several, other)
    assert paired.mean == pytest.approx(0.1)
    assert paired.sign == 0
    # Means of three drawn from {-0.3, 0, 0.3} are +-0.3 in 1 of 27 draws each, more than 2.5 %.
    assert (paired.low, paired.high) == pytest.approx((-0.2, 0.4))


def test_trainings_that_agree_change_nothing():
    values = _trainings(0.0)["seed0"]
    low, high = bootstrap(values)[1:3]
    assert bootstrap(_trainings(0.0, 0.0, 0.0))[1:3] == pytest.approx((low, high))


def test_the_same_trainings_stay_paired():
    plain = _trainings(-0.5, 0.0, 0.5)
    clipped = compare(plain + 0.01, plain)
    assert clipped.low == pytest.approx(0.01) == clipped.high
    renamed = (plain + 0.01).rename(columns=lambda name: f"other {name}")
    assert compare(renamed, plain).sign == 0


def test_refuses_other_images_and_missing_values():
    with pytest.raises(ValueError, match="same images"):
        compare(pd.Series([1.0, 2.0], ["a", "b"]), pd.Series([1.0, 2.0], ["a", "c"]))
    with pytest.raises(ValueError, match="missing"):
        bootstrap([1.0, float("nan")])


def test_one_value_has_no_interval():
    mean, low, high, count = bootstrap([2.0])
    assert (mean, count) == (2.0, 1)
    assert np.isnan(low)
    assert np.isnan(high)


def test_labels_that_tell_all_are_as_far_apart_as_few_permutations_are():
    # 6 items in one stratum, two labels of three: 2 of the 20 ways to deal them out are as far apart.
    chance = permute([1, 1, 1, 2, 2, 2], list("aaabbb"), [0] * 6)
    assert chance == pytest.approx(0.1, abs=0.01)


def test_labels_of_noise_mean_nothing():
    random = np.random.default_rng(0)
    chances = [permute(random.normal(size=30), random.integers(3, size=30), [0] * 30, 200, k) for k in range(100)]
    assert 0.4 < np.mean(chances) < 0.6 and np.mean(np.array(chances) < 0.05) < 0.12


def test_what_the_strata_explain_is_not_the_labels():
    # Each label has one stratum almost for itself, whose level is all that there is.
    assert permute([5, 5, 5, 9, 9, 9], list("aabbba"), [0, 0, 0, 1, 1, 1]) == 1
    assert permute([1, 2, 8, 9], list("aabb"), [0, 0, 1, 1]) == 1


def test_a_missing_value_permutes_nothing():
    with pytest.raises(ValueError):
        permute([1, np.nan], list("ab"), [0, 0])
