"""NumPyro with Diffrax, and Stan, on a posterior of `hierarchy`.

    density = numpyro_density(h, points)    ln density at points, up to a constant
    run = numpyro_run(h, schedule, seed)    draws, and how long they took

and the same with `stan_`. A `Run` holds seconds and draws: population parameters on their natural
scale, name -> (chain, draw), and random effects "eta_<parameter>" -> (chain, draw, patient).

Both are written as somebody who knows the program would: logarithms of all states that have one,
standard scores for random effects, a restart at every dose, compiled gradients, one process or
thread per chain. NumPyro solves all patients side by side under `vmap`. Everything else is the
program's default.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import numpy as np
from hierarchy import Hierarchy, Point, simulated
from problems import TINY

PROGRAM = (Path(__file__).parent / "hierarchical.stan").read_text()
NUMPYRO_RTOL = 1e-6
STAN_RTOL, STAN_ATOL, STAN_MAX_STEPS = 1e-6, 1e-6, 1_000_000  # the defaults of ode_rk45
STAN_INIT_RADIUS = 0.5  # in prior SDs; Stan's default of 2 wastes minutes far from the posterior


@dataclass(frozen=True)
class Schedule:
    """Of NUTS: draws that are kept, steps of adaptation, chains."""

    draws: int = 1000
    tune: int = 1000
    chains: int = 4


@dataclass
class Run:
    """What one contender did.

    `total` is seconds from the data to the draws, `compiling` those of them that went into
    compiling; `steps` counts the gradients of the sampler, without adaptation, if known.
    """

    total: float
    compiling: float
    draws: dict[str, np.ndarray]
    divergences: int = 0
    steps: int | None = None
    notes: dict[str, float] = field(default_factory=dict)


def named(h: Hierarchy, log_theta: np.ndarray, eta: np.ndarray) -> dict[str, np.ndarray]:
    """Draws by name from those of points, (chain, draw, parameter) and (.., patient, effect)."""
    draws = {name: np.exp(log_theta[..., i]) for i, name in enumerate(h.priors)}
    return draws | {f"eta_{name}": eta[..., i] for i, name in enumerate(h.varies)}


class Compiling:
    """Seconds in which JAX traced or compiled anything, in any thread, since it was made.

    Overlapping spells, of several threads or of one function within another, count once.
    """

    def __init__(self) -> None:
        from jax import monitoring

        self.spells: list[tuple[float, float]] = []
        monitoring.register_event_duration_secs_listener(self._note)

    def _note(self, event: str, duration: float, **_) -> None:
        if event.startswith("/jax/core/compile/"):
            now = time.perf_counter()
            self.spells.append((now - duration, now))

    @property
    def seconds(self) -> float:
        total, reached = 0.0, -np.inf
        for start, stop in sorted(self.spells):
            total += max(0.0, stop - max(start, reached))
            reached = max(reached, stop)
        return total


# ---------------------------------------------------------------------------------------------
# NumPyro and Diffrax
# ---------------------------------------------------------------------------------------------


def numpyro_model(h: Hierarchy, observed: np.ndarray):
    """The NumPyro model: `z` are standard scores of the logarithms in `Hierarchy.priors`."""
    import diffrax
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from gradient_peers import simulate

    solve = partial(
        simulate,
        rtol=NUMPYRO_RTOL,
        adjoint=diffrax.RecursiveCheckpointAdjoint(),
        log=True,
        problem=h.problem,
        throw=False,
    )
    base = jnp.log(jnp.array(h.problem.typical))
    mean, sd = h.log_priors

    names, n = list(h.priors), len(h.estimated)
    columns = jnp.array(h.index)
    varying = columns[: len(h.varies)]

    def model():
        z = numpyro.sample("z", dist.Normal(0, 1).expand([len(names)]).to_event(1))
        shape = [h.patients, len(h.varies)]
        eta = numpyro.sample("eta", dist.Normal(0, 1).expand(shape).to_event(2))
        log_theta = mean + sd * z
        typical, omega, sigma = log_theta[:n], jnp.exp(log_theta[n:-1]), jnp.exp(log_theta[-1])
        logs = jnp.tile(base.at[columns].set(typical), (h.patients, 1))
        logs = logs.at[:, varying].add(omega * eta)
        numpyro.sample("y", dist.Normal(jax.vmap(solve)(logs), sigma).to_event(2), obs=observed)

    return model


def numpyro_density(h: Hierarchy, points: list[Point]) -> list[float]:
    import jax
    from numpyro.infer.util import potential_energy

    jax.config.update("jax_enable_x64", True)
    model = numpyro_model(h, simulated(h))
    energy = jax.jit(lambda z: potential_energy(model, (), {}, z))
    mean, sd = h.log_priors
    return [-float(energy({"z": (x - mean) / sd, "eta": eta})) for x, eta in points]


def in_threads(chain):
    """A `chain_method` of NumPyro: the chains side by side, as many at a time as there are cores.

    NumPyro's own "parallel" fails on a solver of Diffrax in reverse mode, at least with JAX 0.10;
    "vectorized" has every chain wait for the longest tree, and "sequential" uses one core.
    """
    import jax
    import jax.numpy as jnp

    def run(args):
        def of(i):
            return jax.tree.map(lambda x: x[i], args)

        compiled = jax.jit(chain).lower(of(0)).compile()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            each = pool.map(lambda i: jax.block_until_ready(compiled(of(i))), range(len(args[0])))
            return jax.tree.map(lambda *x: jnp.stack(x), *each)

    return run


def numpyro_run(h: Hierarchy, schedule: Schedule, seed: int) -> Run:
    """NUTS with a chain per thread."""
    import jax
    from numpyro.infer import MCMC, NUTS, init_to_median

    jax.config.update("jax_enable_x64", True)
    observed = simulated(h)
    compiling = Compiling()
    started = time.perf_counter()
    kernel = NUTS(
        numpyro_model(h, observed),
        init_strategy=init_to_median,
        target_accept_prob=h.target_accept,
    )
    mcmc = MCMC(
        kernel,
        num_warmup=schedule.tune,
        num_samples=schedule.draws,
        num_chains=schedule.chains,
        chain_method=in_threads,
        progress_bar=False,
    )
    mcmc.run(jax.random.key(seed), extra_fields=("num_steps", "diverging"))
    draws = jax.block_until_ready(mcmc.get_samples(group_by_chain=True))
    total = time.perf_counter() - started
    extra = mcmc.get_extra_fields()
    mean, sd = h.log_priors
    log_theta, eta = mean + sd * np.asarray(draws["z"]), np.asarray(draws["eta"])
    return Run(
        total,
        compiling.seconds,
        named(h, log_theta, eta),
        divergences=int(extra["diverging"].sum()),
        steps=int(extra["num_steps"].sum()),
    )


# ---------------------------------------------------------------------------------------------
# Stan
# ---------------------------------------------------------------------------------------------


def stan_data(h: Hierarchy, observed: np.ndarray) -> dict:
    """The data block of hierarchical.stan."""
    from gradient_peers import stan_grid

    mean, sd = h.log_priors
    typical_mean, omega_mean, sigma_mean = h.split(mean)
    typical_sd, omega_sd, sigma_sd = h.split(sd)
    return {
        **stan_grid(h.problem),
        "patients": h.patients,
        "observed": observed.tolist(),
        "tiny": TINY,
        "varying": len(h.varies),
        "estimated": len(h.estimated),
        "index": [k + 1 for k in h.index],
        "fixed": list(h.problem.typical),
        "kn": h.estimated.index("KN") + 1 if "KN" in h.estimated else 0,
        "typical_mean": typical_mean.tolist(),
        "typical_sd": typical_sd.tolist(),
        "omega_mean": omega_mean.tolist(),
        "omega_sd": omega_sd.tolist(),
        "sigma_mean": float(sigma_mean),
        "sigma_sd": float(sigma_sd),
        "rtol": STAN_RTOL,
        "atol": STAN_ATOL,
        "max_steps": STAN_MAX_STEPS,
    }


@cache
def stan_built(h: Hierarchy, seed: int) -> tuple[float, object]:
    """Seconds to compile, if PyStan's cache does not have it, and the model with its data."""
    import stan

    started = time.perf_counter()
    model = stan.build(PROGRAM, data=stan_data(h, simulated(h)), random_seed=seed)
    return time.perf_counter() - started, model


def stan_density(h: Hierarchy, points: list[Point]) -> list[float]:
    _, model = stan_built(h, 1)
    mean, sd = h.log_priors
    return [
        # Stan's unconstrained values are standard scores here, and a matrix goes column by column
        float(model.log_prob([*((log_theta - mean) / sd), *eta.ravel(order="F")]))
        for log_theta, eta in points
    ]


def stan_run(h: Hierarchy, schedule: Schedule, seed: int) -> Run:
    """NUTS, a chain per process, as many at a time as there are cores."""
    built, model = stan_built(h, seed)
    started = time.perf_counter()
    fit = model.sample(
        num_chains=schedule.chains,
        num_warmup=schedule.tune,
        num_samples=schedule.draws,
        init_radius=STAN_INIT_RADIUS,
        delta=h.target_accept,
    )
    sampling = time.perf_counter() - started

    def each(name: str) -> np.ndarray:
        """(chain, draw, ...) from PyStan's (..., chains within draws)."""
        x = fit[name]
        x = x.reshape(*x.shape[:-1], schedule.draws, schedule.chains)
        return np.moveaxis(x, (-1, -2), (0, 1))

    sigma = each("log_sigma").reshape(schedule.chains, schedule.draws, 1)
    log_theta = np.concatenate([each("log_typical"), each("log_omega"), sigma], axis=-1)
    return Run(
        built + sampling,
        built,
        named(h, log_theta, each("eta")),
        divergences=int(fit["divergent__"].sum()),
        steps=int(fit["n_leapfrog__"].sum()),
    )
