"""Laplace's approximation: random effects integrated out, patient by patient, all at once.

Given the population parameters, every patient's random effects have a mode, found by Newton steps
within a trust region, in standard scores. With H the Gauss-Newton Hessian there,

    ln p(y_i | u) = ln p(y_i | z*) + ln N(z*; 0, I) + (m ln 2 pi - ln |H|) / 2

(the field's FOCEI, with M3 terms where samples are below a limit). The sum over patients, published
summaries and priors is maximised over the outer coordinates u. Its gradient follows the modes as
they move with u; the covariance of u comes from differences of that gradient.

Predictions are differentiated by central differences, which a mesh and a closed form allow and
which compile in a fraction of the time of derivatives: the predictions near a point are a
polynomial of second order, and everything else is differentiated through it, exactly.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.optimize import OptimizeResult, minimize

from carpk._compile import by_rows, jit_fast_compile
from carpk._types import Arrays
from carpk.inference.density import (
    Cohorts,
    Conditional,
    LogDensity,
    LogPredictionExpansion,
    with_derivatives,
)
from carpk.verdict.modes import DECREMENT

STEP_OF_PREDICTIONS = 1e-3  # of the differences of expansion, on the estimation scale
LANES = 4096  # patients whose predictions are computed side by side
ROWS_TO_NATURAL = 32  # points of all patients per batch: as many as stay in the cache
POINTS = 128  # importance points of a patient's random effects per batch
ROWS = 256  # points at once where there are no patients
INNER_STEPS = 30
INNER_TOLERANCE = 1e-10  # of the decrement g' H^-1 g of a patient
LOOSE = 1e-6  # the same, below which a patient counts as converged, and stops where it stalls
# inner Newton stops when the predicted gain is below this fraction of the difference from the
# incumbent point (better, worse)
SUFFICIENT = (1e-4, 1e-2)
STALLED = 0.1  # of the decrement before: predictions with a kink converge no faster
RADIUS = 1.0  # of the trust region at first, in standard scores
NARROWEST = 1e-5  # radius at which a patient's search ends
GOOD, BAD = 0.75, 0.25  # actual over predicted gain: the region grows above, shrinks below
HALVINGS = 40  # bisections for the step to the edge of a region
SADDLE = 1e-8  # slope assumed along the lowest axis of a saddle
OUTER_STEPS = 200
DESCENTS = 3  # descents at most, each with the patients' modes looked for anew
HIGHER = 0.05  # gain in ln joint density by it, above which the descent is repeated
NEWTON_STEPS = 3  # after the descents, each with a Hessian
STEP = 1e-3  # of the differences of the gradient, in prior SDs of the outer coordinates
WIDE_STEP = 0.1  # the same where there is no smooth maximum
ONE_MODE = 4.0  # Mahalanobis distance from a mode within which points belong to it
FLATTEST = 0.1  # least curvature assumed in any direction; the prior's is about 1
REACH = 8.0  # prior SDs from the start within which a mode is searched
IMPOSSIBLE = 1e12  # -ln posterior where it is not finite

Replaced: TypeAlias = tuple[Mapping[str, Array], Cohorts | None]
"""Arrays in place of the data's, {} for none; and likelihoods of the cohorts' effects."""

NOTHING: Replaced = ({}, None)

PatientTerms: TypeAlias = tuple[Array, Array, Array, Array, Array]
"""ln joint density of data and z, (P,); gradient, hessian, score, weight as in `LaplaceTerms`."""


class Spectrum(NamedTuple):
    """Eigenvalues and eigenvectors of the patients' curvatures, (P, m) and (P, m, m)."""

    values: np.ndarray
    vectors: np.ndarray

    @classmethod
    def of(cls, curvature: np.ndarray) -> Spectrum:
        """Eigendecomposition of matrices (P, m, m); identity for those that are not finite."""
        fine = np.isfinite(curvature).all((1, 2), keepdims=True)
        matrices = np.where(fine, curvature, np.eye(curvature.shape[1]))
        return cls(*np.linalg.eigh(0.5 * (matrices + matrices.transpose(0, 2, 1))))

    def solve(self, right: np.ndarray) -> np.ndarray:
        """Their inverses times (P, m, n)."""
        along = np.einsum("pij,pin->pjn", self.vectors, right) / self.values[..., None]
        solved: np.ndarray = np.einsum("pij,pjn->pin", self.vectors, along)
        return solved

    @property
    def peaked(self) -> np.ndarray:
        """Patients with a positive definite curvature, (P,)."""
        return self.values[:, 0] > 0

    def step(self, gradient: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Trust-region step within a radius (P,), (P, m); twice the predicted gain, (P,).

        On the boundary by the method of Moré and Sorensen (1983); the Newton step, and its
        decrement, where that is inside.
        """
        along = np.einsum("pij,pi->pj", self.vectors, gradient)
        flat = ~self.peaked & (np.abs(along[:, 0]) < SADDLE)
        along[:, 0] = np.where(flat, SADDLE, along[:, 0])
        low = np.maximum(-self.values[:, 0], 0.0)
        high = low + np.linalg.norm(along, axis=1) / np.maximum(radius, NARROWEST)

        def way(raised: np.ndarray) -> np.ndarray:
            x: np.ndarray = along / (self.values + raised[:, None])
            return x

        def inside(raised: np.ndarray) -> np.ndarray:
            near: np.ndarray = np.linalg.norm(way(raised), axis=1) <= radius
            return near

        top = self.peaked & inside(np.where(self.peaked, 0.0, high))
        for _ in range(0 if top.all() else HALVINGS):
            middle = 0.5 * (low + high)
            near = inside(middle)
            low, high = np.where(near, low, middle), np.where(near, middle, high)
        x = way(np.where(top, 0.0, high))
        rise = 2 * np.sum(along * x, axis=1) - np.sum(self.values * x**2, axis=1)
        return np.einsum("pij,pj->pi", self.vectors, x), rise


class LaplaceTerms(NamedTuple):
    """Terms of the Laplace approximation at (u, z).

    Attributes:
        outer, outer_slope: ln prior and ln likelihood of published summaries; gradient (n,).
        each: ln joint density of data and z, (P,).
        gradient, hessian: of that by z, (P, m); Gauss-Newton, of minus that, (P, m, m).
        score, weight: first derivative and curvature of ln likelihood by ln prediction, (P, T).
        d_each, d_gradient, d_hessian: along u, then z, (n + m, ...).
    """

    outer: Arrays
    outer_slope: Arrays
    each: Arrays
    gradient: Arrays
    hessian: Arrays
    score: Arrays
    weight: Arrays
    d_each: Arrays
    d_gradient: Arrays
    d_hessian: Arrays


class LaplaceEvaluation(NamedTuple):
    """Laplace approximation and its gradient at (u, z).

    Attributes:
        value: approximate ln density of u, if z are the modes.
        slope: its gradient, (n,).
        each: ln joint density of data and z, (P,).
        gradient: of that by z, (P, m).
        bend: the curvatures of minus that.
        moved: dz/du, (P, m, n).
        score, weight: first derivative and curvature of ln likelihood by ln prediction, (P, T).
        held: share of the precision of z that is the data's, mean over z, (P,).
    """

    value: float
    slope: np.ndarray
    each: np.ndarray
    gradient: np.ndarray
    bend: Spectrum
    moved: np.ndarray
    score: np.ndarray
    weight: np.ndarray
    held: np.ndarray

    @classmethod
    @np.errstate(all="ignore")  # non-finite input gives a non-finite value
    def of(cls, terms: LaplaceTerms) -> LaplaceEvaluation:
        """With dz/du of the modes by the implicit function theorem."""
        outer, outer_slope, each, gradient, hessian, score, weight, *changes = map(
            np.asarray, terms
        )
        d_each, d_gradient, d_hessian = changes
        n = outer_slope.size
        bend = Spectrum.of(-d_gradient[n:].transpose(1, 2, 0))
        ahead = np.concatenate([d_gradient[:n].transpose(1, 2, 0), gradient[..., None]], axis=2)
        ahead = bend.solve(ahead)
        moved, left = ahead[..., :n], ahead[..., n]  # dz/du, and the Newton step left to the mode
        steep, axes = Spectrum.of(hessian)
        steep = np.maximum(steep, 1.0)  # eigenvalues >= 1; clip rounding errors
        inverse = np.einsum("pik,pjk->pij", axes / steep[:, None], axes)
        change = d_each - 0.5 * np.einsum("pij,dpji->dp", inverse, d_hessian)
        value = each - 0.5 * np.sum(np.log(steep), axis=1)
        value = value + np.einsum("ip,pi->p", change[n:], left)
        value -= 0.5 * np.einsum("pi,pi->p", left, gradient)
        slope = outer_slope + np.sum(change[:n], axis=1)
        slope = slope + np.einsum("ip,pin->n", change[n:], moved)
        total = float(outer + value.sum())
        held = 1 - np.mean(1 / steep, axis=1)
        return cls(total, slope, each, gradient, bend, moved, score, weight, held)


@dataclasses.dataclass(frozen=True)
class Mode:
    """The mode of the outer coordinates, its covariance and the patients' conditionals.

    Attributes:
        u: (n,).
        z: the patients' standard scores there, (P, m).
        log_density: approximate ln posterior density of u.
        covariance: of u, (n, n).
        decrement: g' H^-1 g: squared distance to the mode in posterior SDs.
        flat: directions in which the curvature was not above 0 and was replaced.
        unconverged: indices of patients whose own mode was not found.
        conditional: the patients' likelihoods near it; None without random effects.
        held: 1 - shrinkage of the patients' random effects, mean over them, (P,).
        evaluations: of the gradient.
    """

    u: np.ndarray
    z: np.ndarray
    log_density: float
    covariance: np.ndarray
    decrement: float
    flat: int
    unconverged: tuple[int, ...]
    conditional: Conditional | None
    held: np.ndarray
    evaluations: int

    @property
    def converged(self) -> bool:
        """A maximum, and one of every patient's random effects."""
        return self.decrement < DECREMENT and not self.flat and not self.unconverged

    def holds(self, u: np.ndarray) -> bool:
        """Outer coordinates within `ONE_MODE` of this mode."""
        away = u - self.u
        return bool(away @ np.linalg.solve(self.covariance, away) < ONE_MODE**2)


def _patients(
    density: LogDensity, expansion: LogPredictionExpansion
) -> Callable[[Array, Array], PatientTerms]:
    """(u, z) -> ln joint density of data and z, (P,); gradient, hessian, score, weight."""
    m = density.inner

    def patients(u: Array, z: Array) -> PatientTerms:
        theta = density.theta(u)
        mu, factor = density.typical(theta), density.factor(theta)

        def of(z: Array) -> Array:
            nearby, _ = expansion.around(density.coordinates(mu, z @ factor.T))
            return jnp.add(expansion.value, nearby)

        def along(direction: Array) -> tuple[Array, Array]:
            return jax.jvp(of, (z,), (jnp.broadcast_to(direction, z.shape),))

        log_f, jacobian = jax.vmap(along, out_axes=(None, 0))(jnp.eye(m))
        each, slope, bent = with_derivatives(lambda x: density.log_likelihoods(x, theta), log_f)
        weight = jnp.maximum(-bent, 0.0)
        value = jnp.sum(each, axis=1) - 0.5 * jnp.sum(z**2, axis=1)
        gradient = jnp.einsum("mpt,pt->pm", jacobian, slope) - z
        hessian = jnp.einsum("mpt,pt,npt->pmn", jacobian, weight, jacobian) + jnp.eye(m)
        return value, gradient, hessian, slope, weight

    return patients


def _newton_terms(
    density: LogDensity, u: Array, z: Array, expansion: LogPredictionExpansion
) -> tuple[Array, Array, Array]:
    """Value, gradient and curvature for a Newton step by z.

    Returns:
        ln joint density of data and z, (P,); gradient and curvature as in `LaplaceEvaluation`.
    """
    patients = _patients(density, expansion)

    def along(of_z: Array) -> tuple[PatientTerms, PatientTerms]:
        return jax.jvp(lambda z: patients(u, z), (z,), (jnp.broadcast_to(of_z, z.shape),))

    (each, gradient, *_), (_, bend, *_) = jax.vmap(along, out_axes=(None, 0))(
        jnp.eye(density.inner)
    )
    return each, gradient, -bend.transpose(1, 2, 0)


def _laplace_terms(
    density: LogDensity, u: Array, z: Array, expansion: LogPredictionExpansion
) -> LaplaceTerms:
    """Terms at (u, z) from predictions expanded around their coordinates.

    Everything but published summaries by forward differentiation, along n + m directions at once.
    """
    n = u.size
    patients = _patients(density, expansion)

    def along(of_u: Array, of_z: Array) -> tuple[PatientTerms, PatientTerms]:
        return jax.jvp(patients, (u, z), (of_u, jnp.broadcast_to(of_z, z.shape)))

    def others(u: Array) -> Array:
        return density.log_prior(u) + density.summary_log_likelihood(density.theta(u))

    directions = jnp.eye(n + density.inner)
    here, (*changes, _, _) = jax.vmap(along, out_axes=(None, 0))(
        directions[:, :n], directions[:, n:]
    )
    return LaplaceTerms(*jax.value_and_grad(others)(u), *here, *changes)


@np.errstate(all="ignore")  # predictions of failed solutions are not finite
def _polynomial(
    c: np.ndarray, f: np.ndarray, pairs: list[tuple[int, int]], curved: Sequence[int]
) -> LogPredictionExpansion:
    """Expansion around c, from values at c, then forward along axes and `pairs`, then backward."""
    size, (i, j), axes = c.shape[1], np.array(pairs, int).reshape(-1, 2).T, np.array(curved, int)
    n = size + len(pairs)
    f0, up, down = f[0], f[1 : n + 1], f[n + 1 : 2 * n + 1]
    both = (up + down - 2 * f0) / STEP_OF_PREDICTIONS**2  # second derivatives along each move
    mixed = 0.5 * (both[size:] - both[i] - both[j])
    second = np.zeros((size, size, *f0.shape))
    second[axes, axes] = both[axes]
    second[i, j] = second[j, i] = mixed
    return LogPredictionExpansion(
        c, f0, (up[:size] - down[:size]) / (2 * STEP_OF_PREDICTIONS), second
    )


class CompiledDensity:
    """Jitted kernels of one posterior; the data are an argument, so simulated data reuse them.

    Args:
        of: values -> log density; traced.
        values: of the data, and anything else that `of` replaces.
    """

    def __init__(self, of: Callable[[Replaced], LogDensity], values: Replaced = NOTHING) -> None:
        self.of, self.values, self.density = of, values, of(values)

        def coordinates(u: Array, z: Array, values: Replaced) -> Array:
            density = of(values)
            theta = density.theta(u)
            b = z @ density.factor(theta).T
            return density.coordinates(density.typical(theta), b)

        def log_predictions(c: Array, values: Replaced) -> Array:
            return jax.vmap(of(values).log_predictions)(c)

        def value_and_grad(u: Array, values: Replaced) -> tuple[Array, Array]:
            density = of(values)
            empty = jnp.zeros((density.patients, 0))
            return jax.value_and_grad(lambda u: density.log_joint(u, empty, None))(u)

        def log_joints(u: Array, values: Replaced) -> Array:
            density = of(values)
            empty = jnp.zeros((density.patients, 0))
            each: Array = jax.lax.map(lambda x: density.log_joint(x, empty, None), u)
            return each

        def curvature(u: Array, values: Replaced) -> Array:
            density = of(values)
            return density.curvature(density.theta(u))

        def to_natural(
            u: Array, x: Array, conditional: Conditional | None, values: Replaced
        ) -> tuple[dict[str, Array], Array | None, Array | None]:
            density = of(values)
            if density.bound.individual is None:
                return density.theta(u), None, None
            theta, b, c, scores = density.to_natural(u, x, conditional)
            return density.named(theta, b), c, scores

        def proposed(
            u: Array, x: Array, z: Array, by_x: Array, conditional: Conditional, values: Replaced
        ) -> tuple[Array, Array, Array, Array | int]:
            return of(values).proposed(u, x, z, by_x, conditional)

        def likelihood_derivatives(
            u: Array, log_f: Array, values: Replaced
        ) -> tuple[Array, Array, Array]:
            density = of(values)
            theta = density.theta(u)
            return with_derivatives(lambda x: density.log_likelihoods(x, theta), log_f)

        def newton_terms(
            u: Array, z: Array, expansion: LogPredictionExpansion, values: Replaced
        ) -> tuple[Array, Array, Array]:
            return _newton_terms(of(values), u, z, expansion)

        def laplace_terms(
            u: Array, z: Array, expansion: LogPredictionExpansion, values: Replaced
        ) -> LaplaceTerms:
            return _laplace_terms(of(values), u, z, expansion)

        def importance_log_density(
            u: Array, log_f: Array, rest: Array, values: Replaced
        ) -> tuple[Array, Array]:
            density = of(values)
            theta = density.theta(u)
            each = jax.vmap(lambda f: density.log_likelihoods(f, theta).sum(1))(log_f) + rest
            outer = density.log_prior(u) + density.summary_log_likelihood(theta)
            return outer, jnp.where(jnp.isnan(each), -jnp.inf, each)

        self.coordinates, self.log_predictions = jax.jit(coordinates), jax.jit(log_predictions)
        self.value_and_grad, self.log_joints, self.curvature = (
            jax.jit(value_and_grad),
            jax.jit(log_joints),
            jax.jit(curvature),
        )
        self.newton_terms, self.laplace_terms = (
            jit_fast_compile(newton_terms),
            jit_fast_compile(laplace_terms),
        )
        self.to_natural = jit_fast_compile(jax.vmap(to_natural, in_axes=(0, 0, None, None)))
        self.importance_log_density = jit_fast_compile(importance_log_density)
        self.proposed = jit_fast_compile(jax.vmap(proposed, in_axes=(0, 0, 0, 0, None, None)))
        self.likelihood_derivatives = jit_fast_compile(
            jax.vmap(likelihood_derivatives, in_axes=(0, 0, None))
        )

    def with_values(self, values: Replaced) -> CompiledDensity:
        """A copy with other values, sharing the compiled functions."""
        other = copy.copy(self)
        other.values, other.density = values, self.of(values)
        return other

    def expand_predictions(
        self, u: Arrays, z: Arrays, *, every: bool = False
    ) -> LogPredictionExpansion:
        """Log predictions around the coordinates of u and z, from batches of them nearby.

        Args:
            every: all second derivatives; else those of pairs without a random effect are 0.
        """
        c = np.asarray(self.coordinates(u, z, self.values))
        size, axes = c.shape[1], self.density.random_effect_index
        pairs = [(i, j) for j in range(size) for i in range(j)]
        pairs = [(i, j) for i, j in pairs if every or i in axes or j in axes]
        unit = np.eye(size)
        ahead = np.array([*unit, *(unit[i] + unit[j] for i, j in pairs)])
        moves = STEP_OF_PREDICTIONS * np.concatenate([np.zeros((1, size)), ahead, -ahead])
        f = self.log_predictions_by_rows(c + moves[:, None])
        return _polynomial(c, f, pairs, range(size) if every else axes)

    def log_predictions_by_rows(self, c: Arrays) -> np.ndarray:
        """Log predictions at coordinates of the patients, (n, P, c), in batches of one shape."""
        c = np.asarray(c)
        batch = self.batch_size(self.density)
        rows = np.resize(np.arange(len(c)), -(-len(c) // batch) * batch).reshape(-1, batch)
        return np.concatenate([self.log_predictions(c[i], self.values) for i in rows])[: len(c)]

    def to_natural_by_rows(
        self, u: Arrays, x: Arrays, conditional: Conditional | None
    ) -> tuple[dict[str, np.ndarray], np.ndarray | None, np.ndarray | None]:
        """Natural parameters of many points: u (N, n) and the patients' coordinates x (N, P, m).

        Returns:
            Parameters and random effects by name; coordinates of predictions (N, P, c); and ln
            density of the patients' standard scores, ln |dz/dx| included, (N, P).
        """

        found: tuple[dict[str, np.ndarray], np.ndarray | None, np.ndarray | None] = by_rows(
            lambda i: self.to_natural(u[i], x[i], conditional, self.values), len(u), ROWS_TO_NATURAL
        )
        return found

    def proposed_by_rows(
        self, u: Arrays, x: Arrays, z: Arrays, by_x: Arrays, conditional: Conditional
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """`LogDensity.proposed` of many points: u (N, n), x and z (N, P, m), by_x (N,)."""

        found: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] = by_rows(
            lambda i: self.proposed(u[i], x[i], z[i], by_x[i], conditional, self.values),
            len(u),
            ROWS_TO_NATURAL,
        )
        return found

    def importance_log_densities(
        self, u: Arrays, log_f: Arrays, rest: Arrays
    ) -> tuple[float, np.ndarray]:
        """ln density without patients at u; ln likelihood at predictions (N, P, T) + `rest`."""
        rows = np.arange(len(log_f)).reshape(-1, POINTS)
        parts = [self.importance_log_density(u, log_f[i], rest[i], self.values) for i in rows]
        return float(parts[0][0]), np.concatenate([each for _, each in parts])

    def likelihood_derivatives_by_rows(
        self, u: Arrays, log_f: Arrays
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """ln likelihood at predictions (N, P, T); first and second derivatives by ln prediction."""
        found: tuple[np.ndarray, np.ndarray, np.ndarray] = by_rows(
            lambda i: self.likelihood_derivatives(u[i], log_f[i], self.values),
            len(u),
            ROWS_TO_NATURAL,
        )
        return found

    def log_joints_by_rows(self, u: np.ndarray) -> np.ndarray:
        """ln density of many outer coordinates (N, n), of a posterior without random effects."""
        each: np.ndarray = by_rows(lambda i: self.log_joints(u[i], self.values), len(u), ROWS)
        return each

    def batch_size(self, density: LogDensity) -> int:
        """Coordinates of the patients per call of `log_predictions`."""
        m, size = density.inner, density.width
        moves = 1 + 2 * size + m * (2 * size - m - 1)  # of `expand_predictions`
        return -(-moves // -(-moves * density.patients // LANES))

    def evaluate(
        self, u: Arrays, start: Arrays, *, rival: float = math.nan
    ) -> tuple[LaplaceEvaluation, np.ndarray, LogPredictionExpansion]:
        """The approximation at u, the patients' modes, and the expansion around them.

        Args:
            u: (n,).
            start: standard scores at which the search for the modes starts, (P, m).
            rival: ln joint density of data and modes at the incumbent u: the modes are found as
                exactly as the comparison with it needs.
        """
        ahead: np.ndarray = np.asarray(start, float)
        z = ahead
        size, m = z.shape
        radius, value, gradient = np.full(size, RADIUS), np.full(size, -np.inf), np.zeros((size, m))
        gain, before, done = np.full(size, np.inf), np.full(size, np.inf), np.zeros(size, bool)
        bend = Spectrum.of(np.broadcast_to(np.eye(m), (size, m, m)))
        for _ in range(INNER_STEPS):
            expansion = self.expand_predictions(u, ahead)
            new, slope, curvature = map(
                np.asarray, self.newton_terms(u, ahead, expansion, self.values)
            )
            finite = np.isfinite(new) & np.isfinite(slope).all(1)
            finite &= np.isfinite(curvature).all((1, 2))
            better = finite & (new >= value - 1e-9 * np.abs(value)) & ~done
            # no value and gain before the first step
            with np.errstate(divide="ignore", invalid="ignore"):
                rise, length = 2 * (new - value) / gain, np.linalg.norm(ahead - z, axis=1)
            grown = np.where((rise > GOOD) & (length > 0.9 * radius), 3 * radius, radius)
            radius = np.where(better & ~(rise < BAD), grown, 0.25 * length)
            z, value = np.where(better[:, None], ahead, z), np.where(better, new, value)
            gradient[better] = slope[better]
            for known, found in zip(bend, Spectrum.of(curvature), strict=True):
                known[better] = found[better]
            step, gain = bend.step(gradient, radius)
            there = bend.peaked & np.isfinite(value)
            done |= there & (gain < INNER_TOLERANCE)
            done |= there & (gain < LOOSE) & (gain > STALLED * before)
            done |= radius < NARROWEST
            before = gain
            above = value.sum() - rival
            if done.all() or np.sum(gain[~done]) < max(
                SUFFICIENT[0] * above, -SUFFICIENT[1] * above
            ):
                break
            ahead = np.where(done[:, None], z, z + step)
        if not np.array_equal(ahead, z):
            expansion = self.expand_predictions(u, z)
        return LaplaceEvaluation.of(self.laplace_terms(u, z, expansion, self.values)), z, expansion

    def mode(self, start: Arrays, prior_sd: Arrays) -> Mode:
        """The mode nearest to `start` (n,); `prior_sd` are those of the coordinates."""
        return self.polish(self.descend(start, prior_sd))

    def descend(self, start: Arrays, prior_sd: Arrays, known: Mode | None = None) -> Descent:
        """L-BFGS-B from `start`, to be finished by `polish`; arguments as in `mode`.

        Args:
            known: a mode near which the search ends early.
        """
        descent = Descent(self, np.asarray(start, float), np.asarray(prior_sd, float))
        descent.minimise(known)
        return descent

    def polish(self, descent: Descent) -> Mode:
        """The mode and its covariance, after the last Newton steps."""
        x = descent.x
        for attempt in range(NEWTON_STEPS):
            value, slope = descent(x)
            curvature, vectors, flat = descent.curvature(x)
            step = vectors @ ((vectors.T @ slope) / curvature)
            decrement = float(slope @ step)
            if decrement < DECREMENT or attempt == NEWTON_STEPS - 1:
                break
            if not descent(x - step)[0] < value:
                break
            x = x - step
        if flat or not decrement < DECREMENT:
            curvature, vectors, _ = descent.curvature(x, WIDE_STEP)
        u = descent.origin + descent.prior_sd * x
        value, _ = descent(x)
        conditional, lost, held = None, np.zeros(0, int), np.zeros(0)
        if self.density.inner:
            seen, z, _ = self.evaluate(u, descent.z)
            _, gain = seen.bend.step(seen.gradient, np.full(len(z), RADIUS))
            lost = np.flatnonzero(~(seen.bend.peaked & (gain < LOOSE)))
            expansion = self.expand_predictions(u, z, every=True)
            curvature_at_mode = np.asarray(self.curvature(u, self.values))
            conditional = Conditional(expansion, seen.score, seen.weight, curvature_at_mode)
            held = seen.held
        return Mode(
            u=u,
            z=descent.z,
            log_density=-value,
            covariance=(vectors / curvature)
            @ vectors.T
            * np.outer(descent.prior_sd, descent.prior_sd),
            decrement=decrement,
            flat=flat,
            unconverged=tuple(int(i) for i in lost),
            conditional=conditional,
            held=held,
            evaluations=descent.calls,
        )


class Descent:
    """-ln density and its gradient by x, with u = origin + prior_sd x; follows the patients' modes.

    Attributes:
        x, value: where `minimise` ended, and -ln density there.
    """

    def __init__(self, compiled: CompiledDensity, origin: np.ndarray, prior_sd: np.ndarray) -> None:
        self.compiled, self.origin, self.prior_sd = compiled, origin, prior_sd
        density = compiled.density
        self.z = np.zeros((density.patients, density.inner))
        self.moved, self.u, self.calls = np.zeros((*self.z.shape, origin.size)), origin, 0
        self.x, self.value = np.zeros(origin.size), IMPOSSIBLE
        self.lowest, self.joint = np.inf, math.nan

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        u = self.origin + self.prior_sd * x
        self.calls += 1
        if self.z.shape[1]:
            ahead = self.z + np.clip(self.moved @ (u - self.u), -1.0, 1.0)
            seen, z, _ = self.compiled.evaluate(u, ahead, rival=self.joint)
            value, slope = float(seen.value), seen.slope
        else:
            value, slope = jax.tree.map(
                np.asarray, self.compiled.value_and_grad(u, self.compiled.values)
            )
        if not (np.isfinite(value) and np.isfinite(slope).all()):
            return IMPOSSIBLE, np.zeros_like(x)
        if self.z.shape[1] and -value <= self.lowest:
            self.z, self.moved, self.u = z, np.nan_to_num(seen.moved), u
            self.lowest, self.joint = -value, float(seen.each.sum())
        return -float(value), -slope * self.prior_sd

    @property
    def end(self) -> np.ndarray:
        """The outer coordinates where `minimise` ended."""
        return self.origin + self.prior_sd * self.x

    def minimise(self, known: Mode | None) -> None:
        """By L-BFGS-B, from the origin to an end, or to a mode that is known."""
        n = self.origin.size
        finer = np.sqrt(1 + len(self.z))  # about as much as the patients narrow the prior

        def value_and_slope(y: np.ndarray) -> tuple[float, np.ndarray]:
            value, slope = self(y / finer)
            return value, slope / finer

        def stop_if_there(intermediate_result: OptimizeResult) -> None:
            if known is not None:
                above = float(intermediate_result.fun) + known.log_density
                u = self.origin + self.prior_sd * intermediate_result.x / finer
                if above < 0.5 * ONE_MODE**2 and known.holds(u):
                    raise StopIteration

        for _ in range(DESCENTS):
            found = minimize(
                value_and_slope,
                self.x * finer,
                jac=True,
                method="L-BFGS-B",
                bounds=[(-REACH * finer, REACH * finer)] * n,
                options={"maxcor": 30, "maxiter": OUTER_STEPS, "ftol": 1e-10, "gtol": 1e-4},
                callback=stop_if_there,
            )
            self.x, self.value = found.x / finer, float(found.fun)
            if known is not None or not self.restart_modes():
                break
        if known is not None and known.holds(self.end):
            self.value = min(self.value, -known.log_density)  # the search would have reached it

    def restart_modes(self) -> bool:
        """Restart the patients' searches from 0; true where higher modes are found, and taken."""
        if not self.z.size or self.value >= IMPOSSIBLE:
            return False
        seen, z, _ = self.compiled.evaluate(self.end, self.z)
        other, from_0, _ = self.compiled.evaluate(self.end, np.zeros_like(z))
        higher = other.each - seen.each
        self.z = np.where((higher > 0)[:, None], from_0, z)
        self.moved = np.where((higher > 0)[:, None, None], other.moved, seen.moved)
        self.u, self.lowest = self.end, np.inf
        return bool(higher[higher > 0].sum() > HIGHER)

    def curvature(
        self, x: np.ndarray, distance: float = STEP
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Eigenvalues and vectors of the Hessian; number of eigenvalues raised to `FLATTEST`."""
        rows = []
        for step in distance * np.eye(x.size):
            ends = [self(x + sign * step)[1] for sign in (1, -1)]
            rows.append((ends[0] - ends[1]) / (2 * distance))
        hessian = np.array(rows)
        values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
        return np.maximum(values, FLATTEST), vectors, int(np.sum(values < FLATTEST))
