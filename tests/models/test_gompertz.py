"""Gompertz growth with killing agrees with SciPy and with its closed form."""

import math

import numpy as np
import pytest
from agreement import errors, reference

import carpk as ck
from carpk.models import gompertz

MODEL = ck.load_model("gompertz")
P = MODEL.params()


def exposures(*periods):
    """(level, first day, last day) of each."""
    events = [
        e
        for level, first, last in periods
        for e in (ck.Replace(first, level, "exposure"), ck.Replace(last, 0.0, "exposure"))
    ]
    return ck.Regimen(tuple(events))


CASES = {
    "untreated": ck.Regimen(),
    "treated": exposures((1.0, 0.0, 28.0), (0.5, 100.0, 160.0)),
    "cured": exposures((3.0, 0.0, 400.0)),
}


@pytest.fixture(scope="module")
def solutions():
    """case -> solution on the days of its reference."""
    days = {case: reference("gompertz", case).index for case in CASES}
    return {c: ck.solve(MODEL, regimen, days[c], start=0.0) for c, regimen in CASES.items()}


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_scipy(solutions, case):
    table = reference("gompertz", case)
    assert max(errors(solutions[case], table[["B"]]).values()) < 1e-7
    np.testing.assert_array_equal(solutions[case].states.exposure, table["exposure"])


@pytest.mark.parametrize(("case", "level"), [("untreated", 0.0), ("cured", 3.0)])
def test_has_its_closed_form_while_the_exposure_is_constant(solutions, case, level):
    solution = solutions[case]
    exact = np.asarray(gompertz.size(P, level, solution.time))
    np.testing.assert_allclose(solution["tumor"], exact, rtol=1e-7)


class TestClosedForm:
    def test_starts_at_b0_and_ends_at_bmax_without_exposure(self):
        assert float(gompertz.size(P, 0.0, 0.0)) == pytest.approx(1e10)
        assert float(gompertz.size(P, 0.0, 1e5)) == pytest.approx(3.1e12)

    def test_ends_at_bmax_exp_of_minus_kill_over_g_with_it(self):
        end = 3.1e12 * math.exp(-0.05 * 0.1 / (math.exp(-2.9) * 12 / 365.25))
        assert float(gompertz.size(P, 0.1, 1e5)) == pytest.approx(end)

    def test_holds_still_at_the_exposure_that_holds(self):
        hold = MODEL.derived["exposure_to_hold"][0](P)
        assert float(gompertz.size(P, hold, 500.0)) == pytest.approx(1e10)

    def test_reaches_a_size_on_the_day_it_says(self):
        for cells in (2e10, 1e12):
            assert float(gompertz.size(P, 0.0, gompertz.days_to(P, cells))) == pytest.approx(cells)


def test_small_tumors_grow_faster():
    small, large = (float(gompertz.days_to(MODEL.params(B0=b), 2 * b)) for b in (1e6, 1e11))
    assert small < large / 3


def test_what_is_left_after_killing_grows_back_faster_than_it_grew(solutions):
    tumor = np.asarray(solutions["treated"]["tumor"])
    days = reference("gompertz", "treated").index.to_numpy()
    pair = np.flatnonzero((days == 29) | (days == 99))
    back = np.log(tumor[pair[1]] / tumor[pair[0]]) / 70
    before = float(np.log(gompertz.size(P, 0.0, 70.0) / P.B0)) / 70
    assert back > before


def test_a_tumor_below_one_cell_is_said_to_be_gone(solutions):
    assert solutions["cured"].extinct["tumor"] < 365
    assert not solutions["treated"].extinct


def test_diameters_follow_the_cube_root_of_cells(solutions):
    solution = solutions["treated"]
    expected = (np.asarray(solution["tumor"]) / 1e10) ** (1 / 3)
    np.testing.assert_allclose(solution["sld"], expected, rtol=1e-12)


def test_growth_rates_are_those_quoted_of_norton():
    g = MODEL.params.info()["g"]
    assert math.log(g.value) == pytest.approx(-2.9)
    assert g.iiv == 0.71


def test_says_that_its_killing_is_assumed():
    assert MODEL.params.info()["kill"].source.startswith("assumed")
