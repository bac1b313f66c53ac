"""Laplace's approximation: random effects integrated out, patient by patient, all at once.

Given the population parameters, every patient's random effects have a mode, found by damped Newton
steps in standard scores. With H the Gauss-Newton Hessian there,

    ln p(y_i | u) = ln p(y_i | z*) + ln N(z*; 0, I) + (m ln 2 pi - ln |H|) / 2

(the field's FOCEI, with M3 terms where samples are below a limit). The sum over patients, published
facts and priors is maximised over the outer coordinates u. Its gradient follows the modes as they
move with u; the covariance of u comes from differences of that gradient.

Levels are differentiated by central differences, which a mesh and a closed form allow and which
compile in a fraction of the time of derivatives: the levels near a point are a polynomial of second
order, and everything else is differentiated through it, exactly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import OptimizeResult, minimize

from carpk.posterior import Conditional, Levels, Posterior, with_derivatives

LEVEL_STEP = 1e-3  # of the differences of levels, on the estimation scale
LANES = 4096  # patients whose levels are computed side by side
INNER_STEPS = 50
INNER_TOLERANCE = 1e-10  # of the decrement g' H^-1 g of a patient
LOOSE = 1e-6  # the same, below which a patient counts as converged, and stops where it stalls
STALLED = 0.1  # of the decrement before: a level with a kink goes no faster
DAMPING = (1e-3, 0.1, 100.0, 1e6)  # at least, after success, after failure, at most
OUTER_STEPS = 200
NEWTON_STEPS = 3  # after that, each with a Hessian
DECREMENT = 1e-3  # of the mode: g' H^-1 g, in squared posterior SDs
STEP = 1e-3  # of the differences of the gradient, in prior SDs of the outer coordinates
ONE_MODE = 4.0  # posterior SDs around a mode within which all is taken to belong to it
FLATTEST = 0.1  # curvature that any direction is taken to have, where the prior's is about 1
REACH = 8.0  # how many prior SDs from the start a mode is looked for
IMPOSSIBLE = 1e12  # -ln posterior where it is not finite


class Look(NamedTuple):
    """The approximation at one point u, z.

    Attributes:
        value: approximate ln density of u, if z are the modes.
        slope: its gradient, (n,).
        gradient: of ln joint density of data and z, by z, (P, m).
        hessian, curvature: Gauss-Newton and exact, both of minus that, (P, m, m).
        moved: dz/du, (P, m, n).
        of_levels, weight: first derivative and curvature of ln likelihood by ln level, (P, T).
    """

    value: Any
    slope: Any
    gradient: Any
    hessian: Any
    curvature: Any
    moved: Any
    of_levels: Any
    weight: Any


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


def glance(posterior: Posterior, u: Any, z: Any, levels: Levels) -> tuple[Any, Any, Any, Any]:
    """What a Newton step by z needs.

    Returns:
        ln joint density of data and z, (P,); gradient, hessian and curvature as in `Look`.
    """
    patients = _patients(posterior, levels)

    def along(of_z: Any) -> Any:
        return jax.jvp(lambda z: patients(u, z), (z,), (jnp.broadcast_to(of_z, z.shape),))

    (each, gradient, hessian, *_), (_, bend, *_) = jax.vmap(along, out_axes=(None, 0))(
        jnp.eye(posterior.inner)
    )
    return each, gradient, hessian, -bend.transpose(1, 2, 0)


def look(posterior: Posterior, u: Any, z: Any, levels: Levels) -> Look:
    """The approximation, with levels known around the coordinates that belong to u and z.

    The modes move with u as the implicit function theorem says; everything but published facts by
    forward differentiation, along n + m directions at once.
    """
    n, m = u.size, posterior.inner
    patients = _patients(posterior, levels)

    def along(of_u: Any, of_z: Any) -> Any:
        return jax.jvp(patients, (u, z), (of_u, jnp.broadcast_to(of_z, z.shape)))

    def others(u: Any) -> Any:
        return posterior.log_prior(u) + posterior.published(posterior.theta(u))

    directions = jnp.eye(n + m)
    (each, gradient, hessian, of_levels, weight), (d_each, d_gradient, d_hessian, _, _) = jax.vmap(
        along, out_axes=(None, 0)
    )(directions[:, :n], directions[:, n:])
    curvature = -d_gradient[n:].transpose(1, 2, 0)
    ahead = jnp.concatenate([d_gradient[:n].transpose(1, 2, 0), gradient[..., None]], axis=2)
    ahead = jnp.linalg.solve(curvature, ahead)
    moved, left = ahead[..., :n], ahead[..., n]  # dz/du, and what is left of the way to the mode
    change = d_each - 0.5 * jnp.einsum("pij,dpji->dp", jnp.linalg.inv(hessian), d_hessian)
    value = each - 0.5 * jnp.linalg.slogdet(hessian)[1]
    value += jnp.einsum("ip,pi->p", change[n:], left)
    value -= 0.5 * jnp.einsum("pi,pij,pj->p", left, curvature, left)
    outer, slope = jax.value_and_grad(others)(u)
    slope += jnp.sum(change[:n], axis=1) + jnp.einsum("ip,pin->n", change[n:], moved)
    total = outer + jnp.sum(value)
    return Look(total, slope, gradient, hessian, curvature, moved, of_levels, weight)


@partial(jax.jit, static_argnums=(2, 3))
def _polynomial(
    c: Any, f: Any, pairs: tuple[tuple[int, int], ...], curved: tuple[int, ...]
) -> Levels:
    """ln levels around c, from those at c, then ahead along axes and `pairs`, then behind."""
    size, (i, j), axes = c.shape[1], np.array(pairs, int).reshape(-1, 2).T, np.array(curved, int)
    n = size + len(pairs)
    f0, up, down = f[0], f[1 : n + 1], f[n + 1 : 2 * n + 1]
    both = (up + down - 2 * f0) / LEVEL_STEP**2  # second derivatives along each move
    mixed = 0.5 * (both[size:] - both[i] - both[j])
    second = jnp.zeros((size, size, *f0.shape)).at[axes, axes].set(both[axes])
    second = second.at[i, j].set(mixed).at[j, i].set(mixed)
    return Levels(c, f0, (up[:size] - down[:size]) / (2 * LEVEL_STEP), second)


class Engine:
    """The compiled functions of a posterior whose data may be replaced.

    Args:
        of: values in place of the data's -> posterior; traced.
    """

    def __init__(self, of: Callable[[Any], Posterior]) -> None:
        self.of = of

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

        def weights(u: Any, values: Any) -> Any:
            posterior = of(values)
            return posterior.weights(posterior.theta(u))

        self.coordinates, self.near = jax.jit(coordinates), jax.jit(near)
        self.exact, self.weights = jax.jit(exact), jax.jit(weights)
        self.look = jax.jit(lambda u, z, levels, values: look(of(values), u, z, levels))
        self.glance = jax.jit(lambda u, z, levels, values: glance(of(values), u, z, levels))

    def levels(
        self, posterior: Posterior, u: Any, z: Any, values: Any, *, every: bool = False
    ) -> Levels:
        """ln levels around the coordinates of u and z, from batches of levels nearby.

        Args:
            every: all second derivatives; else those of pairs without a random effect are 0.
        """
        c = np.asarray(self.coordinates(u, z, values))
        size, axes = c.shape[1], posterior.random
        pairs = [(i, j) for j in range(size) for i in range(j)]
        pairs = [(i, j) for i, j in pairs if every or i in axes or j in axes]
        unit = np.eye(size)
        ahead = np.array([*unit, *(unit[i] + unit[j] for i, j in pairs)])
        moves = LEVEL_STEP * np.concatenate([np.zeros((1, size)), ahead, -ahead])
        f = self.batched(c + moves[:, None], values)
        return _polynomial(c, f, tuple(pairs), tuple(range(size)) if every else axes)

    def batched(self, c: Any, values: Any = None) -> np.ndarray:
        """ln levels at many coordinates of the patients, (n, P, c), in batches of one shape."""
        c = np.asarray(c)
        people, size = c.shape[1:]
        m = self.of(values).inner
        moves = 1 + 2 * size + m * (2 * size - m - 1)  # of `levels`
        batch = -(-moves // -(-moves * people // LANES))
        rows = np.resize(np.arange(len(c)), -(-len(c) // batch) * batch).reshape(-1, batch)
        return np.concatenate([self.near(c[i], values) for i in rows])[: len(c)]

    def at(self, u: Any, start: Any, values: Any = None) -> tuple[Look, np.ndarray, Levels]:
        """The approximation at u, the patients' modes, and their levels around them.

        Args:
            u: (n,).
            start: standard scores from which the modes are looked for, (P, m).
        """
        posterior = self.of(values)
        ahead: Any = np.asarray(start, float)
        z = ahead
        size, m = z.shape
        damping, value = np.full(size, DAMPING[0]), np.full(size, -np.inf)
        done, before = np.zeros(size, bool), np.full(size, np.inf)
        gradient = np.zeros((size, m))
        bend = _Spectrum(np.ones((size, m)), np.broadcast_to(np.eye(m), (size, m, m)).copy())
        for _ in range(INNER_STEPS):
            levels = self.levels(posterior, u, ahead, values)
            seen = jax.tree.map(np.asarray, self.glance(u, ahead, levels, values))
            finite = np.isfinite(seen[0]) & np.isfinite(seen[1]).all(1)
            finite &= np.isfinite(seen[2]).all((1, 2))
            better = finite & (seen[0] >= value - 1e-9 * np.abs(value)) & ~done
            z = np.where(better[:, None], ahead, z)
            value = np.where(better, seen[0], value)
            gradient[better] = seen[1][better]
            for known, new in zip(bend, _Spectrum.of(*seen[2:]), strict=True):
                known[better] = new[better]
            damping = np.maximum(damping * np.where(better, DAMPING[1], DAMPING[2]), DAMPING[0])
            decrement = bend.decrement(gradient)
            done |= (decrement < INNER_TOLERANCE) & np.isfinite(value)
            done |= (decrement < LOOSE) & (decrement > STALLED * before)
            done |= damping > DAMPING[3]
            before = decrement
            if done.all():
                break
            ahead = np.where(done[:, None], z, z + bend.step(gradient, damping[:, None]))
        if not np.array_equal(ahead, z):
            levels = self.levels(posterior, u, z, values)
        return jax.tree.map(np.asarray, self.look(u, z, levels, values)), z, levels

    def mode(self, start: Any, scale: Any, values: Any = None) -> Mode:
        """The mode nearest to `start` (n,); `scale` are the prior SDs of the coordinates."""
        return self.settled(self.climb(start, scale, values))

    def climb(
        self, start: Any, scale: Any, values: Any = None, known: Mode | None = None
    ) -> Descent:
        """Where L-BFGS-B ends from `start`, for `settled` to go on; the same arguments.

        Args:
            known: a mode; who comes near it has ended there.
        """
        descent = Descent(self, np.asarray(start, float), np.asarray(scale, float), values)
        descent.go_down(known)
        return descent

    def settled(self, descent: Descent) -> Mode:
        """The mode, and what surrounds it, after the last steps with a Hessian."""
        posterior, x = self.of(descent.values), descent.x
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
        u = descent.origin + descent.scale * x
        value, _ = descent(x)
        conditional, lost = None, np.zeros(0, int)
        if posterior.inner:
            seen, z, _ = self.at(u, descent.z, descent.values)
            bend = _Spectrum.of(seen.hessian, seen.curvature)
            lost = np.flatnonzero(~(bend.decrement(seen.gradient) < LOOSE))
            levels = self.levels(posterior, u, z, descent.values, every=True)
            scale = np.asarray(self.weights(u, descent.values))
            conditional = Conditional(levels, seen.of_levels, seen.weight, scale)
        return Mode(
            u=u,
            z=descent.z,
            log_density=-value,
            covariance=(vectors / curvature) @ vectors.T * np.outer(descent.scale, descent.scale),
            decrement=decrement,
            flat=flat,
            unconverged=tuple(int(i) for i in lost),
            conditional=conditional,
            evaluations=descent.calls,
        )


class _Spectrum(NamedTuple):
    """Curvatures of the patients' densities along their principal axes, (P, m) and (P, m, m)."""

    values: np.ndarray
    vectors: np.ndarray

    @classmethod
    def of(cls, hessian: np.ndarray, curvature: np.ndarray) -> _Spectrum:
        """The exact curvature of each patient where it is one of a maximum, else Gauss-Newton.

        Gauss-Newton's is at least 1, which rounding hides where another axis has 1e16.
        """
        exact = 0.5 * (curvature + curvature.transpose(0, 2, 1))
        values, vectors = np.linalg.eigh(_finite_or_one(exact))
        steep = (values[:, 0] > 1e-3) & np.isfinite(exact).all((1, 2))
        other, directions = np.linalg.eigh(_finite_or_one(hessian))
        values = np.where(steep[:, None], values, np.maximum(other, 1.0))
        return cls(values, np.where(steep[:, None, None], vectors, directions))

    def step(self, gradient: np.ndarray, damping: Any = 0.0) -> np.ndarray:
        """Newton's, (P, m); damping: added to every curvature, (P, 1)."""
        along = np.einsum("pij,pi->pj", self.vectors, gradient) / (self.values + damping)
        return np.einsum("pij,pj->pi", self.vectors, along)

    def decrement(self, gradient: np.ndarray) -> np.ndarray:
        return np.sum(gradient * self.step(gradient), axis=1)


def _finite_or_one(matrices: np.ndarray) -> np.ndarray:
    fine = np.isfinite(matrices).all((1, 2), keepdims=True)
    return np.where(fine, matrices, np.eye(matrices.shape[1]))


class Descent:
    """-ln density and its gradient by x, with u = origin + scale x; follows the patients' modes.

    Attributes:
        x, value: where `go_down` ended, and -ln density there.
    """

    def __init__(self, engine: Engine, origin: np.ndarray, scale: np.ndarray, values: Any) -> None:
        self.engine, self.origin, self.scale, self.values = engine, origin, scale, values
        posterior = engine.of(values)
        self.z = np.zeros((posterior.patients, posterior.inner))
        self.moved, self.u, self.calls = np.zeros((*self.z.shape, origin.size)), origin, 0
        self.x, self.value = np.zeros(origin.size), IMPOSSIBLE

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        u = self.origin + self.scale * x
        self.calls += 1
        if self.z.shape[1]:
            ahead = self.z + np.clip(self.moved @ (u - self.u), -1.0, 1.0)
            seen, z, _ = self.engine.at(u, ahead, self.values)
            value, slope = float(seen.value), seen.slope
        else:
            value, slope = jax.tree.map(np.asarray, self.engine.exact(u, self.values))
        if not (np.isfinite(value) and np.isfinite(slope).all()):
            return IMPOSSIBLE, np.zeros_like(x)
        if self.z.shape[1]:
            self.z, self.moved, self.u = z, np.nan_to_num(seen.moved), u
        return -float(value), -slope * self.scale

    @property
    def end(self) -> np.ndarray:
        """The outer coordinates where `go_down` ended."""
        return self.origin + self.scale * self.x

    def go_down(self, known: Mode | None) -> None:
        """By L-BFGS-B, from the origin to an end, or to a mode that is known."""
        n = self.origin.size

        def stop_if_there(intermediate_result: OptimizeResult) -> None:
            if known is not None:
                above = float(intermediate_result.fun) + known.log_density
                u = self.origin + self.scale * intermediate_result.x
                if above < 0.5 * ONE_MODE**2 and known.holds(u):
                    raise StopIteration

        options = {"maxcor": 30, "maxiter": OUTER_STEPS, "ftol": 1e-10, "gtol": 1e-4}
        around = [(-REACH, REACH)] * n
        found = minimize(
            self,
            np.zeros(n),
            jac=True,
            method="L-BFGS-B",
            bounds=around,
            options=options,
            callback=stop_if_there,
        )
        self.x, self.value = found.x, float(found.fun)
        if known is not None and known.holds(self.end):
            self.value = min(self.value, -known.log_density)  # it would have got there

    def curvature(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """Eigenvalues and vectors of the Hessian, and how many were too small and were raised."""
        rows = []
        for step in STEP * np.eye(x.size):
            ends = [self(x + sign * step)[1] for sign in (1, -1)]
            rows.append((ends[0] - ends[1]) / (2 * STEP))
        hessian = np.array(rows)
        values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
        return np.maximum(values, FLATTEST), vectors, int(np.sum(values < FLATTEST))
