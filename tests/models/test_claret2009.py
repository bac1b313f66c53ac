"""Tumor size (Claret 2009) agrees with SciPy and with its closed form."""

import math

import numpy as np
import pytest
from agreement import errors, reference

import carpk as ck
from carpk.models import claret2009

WEEK = ck.load_model("claret2009")
DAY = ck.load_model("claret2009", time_base="day")
LATE = ck.Regimen((ck.Replace(10.0, 2.07, "exposure"), ck.Replace(136.0, 0.0, "exposure")))
CASES = {
    "week": (WEEK, claret2009.pulses(), WEEK.params()),
    "day": (DAY, claret2009.pulses(), DAY.params()),
    "constant": (WEEK, LATE, WEEK.params(START=10.0)),
}


def held(level):
    """This exposure from day 0 on."""
    return ck.Regimen((ck.Replace(0.0, level, "exposure"),))


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_scipy(case):
    model, regimen, params = CASES[case]
    table = reference("claret2009", case)
    solution = ck.solve(model, regimen, table.index, params, start=0.0)
    assert max(errors(solution, table[["y"]]).values()) < 1e-8
    np.testing.assert_array_equal(solution.states.exposure, table["exposure"])
    np.testing.assert_allclose(solution["tumor_change"], table["y"] / 200, rtol=1e-8)


def test_has_its_closed_form_while_the_exposure_is_constant():
    """y = y0 exp(KL t - KD0 x (1 - exp(-lambda t)) / lambda)."""
    weeks = np.array([0.5, 3.0, 10.0, 52.0])
    exact = 0.021 * weeks - 0.025 * 3.0 * (1 - np.exp(-0.053 * weeks)) / 0.053
    got = ck.solve(WEEK, held(3.0), 7 * weeks)["tumor"]
    np.testing.assert_allclose(got, 200 * np.exp(exact), rtol=1e-8)
    ratio = claret2009.relative_size(WEEK.params(), 3.0, weeks)
    np.testing.assert_allclose(ratio, np.exp(exact), rtol=1e-12)


def test_the_tumor_is_smallest_when_resistance_has_eaten_up_the_effect():
    """KD0 exp(-lambda t) x = KL."""
    p = WEEK.params()
    smallest = math.log(0.025 * 2.07 / 0.021) / 0.053
    size = [float(claret2009.relative_size(p, 2.07, smallest + dt)) for dt in (-0.5, 0.0, 0.5)]
    assert size[1] < min(size[0], size[2])


def test_rates_per_day_contradict_the_shrinkage_under_lower_doses():
    """PAGE, abstract 1312: 9.0 % at week 6 with 1000 mg/m² where 1250 mg/m² gives 13.1 %."""
    p = DAY.params()
    growth, effect = 42 * 0.021, 0.025 * (1 - math.exp(-42 * 0.053)) / 0.053
    full = (growth - math.log(1 - 0.131)) / effect
    assert float(claret2009.relative_size(p, full, 42.0)) == pytest.approx(0.869)
    assert float(claret2009.relative_size(p, 0.8 * full, 42.0)) > 1


def test_the_regimen_of_the_file_is_twice_daily_for_14_of_21_days():
    events = claret2009.pulses().events
    on = [e for e in events if e.amount > 0]
    assert len(on) == len(events) / 2 == 3 * 14 * 2
    assert {e.amount for e in on} == {12.0}
    assert max(e.time % 21 for e in on) == 13.5
    assert events[1].time - events[0].time == 0.0625


def test_an_unknown_time_base_is_refused():
    with pytest.raises(ck.ModelError, match='must be "week" or "day", but is \'month\''):
        ck.load_model("claret2009", time_base="month")
