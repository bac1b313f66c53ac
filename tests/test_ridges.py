"""Coordinates in which a curved posterior is straight, and the same posterior."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from hierarchies import one_dose

import carpk as ck
from carpk.inference.density import LogDensity
from carpk.inference.laplace import CompiledDensity
from carpk.inference.ridges import (
    CURVED,
    ConditionalAlongRidge,
    Ridge,
    Straightened,
    backward,
    forward,
    ridges_of,
)
from carpk.inference.standard import Standard
from carpk.inference.starts import centre, prior_draws_unconstrained

DAYS = np.array([2, 4, 6, 8, 10, 12, 15, 21, 35, 60.0])
STEIN = ck.load_model("stein2019")


def hardly_persisting(patients=10, seed=11):
    """Patients of `stein2019` to day 60, on which beta has taken hardly anything."""
    rng, rows = np.random.default_rng(seed), []
    for i in range(patients):
        cmax, tmax = np.exp(rng.standard_normal(2) * [0.5, 0.2]) * [24_000, 9.3]
        level = STEIN.level("transgene", jnp.asarray(DAYS), STEIN.params(cmax=cmax, tmax=tmax))
        noise = np.exp(0.3 * rng.standard_normal(len(DAYS)))
        rows += [(f"p{i}", t, y) for t, y in zip(DAYS, np.asarray(level) * noise, strict=True)]
    observations = pd.DataFrame(rows, columns=["patient", "time", "value"])
    return ck.Dataset.from_frames(
        doses=one_dose([f"p{i}" for i in range(patients)]),
        observations=observations.assign(analyte="transgene", unit="copies/µg"),
        name="simulated",
    )


POPULATION = ck.Population(STEIN, varies=["tmax", "cmax"])


@pytest.fixture(scope="module")
def weak():
    """Compiled density, mode and ridges of a posterior whose fb and beta lie on a curved ridge."""
    density = LogDensity(POPULATION.bind(hardly_persisting()))
    compiled = CompiledDensity(lambda values: density)
    mode = compiled.mode(*centre(prior_draws_unconstrained(density)))
    return compiled, mode, ridges_of(compiled, mode)


def test_weak_persistence_is_one_curved_ridge_and_straight_afterwards(weak):
    compiled, mode, ridges = weak
    axes = np.linalg.cholesky(mode.covariance)
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    names = [site.name for site in compiled.density.sites]
    before = Straightened(compiled, mode, ()).curved(axes)
    assert before[names.index("beta")] > 30
    assert len(ridges) == 1
    np.testing.assert_allclose(ridges[0].along, axes[names.index("beta")])
    assert Straightened(compiled, mode, ridges).curved(axes).max() < CURVED


def test_the_posterior_is_the_same_jacobian_included(weak):
    """Against the density of the outer coordinates, with derivatives by JAX."""
    compiled, mode, ridges = weak
    density = compiled.density
    bent, plain = Standard.of(mode, ridges=ridges), Standard.of(mode)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((10, 2)))
    energies = [jax.jit(each.target(density, {}).potential) for each in (bent, plain)]
    for w in 1.5 * rng.standard_normal((4, mode.u.size)):
        v, *_ = forward(ridges, jnp.asarray(w))
        jacobian = jax.jacfwd(lambda w: forward(ridges, w)[0])(jnp.asarray(w))
        ours, theirs = (
            float(energy({"population": at, "patients": x}))
            for energy, at in zip(energies, (jnp.asarray(w), v), strict=True)
        )
        slope = np.linalg.slogdet(jacobian)[1]
        assert abs(slope) > 1e-3
        assert ours == pytest.approx(theirs - slope, abs=1e-9)
        np.testing.assert_allclose(bent.within(mode.u + plain.factor @ v), w, atol=1e-9)


@pytest.fixture(scope="module")
def along(weak):
    """The same with what the patients' data say along the ridge; one patient keeps its own."""
    compiled, mode, ridges = weak
    conditional = mode.conditional._replace(weight=mode.conditional.weight.copy())
    conditional.weight[3] *= 0.5
    along_ridge = ConditionalAlongRidge.of(compiled, mode, ridges[0], conditional)
    mode = dataclasses.replace(mode, conditional=conditional)
    return Standard.of(mode, ridges=ridges, along_ridge=along_ridge)


@pytest.mark.slow
def test_the_posterior_is_the_same_beside_a_ridge_too(weak, along):
    """Against the density of standard scores, with derivatives of all coordinates by JAX."""
    compiled, mode, _ = weak
    density, n = compiled.density, mode.u.size

    def scores(place):
        position = {"population": place[:n], "patients": place[n:].reshape(10, 2)}
        (u, x, conditional), _ = along.coordinates(density, position)
        theta = density.theta(u)
        z, _ = density.standardized(theta, density.typical(theta), conditional, x)
        return jnp.concatenate([u, jnp.ravel(z)])

    energy = jax.jit(along.target(density, {}).potential)
    plain = jax.jit(lambda u, z: density.log_joint(u, z, None))
    slope_of_factor = np.linalg.slogdet(along.factor)[1]
    for place in 1.2 * np.random.default_rng(0).standard_normal((3, n + 20)):
        found = jax.jit(scores)(place)
        slope = np.linalg.slogdet(jax.jit(jax.jacfwd(scores))(place))[1] - slope_of_factor
        theirs = -plain(found[:n], found[n:].reshape(10, 2)) - slope
        ours = energy({"population": place[:n], "patients": place[n:].reshape(10, 2)})
        assert float(ours) == pytest.approx(float(theirs), abs=1e-8)


def test_patients_are_near_their_modes_all_along_a_ridge(weak, along):
    """At coordinates 0 the density has hardly a slope, but for the one that keeps its own."""
    compiled, *_ = weak
    slope = jax.jit(jax.grad(along.target(compiled.density, {}).potential))
    local = jax.jit(
        jax.grad(along._replace(along_ridge=None).target(compiled.density, {}).potential)
    )
    far = []
    for t in (-3.5, -2.5, 2.5, 3.5):
        position = {
            "population": jnp.asarray(t * along.ridges[0].along),
            "patients": jnp.zeros((10, 2)),
        }
        here = np.abs(slope(position)["patients"])
        assert np.delete(here, 3, axis=0).max() < 0.25
        far.append(np.abs(local(position)["patients"]).max())
    assert max(far) > 0.5  # by what the data say at the mode


def test_its_gradient_is_that_of_the_straightened_density(weak):
    compiled, mode, ridges = weak
    straightened, h = Straightened(compiled, mode, ridges), 1e-4
    w = np.random.default_rng(1).standard_normal(mode.u.size)
    _, gradient = straightened(w)
    for i, step in enumerate(h * np.eye(w.size)):
        up, down = (straightened(w + sign * step)[0] for sign in (1, -1))
        assert gradient[i] == pytest.approx((up - down) / (2 * h), abs=5e-3)


def test_a_ridge_runs_through_its_points_and_on_in_a_straight_line():
    along = np.array([0.6, 0.8, 0.0])
    t = np.array([-2.0, -1.0, 0.0, 1.5, 3.0])
    curve = np.outer(np.sinh(t), along) + np.outer(t**2, [0.8, -0.6, 1.0])
    ridge = Ridge.through(along, t, curve)
    for x, point in zip(t, curve, strict=True):
        np.testing.assert_allclose(along * x + ridge.ahead(x), point, atol=1e-12)
    for end in (-9.0, 9.0):
        np.testing.assert_allclose(ridge.turn(end), 0.0, atol=1e-12)
    assert ridge.one_to_one
    assert not Ridge.through(along, t, np.outer(-t, along)).one_to_one
    w = np.array([0.3, -1.2, 0.5])
    v, *_ = forward([ridge, ridge], jnp.asarray(w))
    np.testing.assert_allclose(backward([ridge, ridge], np.asarray(v)), w, atol=1e-9)


def test_what_is_no_mode_has_no_ridges(weak):
    compiled, mode, _ = weak
    assert ridges_of(compiled, dataclasses.replace(mode, decrement=1.0)) == ()


@pytest.mark.slow
def test_weak_persistence_is_sampled_without_divergences():
    """112 divergences and 199 effective draws before."""
    fit = ck.fit(POPULATION, hardly_persisting(), chains=2, seed=1, progress=False)
    assert not fit.idata["sample_stats"]["diverging"].values.any()
    assert fit.summary()["ess"].min() > 800
