"""Times between two samples: intervals, Turnbull's estimate, medians and figure."""

import sys
import types
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import CensoredData, ecdf

import carpk as ck
from carpk import nca
from carpk.errors import CarpkError
from carpk.nca.turnbull import innermost, masses

sys.path.append(str(Path(__file__).parent / "reference" / "nca"))
import npmle

INF = np.inf


def estimate(left, right):
    left, right = np.array(left, float), np.array(right, float)
    cells = innermost(left, right)
    return cells, masses(cells.inside, np.ones(left.size))


# --- Turnbull's estimate --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right", "low", "high", "mass"),
    [
        ([0, 1], [1, 2], [0, 1], [1, 2], [0.5, 0.5]),
        ([0, 1, 0], [1, 2, 2], [0, 1], [1, 2], [0.5, 0.5]),
        ([0, 1], [2, 3], [1], [2], [1.0]),  # all on what both share
        ([0, 2], [2, INF], [0, 2], [2, INF], [0.5, 0.5]),
        ([0, 0, 5], [2, 2, INF], [0, 5], [2, INF], [2 / 3, 1 / 3]),
        ([3, 1], [3, 4], [3], [3], [1.0]),  # an exact time within an interval
        ([3, 3], [3, INF], [3, 3], [3, INF], [0.5, 0.5]),  # censored on the day of an event
        ([0], [INF], [0], [INF], [1.0]),
    ],
)
def test_mass_lies_on_innermost_intervals(left, right, low, high, mass):
    cells, found = estimate(left, right)
    assert (cells.low.tolist(), cells.high.tolist()) == (low, high)
    assert found.tolist() == pytest.approx(mass, abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_exact_and_right_censored_times_give_kaplan_meier(seed):
    rng = np.random.default_rng(seed)
    time = rng.integers(1, 12, 25).astype(float)  # with ties
    censored = rng.random(25) < 0.4
    cells, mass = estimate(time, np.where(censored, INF, time))
    data = CensoredData(uncensored=time[~censored], right=time[censored])
    right = ecdf(data).sf
    exact = cells.low == cells.high
    ours = 1 - np.cumsum(mass)[exact]
    assert ours == pytest.approx(right.evaluate(cells.low[exact]), abs=1e-7)


def some_intervals(seed, n=20):
    """Visits on fixed days; times between them; some patients leave early. Simulated."""
    rng = np.random.default_rng(seed)
    visits = np.array([0, 7, 14, 28, 60, 90, 180.0])
    left, right = np.zeros((2, n))
    for i in range(n):
        came = np.sort(rng.choice(visits, rng.integers(2, visits.size), replace=False))
        k = np.searchsorted(came, rng.exponential(50))
        left[i] = came[k - 1] if k else 0.0
        right[i] = came[k] if k < came.size and came[k] > left[i] else INF
    return left, right


@pytest.mark.parametrize("seed", range(5))
def test_the_estimate_is_that_of_a_general_optimiser(seed):
    left, right = some_intervals(seed)
    cells, mass = estimate(left, right)
    assert cells.inside @ mass == pytest.approx(npmle.fitted(left, right), abs=2e-4)


INTERVALS = st.lists(
    st.tuples(st.integers(0, 8), st.sampled_from([0, 1, 2, 5, INF])).map(
        lambda pair: (float(pair[0]), float(pair[0] + pair[1]))
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(INTERVALS)
def test_no_shift_of_mass_would_raise_the_likelihood(intervals):
    """The conditions of Karush, Kuhn and Tucker, which a maximum of a concave function has."""
    left, right = np.array(intervals).T
    cells, mass = estimate(left, right)
    assert mass.sum() == pytest.approx(1)
    gradient = (1 / (cells.inside @ mass)) @ cells.inside / left.size
    assert gradient.max() < 1 + 2e-3
    assert cells.inside.any(axis=1).all()


# --- intervals of patients ------------------------------------------------------------------------

DAYS = [1, 7, 14, 28, 60, 90]
CURVES = {  # simulated; 0 is BLQ
    "lost": [0, 900, 250, 30, 0, 0],
    "lost at the last visit": [0, 900, 250, 30, 5, 0],
    "seen to the end": [2, 900, 250, 30, 5, 2],
    "came back": [2, 900, 0, 30, 0, 0],
    "never": [0] * 6,
}
EXPECTED = {  # loss: left, right, what; first detection: left, right, what
    "lost": ((28, 60, "lost, 2 BLQ"), (1, 7, "detected")),
    "lost at the last visit": ((60, 90, "lost, 1 BLQ"), (1, 7, "detected")),
    "seen to the end": ((90, INF, "quantifiable until the last sample"), (0, 1, "detected")),
    "came back": ((28, 60, "lost, 2 BLQ"), (0, 1, "detected")),
    "never": ((0, 1, "never quantifiable, 6 BLQ"), (90, INF, "BLQ until the last sample")),
}


def data_of(curves=CURVES, doses=(0.0,), start=0.0, **patients):
    rows = [
        (name, start + day, value)
        for name, curve in curves.items()
        for day, value in zip(DAYS, curve, strict=False)
    ]
    seen = pd.DataFrame(rows, columns=["patient", "time", "value"])
    seen = seen.assign(analyte="car_t", unit="cells/µL", lloq=1.0)
    seen["censored"] = (seen["value"] == 0).astype(int)
    given = pd.DataFrame([(p, start + d) for p in curves for d in doses])
    given.columns = ["patient", "time"]
    people = pd.DataFrame({"patient": [*curves], **patients})
    return types.SimpleNamespace(
        observations=seen,
        doses=given.assign(product="car_t", unit="cells", amount=1e8),
        patients=people,
    )


def intervals_of(result):
    table = result.table.set_index("patient")
    return {p: tuple(r) for p, r in table[["LEFT", "RIGHT", "EVNTDESC"]].T.items()}


@pytest.mark.parametrize("start", [0.0, 35.0])
@pytest.mark.parametrize(("k", "function"), [(0, nca.persistence), (1, nca.first_detection)])
def test_an_event_lies_between_the_samples_around_it(start, k, function):
    result = function(data_of(start=start), resamples=5)
    assert intervals_of(result) == {name: pair[k] for name, pair in EXPECTED.items()}
    censored = [np.isinf(pair[k][1]) for pair in EXPECTED.values()]
    assert result.table["CNSR"].astype(bool).tolist() == censored


@pytest.mark.parametrize("what", ["death", "relapse", "transplant", "left"])
@pytest.mark.parametrize(
    ("day", "lost", "told"),
    [
        (np.nan, (28, 60), "lost, 2 BLQ"),
        (-30.0, (28, 60), "lost, 2 BLQ"),  # before the infusion
        (100.0, (28, 60), "lost, 2 BLQ"),
        (70.0, (28, 60), "lost, 1 BLQ"),
        (50.0, (28, INF), "quantifiable until {} on day 50"),
        (20.0, (14, INF), "quantifiable until {} on day 20"),
        (0.5, (0, INF), "no sample before {} on day 0.5"),
    ],
)
def test_an_event_of_the_patients_table_ends_the_follow_up(what, day, lost, told):
    data = data_of({"p": CURVES["lost"]}, **{what: [day]})
    until = {} if what != "left" else {"until": ["left"]}
    assert intervals_of(nca.persistence(data, resamples=5, **until))["p"] == (
        *lost,
        told.format(what),
    )
    assert intervals_of(nca.persistence(data, resamples=5, until=()))["p"][:2] == (28, 60)


def test_the_next_infusion_ends_the_follow_up_and_opens_its_own():
    data = data_of({"p": CURVES["seen to the end"]}, doses=(0.0, 60.0))
    first, second = (nca.persistence(data, resamples=5, infusion=k) for k in (1, 2))
    assert intervals_of(first)["p"] == (60, INF, "quantifiable until the infusion on day 60")
    assert intervals_of(second)["p"] == (30, INF, "quantifiable until the last sample")
    assert second.table["day"].tolist() == [60]


def test_an_excluded_sample_moves_the_event_and_is_told():
    entry = [{"patient": "came back", "time": 28, "reason": "of another patient"}]
    table = nca.persistence(data_of(), exclude=entry, resamples=5).table.set_index("patient")
    assert table.loc["came back", ["LEFT", "RIGHT"]].tolist() == [7, 14]
    assert table["NCAXRS"].tolist() == ["", "", "", "day 28: of another patient", ""]


# --- arms -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_arms():
    arm = ["A", "A", "A", "B", "B"]
    return nca.persistence(data_of(cohort=arm), by="cohort")


def test_each_arm_has_a_curve_that_is_turnbulls_of_its_patients(of_arms):
    for arm, own in of_arms.table.groupby("cohort"):
        cells, mass = estimate(own["LEFT"], own["RIGHT"])
        steps = of_arms.curve[of_arms.curve["cohort"] == arm]
        kept = mass > 1e-8
        assert steps["LEFT"].tolist() == cells.low[kept].tolist()
        assert (steps["PROBBEF"] - steps["PROBAFT"]).tolist() == pytest.approx(mass[kept].tolist())
        assert steps["PROBBEF"].iloc[0] == 1
        assert (steps["eti90_low"] <= steps["PROBAFT"]).all()
        assert (steps["PROBAFT"] <= steps["eti90_high"]).all()


def test_the_median_lies_between_two_samples_or_beyond_the_last():
    curves = {i: CURVES["lost"] for i in range(2)} | {9: CURVES["seen to the end"]}
    row = nca.persistence(data_of(curves)).medians.iloc[0]
    assert row[["n", "events", "censored", "LEFT", "RIGHT"]].tolist() == [3, 2, 1, 28, 60]
    assert (row["eti90_low"], row["eti90_high"]) == (28, INF)
    half = {i: CURVES["lost"] for i in "ab"} | {i: CURVES["seen to the end"] for i in "cd"}
    row = nca.persistence(data_of(half)).medians.iloc[0]
    assert row[["LEFT", "RIGHT"]].tolist() == [28, 60]  # lost in half of the patients
    curves = {i: CURVES["seen to the end"] for i in range(3)} | {9: CURVES["lost"]}
    row = nca.persistence(data_of(curves)).medians.iloc[0]
    assert row[["LEFT", "RIGHT"]].tolist() == [90, INF]


def test_intervals_hold_the_probability_of_the_session_and_come_again(of_arms):
    with ck.options(interval_prob=0.5):
        narrow = nca.persistence(data_of())
    assert {"eti50_low", "eti50_high"} <= set(narrow.curve)
    wide = nca.persistence(data_of())
    assert (narrow.curve["eti50_low"] >= wide.curve["eti90_low"]).all()
    pd.testing.assert_frame_equal(wide.curve, nca.persistence(data_of()).curve)
    assert repr(of_arms).startswith("Time to loss of detectability of car_t [day since the inf")
    assert "90 % equal-tailed" in repr(of_arms)


@pytest.mark.parametrize("function", [nca.persistence, nca.first_detection])
@pytest.mark.parametrize("by", [None, "cohort", ["cohort", "sex"], "stage"])
def test_the_figure_has_a_curve_per_arm(function, by):
    labels = {"cohort": ["A", "A", "A", "B", "B"], "sex": ["f", "m", "f", "m", "f"]}
    labels["stage"] = ["I", np.nan, "II", np.nan, "I"]  # an unknown one is an arm too
    result = function(data_of(**labels), by=by, resamples=5)
    (axis,) = result.plot().axes
    told = [text.get_text() for text in axis.get_legend().get_texts()]
    assert len(told) == len(result.medians)
    assert sum(int(text.split("n = ")[1][:-1]) for text in told) == 5
    assert result.event in axis.get_ylabel()
    plt.close("all")


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ({"until": ["left"]}, "`until` names 'left'.*patient, death, word"),
        ({"until": ["word"]}, "word of the patients table must hold days"),
        ({"until": ["flag"]}, "'flag' .* holds only 0 and 1.*give the day"),
        ({"resamples": 0}, "`resamples` must be 1 or more"),
        ({"infusion": 2}, "No patient has an infusion number 2"),
        ({"by": "arm"}, "'arm' is unknown"),
    ],
)
def test_what_cannot_be_counted_is_refused(arguments, advice):
    data = data_of(death=[np.nan] * 5, word=["no"] * 5, flag=[0, 1, 0, 1, 0])
    with pytest.raises(CarpkError, match=advice):
        nca.persistence(data, **arguments)
