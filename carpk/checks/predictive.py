"""Prior and posterior predictive checks: replicates of the data, compared like with like."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from carpk._late import late
from carpk._options import Interval, options
from carpk._tables import as_frame
from carpk.dataset import Dataset
from carpk.inference.nuts import prior_draws
from carpk.inference.result import Fit
from carpk.population.bound import BoundPopulation, cohort_summaries
from carpk.population.population import Population
from carpk.population.replicates import (
    cohort_observations,
    cohort_values,
    reported_values,
    with_cohorts,
)
from carpk.summaries import CohortSummary

if TYPE_CHECKING:
    import pandas as pd
    from jax import Array
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

    from carpk._types import Draws, Values
    from carpk.library.study import Study

QUANTILES = (0.25, 0.5, 0.75)


@dataclasses.dataclass(frozen=True)
class Predictive:
    """Replicated data.

    Attributes:
        kind: "prior" or "posterior".
        bound: the population model and its data.
        curves: cohort -> DataArray (draw, quantile, time): quartiles of the measured concentrations
            of a replicated cohort, of the fit's first output.
        summaries: one row per published summary: observed, and median and interval of its
            replicates; `p` is the share of replicates below the observed value.
        observations: DataArray (draw, obs_id) of replicated individual observations, or None.
        interval: `options.interval_prob` when it was made.
    """

    kind: str
    bound: BoundPopulation
    curves: Mapping[str, xr.DataArray]
    summaries: pd.DataFrame
    observations: xr.DataArray | None
    interval: Interval

    def plot(self) -> Figure:
        """Bands over the published summaries."""
        figure: Figure = late("carpk.plot.predictive")([self])
        return figure

    def __repr__(self) -> str:
        shown = f"median and {self.interval} equal-tailed interval"
        head = f"{self.kind} predictive check; replicates: {shown}"
        if self.summaries.empty:
            return head + " (individual observations only)"
        return head + "\n" + self.summaries.to_string(float_format="{:.3g}".format)


def prior_predictive(
    population: Population,
    data: Dataset | Study,
    *,
    draws: int = 300,
    days: ArrayLike | None = None,
    seed: int = 0,
) -> Predictive:
    """Prior predictive check of these data, before any fit.

    Args:
        population: the population model.
        data: a `Dataset` or a `Study`.
        draws: replicated data sets.
        days: grid for curves [day]; 0 to beyond the last published day unless given.
        seed: same seed, same replicates.
    """
    bound = population.bind(data if isinstance(data, Dataset) else data.dataset())
    theta = with_cohorts(bound, prior_draws(bound.priors, draws, seed), seed)
    return _predict("prior", bound, theta, days, seed)


def posterior_predictive(
    fit: Fit, *, draws: int = 300, days: ArrayLike | None = None, seed: int = 0
) -> Predictive:
    """Posterior predictive check of the fitted data; arguments as in `prior_predictive`."""
    bound = fit.bound
    theta = fit.draws(draws, seed)
    result = _predict("posterior", bound, theta, days, seed)
    if bound.individual is None:
        return result
    return dataclasses.replace(result, observations=_replicate_observations(fit, draws, seed))


def _predict(
    kind: str, bound: BoundPopulation, theta: Draws, days: ArrayLike | None, seed: int
) -> Predictive:
    interval = options.interval
    curves, rows = {}, []
    rngs = np.random.default_rng(seed).spawn(len(bound.cohorts))
    for rng, cohort in zip(rngs, bound.cohorts, strict=True):
        summaries = all_summaries(bound, cohort)
        last = max([90.0, *(f.time for f in summaries if f.metric == "level")])
        grid = np.linspace(0.0, 1.1 * last, 200) if days is None else np.asarray(days, float)
        size = max(f.n for f in summaries)
        sampling = [t for t in bound.data.sampling or () if t >= 0]
        f = cohort_observations(bound, cohort, theta, grid, size, rng, (bound.output,), once=True)
        quartiles = np.nanquantile(f, QUANTILES, axis=1).transpose(1, 0, 2)
        curves[cohort] = xr.DataArray(
            quartiles,
            dims=("draw", "quantile", "time"),
            coords={"quantile": list(QUANTILES), "time": grid},
            attrs={"units": bound.population.model.units[bound.output], "patients": size},
        )
        several = len({summary.output for summary in summaries}) > 1
        for summary, values in cohort_values(bound, cohort, theta, summaries, sampling, rng):
            if values is not None:
                of = f"{summary.output} " if several else ""
                rows += _summary_rows(cohort, summary, values, of, interval)
    columns = ["cohort", "statistic", "n", "observed", "median", "low", "high", "p", "use"]
    shown = as_frame(rows, columns, index=["cohort", "statistic"])
    return Predictive(kind, bound, curves, shown, None, interval)


def all_summaries(bound: BoundPopulation, cohort: str) -> list[CohortSummary]:
    """Everything published about a cohort that can be compared, fitted or not."""
    return cohort_summaries(bound.data, bound.endpoints, ("fit", "value", "check")).get(cohort, [])


def _summary_rows(
    cohort: str, summary: CohortSummary, values: np.ndarray, of: str, interval: Interval
) -> list[tuple[str | float, ...]]:
    """Rows of the table of summaries: each reported value against its replicates, from `values`.

    A replicate in which the statistic is not defined (no patient with a half-life, say) is left
    out; with fewer than 20 left the row is.
    """
    rows: list[tuple[str | float, ...]] = []
    for name, observed, statistic in reported_values(summary):
        patients_of = [v[np.isfinite(v)] for v in values]
        with np.errstate(all="ignore"):
            replicate = np.array([statistic(v) for v in patients_of if v.size > 1])
        replicate = replicate[np.isfinite(replicate)]
        if replicate.size < 20:
            continue
        low, mid, high = np.quantile(replicate, interval.with_median)
        share = float(np.mean(replicate < observed))
        rows.append((cohort, of + name, summary.n, observed, mid, low, high, share, summary.use))
    return rows


def _replicate_observations(fit: Fit, draws: int, seed: int) -> xr.DataArray:
    """Measured concentrations of the same patients at the same times, from posterior draws."""
    bound = fit.bound
    a = bound.individual
    sample = {k: jnp.asarray(v) for k, v in fit.draws(draws, seed, effects=True).items()}
    size = len(next(iter(sample.values())))

    def one(sample: Values, noise: Array) -> Array:
        params, theta = bound.of_sample(sample)
        y: Array = bound.measured(bound.individual_predictions(params), noise, theta)
        return y

    (rng,) = np.random.default_rng(seed).spawn(1)
    noise = rng.standard_normal((size, *a.mask.shape))
    y = np.asarray(jax.jit(jax.vmap(one))(sample, noise))[:, a.mask]
    where = np.nonzero(a.mask)
    outputs = np.array([bound.endpoints[analyte] for analyte in a.analytes])
    return xr.DataArray(
        y,
        dims=("draw", "obs_id"),
        coords={
            "patient": ("obs_id", np.asarray(bound.patients, str)[where[0]]),
            "time": ("obs_id", a.time[a.mask]),
            "observed": ("obs_id", a.value[a.mask]),
            "output": ("obs_id", outputs[a.analyte[a.mask]]),
            "censored": ("obs_id", a.censored[a.mask]),
        },
    )
