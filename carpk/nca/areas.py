"""Concentrations, areas and times above a limit of one curve."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from carpk.errors import CarpkError
from carpk.nca.curve import (
    BLQ,
    Curve,
    Number,
    Scalar,
    apply_blq,
    curve_of,
    fill,
    from_zero,
    picked,
    place_of_highest,
    place_of_last,
    quantifiable,
    since_infusion,
)

METHOD = "linear-up/log-down trapezoids"


def _decline(
    left: Float[Array, " piece"], right: Float[Array, " piece"]
) -> tuple[Bool[Array, " piece"], Float[Array, " piece"]]:
    """Segments of exponential decline, and ln(left/right) there (1 elsewhere)."""
    falls = (right < left) & (right > 0)
    # The inner `where`s keep log(0) out of the branch that is not taken: its gradient is infinite.
    drop = jnp.log(jnp.where(falls, left, jnp.e)) - jnp.log(jnp.where(falls, right, 1.0))
    return falls, drop


def _mean_of_decay(x: Float[Array, " piece"]) -> Float[Array, " piece"]:
    """Mean of exp(-s) for s from 0 to x: (1 - exp(-x)) / x, accurate with its gradient near 0."""
    small = x < 0.01
    safe = jnp.where(small, 1.0, x)
    taylor = 1 - x / 2 * (1 - x / 3 * (1 - x / 4 * (1 - x / 5 * (1 - x / 6 * (1 - x / 7)))))
    return jnp.where(small, taylor, -jnp.expm1(-safe) / safe)


@jax.jit
def _area(
    t: Float[Array, " time"], c: Float[Array, " time"], start: ArrayLike, stop: ArrayLike
) -> Float[Array, ""]:
    """Area under a filled curve from `start` to `stop`, as far as the curve reaches."""
    left, right = c[:-1], c[1:]
    length = jnp.diff(t)
    inside = jnp.clip(t, start, stop)
    width = jnp.diff(inside)
    per_length = 1 / jnp.where(length > 0, length, 1.0)
    skipped, used = (inside[:-1] - t[:-1]) * per_length, width * per_length
    falls, drop = _decline(left, right)
    mean = jnp.where(
        falls,
        left * jnp.exp(-drop * skipped) * _mean_of_decay(drop * used),
        left + (right - left) * (skipped + used / 2),
    )
    return jnp.sum(mean * width)


def cmax(t: Curve, c: Curve) -> Scalar:
    """Highest concentration [unit of `c`]."""
    _, c = curve_of(t, c)
    observed = ~jnp.isnan(c)
    highest: Scalar = picked(c, observed, place_of_highest(c, observed))
    return highest


def tmax(t: Curve, c: Curve) -> Scalar:
    """Time of the highest concentration [day], the first if several are equal."""
    t, c = curve_of(t, c)
    observed = ~jnp.isnan(c)
    when: Scalar = picked(t, observed, place_of_highest(c, observed))
    return when


def clast(t: Curve, c: Curve, lloq: ArrayLike = 0.0) -> Scalar:
    """Last quantifiable concentration [unit of `c`]."""
    _, c = curve_of(t, c, lloq)
    seen = quantifiable(c, lloq)
    last: Scalar = picked(c, seen, place_of_last(seen))
    return last


def tlast(t: Curve, c: Curve, lloq: ArrayLike = 0.0) -> Scalar:
    """Time of the last quantifiable concentration [day]: the observed persistence."""
    t, c = curve_of(t, c, lloq)
    seen = quantifiable(c, lloq)
    when: Scalar = picked(t, seen, place_of_last(seen))
    return when


def auc(t: Curve, c: Curve) -> Scalar:
    """Area under the curve from the first to the last observation [unit of `c` x day].

    Exact while `c` falls exponentially, second order while it rises. Zeros are allowed.

    >>> from carpk import nca
    >>> float(nca.auc([0.0, 1.0, 2.0], [0.0, 4.0, 4.0]))
    6.0
    """
    any_observed, time, concentration = fill(*curve_of(t, c))
    return jnp.where(any_observed, _area(time, concentration, time[0], time[-1]), jnp.nan)


def auc_last(
    t: Curve,
    c: Curve,
    lloq: ArrayLike = 0.0,
    *,
    blq: BLQ | None = None,
    initial: ArrayLike | None = None,
) -> Scalar:
    """Area to the last quantifiable concentration [unit of `c` x day]; 0 if there is none.

    It starts at the first observation, or at day 0 if `initial` is given: the concentration at day
    0 where nothing was observed on that day. Observations before day 0 then do not enter.
    """
    time, concentration = curve_of(t, c, lloq)
    seen = quantifiable(concentration, lloq)
    past_last = seen.any() & (jnp.arange(seen.size) > place_of_last(seen))
    ruled = jnp.where(past_last, jnp.nan, apply_blq(concentration, lloq, blq))
    if initial is not None:
        ruled = since_infusion(time, ruled)
    any_observed, time, ruled = fill(time, ruled)
    if initial is not None:
        time, ruled = from_zero(time, ruled, initial)
    return jnp.where(any_observed, _area(time, ruled, time[0], time[-1]), jnp.nan)


def auc_to(
    day: Number, *, lloq: Number = 0.0, blq: BLQ | None = None, initial: Number | None = 0.0
) -> Callable[[Curve, Curve], Scalar]:
    """A function (t, c) -> area from day 0 to `day` [unit of `c` x day].

    The concentration at `day` is interpolated on the same curve whose area is taken. If the
    observations stop before `day` the area is `nan`; nothing is extrapolated. Observations before
    day 0, such as a baseline sample, do not enter. Without one on day 0, the concentration there is
    `initial`: 0 as no cells circulate before the infusion, another concentration for a repeated
    infusion, or `None` to give `nan` instead.

    The same arguments return the same function, named for its day.

    >>> from carpk import nca
    >>> week = nca.auc_to(7)
    >>> week.__name__, float(week([0.0, 14.0], [0.0, 28.0]))
    ('auc_to_7', 49.0)
    """
    if not day > 0 or math.isinf(day):
        raise CarpkError(f"`day` must be a number of days after the infusion, but is {day}.")
    return _auc_to(
        float(day),
        float(lloq),
        BLQ() if blq is None else blq,
        None if initial is None else float(initial),
    )


@functools.cache
def _auc_to(
    day: float, lloq: float, blq: BLQ, initial: float | None
) -> Callable[[Curve, Curve], Scalar]:
    def partial(t: Curve, c: Curve) -> Scalar:
        time, concentration = curve_of(t, c, lloq)
        area: Scalar = partial_area(time, apply_blq(concentration, lloq, blq), 0.0, day, initial)
        return area

    partial.__name__ = f"auc_to_{day:g}"
    partial.__qualname__ = partial.__name__
    partial.__doc__ = f"Area under the curve from day 0 to day {day:g} [unit of `c` x day]."
    return partial


@jax.jit
def partial_area(
    t: Float[Array, " time"],
    c: Float[Array, " time"],
    start: ArrayLike,
    stop: ArrayLike,
    initial: ArrayLike | None,
) -> Float[Array, ""]:
    any_observed, t, c = fill(t, since_infusion(t, c))
    # Times since an infusion come from subtractions: let rounding not decide that data stop early.
    covered = any_observed & (t[-1] >= stop * (1 - 1e-9))
    if initial is None:
        covered &= t[0] <= 0
    else:
        t, c = from_zero(t, c, initial)
    return jnp.where(covered, _area(t, c, start, stop), jnp.nan)


def time_above(t: Curve, c: Curve, lloq: ArrayLike) -> Scalar:
    """Time the curve spends at or above `lloq` [day], between its first and last observation.

    The crossing times are those of the curve whose area `auc` takes: on a line while it rises or
    falls to zero, on an exponential while it falls. The concentrations are taken as they are; to
    use a BLQ rule, pass `apply_blq(c, lloq)`. `nan` where the limit is.
    """
    any_observed, t, c = fill(*curve_of(t, c, lloq))
    limit = jnp.asarray(lloq, dtype=float)
    known = any_observed & ~jnp.isnan(limit)
    return jnp.where(known, days_above(t, c, limit), jnp.nan)


@jax.jit
def days_above(
    t: Float[Array, " time"], c: Float[Array, " time"], limit: Float[Array, ""]
) -> Float[Array, ""]:
    left, right = c[:-1], c[1:]
    above = (c >= limit) & (c > 0)
    crosses = above[:-1] != above[1:]
    high, low = jnp.maximum(left, right), jnp.minimum(left, right)
    linear = (high - limit) / jnp.where(crosses & (high > low), high - low, 1.0)
    falls, drop = _decline(left, right)
    by_log = falls & crosses & (limit > 0)
    decay = jnp.log(jnp.where(by_log, left, 1.0)) - jnp.log(jnp.where(by_log, limit, 1.0))
    share = jnp.where(by_log, decay / drop, linear)
    share = jnp.where(crosses, share, jnp.where(above[1:], 1.0, 0.0))
    return jnp.sum(share * jnp.diff(t))
