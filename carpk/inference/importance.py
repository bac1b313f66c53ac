"""The marginal density around a Laplace mode, by importance sampling.

Laplace's approximation takes every patient's random effects as normal. They are not quite, and what
is left of every patient adds up: with many patients the mode of the approximation lies a posterior
SD or so beside that of the density. At quasi-random points (scrambled Sobol points, shifted for
each patient) of the random effects z,

    p(y_i | u) = mean over z of p(y_i, z | u) / q(z),

where q is a mixture of a t distribution of the patients' coordinates x of `posterior`, in which
they are about standard normal, and of the distribution of z itself, in case that they are not.

A parabola through this density at the centre and one posterior SD to either side, along each
principal axis, gives a centre and spreads anew. Where Laplace's spreads were wrong, or that does
not settle, values at the corners between the axes turn these too. Without patients the density of u
is at hand, and draws around its mode are weighted (PSIS).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.special
import scipy.stats

from carpk._arviz import PARETO_K, pareto_smoothed
from carpk.inference.density import Conditional, Levels, Places, log_normal
from carpk.inference.laplace import POINTS, Engine, Mode

OF_PRIOR = 4  # one of so many points is from the distribution of z, in case that x misses a part
FREEDOM = 5  # degrees of freedom of the points' t distribution: tails may be heavier than normal
ROUNDS = ((1, False), (2, True), (4, True))  # of passes: `POINTS` times this, and `across`
PASSES = 8  # in a round, until they settle; the next one begins where they ended
FARTHEST = 2.0  # way along an axis in one pass, posterior SDs
BENDS = (0.25, 4.0)  # curvature along an axis over that assumed, as far as one pass follows it
SETTLED = 0.3  # way along every axis in the last pass, at most
REGRESSED, REGRESSIONS = 512, 2  # points of a regression, and how often they are drawn anew
POOR = 0.3  # share of the points of x that count, below which a patient's are found by regression
PLACES = 64  # of a patient, to which it may jump
FEWEST = 40  # points that count in a regression, at least
IMPOSSIBLE = -1e9  # ln likelihood where it is not finite
HALVINGS = 30  # in search of the power of weights with which that many do
EVEN = (0.5, 2.0)  # ratio of curvatures in the last pass
RIGHT = (0.7, 1.4)  # the same in all passes, where the axes are taken to be right too
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
    variances, axes = np.linalg.eigh(mode.covariance)
    axes = axes * np.sqrt(variances)
    first = new = regressed(engine, mode, seed)
    for more, across in ROUNDS:
        new = new if new is first else regressed(engine, new, seed)
        new, settled, ess = _climbed(engine, new, seed, more * POINTS, across)
        if settled:
            away = np.linalg.solve(axes, new.u - mode.u)
            return Refined(new, float(np.abs(away).max()), True, ess)
    return Refined(first, 0.0, False, ess)


@np.errstate(all="ignore")  # what is not finite ends the passes
def _climbed(
    engine: Engine, mode: Mode, seed: int, size: int, across: bool
) -> tuple[Mode, bool, np.ndarray]:
    """Passes until one settles; whether one did; and how many points count at the end.

    Args:
        size: number of points.
        across: whether the density is looked at between axes from the first pass on; else once the
            others have settled, and only if a pass has found curvatures beside `RIGHT`.
    """
    conditional = mode.conditional
    assert conditional is not None
    points = Points.quasi_random(mode.z.shape, seed, size)

    def density(u: np.ndarray) -> tuple[float, np.ndarray]:
        every = np.broadcast_to(u, (size, u.size))
        c, rest, _ = points.proposed(engine, every, conditional)
        outer, each = engine.weights_of(u, engine.batched(c), rest)
        total = np.sum(scipy.special.logsumexp(each, axis=0) - np.log(size))
        return float(outer + total), effective(each)

    variances, directions = np.linalg.eigh(mode.covariance)
    factor = directions * np.sqrt(variances)
    u, settled, rough = mode.u, False, False
    value, ess = density(u)
    for _ in range(PASSES):
        ends = np.array([[density(u + sign * axis)[0] for sign in (1, -1)] for axis in factor.T])
        bend = np.diag(2 * value - ends.sum(1))
        if across:
            bend += _between(lambda u: density(u)[0], u, factor, value, ends[:, 0])
        if not (np.isfinite(bend).all() and np.isfinite(value)):
            settled = False
            break
        curved, turned = np.linalg.eigh(bend)
        rough |= bool((np.clip(curved, *RIGHT) != curved).any())
        followed = np.clip(curved, *BENDS)
        step = turned.T @ (0.5 * (ends[:, 0] - ends[:, 1])) / followed
        settled = bool(np.abs(step).max() < SETTLED and (np.clip(curved, *EVEN) == curved).all())
        u = u + factor @ turned @ np.clip(step, -FARTHEST, FARTHEST)
        factor = factor @ turned / np.sqrt(followed)
        value, ess = density(u)
        if settled and (across or not rough):
            break
        across |= settled
    new = dataclasses.replace(mode, u=u, covariance=factor @ factor.T, log_density=value)
    return new, settled, ess


def _between(
    density: Callable[[np.ndarray], float],
    u: np.ndarray,
    factor: np.ndarray,
    value: float,
    ends: np.ndarray,
) -> np.ndarray:
    """Curvature of -ln density between axes, (n, n), 0 on the diagonal.

    Args:
        density: of outer coordinates (n,).
        u, value: the centre and its ln density.
        factor: the axes, in columns.
        ends: ln density at u plus each of them, (n,).
    """
    bend = np.zeros((u.size, u.size))
    for i, j in itertools.combinations(range(u.size), 2):
        corner = density(u + factor[:, i] + factor[:, j])
        bend[i, j] = bend[j, i] = ends[i] + ends[j] - value - corner
    return bend


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


class Points(NamedTuple):
    """Where the random effects of patients are looked at, a mixture of two distributions.

    Attributes:
        x: t-distributed coordinates, (N, P, m).
        z: standard scores, (N, P, m).
        by_x: whether a point is given by x, else by z, (N,).
    """

    x: np.ndarray
    z: np.ndarray
    by_x: np.ndarray

    @classmethod
    def quasi_random(cls, shape: tuple[int, ...], seed: int, points: int) -> Points:
        """Scrambled Sobol points, shifted for each patient; shape (P, m)."""
        size, m = shape
        sobol = scipy.stats.qmc.Sobol(m + 1, rng=seed).random(points)[:, None]
        shifts = np.random.default_rng(seed).random((size, m + 1))
        p = np.clip((sobol + shifts) % 1.0, 1e-9, 1 - 1e-9)
        z = scipy.stats.norm.ppf(p[..., :m])
        scale = np.sqrt(FREEDOM / scipy.stats.chi2.ppf(p[..., m:], FREEDOM))
        return cls(z * scale, z, np.arange(points) >= points // OF_PRIOR)

    @np.errstate(all="ignore")  # points that are not finite count nothing
    def proposed(
        self, engine: Engine, u: np.ndarray, conditional: Conditional
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The points at outer coordinates (N, n).

        Returns:
            Coordinates of levels, (N, P, c); ln density of the random effects less that from which
            they come, the mixture, or that of x alone, both (N, P).
        """
        c, z, x, slope = engine.proposals(u, self.x, self.z, self.by_x, conditional)
        prior = log_normal(z).sum(-1)
        t = scipy.stats.multivariate_t(np.zeros(x.shape[-1]), df=FREEDOM)
        by_x = t.logpdf(x.reshape(-1, x.shape[-1])).reshape(prior.shape) - slope
        share = 1 / OF_PRIOR
        mixture = np.logaddexp(np.log(share) + prior, np.log1p(-share) + by_x)
        return c, prior - mixture, prior - by_x


def regressed(engine: Engine, mode: Mode, seed: int) -> Mode:
    """The mode, with coordinates that describe patients over all of the posterior.

    `Conditional` is right in a small place around the mode. A sample near a peak, or few of them,
    leave a patient a posterior with corners and several peaks. There ln levels f are regressed on
    their coordinates c over weighted points of the posterior around the mode, f = f0 + J (c - c0)
    with residual variance v, and their information W becomes W / (1 + W v) (statistical linear
    regression; García-Fernández et al. 2015, doi:10.1109/TSP.2015.2454485). The points are drawn
    anew from what has been found, as often as `REGRESSIONS` says.

    Patients whose coordinates describe them well keep them.
    """
    conditional = mode.conditional
    if conditional is None:
        return mode
    poor = np.ones(len(mode.z), bool)
    for again in range(REGRESSIONS):
        found = Weighted.around(engine, mode, conditional, seed + again)
        if not again:
            poor = found.poor
            if not poor.any():
                return mode
        conditional = _regression(conditional, poor, found)
    return dataclasses.replace(mode, conditional=conditional)


class Weighted(NamedTuple):
    """Points of the posterior around a mode, with weights; zeros where one is impossible.

    Attributes:
        log_weight: ln of their weights, but for a constant of each patient, (N, P).
        c: coordinates of levels, (N, P, c).
        log_f: ln levels, (N, P, T).
        slope, bent: first and second derivative of ln likelihood by ln level, (N, P, T).
        poor: patients that their coordinates do not describe, (P,).
    """

    log_weight: np.ndarray
    c: np.ndarray
    log_f: np.ndarray
    slope: np.ndarray
    bent: np.ndarray
    poor: np.ndarray

    @classmethod
    def around(cls, engine: Engine, mode: Mode, conditional: Conditional, seed: int) -> Weighted:
        points = Points.quasi_random(mode.z.shape, seed, REGRESSED)
        rng = np.random.default_rng(seed)
        factor = np.linalg.cholesky(mode.covariance)
        u = mode.u + rng.standard_normal((REGRESSED, mode.u.size)) @ factor.T
        c, rest, alone = points.proposed(engine, u, conditional)
        log_f = engine.batched(c)
        value, slope, bent = engine.measurements(u, log_f)
        possible = np.isfinite(value.sum(-1) + c.sum(-1) + rest + alone)
        likelihood = np.where(possible, value.sum(-1), IMPOSSIBLE)
        rest, alone = np.where(possible, rest, 0.0), np.where(possible, alone, 0.0)
        of_x = points.by_x
        poor = effective((likelihood + alone)[of_x]) < POOR * of_x.sum()
        c, log_f, slope, bent = (
            np.where(possible[..., None], x, 0.0) for x in (c, log_f, slope, bent)
        )
        return cls(likelihood + rest, c, log_f, slope, bent, poor)


def places_of(engine: Engine, mode: Mode, seed: int) -> Places:
    """Where each patient's parameters may be, by weighted points around a mode."""
    assert mode.conditional is not None
    found = Weighted.around(engine, mode, mode.conditional, seed)
    c, rng = found.c[..., np.array(engine.posterior.random)], np.random.default_rng(seed)
    n, patients, m = c.shape
    weight = tempered(found.log_weight, FEWEST)
    at = [c[rng.choice(n, PLACES, p=weight[:, i]), i] for i in range(patients)]
    away = c - np.einsum("np,npi->pi", weight, c)
    spread = np.einsum("np,npi,npj->pij", weight, away, away) + 1e-9 * np.eye(m)
    width = PLACES ** (-1 / (m + 4))  # Scott 1992, Multivariate Density Estimation
    return Places(np.array(at), width * np.linalg.cholesky(spread))


def _regression(old: Conditional, poor: np.ndarray, points: Weighted) -> Conditional:
    """One regression, of the patients that are `poor` (P,)."""
    weight = tempered(points.log_weight, FEWEST)
    _, c, log_f, slope, bent, _ = points

    def mean(x: np.ndarray) -> np.ndarray:
        return np.einsum("np,np...->p...", weight, x)

    at, level = mean(c), mean(log_f)
    away, rise = c - at, log_f - level
    spread = np.einsum("np,npi,npj->pij", weight, away, away)
    spread += 1e-9 * np.eye(at.shape[1])
    first = np.linalg.solve(spread, np.einsum("np,npi,npt->pit", weight, away, rise))
    left = mean((rise - np.einsum("npi,pit->npt", away, first)) ** 2)
    information = mean(np.maximum(-bent, 0.0))
    shrunk = 1 / (1 + information * left)
    levels = Levels(at, level, first.transpose(1, 0, 2), np.zeros_like(old.levels.second))

    new = Conditional(levels, mean(slope) * shrunk, information * shrunk, old.scale)
    return new.of_patients(poor, old)


def effective(log_weights: np.ndarray) -> np.ndarray:
    """How many points (N, P) count, (P,); none of a patient without a finite weight."""
    possible = np.isfinite(log_weights).any(0) & ~np.isnan(log_weights).any(0)
    weights = _weights(np.where(possible, log_weights, 0.0))
    return np.where(possible, 1 / np.sum(weights**2, axis=0), 0.0)


def tempered(log_weights: np.ndarray, fewest: float) -> np.ndarray:
    """Weights (N, P) that sum to 1, to a power up to 1 with which `fewest` points count."""
    low, high = np.zeros(log_weights.shape[1]), np.ones(log_weights.shape[1])
    low = np.where(effective(log_weights) >= fewest, 1.0, low)
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        enough = effective(middle * log_weights) >= fewest
        low, high = np.where(enough, middle, low), np.where(enough, high, middle)
    return _weights(low * log_weights)


def _weights(log_weights: np.ndarray) -> np.ndarray:
    return scipy.special.softmax(log_weights, axis=0)
