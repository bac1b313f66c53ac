"""The two differential-equation problems of the benchmark, in plain NumPy and without carpk.

`FIVE_STATE` is a problem for this benchmark with assumed values, not a published model:
lymphodepletion by three doses of a drug, two infusions of CAR-T cells, and a tumor that drives
them. `KIMMEL` is the model of Kimmel, Locke & Altrock (2021), doi:10.1098/rspb.2021.0229.

Both are written as y' = growth(t, y, p) * y + inflow(t, y, p), element by element. A state without
inflow can then be integrated as z = ln y, with z' = growth, which loses nothing when y becomes very
small. `Problem.log_states` names the states for which contenders may do so.

Times are in days. Arrays of parameters have shape (patient, parameter), arrays of log outputs
(patient, output time, output).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.integrate import solve_ivp

Rates = Callable[[float, np.ndarray, np.ndarray], tuple[float, ...]]
TINY = 1e-30  # stands for zero where a logarithm is taken
RESIDUAL_SD = 0.5  # of the simulated log observations


@dataclass(frozen=True)
class Problem:
    """One problem: equations, parameters, boluses and outputs.

    `growth` and `inflow` take (t, y, p) and return one float per state, per day and in units of the
    state per day. `initial` takes p and returns one float per state, before any bolus. `events` are
    boluses (day, index of the state, amount), sorted by day. `log_outputs` take y and ln y, with
    the states on the last axis: a tumor of the Kimmel problem can be smaller than any float, so
    that only its logarithm is of use.
    """

    name: str
    parameters: tuple[str, ...]
    typical: tuple[float, ...]
    cv: tuple[float, ...]
    states: tuple[str, ...]
    log_states: tuple[bool, ...]
    start: float
    initial: Callable[[np.ndarray], tuple[float, ...]]
    events: tuple[tuple[float, int, float], ...]
    times: tuple[float, ...]
    growth: Rates
    inflow: Rates
    output_names: tuple[str, ...]
    log_outputs: tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], ...]

    def rhs(self, t: float, y: np.ndarray, p: np.ndarray) -> np.ndarray:
        """dy/dt, one value per state."""
        return np.multiply(self.growth(t, y, p), y) + self.inflow(t, y, p)

    def outputs(self, z: np.ndarray, log_states: np.ndarray) -> np.ndarray:
        """All log outputs of states z (..., state), on a new last axis.

        Those of `log_states` (state,) are given as logarithms. NaN where a level is negative.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            log_y = np.where(log_states, z, np.log(np.where(log_states, 1.0, z)))
            y = from_mixed(z, log_states)
            return np.stack([output(y, log_y) for output in self.log_outputs], axis=-1)


@dataclass(frozen=True)
class Segment:
    """A stretch between boluses: the amounts to add at its start, and its output times."""

    start: float
    stop: float
    bolus: np.ndarray  # (state,)
    times: np.ndarray  # output times in (start, stop], may be empty


def segments(problem: Problem) -> list[Segment]:
    """The stretches of time between the boluses of a problem, from its start to the last output."""
    days = sorted({problem.start, *(day for day, _, _ in problem.events)})
    stops = [*days[1:], problem.times[-1]]
    times = np.array(problem.times)
    parts = []
    for start, stop in zip(days, stops, strict=True):
        bolus = np.zeros(len(problem.states))
        for day, state, amount in problem.events:
            if day == start:
                bolus[state] += amount
        parts.append(Segment(start, stop, bolus, times[(times > start) & (times <= stop)]))
    return parts


def five_state_growth(t, y, p):
    d, n, e, m, b = y[0], y[1], y[2], y[3], y[4]
    total = n + e + m
    kill = p[10] / (p[11] + e)
    crowding = total / p[5]
    return (
        -p[0],
        p[2] * np.log(p[3] / total) - p[1] * d,
        p[4] * b / (b + 10.0) / (1.0 + crowding * crowding) - p[6] - p[7],
        -p[8],
        p[9] * (1.0 - b / 3000.0) - kill * e,
    )


def five_state_inflow(t, y, p):
    return (0.0, 0.0, 0.0, p[7] * y[2], 0.0)


def kimmel_growth(t, y, p):
    n, c, _ = y
    total = n + c
    excess = (total - p[0]) * (total - p[0])
    growth_c = p[3] + p[5] * excess / (p[4] * total * total + excess)
    return (
        -p[2] * np.log(total / p[0]),
        -growth_c * np.log(total / p[1]),
        p[6] - p[7] * c / (p[8] + c),
    )


def kimmel_inflow(t, y, p):
    return (0.0, 0.0, 0.0)


FIVE_STATE = Problem(
    name="five_state",
    parameters=("kel", "kD", "rN", "KN", "rho", "LH", "dE", "kEM", "dM", "g", "gB", "kB"),
    typical=(1.8, 0.9, 0.17, 500.0, 1.7, 170.0, 0.155, 0.0022, 0.0035, 0.02, 0.48, 4.0),
    cv=(0.25,) * 12,
    states=("D", "N", "E", "M", "B"),  # mg/L, cells/µL (three), mL
    log_states=(True, True, True, False, True),
    start=-5.0,
    initial=lambda p: (0.0, p[3], 0.0, 0.0, 100.0),
    events=((-5.0, 0, 3.0), (-4.0, 0, 3.0), (-3.0, 0, 3.0), (0.0, 2, 0.35), (60.0, 2, 0.35)),
    times=(1, 3, 5, 7, 10, 14, 21, 28, 42, 59, 63, 70, 90, 120, 180, 365),
    growth=five_state_growth,
    inflow=five_state_inflow,
    output_names=("ln(E+M)",),
    log_outputs=(lambda y, log_y: np.log(y[..., 2] + y[..., 3]),),
)

# The tumor falls far below one cell (1e-9 mL) and regrows from there. A solver with an absolute
# tolerance above the trough regrows its own error: see the errors of ln B beside those of ln C.
KIMMEL = Problem(
    name="kimmel",
    parameters=("KN", "KC", "rN", "rhoC", "a", "b", "rB", "gammaB", "kB"),
    typical=(500.0, 139.0, 0.17, 0.0251, 0.423, 0.525, 0.19, 1.15, 4.05),
    cv=(0.3,) * 9,
    states=("N", "C", "B"),  # cells/µL (two), mL
    log_states=(True, True, True),
    start=0.0,
    initial=lambda p: (6.0, 0.36, 94.86),
    events=(),
    times=(*range(1, 15), 17, 21, 25, 28, 35, 42, 49, 56, 70, 84, 100, 120, 180, 270, 365),
    growth=kimmel_growth,
    inflow=kimmel_inflow,
    output_names=("ln C", "ln B"),
    log_outputs=(lambda y, log_y: log_y[..., 1], lambda y, log_y: log_y[..., 2]),
)


def sample(problem: Problem, n: int, seed: int) -> np.ndarray:
    """Parameters of `n` patients (patient, parameter), log-normal around the typical values."""
    sd = np.sqrt(np.log1p(np.square(problem.cv)))
    draws = np.random.default_rng(seed).standard_normal((n, len(sd)))
    return np.array(problem.typical) * np.exp(sd * draws)


def to_mixed(y: np.ndarray, log_states: np.ndarray) -> np.ndarray:
    """States with those of `log_states` as logarithms, zero as ln `TINY`."""
    return np.where(log_states, np.log(np.maximum(y, TINY)), y)


def from_mixed(z: np.ndarray, log_states: np.ndarray) -> np.ndarray:
    """The inverse of `to_mixed`."""
    return np.where(log_states, np.exp(np.where(log_states, z, 0.0)), z)


def reference(
    problem: Problem, params: np.ndarray, rtol: float = 1e-12, atol: float = 1e-13
) -> np.ndarray:
    """Log outputs (patient, time, output) by SciPy's DOP853, restarted at every bolus."""
    log_states = np.array(problem.log_states)

    def rates(t, z, p):
        y = from_mixed(z, log_states)
        growth = np.array(problem.growth(t, y, p))
        return np.where(log_states, growth, growth * y + problem.inflow(t, y, p))

    results = []
    for p in params:
        y = np.array(problem.initial(p))
        outputs = []
        for part in segments(problem):
            z = to_mixed(y + part.bolus, log_states)
            asked = np.union1d(part.times, part.stop)
            span = (part.start, part.stop)
            solution = solve_ivp(rates, span, z, "DOP853", asked, args=(p,), rtol=rtol, atol=atol)
            if not solution.success:
                raise RuntimeError(f"{problem.name}: {solution.message}")
            outputs.append(problem.outputs(solution.y.T[: len(part.times)], log_states))
            y = from_mixed(solution.y[:, -1], log_states)
        results.append(np.concatenate(outputs))
    return np.array(results)


def observations(problem: Problem, params: np.ndarray, seed: int) -> np.ndarray:
    """Simulated log observations: the reference with Gaussian noise of `RESIDUAL_SD`."""
    clean = reference(problem, params)
    return clean + RESIDUAL_SD * np.random.default_rng(seed).standard_normal(clean.shape)


def log_likelihood(simulated: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Log density (patient,) of Normal(simulated, RESIDUAL_SD) at `observed` (patient, ...)."""
    residual = (observed - simulated) / RESIDUAL_SD
    density = -0.5 * np.square(residual) - math.log(RESIDUAL_SD * math.sqrt(2 * math.pi))
    return density.reshape(len(density), -1).sum(axis=1)


def errors(simulated: np.ndarray, exact: np.ndarray, output: int = 0) -> tuple[float, float, float]:
    """Median, 95th percentile and maximum of |simulated - exact| of one log output.

    Over patients and times; infinite where a number is missing. Levels below 1e-299, where double
    precision ends, count as 1e-299.
    """
    lowest = np.log(1e-299)
    floored = [np.maximum(x[..., output], lowest) for x in (simulated, exact)]
    difference = np.abs(floored[0] - floored[1])
    difference = np.where(np.isfinite(difference), difference, np.inf)
    median, p95, maximum = np.quantile(difference, (0.5, 0.95, 1.0), method="higher")
    return float(median), float(p95), float(maximum)
