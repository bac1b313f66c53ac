"""Data simulated in the shape of what was measured: the same patients, days and printed statistics.

`checks` compares them with the data, and fits them again; `information` takes the spread of their
scores.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from carpk import nca
from carpk.compiled import stacked
from carpk.effects import COHORT, eta_name, omega_name
from carpk.params import Params
from carpk.population import PopulationModel
from carpk.summaries import CohortLikelihood, Fact


def with_cohorts(
    bound: PopulationModel, theta: Mapping[str, np.ndarray], seed: int
) -> dict[str, np.ndarray]:
    """Population parameters, name -> (draw, ...), with effects of cohorts drawn for each."""
    rng, out = np.random.default_rng(seed), dict(theta)
    for name in bound.random.at(COHORT):
        omega = np.asarray(theta[omega_name(name, COHORT)])
        scores = rng.standard_normal((len(omega), len(bound.clusters)))
        out[eta_name(name, COHORT)] = omega[:, None] * scores
    return out


def simulated_values(
    bound: PopulationModel, theta: Mapping[str, np.ndarray], seed: int
) -> dict[str, np.ndarray]:
    """Values in place of the data's: (simulation, fact, 4) per cohort; observations (.., P, T)."""
    return simulated(bound, theta, seed)[0]


def simulated(
    bound: PopulationModel, theta: Mapping[str, np.ndarray], seed: int
) -> tuple[dict[str, np.ndarray], Params | None]:
    """`simulated_values`, and the individual patients behind them, leaves (simulation, P, K)."""
    values: dict[str, np.ndarray] = {}
    *rngs, of_people = np.random.default_rng(seed).spawn(len(bound.cohorts) + 1)
    for rng, (cohort, likelihood) in zip(rngs, bound.cohorts.items(), strict=True):
        sampling = np.asarray(likelihood.sampling)
        days = np.unique([f.time for f in likelihood.facts if f.metric in ("level", "detectable")])
        size = max(f.n for f in likelihood.facts)
        _, y = cohort_levels(bound, cohort, theta, np.concatenate([days, sampling]), 0, size, rng)
        level, sampled = np.split(np.asarray(y), [len(days)], axis=2)
        rows = []
        for fact in likelihood.facts:
            x = patient_values(fact, days, level, sampling, sampled)
            assert x is not None
            rows.append(_printed_again(fact, x[:, : fact.n]))
        values[cohort] = np.stack(rows, axis=1)
    people = None
    if bound.individual is not None:
        y, people = new_people(bound, theta, of_people)
        values |= _as_measured(bound, y)
    return values, people


def new_people(
    bound: PopulationModel, theta: Mapping[str, Any], rng: np.random.Generator
) -> tuple[np.ndarray, Params]:
    """New patients in place of the data's: measured levels (simulation, P, T), and parameters.

    Each has the covariates, doses and sampling days of one of the real patients, but random effects
    and residuals of its own. Levels below the LLOQ are as they are; padding is NaN. Leaves of the
    parameters (simulation, P, K).
    """
    mask = bound.individual.mask
    shape = (len(bound.patients), bound.drawn_infusions, len(bound.random.columns))
    each = [
        bound.new_levels(
            {k: v[i] for k, v in theta.items()},
            rng.standard_normal(shape),
            rng.standard_normal(mask.shape),
        )
        for i in range(len(next(iter(theta.values()))))
    ]
    y, params = stacked(each)
    return np.where(mask, y, np.nan), params


def _as_measured(bound: PopulationModel, y: np.ndarray) -> dict[str, np.ndarray]:
    """Levels as a data set holds them: the LLOQ in place of what lies below."""
    a = bound.individual
    censored = (y < a.lloq) & a.mask
    value = np.where(a.mask, np.maximum(y, a.lloq), 1.0)
    return {"value": value, "censored": censored.astype(int)}


def with_values(bound: PopulationModel, values: Mapping[str, Any]) -> PopulationModel:
    """The same population model with other values in place of the data's."""
    cohorts = {name: with_facts(one, values[name]) for name, one in bound.cohorts.items()}
    individual = bound.individual
    if individual is not None:
        individual = dataclasses.replace(
            individual, value=values["value"], censored=values["censored"], limit=None
        )
    return dataclasses.replace(bound, cohorts=cohorts, individual=individual)


def with_facts(likelihood: CohortLikelihood, values: Any) -> CohortLikelihood:
    """The likelihood of a cohort with other printed numbers in place of its own, (fact, 4)."""
    facts = tuple(
        fact._replace(value=v[0], low=v[1], high=v[2], spread=v[3])
        for fact, v in zip(likelihood.facts, values, strict=True)
    )
    return dataclasses.replace(likelihood, facts=facts)


def cohort_levels(
    bound: PopulationModel,
    cohort: str,
    theta: Mapping[str, Any],
    days: np.ndarray,
    grid: int,
    size: int,
    rng: np.random.Generator,
) -> tuple[Any, Any]:
    """Measured levels of replicated cohorts: (draw, patient, grid) and (draw, patient, days).

    On the grid what the assay adds is the same all along a patient's curve.
    """
    design = bound.cohort_design[cohort]
    residual = bound.population.residual_of(bound.output)
    levels = bound.cohort_predictor(cohort, days)
    draws, infusions = len(next(iter(theta.values()))), bound.cohort_infusions(cohort)

    def one(theta: Mapping[str, Any], z: Any, once: Any, each: Any) -> Any:
        f = levels(bound.params_from_scores(theta, design, z))
        own = bound.population.residual_theta(theta, bound.output)
        curves = residual.sample(once, f[:, :grid], own)
        return curves, residual.sample(each, f[:, grid:], own)

    theta = {k: jnp.asarray(v) for k, v in theta.items()}
    z = rng.standard_normal((draws, size, infusions, len(bound.random.columns)))
    once = rng.standard_normal((draws, size, 1))
    each = rng.standard_normal((draws, size, len(days) - grid))
    return jax.jit(lambda *x: jax.lax.map(lambda x: one(*x), x))(theta, z, once, each)


def patient_values(
    fact: Fact,
    level_days: np.ndarray,
    y_level: np.ndarray,
    sampling: np.ndarray,
    y_sampled: np.ndarray,
) -> np.ndarray | None:
    """The quantity behind a fact, for every replicated patient: shape (draw, patient)."""
    if fact.metric in ("level", "detectable"):
        y = y_level[:, :, np.flatnonzero(level_days == fact.time)[0]]
        return (y >= fact.lloq).astype(float) if fact.metric == "detectable" else y
    if not sampling.size:
        return None
    lloq = fact.lloq if np.isfinite(fact.lloq) else 0.0
    t = jnp.concatenate([jnp.zeros(1), jnp.asarray(sampling)])
    functions = {
        "cmax": lambda c: nca.cmax(t, c),
        "tmax": lambda c: nca.tmax(t, c),
        "auc": lambda c: nca.auc_to(fact.time)(t, c),
        "t_half": lambda c: nca.half_life(t, c, lloq),
        "tlast": lambda c: nca.tlast(t, c, lloq),
        "clast": lambda c: nca.clast(t, c, lloq),
    }
    if fact.metric not in functions or (fact.metric in ("tlast", "clast") and lloq == 0.0):
        return None
    if fact.metric == "auc" and fact.time > sampling.max():
        return None
    c = np.concatenate([np.zeros((*y_sampled.shape[:2], 1)), y_sampled], axis=2)
    one = jax.jit(jax.vmap(functions[fact.metric]))
    return np.asarray(one(c.reshape(-1, c.shape[2]))).reshape(c.shape[:2])


def printed_numbers(fact: Fact) -> list[tuple[str, float, Any]]:
    """(name, printed number, function of the patients' values) of one fact."""
    day = f" day {fact.time:g}" if fact.metric in ("level", "detectable") else ""
    day = f" 0-{fact.time:g}d" if fact.metric == "auc" else day
    name = f"{fact.metric}{day}"
    if fact.statistic == "count":
        return [(f"{name}, patients", fact.value, np.sum)]
    centre = {
        "median": np.median,
        "geometric mean": lambda v: np.exp(np.mean(np.log(v))),
        "mean": np.mean,
    }[fact.statistic]
    rows = [(f"{name}, {fact.statistic}", fact.value, centre)]
    ends = {"IQR": ("quartile", 0.25, 0.75), "range": ("extreme", 0.0, 1.0)}
    if fact.interval in ends:
        word, p, q = ends[fact.interval]
        rows.append((f"{name}, lower {word}", fact.low, lambda v: np.quantile(v, p)))
        rows.append((f"{name}, upper {word}", fact.high, lambda v: np.quantile(v, q)))
    elif fact.interval == "CV%":
        rows.append((f"{name}, geometric CV %", fact.spread, geometric_cv))
    elif fact.interval == "SD":
        rows.append((f"{name}, SD", fact.spread, lambda v: np.std(v, ddof=1)))
    return rows


def geometric_cv(values: Any) -> float:
    """Geometric coefficient of variation [percent]."""
    return float(100 * np.sqrt(np.expm1(np.var(np.log(values), ddof=1))))


def _printed_again(fact: Fact, x: np.ndarray) -> np.ndarray:
    """value, low, high, spread of a fact from patients' values (simulation, patient)."""
    numbers = [[f(v[np.isfinite(v)]) for _, _, f in printed_numbers(fact)] for v in x]
    out = np.full((len(x), 4), np.nan)
    columns = {"IQR": [0, 1, 2], "range": [0, 1, 2], "CV%": [0, 3], "SD": [0, 3]}
    out[:, columns.get(fact.interval, [0])] = np.array(numbers, float)
    return out
