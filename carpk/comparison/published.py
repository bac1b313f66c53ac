"""Published cohorts: the population values behind their statistics, drawn from a posterior."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from carpk.comparison.arms import Given
from carpk.comparison.caveats import CONDITIONING, denominator, differing, listing
from carpk.comparison.outcomes import Asked
from carpk.dataset import Dataset
from carpk.dataset.cohort_summaries import CONFIDENCE, COUNTED
from carpk.errors import CarpkError, DatasetError
from carpk.library.study import Study
from carpk.summaries import CohortSummary, end_ranks, sample_log_sd, sample_sd

DRAWS = 4000  # of a published summary
NUMBERS = ("statistic", "value", "low", "high", "interval", "spread", "n", "lloq", "use")
DATES = ("tmax", "tlast", "tbql")  # metrics that are days: compared by difference


def cohorts(
    source: Dataset | Study,
    arms: Mapping[str, Given | str],
    asked: Asked | None,
    reference: str,
    draws: int,
    seed: int,
) -> tuple[xr.Dataset, str, tuple[str, ...]]:
    """Draws of the population values behind published summaries; their basis; their caveats."""
    data = source.dataset() if isinstance(source, Study) else source
    rows, chosen = data.summaries, {}
    for name, cohort in arms.items():
        if not isinstance(cohort, str) or cohort not in set(rows["cohort"]):
            raise DatasetError(
                f"compare: the arm {name!r} must be the name of a cohort of {data.name}, but is "
                f"{cohort!r}; known are {', '.join(dict.fromkeys(rows['cohort'])) or 'none'}."
            )
        chosen[name] = cohort
    named = list(chosen.values())
    if isinstance(asked, str) or not all(isinstance(x, str) for x in asked or ()):
        raise CarpkError(
            "compare: outcomes of published cohorts are names of metrics, such as ['cmax', 'auc']."
        )
    kept = rows[(rows["use"] != "no") & rows["cohort"].isin(named)]
    kept = kept[kept["metric"].isin(list(asked))] if asked else kept
    several = len(set(kept["analyte"])) > 1
    names = [_statistic(row, several) for row in kept.to_dict("records")]
    kept = kept.assign(outcome=names)
    variables: dict[str, tuple[tuple[str, str], np.ndarray, dict[str, str | list[str]]]] = {}
    caveats = list(_about_cohorts(source, data, chosen))
    remarks: dict[tuple[str, str], list[str]] = {}  # (outcome, remark) -> arms
    rng = np.random.default_rng(seed)
    for outcome, group_ in kept.groupby("outcome", sort=False):
        of = {row["cohort"]: row for row in group_.to_dict("records")}
        if len(of) < len(group_):
            raise DatasetError(
                f"compare: {data.name} has {outcome!r} more than once for a cohort; keep one of "
                'them and set the `use` of the others to "no".'
            )
        if len(of) < len(set(named)):
            caveats.append(f"{outcome} is published of {listing(of)} only.")
        if chosen[reference] not in of or len(of) < 2:
            continue
        x = np.full((len(arms), draws), np.nan)
        known = []
        for name in (arm for arm in chosen if chosen[arm] in of):
            row = of[chosen[name]]
            drawn = population_value(row, draws, rng)
            x[list(arms).index(name)] = row["value"] if drawn is None else drawn
            note = f": {row['note']}" if row["note"] else ""
            if drawn is None:
                note = f": no interval can be used, so the contrast has none{note}"
            else:
                known.append(name)
            if drawn is None or row["use"] != "fit":
                remarks.setdefault((str(outcome), note), []).append(name)
        one = of[chosen[reference]]
        counted = one["statistic"] in COUNTED
        attrs = {
            "units": "1" if counted else one["unit"],
            "contrast": "difference" if counted or one["metric"] in DATES else "ratio",
            "uncertain": known,
        }
        variables[str(outcome)] = (("arm", "draw"), x, attrs)
    if not variables:
        raise DatasetError(
            f"compare: {data.name} has no statistic of both {' and '.join(map(repr, named))} "
            "with the same metric, day, unit and kind."
        )
    caveats += [f"{what} ({listing(of)}){note}." for (what, note), of in remarks.items()]
    dropped = int((rows["cohort"].isin(named) & (rows["use"] == "no")).sum())
    if dropped:
        caveats.append(f"{dropped} statistic(s) kept for the record (use 'no') are not compared.")
    caveats.append(
        "Intervals hold what n patients leave uncertain if levels are log-normal between patients, "
        "with a flat prior; nothing is said of a single patient. Not a tool for clinical decisions."
    )
    told = "; ".join(f"{name} is {cohort!r}" for name, cohort in chosen.items() if name != cohort)
    basis = f"published summaries of {data.name}, {draws} draws of each" + (told and f"; {told}")
    result = xr.Dataset(variables, coords={"arm": list(arms)}, attrs={"reference": reference})
    return result, basis, tuple(dict.fromkeys(caveats))


def _statistic(row: Mapping[Hashable, Any], several: bool) -> str:
    """A name for a published summary: the same for what can be compared."""
    day = "" if math.isnan(row["time"]) else f"{row['time']:g}d"
    metric = {"auc": "auc0"}.get(row["metric"], row["metric"]) + (day and f"_{day}")
    what = f"{row['analyte']} {metric}" if several else metric
    return f"{what}, {row['statistic']}"


def _about_cohorts(
    source: Dataset | Study, data: Dataset, arms: Mapping[str, str]
) -> Iterable[str]:
    """Differences between the cohorts other than the contrast, and the study's own caveats."""
    yield (
        "Not randomized, as far as the data say: cohorts differ in whatever made them different "
        "cohorts."
    )
    about = {row["cohort"]: row for row in data.cohorts.to_dict("records")}
    known = {
        name: {str(k): x for k, x in about.get(c, {}).items() if k != "cohort"}
        for name, c in arms.items()
    }
    differ = differing(known)
    if differ:
        told = "; ".join(
            f"{name}: {listing(f'{k} {given[k]}' for k in differ if k in given)}"
            for name, given in known.items()
        )
        yield f"What is known to differ: {told}."
    rows = data.summaries[data.summaries["cohort"].isin(list(arms.values()))]
    copies = rows.loc[rows["unit"].str.contains("copies/µg"), "analyte"]
    if len(copies) and any(c.lower() in CONDITIONING for c in differ):
        yield denominator(copies.iloc[0], False)
    for analyte, of in rows.groupby("analyte", sort=False):
        limits = of.dropna(subset=["lloq"]).groupby("cohort")["lloq"].agg(set)
        if len({frozenset(x) for x in limits}) > 1:
            yield f"The limit of quantification of {analyte} differs between the cohorts."
    if isinstance(source, Study):
        given = {name: source.arms.get(str(known[name].get("arm"))) for name in arms}
        doses = {
            name: f"{arm.product} per {arm.per or 'patient'}" for name, arm in given.items() if arm
        }
        if len(set(doses.values())) > 1:
            told = "; ".join(f"{name}: {dose}" for name, dose in doses.items())
            yield (
                f"The dose is defined differently between arms ({told}); whether CAR+ or all cells "
                "are counted may differ too."
            )
        yield from source.caveats
        return
    parts = data.about.get("parts", {data.name: data.about})
    for about in parts.values():
        yield from (" ".join(str(text).split()) for text in about.get("caveats", ()))


def population_value(
    row: Mapping[Hashable, Any], draws: int, rng: np.random.Generator
) -> np.ndarray | None:
    """Posterior draws of the population value behind a published summary; None without interval.

    Patients' values are log-normal: ln y = mu + sigma z. With a prior flat in mu and ln sigma, and
    with z the normal scores of n fresh patients, the posterior is that of the (mu, sigma) which
    give these patients the printed statistic and spread: exact for a geometric mean with CV (the t
    distribution) and for medians with quartiles or range, for the logs of these shift and scale
    with mu and sigma; close for a mean with SD. A median's and a geometric mean's population value
    is exp(mu), a mean's exp(mu + sigma²/2). Where the lower end is below the limit of
    quantification, the upper half alone gives the spread. An SE is the SD it was made of, and a
    confidence interval that of Student's t, or of a median the order statistics with the binomial
    ranks. Counts are binomial, with a flat prior.

    Args:
        row: of `Dataset.summaries`: statistic, value, low, high, interval, spread, n, lloq, use;
            with use "value" the interval is not used.
    """
    n, value, kind, interval = int(row["n"]), float(row["value"]), row["statistic"], row["interval"]
    if kind in COUNTED:
        value *= {"count": 1, "proportion": n, "percentage": n / 100}[kind]
        return rng.beta(value + 1, n - value + 1, draws)
    if row["use"] == "value" or not interval or value <= 0:
        return None
    z = rng.standard_normal(((draws + 1) // 2, n))
    z = np.concatenate([z, -z])[:draws]  # antithetic: the median draw is the printed figure
    center = np.median(z, axis=1) if kind == "median" else z.mean(axis=1)
    row = {**row, "lloq": 0.0 if math.isnan(row["lloq"]) else row["lloq"]}
    numbers = {key: row[key] for key in NUMBERS}
    summary = CohortSummary(metric="", time=math.nan, label="", **numbers)
    if interval in ("IQR", "range") or (interval in CONFIDENCE and kind == "median"):
        first, last = end_ranks(interval, n)
        low, high = np.quantile(z, ((first - 1) / (n - 1), (last - 1) / (n - 1)), axis=1)
        if row["low"] <= row["lloq"]:
            if row["high"] <= value:
                return None
            sigma = math.log(row["high"] / value) / (high - center)
        else:
            sigma = math.log(row["high"] / row["low"]) / (high - low)
    elif kind == "geometric mean" and interval not in ("SD", "SE"):
        sigma = float(sample_log_sd(summary)) / z.std(axis=1, ddof=1)
    elif interval == "GSD":
        sigma = math.log(row["spread"]) / z.std(axis=1, ddof=1)
    else:
        over_mean = interval == "CV%" or kind == "mean"
        sigma = _sigma_of(z, sample_sd(summary) / value, None if over_mean else center)
    drawn: np.ndarray
    if kind == "mean":
        drawn = value / np.exp(sigma[:, None] * z).mean(axis=1) * np.exp(sigma**2 / 2)
    else:
        drawn = value * np.exp(-sigma * center)
    return drawn


def _sigma_of(z: np.ndarray, relative: float, center: np.ndarray | None) -> np.ndarray:
    """The sigma at which exp(sigma z) has this SD over its mean, or over exp(sigma center).

    It grows with sigma; found by halving the interval up to 20, far beyond any data.
    """
    low, high = np.zeros(len(z)), np.full(len(z), 20.0)
    for _ in range(50):
        sigma = (low + high) / 2
        y = np.exp(sigma[:, None] * z)
        over = y.mean(axis=1) if center is None else np.exp(sigma * center)
        wide = y.std(axis=1, ddof=1) / over > relative
        low, high = np.where(wide, low, sigma), np.where(wide, sigma, high)
    middle: np.ndarray = (low + high) / 2
    return middle
