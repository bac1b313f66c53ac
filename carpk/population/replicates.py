"""Data simulated in the shape of what was measured: the same patients, days and summaries.

`checks` compares them with the data, and fits them again; `information` takes the spread of their
scores.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from carpk import nca
from carpk._compile import stacked
from carpk._types import Arrays, Draws, Values
from carpk.dataset.cohort_summaries import CONFIDENCE, METRICS, WITH_ENDS, percent_of
from carpk.params import Params
from carpk.population.bound import FLOOR, BoundPopulation
from carpk.population.predict import chosen
from carpk.population.random_effects import COHORT, eta_name, omega_name
from carpk.summaries import CohortLikelihood, CohortSummary, end_ranks, t_quantile

Statistic: TypeAlias = Callable[[np.ndarray], float | np.floating]  # of patients' values


def with_cohorts(bound: BoundPopulation, theta: Draws, seed: int) -> dict[str, np.ndarray]:
    """Population parameters, name -> (draw, ...), with effects of cohorts drawn for each."""
    rng, out = np.random.default_rng(seed), dict(theta)
    for name in bound.random_effects.at(COHORT):
        omega = np.asarray(theta[omega_name(name, COHORT)])
        scores = rng.standard_normal((len(omega), len(bound.clusters)))
        out[eta_name(name, COHORT)] = omega[:, None] * scores
    return out


def simulated_values(bound: BoundPopulation, theta: Draws, seed: int) -> dict[str, np.ndarray]:
    """Values in place of the data's: (simulation, row, 4) per cohort; observations (.., P, T)."""
    return simulated(bound, theta, seed)[0]


def simulated(
    bound: BoundPopulation, theta: Draws, seed: int
) -> tuple[dict[str, np.ndarray], Params | None]:
    """`simulated_values`, and the individual patients behind them, leaves (simulation, P, K)."""
    values: dict[str, np.ndarray] = {}
    *rngs, of_people = np.random.default_rng(seed).spawn(len(bound.cohorts) + 1)
    for rng, (cohort, likelihood) in zip(rngs, bound.cohorts.items(), strict=True):
        rows = [
            _replicated(summary, x)
            for summary, x in cohort_values(
                bound, cohort, theta, likelihood.summaries, likelihood.sampling, rng
            )
            if x is not None
        ]
        values[cohort] = np.stack(rows, axis=1)
    people = None
    if bound.individual is not None:
        y, people = new_people(bound, theta, of_people)
        values |= _as_measured(bound, y)
    return values, people


def new_people(
    bound: BoundPopulation, theta: Draws, rng: np.random.Generator
) -> tuple[np.ndarray, Params]:
    """New patients in place of the data's: observations (simulation, P, T), and parameters.

    Each has the covariates, doses and sampling days of one of the real patients, but random effects
    and residuals of its own. Observations below the LLOQ are as they are; padding is NaN. Leaves of
    the parameters (simulation, P, K).
    """
    mask = bound.individual.mask
    shape = (len(bound.patients), bound.drawn_infusions, len(bound.random_effects.columns))
    each = [
        bound.new_observations(
            {k: v[i] for k, v in theta.items()},
            rng.standard_normal(shape),
            rng.standard_normal(mask.shape),
        )
        for i in range(len(next(iter(theta.values()))))
    ]
    y, params = stacked(each)
    return np.where(mask, y, np.nan), params


def _as_measured(bound: BoundPopulation, y: np.ndarray) -> dict[str, np.ndarray]:
    """Observations as a data set holds them: the LLOQ in place of what lies below."""
    a = bound.individual
    censored = (y < a.lloq) & a.mask
    value = np.where(a.mask, np.maximum(y, a.lloq), 1.0)
    return {"value": value, "censored": censored.astype(int)}


def with_values(bound: BoundPopulation, values: Mapping[str, Arrays]) -> BoundPopulation:
    """A copy with other values in place of the data's."""
    cohorts = {name: with_summaries(one, values[name]) for name, one in bound.cohorts.items()}
    individual = bound.individual
    if individual is not None:
        individual = dataclasses.replace(
            individual, value=values["value"], censored=values["censored"], limit=None
        )
    return dataclasses.replace(bound, cohorts=cohorts, individual=individual)


def with_summaries(likelihood: CohortLikelihood, values: Arrays) -> CohortLikelihood:
    """The likelihood of a cohort with other reported values in place of its own, (summary, 4)."""
    summaries = tuple(
        summary._replace(value=v[0], low=v[1], high=v[2], spread=v[3])
        for summary, v in zip(likelihood.summaries, values, strict=True)
    )
    return dataclasses.replace(likelihood, summaries=summaries)


def cohort_values(
    bound: BoundPopulation,
    cohort: str,
    theta: Draws,
    summaries: Sequence[CohortSummary],
    sampling: Sequence[float],
    rng: np.random.Generator,
) -> list[tuple[CohortSummary, np.ndarray | None]]:
    """Each summary with the quantity behind it in its n replicated patients, (draw, n).

    Summaries of one cohort, of one output or several, come from the same patients. None where the
    quantity cannot be had from these sampling days.
    """
    outputs = tuple(dict.fromkeys(summary.output for summary in summaries))
    sampled = np.asarray(sampling, float)
    days_of_levels = [
        np.unique(
            [f.time for f in summaries if f.output == o and f.metric in ("level", "detectable")]
        )
        for o in outputs
    ]
    each = [np.concatenate([days, sampled]) for days in days_of_levels]
    which = np.repeat(np.arange(len(outputs)), [len(days) for days in each])
    size = max(summary.n for summary in summaries)
    y = cohort_observations(bound, cohort, theta, np.concatenate(each), size, rng, outputs, which)
    found = []
    for summary in summaries:
        i = outputs.index(summary.output)
        at_levels, at_samples = np.split(y[:, :, which == i], [len(days_of_levels[i])], axis=2)
        x = patient_values(summary, days_of_levels[i], at_levels, sampled, at_samples)
        found.append((summary, None if x is None else x[:, : summary.n]))
    return found


def cohort_observations(
    bound: BoundPopulation,
    cohort: str,
    theta: Draws,
    days: np.ndarray,
    size: int,
    rng: np.random.Generator,
    outputs: Sequence[str],
    which: np.ndarray | None = None,
    *,
    once: bool = False,
) -> np.ndarray:
    """Simulated observations of replicated cohorts at `days`, (draw, patient, day).

    Args:
        outputs: the model's outputs, of which `which` is measured on each day.
        once: what the assay adds is the same all along a patient's curve.
    """
    design = bound.cohort_design[cohort]
    which = np.zeros(len(days), int) if which is None else which
    predictor = bound.cohort_predictor(cohort, days, outputs=outputs, which=which)
    draws, infusions = len(next(iter(theta.values()))), bound.cohort_infusions(cohort)

    def one(theta: Values, z: Array, noise: Array) -> Array:
        f = jnp.maximum(predictor(bound.params_from_scores(theta, design, z)), FLOOR)
        measured = [
            bound.population.residual_of(o).sample(
                noise, f, bound.population.residual_theta(theta, o)
            )
            for o in outputs
        ]
        return chosen([jnp.asarray(y) for y in measured], which)

    drawn = {k: jnp.asarray(v) for k, v in theta.items()}
    z = rng.standard_normal((draws, size, infusions, len(bound.random_effects.columns)))
    noise = rng.standard_normal((draws, size, 1 if once else len(days)))
    return np.asarray(jax.jit(lambda *x: jax.lax.map(lambda x: one(*x), x))(drawn, z, noise))


def patient_values(
    summary: CohortSummary,
    days_of_levels: np.ndarray,
    y_level: np.ndarray,
    sampling: np.ndarray,
    y_sampled: np.ndarray,
) -> np.ndarray | None:
    """The quantity behind a summary, for every replicated patient: shape (draw, patient)."""
    if summary.metric in ("level", "detectable"):
        y = y_level[:, :, np.flatnonzero(days_of_levels == summary.time)[0]]
        if summary.metric == "level":
            return y
        return (y >= summary.lloq).astype(float) if np.isfinite(summary.lloq) else None
    if not sampling.size:
        return None
    lloq = summary.lloq if np.isfinite(summary.lloq) else 0.0
    t = jnp.concatenate([jnp.zeros(1), jnp.asarray(sampling)])
    functions = {
        "cmax": lambda c: nca.cmax(t, c),
        "tmax": lambda c: nca.tmax(t, c),
        "auc": lambda c: nca.auc_to(summary.time)(t, c),
        "t_half": lambda c: nca.half_life(t, c, lloq),
        "tlast": lambda c: nca.tlast(t, c, lloq),
        "clast": lambda c: nca.clast(t, c, lloq),
    }
    if summary.metric not in functions or (summary.metric in ("tlast", "clast") and lloq == 0.0):
        return None
    if summary.metric == "auc" and summary.time > sampling.max():
        return None
    c = np.concatenate([np.zeros((*y_sampled.shape[:2], 1)), y_sampled], axis=2)
    one = jax.jit(jax.vmap(functions[summary.metric]))
    return np.asarray(one(c.reshape(-1, c.shape[2]))).reshape(c.shape[:2])


def reported_values(summary: CohortSummary) -> list[tuple[str, float, Statistic]]:
    """(name, reported value, function of the patients' values) of one summary.

    A quantile below the LLOQ has the LLOQ as its number, and says so in its name.
    """
    day = f" day {summary.time:g}" if summary.metric in ("level", "detectable") else ""
    day = f" 0-{summary.time:g}d" if summary.metric == "auc" else day
    name = f"{summary.metric}{day}"
    kind, interval = summary.statistic, summary.interval
    if kind == "count":
        return [(f"{name}, patients", summary.value, np.sum)]
    if kind == "proportion":
        return [(f"{name}, proportion", summary.value, np.mean)]

    def censored(name: str, x: float) -> tuple[str, float]:
        below = METRICS[summary.metric] == "level" and x < summary.lloq
        return (f"{name}, below {summary.lloq:g}", summary.lloq) if below else (name, x)

    def end(i: int) -> Statistic:
        return lambda v: ends_of(v, kind, interval)[i]

    rows = [(*censored(f"{name}, {kind}", summary.value), centre_of(kind))]
    if interval in WITH_ENDS:
        word = {"IQR": "quartile", "range": "extreme"}.get(interval, f"end of the {interval}")
        for i, side, printed in ((0, "lower", summary.low), (1, "upper", summary.high)):
            label, number = f"{name}, {side} {word}", printed
            if interval not in CONFIDENCE or kind == "median":
                label, number = censored(label, printed)
            rows.append((label, number, end(i)))
    elif interval:
        geometric = "geometric " if interval == "CV%" and kind == "geometric mean" else ""
        word = {"CV%": f"{geometric}CV %", "GSD": "geometric SD"}.get(interval, interval)
        rows.append((f"{name}, {word}", summary.spread, lambda v: spread_of(v, kind, interval)))
    return rows


def centre_of(statistic: str) -> Statistic:
    """The function of patients' values that a statistic is."""
    percent = percent_of(statistic)
    if percent is not None:
        return lambda v: np.quantile(v, percent / 100)
    centres: dict[str, Statistic] = {
        "median": np.median,
        "geometric mean": lambda v: np.exp(np.mean(np.log(v))),
        "mean": np.mean,
    }
    return centres[statistic]


def ends_of(values: np.ndarray, statistic: str, interval: str) -> tuple[float, float]:
    """Both ends of an interval, as a paper prints them."""
    if interval in ("IQR", "range"):
        low, high = np.quantile(values, (0.25, 0.75) if interval == "IQR" else (0, 1))
        return float(low), float(high)
    n = len(values)
    if statistic == "median":
        first, last = end_ranks(interval, n)
        inside = np.sort(values)[[max(int(first), 1) - 1, min(int(last), n) - 1]]
        return float(inside[0]), float(inside[1])
    x = np.log(values) if statistic == "geometric mean" else values
    half = t_quantile(interval, n) * np.std(x, ddof=1) / np.sqrt(n)
    ends = np.array([x.mean() - half, x.mean() + half])
    low, high = np.exp(ends) if statistic == "geometric mean" else ends
    return float(low), float(high)


def spread_of(values: np.ndarray, statistic: str, interval: str) -> float:
    """SD, SE, CV [percent] or geometric SD, as a paper prints it."""
    if interval == "GSD":
        return float(np.exp(np.std(np.log(values), ddof=1)))
    if interval == "CV%" and statistic == "geometric mean":
        with np.errstate(over="ignore"):  # infinite, of values that spread without bound
            return float(100 * np.sqrt(np.expm1(np.var(np.log(values), ddof=1))))
    sd = float(np.std(values, ddof=1))
    return {
        "SD": sd,
        "SE": float(sd / np.sqrt(len(values))),
        "CV%": float(100 * sd / np.mean(values)),
    }[interval]


def _replicated(summary: CohortSummary, x: np.ndarray) -> np.ndarray:
    """value, low, high, spread of a summary from patients' values (simulation, patient)."""
    numbers = [[f(v[np.isfinite(v)]) for _, _, f in reported_values(summary)] for v in x]
    out = np.full((len(x), 4), np.nan)
    columns = [0, 1, 2] if summary.interval in WITH_ENDS else [0, 3] if summary.interval else [0]
    out[:, columns] = np.array(numbers, float)
    if summary.statistic == "proportion":  # unrounded: this count and no other
        half = 0.5 / summary.n
        out[:, 1], out[:, 2] = out[:, 0] - half, out[:, 0] + half
    return out
