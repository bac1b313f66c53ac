"""Events as arrays: regimens cut time into segments, and the equations never see them.

A `Timeline` is what a solver needs of one patient: the times at which something happens or is
observed (boundaries), what each does to the compartments, and the infusions that run in the
segment after it. What happens at one boundary is affine in every compartment,

    y  <-  keep y + reset y(start) + put + sum over targets of F dose

whatever the mixture of boluses, resets, replacements and multiplications.

Parameters may differ from occasion to occasion. The k-th lasts from the k-th cell infusion until
the next one, and the first from the start; one begins at a boundary, so that no step of a solver
has the parameters of two.

Order at one time: observations first (they see the value before a dose, as in NONMEM), then the
events in the order in which the regimen gives them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from carpk._types import Arrays, Numbers
from carpk.dosing.regimen import (
    CELLS,
    Bolus,
    Dose,
    Event,
    Infusion,
    Multiply,
    Regimen,
    Replace,
    Reset,
)
from carpk.errors import RegimenError
from carpk.params import Params
from carpk.structural import ODEModel, Target

NOTHING, BOLUS, INFUSION, RESET, REPLACE, MULTIPLY = range(6)
SIZE = {"m2": "BSA", "kg": "WT"}  # covariates of the equations that doses may be given per
KINDS: dict[type, int] = {
    Bolus: BOLUS,
    Infusion: INFUSION,
    Reset: RESET,
    Replace: REPLACE,
    Multiply: MULTIPLY,
}


class Events(NamedTuple):
    """The events of patients as arrays, (P, K), padded with NOTHING; in the order of action."""

    kind: Arrays
    time: Arrays
    amount: Arrays
    duration: Arrays
    aim: Arrays  # number of the target for doses, of the compartment for the others
    occasion: Arrays  # that a cell infusion begins, counted from 0; 0 for other events

    @property
    def dose(self) -> Arrays:
        """Which are doses."""
        return (self.kind == BOLUS) | (self.kind == INFUSION)

    def by_occasion(self, f: Callable[..., Numbers], params: Params | None) -> Array:
        """What a patient's parameters give in the occasion of each event, (K,)."""
        assert params is not None
        occasion = jax.lax.cummax(jnp.asarray(self.occasion))
        return jax.vmap(lambda k: jnp.asarray(f(params.during(k)), float))(occasion)


Patient: TypeAlias = tuple[Events, Arrays, Arrays]  # and observation times, and the start


class Timeline(NamedTuple):
    """Boundaries of one patient (B of them) and what happens there.

    C compartments are the S states and then the inputs; G targets are those of the `Structure`.
    """

    time: Arrays  # (B,), ascending
    keep: Arrays  # (B, C)
    reset: Arrays  # (B, C)
    put: Arrays  # (B, C)
    dose: Arrays  # (B, G), amounts as given
    rate: Arrays  # (B, G), amount per day as given, in the segment that begins here
    at: Arrays  # (T,), the boundary at which each observation is made
    occasion: Arrays  # (B,), counted from 0, in the segment that begins here


@dataclasses.dataclass(frozen=True)
class Structure:
    """Static part of a schedule: it decides the compiled code.

    Attributes:
        model: the structural model.
        targets: what the doses go into.
        infused: per target, whether any dose is an infusion.
        after: whether an observation at the time of an event sees what is there after it.
    """

    model: ODEModel
    targets: tuple[Target, ...]
    infused: tuple[bool, ...]
    after: bool

    @property
    def moves(self) -> bool:
        """Any dose arrives or ends on a day that depends on parameters."""
        return any(x.lag is not None or x.duration is not None for x in self.targets)

    @property
    def into(self) -> tuple[int, ...]:
        """Compartment of each target."""
        return tuple(self.model.compartments.index(t.compartment) for t in self.targets)

    def course(self, events: Events, params: Params | None) -> tuple[Array, Array]:
        """Lag time and duration of each dose (K,), by the occasion in which it is given."""
        late, duration = jnp.zeros_like(events.time), jnp.asarray(events.duration)
        for g, target in enumerate(self.targets):
            mine = events.dose & (events.aim == g)
            if target.lag is not None:
                late = jnp.where(mine, events.by_occasion(target.lag, params), late)
            if target.duration is not None:
                long = events.by_occasion(target.duration, params)
                duration = jnp.where(mine & (events.kind == BOLUS), long, duration)
        return late, duration

    def timeline(self, patient: Patient, params: Params | None = None) -> Timeline:
        """Timeline of one patient, with the lag times of the patient's parameters.

        The lag of a dose is that of the occasion in which it is given. Works on traced arrays:
        `patient` is the patient's (events, times, start).
        """
        events, times, start = patient
        size = len(self.model.compartments)
        late, duration = self.course(events, params)
        arrives = events.time + late
        resets = jnp.where(events.kind == RESET, events.time, jnp.inf)
        order = jnp.arange(events.time.shape[0])
        # a reset after a dose was given, in time or in the order at one time
        ends = (resets > events.time[:, None]) | (
            (resets == events.time[:, None]) & (order > order[:, None])
        )
        reset = jnp.min(jnp.where(ends, resets, jnp.inf), axis=1)
        cancelled = arrives >= jnp.where(late > 0, reset, jnp.inf)
        amount = jnp.where(cancelled, 0.0, events.amount)
        stop = jnp.minimum(arrives + duration, reset)
        infusion = (events.kind == INFUSION) | ((events.kind == BOLUS) & (duration > 0))
        # boundaries: observations, the start, events, ends of infusions; in this order at one time
        far = jnp.max(jnp.where(jnp.isnan(times), start, times))
        seen = jnp.where(jnp.isnan(times), far, times)
        nothing = events.kind == NOTHING
        happens = _within(jnp.where(nothing, start, arrives), start, far)
        ended = _within(jnp.where(infusion, stop, start), start, far)
        beyond = arrives > far  # doses after the last observation are not seen
        groups = [jnp.reshape(start, (1,)), happens, ended]
        groups = [*groups, seen] if self.after else [groups[0], seen, *groups[1:]]
        every = jnp.concatenate(groups)
        rank = jnp.argsort(every, stable=True)
        time = every[rank]
        place = jnp.argsort(rank, stable=True)
        offset = 1 if not self.after else 1 + 2 * events.time.shape[0]
        at = place[offset : offset + times.shape[0]]
        first = 1 if self.after else 1 + times.shape[0]
        where = place[first : first + events.time.shape[0]]
        rows = time.shape[0]
        active = ~nothing & ~beyond
        column = jax.nn.one_hot(events.aim, size) > 0
        is_reset = (events.kind == RESET) & active
        is_put = (events.kind == REPLACE) & active
        is_scale = (events.kind == MULTIPLY) & active
        wiped = is_reset[:, None] | (is_put[:, None] & column)
        scaled = is_scale[:, None] & column
        keep = jnp.where(wiped, 0.0, jnp.where(scaled, events.amount[:, None], 1.0))
        put = jnp.where(is_put[:, None] & column, events.amount[:, None], 0.0)
        back = jnp.where(is_reset[:, None], 1.0, jnp.zeros((1, size)))
        goes = jax.nn.one_hot(events.aim, len(self.targets))
        bolus = (events.kind == BOLUS) & ~infusion & active
        dose = jnp.where(bolus, amount, 0.0)[:, None] * goes
        length = jnp.where(infusion, duration, 1.0)
        speed = jnp.where(infusion & active, amount / length, 0.0)
        running = (time[:, None] >= arrives) & (time[:, None] < stop)
        begun = (where <= jnp.arange(rows)[:, None]) & active
        return Timeline(
            time=time,
            keep=jnp.ones((rows, size)).at[where].set(keep),
            reset=jnp.zeros((rows, size)).at[where].set(back),
            put=jnp.zeros((rows, size)).at[where].set(put),
            dose=jnp.zeros((rows, len(self.targets))).at[where].set(dose),
            rate=(running * speed) @ goes,
            at=at,
            occasion=jnp.max(jnp.where(begun, events.occasion, 0), axis=1),
        )


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Events and observation times of P patients, checked against a structural model.

    Attributes:
        structure: model, targets and conventions.
        events: arrays (P, K).
        times: observation times (P, T) [day]; NaN where padded.
        start: day on which the integration starts, (P,).
    """

    structure: Structure
    events: Events
    times: np.ndarray
    start: np.ndarray

    @classmethod
    def of(
        cls,
        model: ODEModel,
        regimens: Sequence[Regimen],
        times: ArrayLike,
        *,
        start: ArrayLike | None = None,
        after: bool = False,
        labels: Sequence[str] | None = None,
    ) -> Schedule:
        """Check regimens and observation times, and turn them into arrays.

        Args:
            regimens: one per patient.
            times: shape (T,) for everybody, or (P, T) with NaN where a patient has fewer.
            start: first day, one number or one per patient; each patient's first event or
                observation if left out.
            labels: how messages name the patients.
        """
        times = np.asarray(times, float)
        if times.ndim == 0:
            check_times(times)
        if times.ndim == 1:
            times = np.broadcast_to(times, (len(regimens), times.size))
        names = list(labels) if labels is not None else [""] * len(regimens)
        starts = np.broadcast_to(np.asarray(np.nan if start is None else start), len(regimens))
        targets: list[Target] = []
        rows, first = [], []
        for regimen, t, name, begin in zip(regimens, times, names, starts, strict=True):
            who = f"Patient {name!r}: " if name else ""
            check_times(t, who)
            rows.append(_table(model, regimen, targets, who))
            first.append(_start(begin, t, regimen, who))
        width = max([1, *(len(row) for row in rows)])
        table = np.zeros((len(rows), width, 6))
        for i, row in enumerate(rows):
            if row:
                table[i, : len(row)] = row
        kind, time, amount, duration, aim, occasion = np.moveaxis(table, -1, 0)
        whole = kind.astype(int), aim.astype(int), occasion.astype(int)
        events = Events(whole[0], time, amount, duration, *whole[1:])
        infused = [
            target.duration is not None
            or bool(np.any((events.kind == INFUSION) & (events.aim == g)))
            for g, target in enumerate(targets)
        ]
        structure = Structure(model, tuple(targets), tuple(infused), after)
        return cls(structure, events, times, np.array(first))

    @property
    def patients(self) -> int:
        """Number of patients."""
        return len(self.start)

    @property
    def occasions(self) -> int:
        """Largest number of occasions of a patient."""
        return 1 + int(self.events.occasion.max())

    @property
    def rows(self) -> tuple[Events, np.ndarray, np.ndarray]:
        """Input of `timeline`, of all patients at once: leading axis P."""
        return self.events, self.times, self.start

    def fixed(self) -> Timeline:
        """Timelines of all patients where no dose lags, with simultaneous boundaries merged.

        Leaves have a leading axis P; a patient with fewer boundaries than others has the last one
        repeated.
        """
        every = _timelines(self.structure, self.rows)
        into = self.structure.into
        merged = [
            _merged(Timeline(*(np.asarray(x[i]) for x in every)), into)
            for i in range(self.patients)
        ]
        length = max([2, *(len(m.time) for m in merged)])
        return Timeline(
            *(np.stack(x) for x in zip(*(_padded(m, length) for m in merged), strict=True))
        )


def _within(x: Arrays, low: Arrays, high: Arrays) -> Array:
    """`x` between `low` and `high`; unlike `clip` with its whole derivative at both ends."""
    return jnp.where(x < low, low, jnp.where(x > high, high, x))


@partial(jax.jit, static_argnums=0)
def _timelines(structure: Structure, rows: Patient) -> Timeline:
    return jax.vmap(structure.timeline)(rows)


def _merged(line: Timeline, into: Sequence[int]) -> Timeline:
    """A timeline with one boundary per time: affine maps of one time composed."""
    first = np.flatnonzero(np.diff(line.time, prepend=-np.inf) > 0)
    group = np.searchsorted(first, np.arange(len(line.time)), side="right") - 1
    last = np.append(first[1:], len(line.time)) - 1
    keep, reset, put, dose = (np.array(x[first]) for x in line[1:5])
    for i, g in enumerate(group):
        if i == first[g]:
            continue
        k = line.keep[i]
        keep[g] *= k
        reset[g] = k * reset[g] + line.reset[i]
        put[g] = k * put[g] + line.put[i]
        dose[g] = k[list(into)] * dose[g] + line.dose[i]
    return Timeline(
        line.time[first],
        keep,
        reset,
        put,
        dose,
        line.rate[last],
        group[line.at],
        line.occasion[last],
    )


def _padded(line: Timeline, length: int) -> Timeline:
    """With boundaries at the end at which nothing happens, up to `length` of them."""
    more = length - len(line.time)

    def longer(x: Arrays, filling: Arrays | float) -> np.ndarray:
        return np.concatenate([x, np.full((more, *x.shape[1:]), filling)])

    return Timeline(
        time=longer(line.time, line.time[-1]),
        keep=longer(line.keep, 1.0),
        reset=longer(line.reset, 0.0),
        put=longer(line.put, 0.0),
        dose=longer(line.dose, 0.0),
        rate=longer(line.rate, 0.0),
        at=line.at,
        occasion=longer(line.occasion, line.occasion[-1]),
    )


def check_times(t: np.ndarray, who: str = "") -> None:
    """Refuse observation times that are missing, out of order or not finite."""
    the = f"{who}the" if who else "The"
    an = f"{who}an" if who else "An"
    known = t[~np.isnan(t)] if t.ndim else np.array([])
    if t.ndim != 1 or not known.size or np.isnan(t[: known.size]).any():
        raise RegimenError(
            f"{the} observation times must be at least one number, shape (time,), but are {t}."
        )
    if not np.isfinite(known).all():
        raise RegimenError(f"{an} observation time is infinite; times are days.")
    back = np.flatnonzero(np.diff(known) < 0)
    if back.size:
        i = int(back[0])
        raise RegimenError(
            f"{the} observation times must ascend, but day {known[i]:g} is followed by day "
            f"{known[i + 1]:g}; sort them."
        )


def _start(begin: float, t: np.ndarray, regimen: Regimen, who: str) -> float:
    """The first day of the integration."""
    the = f"{who}the" if who else "The"
    first_seen = float(np.nanmin(t))
    first_event = min([float(e.time) for e in regimen.events], default=np.inf)
    if np.isnan(begin):
        return min(first_seen, first_event)
    if not np.isfinite(begin):
        raise RegimenError(f"{the} start is {begin}, but must be a day.")
    if first_seen < begin:
        raise RegimenError(
            f"{the} observation on day {first_seen:g} lies before the start on day {begin:g}; "
            "start earlier, or leave the observation out."
        )
    if first_event < begin:
        raise RegimenError(
            f"{the} event on day {first_event:g} lies before the start on day {begin:g}; start "
            "earlier, or leave the event out."
        )
    return float(begin)


def _table(model: ODEModel, regimen: Regimen, targets: list[Target], who: str) -> list[list[float]]:
    """The rows of all events, each with the occasion that it begins; new targets join the list."""
    rows, begun = [], 0
    for event in regimen.events:
        cells = isinstance(event, Dose) and event.unit == CELLS
        rows += [[*row, begun * cells] for row in _rows(model, event, targets, who)]
        begun += cells
    return rows


def _rows(model: ODEModel, event: Event, targets: list[Target], who: str) -> list[list[float]]:
    """kind, time, amount, duration and index, a row per target; new targets join the list."""
    if isinstance(event, Dose):
        dose = [KINDS[type(event)], event.time, event.amount, event.duration]
        return [[*dose, _index(target, targets)] for target in _targets(model, event, who)]
    if isinstance(event, Reset):
        return [[RESET, event.time, 0.0, 0.0, 0]]
    if event.compartment not in model.states.names():
        raise RegimenError(
            f"{who}{type(event).__name__} on day {event.time:g}: {event.compartment!r} is not a "
            f"state of {model.name!r}; it has {', '.join(model.states.names()) or 'none'}."
        )
    index = model.compartments.index(event.compartment)
    return [[KINDS[type(event)], event.time, event.amount, 0.0, index]]


def _index(target: Target, targets: list[Target]) -> int:
    """The number of a target, which joins the list if it is new."""
    if target not in targets:
        targets.append(target)
    return targets.index(target)


def _targets(model: ODEModel, event: Dose, who: str) -> list[Target]:
    """Targets of a dose."""
    what = f"{who}the dose of {event.product} on day {event.time:g}"
    known = model.into(event.product)
    found = [t for t in known if event.compartment in ("", t.compartment)]
    if not found:
        name = event.compartment or event.product
        if name not in model.compartments:
            products = [*model.targets, *model.compartments]
            raise RegimenError(
                f"{what} has nowhere to go in {model.name!r}: {name!r} is neither a product it "
                f"knows nor a compartment; known are {', '.join(dict.fromkeys(products))}."
            )
        found = [Target(name, unit=event.unit)]
    if event.per and SIZE[event.per] not in model.params.covariates():
        raise RegimenError(
            f"{what} is per {event.per}, but {model.name!r} has no covariate {SIZE[event.per]!r}; "
            "make it absolute with regimen.resolve(bsa=..., weight=...) first."
        )
    for target in found:
        if event.unit != target.unit:
            raise RegimenError(
                f"{what} is in {event.unit}, but {model.name!r} takes {event.product} in "
                f"{target.unit}."
            )
    return [_per(target, SIZE[event.per]) if event.per else target for target in found]


@lru_cache(maxsize=256)
def _per(target: Target, size: str) -> Target:
    """The target of doses that are given per this covariate; the same one every time."""

    def bioavailability(p: Params) -> Numbers:
        plain = 1.0 if target.bioavailability is None else target.bioavailability(p)
        value: Numbers = getattr(p, size)
        return plain * value

    return dataclasses.replace(target, bioavailability=bioavailability)
