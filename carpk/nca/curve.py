"""The curve between observations, and every quantity of one curve."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Real

from carpk.errors import CarpkError

if TYPE_CHECKING:
    pass

Number: TypeAlias = int | float  # spelled out for run-time checkers, to which 28 is no float
# One value per time. Lengths are compared in `_curve`, so that a mismatch is answered with advice.
Curve: TypeAlias = Real[ArrayLike, "..."] | Sequence[Number]
Scalar: TypeAlias = Float[Array, ""]
Action: TypeAlias = str  # "zero", "half" or "drop": `BLQ` refuses others with advice

METHOD = "linear-up/log-down trapezoids"
_ACTIONS = ("zero", "half", "drop")


@dataclass(frozen=True)
class BLQ:
    """Handling of observations below the limit of quantification, by place in the curve.

    Each of the three is "zero", "half" (LLOQ/2) or "drop" (as if not observed). A curve without
    any quantifiable concentration counts as `before`. `after` acts only where an area reaches
    beyond the last quantifiable concentration.
    """

    before: Action = "zero"
    between: Action = "drop"
    after: Action = "zero"

    def __post_init__(self) -> None:
        for place in ("before", "between", "after"):
            if getattr(self, place) not in _ACTIONS:
                raise CarpkError(
                    f"BLQ rule `{place}` must be one of {', '.join(map(repr, _ACTIONS))}, "
                    f"but is {getattr(self, place)!r}."
                )

    def __str__(self) -> str:
        words = {"zero": "0", "half": "LLOQ/2", "drop": "dropped"}
        return (
            f"BLQ before first quantifiable: {words[self.before]}; between: {words[self.between]}; "
            f"after last: {words[self.after]} in partial areas, dropped elsewhere"
        )


class LambdaZ(NamedTuple):
    """The terminal phase: what was found, and on which observations."""

    lambda_z: Float[Array, ""]  # rate of decline [1/day]
    half_life: Float[Array, ""]  # ln 2 / lambda_z [day]
    points: Int[Array, ""]  # observations used; 0 if no terminal phase was found
    start: Float[Array, ""]  # first observation used [day]
    stop: Float[Array, ""]  # last observation used [day]
    r2_adjusted: Float[Array, ""]  # of the regression of ln c on t


# --- the curve ------------------------------------------------------------------------------------


def apply_blq(c: Curve, lloq: ArrayLike = 0.0, blq: BLQ | None = None) -> Float[Array, " time"]:
    """The curve with the BLQ rule applied: `nan` where a BLQ observation is dropped.

    `lloq` is one number or one per observation (assays change within a trial); where it is 0 or
    `nan` (unknown) there is no limit and the concentration stays as it is. Compose with the
    functions that
    take no rule: `cmax(t, apply_blq(c, 50.0))`.

    >>> from carpk import nca
    >>> nca.apply_blq([10.0, 60.0, 20.0, 90.0, 10.0], lloq=50.0).tolist()
    [0.0, 60.0, nan, 90.0, 0.0]
    """
    blq = BLQ() if blq is None else blq
    concentration = jnp.asarray(c, dtype=float)
    if concentration.ndim != 1:
        raise CarpkError(
            f"`c` must be one curve, but has the shape {concentration.shape}: use `jax.vmap`."
        )
    _check_concentrations(c, lloq)
    kept: Float[Array, " time"] = _apply_blq(concentration, _limit(lloq, concentration), blq)
    return kept


@functools.partial(jax.jit, static_argnames="blq")
def _apply_blq(
    concentration: Float[Array, " time"], limit: Float[Array, " time"], blq: BLQ
) -> Float[Array, " time"]:
    seen = quantifiable(concentration, limit)
    place_before = jnp.cumsum(seen) == 0
    place_after = jax.lax.cumsum(seen.astype(int), reverse=True) == 0
    value = {
        "zero": jnp.zeros_like(concentration),
        "half": limit / 2,
        "drop": jnp.full_like(concentration, jnp.nan),
    }
    instead = jnp.where(
        place_before,
        value[blq.before],
        jnp.where(place_after, value[blq.after], value[blq.between]),
    )
    return jnp.where(seen | jnp.isnan(concentration) | (limit <= 0), concentration, instead)


def _curve(
    t: Curve, c: Curve, lloq: ArrayLike = 0.0
) -> tuple[Float[Array, " time"], Float[Array, " time"]]:
    """Times and concentrations as float arrays, checked if concrete; missing -> `c` nan."""
    shapes = np.shape(t), np.shape(c)
    if len(shapes[0]) != 1 or shapes[0] != shapes[1] or shapes[0] == (0,):
        raise CarpkError(
            f"`t` and `c` must be two arrays of the same length, one curve, but have the shapes "
            f"{shapes[0]} and {shapes[1]}. For many curves at once, use `jax.vmap` and pad shorter "
            f"curves with nan."
        )
    if not isinstance(t, jax.core.Tracer):
        _check_times(np.asarray(t, dtype=float), c)
    _check_concentrations(c, lloq)
    time, concentration = jnp.asarray(t, dtype=float), jnp.asarray(c, dtype=float)
    return time, jnp.where(jnp.isnan(time), jnp.nan, concentration)


def _check_times(time: np.ndarray, c: Curve) -> None:
    """Refuse times that are not strictly increasing (repeats pass while `c` is still traced)."""
    if isinstance(c, jax.core.Tracer):
        time = time[~np.isnan(time)]
        wrong = np.flatnonzero(np.diff(time) < 0)
    else:
        time = time[~np.isnan(time) & ~np.isnan(np.asarray(c, dtype=float))]
        wrong = np.flatnonzero(np.diff(time) <= 0)
    if wrong.size:
        first, second = float(time[wrong[0]]), float(time[wrong[0] + 1])
        what = "repeats" if first == second else "goes back"
        raise CarpkError(
            f"`t` must increase from each observation to the next, but it {what} from {first:g} to "
            f"{second:g}. Sort the observations by time and average replicates first."
        )


def _check_concentrations(c: Curve, lloq: ArrayLike) -> None:
    """Refuse negative concentrations, unless they are below a known limit."""
    if isinstance(c, jax.core.Tracer) or isinstance(lloq, jax.core.Tracer):
        return
    concentration, limit = np.asarray(c, dtype=float), np.nan_to_num(np.asarray(lloq, dtype=float))
    if limit.shape not in ((), concentration.shape):
        return  # `_limit` raises the error
    wrong = np.flatnonzero((concentration < 0) & ~(limit > 0))
    if wrong.size:
        raise CarpkError(
            f"`c` must hold concentrations of 0 or more, but number {wrong[0] + 1} of "
            f"{concentration.size} is {concentration[wrong[0]]:g}. If the assay subtracts a "
            "background, give `lloq`, so that the BLQ rule holds for such a value; else write nan "
            "for a sample that failed."
        )


def _limit(lloq: ArrayLike, concentration: Float[Array, " time"]) -> Float[Array, " time"]:
    """The limit of each observation, 0 where it is unknown."""
    limit = jnp.nan_to_num(jnp.asarray(lloq, dtype=float), nan=0.0)
    if limit.shape not in ((), concentration.shape):
        raise CarpkError(
            f"`lloq` must be one number or one per observation ({concentration.shape[0]}), but has "
            f"the shape {limit.shape}."
        )
    return jnp.broadcast_to(limit, concentration.shape)


def quantifiable(concentration: Float[Array, " time"], lloq: ArrayLike) -> Bool[Array, " time"]:
    """Observed, positive and not below the limit (comparisons with nan are false)."""
    return (concentration >= _limit(lloq, concentration)) & (concentration > 0)


@jax.jit
def fill(
    t: Float[Array, " time"], c: Float[Array, " time"]
) -> tuple[Bool[Array, ""], Float[Array, " time"], Float[Array, " time"]]:
    """Presence of any observation; the curve with each gap filled by the one before it.

    A filled point repeats its neighbour, so the piece between them has no length and no area.
    """
    observed = ~jnp.isnan(c)
    latest = jax.lax.cummax(jnp.where(observed, jnp.arange(c.size), -1))
    source = jnp.where(latest < 0, jnp.argmax(observed), latest)
    time, concentration = jnp.where(observed, t, 0.0), jnp.where(observed, c, 0.0)
    return observed.any(), time[source], concentration[source]


@jax.jit
def _pick(
    a: Float[Array, " time"], where: Bool[Array, " time"], i: Int[Array, ""]
) -> Float[Array, ""]:
    """`a[i]` if there is any point in `where`, otherwise nan (without a nan in its gradient)."""
    return jnp.where(where.any(), jnp.where(where, a, 0.0)[i], jnp.nan)


@jax.jit
def _highest(c: Float[Array, " time"], where: Bool[Array, " time"]) -> Int[Array, ""]:
    """Index of the first highest concentration among the points in `where`."""
    return jnp.argmax(jnp.where(where, c, -jnp.inf))


@jax.jit
def _final(where: Bool[Array, " time"]) -> Int[Array, ""]:
    """Index of the last point in `where`."""
    return where.size - 1 - jnp.argmax(where[::-1])


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


def _since_infusion(t: Float[Array, " time"], c: Float[Array, " time"]) -> Float[Array, " time"]:
    """The concentrations from day 0 on, nan before."""
    return jnp.where(t < 0, jnp.nan, c)


@jax.jit
def from_zero(
    t: Float[Array, " time"], c: Float[Array, " time"], initial: ArrayLike
) -> tuple[Float[Array, " points"], Float[Array, " points"]]:
    """A filled curve with a concentration `initial` at day 0 put before it, if it starts later."""
    late = t[0] > 0
    first_t, first_c = jnp.where(late, 0.0, t[0]), jnp.where(late, initial, c[0])
    return jnp.append(first_t, t), jnp.append(first_c, c)


# --- concentrations and areas
# -----------------------------------------------------------------------------


def cmax(t: Curve, c: Curve) -> Scalar:
    """Highest concentration [unit of `c`]."""
    _, c = _curve(t, c)
    observed = ~jnp.isnan(c)
    highest: Scalar = _pick(c, observed, _highest(c, observed))
    return highest


def tmax(t: Curve, c: Curve) -> Scalar:
    """Time of the highest concentration [day], the first if several are equal."""
    t, c = _curve(t, c)
    observed = ~jnp.isnan(c)
    when: Scalar = _pick(t, observed, _highest(c, observed))
    return when


def clast(t: Curve, c: Curve, lloq: ArrayLike = 0.0) -> Scalar:
    """Last quantifiable concentration [unit of `c`]."""
    _, c = _curve(t, c, lloq)
    seen = quantifiable(c, lloq)
    last: Scalar = _pick(c, seen, _final(seen))
    return last


def tlast(t: Curve, c: Curve, lloq: ArrayLike = 0.0) -> Scalar:
    """Time of the last quantifiable concentration [day]: the observed persistence."""
    t, c = _curve(t, c, lloq)
    seen = quantifiable(c, lloq)
    when: Scalar = _pick(t, seen, _final(seen))
    return when


def auc(t: Curve, c: Curve) -> Scalar:
    """Area under the curve from the first to the last observation [unit of `c` x day].

    Exact while `c` falls exponentially, second order while it rises. Zeros are allowed.

    >>> from carpk import nca
    >>> float(nca.auc([0.0, 1.0, 2.0], [0.0, 4.0, 4.0]))
    6.0
    """
    any_observed, time, concentration = fill(*_curve(t, c))
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
    time, concentration = _curve(t, c, lloq)
    seen = quantifiable(concentration, lloq)
    past_last = seen.any() & (jnp.arange(seen.size) > _final(seen))
    ruled = jnp.where(past_last, jnp.nan, apply_blq(concentration, lloq, blq))
    if initial is not None:
        ruled = _since_infusion(time, ruled)
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
        time, concentration = _curve(t, c, lloq)
        area: Scalar = partial_area(time, apply_blq(concentration, lloq, blq), day, initial)
        return area

    partial.__name__ = f"auc_to_{day:g}"
    partial.__qualname__ = partial.__name__
    partial.__doc__ = f"Area under the curve from day 0 to day {day:g} [unit of `c` x day]."
    return partial


@jax.jit
def partial_area(
    t: Float[Array, " time"],
    c: Float[Array, " time"],
    day: ArrayLike,
    initial: ArrayLike | None,
) -> Float[Array, ""]:
    any_observed, t, c = fill(t, _since_infusion(t, c))
    # Times since an infusion come from subtractions: let rounding not decide that data stop early.
    covered = any_observed & (t[-1] >= day * (1 - 1e-9))
    if initial is None:
        covered &= t[0] <= 0
    else:
        t, c = from_zero(t, c, initial)
    return jnp.where(covered, _area(t, c, 0.0, day), jnp.nan)


def time_above(t: Curve, c: Curve, lloq: ArrayLike) -> Scalar:
    """Time the curve spends at or above `lloq` [day], between its first and last observation.

    The crossing times are those of the curve whose area `auc` takes: on a line while it rises or
    falls to zero, on an exponential while it falls. The concentrations are taken as they are; to
    use a BLQ rule, pass `apply_blq(c, lloq)`. `nan` where the limit is.
    """
    any_observed, t, c = fill(*_curve(t, c, lloq))
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


# --- slopes ---------------------------------------------------------------------------------------


def lambda_z(
    t: Curve,
    c: Curve,
    lloq: ArrayLike = 0.0,
    *,
    min_points: int = 3,
    tie_tolerance: float = 1e-4,
) -> LambdaZ:
    """Rate of the terminal decline, by regression of ln c on t over the last observations.

    Every window of `min_points` or more quantifiable concentrations that starts after Tmax and ends
    at Tlast is tried. Among those that decline, the one with the best adjusted R² is taken; a
    window with more points wins if it comes within `tie_tolerance` of the best. `nan`, with 0
    points, if there is no such window.

    A CAR-T curve contracts first and persists after: where sampling stops within weeks, this rate
    mixes both. Read `start`, `stop` and `points` before comparing patients.
    """
    if min_points < 3:
        raise CarpkError(f"`min_points` must be 3 or more, but is {min_points}.")
    t, c = _curve(t, c, lloq)
    terminal: LambdaZ = _terminal(t, c, _limit(lloq, c), min_points, tie_tolerance)
    return terminal


@jax.jit
def _terminal(
    t: Float[Array, " time"],
    c: Float[Array, " time"],
    limit: Float[Array, " time"],
    min_points: ArrayLike,
    tie_tolerance: ArrayLike,
) -> LambdaZ:
    seen = quantifiable(c, limit)
    used = seen & (t > _pick(t, seen, _highest(c, seen)))
    last = _final(seen)
    # Measured from the last point, which all windows share, sums lose no digits to cancellation.
    x = jnp.where(used, t, 0.0)
    x = jnp.where(used, x - x[last], 0.0)
    log_c = jnp.log(jnp.where(used, c, 1.0))
    y = jnp.where(used, log_c - log_c[last], 0.0)

    def to_the_end(a: Float[Array, " time"]) -> Float[Array, " time"]:
        return jax.lax.cumsum(a, reverse=True)

    n = to_the_end(used.astype(x.dtype))
    tried = used & (n >= min_points)
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

    def if_found(a: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.where(found, a, jnp.nan)

    return LambdaZ(
        lambda_z=if_found(rate),
        half_life=if_found(math.log(2) / rate),
        points=jnp.where(found, n[i], 0.0).astype(int),
        start=if_found(jnp.where(used, t, 0.0)[i]),
        stop=if_found(jnp.where(used, t, 0.0)[last]),
        r2_adjusted=if_found(adjusted[i]),
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
    t, c = _curve(t, c, lloq)
    days: Scalar = _doubling_time(t, _since_infusion(t, c), _limit(lloq, c))
    return days


@jax.jit
def _doubling_time(
    t: Float[Array, " time"], c: Float[Array, " time"], limit: Float[Array, " time"]
) -> Float[Array, ""]:
    seen = quantifiable(c, limit)
    used = seen & (t <= _pick(t, seen, _highest(c, seen)))
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
    t, c = _curve(t, c, lloq)
    c = _since_infusion(t, c)
    seen = quantifiable(c, lloq)
    concentration, first, top = jnp.where(seen, c, 1.0), jnp.argmax(seen), _highest(c, seen)
    return jnp.where(seen.any() & (top > first), concentration[top] / concentration[first], jnp.nan)
