"""The closed form: a model without states is the sum of the responses to its doses."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from carpk._types import Arrays
from carpk.dosing.disposition import Course
from carpk.params import Params
from carpk.solver.events import (
    RESET,
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
        """States (none), outputs, code and number of steps of one patient; works under vmap."""
        events, times, start = patient
        far = jnp.max(jnp.where(jnp.isnan(times), start, times))
        days = jnp.where(jnp.isnan(times), far, times)
        late, duration = structure.course(events, params)
        arrives = events.time + late
        given = _given(structure, events, jnp.asarray(arrives), days)
        since = jnp.where(given, days[:, None] - arrives, 0.0)
        system = System.of(structure, params)
        levels = _levels(system, events, since, given, duration)
        occasion = jnp.max(jnp.where(given, events.occasion, 0), axis=1)
        none = structure.model.states()
        found = jax.vmap(lambda t, k, c: system.during(k).outputs_of(t, none, c))(
            days, occasion, levels
        )
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in found.values()]))
        code = jnp.where(finite, OK, NOT_FINITE)
        return none, found, code, jnp.asarray(0)


def _given(structure: Structure, events: Events, arrives: Array, days: Array) -> Array:
    """Whether a dose has arrived by each day and no reset has taken it away since, (T, K)."""

    def by(time: Arrays) -> Array:
        since = days[:, None] - time
        return since >= 0 if structure.after else since > 0

    order = jnp.arange(events.time.shape[0])
    reset = by(events.time) & (events.kind == RESET)  # (T, resets)
    taken = jnp.any(reset[:, None, :] & (order > order[:, None]), axis=2)
    return by(arrives) & events.dose & ~taken


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
        if target.bioavailability is not None:
            amount = amount * events.by_occasion(target.bioavailability, system.every)
        course = Course(since, duration if structure.infused[g] else None)
        response = modes[name].response(course, target.compartment in model.depots)
        mine = given & (events.aim == g)
        levels[name] = levels[name] + jnp.sum(jnp.where(mine, amount * response, 0.0), axis=1)
    return levels
