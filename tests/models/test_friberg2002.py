"""Counts after docetaxel and paclitaxel (Friberg 2002, Kloft 2006) agree with SciPy."""

import math

import numpy as np
import pytest
from agreement import errors, reference

import carpk as ck
from carpk.models import friberg2002 as friberg

NEUTROPHILS = ck.load_model("friberg2002")
LEUKOCYTES = ck.load_model("friberg2002", cells="leukocytes")
PATIENT = friberg.simulated_patient(NEUTROPHILS.params())
CASES = {
    "docetaxel": (NEUTROPHILS, "100 mg/m² every 3 weeks", NEUTROPHILS.params()),
    "patient": (NEUTROPHILS, "100 mg/m² every 3 weeks", PATIENT),
    "paclitaxel": (LEUKOCYTES, "410 µmol over 3 h", LEUKOCYTES.params()),
}


@pytest.fixture(scope="module")
def solutions():
    """case -> solution on the days of its reference."""
    out = {}
    for case, (model, regimen, params) in CASES.items():
        days = reference("friberg2002", case).index
        out[case] = ck.solve(model, model.regimens[regimen], days, params)
    return out


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_scipy(solutions, case):
    table = reference("friberg2002", case)
    assert max(errors(solutions[case], table).values()) < 1e-6
    drug, mass = ("paclitaxel", 853.9) if case == "paclitaxel" else ("docetaxel", 808.0)
    got, expected = np.asarray(solutions[case][drug]), table["drug"] * mass / 1000
    early = table.index < 5
    np.testing.assert_allclose(got[early], expected[early], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("model", [NEUTROPHILS, LEUKOCYTES])
def test_rests_at_its_baseline_without_a_drug(model):
    p = model.params()
    start = model.start(p)
    slopes = model.vector_field(0.0, start, p, {model.product: 0.0})
    for name in model.states.names():
        assert float(getattr(start, name)) == float(p.Circ0)
        assert float(getattr(slopes, name)) == 0.0


class TestCourse:
    @pytest.mark.parametrize(("case", "first", "last"), [("patient", 7, 9), ("paclitaxel", 7, 14)])
    def test_is_lowest_in_the_second_week(self, solutions, case, first, last):
        count = np.asarray(solutions[case].states.Circ)
        first_cycle = count[reference("friberg2002", case).index <= 21]
        day = reference("friberg2002", case).index[first_cycle.argmin()]
        assert first <= day <= last

    def test_of_the_simulated_patient_falls_to_about_half_a_billion(self, solutions):
        """nlmixr2lib's article: about 0.5, with the docetaxel of that file."""
        assert 0.3 < solutions["patient"]["anc"].min() < 0.8

    @pytest.mark.parametrize("case", ["patient", "paclitaxel"])
    def test_rises_above_the_baseline_and_comes_back_to_it(self, solutions, case):
        params = CASES[case][2]
        over = np.asarray(solutions[case].states.Circ) / float(friberg.baseline(params))
        assert over.max() > 1.1
        assert over[-1] == pytest.approx(1, abs=0.01)

    def test_starts_to_fall_only_when_maturing_cells_run_out(self, solutions):
        days = reference("friberg2002", "patient").index
        count = np.asarray(solutions["patient"]["anc"]) / float(friberg.baseline(PATIENT))
        assert count[days == 1][0] > 0.95
        assert count[days == 5][0] < 0.5


class TestCovariates:
    def test_give_the_baseline_of_the_simulated_patient(self):
        expected = 5.22 * 0.879 * 1.130 * 0.853 * (1 + 0.495 * (2.54 - 1.34))
        assert float(friberg.baseline(PATIENT)) == pytest.approx(expected)

    @pytest.mark.parametrize(("aag", "per_g"), [(0.84, 0.175), (1.84, 0.495)])
    def test_aag_acts_on_the_baseline_with_two_lines(self, aag, per_g):
        got = float(friberg.baseline(NEUTROPHILS.params(AAG=aag)))
        assert got == pytest.approx(5.22 * (1 + per_g * (aag - 1.34)))

    def test_aag_that_binds_docetaxel_makes_it_act_less(self):
        got = float(friberg.sensitivity(NEUTROPHILS.params(AAG=2.34)))
        assert got == pytest.approx(15.6 * (1 - 0.351))


def test_doses_are_mg_and_slopes_per_micromole():
    """C_stop is where slope C = 1: 1/15.6 µmol/L of docetaxel is 0.0518 mg/L."""
    for model, value in ((NEUTROPHILS, 808 / 15.6e3), (LEUKOCYTES, 853.9 / 28.9e3)):
        assert float(model.derived["C_stop"][0](model.params())) == pytest.approx(value)
    (dose,) = LEUKOCYTES.regimens["410 µmol over 3 h"].doses
    assert dose.amount == pytest.approx(410e-6 * 853.9e3)


def test_random_effects_are_the_square_roots_of_the_printed_variances():
    n, w = NEUTROPHILS.params.info(), LEUKOCYTES.params.info()
    for name, neutrophils, leukocytes in [
        ("Circ0", 0.0640, 0.107),
        ("MTT", 0.0192, 0.0296),
        ("slope", 0.128, 0.176),
    ]:
        assert n[name].iiv == pytest.approx(math.sqrt(neutrophils))
        assert w[name].iiv == pytest.approx(math.sqrt(leukocytes))
    assert n["CL"].iiv == pytest.approx(math.sqrt(math.log(1 + 0.295**2)))
