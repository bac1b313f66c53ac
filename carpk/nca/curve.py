"""One curve: its checks, values below the limit of quantification, gaps between observations."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Real

from carpk.errors import CarpkError

Number: TypeAlias = int | float  # spelled out for run-time checkers, to which 28 is no float
# One value per time. Lengths are compared in `curve_of`, so that a mismatch gets advice.
Curve: TypeAlias = Real[ArrayLike, "..."] | Sequence[Number]
Scalar: TypeAlias = Float[Array, ""]
Action: TypeAlias = str  # "zero", "half" or "drop": `BLQ` refuses others with advice
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
    kept: Float[Array, " time"] = _apply_blq(concentration, limit_of(lloq, concentration), blq)
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


def curve_of(
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
        return  # `limit_of` raises the error
    wrong = np.flatnonzero((concentration < 0) & ~(limit > 0))
    if wrong.size:
        raise CarpkError(
            f"`c` must hold concentrations of 0 or more, but number {wrong[0] + 1} of "
            f"{concentration.size} is {concentration[wrong[0]]:g}. If the assay subtracts a "
            "background, give `lloq`, so that the BLQ rule holds for such a value; else write nan "
            "for a sample that failed."
        )


def limit_of(lloq: ArrayLike, concentration: Float[Array, " time"]) -> Float[Array, " time"]:
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
    return (concentration >= limit_of(lloq, concentration)) & (concentration > 0)


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
def picked(
    a: Float[Array, " time"], where: Bool[Array, " time"], i: Int[Array, ""]
) -> Float[Array, ""]:
    """`a[i]` if there is any point in `where`, otherwise nan (without a nan in its gradient)."""
    return jnp.where(where.any(), jnp.where(where, a, 0.0)[i], jnp.nan)


@jax.jit
def place_of_highest(c: Float[Array, " time"], where: Bool[Array, " time"]) -> Int[Array, ""]:
    """Index of the first highest concentration among the points in `where`."""
    return jnp.argmax(jnp.where(where, c, -jnp.inf))


@jax.jit
def place_of_last(where: Bool[Array, " time"]) -> Int[Array, ""]:
    """Index of the last point in `where`."""
    return where.size - 1 - jnp.argmax(where[::-1])


def since_infusion(t: Float[Array, " time"], c: Float[Array, " time"]) -> Float[Array, " time"]:
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
