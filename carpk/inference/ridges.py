"""Curved ridges of a posterior, straightened for the sampler.

Data may identify a combination of parameters, such as the concentration on the last sampling days,
but not each of them. The posterior is a curved ridge then, with a prior at one end and a likelihood
at the other: no linear map makes it normal, and NUTS diverges where it is narrow.

A ridge is traced from the mode of Laplace's approximation, in coordinates v in which the curvature
there is 1: while one parameter is held at values away from its mode, the conditional mode of all
other coordinates is found, and r, the signed root of twice the fall of the log density there
(Barndorff-Nielsen 1986, Biometrika 73:307). With c(r) the curve through these points, a
natural cubic spline, and q the unit vector along which the parameter grows,

    v = w + c(t) - q t,    t = q' w,    |dv/dw| = q' c'(t).

A normal posterior has c(r) = q r. Several ridges follow each other, the most curved first. The map
is one to one and its Jacobian exact, so that priors and posterior stay what they are; only the
coordinates of the sampler change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.interpolate import CubicSpline
from scipy.optimize import minimize

from carpk._types import Arrays, Numbers
from carpk.inference.density import Conditional
from carpk.inference.laplace import CompiledDensity, Descent, Mode

MOST = 4  # ridges of a posterior
TRIES = 8  # to trace one
ASIDE = 1.5  # posterior SDs to either side of the mode where the gradient is compared
CURVED = 0.3  # squared difference from the gradient of a normal density, from which to trace
BETTER = 0.5  # share of that difference which may be left along the axis of a ridge
TRACED = 4.0  # signed root to which a ridge is traced
FARTHEST = 8.0  # posterior SDs to which it is, where the density hardly falls
SPACED = 0.75  # signed root from point to point, about
WIDE = 1.5  # a step by more than this is halved
NARROWEST = 0.05  # the shortest step [posterior SDs], and the least slope of c
POINTS = 20  # of a ridge to either side, at most
ITERATIONS = 12  # of BFGS at a point
GRADIENT = 0.15  # largest slope across a ridge where that stops, per posterior SD


class Ridge(NamedTuple):
    """One curve c(t), less q t, as a natural cubic spline.

    Attributes:
        along: q, (n,).
        knots: t of the traced points, (k,).
        offset, slope: of the line that the spline follows before the first knot, (n,).
        cubes: factors of max(t - knot, 0)³, (k, n).
    """

    along: Arrays
    knots: Arrays
    offset: Arrays
    slope: Arrays
    cubes: Arrays

    @classmethod
    def through(cls, along: np.ndarray, t: np.ndarray, curve: np.ndarray) -> Ridge:
        """The spline through c at t (k,), ascending; c (k, n)."""
        spline = CubicSpline(t, curve - np.outer(t, along), bc_type="natural")
        third, _, slope, offset = spline.c
        nothing = np.zeros((1, along.size))
        cubes = np.diff(np.concatenate([nothing, third, nothing]), axis=0)
        return cls(along, t, offset[0] - slope[0] * t[0], slope[0], cubes)

    def ahead(self, t: Numbers) -> Arrays:
        """c(t) - q t, (n,)."""
        x = t - self.knots
        return self.offset + self.slope * t + ((x > 0) * x**3) @ self.cubes

    def rate(self, t: Numbers) -> Arrays:
        """Its derivative."""
        x = t - self.knots
        return self.slope + 3 * ((x > 0) * x**2) @ self.cubes

    def turn(self, t: Numbers) -> Arrays:
        """Its second derivative."""
        x = t - self.knots
        return 6 * ((x > 0) * x) @ self.cubes

    @property
    def one_to_one(self) -> bool:
        """The parameter increases with t everywhere."""
        ends = self.knots[0] - 1, self.knots[-1] + 1
        grid = np.linspace(*ends, 50 * self.knots.size)
        return all(1 + self.along @ self.rate(t) > NARROWEST for t in grid)

    def back(self, v: Array) -> Array:
        """The inverse: w of v; traceable."""
        wanted = self.along @ v

        def gap(t: Array | float) -> Arrays:
            return t + self.along @ self.ahead(t) - wanted

        def halved(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            middle = 0.5 * (ends[0] + ends[1])
            below = gap(middle) < 0
            return jnp.where(below, middle, ends[0]), jnp.where(below, ends[1], middle)

        reach = 1 + jnp.abs(gap(0.0)) / NARROWEST  # as `one_to_one` has it
        low, high = jax.lax.fori_loop(0, 80, halved, (-reach, reach))
        return v - self.ahead(0.5 * (low + high))


def forward(ridges: Sequence[Ridge], w: Array) -> tuple[Array, Array, Arrays]:
    """v (n,) of w (n,), ln |dv/dw|, and t of the first ridge, the last to be applied; traceable."""
    t: Arrays
    t = log_slope = jnp.zeros(())
    for ridge in reversed(ridges):
        t = ridge.along @ w
        log_slope += jnp.log1p(ridge.along @ ridge.rate(t))
        w = w + ridge.ahead(t)
    return w, log_slope, t


def backward(ridges: Sequence[Ridge], v: Array) -> Array:
    """w of v; traceable."""
    for ridge in ridges:
        v = ridge.back(v)
    return v


class ConditionalAlongRidge(NamedTuple):
    """`Conditional` of the patients interpolated along a ridge.

    Far from the mode the likelihood of the random effects is no longer that at the mode.

    Attributes:
        knots: t, (k,).
        each: `Conditional` at the knots, with a leading axis (k,), without second derivatives.
        second: these, of the mode.
    """

    knots: Arrays
    each: Conditional
    second: Arrays | None

    @classmethod
    def of(
        cls, compiled: CompiledDensity, mode: Mode, ridge: Ridge, conditional: Conditional
    ) -> ConditionalAlongRidge:
        """Along a ridge of a mode, from the patients' modes at its knots.

        Args:
            conditional: the mode's; patients whose own differs from it keep theirs everywhere.
        """
        factor, found = np.linalg.cholesky(mode.covariance), {}
        assert mode.conditional is not None
        own = np.any(conditional.weight != mode.conditional.weight, axis=1)
        for side in (ridge.knots[ridge.knots >= 0], ridge.knots[ridge.knots < 0][::-1]):
            z = mode.z
            for t in side:
                u = mode.u + factor @ (ridge.along * t + ridge.ahead(t))
                seen, z, expansion = compiled.evaluate(u, z)
                curvature = np.asarray(compiled.curvature(u, compiled.values))
                here = Conditional(expansion, seen.score, seen.weight, curvature)
                here = conditional.of_patients(own, here)
                found[t] = here._replace(expansion=here.expansion._replace(second=None))
        each = jax.tree.map(lambda *x: np.stack(x), *(found[t] for t in ridge.knots))
        return cls(ridge.knots, each, conditional.expansion.second)

    def at(self, t: Arrays) -> Conditional:
        """Interpolated between the knots to both sides of t; traceable."""
        knots = jnp.asarray(self.knots)
        i = jnp.clip(jnp.searchsorted(knots, t) - 1, 0, knots.size - 2)
        far = jnp.clip((t - knots[i]) / (knots[i + 1] - knots[i]), 0.0, 1.0)
        far = far**2 * (3 - 2 * far)

        def between(x: Arrays) -> Array:
            x = jnp.asarray(x)
            return x[i] + far * (x[i + 1] - x[i])

        blended: Conditional = jax.tree.map(between, self.each)
        return blended._replace(expansion=blended.expansion._replace(second=self.second))


class Straightened:
    """Minus ln density of w, less that at the mode, and its gradient, as Laplace has it."""

    def __init__(self, compiled: CompiledDensity, mode: Mode, ridges: Sequence[Ridge]) -> None:
        self.ridges, self.lowest = tuple(ridges), -mode.log_density
        self.factor = np.linalg.cholesky(mode.covariance)
        self.descent = Descent(compiled, mode.u, np.ones(mode.u.size))
        self.descent.z = mode.z
        self(np.zeros(mode.u.size))  # the patients' modes are followed from there

    def __call__(self, w: np.ndarray) -> tuple[float, np.ndarray]:
        passed, log_slope = [], 0.0
        for ridge in reversed(self.ridges):
            t = ridge.along @ w
            rate = ridge.rate(t)
            passed.append((ridge, rate, ridge.turn(t)))
            log_slope += float(np.log1p(ridge.along @ rate))
            w = w + ridge.ahead(t)
        value, gradient = self.descent(self.factor @ w)
        gradient = self.factor.T @ gradient
        for ridge, rate, turn in reversed(passed):
            bent = gradient @ rate - (ridge.along @ turn) / (1 + ridge.along @ rate)
            gradient = gradient + ridge.along * bent
        return value - log_slope - self.lowest, gradient

    def curved(self, axes: np.ndarray) -> np.ndarray:
        """Squared difference from the gradient of a normal density, the larger of both sides."""
        each = [[self(x)[1] - x for x in (ASIDE * q, -ASIDE * q)] for q in axes]
        larger: np.ndarray = np.max(np.sum(np.square(each), axis=2), axis=1)
        return larger

    def trace(self, along: np.ndarray) -> Ridge | None:
        """The ridge along a parameter; None where it cannot be followed."""
        points = [*self._side(along, -1)[::-1], (0.0, np.zeros(along.size)), *self._side(along, 1)]
        if len(points) < 3:
            return None
        ridge = Ridge.through(along, *map(np.array, zip(*points, strict=True)))
        return ridge if ridge.one_to_one else None

    def _side(self, along: np.ndarray, sign: int) -> list[tuple[float, np.ndarray]]:
        """Signed roots and points (n,) to one side of the mode."""
        across = np.linalg.svd(along[None])[2][1:].T  # (n, n - 1)
        found: list[tuple[float, np.ndarray]] = []
        nowhere = np.zeros(along.size - 1)
        (s, y), (s_before, y_before) = (0.0, nowhere), (-1.0, nowhere)
        root, step, lowest = 0.0, SPACED, self(np.zeros(along.size))[0]
        for _ in range(POINTS):
            if root >= TRACED or s >= FARTHEST or step < NARROWEST:
                break
            held = sign * (s + step) * along

            def profile(y: np.ndarray, held: np.ndarray = held) -> tuple[float, np.ndarray]:
                value, gradient = self(held + across @ y)
                return value, across.T @ gradient

            guess = y + (y - y_before) * step / (s - s_before)
            options = {"gtol": GRADIENT, "maxiter": ITERATIONS}
            end = minimize(profile, guess, jac=True, method="BFGS", options=options)
            new = np.sqrt(2 * max(float(end.fun) - lowest, 0.0))
            if new - root > WIDE:
                step *= 0.5
                continue
            if new - root < 0.1 * NARROWEST:
                break  # no further fall: another mode, or a flat end
            found.append((sign * new, held + across @ end.x))
            (s, y), (s_before, y_before) = (s + step, end.x), (s, y)
            step *= np.clip(SPACED / (new - root), 0.3, 2.0)
            root = new
        return found


def ridges_of(compiled: CompiledDensity, mode: Mode) -> tuple[Ridge, ...]:
    """The curved ridges around a mode; none where it is none, or where nothing is curved."""
    if not mode.converged:
        return ()
    ridges: tuple[Ridge, ...] = ()
    factor = np.linalg.cholesky(mode.covariance)
    axes = factor / np.linalg.norm(factor, axis=1, keepdims=True)  # as the parameters grow
    straightened = Straightened(compiled, mode, ridges)
    curved = straightened.curved(axes)
    passed_over = np.zeros(len(axes), bool)
    for _ in range(TRIES):
        k = int(np.where(passed_over, 0.0, curved).argmax())
        if passed_over[k] or not curved[k] > CURVED or len(ridges) == MOST:
            break
        passed_over[k] = True
        ridge = straightened.trace(axes[k])
        if ridge is None:
            continue
        after = Straightened(compiled, mode, [*ridges, ridge])
        left = after.curved(axes)
        if left[k] < BETTER * curved[k] and left.max() <= curved.max():
            straightened, ridges, curved = after, after.ridges, left
            passed_over[k] = False
    return ridges
