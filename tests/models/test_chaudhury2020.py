"""Chaudhury 2020: agreement with SciPy, the change of phase at Tmax, what sets the forms apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_has_gradients, errors, reference, solver_for

import carpk as ck

FIRST, PREY, EC50 = (
    ck.load_model("chaudhury2020", form=form) for form in ("first_order", "lotka_volterra", "ec50")
)
PAPER = FIRST.regimens["paper"]
AGAIN = ck.Regimen.cells([0, 60], 5e7)
CASES = {
    "first_order": (FIRST, PAPER, {}),
    "lotka_volterra": (PREY, PAPER, {}),
    "ec50": (EC50, PAPER, {}),
    "scarce": (EC50, PAPER, {"U0": 9.0}),
    "abundant": (EC50, PAPER, {"U0": 90_000.0}),
    "again": (EC50, AGAIN, {}),
}
DAYS = reference("chaudhury2020", "ec50").index


def solution(model, regimen=PAPER, days=DAYS, **changes):
    return ck.solve(model, regimen, days, model.params(**changes), method="tsit5")


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
        assert solved[case].reason == ""
        with np.errstate(invalid="ignore"):  # there are no persistent cells before Tmax
            assert max(errors(solved[case], reference("chaudhury2020", case)).values()) < 1e-5

    def test_a_tumor_of_no_meaning_is_still_that_of_the_file_down_to_1e_80(self, solved):
        expected = reference("chaudhury2020", "first_order")["U"].to_numpy()
        shown = expected > 1e-80
        assert expected[shown].min() < 1e-52
        tumor = np.asarray(solved["first_order"]["tumor"])
        np.testing.assert_allclose(tumor[shown], expected[shown], rtol=1e-5)
        assert expected.min() < 1e-236
        assert 1e-104 < tumor.min() < 1e-100  # killing ends there

    def test_less_than_one_cell_in_five_liters_is_named(self, solved):
        assert FIRST.one_cell == {"tumor": pytest.approx(1 / 5e6)}
        assert solved["first_order"].extinct == {"tumor": 8.5}
        assert solved["ec50"].extinct == {}

    @pytest.mark.slow
    def test_gradients_hold_where_no_tumor_is_left(self):
        FIRST.check_derivatives()
        solver = solver_for(FIRST, PAPER, [8.0, 60.0, 365.0])
        assert_has_gradients(FIRST, solver, "tumor", size=1e-4, rtol=1e-4)


class TestPhases:
    def test_the_dose_of_the_paper_is_ten_cells_per_microliter(self):
        (dose,) = PAPER.doses
        for model in (FIRST, PREY, EC50):
            into = model.into("car_t")[0]
            assert into.compartment == "CE"
            assert into.scale(model.params()) * dose.amount == pytest.approx(10, 1e-12)

    def test_no_step_straddles_the_end_of_expansion(self):
        """CE is exponential in each phase: any step is exact, unless it sees both phases."""
        for tmax in (9.3, 4.77):
            days = [tmax - 1e-3, tmax + 1e-3, 20.0]
            loose = ck.solve(FIRST, PAPER, days, FIRST.params(Tmax=tmax), rtol=1e-2)
            late = np.maximum(np.array(days) - tmax, 0)
            exact = 10 * np.exp(np.minimum(days, tmax) - 0.1612 * late)
            np.testing.assert_allclose(loose.states.CE, exact, rtol=1e-11)

    @pytest.mark.slow
    def test_the_derivative_by_tmax_is_that_of_finite_differences(self):
        """Through days before and after Tmax: an `if t < Tmax` would have none."""
        solver = solver_for(EC50, PAPER, [9.0, 12.0, 90.0])

        @jax.jit
        @jax.value_and_grad
        def logs(tmax):
            params = jax.tree.map(lambda x: jnp.asarray(x, float)[None], EC50.params(Tmax=tmax))
            return sum(jnp.sum(jnp.log(level)) for level in solver(params).values())

        central = float(logs(9.301)[0] - logs(9.299)[0]) / 0.002
        assert logs(9.3)[1] == pytest.approx(central, rel=1e-5)
        assert abs(central) > 0.1

    @pytest.mark.exhaustive
    @pytest.mark.parametrize("route", ["auto", "adaptive"])
    def test_every_derivative_is_that_of_finite_differences(self, route):
        solver = solver_for(EC50, PAPER, [9.0, 12.0, 90.0], route=route)
        assert_has_gradients(EC50, solver, "tumor", size=1e-4, rtol=1e-4)

    def test_persistent_cells_come_after_tmax_and_outlive_the_others(self, solved):
        states = solved["first_order"].states
        assert (np.asarray(states.CP)[DAYS <= 9.3] == 0).all()
        assert states.CP[-1] > 1e10 * states.CE[-1]
        assert solved["first_order"]["car_t"][-1] == pytest.approx(float(states.CP[-1]))

    def test_a_second_infusion_expands_for_tmax_days_again(self, solved):
        again = np.asarray(solved["again"].states.CE)
        once = np.asarray(solved["ec50"].states.CE)
        day = dict(zip(DAYS, again, strict=True))
        np.testing.assert_allclose(again[DAYS <= 60], once[DAYS <= 60], rtol=1e-6)
        assert day[61] < day[65] < day[69] > day[70]


class TestForms:
    def test_the_tumor_is_nothing_to_car_t_cells_of_the_first_order_form(self):
        few, many = (solution(FIRST, U0=tumor)["car_t"] for tumor in (9.0, 90_000.0))
        np.testing.assert_allclose(few, many, rtol=1e-9)

    def test_car_t_cells_of_the_ec50_form_need_tumor_up_to_a_point(self, solved):
        peaks = [max(solved[case]["car_t"]) for case in ("scarce", "ec50", "abundant")]
        assert peaks[1] > 50 * peaks[0]
        assert peaks[2] > 10 * peaks[1]

    def test_a_small_tumor_outlives_car_t_cells_that_it_did_not_make_expand(self, solved):
        assert solved["scarce"]["tumor"][-1] > 900
        assert solved["ec50"]["tumor"][-1] < 0.01

    def test_below_uc_a_tumor_does_not_grow_again(self):
        """But for F it would."""
        assert solution(EC50, Uc=1e-9)["tumor"][-1] > 500

    def test_the_tumor_of_the_first_order_form_starts_above_what_it_can_grow_to(self):
        """As deposited: U0 = 900, Um = 100."""
        alone = np.asarray(solution(FIRST, ck.Regimen.cells(0, 1.0))["tumor"])
        assert 300 < alone[DAYS == 2] < 900
        assert alone[-1] == pytest.approx(100, rel=1e-3)

    def test_predator_and_prey_can_hold_each_other(self):
        p = PREY.params()
        hold = {name: float(f(p)) for name, (f, _) in PREY.derived.items()}
        regimen = ck.Regimen.cells(0, hold["c_hold"] * 5e6)
        still = solution(PREY, regimen, U0=hold["u_hold"])
        np.testing.assert_allclose(still["car_t"][1:], 1000, rtol=1e-6)
        np.testing.assert_allclose(still["tumor"], 0.16 / 0.0018, rtol=1e-6)

    def test_predator_and_prey_return_in_turn(self, solved):
        tumor, cells = (np.asarray(solved["lotka_volterra"][x]) for x in ("tumor", "car_t"))
        assert tumor.min() < 0.01
        assert tumor[DAYS == 90] > 10
        assert cells[DAYS == 250] > 1000 * cells[DAYS == 90]
