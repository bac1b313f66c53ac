"""Linear disposition in closed form: one, two or three compartments, any number of doses.

A drug that is eliminated linearly needs no integrator: its concentration is a sum of exponentials
over the doses given so far, exact at any time and differentiable in every parameter and time.

    flu = ck.Disposition(clearance=24 * 9.1, volume=39.0, peripheral=((24 * 8.6, 20.0),))
    flu.concentration(t, time=[-5, -4, -3], amount=40.0, duration=0.5 / 24)

An `ODEModel` names such drugs in `inputs`; its vector field then sees their concentrations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from carpk._types import Arrays
from carpk.errors import ModelError

# one number per exponential, each a scalar or an array of lanes
Exponentials = tuple[Array | float, ...]


class Modes(NamedTuple):
    """A linear system as uncoupled exponentials: a_i' = -rate_i a_i + weight_i (amount in)'.

    The concentration is the sum of the amplitudes a_i.

    Attributes:
        rate: per day, positive.
        weight: concentration per unit of amount; the sum is 1 / central volume.
    """

    rate: Exponentials
    weight: Exponentials

    def after(
        self, amplitude: Exponentials, inflow: Array | float | None, dt: Array | float
    ) -> Exponentials:
        """The amplitudes `dt` days later, with `inflow` [amount/day] all the while, or None."""
        decayed = [a * jnp.exp(-k * dt) for a, k in zip(amplitude, self.rate, strict=True)]
        if inflow is None:
            return tuple(decayed)
        return tuple(
            a - inflow * w * jnp.expm1(-k * dt) / k
            for a, k, w in zip(decayed, self.rate, self.weight, strict=True)
        )


class Disposition(eqx.Module):
    """Drug in a central compartment with up to two peripheral ones (a mammillary system).

    Attributes:
        clearance: of the central compartment [L/day].
        volume: of the central compartment [L].
        peripheral: (intercompartmental clearance [L/day], volume [L]) of each peripheral one.
    """

    clearance: Array | float
    volume: Array | float
    peripheral: tuple[tuple[Array | float, Array | float], ...] = ()

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
            return Modes((k10,), (1 / v,))
        (q2, v2), *more = self.peripheral
        k12, k21 = q2 / v, q2 / v2
        if not more:
            gap = jnp.sqrt((k10 + k12 - k21) ** 2 + 4 * k12 * k21)
            fast = (k10 + k12 + k21 + gap) / 2
            slow = k10 * k21 / fast
            return Modes((fast, slow), ((fast - k21) / gap / v, (k21 - slow) / gap / v))
        ((q3, v3),) = more
        k13, k31 = q3 / v, q3 / v3
        rates = _roots(
            k10 + k12 + k13 + k21 + k31,
            k10 * (k21 + k31) + k21 * k31 + k13 * k21 + k12 * k31,
            k10 * k21 * k31,
        )
        weights = []
        for i, rate in enumerate(rates):
            one, other = (rates[j] for j in range(3) if j != i)
            weights.append((k21 - rate) * (k31 - rate) / ((one - rate) * (other - rate)) / v)
        return Modes(rates, tuple(weights))

    def concentration(
        self,
        t: Float[Arrays, " time"] | Sequence[float],
        time: ArrayLike,
        amount: ArrayLike,
        duration: ArrayLike = 0.0,
    ) -> Float[Array, " time"]:
        """Concentration in the central compartment [unit of amount / L], shape (time,).

        Args:
            t: days, in any order; before the first dose it is 0, and at a dose's time it is the
                level just after it.
            time: day of each dose, shape (dose,) or a number.
            amount: of each dose, or one number for all.
            duration: of each infusion [day]; 0 is a bolus.
        """
        modes = self.modes()
        start = jnp.atleast_1d(jnp.asarray(time, float))
        amount = jnp.broadcast_to(jnp.asarray(amount, float), start.shape)
        duration = jnp.broadcast_to(jnp.asarray(duration, float), start.shape)
        since = jnp.asarray(t, float)[:, None] - start
        given = since >= 0
        since = jnp.where(given, since, 0.0)
        short = duration <= 0
        length = jnp.where(short, 1.0, duration)
        level: Array | float = 0.0
        for rate, weight in zip(modes.rate, modes.weight, strict=True):
            bolus = jnp.exp(-rate * since)
            running = jnp.minimum(since, length)
            infused = -jnp.expm1(-rate * running) / (rate * length)
            infused = infused * jnp.exp(-rate * (since - running))
            level = level + weight * jnp.where(short, bolus, infused)
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
