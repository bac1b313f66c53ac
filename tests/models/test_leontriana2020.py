"""León-Triana 2020: agreement with SciPy, two waves of CAR-T cells, and what the marrow changes."""

import numpy as np
import pytest
from agreement import assert_has_gradients, errors, reference, solver_for

import carpk as ck

NONE, MARROW, ENCODED = (
    ck.load_model("leontriana2020", progenitors=p) for p in ("none", "marrow", "as_encoded")
)
PAPER = NONE.regimens["paper"]
AGAIN = PAPER + ck.Regimen.cells(300, 1e9)
CASES = {
    "none": (NONE, PAPER),
    "marrow": (MARROW, PAPER),
    "as_encoded": (ENCODED, PAPER),
    "again": (NONE, AGAIN),
}
DAYS = reference("leontriana2020", "none").index
WAVES = np.arange(0.5, 600.5, 0.5)


@pytest.fixture(scope="module")
def solved():
    """Every case on the days of the reference."""
    return {
        case: ck.solve(model, regimen, DAYS, method="tsit5")
        for case, (model, regimen) in CASES.items()
    }


def waves(cells, **changes):
    """CAR-T cells in the body and leukemia, twice a day for 600 days."""
    solution = ck.solve(NONE, ck.Regimen.cells(0, cells), WAVES, NONE.params(**changes))
    return np.asarray(solution["car_t_body"]), np.asarray(solution["tumor"])


class TestEquations:
    @pytest.mark.parametrize("case", CASES)
    def test_agrees_with_scipy(self, case, solved):
        assert solved[case].reason == ""
        assert max(errors(solved[case], reference("leontriana2020", case)).values()) < 1e-5

    def test_as_encoded_differs_by_less_than_a_percent_in_a_year(self, solved):
        year = DAYS.get_loc(365)
        ours, file = (solved[case].states for case in ("marrow", "as_encoded"))
        assert ours.C[year] / file.C[year] == pytest.approx(1.0026, abs=2e-4)
        for state in ("L", "B"):
            there = float(getattr(file, state)[year])
            assert getattr(ours, state)[year] == pytest.approx(there, rel=1e-3)

    def test_as_encoded_makes_car_t_cells_without_an_infusion(self):
        made = {}
        for model in (MARROW, ENCODED):
            none = model.states(C=0.0, L=5e10, B=2.5e10)
            made[model] = float(model.vector_field(0.0, none, model.params()).C)
        assert made[MARROW] == 0
        assert made[ENCODED] == pytest.approx(1.125e-11 * 0.1 * 1e7)

    def test_before_an_infusion_leukemia_grows_and_no_car_t_cell_arises(self):
        """A log starts at 1e-30 cells, which would be a wave by day 60, were they to divide."""
        later = ck.solve(NONE, PAPER.shift(600), DAYS, start=0.0, method="tsit5")
        assert later["car_t_body"].max() < 1e-29
        assert later["tumor"][-1] == pytest.approx(5e10 * np.exp(600 / 30), rel=1e-6)

    @pytest.mark.exhaustive
    def test_every_derivative_is_that_of_finite_differences(self):
        solver = solver_for(NONE, PAPER, [7.0, 28.0, 100.0, 365.0])
        for output in ("car_t", "tumor", "b_cells"):
            assert_has_gradients(NONE, solver, output, size=1e-4, rtol=1e-4)


class TestWaves:
    def test_a_second_wave_comes_more_than_a_year_after_the_first(self):
        cells, tumor = waves(1e7)
        early, late = WAVES < 200, WAVES > 200
        first, second = (WAVES[part][cells[part].argmax()] for part in (early, late))
        assert first == pytest.approx(12.5, abs=1)
        assert 365 < second < 500
        assert cells[late].max() == pytest.approx(cells[early].max(), rel=0.05)
        assert WAVES[early][tumor[early].argmin()] == pytest.approx(57, abs=1)
        assert tumor[early].min() == pytest.approx(4.1e5, rel=0.01)
        assert tumor[(WAVES > 400) & (WAVES < 450)].max() > 5e10
        assert tumor.min() > 1
        quiet = (WAVES > 300) & (WAVES < 400)
        assert WAVES[quiet][cells[quiet].argmin()] == pytest.approx(361, abs=1)
        assert cells[quiet].min() == pytest.approx(2.45, abs=0.01)

    def test_the_number_of_cells_infused_hardly_matters(self):
        peaks, nadirs = np.transpose(
            [(c[WAVES < 60].max(), t.min()) for c, t in map(waves, (1e6, 1e7, 1e8, 1e9))]
        )
        assert peaks.max() < 1.15 * peaks.min()
        assert nadirs.max() < 4 * nadirs.min()  # with a thousand times the cells

    def test_the_largest_expansion_is_that_of_the_cells_to_be_met(self):
        for burden in (1.0, 3.0):
            p = NONE.params(L0=5e10 * burden, B0=2.5e10 * burden)
            cells, _ = waves(1e7, L0=p.L0, B0=p.B0)
            assert 0.85 < cells[WAVES < 60].max() / NONE.derived["c_max"][0](p) < 1

    def test_car_t_cells_infused_as_the_leukemia_returns_make_a_smaller_relapse(self, solved):
        once, again = (np.asarray(solved[case]["tumor"])[DAYS > 300] for case in ("none", "again"))
        assert again.max() < 0.3 * once.max()

    def test_leukemia_lives_on_unless_the_marrow_makes_enough_b_cells(self):
        threshold = float(MARROW.derived["I0_cure"][0](MARROW.params()))
        assert threshold > 100 * MARROW.params().I0
        days = [1500.0, 3000.0]
        for share, lives_on in ((0.8, True), (1.25, False)):
            p = MARROW.params(I0=share * threshold)
            tumor = ck.solve(MARROW, PAPER, days, p)["tumor"]
            assert (tumor[-1] > 1) == lives_on
            assert (tumor[1] > 0.5 * tumor[0]) == lives_on


class TestUnits:
    def test_the_dose_is_a_number_of_cells_in_the_body(self):
        (target,) = NONE.into("car_t")
        assert target.compartment == "C"
        assert target.scale is None
        assert PAPER.doses[0].amount == 1e7

    def test_blood_is_the_body_over_an_apparent_volume(self, solved):
        in_blood = np.asarray(solved["none"]["car_t"]) * 500 * 1e6
        np.testing.assert_allclose(in_blood, solved["none"]["car_t_body"], rtol=1e-12)

    def test_killing_and_growth_of_car_t_cells_share_alpha(self):
        slope = {
            alpha: NONE.vector_field(0.0, NONE.states(1e8, 1e10, 1e10), NONE.params(alpha=alpha))
            for alpha in (4.5e-11, 9e-11)
        }
        growth = [float(s.C) + 1e8 / 14 for s in slope.values()]
        assert growth[0] == pytest.approx(1.125e-11 * 2e10 * 1e8)
        assert growth[1] == pytest.approx(2 * growth[0])
