"""Verdict on priors: prior-data conflict, parameters without information."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats
import xarray as xr
from jax.typing import ArrayLike

from carpk.population.bound import BoundPopulation
from carpk.population.parameters import Kind
from carpk.verdict.words import WRONG, Finding, chance, doubt, note, number, trouble, unit_of

UNINFORMED = 0.9  # posterior SD over prior SD, on the estimation scale
CONFLICT = 3.0  # SDs of the difference between prior and likelihood
CONFLICT_OF_TIMES = 2.5  # the same, of a parameter in time that is 24 times off
MOVED = 0.5  # posterior SDs by which a prior must move a parameter, for its conflict to be a doubt
MOVED_SPREAD = 1.0  # the same, of SDs: omegas and those of residuals
AT_BOUND = 0.01  # share of a range
MIN_CONTRACTION = 0.05  # posterior contraction below which a conflict is not assessed
HELD = 0.5  # posterior contraction above which the data dominate
TOGETHER = 0.5  # least part in a direction that the data leave open, to be named


def uninformed(
    posterior: xr.Dataset,
    prior: xr.Dataset,
    bound: BoundPopulation,
    settings: Mapping[str, Any],
    held: Sequence[str],
) -> list[Finding]:
    """Parameters, and combinations of them, without information in the data.

    Args:
        held: parameters that the prior holds away from the data, which is another matter.
    """
    ratio = {k: posterior_over_prior(bound, posterior, prior, k).max() for k in bound.priors}
    alone = [k for k, x in ratio.items() if x > UNINFORMED and k not in held]
    found = []
    if alone:
        found.append(
            doubt(
                "parameter without information",
                "The data say next to nothing about "
                + ", ".join(alone)
                + f": the posterior is as wide as the prior (SD ratio above {UNINFORMED}), and "
                "what is reported of it is the prior.",
            )
        )
    return found + (
        _open_together(posterior, prior, bound, alone) if settings["method"] != "map" else []
    )


def _data_over_prior(bound: BoundPopulation, prior: xr.Dataset) -> float:
    """Median of observation over prior typical prediction; 1 without observations."""
    if bound.individual is None:
        return 1.0
    shared = {name: np.zeros(len(bound.clusters)) for name in bound.cohort_effects}
    theta = {k: np.median(prior[k].values, axis=(0, 1)) for k in bound.priors} | shared
    a, predictions = bound.individual, np.asarray(bound.population_predictions(theta))
    measured = a.mask & (a.censored == 0) & ~bound.counted
    ratio = (
        float(np.exp(np.median(np.log(a.value / predictions)[measured]))) if measured.any() else 1.0
    )
    return ratio if np.isfinite(ratio) else 1.0


def _structural(bound: BoundPopulation, name: str) -> bool:
    """A structural parameter or a covariate effect: neither omega nor sigma."""
    return bound.parameters[name].kind not in (Kind.OMEGA, Kind.RESIDUAL)


def against_the_prior(
    posterior: xr.Dataset, prior: xr.Dataset, bound: BoundPopulation
) -> list[Finding]:
    """Parameters whose prior the data contradict, or that lie at the end of their range."""
    found = []
    for name in bound.priors:
        correlation = bound.parameters[name].kind == Kind.CORRELATION
        if correlation or not np.isfinite(posterior[name].values).all():
            continue
        ends = _at_bound(posterior, prior, bound, name)
        conflict = _conflict(posterior, prior, bound, name)
        found += ends + [f for f in conflict if f.grade == WRONG or not ends]
    return found


def _conflict(
    posterior: xr.Dataset, prior: xr.Dataset, bound: BoundPopulation, name: str
) -> list[Finding]:
    """Prior-data conflict of a parameter.

    On the estimation scale, with normal distributions: the likelihood follows from prior and
    posterior, and its distance from the prior has a known SD. The shift by the prior is given in
    posterior SDs: a prior that the data overrule is no doubt, unless its distance is that between
    two units.
    """
    transform = bound.parameters[name].transform
    after, before = (np.asarray(transform.forward(x[name].values)) for x in (posterior, prior))
    middle, centre = (np.atleast_1d(np.median(x, (0, 1))) for x in (after, before))
    sd, wide = (np.atleast_1d(x.std((0, 1))) for x in (after, before))
    told = np.maximum(1 - (sd / wide) ** 2, MIN_CONTRACTION)  # posterior contraction
    away = (middle - centre) / wide
    pull = np.abs(away) / np.sqrt(told)
    moves = np.abs(away) * np.sqrt(np.maximum(1 - told, 0.0)) / told
    hours = _hours(bound, name, transform.inverse(middle), transform.inverse(centre))
    limit = CONFLICT_OF_TIMES if hours else CONFLICT
    clear = (told > MIN_CONTRACTION) | (np.abs(away) > CONFLICT) | hours
    if not (np.isfinite(pull).all() and (clear & (pull > limit)).any()):
        return []
    i = int(np.argmax(np.where(clear, pull, 0.0)))
    data = centre[i] + (middle[i] - centre[i]) / told[i]
    here, there, alone = (
        number(float(np.ravel(np.asarray(transform.inverse(np.full(middle.shape, x))))[i]))
        for x in (centre[i], middle[i], data)
    )
    strength = chance(float(2 * scipy.stats.norm.sf(pull[i])))
    told_of = (
        f"its posterior ({there}) lies {number(abs(away[i]), '.1f')} prior SDs from the middle of "
        f"the prior ({here}){strength}"
    )
    model = _structural(bound, name)
    ratio = _data_over_prior(bound, prior) if model else 1.0
    far = not 0.1 < ratio < 10
    data_off = f" Observations are {number(ratio)} times its predictions{unit_of(ratio)}."
    data_off = data_off if far else ""
    if unit_of(ratio):
        text = (
            f"Data and prior disagree about {name}: {told_of}.{data_off} Look at units and doses "
        )
        return [trouble("unit", text + "first, then at the prior, then at the model.")]
    if hours:
        return [
            doubt(
                "hours or days",
                f"Data and prior disagree about {name}: {told_of}, a factor near 24: are times in "
                "hours? carpk counts in days (time, and the times of doses). Look at these columns "
                "first, then at the prior, then at the model.",
            )
        ]
    if moves[i] > (MOVED if model else MOVED_SPREAD) or data_off:
        if told[i] < HELD:
            told_of = (
                f"the prior is so narrow that it holds {name} near {there}, but the data by "
                f"themselves would put it near {alone}, {number(pull[i], '.1f')} SDs away from "
                f"the prior{strength}"
            )
        else:
            told_of += f", which moves it by {number(float(moves[i]), '.1f')} posterior SDs"
        return [
            doubt(
                "prior against data",
                f"Data and prior disagree about {name}: {told_of}.{data_off} Widen the prior, or "
                f"find out why these data differ from it: {_suspects(bound, name)}.",
            )
        ]
    if not model:
        return []
    return [
        note(
            "prior overruled",
            f"the data overrule the prior of {name}: {told_of}, which moves it by "
            f"{number(moves[i], '.1f')} posterior SDs only.{data_off}",
        )
    ]


def _hours(bound: BoundPopulation, name: str, here: ArrayLike, there: ArrayLike) -> bool:
    """A parameter in time, or per time, off by a factor near 24: hours for days."""
    if "day" not in bound.parameters[name].unit:
        return False
    ratio = abs(float(np.log(np.ravel(here)[0] / np.ravel(there)[0])))
    return abs(ratio - math.log(24)) < math.log(1.5)


def _suspects(bound: BoundPopulation, name: str) -> str:
    """Possible causes of a conflict, in words."""
    kind = bound.parameters[name].kind
    if kind == Kind.OMEGA:
        return "single patients first, then the model"
    if kind == Kind.RESIDUAL:
        return "single samples first, then the model, which may not follow the curves"
    return "units, assay, patients, then the model"


def _at_bound(
    posterior: xr.Dataset, prior: xr.Dataset, bound: BoundPopulation, name: str
) -> list[Finding]:
    low, high = bound.parameters[name].bounds
    if not (math.isfinite(low) and math.isfinite(high)):
        return []
    places = [(x[name].values - low) / (high - low) for x in (posterior, prior)]
    at, before = [np.mean((x < AT_BOUND) | (x > 1 - AT_BOUND)) for x in places]
    if not (at > 0.5 and at > 2 * before):
        return []
    return [
        doubt(
            "parameter at its bound",
            f"{name} lies at the end of its range ({low:g} to {high:g}) in {at:.0%} of the draws: "
            "fix it there, or choose a model without it.",
        )
    ]


def _open_together(
    posterior: xr.Dataset, prior: xr.Dataset, bound: BoundPopulation, alone: Sequence[str]
) -> list[Finding]:
    """Combinations of parameters without information though each of them looks informed.

    In units of the prior SDs, a direction in which the posterior is as wide as the prior.
    """
    names = [
        name
        for name in bound.priors
        if name not in alone and posterior[name].ndim == 2
        if np.isfinite(posterior[name].values).all()
    ]
    if len(names) < 2:
        return []

    def columns(draws: xr.Dataset) -> np.ndarray:
        each = [np.ravel(bound.parameters[n].transform.forward(draws[n].values)) for n in names]
        return np.stack([np.asarray(x) for x in each])

    cov = np.cov(columns(posterior) / columns(prior).std(axis=1, keepdims=True))
    if not np.isfinite(cov).all():
        return []
    found = []
    values, vectors = np.linalg.eigh(cov)
    for value, vector in zip(values, vectors.T, strict=True):
        parts = [(n, x) for n, x in zip(names, vector, strict=True) if abs(x) > TOGETHER / 2]
        strong = sum(abs(x) > TOGETHER for _, x in parts)
        if value < UNINFORMED**2 or len(parts) < 2 or not strong:
            continue
        first = np.sign(parts[0][1])
        same = ", ".join(n for n, x in parts if np.sign(x) == first)
        other = ", ".join(n for n, x in parts if np.sign(x) != first)
        moves = f"{same} up and {other} down" if other else f"{same} up or down together"
        found.append(
            doubt(
                "parameters not told apart",
                f"The data do not tell {', '.join(n for n, _ in parts)} apart: {moves} fits them "
                "as well, as far as the prior allows. Fix one of them, or report only what they "
                "have in common, such as their product or ratio (checks.identifiability).",
            )
        )
    return found


def posterior_over_prior(
    bound: BoundPopulation, posterior: xr.Dataset, prior: xr.Dataset, name: str
) -> np.ndarray:
    """Posterior SD over prior SD of a parameter's numbers, on the estimation scale."""
    parameter = bound.parameters[name]
    each = [
        parameter.split(np.asarray(parameter.transform.forward(x[name].values)))
        for x in (posterior, prior)
    ]
    after, before = (np.array([np.std(x) for x in one.values()]) for one in each)
    ratio: np.ndarray = after / before
    return ratio
