"""The closed form: a model without states is the sum of the responses to its doses."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from carpk._types import Arrays
from carpk.dosing.disposition import Course
from carpk.dosing.regimen import SAME
from carpk.params import Params
from carpk.solver.events import (
    ENDLESS,
    Events,
    Patient,
    Structure,
    Timeline,
)
from carpk.solver.system import NOT_FINITE, OK, Solved, System


@dataclasses.dataclass(frozen=True)
class Superposition:
    """Settings of the closed form: there are none."""

    method: str = ""

    def solve(
        self, structure: Structure, line: Timeline | None, params: Params, patient: Patient
    ) -> Solved:
        """States (none), outputs, code, steps and residual of one patient; works under vmap."""
        events, times, order, start = patient
        far = jnp.max(jnp.where(jnp.isnan(times), start, times))
        days = jnp.where(jnp.isnan(times), far, times)
        late, duration = structure.course(events, params)
        given, back = _given(events, late, days, jnp.asarray(order))
        since = days[:, None] - events.time - late + back * events.interval
        since = jnp.where(given, jnp.maximum(since, 0.0), 0.0)
        system = System.of(structure, params)
        levels = _levels(system, events, since, given, duration)
        occasion = jnp.max(jnp.where(given, events.occasion, 0), axis=1)
        none = structure.model.states()
        found = jax.vmap(lambda t, k, c: system.during(k).outputs_of(t, none, c))(
            days, occasion, levels
        )
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in found.values()]))
        code = jnp.where(finite, OK, NOT_FINITE)
        return none, found, code, jnp.asarray(0), jnp.zeros(())


def _given(events: Events, late: Array, days: Array, order: Array) -> tuple[Array, Array]:
    """Whether a dose counts on each day, and how many doses before it are the last to have arrived.

    (T, K). A dose counts when it has arrived and is not reset since; one at steady state from its
    record on, for what the doses before it left.
    """
    number = jnp.arange(events.time.shape[0])

    def by(time: Arrays, first: Arrays | bool, width: float = 0.0) -> Array:
        since = days[:, None] - time
        return (since > width) | ((since >= -width) & first)

    follows = order[:, None] > number
    wiped = by(events.time, follows) & events.wipes  # (T, resets)
    taken = jnp.any(wiped[:, None, :] & (number > number[:, None]), axis=2)
    arrives = events.time + late
    arrived = jnp.where(late > 0, by(arrives, True, SAME), by(events.time, follows))
    steady = jnp.asarray(events.interval) >= 0
    record = jnp.argmax(jnp.asarray(events.course) == events.course[:, None], axis=1)
    begun = by(events.time, order[:, None] > record)
    counts = jnp.where(steady, begun, arrived) & events.dose & (events.earlier == 0) & ~taken
    interval = jnp.asarray(jnp.where(events.interval > 0, events.interval, jnp.inf))
    back = jnp.ceil(jnp.maximum(arrives - days[:, None], 0.0) / interval)
    back = jnp.where((events.interval > 0) & ~arrived, jnp.maximum(back, 1.0), 0.0)
    return counts, jax.lax.stop_gradient(back)


def _levels(
    system: System, events: Events, since: Array, given: Array, duration: Array
) -> dict[str, Array]:
    """Concentration of each input, (T,)."""
    structure, model = system.structure, system.structure.model
    levels = {name: jnp.zeros(since.shape[0]) for name in model.inputs}
    modes = dict(zip(model.inputs, system.modes, strict=True))
    for g, target in enumerate(structure.targets):
        name = model.depots.get(target.compartment, target.compartment)
        amount = jnp.asarray(events.amount)
        endless = events.kind == ENDLESS  # their amount is a rate
        if target.rate is not None:
            rate = events.by_occasion(target.rate, system.every)
            amount = jnp.where(endless & (amount == 0), rate, amount)
        if target.bioavailability is not None:
            share = events.by_occasion(target.bioavailability, system.every)
            amount = amount * jnp.where(endless, 1.0, share)
        if target.scale is not None:
            amount = amount * events.by_occasion(target.scale, system.every)
        course = Course(
            since,
            duration if structure.infused[g] else None,
            jnp.asarray(events.interval) if structure.courses else None,
        )
        response = modes[name].response(course, target.compartment in model.depots)
        mine = given & (events.aim == g)
        levels[name] = levels[name] + jnp.sum(jnp.where(mine, amount * response, 0.0), axis=1)
    return levels
