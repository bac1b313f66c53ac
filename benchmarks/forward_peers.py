"""Other people's solvers on the forward problems: SciPy, numbalsoda and libRoadRunner.

    seconds, log_outputs = scipy_lsoda(problem, params, rtol)

runs every patient of `params` (patient, parameter) one after the other in one thread, restarting at
every bolus, and returns the wall time and the log outputs (patient, time, output). What has to be
built or compiled is built once per problem before the clock starts: `build_seconds(peer, problem)`.
A solver that gives up on a patient raises RuntimeError.

With `log=True` the states named in `problem.log_states` are integrated as logarithms with
atol = rtol, since an absolute error of a logarithm is a relative error of the state. This is the
default: at the same median error it is the faster one for every solver here on both problems. With
`log=False` all states are integrated as they are, with atol = 1e-3 rtol in their units.
"""

import time
from collections.abc import Callable
from functools import cache

import numba
import numbalsoda
import numpy as np
import roadrunner
from problems import TINY, Problem, from_mixed, segments, to_mixed
from scipy.integrate import odeint, solve_ivp

NATURAL_ATOL = 1e-3  # of rtol, see above
# (params, rtol, atol) -> states (patient, time, state), some as logarithms
Solver = Callable[[np.ndarray, float, float], np.ndarray]


@cache
def log_mask(problem: Problem, log: bool) -> np.ndarray:
    """Which states (state,) are integrated as logarithms."""
    return np.array(problem.log_states) & log


def grids(problem: Problem) -> tuple[np.ndarray, ...]:
    """Per segment: its start, its output times, and its end where that is no output time."""
    return tuple(np.union1d([s.start, s.stop], s.times) for s in segments(problem))


def initial(problem: Problem, params: np.ndarray) -> np.ndarray:
    """States (patient, state) at the start, before the boluses of that day."""
    return np.array([problem.initial(p) for p in params], dtype=float)


def checked(path: np.ndarray, success: bool) -> np.ndarray:
    """`path`, if the solver that made it reports success."""
    if not success:
        raise RuntimeError("The solver gave up.")
    return path


def build_scipy(problem: Problem, log: bool, method: str) -> Solver:
    """A Python loop over patients and segments around `solve_ivp` or `odeint`.

    The right-hand side is compiled by numba, four times as fast as plain Python.
    """
    mask = log_mask(problem, log)
    parts = list(zip(segments(problem), grids(problem), strict=True))
    growth, inflow = numba.njit(problem.growth), numba.njit(problem.inflow)

    @numba.njit
    def rates(t, z, p):
        y = np.where(mask, np.exp(np.where(mask, z, 0.0)), z)
        g, i, dz = growth(t, y, p), inflow(t, y, p), np.empty_like(z)
        for k in range(len(z)):
            dz[k] = g[k] if mask[k] else g[k] * y[k] + i[k]
        return dz

    def advance(z, grid, p, rtol, atol):
        if method == "odeint":
            path, info = odeint(
                rates, z, grid, (p,), rtol=rtol, atol=atol, tfirst=True, full_output=True
            )
            return checked(path, info["message"] == "Integration successful.")
        span = (grid[0], grid[-1])
        solution = solve_ivp(rates, span, z, method, grid, args=(p,), rtol=rtol, atol=atol)
        return checked(solution.y.T, solution.success)

    def solve(params, rtol, atol):
        results = []
        for p, y in zip(params, initial(problem, params), strict=True):
            rows = []
            for part, grid in parts:
                z = advance(to_mixed(y + part.bolus, mask), grid, p, rtol, atol)
                rows.append(z[1 : 1 + len(part.times)])
                y = from_mixed(z[-1], mask)
            results.append(np.concatenate(rows))
        return np.array(results)

    return solve


def build_numbalsoda(problem: Problem, log: bool, method: str) -> Solver:
    """A loop over patients and segments inside numba, around numbalsoda's `lsoda` or `dop853`."""
    n_states, n_params = len(problem.states), len(problem.parameters)
    mask = log_mask(problem, log)
    parts, times = segments(problem), grids(problem)
    boluses = np.array([part.bolus for part in parts])
    counts = np.array([len(part.times) for part in parts])
    growth, inflow = numba.njit(problem.growth), numba.njit(problem.inflow)
    integrate = getattr(numbalsoda, method)

    @numba.cfunc(numbalsoda.lsoda_sig)
    def rates(t, z_, dz_, data_):
        z, dz = numba.carray(z_, n_states), numba.carray(dz_, n_states)
        data = numba.carray(data_, n_params + n_states)
        p, y = data[:n_params], data[n_params:]  # y is scratch space, to allocate nothing here
        for k in range(n_states):
            y[k] = np.exp(z[k]) if mask[k] else z[k]
        g, i = growth(t, y, p), inflow(t, y, p)
        for k in range(n_states):
            dz[k] = g[k] if mask[k] else g[k] * y[k] + i[k]

    address = rates.address

    @numba.njit
    def loop(params, initial, rtol, atol):
        results = np.empty((len(params), counts.sum(), n_states))
        data = np.empty(n_params + n_states)
        for patient in range(len(params)):
            data[:n_params] = params[patient]
            y = initial[patient].copy()
            row = 0
            for s in range(len(times)):
                z = y + boluses[s]
                for k in range(n_states):
                    if mask[k]:
                        z[k] = np.log(max(z[k], TINY))
                states, success = integrate(address, z, times[s], data, rtol, atol)
                if not success:
                    raise RuntimeError("The solver gave up.")
                results[patient, row : row + counts[s]] = states[1 : 1 + counts[s]]
                row += counts[s]
                for k in range(n_states):
                    y[k] = np.exp(states[-1, k]) if mask[k] else states[-1, k]
        return results

    def solve(params, rtol, atol):
        return loop(params, initial(problem, params), rtol, atol)

    solve.rates = rates  # the compiled code lives as long as this does
    return solve


# Growth and inflow of every state, as in `problems`, in the infix notation of libSBML.
FORMULAS = {
    "five_state": {
        "D": ("-kel", "0"),
        "N": ("rN * ln(KN / (N + E + M)) - kD * D", "0"),
        "E": ("rho * B / (B + 10) / (1 + ((N + E + M) / LH)^2) - dE - kEM", "0"),
        "M": ("-dM", "kEM * E"),
        "B": ("g * (1 - B / 3000) - gB * E / (kB + E)", "0"),
    },
    "kimmel": {
        "N": ("-rN * ln((N + C) / KN)", "0"),
        "C": (
            "-(rhoC + b * (N + C - KN)^2 / (a * (N + C)^2 + (N + C - KN)^2)) * ln((N + C) / KC)",
            "0",
        ),
        "B": ("rB - gammaB * C / (kB + C)", "0"),
    },
}


def build_roadrunner(problem: Problem, log: bool, method: str) -> Solver:
    """An SBML model of rate rules, run by CVODE ("bdf" or "adams").

    Boluses are SBML events, at which libRoadRunner restarts CVODE: one call per patient, and 1.5
    times as fast as one call per segment.
    """
    mask = log_mask(problem, log)
    first, *later = segments(problem)
    runner = roadrunner.RoadRunner(3, 2)
    for name in (*problem.parameters, *problem.states):
        runner.addParameter(name, 1.0, False)
    variables = [f"ln_{s}" if m else s for s, m in zip(problem.states, mask, strict=True)]
    for name, variable in zip(problem.states, variables, strict=True):
        growth, inflow = FORMULAS[problem.name][name]
        if variable == name:
            runner.addRateRule(name, f"({growth}) * {name} + {inflow}", False)
        else:
            runner.addParameter(variable, 0.0, False)
            runner.addAssignmentRule(name, f"exp({variable})", False)
            runner.addRateRule(variable, growth, False)
    for part in later:
        event = f"bolus_{part.start:.0f}".replace("-", "minus_")
        runner.addEvent(event, False, f"time >= {part.start}", False)
        for k in np.flatnonzero(part.bolus):
            after = f"{problem.states[k]} + {part.bolus[k]}"
            formula = f"ln({after})" if mask[k] else after
            runner.addEventAssignment(event, variables[k], formula, False)
    runner.regenerateModel()
    runner.timeCourseSelections = variables
    settings = runner.getIntegrator()
    settings.setValue("stiff", method == "bdf")
    model = runner.model
    all_parameters = model.getGlobalParameterIds()
    indices = [all_parameters.index(name) for name in (*problem.parameters, *variables)]
    grid = [problem.start, *map(float, problem.times)]

    def solve(params, rtol, atol):
        settings.setValue("relative_tolerance", rtol)
        settings.setValue("absolute_tolerance", atol)
        starts = to_mixed(initial(problem, params) + first.bolus, mask)
        results = []
        for values in np.hstack([params, starts]).tolist():
            runner.reset()  # rearms the events
            model.setGlobalParameterValues(indices, values)
            results.append(np.array(runner.simulate(times=grid))[1:])
        return np.array(results)

    return solve


@cache
def built(build: Callable, problem: Problem, log: bool, method: str) -> tuple[float, Solver]:
    """A solver and the seconds to build it, compile it and run one patient."""
    started = time.perf_counter()
    solve = build(problem, log, method)
    solve(np.array([problem.typical]), 1e-4, 1e-6)
    return time.perf_counter() - started, solve


def timed(build: Callable, method: str) -> Callable:
    """The contender that `build` makes with `method`."""

    def run(
        problem: Problem, params: np.ndarray, rtol: float, log: bool = True
    ) -> tuple[float, np.ndarray]:
        _, solve = built(build, problem, log, method)
        started = time.perf_counter()
        z = solve(params, rtol, rtol if log else NATURAL_ATOL * rtol)
        outputs = problem.outputs(z, log_mask(problem, log))
        return time.perf_counter() - started, outputs

    run.build = lambda problem, log=True: built(build, problem, log, method)[0]
    return run


scipy_lsoda = timed(build_scipy, "LSODA")
scipy_rk45 = timed(build_scipy, "RK45")
scipy_odeint = timed(build_scipy, "odeint")
numbalsoda_lsoda = timed(build_numbalsoda, "lsoda")
numbalsoda_dop853 = timed(build_numbalsoda, "dop853")
roadrunner_bdf = timed(build_roadrunner, "bdf")
roadrunner_adams = timed(build_roadrunner, "adams")

PEERS = {
    "SciPy solve_ivp LSODA": scipy_lsoda,
    "SciPy solve_ivp RK45": scipy_rk45,
    "SciPy odeint": scipy_odeint,
    "numbalsoda lsoda": numbalsoda_lsoda,
    "numbalsoda dop853": numbalsoda_dop853,
    "libRoadRunner CVODE BDF": roadrunner_bdf,
    "libRoadRunner CVODE Adams": roadrunner_adams,
}


def build_seconds(peer: Callable, problem: Problem, log: bool = True) -> float:
    """Seconds that a contender took, or takes now, to build and compile before its first run."""
    return peer.build(problem, log)


def stein_numpy(params: np.ndarray, times: np.ndarray) -> tuple[float, np.ndarray]:
    """Seconds and log level (patient, time) of the piecewise curve of Stein et al. (2019).

    `params` (patient, 6) are foldx [1], tmax [day], cmax [copies/µg], alpha [1/day], fb [1] and
    beta [1/day]; `times` (time,) are days. Exponential growth by `foldx` up to `cmax` at `tmax`,
    then biexponential decline.
    """
    started = time.perf_counter()
    foldx, tmax, cmax, alpha, fb, beta = params.T[:, :, None]
    growth = np.log(foldx) / tmax * np.minimum(times - tmax, 0.0)
    since = np.maximum(times - tmax, 0.0)
    decline = (1.0 - fb) * np.exp(-alpha * since) + fb * np.exp(-beta * since)
    level = np.log(cmax) + growth + np.log(decline)
    return time.perf_counter() - started, level
