"""Steady states of repeated doses: what a body holds that has had them since ever.

Drugs in closed form need only their sum over all doses. The other states are found as the fixed
point of one period, by Newton's method from what some periods leave, on the scale of integration.
Derivatives are those of the fixed point: two more steps of Newton's method with the Jacobian kept
give the first two, whatever the iteration before did.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from carpk._types import Arrays
from carpk.dosing.disposition import Course, Exponentials
from carpk.params import Params
from carpk.solver.events import BOLUS, ENDLESS, Patient, Structure, Timeline
from carpk.solver.system import BEYOND, UNSTEADY, Content, System
from carpk.structural import States

WARM_UP = 8  # periods before Newton's method
ITERATIONS = 20
CLOSE = 1e-12  # relative step at which it stops
ACCEPTED = 1e-5  # residual of a steady state

Walk: TypeAlias = Callable[[System, Timeline, Content], Content]  # through a timeline to its end


class Method(NamedTuple):
    """How a route goes through one period.

    Attributes:
        walk: from the content at the start of a timeline to that at its end.
        jacobian: `jax.jacfwd` or `jax.jacrev`, whichever the walk can.
    """

    walk: Walk
    jacobian: Callable[..., Callable[..., Array]]


class Doses(NamedTuple):
    """The doses of one steady state, (R,); of those that are not there the amount is 0."""

    aim: Array
    amount: Array  # as given; where endless, the rate over the bioavailability
    duration: Array
    late: Array  # days from the record to the arrival
    bolus: Array
    interval: Array  # between doses, 0 where endless
    period: Array  # (), the same; a day where endless
    time: Array  # (), of the record
    occasion: Array  # ()


def begun(
    structure: Structure, params: Params, patient: Patient, method: Method
) -> tuple[Content | None, Array]:
    """What the steady states of a patient put, and the largest residual of them.

    Leaves have a leading axis, with nothing in its first place: states on the natural scale, and
    amplitudes. The residual is the last step of Newton's method relative to the state; infinite
    where there are more doses on their way than a schedule has rows for.
    """
    if not structure.courses:
        return None, jnp.zeros(())
    found = [
        _one(structure, params, patient, method, number)
        for number in range(1, structure.courses + 1)
    ]
    contents = [content for content, _ in found]
    nothing = jax.tree.map(jnp.zeros_like, contents[0])
    stacked: Content = jax.tree.map(lambda *x: jnp.stack(x), nothing, *contents)
    return stacked, jnp.max(jnp.stack([residual for _, residual in found]))


def at(steady: Content | None, line: Timeline, k: Arrays) -> Content | None:
    """What begins at a boundary."""
    number = line.steady[k]
    content: Content | None = jax.tree.map(lambda x: x[number], steady)
    return content


def judged(
    states: States, outputs: dict[str, Array], code: Array, residual: Array
) -> tuple[States, dict[str, Array], Array]:
    """A solution, refused where there is no steady state."""
    bad = ~(residual <= ACCEPTED)
    found: tuple[States, dict[str, Array]]
    found = jax.tree.map(lambda x: jnp.where(bad, jnp.nan, x), (states, outputs))
    return *found, jnp.where(bad, UNSTEADY, code)


def _one(
    structure: Structure, params: Params, patient: Patient, method: Method, number: int
) -> tuple[Content, Array]:
    doses, reach = _doses(structure, params, patient, number)
    system = System.of(structure, params).during(doses.occasion)
    amplitude = _amplitudes(structure, system, doses)
    residual = jnp.where(jnp.any(doses.late + doses.duration > reach), jnp.inf, 0.0)
    if not system.initial:
        return Content((), amplitude), residual

    def period(params: Params) -> Callable[[Array], Array]:
        doses, _ = _doses(structure, params, patient, number)
        system = System.of(structure, params).during(doses.occasion)
        amplitude = _amplitudes(structure, system, doses)
        line = _line(structure, doses)

        def after(u: Array) -> Array:
            return jnp.stack(method.walk(system, line, Content(tuple(u), amplitude)).u)

        return after

    fixed = jax.lax.stop_gradient(params)
    begin = jax.lax.stop_gradient(jnp.stack(system.scaled(system.initial)))
    logs = jnp.array(structure.model.logs)
    u, remaining, jacobian = _newton(period(fixed), begin, logs, method)
    u, remaining, jacobian = jax.lax.stop_gradient((u, remaining, jacobian))
    after = period(params)
    for _ in range(2):
        u = u + jnp.linalg.solve(jnp.eye(u.shape[0]) - jacobian, after(u) - u)
    stays = jnp.asarray(patient.events.amount)[_record(patient, number)]
    natural = tuple(  # SS = 2 adds what doses have changed
        y - stays * start for y, start in zip(system.natural(tuple(u)), system.initial, strict=True)
    )
    return Content(natural, amplitude), jnp.maximum(residual, remaining)


def _newton(
    after: Callable[[Array], Array], begin: Array, logs: Array, method: Method
) -> tuple[Array, Array, Array]:
    """The fixed point, the last step towards it, relative to it, and the Jacobian of a period.

    The step and not what changes over a period: where more is given than can be eliminated that
    becomes small beside what there is.
    """
    jacobian = method.jacobian(after)

    def size(step: Array, u: Array) -> Array:
        level = jnp.abs(u) + BEYOND * jnp.max(jnp.abs(u)) + 1e-300
        found = jnp.max(jnp.abs(step) / jnp.where(logs, 1.0, level))
        return jnp.where(jnp.isfinite(found), found, jnp.inf)

    def step(
        carry: tuple[Array, Array, Array, Array],
    ) -> tuple[Array, Array, Array, Array]:
        u, remaining, _, count = carry
        end, matrix = after(u), jacobian(u)
        by = jnp.linalg.solve(jnp.eye(u.shape[0]) - matrix, end - u)
        left = size(by, u + by)
        better = left < remaining  # otherwise Newton's method leads away, and a period goes on
        return jnp.where(better, u + by, end), jnp.where(better, left, remaining), matrix, count + 1

    def goes_on(carry: tuple[Array, Array, Array, Array]) -> Array:
        return (carry[1] > CLOSE) & (carry[3] < ITERATIONS) & jnp.all(jnp.isfinite(carry[0]))

    u = jax.lax.fori_loop(0, WARM_UP, lambda _, u: after(u), begin)
    none = jnp.zeros((u.shape[0], u.shape[0]))
    start = (u, jnp.asarray(jnp.inf), none, jnp.asarray(0))
    u, remaining, matrix, _ = jax.lax.while_loop(goes_on, step, start)
    return u, remaining, matrix


def _record(patient: Patient, number: int) -> Array:
    """Row of the record of a steady state."""
    return jnp.argmax(patient.events.course == number)


def _doses(
    structure: Structure, params: Params, patient: Patient, number: int
) -> tuple[Doses, Array]:
    """The doses of a steady state, and how long each may be on its way (R,)."""
    events = patient.events
    own = (events.course == number) & events.dose
    mine = own & (events.earlier == 0)
    rows = jnp.argsort(~mine, stable=True)[: structure.abreast]
    there = mine[rows]
    late, duration = structure.course(events, params)
    amount = jnp.asarray(events.amount)
    endless = events.kind == ENDLESS
    for g, target in enumerate(structure.targets):
        here, of = endless & (events.aim == g), partial(events.by_occasion, params=params)
        if target.rate is not None:
            amount = jnp.where(here & (amount == 0), of(target.rate), amount)
        if target.bioavailability is not None:  # which does not change a rate
            amount = jnp.where(here, amount / of(target.bioavailability), amount)
    interval = jnp.where(there, events.interval[rows], 0.0)
    every = jnp.max(interval)
    before = jnp.where(own & (events.aim == events.aim[rows][:, None]), events.earlier, 0.0)
    record = _record(patient, number)
    doses = Doses(
        aim=events.aim[rows],
        amount=jnp.where(there, amount[rows], 0.0),
        duration=jnp.where(there, duration[rows], 0.0),
        late=jnp.where(there, late[rows], 0.0),
        bolus=(events.kind[rows] == BOLUS) & (duration[rows] <= 0),
        interval=interval,
        period=jnp.where(every > 0, every, 1.0),
        time=jnp.asarray(events.time)[record],
        occasion=jax.lax.cummax(jnp.asarray(events.occasion))[record],
    )
    reach = jnp.where(every > 0, jnp.max(before, axis=1) + every, jnp.inf)
    return doses, reach


def _amplitudes(structure: Structure, system: System, doses: Doses) -> tuple[Exponentials, ...]:
    """Amplitudes of each input just before the dose of the record."""
    model = structure.model
    # the last dose before that has arrived, at the time of the record or before it
    since = (jnp.floor(doses.late / doses.period) + 1) * doses.period - doses.late
    course = Course(jnp.where(doses.interval > 0, since, 0.0), doses.duration, doses.interval)
    into = jnp.array(structure.into)[doses.aim]
    arrives = doses.amount * jnp.stack(system.share)[doses.aim]
    found = []
    for name, modes in zip(model.inputs, system.modes, strict=True):
        total = modes.nothing()
        for compartment, depot in ((name, False), (f"{name}_depot", True)):
            if depot and compartment not in model.depots:
                continue
            goes = arrives * (into == model.compartments.index(compartment))
            each = modes.amplitudes(course, depot)
            total = tuple(a + jnp.sum(goes * b) for a, b in zip(total, each, strict=True))
        found.append(total)
    return tuple(found)


def _line(structure: Structure, doses: Doses) -> Timeline:
    """The timeline of one period, up to the record."""
    period = doses.period
    arrive = jnp.mod(doses.late, period)
    end = jnp.mod(arrive + doses.duration, period)
    zero = jnp.zeros(1)
    every = jnp.concatenate([zero, arrive, end, jnp.reshape(period, (1,))])
    rank = jnp.argsort(every, stable=True)
    phase = every[rank]
    where = jnp.argsort(rank, stable=True)[1 : 1 + arrive.shape[0]]
    boundaries, size = phase.shape[0], len(structure.model.compartments)
    goes = jax.nn.one_hot(doses.aim, len(structure.targets))
    dose = jnp.where(doses.bolus, doses.amount, 0.0)[:, None] * goes
    middle = (phase[:-1] + phase[1:]) / 2
    age = jnp.mod(middle[:, None] - arrive, period)
    running = jnp.maximum(jnp.ceil((doses.duration - age) / period), 0.0)
    length = jnp.where(doses.duration > 0, doses.duration, 1.0)
    flow = jnp.where(doses.duration > 0, running * doses.amount / length, 0.0)
    flow = jnp.where(doses.interval > 0, flow, doses.amount)
    return Timeline(
        time=doses.time - period + phase,
        keep=jnp.ones((boundaries, size)),
        reset=jnp.zeros((boundaries, size)),
        put=jnp.zeros((boundaries, size)),
        dose=jnp.zeros((boundaries, goes.shape[1])).at[where].add(dose),
        rate=jnp.concatenate([flow @ goes, jnp.zeros((1, goes.shape[1]))]),
        steady=jnp.zeros(boundaries, int),
        at=jnp.zeros(0, int),
        occasion=jnp.broadcast_to(doses.occasion, (boundaries,)),
    )
