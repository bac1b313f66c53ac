"""ODE models in simulations, fits and checks, without sampling."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import carpk as ck
from carpk._arviz import FEWEST, pareto_smoothed, to_idata
from carpk.inference import storage
from carpk.inference.density import LogDensity
from carpk.population.predict import ODEPredictor
from carpk.solver.solve import Solver, solve_many
from carpk.verdict.judge import Verdict
from carpk.verdict.solver_error import SolverCheck
from carpk.verdict.words import trouble

DAYS = np.array([1.0, 3.0, 7.0, 14.0, 28.0, 60.0])
FIXED = {"N0": 6.0, "B0": 94.86, "rhoC": 0.0251, "a": 0.423, "kB": 4.05, "gammaB": 1.15, "rB": 0.19}
KIMMEL = ck.load_model("kimmel2021")
DOSE = ck.Regimen.cells(0, 1.8e8)


def tables(unit="cells", amount=1.8e8, patients=("a", "b")):
    doses = [(p, 0.0, "car_t", amount, unit, 0.0) for p in patients]
    levels = np.asarray(ck.solve(KIMMEL, DOSE, DAYS)["car_t"])
    rows = [
        (p, t, "car_t", c, "cells/µL", 0.01, 0)
        for p in patients
        for t, c in zip(DAYS, levels, strict=True)
    ]
    return {
        "doses": pd.DataFrame(
            doses, columns=["patient", "time", "product", "amount", "unit", "duration"]
        ),
        "observations": pd.DataFrame(
            rows, columns=["patient", "time", "analyte", "value", "unit", "lloq", "censored"]
        ),
    }


@pytest.fixture(scope="module")
def kimmel_fit():
    """A fit of two patients whose 40 draws lie around the truth; nothing sampled them."""
    population = ck.Population(KIMMEL, varies=["KC"], fixed=FIXED)
    data = ck.Dataset.from_frames(**tables(), name="simulated")
    bound = population.bind(data)
    rng = np.random.default_rng(0)
    centre = {"KN": 500.0, "KC": 139.0, "rN": 0.17, "b": 0.525, "omega_KC": 0.3, "sigma": 0.2}
    draws = {
        k: (("chain", "draw"), v * np.exp(0.05 * rng.normal(size=(2, 20))))
        for k, v in centre.items()
    }
    effects = 0.3 * rng.normal(size=(2, 20, 2))
    posterior = xr.Dataset(
        {**draws, "eta_KC": (("chain", "draw", "patient"), effects)},
        coords={"patient": ["a", "b"]},
    )
    assert set(centre) == set(bound.priors)
    numbers = {"rhat_max": 2.0, "ess_min": 3.0, "divergences": 0.0, "ebfmi_min": 1.0}
    verdict = Verdict((trouble("made up", "Made up."),), numbers)
    settings = {"method": "nuts", "chains": 2, "draws": 20, "seed": 0}
    fit = ck.Fit(population, data, to_idata({"posterior": posterior}), verdict, settings)
    fit.__dict__["bound"] = bound  # the mesh is chosen once for all tests of this file
    return fit


def with_mesh(fit, rtol):
    """The same fit, solved on a mesh that is that good."""
    bound = fit.bound
    plan = bound.predictors[None].solver.schedule
    reference = bound._reference(0.1, {}, 2, 1)
    solver = Solver.prepare(plan, reference, rtol=rtol)
    other = ck.Fit(fit.population, fit.data, fit.idata, fit.verdict, fit.settings)
    predictors = {None: ODEPredictor(solver, ("car_t",))}
    other.__dict__["bound"] = dataclasses.replace(bound, predictors=predictors)
    return other


@pytest.mark.slow
class TestSolverCheck:
    def test_passes_a_fit_whose_mesh_is_fine(self, kimmel_fit):
        check = ck.checks.solver_error(kimmel_fit)
        assert check.ok
        assert check.error.max() < 1e-3
        assert check.spread < 0.1
        assert check.failed == 0
        assert "mesh" in check.route
        assert repr(check).startswith("OK: 40 posterior draws")

    def test_finds_the_error_and_the_weights_of_a_coarse_mesh(self, kimmel_fit):
        """Weighted by hand: the ratio of the likelihood solved by `ck.solve` to that of the fit."""
        fit = with_mesh(kimmel_fit, 0.3)
        check = ck.checks.solver_error(fit, draws=40)
        assert check.error.max() > 0.01
        bound, i = fit.bound, 7
        sample = {k: jnp.asarray(v[i]) for k, v in fit.draws(effects=True).items()}
        params, theta = bound.of_sample(sample)
        fast = np.asarray(bound.individual_predictions(params))
        one = [jax.tree.map(lambda x, j=j: x[j], params) for j in range(2)]
        true = np.stack([np.asarray(ck.solve(KIMMEL, DOSE, DAYS, p)["car_t"]) for p in one])
        y = bound.individual.value

        def score(f):
            return -0.5 * np.sum((np.log(y / f) / theta["sigma"]) ** 2)

        place = list(fit.chosen(40)[check.solved]).index(i)
        assert check.log_ratio[place] == pytest.approx(float(score(true) - score(fast)), abs=1e-3)
        assert check.error[place] == pytest.approx(np.max(np.abs(fast / true - 1)), rel=0.01)
        weights = np.exp(check.log_weights)
        assert weights.sum() == pytest.approx(1.0)
        assert check.ess < 40

    def test_says_what_to_do_where_the_solver_changed_the_posterior(self, kimmel_fit):
        check = ck.checks.solver_error(kimmel_fit)
        bad = dataclasses.replace(check, log_ratio=check.log_ratio * 0 + np.arange(40), k_hat=0.9)
        assert not bad.ok
        assert "Population(..., rtol=1e-6)" in repr(bad)
        mended = dataclasses.replace(bad, k_hat=0.3)
        assert mended.ok
        assert "Weight the draws" in repr(mended)
        assert not dataclasses.replace(check, failed=1).ok

    def test_refuses_a_closed_form(self, known_fit):
        with pytest.raises(ck.FitError, match="closed form"):
            ck.checks.solver_error(known_fit)


class TestPopulation:
    def test_the_likelihood_is_that_of_the_solution(self, kimmel_fit):
        bound = kimmel_fit.bound
        params = KIMMEL.params(KC=jnp.array([100.0, 200.0]))
        params = jax.tree.map(lambda x: jnp.broadcast_to(x, (2,)), params)
        levels = np.asarray(bound.individual_predictions(params))
        for i, kc in enumerate([100.0, 200.0]):
            exact = ck.solve(KIMMEL, DOSE, DAYS, KIMMEL.params(KC=kc))["car_t"]
            assert levels[i] == pytest.approx(np.asarray(exact), rel=1e-3)

    @pytest.mark.slow
    def test_gradients_reach_every_parameter(self, kimmel_fit):
        density = LogDensity(kimmel_fit.bound)
        theta = {k: jnp.asarray(v[0]) for k, v in kimmel_fit.draws().items()}
        u, z = density.outer_of(theta), jnp.array([[0.7], [-0.4]])
        log_joint = jax.jit(lambda u, z: density.log_joint(u, z, None))
        gradient = jax.grad(log_joint)(u, z)
        h = 1e-4
        for i, site in enumerate(density.sites):
            step = h * np.eye(len(u))[i]
            slope = float(log_joint(u + step, z) - log_joint(u - step, z)) / (2 * h)
            assert float(gradient[i]) == pytest.approx(slope, rel=1e-3, abs=1e-3), site.name

    def test_a_published_cohort_needs_its_regimen(self):
        study = ck.load_study("zuma1_moffitt")
        with pytest.raises(ck.FitError, match=r"regimens=\{'moffitt'"):
            ck.Population(KIMMEL, varies=["KC"]).bind(study.dataset())

    def test_doses_per_kg_need_the_weight(self):
        frames = tables("cells/kg", 2e6)
        with pytest.raises(ck.DatasetError, match=r"patient 'a'.*'weight' is needed"):
            ck.Dataset.from_frames(**frames).regimens()
        people = pd.DataFrame({"patient": ["a", "b"], "weight": [70.0, 80.0]})
        regimens = ck.Dataset.from_frames(people, **frames).regimens()
        assert [r.events[0].amount for r in regimens] == [1.4e8, 1.6e8]

    def test_regimens_survive_a_file(self):
        regimen = ck.Regimen((ck.Reset(1.0), ck.Multiply(2.0, 0.1, "N"), ck.Replace(3.0, 1.0, "C")))
        regimen = regimen + DOSE + ck.Regimen.lymphodepletion("Flu")
        population = ck.Population(KIMMEL, varies=["KC"], regimens={"moffitt": regimen}, rtol=1e-5)
        again = storage.decode_population(storage.encode_population(population), KIMMEL)
        assert again.rtol == 1e-5
        assert again.regimens["moffitt"].describe().equals(regimen.describe())


class TestSimulate:
    def test_the_typical_patient_is_that_of_solve(self):
        days = np.arange(0.0, 61.0)
        sim = ck.simulate(KIMMEL, DOSE, days)
        exact = ck.solve(KIMMEL, DOSE, days, start=0.0)
        assert sim["tumor"].dims == ("draw", "patient", "time")
        assert sim["tumor"].attrs["units"] == "mL"
        assert sim["car_t"].values[0, 0, 1:] == pytest.approx(
            np.asarray(exact["car_t"])[1:], rel=1e-3
        )
        assert "mesh" in sim.data.attrs["solver"]

    @pytest.mark.slow
    def test_patients_for_whom_the_mesh_is_too_coarse_are_solved_again(self):
        """The 1,000th patient is unlike the 256 for whom the mesh is chosen."""
        rng = np.random.default_rng(1)
        params = KIMMEL.params(KC=139 * np.exp(0.1 * rng.normal(size=1000)), rN=np.full(1000, 0.17))
        params = params.replace(rN=np.where(np.arange(1000) == 998, 6.0, params.rN))
        result = solve_many(KIMMEL, DOSE, DAYS, params, start=0.0)
        assert result.again >= 1
        assert not result.failures
        exact = ck.solve(KIMMEL, DOSE, DAYS, KIMMEL.params(KC=float(params.KC[998]), rN=6.0))
        assert result.outputs["car_t"][998] == pytest.approx(np.asarray(exact["car_t"]), rel=1e-4)

    def test_a_fit_gives_draws_of_its_own_patients(self, kimmel_fit):
        sim = ck.simulate(kimmel_fit, DOSE, DAYS, patients=3, draws=4)
        assert sim["car_t"].shape == (4, 3, 6)
        assert np.isfinite(sim["car_t"].values).all()

    def test_a_drug_without_a_compartment_is_refused(self):
        flu = ck.Regimen.lymphodepletion(flu=[(-5, 40.0)], per="")
        with pytest.raises(ck.RegimenError, match=r"fludarabine.*nowhere to go in 'kimmel2021'"):
            ck.simulate(KIMMEL, flu + DOSE, DAYS)


@pytest.mark.parametrize("size", range(1, 12))
def test_the_weights_of_few_draws_are_finite(size):
    """PSIS has no tail to fit to one draw, as to a mode, and says so instead of failing."""
    log_weights = np.random.default_rng(size).normal(size=size)
    smoothed, k_hat = pareto_smoothed(log_weights)
    assert np.exp(smoothed).sum() == pytest.approx(1.0)
    assert k_hat == np.inf or size >= FEWEST


@pytest.mark.parametrize(("ratio", "ok"), [(-0.01, True), (0.3, False), (-0.3, False)])
def test_the_solver_error_of_a_mode_is_judged_by_its_own_log_ratio(ratio, ok):
    """There is no other draw with which it could be common."""
    none = np.zeros(1)
    check = SolverCheck(none, np.array([ratio]), none, np.inf, 0, np.ones(1, bool), "mesh")
    assert check.spread == abs(ratio)
    assert check.ok is ok


@pytest.mark.slow
def test_the_mode_of_an_ode_model_is_found():
    data = ck.Dataset.from_frames(**tables(), name="simulated")
    free = {k: v for k, v in FIXED.items() if k != "N0"}
    population = ck.Population(KIMMEL, fixed=free | {"rN": 0.16, "KN": 500.0, "b": 0.525})
    fit = ck.fit(population, data, method="map", starts=2, progress=False)
    assert not any("solver" in text for text in fit.verdict.troubles)
    assert fit.summary().loc["KC", "median"] == pytest.approx(float(KIMMEL.params().KC), rel=0.3)
