"""Events as arrays: regimens cut time into segments, and the equations never see them.

A `Timeline` is what a solver needs of one patient: the times at which something happens or is
observed (boundaries), what each does to the compartments, and the infusions that run in the
segment after it. What happens at one boundary is affine in every compartment,

    y  <-  keep y + reset y(start) + put + sum over targets of F dose

whatever the mixture of boluses, resets, replacements and multiplications.

Parameters may differ from occasion to occasion. The k-th lasts from the k-th cell infusion until
the next one, and the first from the start; one begins at a boundary, so that no step of a solver
has the parameters of two.

Order at one time: doses that arrive late, then observations (they see the value before a dose) and
events in the order in which the regimen gives them. An observation that was recorded after some of
the events of its time comes after them, as in NONMEM.

A dose at steady state is a row that says so (STEADY), the dose itself, and those before it that
still run or wait. What all the others left is found by `steady`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
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
    MODELLED_RATE,
    SAME,
    UNTOLD,
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

NOTHING, BOLUS, INFUSION, PACED, ENDLESS, RESET, REPLACE, MULTIPLY, STEADY = range(9)
DOSES = (BOLUS, INFUSION, PACED, ENDLESS)
SIZE = {"m2": "BSA", "kg": "WT"}  # covariates of the equations that doses may be given per
KINDS: dict[type, int] = {Reset: RESET, Replace: REPLACE, Multiply: MULTIPLY}
BEFORE = -0.5  # place of an observation before all events
FIRST, ARRIVING = -3.0, -2.0  # what comes before the events and observations of a time


class Events(NamedTuple):
    """The events of patients as arrays, (P, K), padded with NOTHING; in the order of action."""

    kind: Arrays
    time: Arrays
    amount: Arrays  # of doses; the rate of ENDLESS ones; of STEADY, the share of before that stays
    duration: Arrays  # of PACED doses, whose rate is given, before bioavailability
    aim: Arrays  # number of the target for doses, of the compartment for the others
    occasion: Arrays  # that a cell infusion begins, counted from 0; 0 for other events
    interval: Arrays  # between doses at steady state, 0 for ENDLESS; -1 where there is none
    course: Arrays  # number of the steady state that a row belongs to, counted from 1; 0 for none
    earlier: Arrays  # days before `time` on which a dose of a steady state was given

    @property
    def dose(self) -> Arrays:
        """Which are doses."""
        return jnp.isin(self.kind, jnp.array(DOSES))

    @property
    def wipes(self) -> Arrays:
        """Which take away all that was there: resets, and steady states that replace it."""
        return (self.kind == RESET) | ((self.kind == STEADY) & (self.amount == 0))

    def by_occasion(self, f: Callable[..., Numbers], params: Params | None) -> Array:
        """What a patient's parameters give in the occasion of each event, (K,)."""
        assert params is not None
        occasion = jax.lax.cummax(jnp.asarray(self.occasion))
        return jax.vmap(lambda k: jnp.asarray(f(params.during(k)), float))(occasion)


class Patient(NamedTuple):
    """What a schedule holds of one patient, or of P with a leading axis."""

    events: Events
    times: Arrays  # (T,), ascending; NaN where padded
    order: Arrays  # (T,), place of each observation among the events, which are 0, 1, 2, ...
    start: Arrays  # ()


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
    steady: Arrays  # (B,), number of the steady state that begins here; 0 for none
    at: Arrays  # (T,), the boundary at which each observation is made
    occasion: Arrays  # (B,), counted from 0, in the segment that begins here


@dataclasses.dataclass(frozen=True)
class Structure:
    """Static part of a schedule: it decides the compiled code.

    Attributes:
        model: the structural model.
        targets: what the doses go into.
        infused: per target, whether any dose is an infusion.
        paced: per target, whether the rate of any dose is given.
        courses: largest number of steady states of a patient.
        abreast: largest number of targets of a dose at steady state.
    """

    model: ODEModel
    targets: tuple[Target, ...]
    infused: tuple[bool, ...]
    paced: tuple[bool, ...]
    courses: int
    abreast: int

    @property
    def moves(self) -> bool:
        """Any dose arrives or ends on a day that depends on parameters."""
        each = zip(self.targets, self.paced, strict=True)
        return any(moving(target) or (paced and target.bioavailability) for target, paced in each)

    @property
    def into(self) -> tuple[int, ...]:
        """Compartment of each target."""
        return tuple(self.model.compartments.index(t.compartment) for t in self.targets)

    def course(self, events: Events, params: Params | None) -> tuple[Array, Array]:
        """Days from `time` to arrival, and duration, of each dose (K,).

        By the occasion in which it is given.
        """
        late, duration = -jnp.asarray(events.earlier), jnp.asarray(events.duration)
        for g, target in enumerate(self.targets):
            mine = events.dose & (events.aim == g)
            modelled = mine & (events.kind == BOLUS)
            of = partial(events.by_occasion, params=params)
            if target.lag is not None:
                late = late + jnp.where(mine & (events.kind != ENDLESS), of(target.lag), 0.0)
            if target.duration is not None:
                duration = jnp.where(modelled, of(target.duration), duration)
            if target.bioavailability is None or (target.rate is None and not self.paced[g]):
                share: Array | float = 1.0
            else:
                share = of(target.bioavailability)
            if target.rate is not None:
                duration = jnp.where(modelled, share * events.amount / of(target.rate), duration)
            if self.paced[g]:
                duration = jnp.where(mine & (events.kind == PACED), share * duration, duration)
        return late, duration

    def timeline(self, patient: Patient, params: Params | None = None) -> Timeline:
        """Timeline of one patient, with the lag times of the patient's parameters.

        The lag of a dose is that of the occasion in which it is given. Works on traced arrays.
        """
        events, times, order, start = patient
        size, count = len(self.model.compartments), events.time.shape[0]
        late, duration = self.course(events, params)
        arrives = events.time + late
        if self.moves:
            arrives = _snapped(arrives, times, late > 0)
        resets = jnp.where(events.wipes, events.time, jnp.inf)
        number = jnp.arange(count)
        # a reset after a dose was given, in time or in the order at one time
        ends = (resets > events.time[:, None]) | (
            (resets == events.time[:, None]) & (number > number[:, None])
        )
        reset = jnp.min(jnp.where(ends, resets, jnp.inf), axis=1)
        over = arrives < jnp.where(events.earlier > 0, events.time, -jnp.inf)  # in a steady state
        cancelled = over | (arrives >= jnp.where(late > 0, reset, jnp.inf))
        infusion = jnp.isin(events.kind, jnp.array((INFUSION, PACED)))
        infusion |= (events.kind == BOLUS) & (duration > 0)
        begins = jnp.where(over, events.time, arrives)
        stop = jnp.minimum(arrives + duration, reset)
        stop = jnp.where(over, jnp.maximum(stop, begins), stop)
        # boundaries: the start, events, ends of infusions, observations
        far = jnp.max(jnp.where(jnp.isnan(times), start, times))
        nothing = events.kind == NOTHING
        happens = _within(jnp.where(nothing, start, begins), start, far)
        ended = _within(jnp.where(infusion, stop, start), start, far)
        seen = jnp.where(jnp.isnan(times), far, times)
        every = jnp.concatenate([jnp.reshape(start, (1,)), happens, ended, seen])
        key = jnp.concatenate(
            [
                jnp.full(1, FIRST),
                jnp.where((late > 0) & ~nothing, ARRIVING, number),
                jnp.full(count, ARRIVING),
                order,
            ]
        )
        rank = jnp.lexsort((key, every))
        time = every[rank]
        place = jnp.argsort(rank, stable=True)
        where, at = place[1 : 1 + count], place[1 + 2 * count :]
        rows = time.shape[0]
        active = ~nothing & (begins <= far)  # doses after the last observation are not seen
        column = jax.nn.one_hot(events.aim, size) > 0
        is_put = (events.kind == REPLACE) & active
        is_scale = (events.kind == MULTIPLY) & active
        wiped = (events.wipes & active)[:, None] | (is_put[:, None] & column)
        scaled = is_scale[:, None] & column
        keep = jnp.where(wiped, 0.0, jnp.where(scaled, events.amount[:, None], 1.0))
        put = jnp.where(is_put[:, None] & column, events.amount[:, None], 0.0)
        is_reset = (events.kind == RESET) & active
        back = jnp.where(is_reset[:, None], 1.0, jnp.zeros((1, size)))
        goes = jax.nn.one_hot(events.aim, len(self.targets))
        bolus = (events.kind == BOLUS) & ~infusion & active & ~cancelled
        dose = jnp.where(bolus, events.amount, 0.0)[:, None] * goes
        length = jnp.where(infusion, duration, 1.0)
        flows = infusion & active & (over | ~cancelled)
        speed = jnp.where(flows, events.amount / length, 0.0)
        running = (time[:, None] >= begins) & (time[:, None] < stop)
        begun = (where <= jnp.arange(rows)[:, None]) & active
        steady = jnp.where((events.kind == STEADY) & active, events.course, 0)
        return Timeline(
            time=time,
            keep=jnp.ones((rows, size)).at[where].set(keep),
            reset=jnp.zeros((rows, size)).at[where].set(back),
            put=jnp.zeros((rows, size)).at[where].set(put),
            dose=jnp.zeros((rows, len(self.targets))).at[where].set(dose),
            rate=(running * speed) @ goes,
            steady=jnp.zeros(rows, int).at[where].set(steady),
            at=at,
            occasion=jnp.max(jnp.where(begun, events.occasion, 0), axis=1),
        )


def moving(target: Target) -> bool:
    """Its doses arrive or end on a day that depends on parameters."""
    return any(f is not None for f in (target.lag, target.duration, target.rate))


def _snapped(arrives: Arrays, times: Arrays, late: Array) -> Array:
    """Arrivals, those within `SAME` of an observation moved to its time."""
    gap = jax.lax.stop_gradient(jnp.where(jnp.isnan(times), jnp.inf, times) - arrives[:, None])
    nearest = jnp.take_along_axis(gap, jnp.argmin(jnp.abs(gap), axis=1)[:, None], axis=1)[:, 0]
    return jnp.asarray(arrives) + jnp.where(late & (jnp.abs(nearest) < SAME), nearest, 0.0)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Events and observation times of P patients, checked against a structural model.

    Attributes:
        structure: model, targets and conventions.
        rows: events (P, K), observation times (P, T) [day], their order among the events, and the
            day on which the integration starts (P,).
    """

    structure: Structure
    rows: Patient

    @classmethod
    def of(
        cls,
        model: ODEModel,
        regimens: Sequence[Regimen],
        times: ArrayLike,
        *,
        start: ArrayLike | None = None,
        follows: ArrayLike = UNTOLD,
        labels: Sequence[str] | None = None,
    ) -> Schedule:
        """Check regimens and observation times, and turn them into arrays.

        Args:
            regimens: one per patient.
            times: shape (T,) for everybody, or (P, T) with NaN where a patient has fewer.
            start: first day, one number or one per patient; each patient's first event or
                observation if left out.
            follows: of the events at the time of an observation, how many were recorded before it;
                one number, or shape (P, T); UNTOLD where the order is not known.
            labels: how messages name the patients.
        """
        times = np.asarray(times, float)
        if times.ndim == 0:
            check_times(times)
        if times.ndim == 1:
            times = np.broadcast_to(times, (len(regimens), times.size))
        times, follows = np.array(times), np.broadcast_to(follows, times.shape)
        order = np.full(times.shape, BEFORE)
        names = list(labels) if labels is not None else [""] * len(regimens)
        starts = np.broadcast_to(np.asarray(np.nan if start is None else start), len(regimens))
        targets: list[Target] = []
        rows, first = [], []
        for i, (regimen, name, begin) in enumerate(zip(regimens, names, starts, strict=True)):
            who = f"Patient {name!r}: " if name else ""
            if len(regimens) == 1 or not np.isnan(times[i]).all():  # some are never observed
                check_times(times[i], who)
            own, of = _table(model, regimen, targets, who)
            rows.append(own)
            times[i], order[i] = _ordered(times[i], regimen, follows[i], of)
            first.append(_start(begin, times[i], regimen, who))
        width = max([1, *(len(own) for own in rows)])
        table = np.stack([np.array([*own, *[NONE] * (width - len(own))]) for own in rows])
        events = Events(*np.moveaxis(table, -1, 0))
        whole = ("kind", "aim", "occasion", "course")
        events = events._replace(**{name: getattr(events, name).astype(int) for name in whole})

        def any_of(kinds: Sequence[int]) -> list[bool]:
            mine = (events.aim == g for g in range(len(targets)))
            return [bool(np.any(np.isin(events.kind, kinds) & here)) for here in mine]

        enters = [x.duration is not None or x.rate is not None for x in targets]
        structure = Structure(
            model,
            tuple(targets),
            infused=tuple(np.logical_or(any_of((INFUSION, PACED)), enters).tolist()),
            paced=tuple(any_of((PACED,))),
            courses=int(events.course.max()),
            abreast=_abreast(events),
        )
        return cls(structure, Patient(events, times, order, np.array(first)))

    @property
    def patients(self) -> int:
        """Number of patients."""
        return len(self.rows.start)

    @property
    def occasions(self) -> int:
        """Largest number of occasions of a patient."""
        return 1 + int(self.rows.events.occasion.max())

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
    """A timeline with one boundary per time: affine maps of one time composed.

    Several where an observation was made between them, or where a steady state is acted upon.
    """
    first = _leaders(line)
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
        np.maximum.reduceat(line.steady, first),
        group[line.at],
        line.occasion[last],
    )


def _leaders(line: Timeline) -> np.ndarray:
    """The boundaries of a timeline that begin a new one when it is merged."""
    acts = np.any(line.keep != 1, axis=1) | np.any(line.put != 0, axis=1)
    acts |= np.any(line.dose != 0, axis=1) | (np.asarray(line.steady) > 0)
    acts |= np.diff(line.occasion, prepend=0) > 0
    seen = np.isin(np.arange(len(line.time)), line.at)
    changes = np.any(line.keep != 1, axis=1) | (np.asarray(line.steady) > 0)
    leaders, acted, steady = [], False, False
    for i, new in enumerate(np.diff(line.time, prepend=-np.inf) > 0):
        if new or (seen[i] and acted) or (changes[i] and steady):
            leaders.append(i)
            acted = steady = False
        acted, steady = bool(acted or acts[i]), bool(steady or line.steady[i] > 0)
    return np.array(leaders)


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
        steady=longer(line.steady, 0).astype(int),
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
    first_seen = float(np.min(t, where=~np.isnan(t), initial=np.inf))
    first_event = min([float(e.time) for e in regimen.events], default=np.inf)
    if np.isnan(begin):
        first = min(first_seen, first_event)
        return first if np.isfinite(first) else 0.0
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


def _abreast(events: Events) -> int:
    """Largest number of targets of a dose at steady state."""
    mine = np.asarray(events.dose & (events.earlier == 0)) & (np.asarray(events.course) > 0)
    counts = [
        np.bincount(row[here]).max()
        for row, here in zip(events.course, mine, strict=True)
        if here.any()
    ]
    return int(max(counts, default=0))


def _ordered(
    times: np.ndarray, regimen: Regimen, follows: np.ndarray, of: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Observation times, and places among the rows of the events that `of` numbers.

    A time within `SAME` of an event is that of the event. An observation that follows UNTOLD of
    the events comes before them, but sees the steady state that a dose begins with.
    """
    order = np.full(times.shape, BEFORE)
    if not regimen.events:
        return times, order
    steady = [e.ss if isinstance(e, Dose) else 0 for e in regimen.events]
    when = np.array([float(e.time) for e in regimen.events])
    gap = np.abs(times[:, None] - when)
    near = gap < SAME  # (T, events)
    nearest = when[np.argmin(np.where(np.isnan(gap), np.inf, gap), axis=1)]
    times = np.where(near.any(axis=1), nearest, times)
    for j in np.flatnonzero(near.any(axis=1) & (follows != 0)):
        here = np.flatnonzero(near[j])
        if follows[j] != UNTOLD:
            order[j] = np.flatnonzero(np.asarray(of) == here[: int(follows[j])][-1])[-1] + 0.5
        elif steady[here[0]]:  # and those that add to it, whose rows stand beside its own
            added = list(itertools.takewhile(lambda e: steady[e] == 2, here[1:]))
            order[j] = np.flatnonzero(np.asarray(of) == here[0])[0] + len(added) + 0.5
    return times, order


Row: TypeAlias = tuple[float, ...]  # the fields of `Events`
NONE: Row = (NOTHING, 0.0, 0.0, 0.0, 0, 0, -1.0, 0, 0.0)


def _row(kind: int, time: float, amount: float, aim: int, **more: float) -> Row:
    fields = dict(zip(Events._fields, NONE, strict=True))
    fields |= {"kind": kind, "time": time, "amount": amount, "aim": aim, **more}
    return tuple(float(x) for x in fields.values())


def _table(
    model: ODEModel, regimen: Regimen, targets: list[Target], who: str
) -> tuple[list[Row], list[int]]:
    """The rows of all events, and the event of each; new targets join the list."""
    rows: list[Row] = []
    of: list[int] = []
    begun = courses = 0
    last: Event | None = None
    for number, event in enumerate(regimen.events):
        if isinstance(event, Dose):
            cells = event.unit == CELLS
            courses += event.ss > 0
            here = _doses(model, event, targets, who, courses, begun * cells)
            begun += cells
        else:
            here = [_state_event(model, event, who)]
        if isinstance(event, Dose) and event.ss == 2 and _steady_at(last, event.time):
            # what two of one time begin with stands together, before the doses of both
            place = max(i for i, row in enumerate(rows) if row[0] == STEADY) + 1
            rows.insert(place, here.pop(0))
            of.insert(place, number)
        rows += here
        of += [number] * len(here)
        last = event
    return rows, of


def _steady_at(event: Event | None, time: float) -> bool:
    return isinstance(event, Dose) and event.ss > 0 and abs(event.time - time) < SAME


def _doses(
    model: ODEModel, event: Dose, targets: list[Target], who: str, course: int, occasion: int
) -> list[Row]:
    """The rows of a dose, at least one per target; the first ones are those of steady state."""
    rows, found = [], _targets(model, event, who)
    if event.ss:
        stays = 0.0 if event.ss == 1 else 1.0
        rows.append(_row(STEADY, event.time, stays, 0, interval=event.ii, course=course))
    for target in found:
        kind, amount, duration = _speed(model, event, target, who)
        more = {"duration": duration, "occasion": occasion}
        if event.ss:
            more |= {"interval": event.ii, "course": course}
        row = partial(_row, kind, event.time, amount, _index(target, targets), **more)
        earlier = _running(model, event, target, duration) if event.ss and event.ii else 0
        rows += [row(earlier=k * event.ii) for k in range(earlier, -1, -1)]
    return rows


def _speed(model: ODEModel, event: Dose, target: Target, who: str) -> tuple[int, float, float]:
    """Kind, amount and duration (of PACED doses before bioavailability) of a dose."""
    if isinstance(event, Bolus):
        return BOLUS, event.amount, 0.0
    if event.modelled:
        name = "rate" if event.rate == MODELLED_RATE else "duration"
        if getattr(target, name) is None:
            raise RegimenError(
                f"{who}the dose of {event.product} on day {event.time:g} has rate {event.rate}: "
                f"the model must give its {name}, as ck.Target({target.compartment!r}, "
                f"{name}=lambda p: ...)."
            )
        return (ENDLESS if event.endless else BOLUS), event.amount, 0.0
    if event.endless:
        assert event.rate is not None
        return ENDLESS, event.rate, 0.0
    if event.rate is not None:
        _refuse_conversion(model, event, target, who)
    return (INFUSION if event.rate is None else PACED), event.amount, event.days


def _refuse_conversion(model: ODEModel, event: Infusion, target: Target, who: str) -> None:
    """Where a rate is given, the bioavailability makes the duration and cannot convert units."""
    if target.bioavailability is None:
        return
    share = float(target.bioavailability(model.params()))
    if not 0.01 <= share <= 100:
        raise RegimenError(
            f"{who}the dose of {event.product} on day {event.time:g} has a rate, so that its "
            f"duration is bioavailability times amount over rate; but the bioavailability is "
            f"{share:g}. If that converts units, make it the `scale` of the ck.Target; or give the "
            "duration in place of the rate."
        )


def _running(model: ODEModel, event: Dose, target: Target, duration: float) -> int:
    """How many doses before one at steady state may still run or wait when it is given."""
    params = model.params()
    typical = dict(target.functions)
    lasts = [float(typical[x](params)) for x in ("lag", "duration") if x in typical]
    if target.bioavailability is not None and isinstance(event, Infusion) and event.rate:
        lasts.append(duration)
    if "rate" in typical:
        lasts.append(event.amount / float(typical["rate"](params)))
    # what depends on parameters may be longer than it is in the typical patient
    reach = duration + 2 * sum(lasts)
    return max(0, math.ceil(reach / event.ii - 1e-9) - (not lasts)) if reach else 0


def _state_event(model: ODEModel, event: Reset | Replace | Multiply, who: str) -> Row:
    if isinstance(event, Reset):
        return _row(RESET, event.time, 0.0, 0)
    if event.compartment not in model.states.names():
        raise RegimenError(
            f"{who}{type(event).__name__} on day {event.time:g}: {event.compartment!r} is not a "
            f"state of {model.name!r}; it has {', '.join(model.states.names()) or 'none'}."
        )
    index = model.compartments.index(event.compartment)
    return _row(KINDS[type(event)], event.time, event.amount, index)


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

    def scale(p: Params) -> Numbers:
        value: Numbers = getattr(p, size)
        return value if target.scale is None else target.scale(p) * value

    def rate(p: Params) -> Numbers:
        value: Numbers = getattr(p, size)
        assert target.rate is not None
        return target.rate(p) / value

    return dataclasses.replace(target, scale=scale, rate=target.rate and rate)
