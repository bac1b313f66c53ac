"""The marginal density around a Laplace mode, by importance sampling.

Laplace's approximation takes every patient's random effects as normal. They are not quite, and what
is left of every patient adds up: with many patients the mode of the approximation lies a posterior
SD or so beside that of the density. At quasi-random points x (scrambled Sobol points, shifted for
each patient) of the patients' coordinates of `posterior`, in which they are about standard normal,

    p(y_i | u) = mean over x of p(y_i, x | u) / t(x).

A parabola through this density at the centre and one posterior SD to either side, along each
principal axis, gives a centre and spreads anew. Without patients the density of u is at hand, and
draws around its mode are weighted (PSIS).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.stats

from carpk._arviz import PARETO_K, pareto_smoothed
from carpk.laplace import Engine, Mode

POINTS = 128
FREEDOM = 5  # degrees of freedom of the points' t distribution: tails may be heavier than normal
PASSES = 6
FARTHEST = 2.0  # way along an axis in one pass, posterior SDs
BENDS = (0.25, 4.0)  # curvature along an axis over that assumed, as far as one pass follows it
SETTLED = 0.3  # way along every axis in the last pass, at most
EVEN = (0.5, 2.0)  # ratio of curvatures in the last pass
COUNTING = 0.1  # share of draws that must count for weights to be relied on


@dataclasses.dataclass(frozen=True)
class Refined:
    """What importance sampling makes of a mode.

    Attributes:
        mode: with a new centre and covariance.
        moved: from the old centre, in posterior SDs, along the axis where it is most.
        settled: whether another pass would change next to nothing.
        ess: effective number of points of each patient at the centre, (P,).
    """

    mode: Mode
    moved: float
    settled: bool
    ess: np.ndarray


def refined(engine: Engine, mode: Mode, seed: int) -> Refined:
    """The mode, and the normal distribution around it, of the marginal density itself.

    Where that does not settle, or without random effects, the mode stays what it is.

    Args:
        engine: that found the mode.
        seed: of the points.
    """
    if mode.conditional is None:
        return Refined(mode, 0.0, mode.converged, np.zeros(0))
    size, m = mode.z.shape
    points, looked = quasi_random(size, m, seed)

    def density(u: np.ndarray) -> tuple[float, np.ndarray]:
        every = np.broadcast_to(u, (POINTS, u.size))
        _, c, scores = engine.places(every, points, mode.conditional)
        log_f = engine.batched(c)
        value, ess = engine.weighed(u, log_f, scores - looked, engine.values)
        return float(value), np.asarray(ess)

    variances, directions = np.linalg.eigh(mode.covariance)
    axes = factor = directions * np.sqrt(variances)
    u, settled = mode.u, False
    value, ess = density(u)
    for _ in range(PASSES):
        ends = np.array([[density(u + sign * axis)[0] for sign in (1, -1)] for axis in factor.T])
        if not (np.isfinite(ends).all() and np.isfinite(value)):
            break
        bend = 2 * value - ends.sum(1)
        followed = np.clip(bend, *BENDS)
        step = 0.5 * (ends[:, 0] - ends[:, 1]) / followed
        settled = bool(np.abs(step).max() < SETTLED and (np.clip(bend, *EVEN) == bend).all())
        u = u + factor @ np.clip(step, -FARTHEST, FARTHEST)
        factor = factor / np.sqrt(followed)
        value, ess = density(u)
        if settled:
            break
    if not settled:
        return Refined(mode, 0.0, False, ess)
    away = np.linalg.solve(axes, u - mode.u)
    new = dataclasses.replace(mode, u=u, covariance=factor @ factor.T, log_density=value)
    return Refined(new, float(np.abs(away).max()), True, ess)


@dataclasses.dataclass(frozen=True)
class Around:
    """Draws from what is taken for the posterior around a mode.

    Attributes:
        samples: parameters and random effects, name -> (draw, ...).
        lp: ln density of their outer coordinates, (draw,).
        weights: where nothing was integrated out, what the weights of the exact density are like:
            Pareto k-hat, and how many draws count; empty with patients.
    """

    samples: dict[str, np.ndarray]
    lp: np.ndarray
    weights: dict[str, float]


def around(engine: Engine, mode: Mode, size: int, seed: int) -> Around:
    """Draws around a mode: normal ones; without patients weighted by their exact density."""
    posterior, told = engine.posterior, {}
    rng = np.random.default_rng(seed)
    if posterior.inner:
        v = rng.standard_normal((size, posterior.outer))
        u = mode.u + v @ np.linalg.cholesky(mode.covariance).T
        lp = mode.log_density - 0.5 * np.sum(v**2, axis=1)
    else:
        u, lp, k_hat, ess = _weighted(engine, mode, size, rng)
        told = {"k_hat": k_hat, "ess": ess}
    x = rng.standard_normal((size, posterior.patients, posterior.inner))
    samples, *_ = engine.places(u, x, mode.conditional)
    return Around(samples, lp, told)


def _weighted(
    engine: Engine, mode: Mode, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Draws of outer coordinates around a mode without random effects, by their exact density.

    Proposed from a t distribution, and chosen anew by their Pareto-smoothed weights. Where these
    cannot be relied on, the draws are normal around the mode, those left out that have no density.

    Returns:
        Draws (size, n), their ln density (size,), Pareto k-hat, and how many count.
    """
    v = rng.standard_normal((size, mode.u.size))
    wide = np.sqrt(FREEDOM / rng.chisquare(FREEDOM, (size, 1)))
    factor = np.linalg.cholesky(mode.covariance)
    u = mode.u + (v * wide) @ factor.T
    density = engine.densities(u)
    look = scipy.stats.multivariate_t(np.zeros(mode.u.size), df=FREEDOM).logpdf(v * wide)
    chosen, k_hat, ess = resampled(np.where(np.isfinite(density), density - look, -np.inf))
    if chosen is None:
        u = mode.u + v @ factor.T
        density = engine.densities(u)
        chosen = np.resize(np.flatnonzero(np.isfinite(density)), size)
    return u[chosen], density[chosen], k_hat, ess


def resampled(log_weights: np.ndarray) -> tuple[np.ndarray | None, float, float]:
    """Draws of equal weight, chosen systematically by Pareto-smoothed weights (N,).

    Returns:
        Their indices (N,), or None where the weights cannot be relied on (k-hat, or too few draws
        that count); Pareto k-hat; how many draws count.
    """
    smoothed, k_hat = pareto_smoothed(log_weights)
    weights = np.exp(smoothed - smoothed.max())
    ess = float(weights.sum() ** 2 / np.sum(weights**2))
    if not (k_hat <= PARETO_K and ess >= COUNTING * weights.size):
        return None, k_hat, ess
    share = np.cumsum(weights)
    places = (np.arange(weights.size) + 0.5) / weights.size
    return np.searchsorted(share / share[-1], places), k_hat, ess


def quasi_random(size: int, m: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """t-distributed points of every patient, (POINTS, P, m), and their ln density, (POINTS, P)."""
    points = scipy.stats.qmc.Sobol(m + 1, rng=seed).random(POINTS)[:, None]
    shifts = np.random.default_rng(seed).random((size, m + 1))
    p = np.clip((points + shifts) % 1.0, 1e-9, 1 - 1e-9)
    scale = np.sqrt(FREEDOM / scipy.stats.chi2.ppf(p[..., m], FREEDOM))
    x = scipy.stats.norm.ppf(p[..., :m]) * scale[..., None]
    looked = scipy.stats.multivariate_t(np.zeros(m), df=FREEDOM).logpdf(x)
    return x, looked.reshape(POINTS, size)
