"""The marginal density around a Laplace mode, by importance sampling.

Laplace's approximation takes every patient's random effects as normal, and the errors of all
patients add up: with many patients the mode of the approximation lies a posterior
SD or so beside that of the density. At quasi-random points (scrambled Sobol points, shifted for
each patient) of the random effects z,

    p(y_i | u) = mean over z of p(y_i, z | u) / q(z),

where q is a defensive mixture: a t distribution in the patients' coordinates x of `density`, in
which they are about standard normal, and the distribution of z itself.

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
from carpk.inference.density import (
    Conditional,
    IndividualProposals,
    LogPredictionExpansion,
    log_normal,
)
from carpk.inference.laplace import POINTS, CompiledDensity, Mode

OF_PRIOR = 4  # one of so many points is from the distribution of z (defensive mixture)
FREEDOM = 5  # degrees of freedom of the t proposal: heavier tails than normal
ROUNDS = ((1, False), (2, True), (4, True))  # of passes: `POINTS` times this, and `across`
PASSES = 8  # in a round, until they settle; the next one begins where they ended
FARTHEST = 2.0  # way along an axis in one pass, posterior SDs
BENDS = (0.25, 4.0)  # curvature over that assumed: clipped to this in one pass
SETTLED = 0.3  # way along every axis in the last pass, at most
REGRESSED, REGRESSIONS = 512, 2  # points of a regression, and how often they are drawn anew
POOR = 0.3  # effective share of the points of x, below which a patient is regressed
PROPOSALS = 64  # components of the mixture from which a patient's jumps are proposed
FEWEST = 40  # effective points of a regression, at least
IMPOSSIBLE = -1e9  # ln likelihood where it is not finite
HALVINGS = 30  # bisections for the power that tempers weights to that many
EVEN = (0.5, 2.0)  # ratio of curvatures in the last pass
RIGHT = (0.7, 1.4)  # the same in all passes, where the axes are taken to be right too
COUNTING = 0.1  # least share of effective draws for reliable weights


@dataclasses.dataclass(frozen=True)
class Refined:
    """A mode corrected by importance sampling.

    Attributes:
        mode: with a new centre and covariance.
        moved: from the old centre, in posterior SDs, along the axis where it is most.
        settled: the passes converged.
        ess: effective number of points of each patient at the centre, (P,).
    """

    mode: Mode
    moved: float
    settled: bool
    ess: np.ndarray


def refined(compiled: CompiledDensity, mode: Mode, seed: int) -> Refined:
    """The mode, and the normal distribution around it, of the marginal density itself.

    Where that does not settle, or without random effects, the mode stays what it is.

    Args:
        compiled: that found the mode.
        seed: of the points.
    """
    if mode.conditional is None:
        return Refined(mode, 0.0, mode.converged, np.zeros(0))
    variances, axes = np.linalg.eigh(mode.covariance)
    axes = axes * np.sqrt(variances)
    first = new = regressed(compiled, mode, seed)
    for more, across in ROUNDS:
        new = new if new is first else regressed(compiled, new, seed)
        new, settled, ess = _climbed(compiled, new, seed, more * POINTS, across)
        if settled:
            away = np.linalg.solve(axes, new.u - mode.u)
            return Refined(new, float(np.abs(away).max()), True, ess)
    return Refined(first, 0.0, False, ess)


@np.errstate(all="ignore")  # what is not finite ends the passes
def _climbed(
    compiled: CompiledDensity, mode: Mode, seed: int, size: int, across: bool
) -> tuple[Mode, bool, np.ndarray]:
    """Passes until one settles; whether one did; and the final effective points.

    Args:
        size: number of points.
        across: whether the density is evaluated between axes from the first pass on; else once the
            others have settled, and only if a pass has found curvatures beside `RIGHT`.
    """
    conditional = mode.conditional
    assert conditional is not None
    points = Points.quasi_random(mode.z.shape, seed, size)

    def marginal(u: np.ndarray) -> tuple[float, np.ndarray]:
        every = np.broadcast_to(u, (size, u.size))
        c, rest, _ = points.proposed(compiled, every, conditional)
        outer, each = compiled.importance_log_densities(
            u, compiled.log_predictions_by_rows(c), rest
        )
        total = np.sum(scipy.special.logsumexp(each, axis=0) - np.log(size))
        return float(outer + total), effective(each)

    variances, directions = np.linalg.eigh(mode.covariance)
    factor = directions * np.sqrt(variances)
    u, settled, rough = mode.u, False, False
    value, ess = marginal(u)
    for _ in range(PASSES):
        ends = np.array([[marginal(u + sign * axis)[0] for sign in (1, -1)] for axis in factor.T])
        bend = np.diag(2 * value - ends.sum(1))
        if across:
            bend += _between(lambda u: marginal(u)[0], u, factor, value, ends[:, 0])
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
        value, ess = marginal(u)
        if settled and (across or not rough):
            break
        across |= settled
    new = dataclasses.replace(mode, u=u, covariance=factor @ factor.T, log_density=value)
    return new, settled, ess


def _between(
    marginal: Callable[[np.ndarray], float],
    u: np.ndarray,
    factor: np.ndarray,
    value: float,
    ends: np.ndarray,
) -> np.ndarray:
    """Curvature of -ln density between axes, (n, n), 0 on the diagonal.

    Args:
        marginal: ln density of outer coordinates (n,).
        u, value: the centre and its ln density.
        factor: the axes, in columns.
        ends: ln density at u plus each of them, (n,).
    """
    bend = np.zeros((u.size, u.size))
    for i, j in itertools.combinations(range(u.size), 2):
        corner = marginal(u + factor[:, i] + factor[:, j])
        bend[i, j] = bend[j, i] = ends[i] + ends[j] - value - corner
    return bend


@dataclasses.dataclass(frozen=True)
class Around:
    """Draws of the normal approximation around a mode, or importance-resampled draws.

    Attributes:
        samples: parameters and random effects, name -> (draw, ...).
        lp: ln density of their outer coordinates, (draw,).
        weights: without patients, Pareto k-hat and effective sample size of the importance weights.
    """

    samples: dict[str, np.ndarray]
    lp: np.ndarray
    weights: dict[str, float]


def around(compiled: CompiledDensity, mode: Mode, size: int, seed: int) -> Around:
    """Draws around a mode: normal ones; without patients weighted by their exact density."""
    density, told = compiled.density, {}
    rng = np.random.default_rng(seed)
    if density.inner:
        v = rng.standard_normal((size, density.outer))
        u = mode.u + v @ np.linalg.cholesky(mode.covariance).T
        lp = mode.log_density - 0.5 * np.sum(v**2, axis=1)
    else:
        u, lp, k_hat, ess = _weighted(compiled, mode, size, rng)
        told = {"k_hat": k_hat, "ess": ess}
    x = rng.standard_normal((size, density.patients, density.inner))
    samples, *_ = compiled.to_natural_by_rows(u, x, mode.conditional)
    return Around(samples, lp, told)


def _weighted(
    compiled: CompiledDensity, mode: Mode, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Draws of outer coordinates around a mode without random effects, by their exact density.

    Proposed from a t distribution, and chosen anew by their Pareto-smoothed weights. Where these
    cannot be relied on, the draws are normal around the mode, those left out that have no density.

    Returns:
        Draws (size, n), their ln density (size,), Pareto k-hat, effective sample size.
    """
    v = rng.standard_normal((size, mode.u.size))
    wide = np.sqrt(FREEDOM / rng.chisquare(FREEDOM, (size, 1)))
    factor = np.linalg.cholesky(mode.covariance)
    u = mode.u + (v * wide) @ factor.T
    log_density = compiled.log_joints_by_rows(u)
    proposal = scipy.stats.multivariate_t(np.zeros(mode.u.size), df=FREEDOM).logpdf(v * wide)
    chosen, k_hat, ess = resampled(
        np.where(np.isfinite(log_density), log_density - proposal, -np.inf)
    )
    if chosen is None:
        u = mode.u + v @ factor.T
        log_density = compiled.log_joints_by_rows(u)
        chosen = np.resize(np.flatnonzero(np.isfinite(log_density)), size)
    return u[chosen], log_density[chosen], k_hat, ess


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
    """Importance points of the patients' random effects, from a mixture of two distributions.

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

    @np.errstate(all="ignore")  # non-finite points have weight 0
    def proposed(
        self, compiled: CompiledDensity, u: np.ndarray, conditional: Conditional
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The points at outer coordinates (N, n).

        Returns:
            Coordinates of predictions, (N, P, c); ln density of the random effects less that of the
            proposal, the mixture, or that of x alone, both (N, P).
        """
        c, z, x, slope = compiled.proposed_by_rows(u, self.x, self.z, self.by_x, conditional)
        prior = log_normal(z).sum(-1)
        t = scipy.stats.multivariate_t(np.zeros(x.shape[-1]), df=FREEDOM)
        by_x = t.logpdf(x.reshape(-1, x.shape[-1])).reshape(prior.shape) - slope
        share = 1 / OF_PRIOR
        mixture = np.logaddexp(np.log(share) + prior, np.log1p(-share) + by_x)
        return c, prior - mixture, prior - by_x


def regressed(compiled: CompiledDensity, mode: Mode, seed: int) -> Mode:
    """The mode, with coordinates that describe patients over all of the posterior.

    `Conditional` is right in a small place around the mode. A sample near a peak, or few of them,
    leave a patient a posterior with corners and several peaks. There log predictions f are
    regressed on their coordinates c over weighted points of the posterior around the mode, f = f0 +
    J (c - c0) with residual variance v, and their information W becomes W / (1 + W v) (statistical
    linear regression; García-Fernández et al. 2015, doi:10.1109/TSP.2015.2454485). The points are
    drawn anew from what has been found, as often as `REGRESSIONS` says.

    Patients whose coordinates describe them well keep them.
    """
    conditional = mode.conditional
    if conditional is None:
        return mode
    poor = np.ones(len(mode.z), bool)
    for again in range(REGRESSIONS):
        found = Weighted.around(compiled, mode, conditional, seed + again)
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
        c: coordinates of predictions, (N, P, c).
        log_f: log predictions, (N, P, T).
        slope, bent: first and second derivative of ln likelihood by ln prediction, (N, P, T).
        poor: patients far from normal in their coordinates, (P,).
    """

    log_weight: np.ndarray
    c: np.ndarray
    log_f: np.ndarray
    slope: np.ndarray
    bent: np.ndarray
    poor: np.ndarray

    @classmethod
    def around(
        cls, compiled: CompiledDensity, mode: Mode, conditional: Conditional, seed: int
    ) -> Weighted:
        points = Points.quasi_random(mode.z.shape, seed, REGRESSED)
        rng = np.random.default_rng(seed)
        factor = np.linalg.cholesky(mode.covariance)
        u = mode.u + rng.standard_normal((REGRESSED, mode.u.size)) @ factor.T
        c, rest, alone = points.proposed(compiled, u, conditional)
        log_f = compiled.log_predictions_by_rows(c)
        value, slope, bent = compiled.likelihood_derivatives_by_rows(u, log_f)
        possible = np.isfinite(value.sum(-1) + c.sum(-1) + rest + alone)
        likelihood = np.where(possible, value.sum(-1), IMPOSSIBLE)
        rest, alone = np.where(possible, rest, 0.0), np.where(possible, alone, 0.0)
        of_x = points.by_x
        poor = effective((likelihood + alone)[of_x]) < POOR * of_x.sum()
        c, log_f, slope, bent = (
            np.where(possible[..., None], x, 0.0) for x in (c, log_f, slope, bent)
        )
        return cls(likelihood + rest, c, log_f, slope, bent, poor)


def individual_proposals(compiled: CompiledDensity, mode: Mode, seed: int) -> IndividualProposals:
    """Proposals of each patient's parameters, from weighted points around a mode."""
    assert mode.conditional is not None
    found = Weighted.around(compiled, mode, mode.conditional, seed)
    c, rng = (
        found.c[..., np.array(compiled.density.random_effect_index)],
        np.random.default_rng(seed),
    )
    n, patients, m = c.shape
    weight = tempered(found.log_weight, FEWEST)
    at = [c[rng.choice(n, PROPOSALS, p=weight[:, i]), i] for i in range(patients)]
    away = c - np.einsum("np,npi->pi", weight, c)
    spread = np.einsum("np,npi,npj->pij", weight, away, away) + 1e-9 * np.eye(m)
    width = PROPOSALS ** (-1 / (m + 4))  # Scott 1992, Multivariate Density Estimation
    return IndividualProposals(np.array(at), width * np.linalg.cholesky(spread))


def _regression(old: Conditional, poor: np.ndarray, points: Weighted) -> Conditional:
    """One regression, of the patients that are `poor` (P,)."""
    weight = tempered(points.log_weight, FEWEST)
    _, c, log_f, slope, bent, _ = points

    def mean(x: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.einsum("np,np...->p...", weight, x)
        return found

    at, mean_log_f = mean(c), mean(log_f)
    away, rise = c - at, log_f - mean_log_f
    spread = np.einsum("np,npi,npj->pij", weight, away, away)
    spread += 1e-9 * np.eye(at.shape[1])
    first = np.linalg.solve(spread, np.einsum("np,npi,npt->pit", weight, away, rise))
    left = mean((rise - np.einsum("npi,pit->npt", away, first)) ** 2)
    information = mean(np.maximum(-bent, 0.0))
    shrunk = 1 / (1 + information * left)
    expansion = LogPredictionExpansion(
        at, mean_log_f, first.transpose(1, 0, 2), np.zeros_like(old.expansion.second)
    )

    new = Conditional(expansion, mean(slope) * shrunk, information * shrunk, old.curvature_at_mode)
    return new.of_patients(poor, old)


def effective(log_weights: np.ndarray) -> np.ndarray:
    """Effective sample size of points (N, P), (P,); 0 for a patient without a finite weight."""
    possible = np.isfinite(log_weights).any(0) & ~np.isnan(log_weights).any(0)
    weights = _weights(np.where(possible, log_weights, 0.0))
    return np.where(possible, 1 / np.sum(weights**2, axis=0), 0.0)


def tempered(log_weights: np.ndarray, fewest: float) -> np.ndarray:
    """Normalized weights (N, P), raised to the power <= 1 that leaves `fewest` effective points."""
    low, high = np.zeros(log_weights.shape[1]), np.ones(log_weights.shape[1])
    low = np.where(effective(log_weights) >= fewest, 1.0, low)
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        enough = effective(middle * log_weights) >= fewest
        low, high = np.where(enough, middle, low), np.where(enough, high, middle)
    return _weights(low * log_weights)


def _weights(log_weights: np.ndarray) -> np.ndarray:
    weights: np.ndarray = scipy.special.softmax(log_weights, axis=0)
    return weights
