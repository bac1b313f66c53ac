"""Rates of one curve: expansion and terminal decline."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from carpk.errors import CarpkError
from carpk.nca.curve import (
    Curve,
    Number,
    Scalar,
    curve_of,
    limit_of,
    picked,
    place_of_highest,
    place_of_last,
    quantifiable,
    since_infusion,
)


class LambdaZ(NamedTuple):
    """The terminal phase: what was found, and on which observations."""

    lambda_z: Float[Array, ""]  # rate of decline [1/day]
    half_life: Float[Array, ""]  # ln 2 / lambda_z [day]
    points: Int[Array, ""]  # observations used; 0 if no terminal phase was found
    start: Float[Array, ""]  # first observation used [day]
    stop: Float[Array, ""]  # last observation used [day]
    r2_adjusted: Float[Array, ""]  # of the regression of ln c on t
    clast: Float[Array, ""]  # concentration that the regression predicts at Tlast


def lambda_z(
    t: Curve,
    c: Curve,
    lloq: ArrayLike = 0.0,
    *,
    min_points: int = 3,
    tie_tolerance: float = 1e-4,
    between: tuple[Number, Number] | None = None,
) -> LambdaZ:
    """Rate of the terminal decline, by regression of ln c on t over the last observations.

    Every window of `min_points` or more quantifiable concentrations that starts after Tmax and ends
    at Tlast is tried. Among those that decline, the one with the best adjusted R² is taken; a
    window with more points wins if it comes within `tie_tolerance` of the best. `nan`, with 0
    points, if there is no such window. With `between`, two days, nothing is tried: the quantifiable
    concentrations from the first to the second of them are taken, `min_points` or more.

    A CAR-T curve contracts first and persists after: where sampling stops within weeks, this rate
    mixes both. Read `start`, `stop` and `points` before comparing patients.
    """
    if min_points < 3:
        raise CarpkError(f"`min_points` must be 3 or more, but is {min_points}.")
    if between is not None and not between[0] < between[1]:
        raise CarpkError(f"`between` must be two days, the earlier first, but is {between}.")
    t, c = curve_of(t, c, lloq)
    days = (jnp.nan, jnp.nan) if between is None else between
    terminal: LambdaZ = terminal_phase(t, c, limit_of(lloq, c), *days, min_points, tie_tolerance)
    return terminal


@jax.jit
def terminal_phase(
    t: Float[Array, " time"],
    c: Float[Array, " time"],
    limit: Float[Array, " time"],
    low: ArrayLike,
    high: ArrayLike,
    min_points: ArrayLike = 3,
    tie_tolerance: ArrayLike = 1e-4,
) -> LambdaZ:
    """`lambda_z` from day `low` to day `high`, or of the best window where these are nan."""
    seen = quantifiable(c, limit)
    chosen = ~jnp.isnan(jnp.asarray(low, dtype=float))
    after_peak = t > picked(t, seen, place_of_highest(c, seen))
    used = seen & jnp.where(chosen, (t >= low) & (t <= high), after_peak)
    last = place_of_last(used)
    tlast = picked(t, seen, place_of_last(seen))
    # Measured from the last point, which all windows share, sums lose no digits to cancellation.
    day = jnp.where(used, t, 0.0)
    x = jnp.where(used, day - day[last], 0.0)
    log_c = jnp.log(jnp.where(used, c, 1.0))
    y = jnp.where(used, log_c - log_c[last], 0.0)

    def to_the_end(a: Float[Array, " time"]) -> Float[Array, " time"]:
        return jax.lax.cumsum(a, reverse=True)

    n = to_the_end(used.astype(x.dtype))
    whole_window = jnp.arange(t.size) == jnp.argmax(used)
    tried = used & (n >= min_points) & (whole_window | ~chosen)
    per_n = 1 / jnp.maximum(n, 1.0)
    sum_x, sum_y = to_the_end(x), to_the_end(y)
    var_x = to_the_end(x * x) - sum_x * sum_x * per_n
    var_y = to_the_end(y * y) - sum_y * sum_y * per_n
    cov = to_the_end(x * y) - sum_x * sum_y * per_n
    slope = cov / jnp.where(tried, var_x, 1.0)
    r2 = slope * cov / jnp.where(tried & (var_y > 0), var_y, 1.0)
    adjusted = 1 - (1 - r2) * (n - 1) / jnp.maximum(n - 2, 1.0)

    declines = tried & (slope < 0)
    best = jnp.max(jnp.where(declines, adjusted, -jnp.inf))
    i = jnp.argmax(declines & (adjusted >= best - tie_tolerance))
    found = declines.any()
    rate = jnp.where(found, -slope[i], 1.0)
    at_last_used = log_c[last] + ((sum_y - slope * sum_x) * per_n)[i]
    beyond = jnp.where(found, tlast - day[last], 0.0)

    def if_found(a: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.where(found, a, jnp.nan)

    return LambdaZ(
        lambda_z=if_found(rate),
        half_life=if_found(math.log(2) / rate),
        points=jnp.where(found, n[i], 0.0).astype(int),
        start=if_found(day[i]),
        stop=if_found(day[last]),
        r2_adjusted=if_found(adjusted[i]),
        clast=if_found(jnp.exp(at_last_used - rate * beyond)),
    )


def half_life(t: Curve, c: Curve, lloq: ArrayLike = 0.0) -> Scalar:
    """Half-life of the terminal decline [day]; `lambda_z` tells on which observations.

    >>> from carpk import nca
    >>> round(float(nca.half_life([0.0, 7.0, 14.0, 21.0, 28.0], [1.0, 64.0, 16.0, 4.0, 1.0])), 6)
    3.5
    """
    return lambda_z(t, c, lloq).half_life


def doubling_time(t: Curve, c: Curve, lloq: ArrayLike = 0.0) -> Scalar:
    """Time in which the concentration doubles during expansion [day].

    ln 2 over the slope of ln c on t, from the first quantifiable concentration to Tmax. `nan` with
    fewer than two quantifiable concentrations there or without a rise. Concentrations in the first
    days, when infused cells leave the blood for the tissues, belong to it too and lengthen it;
    concentrations before day 0 do not.
    """
    t, c = curve_of(t, c, lloq)
    days: Scalar = _doubling_time(t, since_infusion(t, c), limit_of(lloq, c))
    return days


@jax.jit
def _doubling_time(
    t: Float[Array, " time"], c: Float[Array, " time"], limit: Float[Array, " time"]
) -> Float[Array, ""]:
    seen = quantifiable(c, limit)
    used = seen & (t <= picked(t, seen, place_of_highest(c, seen)))
    x, y = jnp.where(used, t, 0.0), jnp.log(jnp.where(used, c, 1.0))
    per_n = 1 / jnp.maximum(jnp.sum(used.astype(x.dtype)), 1.0)
    x = jnp.where(used, x - jnp.sum(x) * per_n, 0.0)
    var, cov = jnp.sum(x * x), jnp.sum(x * y)
    rises = cov > 0  # also false for a single concentration, where x is 0
    slope = jnp.where(rises, cov, 1.0) / jnp.where(rises, var, 1.0)
    return jnp.where(rises, math.log(2) / slope, jnp.nan)


def fold_expansion(t: Curve, c: Curve, lloq: ArrayLike = 0.0) -> Scalar:
    """Cmax over the first quantifiable concentration, from day 0 on [1].

    `nan` where the first quantifiable concentration is the highest: the rise was not observed.
    Where the first sample is late or the LLOQ high, the true expansion was larger.
    """
    t, c = curve_of(t, c, lloq)
    c = since_infusion(t, c)
    seen = quantifiable(c, lloq)
    concentration, first, top = jnp.where(seen, c, 1.0), jnp.argmax(seen), place_of_highest(c, seen)
    return jnp.where(seen.any() & (top > first), concentration[top] / concentration[first], jnp.nan)
