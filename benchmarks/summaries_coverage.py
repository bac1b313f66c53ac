"""Coverage of the likelihood of every published statistic that a fit accepts.

Truths are drawn from the prior, a cohort is simulated from each, its statistics are computed as a
paper prints them (the rules of `nca` and of the statistics themselves), and each printed number is
looked up in its distribution under the truth, as the likelihood has it (the probability integral
transform). 90 % intervals must hold 90 % of the printed numbers, 50 % intervals half of them.

Every number has the normal score of its block, given the numbers before it: of a mean and SD the
mean, and the SD given the mean. Discrete statistics (counts, median Tmax) are placed at random
within the probability of their value.

    python benchmarks/summaries_coverage.py [cohorts] [--out docs/summaries.md]

Each metric and number of patients is kept in build/summaries_coverage/ when it is done: run again,
the script goes on where it was.
"""

from __future__ import annotations

import argparse
import math
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import scipy.stats

import carpk as ck
from carpk.dataset.cohort_summaries import METRICS, WITH_ENDS, likelihoods_of
from carpk.inference.nuts import prior_draws
from carpk.population.bound import FLOOR, BoundPopulation
from carpk.population.replicates import simulated_values, with_summaries
from carpk.summaries import (
    CohortSummary,
    margin_of,
    mean_peak_day_scores,
    median_peak_day,
    peak_day_shares,
    quantity,
)

SAMPLING = (1.0, 3, 5, 7, 10, 14, 17, 21, 28, 42, 60, 90, 120, 180)
SIZES = (8, 25, 80)
DAY = 21.0
LIMIT = 1.0  # cells/µL, of levels that are censored
BATCH = 50
POPULATION = ck.Population(
    ck.load_model("piecewise"), varies=["cmax", "tmax", "t_double", "t_alpha"]
)
FOLDER = Path("build/summaries_coverage")
HEAD = """# How well the likelihood of published statistics holds

Made by `python benchmarks/summaries_coverage.py {cohorts}`, {date}: for each metric and number of
patients, {cohorts} truths from the priors of `piecewise` (Cmax, Tmax, doubling time and first
half-life vary between patients) and one cohort from each. A printed number is *held* when it lies
within the central 90 % (50 %) of its distribution under the truth, as the likelihood has it; of two
or three numbers the later ones are taken given those before. `below` and `above` are the shares in
the lowest and the highest 5 %.

With a right likelihood all {numbers} rows together hold between {low:.1f} and {high:.1f} % (for
90 %) in 95 % of such tables (binomial, Bonferroni). **{narrow} rows are below
that: too narrow.** {wide} are above: too wide, on the safe side. All metrics but Tmax and counts
share their margins; what differs is the distribution of the quantity.

Where the likelihood is approximate (`carpk/summaries.py` says how):

- quantiles that lie between two patients (type 7) vary less than the beta distribution with their
  rank: too wide for few patients;
- mean and SD suppose patients' values to be log-normal, which a population with a heavier tail is
  not: areas and levels long after the peak;
- areas and half-lives have a smoothed distribution, and half-lives a rounded-off rule; means and
  SDs of half-lives, ln 2 over slopes that may be near 0, are refused;
- ends of a range rest on the outermost of 256 virtual patients (1,024 for more than 64 patients).

"""


def fact_rows(metric: str, n: int, lloq: float = math.nan) -> pd.DataFrame:
    """One row per accepted statistic and interval; the numbers are placeholders."""
    rows = []
    for statistic, kinds in likelihoods_of(metric).items():
        if statistic in ("percentage", "proportion"):
            continue  # counts by then
        for name in {"percentile": ("p10", "p75")}.get(statistic, (statistic,)):
            rows += [(name, kind) for kind in kinds]
    table = pd.DataFrame(rows, columns=["statistic", "interval"])
    if np.isfinite(lloq):
        quantiles = table["statistic"].isin(["median", "p10", "p75"])
        table = table[quantiles & table["interval"].isin(["", "IQR", "range"])]
    ends, spread = table["interval"].isin(WITH_ENDS), table["interval"].isin(["SD", "SE"])
    kind = METRICS[metric]
    unit = {"level": "cells/µL", "area": "day*cells/µL", "time": "day", "count": "count"}[kind]
    return table.assign(
        cohort="c",
        analyte="car_t",
        metric=metric,
        time={"level": DAY, "detectable": DAY, "auc": 28.0}.get(metric),
        value=3.0 if metric == "detectable" else 20.0,
        low=np.where(ends, 16.0, np.nan),
        high=np.where(ends, np.where(table["statistic"] == "geometric mean", 25.0, 24.0), np.nan),
        spread=np.where(spread, 5.0, np.where((table["interval"] != "") & ~ends, 60.0, np.nan)),
        n=n,
        unit=unit,
        lloq=LIMIT if metric == "detectable" else lloq,
        use="fit",
        source="simulated",
    )


def scores(bound: BoundPopulation, theta: dict, values: np.ndarray, uniform: np.ndarray) -> list:
    """Of each summary, the normal scores of its numbers at the truth; nan where censored."""
    likelihood = bound.cohorts["c"]
    output = likelihood.outputs[0]
    residual = likelihood.residuals[output]

    def one(theta: dict, values: jax.Array, uniform: jax.Array) -> list:
        given = with_summaries(likelihood, values)
        own = bound.residual_thetas(theta, likelihood.outputs)
        f = jnp.maximum(bound.predictors["c"](bound.virtual_patients(theta, "c")), FLOOR)
        every, sampled = given.curves(f, own)[output]
        found = []
        for i, summary in enumerate(given.summaries):
            if summary.metric == "tmax":
                share = jnp.maximum(peak_day_shares(sampled.f, residual, own[output]), 1e-300)
                found.append(_of_peak_day(summary, sampled.t, share, uniform[i]))
                continue
            curves = every if summary.metric in ("level", "detectable") else sampled
            q = quantity(summary.metric, summary.time, summary.lloq, curves, residual, own[output])
            found.append(
                _of_count(summary, q, uniform[i])
                if summary.statistic == "count"
                else margin_of(summary, q).scores
            )
        return found

    run = jax.jit(lambda *x: jax.lax.map(lambda x: one(*x), x, batch_size=BATCH))
    return [
        np.asarray(x) for x in run({k: jnp.asarray(v) for k, v in theta.items()}, values, uniform)
    ]


def _of_count(summary: CohortSummary, q, uniform: jax.Array) -> jax.Array:
    """Score of a count, at random within its probability."""
    share = jnp.mean(1 - q.conditional(jnp.asarray([summary.lloq])).cdf[:, 0])
    k = np.arange(summary.n + 1.0)
    log_pmf = jax.scipy.stats.binom.logpmf(k, summary.n, share)
    return _within(jnp.exp(log_pmf), k, summary.value, uniform)


def _of_peak_day(
    summary: CohortSummary, days: np.ndarray, share: jax.Array, uniform: jax.Array
) -> jax.Array:
    """Scores of mean and SD of Tmax, or of the median, at random within its probability."""
    if summary.statistic == "mean":
        return mean_peak_day_scores(summary, days, share)[0]
    both = np.unique(
        np.concatenate([days, (days[1:] + days[:-1]) / 2 if summary.n % 2 == 0 else []])
    )
    alone = summary._replace(interval="")
    pmf = jax.vmap(lambda day: jnp.exp(median_peak_day(alone._replace(value=day), days, share)))(
        jnp.asarray(both)
    )
    return _within(pmf, both, summary.value, uniform)


def _within(pmf: jax.Array, outcomes: np.ndarray, value, uniform: jax.Array) -> jax.Array:
    below = jnp.sum(jnp.where(outcomes < value - 1e-6, pmf, 0.0))
    here = jnp.sum(jnp.where(abs(outcomes - value) <= 1e-6, pmf, 0.0))
    u = jnp.clip((below + uniform * here) / jnp.sum(pmf), 1e-12, 1 - 1e-12)
    return jax.scipy.stats.norm.ppf(u)[None]


def coverage(metric: str, n: int, cohorts: int, lloq: float = math.nan) -> pd.DataFrame:
    """Coverage of every number of every accepted statistic of a metric."""
    data = ck.Dataset.from_frames(
        summaries=fact_rows(metric, n, lloq), sampling=SAMPLING, name="simulated"
    )
    bound = POPULATION.bind(data)
    seed = zlib.crc32(f"{metric} {n} {lloq}".encode())
    theta = prior_draws(bound.priors, cohorts, seed)
    values = simulated_values(bound, theta, seed)["c"]
    uniform = np.random.default_rng(seed).random(values.shape[:2])
    rows = []
    summaries = bound.cohorts["c"].summaries
    for i, (summary, z) in enumerate(
        zip(summaries, scores(bound, theta, values, uniform), strict=True)
    ):
        known = np.isfinite(values[:, i, 0])
        for j in range(z.shape[1]):
            x = z[known, j]
            x = x[x != 0] if np.isfinite(lloq) else x  # censored ones have no score
            u = scipy.stats.norm.cdf(x)
            censored = f", LLOQ {lloq:g}" if np.isfinite(lloq) else ""
            rows.append(
                (
                    *(
                        metric + censored,
                        summary.statistic,
                        summary.interval or "-",
                        j + 1,
                        n,
                        len(x),
                    ),
                    np.mean(abs(u - 0.5) < 0.45),
                    np.mean(abs(u - 0.5) < 0.25),
                    np.mean(u < 0.05),
                    np.mean(u > 0.95),
                )
            )
    names = ["metric", "statistic", "interval", "number", "n", "cohorts"]
    return pd.DataFrame(rows, columns=[*names, "held 90", "held 50", "below", "above"])


PLAN = [
    *((metric, n, math.nan) for n in SIZES for metric in ("level", "cmax", "auc")),
    *((metric, n, math.nan) for n in SIZES for metric in ("tmax", "detectable")),
    *(("level", n, LIMIT) for n in SIZES),
    *(("t_half", n, math.nan) for n in SIZES),
]


def bounds(numbers: int, cohorts: int, level: float = 0.95) -> tuple[float, float]:
    """Shares of 90 % that a right likelihood keeps to in all rows at once."""
    tail = (1 - level) / 2 / max(numbers, 1)
    low, high = scipy.stats.binom.ppf([tail, 1 - tail], cohorts, 0.9)
    return low / cohorts, high / cohorts


def written(table: pd.DataFrame, cohorts: int) -> str:
    """The page: what the table says, and the table."""
    low, high = bounds(len(table), cohorts)
    narrow, wide = table["held 90"] < low, table["held 90"] > high
    shown = table.assign(verdict=np.where(narrow, "narrow", np.where(wide, "wide", "")))
    head = HEAD.format(
        cohorts=f"{cohorts}",
        date=pd.Timestamp.today().date(),
        low=100 * low,
        high=100 * high,
        numbers=len(table),
        narrow=int(narrow.sum()),
        wide=int(wide.sum()),
    )
    columns = list(shown.columns)
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in shown.to_dict("records"):
        cells = [f"{x:.3f}" if isinstance(x, float) else str(x) for x in row.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return head + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("cohorts", type=int, nargs="?", default=1000)
    parser.add_argument("--out", type=Path, default=None, help="page to write, docs/summaries.md")
    given = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    parts = []
    for metric, n, lloq in PLAN:
        path = FOLDER / f"{metric}_{n}_{lloq:g}_{given.cohorts}.csv"
        if not path.exists():
            coverage(metric, n, given.cohorts, lloq).to_csv(path, index=False)
        parts.append(pd.read_csv(path, keep_default_na=False))
        print(
            f"{metric}, n = {n}, LLOQ {lloq:g}: held {parts[-1]['held 90'].mean():.3f}", flush=True
        )
        table = pd.concat(parts, ignore_index=True)
        if given.out:
            given.out.write_text(written(table, given.cohorts), encoding="utf-8")


if __name__ == "__main__":
    main()
