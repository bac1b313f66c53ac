"""carpk on both problems, in the shape of its peers.

    seconds, log_outputs = forward(problem, params, rtol)
    seconds, value, gradient = gradient(theta, observed, rtol)

Arguments as in `forward_peers` and `gradient_peers`, but `rtol` is carpk's: a bound on the relative
error of the outputs, not of a step. The mesh is chosen for other patients of the same population;
choosing and compiling happen once, before the clock starts: `forward_build`, `gradient_build`.

The drug of the five-state problem is a `Disposition`, solved in closed form, as a user of carpk
would write it. The Kimmel problem is the library's `kimmel2021`.
"""

import time
from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from gradient_peers import Gradient, timed
from problems import FIVE_STATE, KIMMEL, RESIDUAL_SD, Problem, sample

import carpk as ck
from carpk.solver.events import Schedule
from carpk.solver.solve import Solver, solve_all

MESH_SEED = 7  # not that of the patients who are simulated
FORWARD_DRAWS = 256
FORWARD_SHARE = 0.99  # of the draws, within rtol
PATIENT_DRAWS = 16  # for each patient of a gradient, whose mesh is the patient's own


def assumed(name: str, unit: str, about: str):
    """A parameter with the value that `problems` gives it."""
    value = FIVE_STATE.typical[FIVE_STATE.parameters.index(name)]
    return ck.param(value, unit, about, "assumed")


class FiveStateParams(ck.Params):
    kel: ck.Scalar = assumed("kel", "1/day", "elimination of the drug")
    kD: ck.Scalar = assumed("kD", "L/mg/day", "killing by the drug")
    rN: ck.Scalar = assumed("rN", "1/day", "growth of normal lymphocytes")
    KN: ck.Scalar = assumed("KN", "cells/µL", "capacity for lymphocytes")
    rho: ck.Scalar = assumed("rho", "1/day", "expansion of effectors")
    LH: ck.Scalar = assumed("LH", "cells/µL", "lymphocytes that halve the expansion")
    dE: ck.Scalar = assumed("dE", "1/day", "death of effectors")
    kEM: ck.Scalar = assumed("kEM", "1/day", "effectors that become memory cells")
    dM: ck.Scalar = assumed("dM", "1/day", "death of memory cells")
    g: ck.Scalar = assumed("g", "1/day", "growth of the tumor")
    gB: ck.Scalar = assumed("gB", "1/day", "largest killing rate")
    kB: ck.Scalar = assumed("kB", "cells/µL", "effectors that kill at half the largest rate")


class FiveStates(ck.States):
    N: ck.Scalar = ck.state("cells/µL", "normal lymphocytes", log=True)
    E: ck.Scalar = ck.state("cells/µL", "effector CAR-T cells", log=True)
    M: ck.Scalar = ck.state("cells/µL", "memory CAR-T cells")
    B: ck.Scalar = ck.state("mL", "tumor", log=True)


def five_state_field(t, y, p, c):
    total = y.N + y.E + y.M
    crowding = total / p.LH
    growth = p.rho * y.B / (y.B + 10.0) / (1.0 + crowding * crowding)
    return FiveStates(
        N=y.N * (p.rN * jnp.log(p.KN / total) - p.kD * c["drug"]),
        E=y.E * (growth - p.dE - p.kEM),
        M=p.kEM * y.E - p.dM * y.M,
        B=y.B * (p.g * (1.0 - y.B / 3000.0) - p.gB * y.E / (p.kB + y.E)),
    )


FIVE_STATE_MODEL = ck.ODEModel(
    name="five_state",
    params=FiveStateParams,
    states=FiveStates,
    vector_field=five_state_field,
    initial=lambda p: FiveStates(N=p.KN, E=0.0, M=0.0, B=100.0),
    inputs={"drug": lambda p: ck.Disposition(clearance=p.kel, volume=1.0)},
    targets={"drug": ck.Target("drug", unit="mg"), "car_t": ck.Target("E")},
    outputs={"car_t": lambda t, y, p, c: y.E + y.M},
    units={"car_t": "cells/µL"},
)


@cache
def case(problem: Problem) -> tuple[ck.ODEModel, ck.Regimen, tuple[str, ...]]:
    """Model, regimen, and the outputs whose logarithms are those of the problem."""
    if problem == KIMMEL:
        return ck.load_model("kimmel2021"), ck.Regimen.cells(0.0, 1.8e8), ("car_t", "tumor")
    doses = []
    for day, state, amount in FIVE_STATE.events:
        drug = FIVE_STATE.states[state] == "D"
        product, unit = ("drug", "mg") if drug else ("car_t", "cells")
        doses.append(ck.Bolus(day, amount, product=product, unit=unit))
    return FIVE_STATE_MODEL, ck.Regimen(tuple(doses)), ("car_t",)


def parameters(problem: Problem, values) -> ck.Params:
    """The model's parameters from `values` (..., parameter), in the order of the problem.

    What else the model has (initial levels of kimmel2021) stays at its default.
    """
    model, _, _ = case(problem)
    first = values[..., 0]
    defaults = {k: jnp.full(first.shape, info.value) for k, info in model.params.info().items()}
    given = {name: values[..., i] for i, name in enumerate(problem.parameters)}
    return model.params(**{**defaults, **given})


def plan(problem: Problem, patients: int = 1) -> Schedule:
    """Doses and output times of the problem, for one patient or each of several."""
    model, regimen, _ = case(problem)
    return Schedule.of(
        model, [regimen] * patients, np.array(problem.times, float), start=problem.start
    )


def prepared(problem: Problem, draws: np.ndarray, rtol: float, share: float) -> Solver:
    """A solver whose mesh is chosen on `draws` (draw, patient, parameter)."""
    of = plan(problem, draws.shape[1])
    solver = Solver.prepare(of, parameters(problem, draws), rtol=rtol, share=share)
    if solver.mesh is None:
        raise RuntimeError(f"No mesh: {solver.why}.")
    return solver


@cache
def forward_solver(problem: Problem, rtol: float) -> tuple[float, Solver]:
    """Seconds to choose the mesh, and the solver, for any number of patients."""
    started = time.perf_counter()
    draws = sample(problem, FORWARD_DRAWS, MESH_SEED)[:, None]
    solver = prepared(problem, draws, rtol, FORWARD_SHARE)
    return time.perf_counter() - started, solver


@cache
def forward_compiled(problem: Problem, rtol: float, patients: int) -> tuple[float, Callable]:
    """Seconds to compile, and the function params (patient, parameter) -> log outputs."""
    _, solver = forward_solver(problem, rtol)
    _, _, names = case(problem)

    def log_outputs(values):
        outputs = solver(parameters(problem, values))
        return jnp.stack([jnp.log(outputs[name]) for name in names], axis=-1)

    started = time.perf_counter()
    shape = jax.ShapeDtypeStruct((patients, len(problem.parameters)), float)
    compiled = jax.jit(log_outputs).lower(shape).compile()
    return time.perf_counter() - started, compiled


def forward_build(problem: Problem, patients: int, rtol: float) -> tuple[float, float, int]:
    """Seconds to choose the mesh and to compile, and the number of steps."""
    choose, solver = forward_solver(problem, rtol)
    return choose, forward_compiled(problem, rtol, patients)[0], solver.mesh.size


def forward_checked(problem: Problem, params: np.ndarray, rtol: float) -> tuple[float, np.ndarray]:
    """What `carpk.simulate` does: the mesh, and who it is too coarse for once more, adaptively."""
    _, solver = forward_solver(problem, rtol)
    _, _, names = case(problem)
    of = parameters(problem, jnp.asarray(params))
    started = time.perf_counter()
    outputs = solve_all(solver, of).outputs
    logs = np.stack([np.log(outputs[name]) for name in names], axis=-1)
    return time.perf_counter() - started, logs


def forward(problem: Problem, params: np.ndarray, rtol: float) -> tuple[float, np.ndarray]:
    """Mesh route; one mesh for all patients."""
    _, compiled = forward_compiled(problem, rtol, len(params))
    started = time.perf_counter()
    outputs = np.asarray(compiled(params))
    return time.perf_counter() - started, outputs


@cache
def gradient_solver(route: str, patients: int, rtol: float) -> tuple[float, Solver]:
    """Seconds to choose the meshes, one per patient, and the solver; `route` "mesh" or "adaptive".

    On the adaptive route `rtol` is that of a step.
    """
    if route == "adaptive":
        return 0.0, Solver.adaptive(plan(FIVE_STATE, patients), rtol=rtol)
    started = time.perf_counter()
    draws = sample(FIVE_STATE, PATIENT_DRAWS * patients, MESH_SEED)
    draws = draws.reshape(PATIENT_DRAWS, patients, -1)
    solver = prepared(FIVE_STATE, draws, rtol, share=0.95)
    return time.perf_counter() - started, solver


@cache
def gradient_function(route: str, patients: int, rtol: float) -> Callable:
    """The compiled function (theta, observed) -> (value, gradient)."""
    _, solver = gradient_solver(route, patients, rtol)

    def log_likelihood(theta, observed):
        simulated = jnp.log(solver(parameters(FIVE_STATE, jnp.exp(theta)))["car_t"])
        return jax.scipy.stats.norm.logpdf(observed, simulated, RESIDUAL_SD).sum()

    return jax.jit(jax.value_and_grad(log_likelihood))


def gradient_build(
    theta: np.ndarray, observed: np.ndarray, rtol: float
) -> tuple[float, float, float, int]:
    """Seconds to choose the meshes, of the first call and of a second one with other values.

    Also the number of steps. The first call compiles; so do later ones with other shapes only.
    """
    choose, solver = gradient_solver("mesh", len(theta), rtol)
    function = gradient_function("mesh", len(theta), rtol)
    seconds = []
    for shift in (0.0, 0.01):
        started = time.perf_counter()
        jax.block_until_ready(function(theta + shift, observed))
        seconds.append(time.perf_counter() - started)
    return choose, *seconds, solver.mesh.size


def gradient(
    theta: np.ndarray, observed: np.ndarray, rtol: float, repeats: int = 11, route: str = "mesh"
) -> Gradient:
    """All patients side by side, each on a mesh of the patient's own; reverse mode."""
    return timed(gradient_function(route, len(theta), rtol), repeats, theta, observed)


def gradient_outputs(theta: np.ndarray, rtol: float, route: str = "mesh") -> np.ndarray:
    """ln(E+M) of all patients (patient, time), as in `gradient`."""
    _, solver = gradient_solver(route, len(theta), rtol)
    return np.log(solver(parameters(FIVE_STATE, np.exp(theta)))["car_t"])
