"""Laplace's approximation and the coordinates it gives, against exact answers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats
from hierarchies import DAYS, LINEAR, PIECEWISE, PRIORS, decaying, peaking

import carpk as ck
from carpk.inference.density import LogDensity, cholesky, solve_lower, solve_upper
from carpk.inference.importance import POINTS, _between, refined
from carpk.inference.laplace import CompiledDensity, Spectrum
from carpk.inference.starts import (
    around_cohorts,
    centre,
    exchangeable,
    exchanged,
    prior_draws_unconstrained,
)

RANDOM = ck.Population(LINEAR, varies=["base"], fixed={"halve": 10.0}, priors=PRIORS)
CURVED = ck.Population(LINEAR, varies=["base", "halve"], correlated=["base", "halve"])


def compiled_of(population, data):
    density = LogDensity(population.bind(data))
    return density, CompiledDensity(lambda values: density)


@pytest.fixture(scope="module")
def normal():
    """LogDensity, engine and mode of the model whose effects are exactly normal."""
    density, compiled = compiled_of(RANDOM, decaying())
    return density, compiled, compiled.mode(*centre(prior_draws_unconstrained(density)))


@pytest.fixture(scope="module")
def curved():
    """The same of one that is not, with samples below a limit."""
    density, compiled = compiled_of(CURVED, decaying(lloq=3.0))
    return density, compiled, compiled.mode(*centre(prior_draws_unconstrained(density)))


def exact_marginal(data, theta):
    """ln density of the data with a normal random intercept on ln level, by SciPy."""
    total = 0.0
    for _, rows in data.observations.groupby("patient", sort=False):
        mean = np.log(theta["base"]) - np.log(2) * rows["time"].to_numpy() / 10
        cov = theta["omega_base"] ** 2 + theta["sigma"] ** 2 * np.eye(len(rows))
        y = np.log(rows["value"].to_numpy())
        total += scipy.stats.multivariate_normal(mean, cov).logpdf(y) - y.sum()
    return total


class TestExactlyNormal:
    """With one effect on the log of the level and all samples measured, nothing is approximate."""

    DATA = decaying()
    POINTS = ({"base": 8.0, "omega_base": 0.9, "sigma": 0.3}, {"base": 20.0, "omega_base": 0.05})

    @pytest.mark.parametrize("change", POINTS)
    def test_the_marginal_is_that_of_a_normal_vector(self, normal, change):
        density, compiled, _ = normal
        theta = {"base": 10.0, "omega_base": 0.5, "sigma": 0.4} | change
        u = density.outer_of(theta)
        value = compiled.evaluate(u, np.zeros((8, 1)))[0].value
        exact = exact_marginal(self.DATA, theta) + float(density.log_prior(u))
        assert value == pytest.approx(exact, abs=1e-8)

    def test_mode_and_covariance_are_those_of_the_exact_marginal(self, normal):
        density, _, mode = normal
        assert mode.converged

        def energy(u):
            theta = {k: float(x) for k, x in density.theta(jnp.asarray(u)).items()}
            return -exact_marginal(self.DATA, theta) - float(density.log_prior(jnp.asarray(u)))

        found = scipy.optimize.minimize(energy, mode.u + 0.2, method="BFGS", options={"gtol": 1e-6})
        np.testing.assert_allclose(mode.u, found.x, atol=1e-4)
        h = 1e-3 * np.eye(3)
        hessian = [
            [
                (
                    energy(found.x + a + b)
                    - energy(found.x + a - b)
                    - energy(found.x - a + b)
                    + energy(found.x - a - b)
                )
                / 4e-6
                for b in h
            ]
            for a in h
        ]
        np.testing.assert_allclose(mode.covariance, np.linalg.inv(hessian), rtol=1e-3, atol=1e-6)

    def test_its_coordinates_are_independent_of_each_other(self, normal):
        """Given any population parameters, those of the patients are standard normal."""
        density, _, mode = normal
        x = np.random.default_rng(0).standard_normal((8, 1))
        log_joint = jax.jit(lambda u, x: density.log_joint(u, x, mode.conditional))
        for move in (-1.0, 0.0, 1.0):
            u = jnp.asarray(mode.u + move * np.array([1.0, 1.0, 0.0]))
            apart = [float(log_joint(u, y)) + 0.5 * np.sum(y**2) for y in (x, 2 * x, 0 * x)]
            np.testing.assert_allclose(apart, apart[0], atol=1e-8)


def test_the_gradient_is_that_of_the_approximation(curved):
    """Against central differences; modes move with the parameters, limits included."""
    density, compiled, _ = curved
    u, _ = centre(prior_draws_unconstrained(density))
    seen, z, _ = compiled.evaluate(u, np.zeros((8, 2)))
    h = 1e-4
    for i, step in enumerate(h * np.eye(u.size)):
        up, down = (float(compiled.evaluate(u + sign * step, z)[0].value) for sign in (1, -1))
        assert seen.slope[i] == pytest.approx((up - down) / (2 * h), rel=1e-5, abs=1e-5)


def test_a_step_goes_to_the_top_of_the_parabola_within_a_radius():
    """Known by the theorem of Moré and Sorensen: (B + l) x = g, B + l >= 0, l (r - |x|) = 0."""
    rng = np.random.default_rng(0)
    turned = np.linalg.qr(rng.standard_normal((60, 3, 3)))[0]
    values = rng.standard_normal((60, 3)) * 10.0 ** rng.integers(-2, 4, (60, 3))
    curvature = np.einsum("pik,pk,pjk->pij", turned, values, turned)
    curvature[0], curvature[1] = np.eye(3), np.diag([2.0, 1.0, -1.0])
    gradient, radius = rng.standard_normal((60, 3)), rng.uniform(0.1, 3.0, 60)
    gradient[0], radius[0] = [0.1, 0.0, 0.0], 1.0  # the top is inside
    gradient[1] = 0.0  # on a saddle
    step, twice = Spectrum.of(curvature).step(gradient, radius)
    length = np.linalg.norm(step, axis=1)
    assert (length <= radius * (1 + 1e-9)).all()
    np.testing.assert_allclose(step[0], gradient[0], rtol=1e-12)
    assert length[1] == pytest.approx(radius[1])
    assert abs(step[1, 2]) > 0.999 * radius[1]
    bent = np.einsum("pij,pj->pi", curvature, step)
    raised = np.einsum("pi,pi->p", gradient - bent, step) / length**2
    assert (raised > -1e-9).all()
    assert (raised + np.linalg.eigvalsh(curvature)[:, 0] > -1e-6).all()
    inside = length < radius * (1 - 1e-6)
    assert 0 < inside.sum() < 60
    np.testing.assert_allclose(raised[inside], 0.0, atol=1e-9)
    left = gradient - bent - raised[:, None] * step
    np.testing.assert_allclose(left, 0.0, atol=1e-6)
    rise = np.einsum("pi,pi->p", gradient, step) - 0.5 * np.einsum("pi,pi->p", bent, step)
    np.testing.assert_allclose(twice, 2 * rise, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_a_step_far_off_carries_no_patient_away():
    """A line search begins with parameters at which patients have modes elsewhere, and comes back.

    Going on from there, two of six climbs ended 58 and 265 below the others.
    """
    population = ck.Population(PIECEWISE.model, varies=["cmax", "tmax", "t_alpha", "fb"])
    density, compiled = compiled_of(population, peaking(24))
    before = prior_draws_unconstrained(density)
    middle, spread = centre(before)
    starts = [middle, *np.random.default_rng(1).choice(before, 5)]
    ends = [compiled.descend(start, spread).value for start in starts]
    np.testing.assert_allclose(ends, ends[0], atol=1e-3)


def test_a_patient_at_a_lower_mode_is_found_out():
    """Put there after a climb: seen from 0, the mode that the climb had found is higher."""
    population = ck.Population(PIECEWISE.model, varies=["cmax", "tmax", "t_alpha", "fb"])
    density, compiled = compiled_of(population, peaking(40, seed=1))
    descent = compiled.descend(*centre(prior_draws_unconstrained(density)))
    best, z, _ = compiled.evaluate(descent.end, descent.z)
    elsewhere = z + 2 * np.random.default_rng(1).standard_normal(z.shape)
    lower, other, _ = compiled.evaluate(descent.end, elsewhere)
    away = lower.bend.peaked & (best.each - lower.each > 1)
    assert 0 < away.sum() < 12
    descent.z = np.where(away[:, None], other, z)
    assert descent.restart_modes()
    np.testing.assert_allclose(descent.z, z, atol=1e-3)
    assert not descent.restart_modes()


def test_curvature_beyond_the_digits_of_a_float_still_gives_modes():
    """One sample without noise for two effects: I + J' W J rounds to a singular matrix."""
    data = decaying()
    data = dataclasses.replace(data, observations=data.observations.query("time == 7"))
    varies = ["base", "halve"]
    density, compiled = compiled_of(ck.Population(LINEAR, varies=varies, priors=PRIORS), data)
    theta = {"base": 10.0, "halve": 10.0, "omega_base": 0.5, "omega_halve": 0.5, "sigma": 1e-9}
    levels = compiled.evaluate(density.outer_of(theta), np.zeros((8, 2)))[2]
    measured = np.log(data.observations["value"].to_numpy())
    np.testing.assert_allclose(np.asarray(levels.value)[:, 0], measured, atol=1e-6)


def exact_with_a_limit(data, base, omega, sigma):
    """ln density of the data, random intercepts integrated out by SciPy."""
    total = 0.0
    for _, rows in data.observations.groupby("patient", sort=False):

        def log_joint(z, rows=rows):
            mean = np.log(base) + omega * z - np.log(2) * rows["time"].to_numpy() / 10
            y = np.log(rows["value"].to_numpy())
            own = scipy.stats.norm(mean, sigma)
            below = rows["censored"].to_numpy() == 1
            each = np.where(below, own.logcdf(y), own.logpdf(y) - y)
            return np.exp(each.sum()) * scipy.stats.norm.pdf(z)

        total += np.log(scipy.integrate.quad(log_joint, -8, 8, epsabs=0, epsrel=1e-10)[0])
    return total


def test_the_marginal_with_a_limit_is_near_that_of_quadrature():
    data = decaying(patients=4, lloq=3.0)
    assert 0.2 < data.observations["censored"].mean() < 0.7
    density, compiled = compiled_of(RANDOM, data)
    u = density.outer_of({"base": 10.0, "omega_base": 0.6, "sigma": 0.4})
    value = compiled.evaluate(u, np.zeros((4, 1)))[0].value
    exact = float(density.log_prior(u)) + exact_with_a_limit(data, 10.0, 0.6, 0.4)
    assert value == pytest.approx(exact, abs=0.03)


@pytest.mark.slow
def test_importance_sampling_gives_the_marginal_itself():
    """Of patients with no sample above the limit nothing is normal; 128 points err a little."""
    data = decaying(patients=20, lloq=12.0)
    assert data.observations["censored"].mean() > 0.6
    density, compiled = compiled_of(RANDOM, data)
    mode = compiled.mode(*centre(prior_draws_unconstrained(density)))
    found = refined(compiled, mode, seed=0)
    theta = {k: float(x) for k, x in density.theta(jnp.asarray(found.mode.u)).items()}
    values = (theta["base"], theta["omega_base"], theta["sigma"])
    exact = float(density.log_prior(found.mode.u)) + exact_with_a_limit(data, *values)
    by_laplace = compiled.evaluate(found.mode.u, mode.z)[0].value
    assert found.mode.log_density == pytest.approx(exact, abs=0.06)
    assert abs(by_laplace - exact) > 0.3
    assert found.ess.min() > 0.5 * POINTS


def test_coordinates_keep_the_density(curved):
    """ln density in one set of coordinates less that in the other is ln |dz / dx|."""
    density, _, mode = curved
    rng = np.random.default_rng(1)
    u = jnp.asarray(mode.u + 0.3 * rng.standard_normal(mode.u.size))
    x = jnp.asarray(rng.standard_normal((8, 2)))

    def scores(u, x):
        theta = density.theta(u)
        return density.standardized(theta, density.typical(theta), mode.conditional, x)[0]

    @jax.jit
    def everything(u, x):
        z = scores(u, x)
        densities = (
            density.log_joint(u, x, mode.conditional),
            density.log_joint(u, z, None),
        )
        sample = density.sample_of(u, x, mode.conditional)
        b = z @ density.factor(density.theta(u)).T
        return jax.jacfwd(scores, argnums=1)(u, x).reshape(16, 16), densities, sample, b

    jacobian, (ours, plain), sample, b = everything(u, x)
    slope = np.linalg.slogdet(jacobian)[1]
    assert float(ours) == pytest.approx(float(plain) + slope, abs=1e-8)
    np.testing.assert_allclose(np.stack([sample["eta_base"], sample["eta_halve"]], 1), b)


def test_small_matrices_are_factored_as_numpy_does():
    a = np.random.default_rng(0).standard_normal((5, 4, 4))
    a = a @ a.transpose(0, 2, 1) + np.eye(4)
    lower = cholesky([[a[:, i, j] for j in range(i + 1)] for i in range(4)])
    y = np.arange(20.0).reshape(5, 4)
    expected = np.linalg.cholesky(a)
    for i in range(4):
        for j in range(i + 1):
            np.testing.assert_allclose(lower[i][j], expected[:, i, j])
    x = np.stack(solve_upper(lower, solve_lower(lower, list(y.T))), axis=1)
    np.testing.assert_allclose(x, np.linalg.solve(a, y[..., None])[..., 0])


class TestLevels:
    def test_correlated_effects_have_the_covariance_that_was_asked_for(self):
        density = LogDensity(CURVED.bind(decaying()))
        theta = dict(
            zip(("base", "halve", "omega_base", "omega_halve"), (9, 8, 0.5, 0.2), strict=True)
        )
        theta |= {"correlation": jnp.array([[1, 0.6], [0.6, 1]]), "sigma": 0.3}
        again = density.theta(density.outer_of(theta))
        np.testing.assert_allclose(again["correlation"], theta["correlation"], atol=1e-12)
        factor = density.factor(theta)
        expected = [[0.25, 0.06], [0.06, 0.04]]
        np.testing.assert_allclose(factor @ factor.T, expected, atol=1e-12)

    def test_a_cohort_shares_its_effect(self):
        varies = {"base": ["cohort", "patient"]}
        density = LogDensity(dataclasses.replace(RANDOM, varies=varies).bind(decaying()))
        theta = {"base": 10.0, "omega_base": 0.4, "omega_base_cohort": 0.7, "sigma": 0.3}
        theta["eta_base_cohort"] = jnp.array([0.5, -0.2])
        u = density.outer_of(theta)
        mu = density.typical(density.theta(u))
        expected = np.log(10.0) + np.where(np.arange(8) % 2 == 0, 0.5, -0.2)
        np.testing.assert_allclose(mu[:, 0], expected)

    @pytest.mark.exhaustive
    def test_the_density_is_the_same_whatever_is_known_of_cohorts(self):
        """Only its coordinates change, Jacobian included."""
        varies = {"base": ["cohort", "patient"], "halve": ["cohort"]}
        bound = ck.Population(LINEAR, varies=varies, priors=PRIORS).bind(decaying(10, 3, lloq=1.0))
        compiled = CompiledDensity(
            lambda values: LogDensity(bound, values[1]), (None, LogDensity(bound).no_cohorts)
        )
        before, (middle, spread) = (
            compiled.density,
            centre(prior_draws_unconstrained(compiled.density)),
        )
        mode = compiled.mode(middle, spread)
        after = around_cohorts(compiled, [mode], spread)[0].density
        x = jnp.asarray(np.random.default_rng(0).standard_normal((10, 1)))

        def other(u):
            return after.outer_of(before.theta(u))

        for away in np.random.default_rng(1).standard_normal((3, before.outer)):
            u = jnp.asarray(mode.u + 0.5 * away)
            _, slope = np.linalg.slogdet(jax.jacfwd(other)(u))
            density = float(after.log_joint(other(u), x, None) + slope)
            assert density == pytest.approx(float(before.log_joint(u, x, None)), abs=1e-9)
            theta = after.theta(other(u))
            for name, value in before.theta(u).items():
                np.testing.assert_allclose(theta[name], value, rtol=1e-9)
        assert (after.cohorts_held(mode.u) > 0.5).all()
        assert (before.cohorts_held(mode.u) == 0.0).all()

    @pytest.mark.parametrize(
        "levels", [pytest.param(["cohort", "patient"], marks=pytest.mark.slow), ["cohort"]]
    )
    def test_laplace_finds_the_exact_posterior_of_effects_of_cohorts(self, levels):
        """Means of normal logarithms within and between cohorts: a density in closed form."""
        narrow = {"sigma": dist.LogNormal(np.log(0.4), 1e-3)}
        population = ck.Population(
            LINEAR, varies={"base": levels}, fixed={"halve": 10.0}, priors=narrow
        )
        data = decaying(30, cohorts=5, seed=3)
        fit = ck.fit(population, data, "laplace", progress=False)
        y = data.observations
        mean = (np.log(y["value"]) + np.log(2) * y["time"] / 10).groupby(y["patient"]).mean()
        by_cohort = mean.groupby(data.patients.set_index("patient")["cohort"])
        grids = {"base": np.linspace(0, 5, 121), "omega_base_cohort": np.linspace(-2.5, 2.5, 101)}
        grids |= {"omega_base": np.linspace(-1.8, 0.6, 81)} if "patient" in levels else {}
        grids = dict(zip(grids, np.meshgrid(*grids.values()), strict=True))
        density = sum(fit.bound.priors[k].log_prob(np.exp(x)) + x for k, x in grids.items())
        one = np.exp(2 * grids.get("omega_base", -np.inf)) + 0.4**2 / len(DAYS)
        for _, x in by_cohort:
            whole = one + len(x) * np.exp(2 * grids["omega_base_cohort"])
            density -= 0.5 * ((len(x) - 1) * np.log(one) + len(x) * x.var(ddof=0) / one)
            density -= 0.5 * (np.log(whole) + len(x) * (x.mean() - grids["base"]) ** 2 / whole)
        weight = np.exp(density - density.max())
        for name, x in grids.items():
            exact = np.average(x, weights=weight)
            sd = np.sqrt(np.average((x - exact) ** 2, weights=weight))
            ours = np.log(fit.draws()[name])
            weighed = "patient" not in levels  # by the exact density
            assert ours.mean() == pytest.approx(exact, abs=(0.08 if weighed else 0.3) * sd), name
            assert ours.std() == pytest.approx(sd, rel=0.1 if weighed else 0.25), name
        assert fit.verdict.numbers.get("k_hat", 0.0) < 0.7

    def test_published_cohorts_have_effects_too(self):
        """The likelihood of a cohort that lies higher is that of another typical value."""
        row = {"analyte": "car_t", "metric": "level", "time": 7.0, "statistic": "median"}
        row |= {"value": 5.0, "low": 3.0, "high": 9.0, "interval": "IQR", "n": 12}
        row |= {"unit": "cells/µL", "use": "fit", "source": "simulated"}
        cohorts = pd.DataFrame([row | {"cohort": "x"}, row | {"cohort": "y"}])
        published = ck.Dataset.from_frames(summaries=cohorts, name="simulated")
        varies = {"base": ["cohort", "patient"]}
        bound = dataclasses.replace(RANDOM, varies=varies).bind(decaying() + published)
        assert bound.clusters == ("c0", "c1", "x", "y")
        theta = {"base": 10.0, "omega_base": 0.4, "omega_base_cohort": 0.7, "sigma": 0.3}
        moved = theta | {"eta_base_cohort": jnp.array([0.0, 0.0, 0.5, -0.2])}
        each = bound.summary_log_likelihoods(moved)
        for cohort, eta in (("x", 0.5), ("y", -0.2)):
            alone = bound.summary_log_likelihoods(theta | {"base": 10.0 * np.exp(eta)})
            np.testing.assert_allclose(each[cohort], alone[cohort])

    def test_a_power_is_one_of_the_ratio_to_the_geometric_mean(self):
        population = dataclasses.replace(RANDOM, covariates={"base": {"kg": "power"}})
        data = decaying(weight=True)
        bound = population.bind(data)
        kg = data.patients["kg"].to_numpy()
        mean = np.exp(np.log(kg).mean())
        assert bound.covariates["kg"].reference == pytest.approx(mean)
        theta = {"base": 10.0, "beta_base_kg": jnp.array([0.75]), "sigma": 0.3, "omega_base": 0.4}
        mu = LogDensity(bound).typical(theta)[:, 0]
        np.testing.assert_allclose(np.exp(mu), 10 * (kg / mean) ** 0.75)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"correlated": ["base"]}, "two or more"),
            ({"correlated": ["base", "halve"]}, "'halve' does not vary"),
            ({"covariates": {"base": {"kg": "cubic"}}}, "'linear', 'power'"),
        ],
    )
    def test_what_cannot_be_is_refused(self, change, words):
        with pytest.raises(ck.ModelError, match=words):
            dataclasses.replace(RANDOM, **change)

    @pytest.mark.parametrize(
        ("change", "data", "words"),
        [
            ({"varies": {"base": ["cohort"]}}, decaying(cohorts=1), "one cohort only"),
            ({"covariates": {"base": {"cohort": "power"}}}, decaying(), "holds text"),
            ({"covariates": {"base": ["kg"]}}, decaying(), "no covariate `kg`"),
        ],
    )
    def test_what_the_data_cannot_tell_is_refused(self, change, data, words):
        with pytest.raises(ck.CarpkError, match=words):
            dataclasses.replace(RANDOM, **change).bind(data)


class TestMethods:
    DATA = decaying(patients=12, seed=2)
    POP = dataclasses.replace(RANDOM, varies={"base": ["patient"]}, covariates={"base": ["cohort"]})

    @pytest.fixture(scope="class")
    @classmethod
    def fit(cls):
        return ck.fit(cls.POP, cls.DATA, method="laplace", progress=False)

    @pytest.fixture(scope="class")
    @classmethod
    def mode(cls):
        return ck.fit(cls.POP, cls.DATA, method="map", progress=False)

    def test_laplace_says_how_near_the_mode_it_is(self, fit):
        assert fit.ok
        assert repr(fit).startswith("OK: normal approximation around the mode")
        assert "12 of 12 patients at their modes" in repr(fit)
        assert fit.posterior.sizes["draw"] == 1000

    @pytest.mark.slow
    def test_a_mode_is_no_answer(self, mode):
        assert not mode.ok
        assert "no intervals" in str(mode.verdict)
        assert len(mode.settings["ends"]) == 10
        assert mode.posterior.sizes["draw"] == 1

    def test_effects_are_those_of_a_normal_posterior(self, fit):
        """Shrunk means and SDs of a random intercept, by hand, at the typical draws."""
        table = fit.effects().set_index("patient")
        draws = {k: np.median(v) for k, v in fit.draws().items() if v.ndim == 1}
        beta = np.median(fit.draws()["beta_base_cohort"])
        for i, (name, rows) in enumerate(self.DATA.observations.groupby("patient", sort=False)):
            mu = np.log(draws["base"]) + beta * (i % 2 == 1) - np.log(2) * np.array(DAYS) / 10
            left = np.log(rows["value"].to_numpy()) - mu
            weight = 1 / (1 / draws["omega_base"] ** 2 + 5 / draws["sigma"] ** 2)
            mean = weight * left.sum() / draws["sigma"] ** 2
            assert table.loc[name, "mean"] == pytest.approx(mean, abs=0.05)
            assert table.loc[name, "sd"] > np.sqrt(weight)
        assert 0 < ck.checks.shrinkage(fit)["base"] < 0.3

    @pytest.mark.slow
    def test_published_data_are_weighted_by_their_exact_density_or_doubted(self):
        """Without patients the density is at hand, and says whether a normal one stands for it."""
        population = ck.Population(ck.load_model("piecewise"), varies=["cmax", "tmax", "t_alpha"])
        fit = ck.fit(
            population, ck.load_study("zuma1_moffitt"), "laplace", draws=500, progress=False
        )
        assert not fit.ok
        assert "far from normal" in fit.verdict.troubles[0]
        assert fit.verdict.numbers["k_hat"] > 0.7
        assert "patients at their modes" not in str(fit.verdict)

    @pytest.mark.slow
    def test_a_waterfall_shows_every_start(self, mode):
        figure = ck.plot.waterfall(mode)
        line = figure.axes[0].lines[0]
        assert len(line.get_xdata()) == 10
        assert np.all(np.diff(line.get_ydata()) >= 0)

    def test_a_file_keeps_the_method(self, fit, tmp_path):
        path = fit.save(tmp_path / "fit.nc")
        back = ck.load_fit(path, population=self.POP)
        assert str(back.verdict) == str(fit.verdict)

    @pytest.mark.slow
    def test_nuts_agrees_where_laplace_is_nearly_exact(self, fit):
        nuts = ck.fit(self.POP, self.DATA, progress=False)
        assert nuts.ok
        ours, theirs = fit.summary(), nuts.summary()
        for name in theirs.index:
            sd = (theirs.loc[name, "eti90_high"] - theirs.loc[name, "eti90_low"]) / 3.29
            assert abs(ours.loc[name, "median"] - theirs.loc[name, "median"]) < 0.2 * sd, name
            width = ours.loc[name, "eti90_high"] - ours.loc[name, "eti90_low"]
            assert width / 3.29 == pytest.approx(sd, rel=0.25), name


@pytest.mark.exhaustive
def test_many_patients_do_not_add_up_what_is_not_normal_in_each():
    """Peaks between two sampling days: by Laplace alone fb is half of an SD off."""
    data = peaking(80)
    population = ck.Population(PIECEWISE.model, varies=["cmax", "tmax", "t_alpha", "fb"])
    ours = ck.fit(population, data, method="laplace", progress=False)
    how = {"draws": 350, "tune": 200, "chains": 2, "starts": 1, "progress": False}
    nuts = ck.fit(population, data, **how)
    assert ours.ok
    assert nuts.ok
    assert ours.settings["importance"]["moved"] > 0.4
    for name in ours.bound.priors:
        forward = ours.bound.parameters[name].transform.forward
        mine, theirs = (forward(each.posterior[name].values) for each in (ours, nuts))
        assert abs(np.median(mine) - np.median(theirs)) < 0.2 * np.std(theirs), name
        assert np.std(mine) == pytest.approx(np.std(theirs), rel=0.25), name


class Phases(ck.Params):
    a: ck.Scalar = ck.param(30.0, "cells/µL", "level on day 0 of one phase", "assumed")
    b: ck.Scalar = ck.param(30.0, "cells/µL", "level on day 0 of the other", "assumed")
    k_a: ck.Scalar = ck.param(0.1, "1/day", "loss rate of the one", "assumed")
    k_b: ck.Scalar = ck.param(0.1, "1/day", "loss rate of the other", "assumed")


@pytest.mark.parametrize("seed", [1, 5])
def test_parameters_that_may_change_names_are_found_from_any_start(seed):
    model = ck.ClosedForm(
        name="phases",
        params=Phases,
        outputs={"car_t": lambda t, p: p.a * jnp.exp(-p.k_a * t) + p.b * jnp.exp(-p.k_b * t)},
        units={"car_t": "cells/µL"},
    )
    data = decaying(patients=6, cohorts=1)
    level = 40 * np.exp(-0.3 * data.observations["time"]) + 5 * np.exp(
        -0.02 * data.observations["time"]
    )
    noise = np.exp(0.1 * np.random.default_rng(0).standard_normal(len(level)))
    data = dataclasses.replace(data, observations=data.observations.assign(value=level * noise))
    fit = ck.fit(ck.Population(model), data, method="laplace", seed=seed, progress=False)
    assert "Exchanging a with b and k_a with k_b" in str(fit.verdict)


def test_what_is_exchanged_are_parameters_of_one_unit_with_their_spreads():
    pop = ck.Population(ck.load_model("piecewise"), varies=["tmax", "t_alpha"])
    bound = pop.bind(peaking(4))
    pairs = exchangeable(bound)
    assert (("tmax", "t_alpha"),) in pairs
    assert (("tmax", "t_double"), ("fb", "beta_alpha")) in pairs
    assert not any("cmax" in pair for each in pairs for pair in each)
    theta = {"tmax": 9.0, "t_alpha": 5.0, "omega_tmax": 0.2, "omega_t_alpha": 0.7, "fb": 0.1}
    swapped = {"tmax": 5.0, "t_alpha": 9.0, "omega_tmax": 0.7, "omega_t_alpha": 0.2, "fb": 0.1}
    assert exchanged(bound, theta, [("tmax", "t_alpha")]) == swapped


def test_correlations_that_laplace_misses_are_found_between_its_axes():
    """Axes that are even by themselves, of a normal density with a correlation of 0.8."""
    precision = np.linalg.inv(np.array([[1.0, 0.8, 0.0], [0.8, 1.0, 0.0], [0.0, 0.0, 4.0]]))
    factor = np.diag(1 / np.sqrt(np.diag(precision)))
    centre = np.array([1.0, -2.0, 0.5])

    def log_joint(u):
        return float(-0.5 * (u - centre) @ precision @ (u - centre))

    value, ends = log_joint(centre), np.array([log_joint(centre + axis) for axis in factor.T])
    bend = np.eye(3) + _between(log_joint, centre, factor, value, ends)
    found = factor @ np.linalg.inv(bend) @ factor
    np.testing.assert_allclose(found, np.linalg.inv(precision), atol=1e-9)
