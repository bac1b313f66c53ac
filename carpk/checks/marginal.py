"""The likelihood of each patient's data with the patient's random effects integrated out.

For the patient i and one draw theta of the population parameters it is

    p(y_i | theta) = integral of p(y_i | theta, eta) Normal(eta; 0, Omega(theta)) d eta

with eta the patient's deviations from the typical values on the estimation scale. It is what a
patient outside the study is predicted with, who brings data but no random effects.

The integral is taken by importance sampling, at quasi-random (Sobol) points that all draws share,
from a defensive mixture (Owen & Zhou 2000, doi:10.1080/01621459.2000.10473909): the patient's
posterior given theta, as a linear regression of the fit's draws of the patient's own parameters
(typical values and eta) on those of theta, with normal residuals, widened; and the random effects'
own distribution at theta, which bounds the weights. The points are scrambled several times, so that
the error can be told from the spread.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import numpy as np
import scipy.stats
from jax.scipy.special import logsumexp

from carpk.assay.residual import LN_SQRT_2PI
from carpk.errors import FitError
from carpk.inference.nuts import Progress
from carpk.population.bound import BoundPopulation
from carpk.population.random_effects import INFUSION, PATIENT

if TYPE_CHECKING:
    from jax import Array
    from jaxtyping import Float

    from carpk._types import Draws, Values

SCRAMBLES = 4  # independent sets of points, for the error
OWN_SHARE = 1 / 8  # of the points, from the random effects' own distribution
WIDER = 1.4  # SDs of the proposal over those of the residuals
FARTHEST = 4.0  # SDs of a population parameter that the regression is trusted for
CURVES = 8192  # patients' curves solved at a time: bounds the memory
BLOCK = 25  # draws between two updates of the progress bar


def deviations(bound: BoundPopulation, sample: Draws) -> np.ndarray:
    """Every draw's random effects, estimation scale, (draw, patient, effect).

    An effect by infusion counts as one for each infusion.
    """
    shape = (len(next(iter(sample.values()))), len(bound.patients))
    return np.asarray(bound.random_effects.stacked(sample, bound.infusions, shape))


class Proposal(NamedTuple):
    """Importance proposal of each patient's own parameters given the population's.

    Attributes:
        centre: typical value and deviation, at the mean of the parameters, (patient, effect).
        slope: change of the centre per standardised parameter, (parameter, patient, effect).
        factor: Cholesky factors of the widened covariances, (patient, effect, effect).
        mean, sd: of the parameters on the estimation scale, (parameter,).
    """

    centre: Float[np.ndarray, "patient effect"]
    slope: Float[np.ndarray, "parameter patient effect"]
    factor: Float[np.ndarray, "patient effect effect"]
    mean: Float[np.ndarray, " parameter"]
    sd: Float[np.ndarray, " parameter"]


def proposal(bound: BoundPopulation, sample: Draws) -> Proposal:
    """From a fit's draws, those of the random effects among them."""
    eta = deviations(bound, sample)
    size, people, effects = eta.shape
    theta = {name: jnp.asarray(sample[name]) for name in bound.parameters}
    x = np.asarray(jax.vmap(lambda th: _vector(bound, th))(theta))
    own = eta + np.asarray(jax.vmap(lambda th: _typical(bound, th))(theta))
    mean, sd = x.mean(0), x.std(0)
    # constant parameters are not informative
    sd = np.where(sd > 1e-12 * (1 + np.abs(mean)), sd, np.inf)
    x = (x - mean) / sd
    ridge = x.T @ x + x.shape[1] * np.eye(x.shape[1])  # of no weight unless draws are few
    centre = own.mean(0)
    slope = np.linalg.solve(ridge, x.T @ (own - centre).reshape(size, -1))
    slope = slope.reshape(x.shape[1], people, effects)
    rest = own - centre - np.einsum("sc,cpd->spd", x, slope)
    left = max(size - x.shape[1] - 1, 1)
    cov = np.einsum("spd,spe->pde", rest, rest) / left
    least = 1e-6 * np.mean(eta**2, axis=(0, 1)) + 1e-12
    factor = WIDER * np.linalg.cholesky(cov + np.diag(least)) if effects else cov
    return Proposal(centre, slope, factor, mean, sd)


def _vector(bound: BoundPopulation, theta: Values) -> Float[Array, " parameter"]:
    """The population parameters of one draw on the estimation scale, (parameter,)."""
    each = [
        jnp.ravel(bound.parameters[name].transform.forward(theta[name])) for name in bound.priors
    ]
    return jnp.concatenate(each)


def _typical(bound: BoundPopulation, theta: Values) -> Float[Array, "patient effect"]:
    """Centre of each random effect, (patient, effect); 0 for a parameter's second one."""
    phi = bound.population.typical(theta, bound.patient_design)
    own, people = bound.random_effects.at(PATIENT), len(bound.patients)
    apart = [0.0 if name in own else phi[name] for name in bound.random_effects.at(INFUSION)]
    each = [phi[name] for name in own] + apart * bound.infusions
    columns = [jnp.broadcast_to(jnp.asarray(x), (people,)) for x in each]
    return jnp.stack(columns, axis=1) if columns else jnp.zeros((people, 0))


class Marginal(NamedTuple):
    """ln p(y_i | theta) of every draw and patient.

    Attributes:
        log_likelihood: (draw, patient).
        scrambles: the same from each scramble of the points alone, (scramble, draw, patient).
        ess: effective number of points, (draw, patient).
        points: number of points.
    """

    log_likelihood: np.ndarray
    scrambles: np.ndarray
    ess: np.ndarray
    points: int


class OfDraws(Protocol):
    """Draws of the population parameters, name -> (draw, ...), to the marginal likelihood."""

    def __call__(self, theta: Draws, *, label: str = "", progress: bool = False) -> Marginal: ...


def marginal(
    bound: BoundPopulation, about: Proposal, *, points: int = 128, seed: int = 0
) -> OfDraws:
    """The function of draws of the population parameters, name -> (draw, ...), that gives it.

    Args:
        about: where to look.
        points: a power of two; a quarter of them in each of four scrambles.
        seed: of the scrambles.
    """
    if points < 8 * SCRAMBLES or points & (points - 1):
        raise FitError(
            f"checks.loo: points must be a power of two, at least {8 * SCRAMBLES}, but is "
            f"{points!r}."
        )
    people, effects = about.centre.shape
    each = points // SCRAMBLES
    rngs = np.random.default_rng(seed).spawn(SCRAMBLES)
    u = np.concatenate(
        [scipy.stats.qmc.Sobol(effects + 1, scramble=True, rng=r).random(each) for r in rngs]
    )
    z = scipy.stats.norm.ppf(np.clip(u[:, 1:], 1e-12, 1 - 1e-12))
    own = (u[:, 0] < OWN_SHARE)[:, None, None]
    inverse = jnp.linalg.inv(about.factor)
    step = max(1, CURVES // people)

    def one(theta: Values) -> tuple[Array, Array]:
        x = jnp.clip((_vector(bound, theta) - about.mean) / about.sd, -FARTHEST, FARTHEST)
        centre = about.centre + jnp.einsum("c,cpd->pd", x, about.slope) - _typical(bound, theta)
        root = bound.random_effects.factor(theta, bound.infusions)
        near = centre + jnp.einsum("pde,me->mpd", about.factor, z)
        eta = jnp.where(own, (z @ root.T)[:, None], near)
        eye = jnp.eye(effects)
        prior = _log_normal(eta, jsl.solve_triangular(root, eye, lower=True))
        look = _log_normal(eta - centre, inverse)
        drawn_from = jnp.logaddexp(jnp.log(OWN_SHARE) + prior, jnp.log1p(-OWN_SHARE) + look)

        def likelihood(eta: Float[Array, "patient effect"]) -> Float[Array, " patient"]:
            params, _ = bound.of_sample(
                {**theta, **bound.random_effects.named(eta, bound.infusions)}
            )
            return jnp.sum(bound.observation_log_likelihoods(params, theta), axis=1)

        w = jax.lax.map(likelihood, eta, batch_size=min(step, points)) + prior - drawn_from
        w = jnp.where(jnp.isnan(w), -jnp.inf, w)
        apart = logsumexp(w.reshape(SCRAMBLES, each, people), axis=1) - jnp.log(each)
        return apart, jnp.exp(2 * logsumexp(w, axis=0) - logsumexp(2 * w, axis=0))

    compiled = jax.jit(lambda theta: jax.lax.map(one, theta))

    def of(theta: Draws, *, label: str = "", progress: bool = False) -> Marginal:
        theta = {name: np.asarray(theta[name]) for name in bound.parameters}
        size = len(next(iter(theta.values())))
        blocks = [np.arange(start, start + BLOCK) for start in range(0, size, BLOCK)]
        bar = Progress(len(blocks) * BLOCK, label, progress)

        def run(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            some = np.minimum(block, size - 1)  # the last block is filled up, and cut below
            out: tuple[np.ndarray, np.ndarray] = jax.tree.map(
                np.asarray, compiled({k: v[some] for k, v in theta.items()})
            )
            bar.add(BLOCK)
            return out

        try:
            first = run(blocks[0])  # compiles
            with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
                found = [first, *pool.map(run, blocks[1:])]
        finally:
            bar.close()
        apart, ess = jax.tree.map(lambda *x: np.concatenate(x)[:size], *found)
        scrambles = np.moveaxis(apart, 1, 0)
        whole = np.logaddexp.reduce(scrambles, axis=0) - np.log(SCRAMBLES)
        return Marginal(whole, scrambles, ess, points)

    return of


def _log_normal(
    x: Float[Array, "point patient effect"], inverse: Float[Array, "*patient effect effect"]
) -> Float[Array, "point patient"]:
    """ln density at x (point, patient, effect) of normals around 0: (point, patient).

    `inverse` is of the Cholesky factor, (effect, effect), or (patient, effect, effect).
    """
    white = jnp.einsum("de,mpe->mpd" if inverse.ndim == 2 else "pde,mpe->mpd", inverse, x)
    log_det = jnp.sum(jnp.log(jnp.diagonal(inverse, axis1=-2, axis2=-1)), axis=-1)
    return log_det - 0.5 * jnp.sum(white**2, axis=-1) - x.shape[-1] * LN_SQRT_2PI
