"""Diffrax and Stan on the gradient of the log-likelihood of 20 patients, five-state problem.

    theta, observed = case()
    seconds, value, gradient = diffrax_gradient(theta, observed, rtol)
    seconds, value, gradient = stan_gradient(theta, observed, rtol)

`theta` (patient, parameter) are natural logarithms of the parameters, `observed` (patient, time)
are simulated ln(E+M). `seconds` is the median of `repeats` evaluations of value and gradient (of
the gradient alone in Stan, which computes the value on the way), after compilation. `gradient` has
the shape of `theta`.

Both integrate from bolus to bolus with atol = rtol, in one of two formulations: with `log=True`
(the default) ln D, ln N, ln E, M, ln B, the tuned one; with `log=False` D, N, E, M, B, the
equations as they are written.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from problems import (
    FIVE_STATE,
    RESIDUAL_SD,
    TINY,
    Problem,
    log_likelihood,
    observations,
    reference,
    sample,
    segments,
)

jax.config.update("jax_enable_x64", True)

Gradient = tuple[float, float, np.ndarray]
MAX_STEPS = 4096  # per segment; of Diffrax and of Stan
LOG_STATES = np.flatnonzero(FIVE_STATE.log_states)  # D, N, E, B


def case(n: int = 20, seed: int = 2021) -> tuple[np.ndarray, np.ndarray]:
    """Log-parameters (patient, 12) and simulated observations (patient, 16) of `n` patients."""
    params = sample(FIVE_STATE, n, seed)
    return np.log(params), observations(FIVE_STATE, params, seed + 1)[..., 0]


def rates(
    t, z: Float[Array, " state"], p: Float[Array, " parameter"], log: bool
) -> Float[Array, " state"]:
    """Time derivatives of D, N, E, M, B, or with `log` of ln D, ln N, ln E, M, ln B."""
    kel, k_d, r_n, k_n, rho, lh, d_e, k_em, d_m, g, g_b, k_b = p
    d, n, e, b = y = jnp.exp(z[LOG_STATES]) if log else z[LOG_STATES]
    m = z[3]
    total = n + e + m
    slopes = [
        -kel,
        r_n * jnp.log(k_n / total) - k_d * d,
        rho * b / (b + 10.0) / (1.0 + jnp.square(total / lh)) - d_e - k_em,
        g * (1.0 - b / 3000.0) - g_b * e / (k_b + e),
    ]
    if not log:
        slopes = [growth * level for growth, level in zip(slopes, y, strict=True)]
    slopes.insert(3, k_em * e - d_m * m)
    return jnp.stack(slopes)


def simulate(
    theta, rtol, adjoint, log, problem: Problem = FIVE_STATE, throw: bool = True
) -> Float[Array, " time"]:
    """ln(E+M) of one patient at the output times of `problem`, the five-state one at its own times.

    Without `throw`, not finite where the solver gives up.
    """
    p = jnp.exp(theta)
    z = jnp.stack([jnp.asarray(y, float) for y in problem.initial(p)])
    if log:
        z = z.at[LOG_STATES].set(jnp.log(jnp.maximum(z[LOG_STATES], TINY)))
    outputs = []
    for part in segments(problem):
        for state in np.flatnonzero(part.bolus):
            dosed = (jnp.exp(z[state]) if log else z[state]) + part.bolus[state]
            z = z.at[state].set(jnp.log(dosed) if log else dosed)
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(partial(rates, log=log)),
            diffrax.Tsit5(),
            part.start,
            part.stop,
            dt0=0.1,
            y0=z,
            args=p,
            saveat=diffrax.SaveAt(ts=np.union1d(part.times, part.stop)),
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=rtol),
            adjoint=adjoint,
            max_steps=MAX_STEPS,
            throw=throw,
        )
        z = solution.ys[-1]
        saved = solution.ys[: len(part.times)]
        effector = jnp.exp(saved[:, 2]) if log else saved[:, 2]
        outputs.append(jnp.log(effector + saved[:, 3]))
    return jnp.concatenate(outputs)


def patient_log_likelihood(theta, observed, rtol, adjoint, log):
    """Log density of the observations (time,) of one patient."""
    simulated = simulate(theta, rtol, adjoint, log)
    return jax.scipy.stats.norm.logpdf(observed, simulated, RESIDUAL_SD).sum()


def value_and_jvps(function):
    """Like `jax.value_and_grad`, but by one forward derivative per parameter."""

    def both(theta, *args):
        def along(direction):
            return jax.jvp(lambda theta: function(theta, *args), (theta,), (direction,))

        return jax.vmap(along, out_axes=(None, 0))(jnp.eye(len(theta)))

    return both


@cache
def diffrax_function(mode: str, log: bool) -> Callable:
    """The compiled function (theta, observed, rtol) -> (value, gradient); `mode` as below."""
    if mode == "reverse":
        adjoint, differentiate = diffrax.RecursiveCheckpointAdjoint(), jax.value_and_grad
    else:
        adjoint, differentiate = diffrax.ForwardMode(), value_and_jvps

    def total(theta, observed, rtol):
        one_patient = differentiate(partial(patient_log_likelihood, adjoint=adjoint, log=log))
        values, gradient = jax.vmap(one_patient, (0, 0, None))(theta, observed, rtol)
        return values.sum(), gradient

    return jax.jit(total)


def timed(function: Callable, repeats: int, *args) -> Gradient:
    """Runs a function of JAX that returns (value, gradient); compiled before the clock starts."""
    jax.block_until_ready(function(*args))
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        value, gradient = jax.block_until_ready(function(*args))
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), float(value), np.asarray(gradient)


def diffrax_gradient(
    theta: np.ndarray,
    observed: np.ndarray,
    rtol: float,
    repeats: int = 11,
    mode: str = "reverse",
    log: bool = True,
) -> Gradient:
    """Diffrax, Tsit5, all patients side by side under `vmap`.

    `mode` "reverse" is Diffrax's default, reverse mode with recursive checkpoints; "forward" is
    forward mode, 12 tangents per patient.
    """
    return timed(diffrax_function(mode, log), repeats, theta, observed, rtol)


def diffrax_outputs(theta: np.ndarray, rtol: float, log: bool = True) -> np.ndarray:
    """ln(E+M) of all patients (patient, time) by Diffrax."""
    one = partial(simulate, rtol=rtol, adjoint=diffrax.RecursiveCheckpointAdjoint(), log=log)
    return np.asarray(jax.jit(jax.vmap(one))(theta))


def stan_grid(problem: Problem) -> dict:
    """Boluses and times of a Stan program: its data up to `output`, without `patients`."""
    parts = segments(problem)
    grids = [np.union1d(part.times, part.stop) for part in parts]
    grid = np.concatenate(grids)
    last = np.cumsum([len(g) for g in grids])
    index = {day: k + 1 for k, day in enumerate(problem.times)}
    return {
        "outputs": len(problem.times),
        "segments": len(parts),
        "grid_points": len(grid),
        "start": [part.start for part in parts],
        "bolus": [part.bolus.tolist() for part in parts],
        "first": [1, *(last[:-1] + 1).tolist()],
        "last": last.tolist(),
        "grid": grid.tolist(),
        "output": [index.get(day, 0) for day in grid],
    }


def stan_data(observed: np.ndarray, rtol: float, log: bool) -> dict:
    """The data block of five_state.stan."""
    return {
        **stan_grid(FIVE_STATE),
        "patients": len(observed),
        "observed": observed.tolist(),
        "residual_sd": RESIDUAL_SD,
        "logs": int(log),
        "tiny": TINY,
        "rtol": rtol,
        "atol": rtol,
        "max_steps": MAX_STEPS,
    }


def stan_gradient(
    theta: np.ndarray,
    observed: np.ndarray,
    rtol: float,
    repeats: int = 11,
    solver: str = "ode_rk45_tol",
    log: bool = True,
) -> Gradient:
    """Stan, forward sensitivities, patients one after the other, in a process of its own.

    `solver` is a function of Stan with the same arguments: ode_rk45_tol, ode_ckrk_tol,
    ode_bdf_tol or ode_adams_tol. The time is of Stan alone, see stan_gradient.py.
    """
    request = {
        "solver": solver,
        "data": stan_data(observed, rtol, log),
        "theta": theta.ravel().tolist(),
        "repeats": repeats,
    }
    program = Path(__file__).resolve().with_name("stan_gradient.py")
    with tempfile.TemporaryDirectory() as folder:  # compilation leaves files in the current one
        run = subprocess.run(
            [sys.executable, str(program)],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            check=True,
            cwd=folder,
        )
    answer = json.loads(run.stdout.splitlines()[-1])
    seconds = statistics.median(answer["seconds"]) - answer["overhead"]
    return seconds, answer["value"], np.reshape(answer["gradient"], theta.shape)


def reference_gradient(
    theta: np.ndarray, observed: np.ndarray, step: float = 1e-3
) -> tuple[float, np.ndarray]:
    """Value and gradient by central differences of fourth order of `problems.reference`.

    All patients move at once, since each has parameters of its own. Good to about 1e-7.
    """

    def values(theta):
        return log_likelihood(reference(FIVE_STATE, np.exp(theta))[..., 0], observed)

    gradient = np.empty_like(theta)
    for k, direction in enumerate(np.eye(theta.shape[1])):
        near = values(theta + step * direction) - values(theta - step * direction)
        far = values(theta + 2 * step * direction) - values(theta - 2 * step * direction)
        gradient[:, k] = (8 * near - far) / (12 * step)
    return float(values(theta).sum()), gradient


def gradient_error(gradient: np.ndarray, exact: np.ndarray) -> float:
    """Largest difference of two gradients, relative to the largest element of `exact`."""
    return float(np.max(np.abs(gradient - exact)) / np.max(np.abs(exact)))
