"""Laplace's approximation: random effects integrated out, patient by patient, all at once.

Given the population parameters, every patient's random effects have a mode, found by damped
Gauss-Newton steps in standard scores. With H the Gauss-Newton Hessian there,

    ln p(y_i | u) = ln p(y_i | z*) + ln N(z*; 0, I) + (m ln 2 pi - ln |H|) / 2

(the field's FOCEI, with M3 terms where samples are below a limit). The sum over patients, published
facts and priors is maximised over the outer coordinates u; its exact gradient comes from forward
differentiation through the modes, the covariance of u from differences of that gradient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize

from carpk.posterior import Conditional, Posterior, with_derivatives

INNER_STEPS = 60
INNER_TOLERANCE = 1e-10  # of the decrement g' H^-1 g of a patient
DAMPING = (1e-3, 0.2, 5.0, 1e10)  # at first, after success, after failure, at most
OUTER_STEPS = 200
NEWTON_STEPS = 3  # after that, each with a Hessian
DECREMENT = 1e-3  # of the mode: g' H^-1 g, in squared posterior SDs
STEP = 1e-3  # of the differences of the gradient, in prior SDs of the outer coordinates
FLATTEST = 1e-2  # curvature that any direction is taken to have, where the prior's is about 1
REACH = 6.0  # how many prior SDs from the start a mode is looked for
IMPOSSIBLE = 1e12  # -ln posterior where it is not finite


class Inner(NamedTuple):
    """Modes of the patients' standard scores at given population parameters.

    Attributes:
        z: (P, m).
        converged: (P,).
        steps: how many were taken.
    """

    z: Any
    converged: Any
    steps: Any


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
        conditional: the patients' likelihoods near it; None without individual patients.
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


def inner_modes(posterior: Posterior, u: Any, start: Any) -> Inner:
    """The patients' modes at u, from standard scores `start`, (P, m)."""
    theta = posterior.theta(u)
    mu, factor = posterior.typical(theta), posterior.factor(theta)
    size, m = start.shape

    def unfinished(state: Any) -> Any:
        *_, done, steps = state
        return (steps < INNER_STEPS) & ~done.all()

    def advance(state: Any) -> Any:
        z, value, slope, hessian, there, damping, done, steps = state
        new, new_slope, new_hessian = _patients(posterior, theta, mu, factor, there)
        each = (new_slope, new_hessian.reshape(size, -1))
        finite = jnp.isfinite(new) & jnp.isfinite(jnp.concatenate(each, axis=1)).all(axis=1)
        better = finite & (new >= value) & ~done
        z = jnp.where(better[:, None], there, z)
        value = jnp.where(better, new, value)
        slope = jnp.where(better[:, None], new_slope, slope)
        hessian = jnp.where(better[:, None, None], new_hessian, hessian)
        damping = jnp.where(better, DAMPING[1], DAMPING[2]) * damping
        done |= (_decrement(slope, hessian) < INNER_TOLERANCE) | (damping > DAMPING[3])
        damped = hessian + damping[:, None, None] * jnp.eye(m)
        there = z + jnp.linalg.solve(damped, slope[..., None])[..., 0]
        return z, value, slope, hessian, there, damping, done, steps + 1

    begin = (
        start,
        jnp.full(size, -jnp.inf),
        jnp.full((size, m), jnp.inf),
        jnp.broadcast_to(jnp.eye(m), (size, m, m)),
        start,
        jnp.full(size, DAMPING[0]),
        jnp.zeros(size, bool),
        0,
    )
    z, value, slope, hessian, *_, steps = jax.lax.while_loop(unfinished, advance, begin)
    near = _decrement(slope, hessian) < 1e3 * INNER_TOLERANCE
    return Inner(z, jnp.isfinite(value) & near, steps)


def _decrement(slope: Any, hessian: Any) -> Any:
    return jnp.sum(slope * jnp.linalg.solve(hessian, slope[..., None])[..., 0], axis=1)


def _patients(
    posterior: Posterior, theta: Any, mu: Any, factor: Any, z: Any
) -> tuple[Any, Any, Any]:
    """ln joint density of data and z, its gradient and Gauss-Newton Hessian (minus), by patient."""

    def levels(z: Any) -> Any:
        return posterior.log_levels(mu, z @ factor.T)

    def along(direction: Any) -> Any:
        return jax.jvp(levels, (z,), (jnp.broadcast_to(direction, z.shape),))

    def density(x: Any) -> Any:
        return posterior.of_levels(x, theta)

    log_f, jacobian = jax.vmap(along, out_axes=(None, 0))(jnp.eye(z.shape[1]))
    each, slope, curvature = with_derivatives(density, log_f)
    weight = jnp.maximum(-curvature, 0.0)
    value = jnp.sum(each, axis=1) - 0.5 * jnp.sum(z**2, axis=1)
    gradient = jnp.einsum("mpt,pt->pm", jacobian, slope) - z
    hessian = jnp.einsum("mpt,pt,npt->pmn", jacobian, weight, jacobian) + jnp.eye(z.shape[1])
    return value, gradient, hessian


def marginal(posterior: Posterior, u: Any, z: Any) -> tuple[Any, Any]:
    """Approximate ln density of u and its gradient (n,), given the patients' modes z there.

    The modes move with u as the implicit function theorem says; everything by forward
    differentiation, along n + m directions at once.
    """
    n, m = u.size, z.shape[1]

    def everything(u: Any, z: Any) -> Any:
        theta = posterior.theta(u)
        each = _patients(posterior, theta, posterior.typical(theta), posterior.factor(theta), z)
        return posterior.log_prior(u) + posterior.published(theta), *each

    def along(of_u: Any, of_z: Any) -> Any:
        return jax.jvp(everything, (u, z), (of_u, jnp.broadcast_to(of_z, z.shape)))

    directions = jnp.eye(n + m)
    (outer, value, gradient, hessian), (d_outer, d_value, d_gradient, d_hessian) = jax.vmap(
        along, out_axes=(None, 0)
    )(directions[:, :n], directions[:, n:])
    curvature = -d_gradient[n:].transpose(1, 2, 0)
    ahead = jnp.concatenate([d_gradient[:n].transpose(1, 2, 0), gradient[..., None]], axis=2)
    moved = jnp.linalg.solve(curvature, ahead)  # dz/du, and what is left of the way to the mode
    moved, left = moved[..., :n], moved[..., n]
    d_each = d_value - 0.5 * jnp.einsum("pij,dpji->dp", jnp.linalg.inv(hessian), d_hessian)
    each = value - 0.5 * jnp.linalg.slogdet(hessian)[1] + jnp.einsum("ip,pi->p", d_each[n:], left)
    each -= 0.5 * jnp.einsum("pi,pij,pj->p", left, curvature, left)
    slope = d_outer[:n] + jnp.sum(d_each[:n], axis=1) + jnp.einsum("ip,pin->n", d_each[n:], moved)
    return outer + jnp.sum(each), slope


def conditional_at(posterior: Posterior, u: Any, z: Any) -> Conditional:
    """The patients' likelihoods as normal ones around their modes."""
    theta = posterior.theta(u)
    mu, factor = posterior.typical(theta), posterior.factor(theta)
    b = z @ factor.T

    d, m = mu.shape[1], b.shape[1]

    def along(direction: Any) -> Any:
        tangents = (
            jnp.broadcast_to(direction[:d], mu.shape),
            jnp.broadcast_to(direction[d:], b.shape),
        )
        return jax.jvp(posterior.log_levels, (mu, b), tangents)

    def density(x: Any) -> Any:
        return posterior.of_levels(x, theta)

    log_f, by = jax.vmap(along, out_axes=(None, 0))(jnp.eye(d + m))
    by_mu, by_b = by[:d], by[d:]
    _, slope, curvature = with_derivatives(density, log_f)
    weight = jnp.maximum(-curvature, 0.0)
    a = posterior.bound.individual
    here = jnp.stack([a.mask & (a.analyte == o) for o in range(len(a.analytes))]).astype(float)
    information = jnp.einsum("opt,pt,ipt,jpt->opij", here, weight, by_b, by_b)
    typical = jnp.einsum("opt,pt,ipt,dpt->opid", here, weight, by_b, by_mu)
    pull = jnp.einsum("opt,pt,ipt->opi", here, slope, by_b)
    pull += jnp.einsum("opij,pj->opi", information, b) + jnp.einsum("opid,pd->opi", typical, mu)
    return Conditional(information, pull, typical, posterior.weights(theta))


class Engine:
    """The compiled functions of a posterior whose data may be replaced.

    Args:
        of: values in place of the data's -> posterior; traced.
    """

    def __init__(self, of: Callable[[Any], Posterior]) -> None:
        self.of = of

        def forwards(values: Any) -> Posterior:
            return Posterior(of(values).bound.forwards())

        def value_and_gradient(u: Any, z: Any, values: Any) -> Any:
            posterior = forwards(values)
            solved = inner_modes(posterior, u, z)
            return *marginal(posterior, u, solved.z), solved

        def exact(u: Any, values: Any) -> Any:
            posterior = of(values)
            empty = jnp.zeros((posterior.patients, 0))
            return jax.value_and_grad(lambda u: posterior.log_density(u, empty, None))(u)

        self.inner, self.plain = jax.jit(value_and_gradient), jax.jit(exact)
        self.conditional = jax.jit(lambda u, z, values: conditional_at(forwards(values), u, z))

    def at(self, u: Any, z: Any, values: Any) -> tuple[float, np.ndarray, Inner]:
        """ln density, gradient and the patients' modes at u."""
        if z.shape[1]:
            value, slope, solved = self.inner(u, z, values)
        else:
            value, slope = self.plain(u, values)
            solved = Inner(z, np.ones(len(z), bool), 0)
        return float(value), np.asarray(slope), jax.tree.map(np.asarray, solved)

    def mode(self, start: Any, scale: Any, values: Any = None) -> Mode:
        """The mode nearest to `start` (n,); `scale` are the prior SDs of the coordinates."""
        posterior = self.of(values)
        descent = _Descent(self, np.asarray(start, float), np.asarray(scale, float), values)
        x = descent.down()
        for attempt in range(NEWTON_STEPS):
            here, value, slope = descent.z, *descent(x)
            curvature, vectors, flat = descent.curvature(x)
            step = vectors @ ((vectors.T @ slope) / curvature)
            decrement = float(slope @ step)
            if decrement < DECREMENT or attempt == NEWTON_STEPS - 1:
                break
            if not descent(x - step)[0] < value:
                descent.z = here
                break
            x = x - step
        u = descent.origin + descent.scale * x
        value, _, solved = self.at(u, descent.z, values)
        individual = posterior.bound.individual is not None
        return Mode(
            u=u,
            z=solved.z,
            log_density=value,
            covariance=(vectors / curvature) @ vectors.T * np.outer(descent.scale, descent.scale),
            decrement=decrement,
            flat=flat,
            unconverged=tuple(int(i) for i in np.flatnonzero(~solved.converged)),
            conditional=self.conditional(u, solved.z, values) if individual else None,
            evaluations=descent.calls,
        )


class _Descent:
    """-ln density and its gradient by x, with u = origin + scale x; knows the last modes."""

    def __init__(self, engine: Engine, origin: np.ndarray, scale: np.ndarray, values: Any) -> None:
        self.engine, self.origin, self.scale, self.values = engine, origin, scale, values
        posterior = engine.of(values)
        self.z: Any = np.zeros((posterior.patients, posterior.inner))
        self.calls = 0

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        u = self.origin + self.scale * x
        value, slope, solved = self.engine.at(u, self.z, self.values)
        self.calls += 1
        if not (np.isfinite(value) and np.isfinite(slope).all()):
            return IMPOSSIBLE, np.zeros_like(x)
        self.z = solved.z
        return -value, -slope * self.scale

    def down(self) -> np.ndarray:
        """Where L-BFGS-B ends from the origin."""
        n = self.origin.size
        options = {"maxcor": 30, "maxiter": OUTER_STEPS, "ftol": 1e-10, "gtol": 1e-4}
        around = [(-REACH, REACH)] * n
        found = minimize(
            self, np.zeros(n), jac=True, method="L-BFGS-B", bounds=around, options=options
        )
        return found.x

    def curvature(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """Eigenvalues and vectors of the Hessian, and how many were too small and were raised."""
        here, rows = self.z, []
        for step in STEP * np.eye(x.size):
            ends = []
            for sign in (1, -1):
                self.z = here
                ends.append(self(x + sign * step)[1])
            rows.append((ends[0] - ends[1]) / (2 * STEP))
        self.z = here
        hessian = np.array(rows)
        values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
        return np.maximum(values, FLATTEST), vectors, int(np.sum(values < FLATTEST))
