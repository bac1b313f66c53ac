"""The niche model: agreement with SciPy, what it was designed to show, and its larger form."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_has_gradients, errors, reference

import carpk as ck
from carpk.events import Plan
from carpk.library import options_of
from carpk.models import niche
from carpk.solver import Solver

MODEL = ck.load_model("niche")
REGIMENS = MODEL.regimens
FLU_CY, NOTHING = REGIMENS["Flu/Cy 30/500"], REGIMENS["none"]
DAYS = np.union1d(reference("niche", "none").index, np.arange(1.0, 31.0, 0.5))
DOSE = 1.45e8  # cells
ML = 1.45e8 / 419e6  # of that dose, cells/µL


def rest(days):
    """Flu/Cy whose last dose comes this many days before the infusion on day 0."""
    return (niche.FLU_3 + niche.CY_3).shift(3 - days) + niche.ONCE


def dose(factor):
    """Flu/Cy, then this many times the dose."""
    return niche.FLU_3 + niche.CY_3 + ck.Regimen.cells(0, factor * DOSE)


SCENARIOS = {  # beside the regimens
    "dose x 0.1": (dose(0.1), {}),
    "dose x 10": (dose(10.0), {}),
    "rest 1": (rest(1), {}),
    "rest 5": (rest(5), {}),
    "rest 8": (rest(8), {}),
    "20 mL": (FLU_CY, {"B0": 20.0}),
    "500 mL": (FLU_CY, {"B0": 500.0}),
}


def solve_each(model, cases, days):
    """Name -> states and outputs of a patient: every (regimen, changes) from day -10, in one go."""
    regimens, changes = zip(*cases.values(), strict=True)
    plan = Plan.of(model, regimens, days, start=-10.0)
    each = [jax.tree.map(jnp.asarray, model.params(**values)) for values in changes]
    params = jax.tree.map(lambda *x: jnp.stack(x).astype(float), *each)
    states, outputs, code, _ = Solver.adaptive(plan, "tsit5", rtol=1e-9).run(params)
    assert not np.any(code)

    def one(i):
        levels = {name: np.asarray(x[i]) for name, x in outputs.items()}
        return SimpleNamespace(states=jax.tree.map(lambda x: np.asarray(x[i]), states), **levels)

    return {name: one(i) for i, name in enumerate(cases)}


def assert_agrees(run, days, table):
    """Every state is that of the reference; drugs that were not given are not there."""
    states = jax.tree.map(lambda x: x[np.isin(days, table.index)], run.states)
    assert set(table.columns) == set(states.names())
    given = (table != 0).any()
    for name in table.columns[~given]:
        assert not getattr(states, name).any()
    with np.errstate(invalid="ignore"):  # 0 / 0 before the first dose
        found = errors(SimpleNamespace(states=states), table.loc[:, given])
    assert max(found.values()) < 1e-5


def peak(run, days, after=1.0, before=np.inf):
    """Largest level of CAR-T cells between these days, and its day."""
    shown = np.where((days >= after) & (days < before), run.car_t, 0.0)
    return shown.max(), days[shown.argmax()]


@pytest.fixture(scope="module")
def runs():
    """Every reference regimen and scenario, and other shapes of recovery."""
    more = {"rest 0": (rest(0), {}), "rest 2": (rest(2), {})}
    more["infused"] = (ck.Regimen.lymphodepletion("Flu/Cy").resolve(bsa=1.45) + NOTHING, {})
    more |= {"logistic": (FLU_CY, {"th": 1.0}), "slow": (FLU_CY, {"th": -0.5})}
    cases = {name: (regimen, {}) for name, regimen in REGIMENS.items()}
    return solve_each(MODEL, cases | SCENARIOS | more, DAYS)


class TestEquations:
    @pytest.mark.parametrize("case", [*REGIMENS, "logistic", "slow"])
    def test_agree_with_scipy(self, runs, case):
        assert_agrees(runs[case], DAYS, reference("niche", case))

    @pytest.mark.parametrize("th", [-0.9, -0.3, -2e-4, -1e-7, 0.0, 1e-9, 3e-4, 0.01, 1.0, 2.9])
    def test_of_recovery_hold_at_any_shape_with_their_slopes(self, th):
        """Gompertz at th = 0; there its derivative is -ln(L/KN)^2 / 2."""
        total = np.array([0.7, 11.0, 499.0, 500.0, 2000.0])
        x = np.log(total / 500)
        u = th * x
        near = 1 / 2 + u / 3 + u**2 / 8
        far = (np.exp(u) * (u - 1) + 1) / np.where(u == 0, 1, u) ** 2

        def recovery(th):
            return niche.recovery(total, MODEL.params(th=th))

        exact = -x if th == 0 else -np.expm1(u) / th
        slope = -(x**2) * np.where(np.abs(u) > 0.01, far, near)
        np.testing.assert_allclose(recovery(th), exact, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(jax.jacfwd(recovery)(th), slope, rtol=1e-5, atol=1e-12)

    def test_with_shared_antigen_are_the_same_when_normal_cells_have_none(self):
        shared = ck.load_model("niche", antigen="shared")
        assert options_of("niche") == {"antigen": ("tumor", "shared")}
        assert set(shared.params.info()) - set(MODEL.params.info()) == {"SA0"}
        y = MODEL.states(Fe=0.1, Ce=0.2, N=20.0, P=0.3, E=2.0, M=0.1, B=5.0)
        c = {"flu": 0.5, "cy": 9.0}

        def growth(model, tumor, **changes):
            state = model.states(**(vars(y) | {"B": tumor}))
            return float(model.vector_field(0.0, state, model.params(**changes), c).E)

        assert growth(shared, 5.0, SA0=1e-15) == pytest.approx(growth(MODEL, 5.0), rel=1e-12)
        gain = growth(shared, 1e-12) - growth(MODEL, 1e-12)  # with no tumor left to speak of
        assert gain == pytest.approx(0.15 * 1.35 * 2.0 / (1 + (22.4 / 170) ** 2), rel=1e-9)


class TestDoses:
    def test_of_fludarabine_are_phosphate_and_leave_by_clearance(self, runs):
        """8.816 L/h at 70 kg and eGFR 120; 4-OH-CY is MR times the AUC of cyclophosphamide."""
        scale = (50 / 70) ** 0.75
        last = runs["Flu/Cy 30/500"]
        assert last.flu_auc[-1] == pytest.approx(0.781 * 3 * 43.5 / (8.816 * scale), rel=1e-6)
        assert last.cy4oh_auc[-1] == pytest.approx(0.055 * 3 * 725 / (5.4 * scale), rel=1e-6)

    def test_of_cells_spread_into_a_volume_linear_in_weight(self):
        (target,) = MODEL.into("car_t")
        assert DOSE * target.bioavailability(MODEL.params()) == pytest.approx(ML)
        assert DOSE * target.bioavailability(MODEL.params(WT=25.0)) == pytest.approx(2 * ML)

    def test_given_as_infusions_change_the_peak_by_less_than_1_percent(self, runs):
        at_once, _ = peak(runs["Flu/Cy 30/500"], DAYS)
        infused, _ = peak(runs["infused"], DAYS)
        assert 0 < abs(infused / at_once - 1) < 0.01

    def test_find_a_tumor_that_has_grown_since_the_start(self, runs):
        """B0 is the tumor on day -10."""
        run = runs["Flu/Cy 30/500"]
        grown = 100 * np.exp(0.02 * (DAYS + 10) * (1 - 105 / 3000))
        np.testing.assert_allclose(run.tumor[DAYS < 0], grown[DAYS < 0], rtol=2e-3)


class TestDesign:
    """What the model must keep showing however it is calibrated."""

    def test_without_lymphodepletion_nothing_expands(self, runs):
        assert peak(runs["none"], DAYS, after=0.3)[0] < ML

    def test_flu_alone_gives_a_small_expansion_and_flu_cy_a_large_one(self, runs):
        flu, _ = peak(runs["Flu 25 x5"], DAYS)
        both, day = peak(runs["Flu/Cy 30/500"], DAYS)
        assert flu > 5 * ML
        assert both > 5 * flu
        assert 10 <= day <= 11

    def test_the_peak_is_less_than_proportional_to_the_dose(self, runs):
        low, typical, high = (
            peak(runs[name], DAYS)[0] for name in ("dose x 0.1", "Flu/Cy 30/500", "dose x 10")
        )
        assert low < typical < 5 * low
        assert typical < high < 3 * typical

    def test_the_peak_rises_with_the_tumor(self, runs):
        small, typical, large = (
            peak(runs[name], DAYS)[0] for name in ("20 mL", "Flu/Cy 30/500", "500 mL")
        )
        assert 2 * small < typical < large

    def test_a_later_infusion_without_lymphodepletion_does_not_expand(self, runs):
        run = runs["three infusions, Flu/Cy before the first"]
        for infusion in (42, 84):
            before = run.car_t[infusion > DAYS][-1]
            assert peak(run, DAYS, infusion + 1, infusion + 36)[0] < before + ML

    def test_a_rest_of_1_to_2_days_is_best(self, runs):
        """On the last day of the drugs they still kill; after many days the niche has closed."""
        (on_the_day, late), (one, _), (two, early), (eight, _) = (
            peak(runs[f"rest {days}"], DAYS) for days in (0, 1, 2, 8)
        )
        assert on_the_day < 0.9 * min(one, two)
        assert late > early + 2
        assert eight < 0.1 * two

    def test_recovery_near_logistic_keeps_the_niche_open_for_longer(self, runs):
        gompertz, logistic = (runs[k].states.N[DAYS == 21.0] for k in ("Flu/Cy 30/500", "logistic"))
        assert logistic < 0.5 * gompertz
        assert peak(runs["logistic"], DAYS)[0] > peak(runs["Flu/Cy 30/500"], DAYS)[0]

    def test_t_cells_at_the_infusion(self, runs):
        """Known not to be met: HEROS 2.0 has fewer than 100 lymphocytes/µL after Flu as well."""
        left = {
            name: float(np.interp(0, DAYS[DAYS < 0.2], runs[name].alc[DAYS < 0.2]))
            for name in ("Flu 25 x5", "Flu/Cy 30/500")
        }
        assert left["Flu 25 x5"] == pytest.approx(100, rel=0.1)
        assert left["Flu/Cy 30/500"] < 20

    def test_the_transgene_is_diluted_by_a_constant_pool(self, runs):
        run = runs["Flu/Cy 30/500"]
        expected = 151_515 * run.car_t / (run.alc + 2500)
        np.testing.assert_allclose(run.transgene, expected, rtol=1e-12)

    def test_less_than_one_tumor_cell_is_1e_9_ml(self):
        assert dict(MODEL.one_cell) == {"tumor": 1e-9}


@pytest.mark.slow
def test_stays_close_to_the_full_form():
    """Over 15 scenarios and daily levels; `niche` was fitted to it."""
    days = np.arange(1.0, 121.0)
    cases = {name: (r, {}) for name, r in REGIMENS.items() if "Flu before each" not in name}
    cases |= SCENARIOS
    assert len(cases) == 15
    small, full = (solve_each(ck.load_model(n), cases, days) for n in ("niche", "niche_full"))
    cells, host = (
        np.array([np.log(f(small[case]) / f(full[case])) for case in cases])
        for f in (lambda run: run.car_t, lambda run: run.states.N)
    )
    assert np.sqrt(np.mean(cells**2)) < 0.15
    assert np.mean(np.abs(cells) < 0.3) > 0.95
    assert np.abs(host).max() < 0.08


@pytest.mark.slow
def test_runs_on_the_mesh_over_a_year_with_gradients():
    days = np.array([1.0, 5.0, 10.0, 14.0, 28.0, 60.0, 90.0, 180.0, 365.0])
    typical = jax.tree.map(lambda x: jnp.full((1, 1), x), MODEL.params())
    solver = Solver.prepare(Plan.of(MODEL, [FLU_CY], days, start=-10.0), typical, share=1.0)
    assert solver.mesh is not None, solver.why
    outputs = solver(jax.tree.map(lambda x: x[0], typical))
    exact = ck.solve(MODEL, FLU_CY, days, start=-10.0)
    for output in MODEL.outputs:
        np.testing.assert_allclose(outputs[output][0], exact[output], rtol=2e-4)
    assert_has_gradients(MODEL, solver, "car_t", size=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_the_peak_varies_between_patients_with_an_sd_of_ln_near_1():
    days = np.arange(1.0, 40.0)
    every = ck.simulate(MODEL, FLU_CY, days, patients=300)["car_t"].values[0]
    assert 0.8 < np.log(every.max(axis=1)).std() < 1.3
