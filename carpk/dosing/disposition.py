"""Linear disposition in closed form: one, two or three compartments, any number of doses.

A drug that is eliminated linearly needs no integrator: its concentration is a sum of exponentials
over the doses given so far, exact at any time and differentiable in every parameter and time.

    flu = ck.Disposition(clearance=24 * 9.1, volume=39.0, peripheral=((24 * 8.6, 20.0),))
    flu.concentration(t, time=[-5, -4, -3], amount=40.0, duration=0.5 / 24)

An `ODEModel` names such drugs in `inputs`; its vector field then sees their concentrations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from carpk._types import Arrays
from carpk.errors import ModelError

# one number per exponential, each a scalar or an array of lanes
Exponentials = tuple[Array | float, ...]


class Modes(NamedTuple):
    """A linear system as exponentials that a depot may feed.

        a_i' = -rate_i a_i + weight_i (amount into the central compartment + absorption d)'
        d'   = -absorption d + (amount into the depot)'

    The concentration is the sum of the a_i. Amplitudes are these numbers: the a_i, and then d where
    there is a depot.

    Attributes:
        rate: per day, positive.
        weight: concentration per unit of amount; the sum is 1 / central volume.
        absorption: rate of the depot [1/day]; None where there is no depot.
    """

    rate: Exponentials
    weight: Exponentials
    absorption: Array | float | None = None

    def nothing(self) -> Exponentials:
        """Amplitudes of an empty body."""
        return (jnp.zeros(()),) * (len(self.rate) + (self.absorption is not None))

    def concentration(self, amplitude: Exponentials) -> Array:
        """The concentration that amplitudes make."""
        return jnp.asarray(sum(amplitude[: len(self.rate)]))

    def after(
        self,
        amplitude: Exponentials,
        inflow: Array | float | None,
        dt: Array | float,
        into_depot: Array | float | None = None,
    ) -> Exponentials:
        """The amplitudes `dt` days later, with inflows [amount/day] all the while, or None."""
        modes = []
        for a, k, w in zip(amplitude, self.rate, self.weight, strict=False):
            a = a * jnp.exp(-k * dt)
            if inflow is not None:
                a = a - inflow * w * jnp.expm1(-k * dt) / k
            modes.append(a)
        if self.absorption is None:
            return tuple(modes)

        def of_depot(k: Array) -> Array:  # what a depot's rate k leaves of it, and of its inflow
            left = amplitude[-1] * jnp.exp(-k * dt)
            return left if into_depot is None else left - into_depot * jnp.expm1(-k * dt) / k

        for i, (k, w) in enumerate(zip(self.rate, self.weight, strict=True)):
            modes[i] = modes[i] - w * self.absorption * _divided(of_depot, k, self.absorption)
        return (*modes, of_depot(jnp.asarray(self.absorption)))

    def amplitudes(self, course: Course, depot: bool) -> Exponentials:
        """Amplitudes per unit of amount after a course of doses into one compartment."""
        each = zip(self.rate, self.weight, strict=True)
        if not depot:
            modes = tuple(w * course.of(k) for k, w in each)
            return modes if self.absorption is None else (*modes, jnp.zeros_like(modes[0]))
        assert self.absorption is not None
        ka = self.absorption
        modes = tuple(-w * ka * _divided(course.of, k, ka) for k, w in each)
        return (*modes, course.of(ka))

    def response(self, course: Course, depot: bool) -> Array:
        """Concentration per unit of amount after a course of doses into one compartment."""
        return self.concentration(self.amplitudes(course, depot))


class Course(NamedTuple):
    """A dose, or a dose and all those that went before it at steady state.

    Attributes:
        since: days since the (last) dose, at least 0.
        duration: of its infusion [day]; 0 for a bolus; None where all are boluses.
        interval: days between doses at steady state, 0 for an infusion that has run for ever at one
            unit a day and ended `since` days ago, negative for a single dose; None where all are
            single doses.
    """

    since: Array | float
    duration: Array | float | None = None
    interval: Array | float | None = None

    def of(self, k: Array | float) -> Array:
        """What is left of one unit that is lost with rate k [1/day]."""
        single = self._single(k)
        if self.interval is None:
            return single
        many = self.interval > 0
        interval = jnp.where(many, self.interval, 1.0)
        repeated = jnp.where(many, self._repeated(k, interval), jnp.exp(-k * self.since) / k)
        return jnp.where(jnp.asarray(self.interval) >= 0, repeated, single)

    def _single(self, k: Array | float) -> Array:
        bolus = jnp.exp(-k * self.since)
        if self.duration is None:
            return bolus
        short = jnp.asarray(self.duration) <= 0
        length = jnp.where(short, 1.0, self.duration)
        running = jnp.minimum(self.since, length)
        infused = -jnp.expm1(-k * running) / (k * length)
        return jnp.where(short, bolus, infused * jnp.exp(-k * (self.since - running)))

    def _repeated(self, k: Array | float, interval: Array) -> Array:
        """The sum over doses `since`, `since` + `interval`, ... days ago."""
        lost = -jnp.expm1(-k * interval)
        bolus = jnp.exp(-k * self.since) / lost
        if self.duration is None:
            return bolus
        short = jnp.asarray(self.duration) <= 0
        length = jnp.where(short, 1.0, self.duration)
        running = jnp.maximum(jnp.ceil((length - self.since) / interval), 0.0)  # infusions
        running = jax.lax.stop_gradient(running)
        all_of = -jnp.expm1(-k * length) / (k * length)
        ended = all_of * jnp.exp(-k * (self.since + running * interval - length)) / lost
        so_far = (running + jnp.expm1(-k * running * interval) * bolus) / (k * length)
        return jnp.where(short, bolus, ended + jnp.where(running > 0, so_far, 0.0))


NEAR = 1e-3  # of each other: rates between which a difference is the integral of a derivative
NODES = (0.5 - 0.5 / math.sqrt(3), 0.5 + 0.5 / math.sqrt(3))  # of Gauss's rule with two


def _divided(f: Callable[[Array], Array], a: Array | float, b: Array | float) -> Array:
    """(f(b) - f(a)) / (b - a), also where both are equal or nearly so: the mean of f' then."""
    a, b = jnp.asarray(a, float), jnp.asarray(b, float)
    gap = b - a
    near = jnp.abs(gap) < NEAR * (a + b)
    at = [a + node * gap for node in NODES]
    slope = sum(jax.jvp(f, (x,), (jnp.ones_like(x),))[1] for x in at) / len(NODES)
    far = (f(b) - f(a)) / jnp.where(near, 1.0, gap)
    return jnp.where(near, slope, far)


class Disposition(eqx.Module):
    """Drug in a central compartment with up to two peripheral ones (a mammillary system).

    Attributes:
        clearance: of the central compartment [L/day].
        volume: of the central compartment [L].
        peripheral: (intercompartmental clearance [L/day], volume [L]) of each peripheral one.
        absorption: rate at which a depot empties into the central compartment [1/day]; None where
            there is none.
    """

    clearance: Array | float
    volume: Array | float
    peripheral: tuple[tuple[Array | float, Array | float], ...] = ()
    absorption: Array | float | None = None

    def __post_init__(self) -> None:
        if len(self.peripheral) > 2 or any(len(pair) != 2 for pair in self.peripheral):
            raise ModelError(
                "Disposition: `peripheral` must hold at most two (intercompartmental clearance, "
                f"volume) pairs, but is {self.peripheral!r}."
            )

    def modes(self) -> Modes:
        """The exponentials of the concentration after a bolus into the central compartment."""
        v = self.volume
        k10 = self.clearance / v
        if not self.peripheral:
            return Modes((k10,), (1 / v,), self.absorption)
        (q2, v2), *more = self.peripheral
        k12, k21 = q2 / v, q2 / v2
        if not more:
            gap = jnp.sqrt((k10 + k12 - k21) ** 2 + 4 * k12 * k21)
            fast = (k10 + k12 + k21 + gap) / 2
            slow = k10 * k21 / fast
            weights = ((fast - k21) / gap / v, (k21 - slow) / gap / v)
            return Modes((fast, slow), weights, self.absorption)
        ((q3, v3),) = more
        k13, k31 = q3 / v, q3 / v3
        rates = _roots(
            k10 + k12 + k13 + k21 + k31,
            k10 * (k21 + k31) + k21 * k31 + k13 * k21 + k12 * k31,
            k10 * k21 * k31,
        )
        each = []
        for i, rate in enumerate(rates):
            one, other = (rates[j] for j in range(3) if j != i)
            each.append((k21 - rate) * (k31 - rate) / ((one - rate) * (other - rate)) / v)
        return Modes(rates, tuple(each), self.absorption)

    def concentration(
        self,
        t: Float[Arrays, " time"] | Sequence[float],
        time: ArrayLike,
        amount: ArrayLike,
        duration: ArrayLike = 0.0,
        *,
        depot: bool = False,
        interval: ArrayLike | None = None,
        after: bool = False,
    ) -> Float[Array, " time"]:
        """Concentration in the central compartment [unit of amount / L], shape (time,).

        Args:
            t: days, in any order; up to the first dose it is 0.
            time: day of each dose, shape (dose,) or a number.
            amount: of each dose, or one number for all.
            duration: of each infusion [day]; 0 is a bolus.
            depot: whether doses go into the depot.
            interval: days between the doses of a steady state that the dose continues (SS and II);
                negative for a dose by itself; None where all are.
            after: whether the level at the time of a dose is that just after it, not before.
        """
        modes = self.modes()
        start = jnp.atleast_1d(jnp.asarray(time, float))
        amount, duration = (
            jnp.broadcast_to(jnp.asarray(x, float), start.shape) for x in (amount, duration)
        )
        if interval is not None:
            interval = jnp.broadcast_to(jnp.asarray(interval, float), start.shape)
        since = jnp.asarray(t, float)[:, None] - start
        given = since >= 0 if after else since > 0
        course = Course(jnp.where(given, since, 0.0), duration, interval)
        level = modes.response(course, depot)
        return jnp.sum(jnp.where(given, amount * level, 0.0), axis=1)


def _roots(a2: Array | float, a1: Array | float, a0: Array | float) -> Exponentials:
    """The roots of x³ - a2 x² + a1 x - a0, all real and positive, largest first."""
    third = a2 / 3
    p = third**2 - a1 / 3
    q = third**3 - third * a1 / 2 + a0 / 2
    radius = jnp.sqrt(p)
    angle = jnp.arccos(jnp.clip(q / (p * radius), -1.0, 1.0)) / 3
    fast = third + 2 * radius * jnp.cos(angle)
    product = a0 / fast  # of the other two, which the cosines give with the error of `fast`
    total = (a1 - product) / fast
    middle = (total + jnp.sqrt(jnp.maximum(total**2 - 4 * product, 0.0))) / 2
    return fast, middle, product / middle
