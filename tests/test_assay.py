"""Residual models are distributions, limits are the integrals they claim, and units convert."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.integrate import quad

import carpk as ck
from carpk.assay import cells_per_ul, copies_per_ug, log_likelihood

RESIDUALS = {
    "log-normal": (ck.LogNormal(), {"sigma": 0.56}),
    "proportional": (ck.Proportional(), {"sigma_prop": 0.4}),
    "combined": (ck.Combined(), {"sigma_add": 3.0, "sigma_prop": 0.2}),
}
F = 20.0
NORMAL = {"proportional": 0.4 * F, "combined": np.sqrt(3.0**2 + (0.2 * F) ** 2)}  # their SDs at F
each_residual = pytest.mark.parametrize("name", RESIDUALS)


def likelihood(name, y, f, censored, lloq=1.0, limit=None):
    residual, theta = RESIDUALS[name]
    y, f, lloq = (jnp.asarray(x, float) for x in (y, f, lloq))
    limit = None if limit is None else jnp.asarray(limit, float)
    return log_likelihood(residual, y, f, theta, jnp.asarray(censored), lloq, limit)


@each_residual
def test_the_density_integrates_to_one(name):
    residual, theta = RESIDUALS[name]
    low = 1e-9 if name == "log-normal" else -200.0
    density = jax.jit(lambda y: jnp.exp(residual.log_prob(y, F, theta)))
    area = quad(lambda y: float(density(y)), low, 1_000.0, points=[5.0, 20.0, 60.0], limit=200)[0]
    assert area == pytest.approx(1.0, abs=1e-6)


@each_residual
@pytest.mark.parametrize("y", [2.0, 19.0, 55.0])
def test_the_slope_of_the_distribution_function_is_the_density(name, y):
    residual, theta = RESIDUALS[name]
    slope = jax.grad(lambda y: jnp.exp(residual.log_cdf(y, F, theta)))(y)
    assert float(slope) == pytest.approx(float(jnp.exp(residual.log_prob(y, F, theta))), rel=1e-9)
    both = jnp.exp(residual.log_cdf(y, F, theta)) + jnp.exp(residual.log_sf(y, F, theta))
    assert float(both) == pytest.approx(1.0, rel=1e-12)


@each_residual
@pytest.mark.parametrize("z", [-2.0, 0.0, 1.3])
def test_sampling_undoes_the_standard_score(name, z):
    residual, theta = RESIDUALS[name]
    y = residual.sample(z, F, theta)
    assert float(residual.standardize(y, F, theta)[0]) == pytest.approx(z, abs=1e-12)


def test_densities_are_those_of_scipy_with_sigma_as_a_standard_deviation():
    y = np.array([3.0, 20.0, 41.0])
    exact = scipy.stats.lognorm.logpdf(y, s=0.56, scale=F)
    np.testing.assert_allclose(likelihood("log-normal", y, F, 0), exact, rtol=1e-12)
    for name, sd in NORMAL.items():
        exact = scipy.stats.norm.logpdf(y, F, sd)
        np.testing.assert_allclose(likelihood(name, y, F, 0), exact, rtol=1e-12)


def test_the_spread_of_sampled_logs_is_sigma():
    """Read as a variance, 0.56 would give an SD of 0.75."""
    z = jax.random.normal(jax.random.key(1), (40_000,))
    logs = jnp.log(ck.LogNormal().sample(z, F, {"sigma": 0.56}))
    assert float(jnp.std(logs)) == pytest.approx(0.56, rel=0.015)  # 4 standard errors


# --- censoring ------------------------------------------------------------------------------------


def below(name, limit, f):
    """ln P(Y < limit) by scipy."""
    if name == "log-normal":
        return scipy.stats.norm.logcdf((np.log(limit) - np.log(f)) / 0.56)
    sd = np.sqrt(3.0**2 * (name == "combined") + ({"combined": 0.2}.get(name, 0.4) * f) ** 2)
    return scipy.stats.norm.logcdf((limit - f) / sd)


@each_residual
@pytest.mark.parametrize("f", [0.5, 10.0, 400.0])
def test_a_level_below_the_lloq_counts_as_its_probability(name, f):
    """M3; the value stored beside it plays no part."""
    exact = below(name, 10.0, f)
    for stored in (10.0, 5.0, 1e-3):
        got = likelihood(name, stored, f, 1, 10.0)
        assert float(got) == pytest.approx(float(exact), rel=1e-12)


@each_residual
def test_a_level_above_the_upper_limit_counts_as_its_probability(name):
    exact = np.log1p(-np.exp(below(name, 30.0, F)))
    assert float(likelihood(name, 30.0, F, -1, 1.0)) == pytest.approx(float(exact), rel=1e-9)


@each_residual
def test_a_level_between_limit_and_lloq_counts_as_the_interval(name):
    """M4: ln [P(Y < lloq) - P(Y < limit)]; without a limit it is M3."""
    exact = np.log(np.exp(below(name, 10.0, F)) - np.exp(below(name, 4.0, F)))
    got = likelihood(name, 10.0, F, 1, 10.0, 4.0)
    assert float(got) == pytest.approx(float(exact), rel=1e-9)
    assert float(got) < float(likelihood(name, 10.0, F, 1, 10.0))
    for no_limit in (np.nan, -np.inf, 12.0):
        got = likelihood(name, 10.0, F, 1, 10.0, no_limit)
        assert float(got) == pytest.approx(float(below(name, 10.0, F)), rel=1e-12)


def test_each_measurement_takes_its_own_branch():
    y, f = np.array([3.0, 10.0, 30.0, 10.0]), np.array([5.0, 12.0, 25.0, 12.0])
    censored, limit = np.array([0, 1, -1, 1]), np.array([np.nan, np.nan, np.nan, 4.0])
    together = likelihood("log-normal", y, f, censored, np.full(4, 10.0), limit)
    apart = [
        likelihood("log-normal", *row, 10.0, lim)
        for *row, lim in zip(y, f, censored, limit, strict=True)
    ]
    np.testing.assert_allclose(together, apart, rtol=1e-12)


@each_residual
@pytest.mark.parametrize("censored", [0, 1, -1])
@pytest.mark.parametrize("limit", [np.nan, 4.0])
def test_gradients_are_finite_deep_in_the_tails(name, censored, limit):
    f = jnp.array([1e-12, 1e-3, 10.0, 1e6, 1e12])
    slope = jax.grad(lambda f: likelihood(name, 10.0, f, censored, 10.0, limit).sum())(f)
    assert np.isfinite(slope).all()


@each_residual
@pytest.mark.parametrize("lloq", [0.0, np.nan])
def test_a_measured_level_needs_no_lloq(name, lloq):
    """The unused branch of a `where` once made the gradient NaN."""
    value, slope = jax.value_and_grad(lambda f: likelihood(name, 15.0, f, 0, lloq))(F)
    expected = jax.value_and_grad(lambda f: likelihood(name, 15.0, f, 0, 1.0))(F)
    assert (float(value), float(slope)) == pytest.approx([float(x) for x in expected], rel=1e-12)


def test_default_priors_name_exactly_the_residuals_parameters():
    for residual, theta in RESIDUALS.values():
        assert set(residual.priors()) == set(residual.names) == set(theta)
    sigma = ck.LogNormal().priors()["sigma"]
    low, mid, high = (float(sigma.icdf(q)) for q in (0.05, 0.5, 0.95))
    assert (low, mid, high) == pytest.approx((0.22, 0.5, 1.14), abs=0.005)  # as the docstring says


# --- qPCR units -----------------------------------------------------------------------------------


def test_a_microgram_of_pure_car_t_dna_holds_151515_genomes():
    assert float(copies_per_ug(500.0, 500.0)) == pytest.approx(151_515, rel=1e-5)
    assert float(copies_per_ug(500.0, 500.0, vcn=2.5)) == pytest.approx(2.5 * 151_515, rel=1e-5)


def test_cells_and_copies_convert_back_and_forth():
    for cells, leukocytes, vcn in [(0.3, 90.0, 1.0), (50.0, 4_000.0, 3.0)]:
        copies = copies_per_ug(cells, leukocytes, vcn)
        assert cells_per_ul(copies, leukocytes, vcn) == pytest.approx(cells, rel=1e-12)


def test_leukopenia_raises_copies_without_any_expansion():
    assert copies_per_ug(1.0, 200.0) / copies_per_ug(1.0, 6_000.0) == pytest.approx(30.0)
