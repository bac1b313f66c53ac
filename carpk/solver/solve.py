"""Solving structural models given by differential equations.

    sol = ck.solve(model, regimen, days)            one patient, the adaptive route
    sol["car_t"]                                    shape (time,)
    sol.states.C, sol.reason

    solve_many(model, regimen, days, params)        a virtual population
    solver = Solver.prepare(schedule, reference)        any patients, again and again
    solver(params)                                  outputs, name -> (patient, time)

A solution that fails is nan with a reason, never an exception.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from carpk._tables import as_frame
from carpk._types import Arrays
from carpk.dosing.regimen import UNTOLD, Regimen
from carpk.errors import ModelError
from carpk.params import Params
from carpk.solver import mesh
from carpk.solver.adaptive import ATOL, RTOL, STIFF, Adaptive
from carpk.solver.events import Patient, Schedule, Structure, Timeline
from carpk.solver.march import Steps, march
from carpk.solver.superposed import Superposition
from carpk.solver.system import OK, REASONS, Solved
from carpk.structural import ODEModel, States

if TYPE_CHECKING:
    import pandas as pd

CHUNK = 512  # patients that run side by side
BLOCK = 8 * CHUNK  # patients that one thread takes at a time
SUSPECT = 10.0  # times the largest error of a step in the sample: solved again, adaptively
AGAIN_RTOL = 1e-7  # of the adaptive route then
SAMPLE = 256  # virtual patients for whom a mesh is chosen
ROUTES = ("auto", "adaptive", "mesh")


@dataclasses.dataclass(frozen=True)
class Solution:
    """The states and outputs of one patient.

    Attributes:
        time: days, (time,).
        states: compartments, leaves (time,).
        outputs: name -> (time,).
        units: name -> unit.
        reason: why the solution is nan; "" where it is not.
        steps: how many the integrator took.
        route: "adaptive" or "mesh", and how it was chosen.
        residual: of the doses at steady state, how far any state was from it in the last step of
            Newton's method, relative to it; NaN where there are no such doses.
        extinct: output -> first of these days on which less than one cell of it is left, where the
            model says what one cell is. Its return after that is not a relapse.
    """

    time: np.ndarray
    states: States
    outputs: Mapping[str, Array]
    units: Mapping[str, str]
    reason: str
    steps: int
    route: str
    residual: float = math.nan
    extinct: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __getitem__(self, output: str) -> Array:
        if output not in self.outputs:
            raise ModelError(
                f"The solution has no output {output!r}; it has {', '.join(self.outputs)}, and "
                f"the states {', '.join(self.states.names())} in `states`."
            )
        return self.outputs[output]

    def table(self) -> pd.DataFrame:
        """One row per time: outputs, then states."""
        states = {n: np.asarray(getattr(self.states, n)) for n in self.states.names()}
        outputs = {f"{k} [{self.units[k]}]": np.asarray(v) for k, v in self.outputs.items()}
        return as_frame({**outputs, **states}, labels=("time", self.time.tolist()))

    def __repr__(self) -> str:
        head = f"Solution: {self.steps} steps, {self.route} route"
        if not math.isnan(self.residual):
            head += f", steady state to {self.residual:.1e}"
        if self.reason:
            head += f"; FAILED: {self.reason}"
        for output, day in self.extinct.items():
            head += (
                f"\n{output}: less than one cell from day {day:g}; what returns is not a relapse"
            )
        return head + "\n" + self.table().to_string(float_format="{:.4g}".format)


def solve(
    model: ODEModel,
    regimen: Regimen,
    days: ArrayLike,
    params: Params | None = None,
    *,
    route: str = "adaptive",
    method: str = "auto",
    rtol: float | None = None,
    atol: float = ATOL,
    start: float | None = None,
    after: bool = False,
) -> Solution:
    """Solve the equations of one patient.

    Args:
        model: structural model.
        regimen: doses and changes of state; amounts absolute.
        days: times of observation, ascending, shape (time,).
        params: the patient's parameters; the typical patient's if left out.
        route: "adaptive", or "mesh" as fits and virtual populations use it.
        method: of the adaptive route: "tsit5", "dopri8" (explicit), "kvaerno5", "kvaerno3"
            (stiff); "auto" tries "tsit5", and "kvaerno5" where that needs too many steps.
        rtol: relative error allowed per step (adaptive, 1e-8 if left out) or in the outputs (mesh,
            1e-4 if left out).
        atol: absolute one, of states not integrated as logs, in their own unit.
        start: first day; that of the first event or observation if left out.
        after: whether an observation at the time of an event sees what is there after it. The
            default is the value before a dose, as in NONMEM.

    Returns:
        A `Solution`; nan with a `reason` where the equations cannot be solved.
    """
    if route not in ROUTES[1:]:
        raise ModelError(f'solve: the route must be "adaptive" or "mesh", but is {route!r}.')
    params = model.params() if params is None else params
    check_params(model, params)
    for name, value in params.items():
        if np.ndim(value):
            raise ModelError(
                f"solve: the parameter {name!r} has shape {np.shape(value)}, but one patient has "
                "numbers; carpk.simulate takes many patients."
            )
    days = np.asarray(days, float)
    schedule = _schedule(model, regimen, days, start, after)
    each = jax.tree.map(lambda x: jnp.asarray(x, float)[None], params)
    if route == "mesh":
        reference = jax.tree.map(lambda x: x[None], each)
        solver = Solver.prepare(schedule, reference, rtol=1e-4 if rtol is None else rtol, share=1.0)
    else:
        solver = Solver.adaptive(schedule, method, RTOL if rtol is None else rtol, atol)
    states, outputs, code, steps, residual = solver.run(each)
    if route == "adaptive" and method == "auto" and int(code[0]) != OK:
        stiff = solver.adaptively("kvaerno5", RTOL if rtol is None else rtol, atol)
        solver = dataclasses.replace(stiff, why=f"tsit5 failed, {REASONS[int(code[0])]}")
        states, outputs, code, steps, residual = solver.run(each)
    first = partial(jax.tree.map, lambda x: x[0])
    return Solution(
        time=days,
        states=first(states),
        outputs=first(outputs),
        units=model.units,
        reason=REASONS[int(code[0])],
        steps=int(steps[0]),
        residual=float(residual[0]) if schedule.structure.courses else math.nan,
        route=solver.describe(),
        extinct={
            name: float(days[when])
            for name, one in model.one_cell.items()
            if (when := first_below(np.asarray(outputs[name])[0], one)) < len(days)
        },
    )


def _schedule(
    model: ODEModel, regimen: Regimen, days: np.ndarray, start: float | None, after: bool
) -> Schedule:
    follows = len(regimen.events) if after else UNTOLD
    return Schedule.of(model, [regimen], days, start=start, follows=follows)


def first_below(values: np.ndarray, one: float) -> np.ndarray:
    """Index along the last axis at which the values first fall below `one`; its length if never."""
    below = (values < one) & (np.maximum.accumulate(values, axis=-1) >= one)
    first: np.ndarray = np.where(below.any(axis=-1), below.argmax(axis=-1), values.shape[-1])
    return first


def check_params(model: ODEModel, params: Params) -> None:
    """Refuse parameters of another model, or that are not numbers."""
    model.check()
    if not isinstance(params, model.params):
        raise ModelError(
            f"Model {model.name!r} needs its own parameters, {model.name}.params(...), but got "
            f"{type(params).__name__}."
        )
    for name, value in params.items():
        if isinstance(value, jax.core.Tracer):
            continue
        bad = ~np.isfinite(np.asarray(value, float))
        if bad.any():
            raise ModelError(
                f"Model {model.name!r}: the parameter {name!r} is {np.asarray(value)[bad][0]}"
                + (f" for {bad.sum()} patients" if bad.size > 1 else "")
                + ", but must be a finite number."
            )
    if any(isinstance(value, jax.core.Tracer) for _, value in params.items()):
        return
    for product, target in model.every_target():
        for what, f in target.functions.items():
            if np.any(np.asarray(f(params)) < 0):
                raise ModelError(
                    f"Model {model.name!r}: the {what} of {product!r} is {np.min(f(params)):g}, "
                    "but must be at least 0; look at the parameters it is made of."
                )


def _adaptive(method: str, rtol: float, atol: float) -> Adaptive:
    method = "tsit5" if method == "auto" else method
    return Adaptive(method, rtol, atol, 10_000 if method not in STIFF else 20_000)


@dataclasses.dataclass(frozen=True)
class Solver:
    """The equations of many patients, ready to be solved at any parameters.

    Attributes:
        schedule: events and times of P patients; P = 1 serves any number of patients who get the
            same.
        line: their timelines, where no dose lags.
        mesh: the steps; None on the adaptive route.
        settings: of the adaptive route, or the closed form of a model without states.
        why: why the adaptive route was taken; "" where it was asked for.
    """

    schedule: Schedule
    line: Timeline | None
    mesh: mesh.Mesh | None
    settings: Adaptive | Superposition
    why: str = ""

    @classmethod
    def adaptive(
        cls, schedule: Schedule, method: str = "auto", rtol: float = RTOL, atol: float = ATOL
    ) -> Solver:
        """On the adaptive route."""
        settings = _adaptive(method, rtol, atol)
        return cls(schedule, None if schedule.structure.moves else schedule.fixed(), None, settings)

    def adaptively(self, method: str = "auto", rtol: float = RTOL, atol: float = ATOL) -> Solver:
        """A copy on the adaptive route."""
        return Solver(self.schedule, self.line, None, _adaptive(method, rtol, atol))

    @classmethod
    def prepare(
        cls,
        schedule: Schedule,
        reference: Params,
        *,
        route: str = "auto",
        rtol: float = 1e-4,
        share: float = 0.95,
    ) -> Solver:
        """On the mesh route, or on the adaptive one where that fails; `why` says why.

        Args:
            reference: parameters that stand for those to come, leaves (D, P) or (D, P, infusion).
            route: "adaptive" skips the mesh.
            rtol, share: see `mesh.choose`.
        """
        schedule.structure.model.check()
        if not schedule.structure.model.states.names() and route != "adaptive":
            return cls(schedule, None, None, Superposition())
        line = None if schedule.structure.moves else schedule.fixed()
        stiff = Adaptive("kvaerno5", 1e-7, ATOL)
        if route == "adaptive":
            return cls(schedule, line, None, stiff)
        chosen = mesh.choose(schedule, reference, rtol=rtol, share=share, line=line)
        if isinstance(chosen, mesh.Mesh):
            return cls(schedule, line, chosen, stiff)
        return cls(schedule, line, None, stiff, chosen)

    @property
    def exact(self) -> bool:
        """It is a closed form."""
        return isinstance(self.settings, Superposition)

    @property
    def method(self) -> str:
        """Method of the adaptive route; "" on the mesh."""
        return self.settings.method if self.mesh is None else ""

    def describe(self) -> str:
        """The route, and how it came to be."""
        if self.mesh is not None:
            return f"mesh ({self.mesh!r})"
        if self.exact:
            return "closed form (a sum over doses)"
        return f"adaptive ({self.settings.method}" + (f": {self.why})" if self.why else ")")

    def __call__(self, params: Params) -> dict[str, Array]:
        """Outputs, name -> (P, T); nan where a solution fails."""
        return self.run(params)[1]

    def run(self, params: Params, *, error_limit: float | None = None) -> Solved:
        """States and outputs (P, T), codes and numbers of steps (P,); for jit, grad and vmap.

        Args:
            params: leaves (P,), or (P, infusion) where they differ between infusions; of any number
                of patients where the schedule is for one.
            error_limit: on the mesh route, report patients for whom the estimated error of any step
                exceeds it as TOO_COARSE; without derivatives.
        """
        (size, *each), known = np.shape(jax.tree.leaves(params)[0]), self.schedule.patients
        if known not in (1, size):
            raise ModelError(
                f"The solver was made for {known} patients, but got parameters of {size}."
            )
        if each and each[0] < self.schedule.occasions:
            raise ModelError(
                f"The solver was made for {self.schedule.occasions} infusions, but got "
                f"parameters of {each[0]}."
            )
        steps = None if self.mesh is None else self.mesh.steps
        structure = self.schedule.structure
        solved: Solved = _run(
            structure, self.settings, error_limit, self.line, steps, params, self.schedule.rows
        )
        return solved


@dataclasses.dataclass(frozen=True)
class Patients:
    """Solutions of many patients.

    Attributes:
        outputs: name -> (P, T).
        code: (P,), keys of `REASONS`.
        solver: what solved them.
        again: how many were solved again on the adaptive route.
    """

    outputs: Mapping[str, np.ndarray]
    code: np.ndarray
    solver: Solver
    again: int

    @property
    def failures(self) -> dict[str, int]:
        """Reason -> number of patients without a solution."""
        codes, counts = np.unique(self.code[self.code != OK], return_counts=True)
        return {REASONS[int(c)]: int(n) for c, n in zip(codes, counts, strict=True)}


def solve_many(
    model: ODEModel,
    regimen: Regimen,
    days: ArrayLike,
    params: Params,
    *,
    route: str = "auto",
    rtol: float = 1e-4,
    start: float | None = None,
    after: bool = False,
) -> Patients:
    """Solve the equations of many patients who are given the same.

    The mesh is chosen for a sample of these patients, and holds for nearly all of that sample;
    patients for whom it is too coarse, by the estimated error of their steps, are solved again on
    the adaptive route, by an explicit and then by a stiff method. Patients go in blocks, one thread
    each, so that memory does not grow with their number beyond the result.

    Args:
        params: leaves (P,), or (P, infusion) where they differ between infusions, or a number where
            all patients share it.
        route: "auto", "mesh" or "adaptive".
        rtol: largest relative error of the outputs.
        others: as in `solve`.
    """
    if route not in ROUTES:
        raise ModelError(f"solve_many: the route must be one of {ROUTES}, but is {route!r}.")
    check_params(model, params)
    schedule = _schedule(model, regimen, np.asarray(days, float), start, after)
    shape = np.broadcast_shapes((1,), *(np.shape(x) for x in jax.tree.leaves(params)))
    params = jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(x, float), shape), params)
    sample = np.linspace(0, shape[0] - 1, min(shape[0], SAMPLE)).astype(int)
    reference = jax.tree.map(lambda x: x[sample, None], params)
    solver = Solver.prepare(schedule, reference, route=route, rtol=rtol, share=0.99)
    return solve_all(solver, params)


def solve_all(solver: Solver, params: Params) -> Patients:
    """Solve many patients with a solver that is ready; see `solve_many`.

    Args:
        params: leaves (P,) or (P, infusion).
    """
    outputs, code = _in_blocks(solver, params)
    failed = again = np.flatnonzero(code != OK)
    for method in ("tsit5", "kvaerno5"):
        if not failed.size or method == solver.method:
            continue
        adaptive = solver.adaptively(method, AGAIN_RTOL)
        # a few more than needed, so that other numbers of patients find the code compiled
        padded = np.resize(failed, 1 << max(4, int(failed.size - 1).bit_length()))
        some = jax.tree.map(lambda x, chosen=padded: x[chosen], params)
        values, codes = _in_blocks(adaptive, some)
        code[failed] = codes[: failed.size]
        for name in outputs:
            outputs[name][failed] = values[name][: failed.size]
        failed = failed[code[failed] != OK]
    return Patients(outputs, code, solver, again.size)


def _in_blocks(solver: Solver, params: Params) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Outputs and codes, computed block by block in threads; all blocks have one shape."""
    size = len(jax.tree.leaves(params)[0])
    block = min(BLOCK, size)
    starts = range(0, size, block)
    error_limit = None if solver.mesh is None else SUSPECT * solver.mesh.local

    def one(first: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        index = np.minimum(np.arange(first, first + block), size - 1)
        some = jax.tree.map(lambda x: x[index], params)
        _, outputs, code, *_ = solver.run(some, error_limit=error_limit)
        done: tuple[dict[str, np.ndarray], np.ndarray]
        done = jax.tree.map(np.asarray, (outputs, code))
        return done

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = list(pool.map(one, starts))
    outputs = {k: np.concatenate([p[0][k] for p in parts])[:size] for k in parts[0][0]}
    return outputs, np.concatenate([p[1] for p in parts])[:size]


@partial(jax.jit, static_argnums=(0, 1, 2))
def _run(
    structure: Structure,
    settings: Adaptive | Superposition,
    error_limit: float | None,
    line: Timeline | None,
    steps: Steps[Arrays] | None,
    params: Params,
    patients: Patient,
) -> Solved:
    """States, outputs, codes and steps of all patients, `CHUNK` of them side by side."""
    size = jax.tree.leaves(params)[0].shape[0]
    shared = patients.start.shape[0] == 1 and size > 1

    def all_of(
        params: Params, line: Timeline | None, steps: Steps[Arrays] | None, patients: Patient
    ) -> Solved:
        axis = None if shared else 0
        if steps is None:
            one = partial(settings.solve, structure)
            return jax.vmap(one, in_axes=(axis, 0, axis))(line, params, patients)
        axes: Steps[int | None] = Steps(axis, axis, axis, axis, None, axis)
        one = partial(march, structure, jax.tree.leaves(params)[0].shape[0], error_limit)
        return jax.vmap(one, in_axes=(axis, axes, 0, axis))(line, steps, params, patients)

    if shared:
        line, patients = jax.tree.map(lambda x: x[0], (line, patients))
        steps = steps and steps.each(lambda x: x[0])
    if size <= CHUNK:
        return all_of(params, line, steps, patients)
    chunks = -(-size // CHUNK)
    index = jnp.minimum(jnp.arange(chunks * CHUNK), size - 1).reshape(chunks, CHUNK)

    def chunk(i: Array) -> Solved:
        pick = partial(jax.tree.map, lambda x: x[i])
        if shared:
            return all_of(pick(params), line, steps, patients)
        some = steps and steps.each(pick)
        return all_of(pick(params), pick(line), some, pick(patients))

    every = jax.lax.map(chunk, index)
    solved: Solved = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:size], every)
    return solved
