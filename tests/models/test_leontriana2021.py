"""León-Triana 2021: agreement with SciPy, what a1 decides, and what a second target is good for."""

import numpy as np
import pytest
from agreement import assert_has_gradients, errors, reference, solver_for

import carpk as ck

SINGLE, DUAL = (ck.load_model("leontriana2021", targets=t) for t in ("single", "dual"))
TWO_E8 = DUAL.regimens["paper"]
LARGE = {"T0": 3.35e10}  # the tumor of the dual form
CASES = {
    "single": (SINGLE, SINGLE.regimens["paper"], {}),
    "suppressed": (SINGLE, TWO_E8, LARGE | {"a1": 0.183}),
    "dual": (DUAL, TWO_E8, {}),
    "figure": (DUAL, TWO_E8, {"a1": 0.183}),
    "article": (DUAL, TWO_E8, {"a1": 0.2}),
}
DAYS = reference("leontriana2021", "dual").index


def solution(model, regimen, **changes):
    return ck.solve(model, regimen, DAYS, model.params(**changes), method="tsit5")


@pytest.fixture(scope="module")
def solved():
    """Every case on the days of the reference."""
    return {
        case: solution(model, regimen, **changes)
        for case, (model, regimen, changes) in CASES.items()
    }


class TestEquations:
    @pytest.mark.parametrize("case", CASES)
    def test_agrees_with_scipy(self, case, solved):
        table = reference("leontriana2021", case).dropna(axis="columns")
        found = errors(solved[case], table)
        assert solved[case].reason == ""
        assert set(found) == set(CASES[case][0].states.names())
        assert max(found.values()) < 1e-5

    @pytest.mark.parametrize("model", [SINGLE, DUAL], ids=["single", "dual"])
    def test_before_an_infusion_no_car_t_cell_arises(self, model):
        """A log starts at 1e-30 cells; were they to divide, a small a1 would let them be many."""
        p = model.params(a1=1e-6)
        later = model.regimens["paper"].shift(365)
        none = ck.solve(model, later, DAYS, p, start=0.0, method="tsit5")
        assert none["car_t_body"].max() < 1e-20
        assert none["tumor"][-1] == pytest.approx(float(p.T0) * np.exp(0.02 * 365), rel=1e-6)

    def test_b_cells_are_those_of_the_model_of_leukemia(self):
        dual, leukemia = DUAL.params(), ck.load_model("leontriana2020").params()
        assert (dual.aB, dual.tB, dual.B0) == (leukemia.alpha, leukemia.tB, leukemia.B0)

    @pytest.mark.exhaustive
    @pytest.mark.parametrize("model", [SINGLE, DUAL], ids=["single", "dual"])
    def test_every_derivative_is_that_of_finite_differences(self, model):
        solver = solver_for(model, model.regimens["paper"], [7.0, 14.0, 28.0, 90.0])
        for output in model.outputs:
            assert_has_gradients(model, solver, output, size=1e-4, rtol=1e-4)


class TestSuppression:
    def test_the_three_numbers_for_a1_are_three_outcomes(self, solved):
        """0.02 in the file, 0.183 in its note, 0.2 in the article."""
        assert DUAL.params().a1 == 0.02
        assert SINGLE.params().a1 == 0.04
        nadirs = [min(solved[case]["tumor"]) for case in ("dual", "figure", "article")]
        assert nadirs == [pytest.approx(n, rel=0.05) for n in (0.092, 1.71e7, 2.43e9)]

    def test_a_tumor_below_one_cell_is_named(self, solved):
        assert solved["dual"].extinct["tumor"] == 36
        assert "tumor" not in solved["figure"].extinct
        assert all(min(s["tumor"]) > 0 for s in solved.values())

    def test_a_small_number_of_car_t_cells_is_suppressed_and_a_large_one_is_not(self, solved):
        """Abstract: large numbers could overcome the immunosuppressive potential of the tumor."""
        few = solved["suppressed"]
        assert few["car_t_body"].max() < 2e8
        assert (np.diff(few["tumor"][DAYS >= 1]) > 0).all()
        many = solution(SINGLE, ck.Regimen.cells(0, 2e10), a1=0.183, **LARGE)
        assert many["tumor"].min() < 1e-3 * 3.35e10

    def test_a_second_target_makes_the_large_number_of_the_small_one(self, solved):
        """Abstract: an army of CAR-T cells from an expansion in blood and lymphoid organs."""
        single, dual = solved["suppressed"], solved["figure"]
        assert max(dual.states.C) > 5 * 2e8
        assert max(dual.states.Cb) > 15 * 2e8
        assert min(dual["tumor"]) < 1e-3 * min(single["tumor"])

    def test_less_suppression_and_a_smaller_tumor_help(self, solved):
        """Abstract: PD-1 inhibitors and low tumor loads."""
        small = solution(DUAL, TWO_E8, a1=0.183, T0=6.7e9)
        assert min(small["tumor"]) < 1e-4 * min(solved["figure"]["tumor"])
        assert min(solved["figure"]["tumor"]) < 0.1 * min(solved["article"]["tumor"])


class TestUnits:
    def test_the_dose_enters_the_tumor_or_with_two_targets_the_blood(self):
        assert [t.compartment for t in SINGLE.into("car_t")] == ["C"]
        assert [t.compartment for t in DUAL.into("car_t")] == ["Cb"]
        assert SINGLE.regimens["paper"].doses[0].amount == 4e8
        assert TWO_E8.doses[0].amount == 2e8

    def test_blood_has_the_cells_outside_the_tumor_over_an_apparent_volume(self, solved):
        s = solved["dual"]
        np.testing.assert_allclose(s["car_t"] * 500 * 1e6, s.states.Cb, rtol=1e-12)
        np.testing.assert_allclose(s["car_t_body"], s.states.C + s.states.Cb, rtol=1e-12)
        assert "car_t" not in SINGLE.outputs

    def test_no_output_is_negative_or_without_end(self, solved):
        for s in solved.values():
            for output in s.outputs:
                assert np.isfinite(s[output]).all()
                assert (np.asarray(s[output]) >= 0).all()
