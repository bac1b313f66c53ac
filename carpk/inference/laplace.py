"""Laplace's approximation: random effects integrated out, patient by patient, all at once.

Given the population parameters, every patient's random effects have a mode, found by Newton steps
within a trust region, in standard scores. With H the Gauss-Newton Hessian there,

    ln p(y_i | u) = ln p(y_i | z*) + ln N(z*; 0, I) + (m ln 2 pi - ln |H|) / 2

(the field's FOCEI, with M3 terms where samples are below a limit). The sum over patients, published
facts and priors is maximised over the outer coordinates u. Its gradient follows the modes as they
move with u; the covariance of u comes from differences of that gradient.

Levels are differentiated by central differences, which a mesh and a closed form allow and which
compile in a fraction of the time of derivatives: the levels near a point are a polynomial of second
order, and everything else is differentiated through it, exactly.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import OptimizeResult, minimize

from carpk._compile import by_rows, quickly
from carpk.inference.density import Conditional, Levels, Posterior, with_derivatives
from carpk.verdict.modes import DECREMENT

LEVEL_STEP = 1e-3  # of the differences of levels, on the estimation scale
LANES = 4096  # patients whose levels are computed side by side
PLACED = 32  # points of all patients that are placed at once: as many as stay in the cache
POINTS = 128  # of a patient's random effects that are weighed at once
ROWS = 256  # points at once where there are no patients
INNER_STEPS = 30
INNER_TOLERANCE = 1e-10  # of the decrement g' H^-1 g of a patient
LOOSE = 1e-6  # the same, below which a patient counts as converged, and stops where it stalls
ENOUGH = (1e-4, 1e-2)  # left to rise, over what a point is better or worse than its rival
STALLED = 0.1  # of the decrement before: a level with a kink goes no faster
RADIUS = 1.0  # of the trust region at first, in standard scores
NARROWEST = 1e-5  # a patient whose region shrinks to this goes no further
GOOD, BAD = 0.75, 0.25  # rise over that expected, from which the region grows, below it shrinks
HALVINGS = 40  # in search of the step to the edge of a region
SADDLE = 1e-8  # slope along the lowest axis of a saddle that is taken to be there
OUTER_STEPS = 200
LOOKS = 3  # descents at most, each with the patients' modes looked for anew
HIGHER = 0.05  # ln joint density that patients gain by it, from which another descent pays
NEWTON_STEPS = 3  # after that, each with a Hessian
STEP = 1e-3  # of the differences of the gradient, in prior SDs of the outer coordinates
WIDE_STEP = 0.1  # the same where there is no mode, but a corner, say
ONE_MODE = 4.0  # posterior SDs around a mode within which all is taken to belong to it
FLATTEST = 0.1  # curvature that any direction is taken to have, where the prior's is about 1
REACH = 8.0  # how many prior SDs from the start a mode is looked for
IMPOSSIBLE = 1e12  # -ln posterior where it is not finite


class Spectrum(NamedTuple):
    """Curvatures, one per patient, along their principal axes, (P, m) and (P, m, m)."""

    values: np.ndarray
    vectors: np.ndarray

    @classmethod
    def of(cls, curvature: np.ndarray) -> Spectrum:
        """Of matrices (P, m, m); those that are not finite count as 1."""
        fine = np.isfinite(curvature).all((1, 2), keepdims=True)
        matrices = np.where(fine, curvature, np.eye(curvature.shape[1]))
        return cls(*np.linalg.eigh(0.5 * (matrices + matrices.transpose(0, 2, 1))))

    def solve(self, right: np.ndarray) -> np.ndarray:
        """Their inverses times (P, m, n)."""
        along = np.einsum("pij,pin->pjn", self.vectors, right) / self.values[..., None]
        return np.einsum("pij,pjn->pin", self.vectors, along)

    @property
    def peaked(self) -> np.ndarray:
        """Whose density bends down along every axis, (P,)."""
        return self.values[:, 0] > 0

    def step(self, gradient: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The way to the top of a parabola within a radius (P,), (P, m); twice the rise, (P,).

        To its edge the curvatures are raised (Moré and Sorensen 1983); Newton's step, and its
        decrement, where the top is inside.
        """
        along = np.einsum("pij,pi->pj", self.vectors, gradient)
        flat = ~self.peaked & (np.abs(along[:, 0]) < SADDLE)
        along[:, 0] = np.where(flat, SADDLE, along[:, 0])
        low = np.maximum(-self.values[:, 0], 0.0)
        high = low + np.linalg.norm(along, axis=1) / np.maximum(radius, NARROWEST)

        def way(raised: np.ndarray) -> np.ndarray:
            return along / (self.values + raised[:, None])

        def inside(raised: np.ndarray) -> np.ndarray:
            return np.linalg.norm(way(raised), axis=1) <= radius

        top = self.peaked & inside(np.where(self.peaked, 0.0, high))
        for _ in range(0 if top.all() else HALVINGS):
            middle = 0.5 * (low + high)
            near = inside(middle)
            low, high = np.where(near, low, middle), np.where(near, middle, high)
        x = way(np.where(top, 0.0, high))
        rise = 2 * np.sum(along * x, axis=1) - np.sum(self.values * x**2, axis=1)
        return np.einsum("pij,pj->pi", self.vectors, x), rise


class Expansion(NamedTuple):
    """What the approximation at one point u, z is made of.

    Attributes:
        outer, outer_slope: ln prior and ln likelihood of published facts, and their gradient (n,).
        each: ln joint density of data and z, (P,).
        gradient, hessian: of that by z, (P, m); Gauss-Newton, of minus that, (P, m, m).
        of_levels, weight: first derivative and curvature of ln likelihood by ln level, (P, T).
        d_each, d_gradient, d_hessian: along u, then z, (n + m, ...).
    """

    outer: Any
    outer_slope: Any
    each: Any
    gradient: Any
    hessian: Any
    of_levels: Any
    weight: Any
    d_each: Any
    d_gradient: Any
    d_hessian: Any


class Look(NamedTuple):
    """The approximation at one point u, z.

    Attributes:
        value: approximate ln density of u, if z are the modes.
        slope: its gradient, (n,).
        each: ln joint density of data and z, (P,).
        gradient: of that by z, (P, m).
        bend: the curvatures of minus that.
        moved: dz/du, (P, m, n).
        of_levels, weight: first derivative and curvature of ln likelihood by ln level, (P, T).
        held: share of the precision of z that is the data's, mean over z, (P,).
    """

    value: float
    slope: np.ndarray
    each: np.ndarray
    gradient: np.ndarray
    bend: Spectrum
    moved: np.ndarray
    of_levels: np.ndarray
    weight: np.ndarray
    held: np.ndarray

    @classmethod
    @np.errstate(all="ignore")  # what is not finite is told by the value
    def of(cls, expansion: Expansion) -> Look:
        """The modes move with u as the implicit function theorem says."""
        e = Expansion(*map(np.asarray, expansion))
        n = e.outer_slope.size
        bend = Spectrum.of(-e.d_gradient[n:].transpose(1, 2, 0))
        ahead = np.concatenate([e.d_gradient[:n].transpose(1, 2, 0), e.gradient[..., None]], axis=2)
        ahead = bend.solve(ahead)
        moved, left = ahead[..., :n], ahead[..., n]  # dz/du, and what is left to the mode
        steep, axes = Spectrum.of(e.hessian)
        steep = np.maximum(steep, 1.0)  # as it is, but for rounding where another axis has 1e16
        inverse = np.einsum("pik,pjk->pij", axes / steep[:, None], axes)
        change = e.d_each - 0.5 * np.einsum("pij,dpji->dp", inverse, e.d_hessian)
        value = e.each - 0.5 * np.sum(np.log(steep), axis=1)
        value = value + np.einsum("ip,pi->p", change[n:], left)
        value -= 0.5 * np.einsum("pi,pi->p", left, e.gradient)
        slope = e.outer_slope + np.sum(change[:n], axis=1)
        slope = slope + np.einsum("ip,pin->n", change[n:], moved)
        total = float(e.outer + value.sum())
        held = 1 - np.mean(1 / steep, axis=1)
        return cls(total, slope, e.each, e.gradient, bend, moved, e.of_levels, e.weight, held)


@dataclasses.dataclass(frozen=True)
class Mode:
    """The mode of the outer coordinates, and what surrounds it.

    Attributes:
        u: (n,).
        z: the patients' standard scores there, (P, m).
        log_density: approximate ln posterior density of u.
        covariance: of u, (n, n).
        decrement: g' H^-1 g: squared distance to the mode in posterior SDs.
        flat: directions in which the curvature was not above 0 and was replaced.
        unconverged: indices of patients whose own mode was not found.
        conditional: the patients' likelihoods near it; None without random effects.
        held: how far their own data hold the patients' random effects, 0 to 1, (P,).
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
        """Whether this is a maximum, with every patient at theirs."""
        return self.decrement < DECREMENT and not self.flat and not self.unconverged

    def holds(self, u: np.ndarray) -> bool:
        """Whether outer coordinates are so near that they are taken to belong to this mode."""
        away = u - self.u
        return bool(away @ np.linalg.solve(self.covariance, away) < ONE_MODE**2)


def _patients(posterior: Posterior, levels: Levels) -> Callable[[Any, Any], tuple[Any, ...]]:
    """(u, z) -> ln joint density of data and z, (P,); gradient, hessian, of_levels, weight."""
    m = posterior.inner

    def patients(u: Any, z: Any) -> tuple[Any, ...]:
        theta = posterior.theta(u)
        mu, factor = posterior.typical(theta), posterior.factor(theta)

        def of(z: Any) -> Any:
            return levels.value + levels.around(posterior.coordinates(mu, z @ factor.T))[0]

        def along(direction: Any) -> Any:
            return jax.jvp(of, (z,), (jnp.broadcast_to(direction, z.shape),))

        log_f, jacobian = jax.vmap(along, out_axes=(None, 0))(jnp.eye(m))
        each, slope, bent = with_derivatives(lambda x: posterior.of_levels(x, theta), log_f)
        weight = jnp.maximum(-bent, 0.0)
        value = jnp.sum(each, axis=1) - 0.5 * jnp.sum(z**2, axis=1)
        gradient = jnp.einsum("mpt,pt->pm", jacobian, slope) - z
        hessian = jnp.einsum("mpt,pt,npt->pmn", jacobian, weight, jacobian) + jnp.eye(m)
        return value, gradient, hessian, slope, weight

    return patients


def step_by_z(posterior: Posterior, u: Any, z: Any, levels: Levels) -> tuple[Any, Any, Any]:
    """What a Newton step by z needs.

    Returns:
        ln joint density of data and z, (P,); gradient and curvature as in `Look`.
    """
    patients = _patients(posterior, levels)

    def along(of_z: Any) -> Any:
        return jax.jvp(lambda z: patients(u, z), (z,), (jnp.broadcast_to(of_z, z.shape),))

    (each, gradient, *_), (_, bend, *_) = jax.vmap(along, out_axes=(None, 0))(
        jnp.eye(posterior.inner)
    )
    return each, gradient, -bend.transpose(1, 2, 0)


def expanded(posterior: Posterior, u: Any, z: Any, levels: Levels) -> Expansion:
    """With levels known around the coordinates that belong to u and z.

    Everything but published facts by forward differentiation, along n + m directions at once.
    """
    n = u.size
    patients = _patients(posterior, levels)

    def along(of_u: Any, of_z: Any) -> Any:
        return jax.jvp(patients, (u, z), (of_u, jnp.broadcast_to(of_z, z.shape)))

    def others(u: Any) -> Any:
        return posterior.log_prior(u) + posterior.published(posterior.theta(u))

    directions = jnp.eye(n + posterior.inner)
    here, (*changes, _, _) = jax.vmap(along, out_axes=(None, 0))(
        directions[:, :n], directions[:, n:]
    )
    return Expansion(*jax.value_and_grad(others)(u), *here, *changes)


@np.errstate(all="ignore")  # where there is no solution levels are not finite, nor is what follows
def _polynomial(
    c: np.ndarray, f: np.ndarray, pairs: list[tuple[int, int]], curved: Sequence[int]
) -> Levels:
    """ln levels around c, from those at c, then ahead along axes and `pairs`, then behind."""
    size, (i, j), axes = c.shape[1], np.array(pairs, int).reshape(-1, 2).T, np.array(curved, int)
    n = size + len(pairs)
    f0, up, down = f[0], f[1 : n + 1], f[n + 1 : 2 * n + 1]
    both = (up + down - 2 * f0) / LEVEL_STEP**2  # second derivatives along each move
    mixed = 0.5 * (both[size:] - both[i] - both[j])
    second = np.zeros((size, size, *f0.shape))
    second[axes, axes] = both[axes]
    second[i, j] = second[j, i] = mixed
    return Levels(c, f0, (up[:size] - down[:size]) / (2 * LEVEL_STEP), second)


class Engine:
    """The compiled functions of a posterior whose data may be replaced.

    Args:
        of: what may be replaced -> posterior; traced.
        values: what is in its place.
    """

    def __init__(self, of: Callable[[Any], Posterior], values: Any = None) -> None:
        self.of, self.values, self.posterior = of, values, of(values)

        def coordinates(u: Any, z: Any, values: Any) -> Any:
            posterior = of(values)
            theta = posterior.theta(u)
            b = z @ posterior.factor(theta).T
            return posterior.coordinates(posterior.typical(theta), b)

        def near(c: Any, values: Any) -> Any:
            return jax.vmap(of(values).log_levels)(c)

        def exact(u: Any, values: Any) -> Any:
            posterior = of(values)
            empty = jnp.zeros((posterior.patients, 0))
            return jax.value_and_grad(lambda u: posterior.log_density(u, empty, None))(u)

        def density(u: Any, values: Any) -> Any:
            posterior = of(values)
            empty = jnp.zeros((posterior.patients, 0))
            return jax.lax.map(lambda x: posterior.log_density(x, empty, None), u)

        def weights(u: Any, values: Any) -> Any:
            posterior = of(values)
            return posterior.weights(posterior.theta(u))

        def placed(u: Any, x: Any, conditional: Conditional | None, values: Any) -> Any:
            posterior = of(values)
            if posterior.bound.individual is None:
                return posterior.theta(u), None, None
            theta, b, c, scores = posterior.placed(u, x, conditional)
            return posterior.named(theta, b), c, scores

        def proposed(
            u: Any, x: Any, z: Any, by_x: Any, conditional: Conditional, values: Any
        ) -> tuple[Any, ...]:
            return of(values).proposed(u, x, z, by_x, conditional)

        def measured(u: Any, log_f: Any, values: Any) -> tuple[Any, Any, Any]:
            posterior = of(values)
            theta = posterior.theta(u)
            return with_derivatives(lambda x: posterior.of_levels(x, theta), log_f)

        def glance(u: Any, z: Any, levels: Levels, values: Any) -> Any:
            return step_by_z(of(values), u, z, levels)

        def expansion(u: Any, z: Any, levels: Levels, values: Any) -> Expansion:
            return expanded(of(values), u, z, levels)

        def weighed(u: Any, log_f: Any, rest: Any, values: Any) -> tuple[Any, Any]:
            posterior = of(values)
            theta = posterior.theta(u)
            each = jax.vmap(lambda f: posterior.of_levels(f, theta).sum(1))(log_f) + rest
            outer = posterior.log_prior(u) + posterior.published(theta)
            return outer, jnp.where(jnp.isnan(each), -jnp.inf, each)

        self.coordinates, self.near = jax.jit(coordinates), jax.jit(near)
        self.exact, self.density, self.weights = jax.jit(exact), jax.jit(density), jax.jit(weights)
        self.glance, self.expansion = quickly(glance), quickly(expansion)
        self.placed = quickly(jax.vmap(placed, in_axes=(0, 0, None, None)))
        self.weighed = quickly(weighed)
        self.proposed = quickly(jax.vmap(proposed, in_axes=(0, 0, 0, 0, None, None)))
        self.measured = quickly(jax.vmap(measured, in_axes=(0, 0, None)))

    def given(self, values: Any) -> Engine:
        """The same compiled functions with other values."""
        other = copy.copy(self)
        other.values, other.posterior = values, self.of(values)
        return other

    def levels(self, u: Any, z: Any, *, every: bool = False) -> Levels:
        """ln levels around the coordinates of u and z, from batches of levels nearby.

        Args:
            every: all second derivatives; else those of pairs without a random effect are 0.
        """
        c = np.asarray(self.coordinates(u, z, self.values))
        size, axes = c.shape[1], self.posterior.random
        pairs = [(i, j) for j in range(size) for i in range(j)]
        pairs = [(i, j) for i, j in pairs if every or i in axes or j in axes]
        unit = np.eye(size)
        ahead = np.array([*unit, *(unit[i] + unit[j] for i, j in pairs)])
        moves = LEVEL_STEP * np.concatenate([np.zeros((1, size)), ahead, -ahead])
        f = self.batched(c + moves[:, None])
        return _polynomial(c, f, pairs, range(size) if every else axes)

    def batched(self, c: Any) -> np.ndarray:
        """ln levels at many coordinates of the patients, (n, P, c), in batches of one shape."""
        c = np.asarray(c)
        batch = self.batch(self.posterior)
        rows = np.resize(np.arange(len(c)), -(-len(c) // batch) * batch).reshape(-1, batch)
        return np.concatenate([self.near(c[i], self.values) for i in rows])[: len(c)]

    def places(
        self, u: Any, x: Any, conditional: Conditional | None
    ) -> tuple[dict[str, np.ndarray], Any, Any]:
        """Where many points lie: u (N, n) and the patients' coordinates x (N, P, m).

        Returns:
            Parameters and random effects by name; coordinates of levels (N, P, c); and ln density
            of the patients' standard scores, ln |dz/dx| included, (N, P).
        """

        def some(i: np.ndarray) -> Any:
            return self.placed(u[i], x[i], conditional, self.values)

        return by_rows(some, len(u), PLACED)

    def proposals(
        self, u: Any, x: Any, z: Any, by_x: Any, conditional: Conditional
    ) -> tuple[Any, Any, Any, Any]:
        """`Posterior.proposed` of many points: u (N, n), x and z (N, P, m), by_x (N,)."""

        def some(i: np.ndarray) -> Any:
            return self.proposed(u[i], x[i], z[i], by_x[i], conditional, self.values)

        return by_rows(some, len(u), PLACED)

    def weights_of(self, u: Any, log_f: Any, rest: Any) -> tuple[float, np.ndarray]:
        """At one u: ln density without patients; ln likelihood of levels (N, P, T) plus `rest`."""
        rows = np.arange(len(log_f)).reshape(-1, POINTS)
        parts = [self.weighed(u, log_f[i], rest[i], self.values) for i in rows]
        return float(parts[0][0]), np.concatenate([each for _, each in parts])

    def measurements(self, u: Any, log_f: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """ln likelihood at levels (N, P, T), and its first and second derivatives by ln level."""
        return by_rows(lambda i: self.measured(u[i], log_f[i], self.values), len(u), PLACED)

    def densities(self, u: np.ndarray) -> np.ndarray:
        """ln density of many outer coordinates (N, n), of a posterior without random effects."""
        return by_rows(lambda i: self.density(u[i], self.values), len(u), ROWS)

    def batch(self, posterior: Posterior) -> int:
        """How many coordinates of the patients go to `near` at once."""
        m, size = posterior.inner, posterior.width
        moves = 1 + 2 * size + m * (2 * size - m - 1)  # of `levels`
        return -(-moves // -(-moves * posterior.patients // LANES))

    def at(self, u: Any, start: Any, *, rival: float = math.nan) -> tuple[Look, np.ndarray, Levels]:
        """The approximation at u, the patients' modes, and their levels around them.

        Args:
            u: (n,).
            start: standard scores from which the modes are looked for, (P, m).
            rival: ln joint density of data and modes at another u, with which this one is compared:
                the modes are found as exactly as it takes to tell the two apart.
        """
        ahead: Any = np.asarray(start, float)
        z = ahead
        size, m = z.shape
        radius, value, gradient = np.full(size, RADIUS), np.full(size, -np.inf), np.zeros((size, m))
        gain, before, done = np.full(size, np.inf), np.full(size, np.inf), np.zeros(size, bool)
        bend = Spectrum.of(np.broadcast_to(np.eye(m), (size, m, m)))
        for _ in range(INNER_STEPS):
            levels = self.levels(u, ahead)
            new, slope, curvature = map(np.asarray, self.glance(u, ahead, levels, self.values))
            finite = np.isfinite(new) & np.isfinite(slope).all(1)
            finite &= np.isfinite(curvature).all((1, 2))
            better = finite & (new >= value - 1e-9 * np.abs(value)) & ~done
            # at first nothing is known to rise from
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
            if done.all() or np.sum(gain[~done]) < max(ENOUGH[0] * above, -ENOUGH[1] * above):
                break
            ahead = np.where(done[:, None], z, z + step)
        if not np.array_equal(ahead, z):
            levels = self.levels(u, z)
        return Look.of(self.expansion(u, z, levels, self.values)), z, levels

    def mode(self, start: Any, scale: Any) -> Mode:
        """The mode nearest to `start` (n,); `scale` are the prior SDs of the coordinates."""
        return self.settled(self.climb(start, scale))

    def climb(self, start: Any, scale: Any, known: Mode | None = None) -> Descent:
        """Where L-BFGS-B ends from `start`, for `settled` to go on; the same arguments.

        Args:
            known: a mode; who comes near it has ended there.
        """
        descent = Descent(self, np.asarray(start, float), np.asarray(scale, float))
        descent.go_down(known)
        return descent

    def settled(self, descent: Descent) -> Mode:
        """The mode, and what surrounds it, after the last steps with a Hessian."""
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
        u = descent.origin + descent.scale * x
        value, _ = descent(x)
        conditional, lost, held = None, np.zeros(0, int), np.zeros(0)
        if self.posterior.inner:
            seen, z, _ = self.at(u, descent.z)
            _, gain = seen.bend.step(seen.gradient, np.full(len(z), RADIUS))
            lost = np.flatnonzero(~(seen.bend.peaked & (gain < LOOSE)))
            levels = self.levels(u, z, every=True)
            scale = np.asarray(self.weights(u, self.values))
            conditional = Conditional(levels, seen.of_levels, seen.weight, scale)
            held = seen.held
        return Mode(
            u=u,
            z=descent.z,
            log_density=-value,
            covariance=(vectors / curvature) @ vectors.T * np.outer(descent.scale, descent.scale),
            decrement=decrement,
            flat=flat,
            unconverged=tuple(int(i) for i in lost),
            conditional=conditional,
            held=held,
            evaluations=descent.calls,
        )


class Descent:
    """-ln density and its gradient by x, with u = origin + scale x; follows the patients' modes.

    Attributes:
        x, value: where `go_down` ended, and -ln density there.
    """

    def __init__(self, engine: Engine, origin: np.ndarray, scale: np.ndarray) -> None:
        self.engine, self.origin, self.scale = engine, origin, scale
        posterior = engine.posterior
        self.z = np.zeros((posterior.patients, posterior.inner))
        self.moved, self.u, self.calls = np.zeros((*self.z.shape, origin.size)), origin, 0
        self.x, self.value = np.zeros(origin.size), IMPOSSIBLE
        self.lowest, self.joint = np.inf, math.nan

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        u = self.origin + self.scale * x
        self.calls += 1
        if self.z.shape[1]:
            ahead = self.z + np.clip(self.moved @ (u - self.u), -1.0, 1.0)
            seen, z, _ = self.engine.at(u, ahead, rival=self.joint)
            value, slope = float(seen.value), seen.slope
        else:
            value, slope = jax.tree.map(np.asarray, self.engine.exact(u, self.engine.values))
        if not (np.isfinite(value) and np.isfinite(slope).all()):
            return IMPOSSIBLE, np.zeros_like(x)
        if self.z.shape[1] and -value <= self.lowest:
            self.z, self.moved, self.u = z, np.nan_to_num(seen.moved), u
            self.lowest, self.joint = -value, float(seen.each.sum())
        return -float(value), -slope * self.scale

    @property
    def end(self) -> np.ndarray:
        """The outer coordinates where `go_down` ended."""
        return self.origin + self.scale * self.x

    def go_down(self, known: Mode | None) -> None:
        """By L-BFGS-B, from the origin to an end, or to a mode that is known."""
        n = self.origin.size
        finer = np.sqrt(1 + len(self.z))  # about as much as the patients narrow the prior

        def value_and_slope(y: np.ndarray) -> tuple[float, np.ndarray]:
            value, slope = self(y / finer)
            return value, slope / finer

        def stop_if_there(intermediate_result: OptimizeResult) -> None:
            if known is not None:
                above = float(intermediate_result.fun) + known.log_density
                u = self.origin + self.scale * intermediate_result.x / finer
                if above < 0.5 * ONE_MODE**2 and known.holds(u):
                    raise StopIteration

        for _ in range(LOOKS):
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
            if known is not None or not self.look_again():
                break
        if known is not None and known.holds(self.end):
            self.value = min(self.value, -known.log_density)  # it would have got there

    def look_again(self) -> bool:
        """Whether patients have higher modes, seen from 0, than those followed; these are taken."""
        if not self.z.size or self.value >= IMPOSSIBLE:
            return False
        seen, z, _ = self.engine.at(self.end, self.z)
        other, from_0, _ = self.engine.at(self.end, np.zeros_like(z))
        higher = other.each - seen.each
        self.z = np.where((higher > 0)[:, None], from_0, z)
        self.moved = np.where((higher > 0)[:, None, None], other.moved, seen.moved)
        self.u, self.lowest = self.end, np.inf
        return bool(higher[higher > 0].sum() > HIGHER)

    def curvature(
        self, x: np.ndarray, distance: float = STEP
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Eigenvalues and vectors of the Hessian, and how many were too small and were raised."""
        rows = []
        for step in distance * np.eye(x.size):
            ends = [self(x + sign * step)[1] for sign in (1, -1)]
            rows.append((ends[0] - ends[1]) / (2 * distance))
        hessian = np.array(rows)
        values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
        return np.maximum(values, FLATTEST), vectors, int(np.sum(values < FLATTEST))
