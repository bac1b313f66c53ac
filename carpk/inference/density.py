"""The posterior density of a population model in partially centred (preconditioned) coordinates.

`outer` coordinates u (n,) are the population parameters on the whole line (NumPyro's bijections)
and coordinates of the cohorts' effects. A patient's random effects are b = L z with L the factor of
their covariance; z (m,) are standard scores.

b and its SDs depend on each other (the funnel): non-centred coordinates suit patients with few
samples, centred ones those with many, and most lie between, patient by patient and direction by
direction; and shared parameters move every patient's effects. `Conditional` removes both. Near the
mode the log predictions are quadratic in the parameters and their likelihood is normal, so that a
Newton step gives, for any population parameters, the conditional mode and precision of a patient's
random effects:

    (I + G' W G) z = G' (s - W (f - G z0)),      G = J L,

with log predictions f less those at the mode, their Jacobian J by b, score s and curvature W there,
all at z0, which is the same step with J and W of the mode. With U U' = I + G' W G and x = U' (z -
z1) the coordinates x are standard normal and independent of the population parameters, as far as
that holds; where it does not, the density below is still exact, Jacobian included. `Cohorts` does
the same for the effects that all patients of a cohort share.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from jax.scipy.linalg import solve_triangular
from numpyro.distributions import biject_to
from numpyro.distributions.transforms import Transform

from carpk._types import ArrayOf, Arrays, Numbers, Values
from carpk.assay.residual import LN_SQRT_2PI, Residual
from carpk.population.bound import BoundPopulation
from carpk.population.population import COHORT_INDEX
from carpk.population.random_effects import COHORT, PATIENT, eta_name, omega_name

JUMPS = 4  # Metropolis steps of a patient after each of NUTS
OF_PRIOR = 0.5  # share of these proposed from the random-effects distribution
MOVES = 12  # rounds of jumps, each followed by population steps at fixed patients
LEAP = 2.4  # Metropolis step [SDs], optimal for a normal density of one dimension
BARELY = 1e-3  # information over that of the prior, below which a cohort's effect is not informed

Triangle: TypeAlias = list[list[Array]]
"""Lower triangular matrices, one per patient or cohort, entry by entry."""

Conditioned: TypeAlias = tuple[Array, Array, Array]
"""ln density at fixed patients, step SD of each site, and z; see `LogDensity.shifted`."""


class LogPredictionExpansion(NamedTuple):
    """Second-order Taylor expansion of the log predictions of P patients.

    Attributes:
        at: coordinates of the expansion point, (P, c).
        value: (P, T).
        first: derivatives, (c, P, T).
        second: (c, c, P, T); None where it is kept apart.
    """

    at: Arrays
    value: Arrays
    first: Arrays
    second: Arrays | None

    def around(self, c: Array) -> tuple[Array, Arrays]:
        """Log predictions nearby, less `value`, (P, T); derivatives there, (c, P, T)."""
        assert self.second is not None
        away = (c - self.at).T
        bent = jnp.einsum("ijpt,jp->ipt", self.second, away)
        return jnp.einsum("ipt,ip->pt", self.first + 0.5 * bent, away), self.first + bent


def _usual(values: Arrays, counted: bool) -> Array:
    """A usual one of an output's observations: the geometric mean; of counts the mean."""
    if counted:  # away from 0, and of yes and no from 1
        return (jnp.sum(values) + 0.5) / (len(values) + 1.0)
    return jnp.exp(jnp.mean(jnp.log(values))) if len(values) else jnp.ones(())


class Conditional(NamedTuple):
    """Likelihood of each patient's random effects near a mode: score and curvature.

    The curvature scales with the residual SD as that of a normal variable.

    Attributes:
        expansion: of the predictions, around the mode.
        slope, weight: score and curvature of the ln likelihood by ln prediction, (P, T).
        curvature_at_mode: `LogDensity.curvature` at the mode, (O,).
    """

    expansion: LogPredictionExpansion
    slope: Arrays
    weight: Arrays
    curvature_at_mode: Arrays

    def of_patients(self, chosen: np.ndarray, other: Conditional) -> Conditional:
        """This one for the patients `chosen` (P,), the other one for the rest."""

        def pick(mine: Arrays | None, others: Arrays | None, axis: int = 0) -> np.ndarray:
            assert mine is not None
            assert others is not None
            mask = np.ones(np.ndim(mine), int)
            mask[axis] = -1
            return np.where(chosen.reshape(mask), mine, others)

        expansion = map(pick, self.expansion, other.expansion, (0, 0, 1, 2))
        slope, weight = pick(self.slope, other.slope), pick(self.weight, other.weight)
        return Conditional(
            LogPredictionExpansion(*expansion), slope, weight, other.curvature_at_mode
        )


class IndividualProposals(NamedTuple):
    """Proposal of each patient's parameters: a mixture of K normals of one covariance.

    Attributes:
        at: means, of the coordinates that have a random effect, (P, K, m).
        factor: Cholesky factor of the covariance, (P, m, m).
    """

    at: Arrays
    factor: Arrays

    def sample(self, key: Array) -> Array:
        """One draw for each patient, (P, m)."""
        which, away = jax.random.split(key)
        patients, size, m = self.at.shape
        chosen = jax.random.randint(which, (patients,), 0, size)
        z = jax.random.normal(away, (patients, m))
        at = jnp.take_along_axis(self.at, chosen[:, None, None], axis=1)[:, 0]
        return at + jnp.einsum("pij,pj->pi", self.factor, z)

    def log_density(self, y: Array) -> Array:
        """ln density of y (P, m), (P,)."""
        inverse = np.linalg.inv(self.factor)
        z = jnp.einsum("pij,pkj->pki", inverse, y[:, None] - self.at)
        each = jax.scipy.special.logsumexp(jnp.sum(log_normal(z), axis=-1), axis=1)
        total: Array = each + np.linalg.slogdet(inverse)[1] - np.log(self.at.shape[1])
        return total


class Cohorts(NamedTuple):
    """Likelihood of each cohort's effects near a mode; zeros where that is not known.

    Of k parameters that vary by cohort, C cohorts, O analytes.

    Attributes:
        peak: where the likelihood has its peak, on the estimation scale, (k, C).
        patients: information of each patient's data on these and on b, (O, P, k + m, k + m).
        curvature_at_mode: `LogDensity.curvature` at the mode, (O,).
        others: information on these of what is not the patients', (C, k, k).
    """

    peak: Arrays
    patients: Arrays
    curvature_at_mode: Arrays
    others: Arrays


class Site(NamedTuple):
    """One population parameter, or coordinates of a cohort effect, among the outer coordinates."""

    name: str
    prior: dist.Distribution
    transform: Transform
    shape: tuple[int, ...]  # unconstrained
    place: slice


@dataclasses.dataclass(frozen=True)
class LogDensity:
    """Log density of one population model with its data; pure, so that it can be traced.

    Attributes:
        cohorts: from `cohorts_at`; without it, cohorts' effects are non-centred.
    """

    bound: BoundPopulation
    cohorts: Cohorts | None = None

    # -- population parameters ----------------------------------------------------------------

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """Everything among the outer coordinates, in their order."""
        priors = dict(self.bound.priors)
        size = len(self.bound.clusters)
        for name in self.bound.population.random_effects.at(COHORT):
            priors[eta_name(name, COHORT)] = dist.Normal(0.0, 1.0).expand((size,)).to_event(1)
        sites, start = [], 0
        for name, prior in priors.items():
            transform = biject_to(prior.support)
            shape = transform.inverse_shape(prior.batch_shape + prior.event_shape)
            stop = start + int(np.prod(shape))
            sites.append(Site(name, prior, transform, tuple(shape), slice(start, stop)))
            start = stop
        return tuple(sites)

    def on_scale(self, name: str, value: Numbers) -> Numbers:
        """A population parameter on its estimation scale."""
        scaled: Numbers = self.bound.parameters[name].transform.forward(value)
        return scaled

    @property
    def outer(self) -> int:
        """n, the number of outer coordinates."""
        return int(self.sites[-1].place.stop)

    @property
    def inner(self) -> int:
        """m, the length of a patient's random effects; 0 without individual patients."""
        bound = self.bound
        return (
            0 if bound.individual is None else bound.population.random_effects.size(bound.infusions)
        )

    @property
    def patients(self) -> int:
        return len(self.bound.patients)

    @property
    def width(self) -> int:
        """c, the number of a patient's coordinates."""
        own = len(self.bound.random_effects.at(PATIENT))
        return len(self.bound.population.estimated) + self.inner - own

    def theta(self, u: Array) -> dict[str, Array]:
        """Population parameters [natural scale] and the cohorts' deviations."""
        return self._theta(u)[0]

    def _theta(self, u: Array) -> tuple[dict[str, Array], Array | int]:
        """`theta`, and the ln density of the cohorts' coordinates given the others."""
        theta = {
            site.name: site.transform(u[site.place].reshape(site.shape)) for site in self.sites
        }
        names = self.bound.random_effects.at(COHORT)
        if not names:
            return theta, jnp.zeros(())
        lower, ahead = self._cohorts_step(theta)
        x = [theta[eta_name(name, COHORT)] for name in names]
        z = solve_upper(lower, [one + other for one, other in zip(ahead, x, strict=True)])
        for name, scores in zip(names, z, strict=True):
            theta[eta_name(name, COHORT)] = theta[omega_name(name, COHORT)] * scores
        return theta, sum(jnp.sum(log_normal(y) - jnp.log(lower[i][i])) for i, y in enumerate(z))

    def outer_of(self, theta: Values) -> Array:
        """The inverse of `theta`."""
        natural = {k: jnp.asarray(x, float) for k, x in theta.items()}
        names = self.bound.random_effects.at(COHORT)
        if names:
            lower, ahead = self._cohorts_step(natural)
            z = [natural[eta_name(n, COHORT)] / natural[omega_name(n, COHORT)] for n in names]
            for j, name in enumerate(names):
                by_z = sum(lower[i][j] * z[i] for i in range(j, len(z)))
                natural[eta_name(name, COHORT)] = by_z - ahead[j]
        return jnp.concatenate([jnp.ravel(s.transform.inv(natural[s.name])) for s in self.sites])

    def _cohorts_step(self, theta: Mapping[str, Array]) -> tuple[Triangle, list[Array]]:
        """A Newton step by the standard scores of the cohorts' effects, given the population.

        Returns:
            The factor of their precision, entry by entry, (C,), and the mode times that, k of (C,).
        """
        names, cohorts = self.bound.random_effects.at(COHORT), self.cohorts or self.no_cohorts
        k, known = range(len(names)), self.cohort_information(theta, cohorts)
        sds = [theta[omega_name(name, COHORT)] for name in names]
        typical = [self.on_scale(name, theta[name]) for name in names]
        away = [cohorts.peak[i] - x for i, x in enumerate(typical)]
        lower = cholesky(
            [[sds[i] * known[:, i, j] * sds[j] + (i == j) for j in range(i + 1)] for i in k]
        )
        return lower, solve_lower(
            lower, [sds[i] * sum(known[:, i, j] * away[j] for j in k) for i in k]
        )

    def cohort_information(self, theta: Values, cohorts: Cohorts) -> Arrays:
        """Information on the cohorts' effects, patients' random effects integrated out, (C, k, k).

        Near the mode it depends on the SDs of these and of the residuals alone.
        """
        k = len(cohorts.peak)
        if not len(cohorts.curvature_at_mode):
            return cohorts.others
        factor, ratio = self.factor(theta), self.curvature(theta) / cohorts.curvature_at_mode
        every = jnp.einsum("o,opij->pij", ratio, cohorts.patients)
        by_z = every[:, :k, k:] @ factor
        precision = jnp.eye(self.inner) + factor.T @ every[:, k:, k:] @ factor
        lost = by_z @ jnp.linalg.solve(precision, by_z.transpose(0, 2, 1))
        place = self.bound.patient_design[COHORT_INDEX]
        return jnp.asarray(cohorts.others).at[place].add(every[:, :k, :k] - lost)

    @property
    def no_cohorts(self) -> Cohorts:
        """Zero information on the cohorts' effects."""
        k, size = len(self.bound.random_effects.at(COHORT)), len(self.bound.clusters)
        outputs = 0 if self.bound.individual is None else len(self.bound.individual.analytes)
        patients = np.zeros((outputs, self.patients, k + self.inner, k + self.inner))
        return Cohorts(np.zeros((k, size)), patients, np.ones(outputs), np.zeros((size, k, k)))

    def cohorts_at(
        self, u: np.ndarray, covariance: np.ndarray, conditional: Conditional | None
    ) -> Cohorts:
        """Likelihood of the cohorts' effects, from a mode found with `no_cohorts`.

        Args:
            u: the mode, (n,).
            covariance: of the outer coordinates around it, (n, n).
            conditional: of the patients there.
        """
        names, theta = self.bound.random_effects.at(COHORT), self.theta(jnp.asarray(u))
        at, cohorts = {site.name: site.place for site in self.sites}, self.no_cohorts
        place = np.array([np.arange(u.size)[at[eta_name(name, COHORT)]] for name in names])
        sd = np.array([theta[omega_name(name, COHORT)] for name in names])
        typical = np.array([self.on_scale(name, theta[name]) for name in names])
        z, precision = u[place], np.linalg.inv(covariance)
        known = precision[place.T[:, :, None], place.T[:, None, :]] - np.eye(len(names))
        values, vectors = np.linalg.eigh(known)
        seen = values > BARELY  # of the precision that a cohort's effects have without data
        ahead = np.einsum("cij,ic->cj", vectors, z) * seen / np.where(seen, values, 1.0)
        peak = typical[:, None] + sd[:, None] * (z + np.einsum("cij,cj->ic", vectors, ahead))
        cohorts = cohorts._replace(peak=peak)
        if conditional is not None:
            estimated, curvature = (
                self.bound.population.estimated,
                np.asarray(conditional.curvature_at_mode),
            )
            rows = [*(estimated.index(name) for name in names), *self.random_effect_index]
            first = np.asarray(conditional.expansion.first)[rows]
            analyte = np.arange(curvature.size)[:, None, None] == self.bound.individual.analyte
            weight = np.where(analyte, conditional.weight, 0.0)
            information = np.einsum("ipt,opt,jpt->opij", first, weight, first)
            cohorts = cohorts._replace(patients=information, curvature_at_mode=curvature)
        known = known / (sd[:, None] * sd) - np.asarray(self.cohort_information(theta, cohorts))
        values, vectors = np.linalg.eigh(known)
        others = np.einsum("cij,cj,ckj->cik", vectors, np.maximum(values, 0.0), vectors)
        return cohorts._replace(others=others)

    def cohorts_held(self, u: np.ndarray) -> np.ndarray:
        """1 - shrinkage of each cohort's effects, 0 to 1, (C,)."""
        theta = self.theta(jnp.asarray(u))
        sd = np.array([theta[omega_name(n, COHORT)] for n in self.bound.random_effects.at(COHORT)])
        known = np.asarray(self.cohort_information(theta, self.cohorts or self.no_cohorts))
        left = np.linalg.inv(np.eye(sd.size) + known * (sd[:, None] * sd))
        held: np.ndarray = 1 - np.trace(left, axis1=1, axis2=2) / sd.size
        return held

    def log_prior(self, u: Array) -> Array | int:
        """ln prior density of the outer coordinates."""
        total = self._theta(u)[1]
        for site in self.sites:
            if site.name in self.bound.priors:
                x = u[site.place].reshape(site.shape)
                y = site.transform(x)
                total += jnp.sum(site.prior.log_prob(y))
                total += jnp.sum(site.transform.log_abs_det_jacobian(x, y))
        return total

    def summary_log_likelihood(self, theta: Values) -> Array:
        """ln likelihood of the published summaries."""
        every = self.bound.summary_log_likelihoods(theta)
        return sum((jnp.sum(x) for x in every.values()), jnp.zeros(()))

    # -- patients -----------------------------------------------------------------------------

    def typical(self, theta: Values) -> Array:
        """Typical values at every patient's covariates, on the estimation scale, (P, D)."""
        phi = self.bound.population.typical(theta, self.bound.patient_design)
        names = self.bound.population.estimated
        each = [jnp.broadcast_to(phi[name], (self.patients,)) for name in names]
        return jnp.stack(each, axis=-1) if each else jnp.zeros((self.patients, 0))

    def factor(self, theta: Values) -> Array:
        """L, (m, m)."""
        effects = self.bound.population.random_effects
        factor: Array = effects.factor(theta, self.bound.infusions)
        return factor

    @cached_property
    def random_effect_index(self) -> tuple[int, ...]:
        """Indices of the patients' coordinates with a random effect, in the order of b, (m,)."""
        names, effects = self.bound.population.estimated, self.bound.random_effects
        by_infusion = self.inner - len(effects.at(PATIENT))
        own = [names.index(name) for name in effects.at(PATIENT)]
        return *own, *range(len(names), len(names) + by_infusion)

    def coordinates(self, mu: Array, b: Array) -> Array:
        """Coordinates of the predictions of each patient, (P, c), linear in both.

        The estimated parameters on the estimation scale, then deviations of single infusions.
        """
        own = len(self.bound.random_effects.at(PATIENT))
        place = np.zeros((own, mu.shape[1]))
        place[np.arange(own), self.random_effect_index[:own]] = 1.0
        return jnp.concatenate([mu + b[:, :own] @ place, b[:, own:]], axis=1)

    def log_predictions(self, c: Array) -> Array:
        """ln of the predictions at the observations, (P, T), from coordinates; 0 where padded."""
        bound = self.bound
        names = bound.population.estimated
        phi: dict[str, Numbers] = {name: c[:, i] for i, name in enumerate(names)}
        design = bound.patient_design
        own = [name for name in bound.population.model.params.covariates() if name in design]
        phi |= {name: design[name][..., 0] for name in own}
        none = jnp.zeros((self.patients, len(bound.random_effects.at(PATIENT))))
        b = jnp.concatenate([none, c[:, len(names) :]], axis=1)
        f = bound.individual_predictions(bound.patient_params(phi, b, bound.infusions))
        return jnp.log(jnp.where(bound.individual.mask, f, 1.0))

    def log_likelihoods(self, log_f: Array, theta: Values) -> Array:
        """ln likelihood of each observation, (P, T)."""
        each: Array = self.bound.prediction_log_likelihoods(jnp.exp(log_f), theta)
        return each

    def curvature(self, theta: Values) -> Array:
        """Curvature of the ln likelihood at observation = prediction, by ln prediction, (O,)."""
        bound, a = self.bound, self.bound.individual
        each = []
        for o, analyte in enumerate(a.analytes):
            here = np.asarray(a.mask) & (np.asarray(a.analyte) == o)
            prediction = _usual(a.value[here], bound.counted[here].any())
            output = bound.endpoints[analyte]
            residual = bound.population.residual_of(output)
            own = bound.residual_theta(theta, output, sd=_usual(a.sd[here], counted=False))

            def log_prob(
                x: Array,
                prediction: Array = prediction,
                residual: Residual = residual,
                own: Values = own,
            ) -> Array:
                found: Array = residual.log_prob(prediction, prediction * jnp.exp(x), own)
                return found

            each.append(jnp.maximum(-with_derivatives(log_prob, jnp.zeros(()))[2], 1e-12))
        return jnp.stack(each)

    def standardized(
        self, theta: Values, mu: Array, conditional: Conditional, x: Array
    ) -> tuple[Array, Array | int]:
        """z (P, m) of the coordinates x, and ln |dz/dx|, (P,)."""
        lower, ahead = self._patients_step(theta, mu, conditional)
        return scores_of(lower, ahead, x), -sum(jnp.log(lower[i][i]) for i in range(self.inner))

    def _patients_step(
        self, theta: Values, mu: Array, conditional: Conditional
    ) -> tuple[Triangle, list[Array]]:
        """A Newton step by z: factor of the precision, entry by entry, and the mode times that."""
        own, expansion = (
            np.array(self.random_effect_index),
            jax.tree.map(jnp.asarray, conditional.expansion),
        )
        ratio = (self.curvature(theta) / conditional.curvature_at_mode)[
            self.bound.individual.analyte
        ]
        slope, weight = ratio * conditional.slope, ratio * conditional.weight
        factor = self.factor(theta)

        def step(change: Array, jacobian: Array, b: Array) -> tuple[Triangle, list[Array]]:
            """The factor of the precision, and the mode times that: a Newton step from b."""
            by_b = jacobian[own]
            by_z = jnp.einsum("kpt,ki->ipt", by_b, factor)
            left = slope - weight * (change - jnp.einsum("kpt,pk->pt", by_b, b))
            precision = jnp.einsum("ipt,pt,jpt->ijp", by_z, weight, by_z)
            lower = cholesky(
                [[precision[i, j] + (i == j) for j in range(i + 1)] for i in range(self.inner)]
            )
            return lower, solve_lower(lower, list(jnp.einsum("ipt,pt->ip", by_z, left)))

        b = jnp.zeros((self.patients, self.inner))
        away = self.coordinates(mu, b) - expansion.at
        lower, ahead = step(jnp.einsum("ipt,pi->pt", expansion.first, away), expansion.first, b)
        b = jnp.stack(solve_upper(lower, ahead), axis=-1) @ factor.T
        change, jacobian = expansion.around(self.coordinates(mu, b))
        return step(change, jacobian, b)

    def to_natural(
        self, u: Array, x: Array, conditional: Conditional | None
    ) -> tuple[dict[str, Array], Array, Array, Array]:
        """Natural parameters of outer coordinates (n,) and patients' coordinates (P, m).

        Returns:
            theta; random effects (P, m); coordinates of predictions (P, c); and the ln density of
            the effects' standard scores, ln |dz/dx| included, (P,).
        """
        theta = self.theta(u)
        mu = self.typical(theta)
        z = x
        log_slope: Array | int = jnp.zeros(self.patients)
        if conditional is not None and self.inner:
            z, log_slope = self.standardized(theta, mu, conditional, x)
        b = z @ self.factor(theta).T
        return theta, b, self.coordinates(mu, b), log_slope + jnp.sum(log_normal(z), axis=1)

    def proposed(
        self, u: Array, x: Array, z: Array, by_x: Array, conditional: Conditional
    ) -> tuple[Array, Array, Array, Array | int]:
        """Random effects given by their coordinates x (P, m) where `by_x`, else by z (P, m).

        Returns:
            Coordinates of predictions (P, c); z; x; and ln |dz/dx|, (P,).
        """
        theta = self.theta(u)
        mu = self.typical(theta)
        lower, ahead = self._patients_step(theta, mu, conditional)
        z = jnp.where(by_x, scores_of(lower, ahead, x), z)
        c = self.coordinates(mu, z @ self.factor(theta).T)
        log_slope = -sum(jnp.log(lower[i][i]) for i in range(self.inner))
        return c, z, coordinates_of(lower, ahead, z), log_slope

    def log_joint(self, u: Array, x: Array, conditional: Conditional | None) -> Array:
        """ln of the joint density of outer coordinates and patients' coordinates.

        Args:
            u: (n,).
            x: (P, m); standard scores where there is no `conditional`.
        """
        if self.bound.individual is None:
            return self.log_prior(u) + self.summary_log_likelihood(self.theta(u))
        theta, _, c, scores = self.to_natural(u, x, conditional)
        each = self.log_likelihoods(self.log_predictions(c), theta)
        return (
            self.log_prior(u) + self.summary_log_likelihood(theta) + jnp.sum(each) + jnp.sum(scores)
        )

    def scores(self, u: Array, x: Array, conditional: Conditional) -> Array:
        """Patients' standard scores (P, m) of their coordinates."""
        theta = self.theta(u)
        return self.standardized(theta, self.typical(theta), conditional, x)[0]

    def coordinates_of_scores(self, u: Array, z: Array, conditional: Conditional) -> Array:
        """The inverse of `scores`."""
        theta = self.theta(u)
        return coordinates_of(*self._patients_step(theta, self.typical(theta), conditional), z)

    def jumped(self, u: Array, z: Array, proposals: IndividualProposals, key: Array) -> Array:
        """Patients' scores z (P, m) after `JUMPS` independence Metropolis steps each.

        Random effects are proposed from `proposals` or from their population distribution, so that
        a patient with two modes (first sample on the rise or on the decline) changes between them,
        which Hamiltonian steps hardly do.
        """
        theta = self.theta(u)
        mu, factor = self.typical(theta), self.factor(theta)
        middle = self.coordinates(mu, jnp.zeros_like(z))[:, np.array(self.random_effect_index)]
        log_slope = jnp.sum(jnp.log(jnp.diagonal(factor)))

        def log_weight(z: Array) -> Array:
            """Log weight: ln density of standard scores less that of their proposal, (P,)."""
            b = z @ factor.T
            likelihood = self.log_likelihoods(self.log_predictions(self.coordinates(mu, b)), theta)
            prior = jnp.sum(log_normal(z), axis=1)
            by_proposals = proposals.log_density(middle + b) + log_slope
            proposed = jnp.logaddexp(np.log(OF_PRIOR) + prior, np.log1p(-OF_PRIOR) + by_proposals)
            return jnp.sum(likelihood, axis=1) + prior - proposed

        def jump(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            z, now = carry
            which, alone, where, accept = jax.random.split(jax.random.fold_in(key, i), 4)
            new = solve_triangular(factor, (proposals.sample(where) - middle).T, lower=True).T
            of_prior = jax.random.bernoulli(which, OF_PRIOR, (self.patients, 1))
            new = jnp.where(of_prior, jax.random.normal(alone, z.shape), new)
            new = jnp.where(i == 0, z, new)  # first the weight of the current z
            there = log_weight(new)
            taken = jnp.log(jax.random.uniform(accept, (self.patients,))) < there - now
            return jnp.where(taken[:, None], new, z), jnp.where(taken, there, now)

        z, _ = jax.lax.fori_loop(0, 1 + JUMPS, jump, (z, jnp.full(self.patients, -jnp.inf)))
        return z

    @cached_property
    def free(self) -> tuple[Site, ...]:
        """Sites that the likelihood depends on only through the patients' own parameters.

        Typical values of parameters that vary between patients, and their omegas. None where
        published summaries or cohorts' effects depend on them too.
        """
        if self.bound.cohorts or self.bound.random_effects.at(COHORT):
            return ()
        names = self.bound.random_effects.at(PATIENT)
        free = {*names, *(omega_name(name) for name in names)}
        return tuple(site for site in self.sites if site.name in free)

    def moved(
        self, u: Array, z: Array, proposals: IndividualProposals, key: Array
    ) -> tuple[Array, Array]:
        """(u, z) after rounds of `jumped` and `shifted`.

        Where patients jump, a typical value can only follow their own parameters. Neither step
        needs a gradient.
        """

        def again(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            first, then = jax.random.split(jax.random.fold_in(key, i))
            u, z = carry
            return self.shifted(u, self.jumped(u, z, proposals, first), then)

        if not self.free:
            return u, self.jumped(u, z, proposals, key)
        u, z = jax.lax.fori_loop(0, MOVES, again, (u, z))
        return u, z

    def shifted(self, u: Array, z: Array, key: Array) -> tuple[Array, Array]:
        """(u, z) after a Metropolis step of each of `free`, at fixed patients' own parameters.

        A step in the centred parameterization, interwoven with NUTS in the non-centred one, which
        mixes badly where data say little of a patient (ASIS; Yu & Meng 2011,
        doi:10.1198/jcgs.2011.203main).
        """
        names = self.bound.random_effects.at(PATIENT)
        own = np.array(self.random_effect_index[: len(names)])
        place = jnp.array([site.place.start for site in self.free])
        theta = self.theta(u)
        mu, b = self.typical(theta), z @ self.factor(theta).T

        def conditional_state(u: Array) -> Conditioned:
            """ln density, step SD of each site for one patient, and z."""
            theta = self.theta(u)
            factor, ahead = self.factor(theta), (mu - self.typical(theta))[:, own]
            z = solve_triangular(factor, b.at[:, : own.size].add(ahead).T, lower=True).T
            each = jnp.sum(log_normal(z), axis=1) - jnp.sum(jnp.log(jnp.diagonal(factor)))
            widths = jnp.stack(
                [theta[omega_name(s.name)] if s.name in names else np.sqrt(0.5) for s in self.free]
            )
            return self.log_prior(u) + jnp.sum(each), widths, z

        def step(j: Array, carry: tuple[Array, Conditioned]) -> tuple[Array, Conditioned]:
            u, (now, widths, _) = carry
            ahead, accept = jax.random.split(jax.random.fold_in(key, j))
            width = LEAP / np.sqrt(self.patients) * widths[j]
            new = u.at[place[j]].add(width * jax.random.normal(ahead))
            there = conditional_state(new)
            taken = jnp.log(jax.random.uniform(accept)) < there[0] - now
            after: tuple[Array, Conditioned] = jax.tree.map(
                lambda a, b: jnp.where(taken, b, a), carry, (new, there)
            )
            return after

        u, (_, _, z) = jax.lax.fori_loop(0, len(self.free), step, (u, conditional_state(u)))
        return u, z

    def sample_of(self, u: Array, x: Array, conditional: Conditional | None) -> dict[str, Array]:
        """Population parameters and random effects by name, from coordinates."""
        if self.bound.individual is None:
            return self.theta(u)
        theta, b, *_ = self.to_natural(u, x, conditional)
        return self.named(theta, b)

    def named(self, theta: Mapping[str, Array], b: Array) -> dict[str, Array]:
        """Population parameters, and random effects (..., P, m) by name."""
        return {**theta, **self.bound.population.random_effects.named(b, self.bound.infusions)}


def log_normal(z: ArrayOf) -> ArrayOf:
    """ln density of standard normal variables, elementwise."""
    return -0.5 * z**2 - LN_SQRT_2PI


def with_derivatives(f: Callable[[Array], Array], x: Array) -> tuple[Array, Array, Array]:
    """(f, f', f'') of an elementwise function, by forward differentiation."""
    ones = jnp.ones_like(x)

    def slope(x: Array) -> tuple[Array, Array]:
        value, first = jax.jvp(f, (x,), (ones,))
        return value, first

    (value, first), (_, second) = jax.jvp(slope, (x,), (ones,))
    return value, first, second


def scores_of(lower: Triangle, ahead: Sequence[Array], x: Array) -> Array:
    """z (P, m) of coordinates x (P, m), by `LogDensity._patients_step`."""
    return jnp.stack(solve_upper(lower, [y + x[:, i] for i, y in enumerate(ahead)]), axis=-1)


def coordinates_of(lower: Triangle, ahead: Sequence[Array], z: Array) -> Array:
    """x (P, m) of z (P, m)."""
    m = range(len(ahead))
    x = [sum(lower[j][i] * z[:, j] for j in m[i:]) - ahead[i] for i in m]
    return jnp.stack(x, axis=-1)


# Small matrices, one per patient: written out, since calling a library for each costs more.


def cholesky(a: Sequence[Sequence[Array]]) -> Triangle:
    """Lower factor of symmetric matrices given by their lower triangle, entry by entry, (P,)."""
    lower: Triangle = []
    for i in range(len(a)):
        row: list[Array] = []
        for j in range(i + 1):
            x = a[i][j] - sum(p * q for p, q in zip(row, lower[j] if j < i else row, strict=False))
            row.append(jnp.sqrt(x) if i == j else x / lower[j][j])
        lower.append(row)
    return lower


def solve_lower(lower: Triangle, y: Sequence[Array]) -> list[Array]:
    """x with L x = y."""
    x: list[Array] = []
    for row, value in zip(lower, y, strict=True):
        x.append((value - sum(p * q for p, q in zip(row, x, strict=False))) / row[-1])
    return x


def solve_upper(lower: Triangle, y: Sequence[Array]) -> list[Array]:
    """x with L' x = y."""
    x = list(y)
    for i in reversed(range(len(y))):
        rest = sum(lower[j][i] * x[j] for j in range(i + 1, len(y)))
        x[i] = (y[i] - rest) / lower[i][i]
    return x
