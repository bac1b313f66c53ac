"""carpk, through its public API, on the posteriors of `inference.py`; all data are simulated.

    density = carpk_density(h, points)             ln density at points, up to a constant
    run = carpk_run(h, schedule, seed)             a posterior of `hierarchy`
    run = piecewise_run(patients, method, ...)     the closed form, per-patient data
    run = niche_run(method, ...)                   the model `niche`, 14 patients, 21 infusions

`Run` and `Schedule` as in `inference_peers`. A method that this carpk does not have raises
`NotAvailable`.
"""

import time
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pandas as pd
from carpk_contenders import FIVE_STATE_MODEL, case
from hierarchy import SIGMA, Hierarchy, Point, simulated
from inference_peers import Compiling, Run, Schedule
from problems import FIVE_STATE

import carpk as ck
from carpk.inference.density import LogDensity
from carpk.solver.solve import solve_many

DOSES = ["patient", "time", "product", "amount", "unit", "duration"]
LLOQ = 1e-9  # cells/µL; nothing is below
SEED = 2021  # of the simulated patients

PIECEWISE_DAYS = (2.0, 5.0, 7.0, 9.0, 11.0, 14.0, 18.0, 21.0, 28.0, 60.0, 90.0, 180.0)
PIECEWISE_OMEGAS = {"cmax": 0.65, "tmax": 0.2, "t_alpha": 0.5, "fb": 0.8}  # assumed

# As HEROS 2.0: Flu or Flu/Cy before every infusion of 1e8 cells/m², in patients of 1.45 m².
NICHE_INFUSIONS = {"HEROS Flu": (1, 1, 2, 2), "HEROS Flu/Cy": (1, 1, 1, 1, 1, 1, 2, 2, 2, 3)}
NICHE_EVERY = 42.0  # days between infusions
NICHE_DAYS = {"car_t": (3.0, 7.0, 10.0, 14.0, 21.0, 28.0), "alc": (0.0, 7.0, 14.0, 28.0)}
NICHE_START = -10.0  # day of the first lymphocyte count
NICHE_ESTIMATED = ("kF", "kC", "rho", "rN", "dE")
NICHE_OMEGAS = {"kC": 0.25, "rho": 0.1}
NICHE_SIGMAS = {"car_t": 0.5, "alc": 0.3}  # assumed, as the LLOQ
NICHE_LLOQ = 0.1  # cells/µL


class NotAvailable(Exception):
    """`ck.fit` does not know the method."""


def fitted(
    population: ck.Population,
    data: ck.Dataset,
    method: str,
    schedule: Schedule,
    seed: int,
    **settings: float,
) -> Run:
    """`ck.fit`, from the data to draws and verdict; more of its settings."""
    compiling = Compiling()
    started = time.perf_counter()
    try:
        fit = ck.fit(
            population,
            data,
            method=method,
            draws=schedule.draws,
            tune=schedule.tune,
            chains=schedule.chains,
            seed=seed,
            progress=False,
            **settings,
        )
    except ck.FitError as refusal:
        if "method" in str(refusal):
            raise NotAvailable(str(refusal)) from refusal
        raise
    posterior = {name: np.asarray(x) for name, x in fit.posterior.data_vars.items()}
    total = time.perf_counter() - started
    try:
        stats = fit.idata["sample_stats"]
        divergences = int(np.sum(np.asarray(stats["diverging"])))
        steps = int(np.sum(np.asarray(stats["n_steps"])))
    except KeyError:  # draws that no chain has made
        divergences, steps = 0, None
    return Run(total, compiling.seconds, posterior, divergences, steps)


def scores_of(z: np.ndarray, omegas: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Deviations of patients on the estimation scale, from standard scores (patient, effect)."""
    return {name: omega * z[:, i] for i, (name, omega) in enumerate(omegas.items())}


def varied(model, deviations: Mapping[str, np.ndarray]) -> ck.Params:
    """The model's default parameters with some deviating; leaves (patient,)."""
    info = model.params.info()
    size = len(next(iter(deviations.values())))
    values = {name: jnp.full(size, i.value) for name, i in info.items()}
    for name, deviation in deviations.items():
        transform = info[name].transform
        values[name] = transform.inverse(transform.forward(info[name].value) + deviation)
    return model.params(**values)


# ---------------------------------------------------------------------------------------------
# The five-state problem
# ---------------------------------------------------------------------------------------------


def dataset(h: Hierarchy) -> ck.Dataset:
    """The simulated observations as carpk's data."""
    names = [f"p{i + 1}" for i in range(h.patients)]
    _, regimen, _ = case(FIVE_STATE)
    doses = [
        (name, e.time, e.product, e.amount, e.unit, 0.0) for name in names for e in regimen.events
    ]
    levels = np.exp(simulated(h))
    observations = pd.DataFrame(
        {
            "patient": np.repeat(names, len(h.problem.times)),
            "time": np.tile(h.problem.times, h.patients),
            "value": levels.ravel(),
        }
    ).assign(analyte="car_t", unit="cells/µL", lloq=LLOQ, censored=0)
    return ck.Dataset.from_frames(
        doses=pd.DataFrame(doses, columns=DOSES), observations=observations, name="simulated"
    )


def population(h: Hierarchy) -> ck.Population:
    priors = {k: dist.LogNormal(np.log(median), sd) for k, (median, sd) in h.priors.items()}
    return ck.Population(FIVE_STATE_MODEL, varies=list(h.varies), fixed=h.fixed, priors=priors)


def carpk_density(h: Hierarchy, points: list[Point]) -> list[float]:
    density = LogDensity(population(h).bind(dataset(h)))
    log_joint = jax.jit(lambda u, z: density.log_joint(u, z, None))

    def at(point: Point) -> float:
        log_theta, eta = point
        theta = dict(zip(h.priors, np.exp(log_theta), strict=True))
        return float(log_joint(density.outer_of(theta), eta))

    return [at(point) for point in points]


def carpk_run(h: Hierarchy, schedule: Schedule, seed: int) -> Run:
    how = {"target_accept": h.target_accept}
    return fitted(population(h), dataset(h), "nuts", schedule, seed, **how)


# ---------------------------------------------------------------------------------------------
# The closed form
# ---------------------------------------------------------------------------------------------


def piecewise_data(patients: int) -> ck.Dataset:
    rng = np.random.default_rng(SEED)
    model, days = ck.load_model("piecewise"), np.array(PIECEWISE_DAYS)
    z = rng.standard_normal((patients, len(PIECEWISE_OMEGAS)))
    params = varied(model, scores_of(z, PIECEWISE_OMEGAS))
    levels = np.asarray(jax.vmap(lambda p: model.level("car_t", jnp.asarray(days), p))(params))
    levels = levels * np.exp(SIGMA * rng.standard_normal(levels.shape))
    names = [f"p{i + 1}" for i in range(patients)]
    doses = pd.DataFrame({"patient": names}).assign(
        time=0.0, product="car_t", amount=1e8, unit="cells", duration=0.0
    )
    observations = pd.DataFrame(
        {
            "patient": np.repeat(names, len(days)),
            "time": np.tile(days, patients),
            "value": levels.ravel(),
        }
    ).assign(analyte="car_t", unit="cells/µL", lloq=LLOQ, censored=0)
    return ck.Dataset.from_frames(doses=doses, observations=observations, name="simulated")


def piecewise_run(patients: int, method: str, schedule: Schedule, seed: int) -> Run:
    """Every parameter estimated, four of the six with random effects, default priors."""
    of = ck.Population(ck.load_model("piecewise"), varies=list(PIECEWISE_OMEGAS))
    return fitted(of, piecewise_data(patients), method, schedule, seed)


# ---------------------------------------------------------------------------------------------
# niche
# ---------------------------------------------------------------------------------------------


def niche_data(most: int) -> ck.Dataset:
    """At most `most` patients of either arm; levels below the LLOQ are censored."""
    rng = np.random.default_rng(SEED)
    model = niche_model()
    doses, observations = [], []
    for arm, infusions in NICHE_INFUSIONS.items():
        for i, times in enumerate(infusions[:most]):
            patient = f"{arm} {i + 1}"
            shifts = [NICHE_EVERY * k for k in range(times)]
            regimen = model.regimens[arm]
            for shift in shifts[1:]:
                regimen = regimen + model.regimens[arm].shift(shift)
            doses += [(patient, e.time, e.product, e.amount, e.unit, 0.0) for e in regimen.events]
            seen = {
                analyte: [shift + day for shift in shifts for day in days]
                for analyte, days in NICHE_DAYS.items()
            }
            seen["alc"].insert(0, NICHE_START)
            z = rng.standard_normal((1, len(NICHE_OMEGAS)))
            params = varied(model, scores_of(z, NICHE_OMEGAS))
            every = np.unique(np.concatenate(list(seen.values())))
            levels = solve_many(model, regimen, every, params, rtol=1e-3, start=NICHE_START).outputs
            for analyte, days in seen.items():
                clean = np.asarray(levels[analyte])[0, np.searchsorted(every, days)]
                noise = NICHE_SIGMAS[analyte] * rng.standard_normal(len(days))
                for day, value in zip(days, clean * np.exp(noise), strict=True):
                    below = value < NICHE_LLOQ
                    value = max(float(value), NICHE_LLOQ)
                    observations.append((patient, day, analyte, value, int(below)))
    columns = ["patient", "time", "analyte", "value", "censored"]
    return ck.Dataset.from_frames(
        doses=pd.DataFrame(doses, columns=DOSES),
        observations=pd.DataFrame(observations, columns=columns).assign(
            unit="cells/µL", lloq=NICHE_LLOQ
        ),
        name="simulated",
    )


def niche_model():
    return ck.load_model("niche", disease="solid", denominator="constant")


def niche_run(most: int, method: str, schedule: Schedule, seed: int) -> Run:
    """Five typical values, two of them with random effects, cells and lymphocytes observed."""
    model = niche_model()
    fixed = {k: i.value for k, i in model.params.info().items() if k not in NICHE_ESTIMATED}
    of = ck.Population(
        model,
        varies=list(NICHE_OMEGAS),
        fixed=fixed,
        analytes=list(NICHE_DAYS),
        rtol=5e-3,
    )
    return fitted(of, niche_data(most), method, schedule, seed)
