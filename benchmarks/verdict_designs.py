"""Data sets and population models whose posterior is known, for `verdict.py`; all data simulated
but the cohort figures of the studies in `data/`.

A `Design` builds a population model and its data. The posterior is known by an exact sampler
(`exact`), or else by a long run of NUTS that `verdict.py` makes once and keeps.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pandas as pd
from scipy.integrate import solve_ivp

import carpk as ck
from carpk.demo import populations as demo_populations

Posterior = Mapping[str, np.ndarray]  # name -> draws (draw,), natural scale
SEEDS = {1: {"nuts": (1, 2, 3, 4, 5, 6), "laplace": (1, 2)}}  # by cost
SEEDS |= {cost: {"nuts": (1, 2, 3), "laplace": (1, 2)} for cost in (2, 3)}
DENSE = (2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 15.0, 21.0, 28.0, 45.0, 60.0, 90.0, 180.0, 270.0, 365.0)
VISITS = (1.0, 7.0, 14.0, 21.0, 28.0, 60.0, 90.0, 180.0, 365.0)
DECAY_DAYS = (1.0, 3.0, 7.0, 14.0, 28.0)
THEOPHYLLINE_HOURS = (0.25, 0.5, 1.0, 2.0, 3.5, 5.0, 7.0, 9.0, 12.0, 24.0)
LENGTH = 1024  # of all simulated samples
DOSE = {"product": "car_t", "amount": 1e8, "unit": "cells", "duration": 0.0, "time": 0.0}
DRUG = {"product": "drug", "amount": 320.0, "unit": "mg", "duration": 0.0, "time": 0.0}


@dataclass(frozen=True)
class Design:
    """A population model and data.

    Attributes:
        family: structural model and kind of data; designs of a family are reported together.
        build: () -> (population, data).
        cost: 1 where a fit takes seconds, 2 below half a minute, 3 beyond; cheap ones run first.
        exact: draws from the posterior by other means than NUTS, or None.
    """

    name: str
    family: str
    build: Callable[[], tuple[ck.Population, Any]]
    cost: int = 1
    exact: Callable[[], Posterior] | None = None

    @property
    def seeds(self) -> dict[str, tuple[int, ...]]:
        """Method -> seeds of its fits."""
        return SEEDS[self.cost]


# ---------------------------------------------------------------------------------------------
# Simulation
# ---------------------------------------------------------------------------------------------


def tables(
    rows: Sequence[tuple], names: Sequence[str], *, analyte: str, unit: str, dose: Mapping = DOSE,
    arms: Sequence[str] | None = None, lloq: float = 0.0,
) -> ck.Dataset:  # fmt: skip
    """A data set from (patient, day, value), censored at `lloq` where that is positive."""
    seen = pd.DataFrame(rows, columns=["patient", "time", "value"])
    seen = seen.assign(analyte=analyte, unit=unit, censored=0, lloq=np.nan)
    if lloq:
        below = seen["value"] < lloq
        seen = seen.assign(lloq=lloq, censored=below.astype(int), value=seen["value"].clip(lloq))
    people = pd.DataFrame({"patient": list(names)})
    return ck.Dataset.from_frames(
        patients=people if arms is None else people.assign(arm=list(arms)),
        doses=people.assign(**dose),
        observations=seen,
        name="simulated",
    )


def deviating(model, truth: Mapping, spread: Mapping, patients: int, rng) -> ck.Params:
    """Parameters of simulated patients, leaves (patient,); spreads on the estimation scale."""
    info = model.params.info()
    values = {k: jnp.full(patients, truth.get(k, i.value)) for k, i in info.items()}
    for name, omega in spread.items():
        scale, z = info[name].transform, rng.standard_normal(patients)
        values[name] = scale.inverse(scale.forward(values[name]) + omega * z)
    return model.params(**values)


def curve_data(
    model, output: str, days: Sequence[float], patients: int, seed: int, *,
    truth: Mapping = {}, spread: Mapping = {}, sigma: float = 0.4, lloq: float = 0.0,
    jitter: float = 0.0,
) -> ck.Dataset:  # fmt: skip
    """Simulated patients of a closed form; days moved by up to `jitter` of their value."""
    rng = np.random.default_rng(seed)
    params = deviating(model, truth, spread, patients, rng)
    shape = (patients, len(days))
    each = np.array(days) * (1 + jitter * rng.uniform(-1, 1, shape))
    # One length for all designs, so that JAX compiles once.
    owner = np.resize(np.repeat(np.arange(patients), len(days)), LENGTH)
    own = jax.tree.map(lambda x: x[owner], params)
    times = jnp.asarray(np.resize(each, LENGTH))[:, None]
    levels = np.asarray(jax.vmap(lambda t, p: model.level(output, t, p))(times, own))
    values = levels[: each.size, 0].reshape(shape) * np.exp(sigma * rng.standard_normal(shape))
    names = [f"p{i + 1}" for i in range(patients)]
    rows = [
        (name, t, y)
        for name, own, seen in zip(names, each, values, strict=True)
        for t, y in zip(own, seen, strict=True)
    ]
    return tables(rows, names, analyte=output, unit=model.units[output], lloq=lloq)


# ---------------------------------------------------------------------------------------------
# Exponential decline: an exact posterior
# ---------------------------------------------------------------------------------------------


class DecayParams(ck.Params):
    base: ck.Scalar = ck.param(10.0, "cells/µL", "level on day 0", "assumed")
    halve: ck.Scalar = ck.param(10.0, "day", "half-life", "assumed")


DECAY = ck.ClosedForm(
    name="decay",
    params=DecayParams,
    outputs={"car_t": lambda t, p: p.base * jnp.exp(-jnp.log(2) * t / p.halve)},
    units={"car_t": "cells/µL"},
)
# Median, and SD of the logarithm, of log-normal priors; of the effect of arm b: mean and SD.
DECAY_PRIORS = {"base": (10.0, 1.0), "halve": (10.0, 1.0), "omega_base": (0.5, 0.5)}
DECAY_PRIORS |= {"sigma": (0.4, 0.3)}
EFFECT = (0.0, 2.0)


def decay_population(arms: bool = False) -> ck.Population:
    priors = {k: dist.LogNormal(np.log(m), s) for k, (m, s) in DECAY_PRIORS.items()}
    if not arms:
        return ck.Population(DECAY, varies=["base"], priors=priors)
    priors["beta_base_arm"] = dist.Normal(*EFFECT)
    return ck.Population(DECAY, varies=["base"], covariates={"base": ["arm"]}, priors=priors)


def decay_data(
    patients: int = 12, seed: int = 0, effect: float | None = None, lloq: float = 0.0
) -> ck.Dataset:
    """Patients of `DECAY`; with an effect, every second one is in arm b."""
    rng = np.random.default_rng(seed)
    names = [f"p{i + 1}" for i in range(patients)]
    rows = []
    for i, name in enumerate(names):
        base = np.log(10) + 0.5 * rng.standard_normal() + (effect or 0.0) * (i % 2)
        y = base - np.log(2) * np.array(DECAY_DAYS) / 10 + 0.4 * rng.standard_normal(5)
        rows += list(zip([name] * 5, DECAY_DAYS, np.exp(y), strict=True))
    # One more in arm a, so that it is the more frequent one: the reference.
    arms = None if effect is None else ["ab"[i % 2] for i in range(patients)]
    return tables(rows, names, analyte="car_t", unit="cells/µL", arms=arms, lloq=lloq)


def decay_design(patients: int, seed: int, effect: float | None = None, lloq: float = 0.0):
    """(population, data); an odd number of patients makes arm a the reference."""
    return decay_population(effect is not None), decay_data(patients, seed, effect, lloq)


def decay_exact(patients: int, seed: int, effect: float | None = None, size: int = 100_000):
    """Draws from the posterior of `decay_design` without a limit of quantification.

    ln levels are normal given half-life, omega and sigma, ln base and the effect of the arm
    integrated out; these three on a grid, twice: on the prior, then on the posterior.
    """
    data = decay_data(patients, seed, effect)
    y = np.log(data.observations["value"].to_numpy()).reshape(patients, -1)
    t = np.array(DECAY_DAYS)
    columns = [np.ones(patients)]
    prior_mean, prior_sd = [np.log(DECAY_PRIORS["base"][0])], [DECAY_PRIORS["base"][1]]
    if effect is not None:
        columns.append((data.patients["arm"] == "b").to_numpy(float))
        prior_mean.append(EFFECT[0])
        prior_sd.append(EFFECT[1])
    x, m0 = np.stack(columns, axis=1), np.array(prior_mean)
    prior_precision = np.diag(np.array(prior_sd) ** -2.0)
    names = ("halve", "omega_base", "sigma")
    middle = np.log([DECAY_PRIORS[k][0] for k in names])
    wide = np.array([DECAY_PRIORS[k][1] for k in names])

    def given(grid: np.ndarray) -> tuple[np.ndarray, ...]:
        """ln density, and mean and precision of the coefficients, at points (n, 3)."""
        halve, omega, sigma = np.exp(grid).T
        rates = np.log(2) / halve
        level = y.mean(1) + rates[:, None] * t.mean()  # (n, P)
        slope = (t - t.mean()) ** 2
        cross = ((y - y.mean(1, keepdims=True)) * (t - t.mean())).sum()
        square = ((y - y.mean(1, keepdims=True)) ** 2).sum()
        within = square + 2 * rates * cross + rates**2 * slope.sum() * patients
        between = omega**2 + sigma**2 / len(t)
        precision = np.einsum("pi,pj->ij", x, x) / between[:, None, None] + prior_precision
        score = level @ x / between[:, None] + prior_precision @ m0
        mean = np.linalg.solve(precision, score[..., None])[..., 0]
        density = -(y.size - patients) * np.log(sigma) - within / (2 * sigma**2)
        density += -patients / 2 * np.log(between) - (level**2).sum(1) / (2 * between)
        density += 0.5 * (score * mean).sum(1) - 0.5 * np.linalg.slogdet(precision)[1]
        density += -0.5 * (((grid - middle) / wide) ** 2).sum(1)
        return density, mean, precision

    def points(centre: np.ndarray, sd: np.ndarray, n: int) -> np.ndarray:
        axes = [np.linspace(c - 6 * s, c + 6 * s, n) for c, s in zip(centre, sd, strict=True)]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)

    centre, sd = middle, wide
    for n in (41, 41, 61):
        grid = points(centre, sd, n)
        density, mean, precision = given(grid)
        weight = np.exp(density - density.max())
        weight /= weight.sum()
        step = 12 * sd / (n - 1)
        centre = weight @ grid
        sd = np.sqrt(weight @ (grid - centre) ** 2 + step**2 / 12)
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(grid), size, p=weight)
    place = grid[chosen] + step * rng.uniform(-0.5, 0.5, (size, 3))
    factor = np.linalg.cholesky(np.linalg.inv(precision))[chosen]
    scores = rng.standard_normal(mean[chosen].shape)
    coefficients = mean[chosen] + np.einsum("nij,nj->ni", factor, scores)
    draws = {name: np.exp(place[:, i]) for i, name in enumerate(names)}
    draws["base"] = np.exp(coefficients[:, 0])
    if effect is not None:
        draws["beta_base_arm[b]"] = coefficients[:, 1]
    return draws


# ---------------------------------------------------------------------------------------------
# Two explanations of the same data: posteriors with two modes, known by their symmetry
# ---------------------------------------------------------------------------------------------


class EntryParams(ck.Params):
    volume: ck.Scalar = ck.param(1.0, "L", "volume", "assumed", prior_sd=1.5)
    clearance: ck.Scalar = ck.param(0.2, "L/day", "clearance", "assumed")
    k_in: ck.Scalar = ck.param(0.3, "1/day", "rate of entry", "assumed")


class PhasesParams(ck.Params):
    a: ck.Scalar = ck.param(30.0, "cells/µL", "level on day 0 of one phase", "assumed")
    b: ck.Scalar = ck.param(30.0, "cells/µL", "level on day 0 of the other", "assumed")
    k_a: ck.Scalar = ck.param(0.1, "1/day", "loss rate of the one", "assumed")
    k_b: ck.Scalar = ck.param(0.1, "1/day", "loss rate of the other", "assumed")


def entry_level(t, p):
    """One compartment with first-order entry: rates of entry and loss may change places."""
    k_out = p.clearance / p.volume
    apart = jnp.where(jnp.abs(p.k_in - k_out) < 1e-6, 1e-6, p.k_in - k_out)
    return 30 * p.k_in / (p.volume * apart) * (jnp.exp(-k_out * t) - jnp.exp(-p.k_in * t))


ENTRY = ck.ClosedForm(
    name="entry", params=EntryParams, outputs={"car_t": entry_level}, units={"car_t": "cells/µL"}
)
PHASES = ck.ClosedForm(
    name="phases",
    params=PhasesParams,
    outputs={"car_t": lambda t, p: p.a * jnp.exp(-p.k_a * t) + p.b * jnp.exp(-p.k_b * t)},
    units={"car_t": "cells/µL"},
)
LONG = (1.0, 2.0, 4.0, 7.0, 14.0, 21.0, 28.0, 42.0, 60.0)


def entry_data(patients: int, seed: int) -> ck.Dataset:
    truth, spread = {"volume": 1.0, "clearance": 0.1, "k_in": 1.0}, {"clearance": 0.3}
    return curve_data(ENTRY, "car_t", LONG, patients, seed, truth=truth, spread=spread, sigma=0.2)


def phases_data(patients: int, seed: int) -> ck.Dataset:
    truth, spread = {"a": 50.0, "b": 5.0, "k_a": 0.3, "k_b": 0.02}, {"a": 0.3}
    return curve_data(PHASES, "car_t", LONG, patients, seed, truth=truth, spread=spread, sigma=0.2)


def phases_mirror(draws: Posterior) -> tuple[Posterior, np.ndarray]:
    """The same draws with the phases exchanged, and weights: equal, as the priors are."""
    a, b, k_a, k_b = (draws[k] for k in ("a", "b", "k_a", "k_b"))
    return {**draws, "a": b, "b": a, "k_a": k_b, "k_b": k_a}, np.ones(len(a))


def entry_mirror(draws: Posterior) -> tuple[Posterior, np.ndarray]:
    """Entry and loss exchanged: the same levels; weights are ratios of prior densities.

    The map is linear in the logarithms with determinant 1 or -1.
    """
    other = dict(draws)
    other["k_in"] = draws["clearance"] / draws["volume"]
    other["volume"] = draws["clearance"] / draws["k_in"]
    info = EntryParams.info()

    def log_prior(x: Posterior) -> np.ndarray:
        z = [np.log(x[k] / info[k].value) / info[k].prior_sd for k in ("volume", "k_in")]
        return -0.5 * (z[0] ** 2 + z[1] ** 2)

    return other, np.exp(log_prior(other) - log_prior(draws))


# ---------------------------------------------------------------------------------------------
# Differential equations
# ---------------------------------------------------------------------------------------------


class OralParams(ck.Params):
    ka: ck.Scalar = ck.param(36.0, "1/day", "absorption rate", "assumed", iiv=0.4)
    CL: ck.Scalar = ck.param(67.0, "L/day", "clearance", "assumed", iiv=0.3)
    V: ck.Scalar = ck.param(32.0, "L", "volume", "assumed", iiv=0.2)


class OralStates(ck.States):
    A: ck.Scalar = ck.state("mg", "depot")
    C: ck.Scalar = ck.state("mg", "central")


ORAL = ck.ODEModel(
    name="oral",
    params=OralParams,
    states=OralStates,
    vector_field=lambda t, y, p: OralStates(A=-p.ka * y.A, C=p.ka * y.A - p.CL / p.V * y.C),
    initial=lambda p: OralStates(A=0.0, C=0.0),
    targets={"drug": ck.Target("A", unit="mg")},
    outputs={"cp": lambda t, y, p: y.C / p.V},
    units={"cp": "mg/L"},
    regimens={},
)


class SaturableParams(ck.Params):
    Vmax: ck.Scalar = ck.param(600.0, "mg/day", "largest rate of elimination", "assumed", iiv=0.3)
    Km: ck.Scalar = ck.param(4.0, "mg/L", "level of half that rate", "assumed")
    V: ck.Scalar = ck.param(40.0, "L", "volume", "assumed", iiv=0.2)


class SaturableStates(ck.States):
    C: ck.Scalar = ck.state("mg", "central")


def saturable_field(t, y, p):
    level = y.C / p.V
    return SaturableStates(C=-p.Vmax * level / (p.Km + level))


SATURABLE = ck.ODEModel(
    name="saturable",
    params=SaturableParams,
    states=SaturableStates,
    vector_field=saturable_field,
    initial=lambda p: SaturableStates(C=0.0),
    targets={"drug": ck.Target("C", unit="mg")},
    outputs={"cp": lambda t, y, p: y.C / p.V},
    units={"cp": "mg/L"},
    regimens={},
)


def oral_data(patients: int, seed: int, sigma: float = 0.15, hours=THEOPHYLLINE_HOURS):
    """Twelve times as the theophylline data of Boeckmann et al. (1994) have, or fewer; 320 mg."""
    rng, rows, t = np.random.default_rng(seed), [], np.array(hours) / 24
    names = [f"p{i + 1}" for i in range(patients)]
    for name in names:
        ka, cl, v = np.array([36.0, 67.0, 32.0]) * np.exp(
            [0.5, 0.25, 0.15] * rng.standard_normal(3)
        )
        k = cl / v
        f = 320 / v * ka / (ka - k) * (np.exp(-k * t) - np.exp(-ka * t))
        y = f * np.exp(sigma * rng.standard_normal(len(t)))
        rows += list(zip([name] * len(t), t, y, strict=True))
    return tables(rows, names, analyte="cp", unit="mg/L", dose=DRUG)


def oral_design(patients: int, seed: int, sigma: float = 0.15, hours=THEOPHYLLINE_HOURS):
    pop = ck.Population(ORAL, varies=["ka", "CL", "V"], priors=oral_priors(sigma))
    return pop, oral_data(patients, seed, sigma, hours)


def oral_priors(sigma: float) -> dict[str, dist.Distribution]:
    return {"sigma": dist.LogNormal(np.log(sigma), 0.5)}


def saturable_design(patients: int, seed: int):
    """600 mg as a bolus, nine samples over ten days."""
    rng, rows = np.random.default_rng(seed), []
    t = np.array([0.05, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5])
    names = [f"p{i + 1}" for i in range(patients)]
    for name in names:
        vmax, v = np.array([500.0, 45.0]) * np.exp([0.25, 0.15] * rng.standard_normal(2))
        f = solve_ivp(
            lambda _, c, vmax=vmax, v=v: -vmax / v * c / (3.0 + c),
            (0, 3), [600 / v], t_eval=t, rtol=1e-9, atol=1e-12,
        ).y[0]  # fmt: skip
        y = f * np.exp(0.1 * rng.standard_normal(len(t)))
        rows += list(zip([name] * len(t), t, y, strict=True))
    data = tables(rows, names, analyte="cp", unit="mg/L", dose=DRUG | {"amount": 600.0}, lloq=0.01)
    priors = {"sigma": dist.LogNormal(np.log(0.1), 0.5)}
    return ck.Population(SATURABLE, varies=["Vmax", "V"], priors=priors), data


KIMMEL_FIXED = {"N0": 6.0, "B0": 94.86, "rhoC": 0.0251, "a": 0.423, "kB": 4.05, "gammaB": 1.15}
KIMMEL_FIXED |= {"rB": 0.19, "KN": 500.0, "b": 0.525}
KIMMEL_DAYS = (1.0, 3.0, 7.0, 14.0, 28.0, 60.0)


def kimmel_design(patients: int, seed: int, sigma: float = 0.3, rtol: float = 1e-4):
    """KC varies; KC and rN are estimated."""
    model, rng, rows = ck.load_model("kimmel2021"), np.random.default_rng(seed), []
    names = [f"p{i + 1}" for i in range(patients)]
    for name in names:
        p = model.params(KC=139 * np.exp(0.3 * rng.standard_normal()))
        f = np.asarray(
            ck.solve(model, ck.Regimen.cells(0, 1.8e8), np.array(KIMMEL_DAYS), p)["car_t"]
        )
        y = f * np.exp(sigma * rng.standard_normal(len(KIMMEL_DAYS)))
        rows += list(zip([name] * len(y), KIMMEL_DAYS, y, strict=True))
    dose = DOSE | {"amount": 1.8e8}
    data = tables(rows, names, analyte="car_t", unit="cells/µL", dose=dose)
    priors = {"sigma": dist.LogNormal(np.log(sigma), 0.3)}
    return ck.Population(model, varies=["KC"], fixed=KIMMEL_FIXED, priors=priors, rtol=rtol), data


# ---------------------------------------------------------------------------------------------
# Curves of the library
# ---------------------------------------------------------------------------------------------

PIECEWISE_SPREAD = {"cmax": 0.65, "tmax": 0.2, "t_alpha": 0.5}
STEIN_SPREAD = {"cmax": 0.65, "tmax": 0.2, "alpha": 0.4}


def until(last: float, days: Sequence[float] = DENSE) -> tuple[float, ...]:
    return tuple(t for t in days if t <= last)


def piecewise_design(
    patients: int, seed: int, last: float, *, lloq: float = 0.0, days=DENSE,
    varies=("cmax", "tmax", "t_alpha"), correlated=(), jitter: float = 0.0,
):  # fmt: skip
    model = ck.load_model("piecewise")
    data = curve_data(
        model, "car_t", until(last, days), patients, seed,
        spread=PIECEWISE_SPREAD, lloq=lloq, jitter=jitter,
    )  # fmt: skip
    return ck.Population(model, varies=list(varies), correlated=list(correlated)), data


def stein_design(
    patients: int, seed: int, last: float, *, lloq: float = 0.0, days=DENSE, varies=("cmax", "tmax")
):
    model = ck.load_model("stein2019")
    data = curve_data(
        model, "transgene", until(last, days), patients, seed,
        spread={k: STEIN_SPREAD[k] for k in varies}, lloq=lloq,
    )  # fmt: skip
    return ck.Population(model, varies=list(varies)), data


def ogasawara_design(patients: int, seed: int, last: float, lloq: float = 0.0):
    """The lag is fixed at its published value."""
    model = ck.load_model("ogasawara2021")
    spread = {"cmax": 0.65, "tmax": 0.2}
    data = curve_data(model, "transgene", until(last), patients, seed, spread=spread, lloq=lloq)
    return ck.Population(model, varies=list(spread), fixed={"lag": 3.27}), data


def study_design(study: str):
    return demo_populations()[study], ck.load_study(study)


SUMMARY = {"analyte": "car_t", "metric": "level", "unit": "cells/µL", "use": "fit"}
SUMMARY |= {"source": "simulated", "note": ""}


def published_frame(seed: int, n: int, days: Sequence[float], kind: str) -> pd.DataFrame:
    """Medians with quartiles, or geometric means with CV, of `n` simulated patients by day."""
    model = ck.load_model("piecewise")
    data = curve_data(model, "car_t", days, n, seed, spread=PIECEWISE_SPREAD)
    values = data.observations["value"].to_numpy().reshape(n, -1)
    rows = []
    for day, x in zip(days, values.T, strict=True):
        row = SUMMARY | {"cohort": "all", "time": day, "n": n}
        if kind == "median":
            low, middle, high = np.quantile(x, (0.25, 0.5, 0.75))
            row |= {"statistic": "median", "value": middle, "low": low, "high": high}
            rows.append(row | {"interval": "IQR"})
        else:
            variance = np.log(x).var(ddof=1)
            row |= {"statistic": "geometric mean", "value": np.exp(np.log(x).mean())}
            rows.append(row | {"interval": "CV%", "spread": 100 * np.sqrt(np.expm1(variance))})
    return pd.DataFrame(rows)


def published_design(seed: int, n: int, kind: str, patients: int = 0):
    """Cohort figures alone, or with patients of another trial."""
    model = ck.load_model("piecewise")
    frame = published_frame(seed, n, (7.0, 14.0, 28.0, 90.0), kind)
    more = {}
    if patients:
        own = curve_data(model, "car_t", until(90), patients, seed + 1, spread=PIECEWISE_SPREAD)
        more = {"doses": own.doses, "observations": own.observations, "patients": own.patients}
    data = ck.Dataset.from_frames(summaries=frame, name="simulated", **more)
    return ck.Population(model, varies=list(PIECEWISE_SPREAD), virtual_patients=128), data


# ---------------------------------------------------------------------------------------------
# The designs
# ---------------------------------------------------------------------------------------------


def _decays() -> list[Design]:
    plain = [(n, s, None) for s, n in enumerate((4, 5, 6, 8, 10, 12, 16, 20, 30, 40))]
    arms = [(n, 100 + s, e) for s, (n, e) in enumerate(((9, 0.8), (13, 1.5), (21, 2.5), (15, 3.2)))]
    return [
        Design(
            f"decay {n} patients{f', effect {e:g}' if e else ''}, data {s}",
            "decay, exact posterior",
            partial(decay_design, n, s, e),
            exact=partial(decay_exact, n, s, e),
        )
        for n, s, e in plain + arms
    ]


def _curves() -> list[Design]:
    found = []
    sizes = ((3, 28), (5, 60), (8, 90), (12, 60), (5, 365), (12, 180), (20, 90), (40, 28))
    for seed, (n, last) in enumerate(sizes, 200):
        lloq = 0.1 if seed % 2 else 0.0
        part = f"{n} patients to day {last}{', BLQ' if lloq else ''}, data {seed}"
        make = partial(piecewise_design, n, seed, last, lloq=lloq)
        found.append(Design(f"piecewise {part}", "piecewise", make, 1 + (n > 10)))
    wide = {"piecewise": piecewise_design, "stein2019": stein_design}
    for family, make in wide.items():
        few = partial(make, 10, 220, 90.0, days=VISITS)
        found.append(Design(f"{family} 10 patients, visits to day 90", family, few))
    found.append(
        Design(
            "piecewise 12 patients, correlated, days off schedule",
            "piecewise",
            partial(
                piecewise_design,
                12,
                221,
                180.0,
                correlated=("cmax", "t_alpha"),
                jitter=0.1,
            ),
            2,
        )
    )
    for seed, (n, last) in enumerate(((4, 365), (6, 60), (10, 60), (15, 180), (30, 28)), 230):
        lloq = 20.0 if seed % 2 else 0.0
        part = f"{n} patients to day {last}{', BLQ' if lloq else ''}, data {seed}"
        make = partial(stein_design, n, seed, last, lloq=lloq)
        found.append(Design(f"stein2019 {part}", "stein2019", make, 1 + (n > 10)))
    for seed, (n, last) in enumerate(((5, 60), (10, 90), (20, 365)), 240):
        part = f"{n} patients to day {last}, data {seed}"
        make = partial(ogasawara_design, n, seed, last)
        found.append(Design(f"ogasawara2021 {part}", "ogasawara2021", make, 1 + (n > 10)))
    return found


def _equations() -> list[Design]:
    found = []
    for seed, (n, sigma) in enumerate(((6, 0.1), (12, 0.15), (12, 0.3), (20, 0.2)), 300):
        make = partial(oral_design, n, seed, sigma)
        found.append(Design(f"oral {n} patients, sigma {sigma}, data {seed}", "oral", make, 2))
    for seed, n in enumerate((6, 12), 310):
        make = partial(saturable_design, n, seed)
        name = f"saturable {n} patients, data {seed}"
        found.append(Design(name, "saturable elimination", make, 2))
    for seed, n in enumerate((4, 8), 320):
        make = partial(kimmel_design, n, seed)
        found.append(Design(f"kimmel2021 {n} patients, data {seed}", "kimmel2021", make, 3))
    return found


def _cohorts() -> list[Design]:
    found = [
        Design(study, "published cohorts of trials", partial(study_design, study), 3)
        for study in ("zuma1_moffitt", "eliana_ensign", "cartitude1")
    ]
    for seed, (n, kind, own) in enumerate(
        (
            (12, "median", 0),
            (40, "geometric mean", 0),
            (30, "median", 4),
            (25, "geometric mean", 6),
        ),
        400,
    ):
        family = "cohorts and patients" if own else "simulated cohorts"
        name = f"{kind}s of {n}{f' and {own} patients' if own else ''}, data {seed}"
        found.append(Design(name, family, partial(published_design, seed, n, kind, own), 2))
    return found


DESIGNS = {d.name: d for d in [*_decays(), *_curves(), *_equations(), *_cohorts()]}
