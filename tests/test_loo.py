"""Leave-one-out prediction is that of fits which have not seen what is left out."""

import dataclasses
import itertools

import conjugate
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import pytest
import scipy.stats
from scipy.special import logsumexp

import carpk as ck
from carpk import checks
from carpk._arviz import INFERENCE_DATA, az, pareto_smoothed
from carpk.checks import leave_out
from carpk.checks.marginal import marginal, proposal
from carpk.verdict.words import trouble


@pytest.fixture(scope="module")
def fit():
    return conjugate.fit_of(conjugate.POP.bind(conjugate.data()))


def groups(fit, by):
    """Masks of the units, in the order of the table."""
    a = fit.bound.individual
    if by == "observation":
        where = np.argwhere(a.mask)
        return [np.all(np.indices(a.mask.shape) == w[:, None, None], axis=0) for w in where]
    owner = np.arange(len(a.patients))[:, None] * np.ones_like(a.mask)
    if by == "patient":
        return [a.mask & (owner == i) for i in range(len(a.patients))]
    return [a.mask & (owner % 4 == i) for i in range(4)]


@pytest.fixture(scope="module")
def results(fit):
    return {by: left_out(fit, by) for by in leave_out.UNITS}


def fit_draws(fit):
    return {str(n): x.to_numpy() for n, x in fit.posterior.data_vars.items()}


def left_out(fit, by, **options):
    return checks.loo(fit, by=by, cohort="arm", progress=False, **options)


class TestTheIntegralOverRandomEffects:
    def test_is_the_normal_density_where_that_is_exact(self, fit):
        """At draws far beyond those that the points were laid out for, as a refit may have them."""
        bound, rng = fit.bound, np.random.default_rng(3)
        r, n = conjugate.logs(bound.individual)
        theta = {"base": 10 * np.exp(0.3 * rng.normal(size=60))}
        theta["omega_base"] = 0.7 * np.exp(0.3 * rng.normal(size=60))
        theta["sigma"] = 0.4 * np.exp(0.1 * rng.normal(size=60))
        found = marginal(bound, proposal(bound, fit.draws(effects=True)), points=512)(theta)
        errors = []
        for s, i in itertools.product(range(60), range(len(n))):
            cov = theta["sigma"][s] ** 2 * np.eye(n[i]) + theta["omega_base"][s] ** 2
            mean = np.full(n[i], np.log(theta["base"][s]))
            exact = scipy.stats.multivariate_normal.logpdf(r[i, : n[i]], mean, cov)
            exact -= np.log(bound.individual.value[i, : n[i]]).sum()
            errors.append(found.log_likelihood[s, i] - exact)
        assert np.abs(errors).max() < 0.1
        assert np.abs(errors).mean() < 0.005
        assert found.ess.min() > 0.1 * 512

    def test_is_that_of_brute_force_with_infusions_and_values_below_the_lloq(self):
        """Three random effects of a piecewise curve on a grid; the effects' draws are the prior's,
        so that the points lie where they must be found."""
        shape = np.array([0.02, 1.0, 0.2, 0.1, 0.7, 0.1, 0.01])
        days = np.array([3.0, 8.0, 20.0, 33.0, 38.0, 60.0, 90.0])
        rows = [
            (p, t, "car_t", max(y, 0.5), "cells/µL", 0.5, int(y < 0.5))
            for p, level in {"a": 60.0, "b": 8.0}.items()
            for t, y in zip(days, level * shape, strict=True)
        ]
        doses = pd.DataFrame(
            [(p, t, "car_t", 1e8, "cells", 0.0) for p in "ab" for t in (0.0, 30.0)],
            columns=["patient", "time", "product", "amount", "unit", "duration"],
        )
        columns = ["patient", "time", "analyte", "value", "unit", "lloq", "censored"]
        data = ck.Dataset.from_frames(
            doses=doses, observations=pd.DataFrame(rows, columns=columns), name="two infusions"
        )
        pop = ck.Population(
            ck.load_model("piecewise"),
            varies={"cmax": ["patient", "infusion"]},
            fixed={"tmax": 9.0, "t_double": 0.8, "t_alpha": 5.0, "fb": 0.01, "beta_alpha": 0.02},
        )
        bound = pop.bind(data)
        assert (bound.individual.censored == 1).sum() >= 2
        rng = np.random.default_rng(0)
        theta = {"cmax": 40.0, "omega_cmax": 0.8, "omega_cmax_infusion": 0.5, "sigma": 0.6}
        sample = {k: v * np.exp(0.02 * rng.normal(size=200)) for k, v in theta.items()}
        sample["eta_cmax"] = 0.8 * rng.normal(size=(200, 2))
        sample["eta_cmax_infusion"] = 0.5 * rng.normal(size=(200, 2, 2))
        integral = marginal(bound, proposal(bound, sample), points=4096)
        found = integral({k: np.full(1, v) for k, v in theta.items()})
        z = np.linspace(-5, 5, 61)
        grid = np.stack(np.meshgrid(z, z, z, indexing="ij"), axis=-1).reshape(-1, 3)

        def at(z):
            eta = {"eta_cmax": jnp.full(2, 0.8 * z[0])}
            eta["eta_cmax_infusion"] = jnp.broadcast_to(0.5 * z[1:], (2, 2))
            params, _ = bound.of_sample({k: jnp.asarray(v) for k, v in theta.items()} | eta)
            return jnp.sum(bound.observation_log_likelihoods(params, theta), axis=1)

        each = np.asarray(jax.jit(lambda z: jax.lax.map(at, z, batch_size=2000))(grid))
        weights = scipy.stats.norm.logpdf(grid).sum(axis=1) + 3 * np.log(z[1] - z[0])
        exact = logsumexp(each + weights[:, None], axis=0)
        assert found.log_likelihood[0] == pytest.approx(exact, abs=0.05)

    @pytest.mark.slow
    def test_is_that_of_brute_force_for_differential_equations(self):
        """One random effect of two patients, on a grid."""
        kimmel, days = ck.load_model("kimmel2021"), np.array([1.0, 7.0, 14.0, 28.0])
        levels = np.asarray(ck.solve(kimmel, ck.Regimen.cells(0, 1.8e8), days)["car_t"])
        rows = [
            (p, t, "car_t", y * factor, "cells/µL", 0.01, 0)
            for p, factor in {"a": 1.0, "b": 1.5}.items()
            for t, y in zip(days, levels, strict=True)
        ]
        columns = ["patient", "time", "analyte", "value", "unit", "lloq", "censored"]
        doses = {"patient": ["a", "b"], "time": 0.0, "product": "car_t", "amount": 1.8e8}
        data = ck.Dataset.from_frames(
            doses=pd.DataFrame(doses | {"unit": "cells", "duration": 0.0}),
            observations=pd.DataFrame(rows, columns=columns),
            name="differential equations",
        )
        info = kimmel.params.info()
        fixed = {n: i.value for n, i in info.items() if n != "KC" and not i.is_covariate}
        bound = ck.Population(kimmel, varies=["KC"], fixed=fixed).bind(data)
        theta = {"KC": 139.0, "omega_KC": 0.4, "sigma": 0.3}
        rng = np.random.default_rng(0)
        sample = {k: v * np.exp(0.02 * rng.normal(size=100)) for k, v in theta.items()}
        sample["eta_KC"] = 0.4 * rng.normal(size=(100, 2))
        integral = marginal(bound, proposal(bound, sample), points=512)
        found = integral({k: np.full(1, v) for k, v in theta.items()})

        def at(z):
            one = {k: jnp.asarray(v) for k, v in theta.items()} | {"eta_KC": jnp.full(2, 0.4 * z)}
            params, _ = bound.of_sample(one)
            return jnp.sum(bound.observation_log_likelihoods(params, theta), axis=1)

        z = np.linspace(-5, 5, 301)
        each = np.asarray(jax.jit(lambda z: jax.lax.map(at, z))(z))
        weights = scipy.stats.norm.logpdf(z) + np.log(z[1] - z[0])
        exact = logsumexp(each + weights[:, None], axis=0)
        assert found.log_likelihood[0] == pytest.approx(exact, abs=0.02)

    def test_has_an_error_that_is_told_from_its_scrambles(self, fit):
        bound = fit.bound
        theta = {k: v[:50] for k, v in fit.draws().items()}
        rough, fine = (
            marginal(bound, proposal(bound, fit.draws(effects=True)), points=n)(theta)
            for n in (32, 1024)
        )
        error = np.abs(rough.log_likelihood - fine.log_likelihood).mean()
        told = (np.std(rough.scrambles, axis=0, ddof=1) / 2).mean()
        assert 0.3 * told < error < 2 * told


class TestLeftOutDensities:
    @pytest.mark.parametrize("by", ["observation", "patient", "cohort"])
    def test_are_those_of_the_normal_conditional(self, fit, results, by):
        result = results[by]
        exact = conjugate.density_of_left_out(fit.bound, groups(fit, by))
        assert result.table["elpd"].to_numpy() == pytest.approx(exact, abs=0.08)
        assert result.elpd == pytest.approx(exact.sum(), abs=0.15)
        assert len(result.bad) <= 2
        assert result.se == pytest.approx(np.sqrt(exact.size) * exact.std(ddof=1), rel=0.05)

    def test_of_a_patient_are_not_what_conditional_likelihoods_give(self, results):
        """The draws of a patient's random effects have seen the patient's data."""
        result, each = results["patient"], results["observation"]
        naive = each.table.groupby("patient", sort=False)["elpd"].sum()
        assert naive.sum() > result.elpd + 2

    def test_are_arvizs_by_observation(self, fit, results):
        theirs = az.loo(fit.idata, pointwise=True)
        ours = results["observation"]
        names = ("elpd_loo", "loo_i") if INFERENCE_DATA else ("elpd", "elpd_i")
        assert ours.elpd == pytest.approx(float(getattr(theirs, names[0])), abs=1e-2)
        few = np.sqrt(36 / 35) if INFERENCE_DATA else 1.0  # ArviZ 0.x divides by n, not n - 1
        assert ours.se == pytest.approx(float(theirs.se) * few, rel=1e-3)
        each = np.ravel(getattr(theirs, names[1]))
        assert ours.table["elpd"].to_numpy() == pytest.approx(each, abs=5e-3)
        p_loo = theirs.p_loo if INFERENCE_DATA else theirs.p
        assert ours.p_loo == pytest.approx(float(p_loo), abs=2e-2)

    @pytest.mark.parametrize(
        ("by", "unit"), [("observation", "p3, day 1"), ("patient", "p3"), ("cohort", "arm 3")]
    )
    def test_of_a_refit_are_exact(self, fit, monkeypatch, by, unit):
        """Fits without the unit, here of exact draws, with the settings of the fit."""
        seen = []

        def without(bound, settings, **_):
            seen.append(settings)
            return conjugate.fit_of(bound, settings, seed=5)

        monkeypatch.setattr(leave_out, "fit_bound", without)
        result = left_out(fit, by, refit=[unit])
        number = list(result.table.index).index(unit)
        exact = conjugate.density_of_left_out(fit.bound, groups(fit, by))
        assert result.table["elpd"].iloc[number] == pytest.approx(exact[number], abs=0.03)
        assert result.table["refitted"].tolist() == [i == number for i in range(len(exact))]
        assert result.refits == 1
        assert seen == [fit.settings]

    @pytest.mark.slow
    def test_of_a_real_refit_are_exact(self, fit):
        """SDs known to 3 % only: a sampler cannot follow what is known to 1 in 100,000.

        Over seeds the Monte Carlo error of 2,000 draws is 0.03.
        """
        priors = {n: dist.LogNormal(p.loc, 0.03) for n, p in conjugate.POP.priors.items()}
        priors["base"] = conjugate.POP.priors["base"]
        bound = dataclasses.replace(conjugate.POP, priors=priors).bind(fit.data)
        settings = {**conjugate.SETTINGS, "tune": 800, "chains": 2}
        wider = conjugate.made_up(bound, fit_draws(fit), settings)
        result = left_out(wider, "patient", refit=["p3"])
        exact = conjugate.density_of_left_out(fit.bound, groups(fit, "patient"))
        assert result.table.loc["p3", "elpd"] == pytest.approx(exact[3], abs=0.12)

    def test_of_a_patient_beyond_belief_need_a_refit_and_get_one(self, monkeypatch):
        data = conjugate.data(shift={"p2": 5.0})
        strange = conjugate.fit_of(conjugate.POP.bind(data))
        result = left_out(strange, "patient")
        assert result.bad == ("p2",)
        assert not result.ok
        assert repr(result).startswith("DO NOT TRUST")
        assert "p2: use refit=True" in repr(result)
        monkeypatch.setattr(leave_out, "fit_bound", conjugate.fit_of)
        again = left_out(strange, "patient", refit=True)
        assert again.bad == ()
        assert again.refits == 1
        assert "1 refitted" in repr(again).splitlines()[0]
        exact = conjugate.density_of_left_out(strange.bound, groups(strange, "patient"))
        assert again.table.loc["p2", "elpd"] == pytest.approx(exact[2], abs=0.1)

    def test_of_published_cohorts_are_those_of_all_their_facts(self):
        """Densities at the draws, left out as arviz would."""
        fit = conjugate.published()
        bound = fit.bound
        result = checks.loo(fit, by="cohort", progress=False)
        assert list(result.table.index) == ["a", "b"]
        each = jax.jit(jax.vmap(bound.summary_log_likelihoods))(fit.draws())
        of_a = np.asarray(each["a"]).sum(axis=1)
        weights, k_hat = pareto_smoothed(-of_a, min(1.0, leave_out._ess(fit) / 100))
        assert result.table.loc["a", "elpd"] == pytest.approx(logsumexp(weights + of_a), rel=1e-6)
        assert result.table.loc["a", "k_hat"] == pytest.approx(k_hat, rel=1e-6)
        assert result.points == 0


@pytest.fixture(scope="module")
def both(fit):
    """The truth, and a fit that has one base for all."""
    rng = np.random.default_rng(4)
    draws = {"base": 10 * np.exp(0.1 * rng.normal(size=(4, 1000)))}
    draws["sigma"] = 0.4 * np.exp(1e-5 * rng.normal(size=(4, 1000)))
    same = conjugate.made_up(conjugate.without_spread().bind(fit.data), draws)
    return {"same for all": same, "varies": fit}


class TestComparison:
    def test_prefers_the_truth_by_the_differences_of_the_units(self, both, results):
        both = both | {"varies": results["patient"]}
        result = checks.compare_loo(both, by="patient", progress=False)
        assert list(result.table.index) == ["varies", "same for all"]
        each = {n: result.results[n].table["elpd"].to_numpy() for n in both}
        apart = each["same for all"] - each["varies"]
        row = result.table.loc["same for all"]
        assert row["difference"] == pytest.approx(apart.sum())
        assert row["se_difference"] == pytest.approx(np.sqrt(apart.size) * apart.std(ddof=1))
        assert result.table.loc["varies", ["difference", "se_difference"]].tolist() == [0, 0]
        assert "'varies' predicts best" in repr(result)

    def test_takes_results_as_well_as_fits(self, both):
        results = {n: checks.loo(f, progress=False) for n, f in both.items()}
        mixed = checks.compare_loo({**both, "again": results["varies"]}, progress=False)
        assert mixed.table.loc["again", "elpd"] == mixed.table.loc["varies", "elpd"]
        assert "again hardly worse" in repr(mixed) or "varies hardly worse" in repr(mixed)

    def test_says_why_a_result_cannot_be_relied_on(self, results):
        doubted = dataclasses.replace(results["patient"], troubles=("A refit is doubtful.",))
        result = checks.compare_loo({"a": results["patient"], "b": doubted})
        assert not result.ok
        assert "\n    A refit is doubtful.\n" in repr(result)

    def test_refuses_what_cannot_be_compared(self, fit, results):
        by_patient = results["patient"]
        with pytest.raises(ck.FitError, match="at least two"):
            checks.compare_loo({"a": fit})
        with pytest.raises(ck.FitError, match="'a' leaves out by patient, 'b' by observation"):
            checks.compare_loo({"a": by_patient, "b": results["observation"]})
        other = conjugate.fit_of(conjugate.POP.bind(conjugate.data(seed=9)))
        with pytest.raises(ck.FitError, match="not fitted to the same outcomes"):
            checks.compare_loo({"a": results["observation"], "b": other}, progress=False)
        with pytest.raises(ck.FitError, match="not fitted to the same outcomes"):
            checks.compare_loo(
                {"a": left_out(fit, "patient"), "b": left_out(fit, "cohort")}
                | {"b": dataclasses.replace(by_patient, table=by_patient.table.iloc[1:])}
            )


class TestVerdict:
    def test_says_which_integral_is_too_rough(self, results):
        result = dataclasses.replace(results["patient"], points=32)
        rough = dataclasses.replace(result, table=result.table.assign(mc_error=[0.3] + [0.0] * 11))
        assert rough.rough == ("p0",)
        assert not rough.ok
        assert "p0 (error of elpd above 0.1): raise `points`, 32 now" in repr(rough)

    def test_a_fit_that_is_not_trusted_makes_no_trusted_prediction(self, fit):
        verdict = dataclasses.replace(fit.verdict, findings=(trouble("x", "x"),))
        result = left_out(dataclasses.replace(fit, verdict=verdict), "observation")
        assert not result.ok
        assert "fit itself" in repr(result)

    def test_an_impossible_unit_is_bad(self):
        elpd, k_hat = leave_out._left_out(np.array([[-1.0, -np.inf], [-2.0, -1.0]]), 1.0)
        assert elpd[1] == -np.inf
        assert k_hat[1] == np.inf

    def test_few_draws_lower_the_limit_of_k_hat(self):
        assert leave_out.k_limit(100) == pytest.approx(0.5)
        assert leave_out.k_limit(4000) == 0.7

    def test_heavy_weights_stay_heavy(self):
        """ArviZ 1.x takes logarithms of likelihoods where 0.x takes those of weights."""
        log_weights = np.random.default_rng(0).normal(size=500)
        smoothed, k_hat = pareto_smoothed(log_weights)
        assert np.corrcoef(log_weights, smoothed)[0, 1] > 0.99
        assert logsumexp(smoothed) == pytest.approx(0.0, abs=1e-12)
        assert k_hat < 0.7


class TestRefusals:
    def test_names_what_can_be_left_out(self, fit, known_fit):
        with pytest.raises(ck.FitError, match="by must be 'observation', 'patient' or 'cohort'"):
            checks.loo(fit, by="arm")
        for by in ("observation", "patient"):
            with pytest.raises(ck.FitError, match='by="cohort"'):
                checks.loo(known_fit, by=by)
        with pytest.raises(ck.FitError, match="single cohort 'moffitt'"):
            checks.loo(known_fit, by="cohort")
        with pytest.raises(ck.FitError, match="cohort='cohort' now"):
            checks.loo(fit, by="cohort")

    def test_asks_for_points_that_sobol_can_give(self, fit):
        for points in (100, 16):
            with pytest.raises(ck.FitError, match="power of two"):
                checks.loo(fit, by="patient", points=points)

    def test_knows_no_such_unit(self, fit):
        with pytest.raises(ck.FitError, match="no unit 'p99' to refit without; they are p0; p1"):
            left_out(fit, "patient", refit="p99")
