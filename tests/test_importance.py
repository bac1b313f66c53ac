"""Points over patients' random effects, and coordinates that are found from them."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from hierarchies import one_dose

import carpk as ck
from carpk.inference.density import LogDensity
from carpk.inference.importance import (
    Points,
    effective,
    individual_proposals,
    refined,
    regressed,
    tempered,
)
from carpk.inference.laplace import CompiledDensity
from carpk.inference.starts import centre, prior_draws_unconstrained

VISITS = ((0, 3, 0.3), (5, 10, 0.5), (11, 16, 0.8), (19, 23, 0.8), (24, 31, 0.9))
MODEL = ck.load_model("piecewise", cmax=400.0)
FIXED = {"fb": 0.0079, "beta_alpha": 0.0142}
OMEGAS = {"cmax": 1.1, "tmax": 0.2, "t_double": 0.5, "t_alpha": 1.2}


def seldom_seen(patients=16, seed=0):
    """About three samples in visit windows: when the peak was is open in most patients."""
    rng, rows = np.random.default_rng(seed), []
    for i in range(patients):
        days = np.array([float(rng.integers(a, b)) for a, b, p in VISITS if rng.random() < p])
        p = MODEL.params()
        for name, omega in OMEGAS.items():
            p = p.replace(**{name: getattr(p, name) * np.exp(omega * rng.standard_normal())})
        level = np.asarray(MODEL.level("car_t", days, p))
        level = level * np.exp(0.9 * rng.standard_normal(days.size))
        rows += [(f"p{i}", t, y) for t, y in zip(days, level, strict=True)]
    observations = pd.DataFrame(rows, columns=["patient", "time", "value"])
    names = list(dict.fromkeys(observations["patient"]))
    return ck.Dataset.from_frames(
        doses=one_dose(names),
        observations=observations.assign(analyte="car_t", unit="cells/µL", censored=0),
        name="simulated",
    )


@pytest.fixture(scope="module")
def seldom():
    """Compiled density and mode of patients whose random effects are far from normal."""
    population = ck.Population(MODEL, varies=list(OMEGAS), fixed=FIXED)
    density = LogDensity(population.bind(seldom_seen()))
    compiled = CompiledDensity(lambda values: density)
    return compiled, compiled.mode(*centre(prior_draws_unconstrained(density)))


def counting(compiled, mode, conditional):
    """Share of the points of x that count, (P,), and of those of the mixture."""
    points = Points.quasi_random(mode.z.shape, 7, 512)
    rng = np.random.default_rng(7)
    factor = np.linalg.cholesky(mode.covariance)
    u = mode.u + rng.standard_normal((512, mode.u.size)) @ factor.T
    c, rest, alone = points.proposed(compiled, u, conditional)
    likelihood = compiled.likelihood_derivatives_by_rows(u, compiled.log_predictions_by_rows(c))[
        0
    ].sum(-1)
    by_x = effective((likelihood + alone)[points.by_x]) / points.by_x.sum()
    return by_x, effective(likelihood + rest) / 512


def test_points_that_are_not_finite_count_nothing_and_leak_no_warning(recwarn):
    """On some processors, and with some seeds, those of impossible patients overflow."""
    points = Points.quasi_random((3, 2), 1, 64)
    x = np.where(np.arange(64)[:, None, None] % 2, np.inf, points.x)
    x[::4, 0] = np.nan
    compiled = SimpleNamespace(proposed_by_rows=lambda *_: (x, points.z, x, np.zeros(x.shape[:2])))
    _, rest, alone = Points.proposed(points, compiled, np.zeros((64, 5)), None)
    finite = np.isfinite(x).all(-1)
    assert finite.any()
    assert np.isfinite((rest + alone)[finite]).all()
    assert not np.isfinite(rest + alone)[~finite].any()
    assert not list(recwarn)


def test_points_of_both_kinds_are_weighed_by_the_density_from_which_they_come(seldom):
    """The random effects' own density integrates to 1 over them, Jacobian included."""
    compiled, mode = seldom
    points = Points.quasi_random(mode.z.shape, 3, 4096)
    every = np.broadcast_to(mode.u, (4096, mode.u.size))
    _, rest, _ = points.proposed(compiled, every, mode.conditional)
    np.testing.assert_allclose(np.exp(rest).mean(0), 1.0, atol=0.03)


def test_regression_finds_coordinates_where_a_newton_step_does_not(seldom):
    compiled, mode = seldom
    before, _ = counting(compiled, mode, mode.conditional)
    found = regressed(compiled, mode, seed=1)
    after, mixed = counting(compiled, mode, found.conditional)
    poor = before < 0.3
    assert poor.sum() >= 3
    assert after[poor].min() > 2 * before[poor].min()
    assert mixed.min() > 0.05
    old, new = mode.conditional.expansion, found.conditional.expansion
    assert (new.at == old.at).all(1).any()  # who is described well is left alone


@pytest.mark.exhaustive
def test_the_centre_is_found_where_laplaces_is_far_off(seldom):
    compiled, mode = seldom
    found = refined(compiled, mode, seed=1)
    assert found.settled
    again = refined(compiled, mode, seed=2)
    apart = np.linalg.solve(np.linalg.cholesky(found.mode.covariance), again.mode.u - found.mode.u)
    assert np.abs(apart).max() < 1.0


def test_weights_are_tempered_until_enough_points_count():
    weights = np.array([[0.0, 0.0], [-1.0, -50.0], [-2.0, -60.0], [-1.5, -70.0]])
    found = tempered(weights, 2.5)
    np.testing.assert_allclose(found.sum(0), 1.0)
    np.testing.assert_allclose(found[:, 0] / found[0, 0], np.exp(weights[:, 0]), rtol=0.4)
    counted = 1 / np.sum(found**2, axis=0)
    assert counted[0] >= 2.4
    assert counted[1] == pytest.approx(2.5, rel=1e-3)


def test_points_of_a_patient_without_a_likelihood_count_nothing():
    weights = np.array([[0.0, -np.inf, np.nan], [0.0, -np.inf, 0.0]])
    assert effective(weights).tolist() == [2.0, 0.0, 0.0]


@pytest.fixture(scope="module")
def two_peaks():
    """(density, outer coordinates, places) of a patient who peaked before the first sample, or
    after it."""
    days, level = np.array([10.0, 12.0, 14.0]), np.array([150.0, 290.0, 330.0])
    observations = pd.DataFrame({"patient": "p1", "time": days, "value": level})
    data = ck.Dataset.from_frames(
        doses=one_dose(["p1"]),
        observations=observations.assign(analyte="car_t", unit="cells/µL", censored=0),
        name="simulated",
    )
    population = ck.Population(MODEL, varies=["tmax"], fixed=FIXED | {"t_double": 0.9})
    density = LogDensity(population.bind(data))
    compiled = CompiledDensity(lambda values: density)
    mode = compiled.mode(*centre(prior_draws_unconstrained(density)))
    theta = density.theta(jnp.asarray(mode.u)) | {"omega_tmax": 0.4, "sigma": 0.5}
    return density, density.outer_of(theta), individual_proposals(compiled, mode, 0)


def log_weights(density, u, z):
    """ln density of outer coordinates (n,) and the patient's score, but for a constant."""
    theta = density.theta(u)
    c = density.coordinates(density.typical(theta), z * theta["omega_tmax"].reshape(1, 1))
    each = density.log_likelihoods(density.log_predictions(c), theta)
    return density.log_prior(u) + jnp.sum(each) - 0.5 * jnp.sum(z**2)


SHARES = [0.1, 0.3, 0.5, 0.7, 0.9]


@pytest.mark.slow
def test_jumps_leave_a_patient_with_two_peaks_where_it_belongs(two_peaks):
    """Against quadrature."""
    density, u, places = two_peaks
    z = jnp.linspace(-5, 5, 2001)
    weight = np.asarray(jax.vmap(lambda x: log_weights(density, u, x))(z))
    weight = np.exp(weight - weight.max())
    peaks = (weight[1:-1] > weight[:-2]) & (weight[1:-1] > weight[2:])
    first, second = np.asarray(z)[1:-1][peaks]
    later = (
        np.asarray(z)
        > np.asarray(z)[(z > first) & (z < second)][weight[(z > first) & (z < second)].argmin()]
    )
    expected = weight[later].sum() / weight.sum()
    assert 0.1 < expected < 0.9

    def jump(z, key):
        z = density.jumped(u, z, places, key)
        return z, z[0, 0]

    _, found = jax.lax.scan(jump, jnp.zeros((1, 1)), jax.random.split(jax.random.key(0), 20_000))
    found = np.asarray(found)
    bounds = np.quantile(found, SHARES)
    cumulative = np.cumsum(weight) / weight.sum()
    np.testing.assert_allclose(np.interp(bounds, z, cumulative), SHARES, atol=0.02)
    crossed = np.mean(np.diff(found > np.asarray(z)[later][0]))
    assert crossed > 0.1  # from one peak to the other, in a step


@pytest.mark.slow
def test_the_population_moves_beside_its_patients_as_it_should(two_peaks):
    """A typical value and its SD, beside a patient with two peaks: against quadrature."""
    density, u, places = two_peaks
    names = [site.name for site in density.sites]
    i, j = (density.sites[names.index(n)].place.start for n in ("tmax", "omega_tmax"))
    assert {site.name for site in density.free} == {"tmax", "omega_tmax"}
    unit = np.eye(u.size)
    axes = u[i] + jnp.linspace(-3, 2, 81), u[j] + jnp.linspace(-4, 3, 81), jnp.linspace(-5, 5, 401)

    @jax.jit
    @jax.vmap
    def over_patients(a):
        def at(b):
            here = u + (a - u[i]) * unit[i] + (b - u[j]) * unit[j]
            each = jax.vmap(lambda z: log_weights(density, here, z))(axes[2])
            return jax.scipy.special.logsumexp(each)

        return jax.vmap(at)(axes[1])

    weight = np.asarray(over_patients(axes[0]))
    weight = np.exp(weight - weight.max())

    def move(carry, key):
        carry = density.moved(*carry, places, key)
        return carry, carry[0]

    start, keys = (u, jnp.zeros((1, 1))), jax.random.split(jax.random.key(1), 20_000)
    found = np.asarray(jax.jit(lambda: jax.lax.scan(move, start, keys)[1])())
    for k, axis, marginal in ((i, axes[0], weight.sum(1)), (j, axes[1], weight.sum(0))):
        bounds = np.quantile(found[:, k], SHARES)
        cumulative = (np.cumsum(marginal) - 0.5 * marginal) / marginal.sum()
        np.testing.assert_allclose(np.interp(bounds, axis, cumulative), SHARES, atol=0.03)
    others = [k for k in range(u.size) if k not in (i, j)]
    assert (found[:, others] == np.asarray(u)[others]).all()


def test_scores_are_found_again_from_coordinates(two_peaks):
    density, u, _ = two_peaks
    conditional = (
        CompiledDensity(lambda values: density)
        .mode(*centre(prior_draws_unconstrained(density)))
        .conditional
    )
    z = jnp.array([[1.3]])
    x = density.coordinates_of_scores(u, z, conditional)
    assert float(density.scores(u, x, conditional)[0, 0]) == pytest.approx(1.3, rel=1e-10)
    assert float(x[0, 0]) != pytest.approx(1.3, rel=0.01)
