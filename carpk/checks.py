"""Checks of a population model against data: what it predicts, before and after the fit.

`prior_predictive` and `posterior_predictive` replicate the data: cohorts of as many patients as
were published, sampled on the study's days, summarised as the publication did, with the hard
rules of `nca`. What is compared is like with like: a replicated median against the printed median.

`identifiability` says which parameters a design can tell, before a fit or before a study, and
`sampling_times` on which days to sample; see `carpk.information`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import scipy.stats
import xarray as xr

from carpk._arviz import pareto_smoothed
from carpk.dataset import Dataset
from carpk.errors import FitError
from carpk.inference import INTERVAL, Fit, patients
from carpk.information import PlannedArm, identifiability, sampling_times  # noqa: F401
from carpk.levels import SolvedLevels
from carpk.params import Params
from carpk.population import Population, PopulationModel, cohort_facts
from carpk.replicates import (
    cohort_levels,
    patient_values,
    printed_numbers,
    simulated_values,
    with_values,
)
from carpk.routes import BEYOND
from carpk.sampler import laplace_each, one_chain_each, prior_draws
from carpk.structural import ODEModel
from carpk.summaries import Fact

QUANTILES = (0.25, 0.5, 0.75)


@dataclasses.dataclass(frozen=True)
class Predictive:
    """Replicated data.

    Attributes:
        kind: "prior" or "posterior".
        bound: the population model and its data.
        curves: cohort -> DataArray (draw, quantile, time): quartiles of the measured levels of a
            replicated cohort.
        facts: one row per published statistic: observed, and median and 90 % interval of its
            replicates; `p` is the share of replicates below the observed value.
        observations: DataArray (draw, obs_id) of replicated individual observations, or None.
    """

    kind: str
    bound: PopulationModel
    curves: Mapping[str, xr.DataArray]
    facts: pd.DataFrame
    observations: xr.DataArray | None

    def plot(self, **kwargs: Any) -> Any:
        """Bands over the published figures."""
        from carpk import plot

        return plot.predictive([self], **kwargs)

    def __repr__(self) -> str:
        head = f"{self.kind} predictive check; replicates: median and 90 % equal-tailed interval"
        if self.facts.empty:
            return head + " (individual observations only)"
        return head + "\n" + self.facts.to_string(float_format="{:.3g}".format)


def prior_predictive(
    population: Population,
    data: Any,
    *,
    draws: int = 300,
    days: Any = None,
    seed: int = 0,
) -> Predictive:
    """What the priors alone imply for these data. Look before you fit.

    Args:
        population: the population model.
        data: a `Dataset` or a `Study`.
        draws: replicated data sets.
        days: grid for curves [day]; 0 to beyond the last published day unless given.
        seed: same seed, same replicates.
    """
    bound = population.bind(data if isinstance(data, Dataset) else data.dataset())
    return _predict("prior", bound, prior_draws(bound.priors, draws, seed), days, seed)


def posterior_predictive(
    fit: Fit, *, draws: int = 300, days: Any = None, seed: int = 0
) -> Predictive:
    """What the posterior implies for data like those fitted; arguments as in `prior_predictive`."""
    bound = fit.bound
    theta = fit.draws(draws, seed)
    result = _predict("posterior", bound, theta, days, seed)
    if bound.individual is None:
        return result
    return dataclasses.replace(result, observations=_replicate_observations(fit, draws, seed))


def _predict(
    kind: str, bound: PopulationModel, theta: Mapping[str, Any], days: Any, seed: int
) -> Predictive:
    curves, rows = {}, []
    for i, cohort in enumerate(bound.cohorts):
        likelihood = bound.cohorts[cohort]
        facts = all_facts(bound, cohort)
        last = max([90.0, *(f.time for f in facts if f.metric == "level")])
        grid = np.linspace(0.0, 1.1 * last, 200) if days is None else np.asarray(days, float)
        key = jax.random.fold_in(jax.random.key(seed), i)
        size = max(f.n for f in likelihood.facts)
        sampling = np.asarray(bound.data.sampling or (), float)
        level_days = np.unique([f.time for f in facts if f.metric in ("level", "detectable")])
        every = np.concatenate([grid, level_days, sampling])
        f, y_days = cohort_levels(bound, cohort, theta, every, len(grid), size, key)
        quartiles = jnp.nanquantile(f, jnp.array(QUANTILES), axis=1).transpose(1, 0, 2)
        curves[cohort] = xr.DataArray(
            np.asarray(quartiles),
            dims=("draw", "quantile", "time"),
            coords={"quantile": list(QUANTILES), "time": grid},
            attrs={"units": bound.population.model.units[bound.output], "patients": size},
        )
        y_level, y_sampled = np.split(np.asarray(y_days), [len(level_days)], axis=2)
        for fact in facts:
            rows += _fact_rows(cohort, fact, level_days, y_level, sampling, y_sampled)
    table = pd.DataFrame(
        rows, columns=["cohort", "statistic", "n", "observed", "median", "low", "high", "p", "use"]
    )
    return Predictive(kind, bound, curves, table.set_index(["cohort", "statistic"]), None)


def all_facts(bound: PopulationModel, cohort: str) -> list[Fact]:
    """Everything published about a cohort that can be compared, fitted or not."""
    return cohort_facts(bound.data, bound.analyte, ("fit", "value", "check")).get(cohort, [])


def _fact_rows(
    cohort: str,
    fact: Fact,
    level_days: np.ndarray,
    y_level: np.ndarray,
    sampling: np.ndarray,
    y_sampled: np.ndarray,
) -> list[tuple[Any, ...]]:
    """Rows of the table of facts: each printed number against its replicates.

    A replicate in which the statistic is not defined (no patient with a half-life, say) is left
    out; with fewer than 20 left the row is.
    """
    values = patient_values(fact, level_days, y_level, sampling, y_sampled)
    if values is None:
        return []
    values = values[:, : fact.n]
    rows = []
    for name, observed, statistic in printed_numbers(fact):
        patients_of = [v[np.isfinite(v)] for v in values]
        with np.errstate(all="ignore"):
            replicate = np.array([statistic(v) for v in patients_of if v.size > 1])
        replicate = replicate[np.isfinite(replicate)]
        if replicate.size < 20:
            continue
        low, mid, high = np.quantile(replicate, [(1 - INTERVAL) / 2, 0.5, (1 + INTERVAL) / 2])
        share = float(np.mean(replicate < observed))
        rows.append((cohort, name, fact.n, observed, mid, low, high, share, fact.use))
    return rows


def _replicate_observations(fit: Fit, draws: int, seed: int) -> xr.DataArray:
    """Measured levels of the same patients at the same times, from posterior draws."""
    bound = fit.bound
    a = bound.individual
    sample = {k: jnp.asarray(v) for k, v in fit.draws(draws, seed, effects=True).items()}
    size = len(next(iter(sample.values())))

    def one(sample: Mapping[str, Any], key: Any) -> Any:
        params, theta = patients(bound, sample)
        f = bound.individual_levels(params)
        return bound.measured(f, jax.random.normal(key, f.shape), theta)

    keys = jax.random.split(jax.random.key(seed), size)
    y = np.asarray(jax.jit(jax.vmap(one))(sample, keys))[:, a.mask]
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


# ---------------------------------------------------------------------------------------------
# Solver
# ---------------------------------------------------------------------------------------------

PARETO_K = 0.7  # above, importance weights are not to be trusted (Vehtari et al. 2024)
NEGLIGIBLE = 0.1  # change of the log-likelihood between draws that no weight needs to mend


@dataclasses.dataclass(frozen=True)
class SolverCheck:
    """Whether the solver changed the posterior (Timonen et al. 2023, doi:10.1002/sta4.614).

    Attributes:
        error: largest relative error of the levels behind the likelihood, per draw.
        log_ratio: log-likelihood on the adaptive route less that of the fit, per draw.
        log_weights: Pareto-smoothed, normalised importance weights of the draws (logarithms).
        k_hat: shape of the tail of the weights; below 0.7 they can be relied on.
        failed: draws that the adaptive route could not solve; they are left out.
        chosen: indices of the draws, as `Fit.draws` counts them.
        route: what the fit was solved with.
    """

    error: np.ndarray
    log_ratio: np.ndarray
    log_weights: np.ndarray
    k_hat: float
    failed: int
    chosen: np.ndarray
    route: str

    @property
    def ok(self) -> bool:
        """Whether the posterior stands: the weights are even, or can be relied on."""
        return not self.failed and (self.spread < NEGLIGIBLE or self.k_hat < PARETO_K)

    @property
    def spread(self) -> float:
        """Range of the log-ratios; what is common to all draws changes nothing."""
        return float(np.ptp(self.log_ratio)) if self.log_ratio.size else math.inf

    @property
    def ess(self) -> float:
        """Effective number of draws after weighting."""
        return float(1 / np.sum(np.exp(2 * self.log_weights))) if self.log_weights.size else 0.0

    def __repr__(self) -> str:
        head = "OK" if self.ok else "DO NOT TRUST"
        line = (
            f"{head}: {self.error.size} posterior draws solved again on the adaptive route; "
            f"relative error of the levels: median {np.median(self.error):.1e}, largest "
            f"{self.error.max():.1e}; the log-likelihood changes by at most {self.spread:.2g} "
            f"between draws; Pareto k-hat {self.k_hat:.2f}, {self.ess:.0f} effective draws."
        )
        advice = []
        if self.failed:
            advice.append(
                f"  {self.failed} draws have no solution on the adaptive route: look at their "
                "parameters; narrower priors keep the sampler away from them."
            )
        if not self.ok and self.error.size:
            advice.append(
                "  The solver changed the posterior: fit again with Population(..., rtol=1e-6)."
            )
        elif self.spread >= NEGLIGIBLE:
            advice.append("  Weight the draws with `log_weights` before you use them.")
        return "\n".join([line, *advice, f"  Fitted with: {self.route}"])


def solver(fit: Fit, *, draws: int = 200, rtol: float = 1e-8, seed: int = 0) -> SolverCheck:
    """Solve posterior draws of an ODE model again, adaptively, and weigh what it changes.

    Args:
        fit: a fit of an ODE model.
        draws: how many, at random.
        rtol: tolerance of the adaptive route.
        seed: same seed, same draws.
    """
    bound = fit.bound
    if not isinstance(bound.population.model, ODEModel):
        raise FitError(
            f"checks.solver: {bound.population.model.name!r} is a closed form, so no solver was "
            "used and there is nothing to check."
        )
    used = {k: p for k, p in bound.predictors.items() if isinstance(p, SolvedLevels)}
    exact = dataclasses.replace(bound, predictors={k: p.adaptive(rtol) for k, p in used.items()})
    sample = {k: jnp.asarray(v) for k, v in fit.draws(draws, seed, effects=True).items()}

    def levels(of: PopulationModel, sample: Mapping[str, Any]) -> Any:
        params, theta = patients(of, sample) if of.individual is not None else (None, sample)
        each = [of.predictors[c](of.virtual_patients(theta, c)).ravel() for c in of.cohorts]
        if params is not None:
            each.append(jnp.where(of.individual.mask, of.individual_levels(params), 1.0).ravel())
        total = sum(jnp.sum(x) for x in of.summary_log_likelihoods(theta).values())
        if params is not None:
            total = total + jnp.sum(of.observation_log_likelihoods(params, theta))
        return jnp.concatenate(each), total

    (fast, before), (true, after) = (
        jax.jit(partial(jax.lax.map, partial(levels, of)))(sample) for of in (bound, exact)
    )
    solved = np.isfinite(after)
    beyond = np.abs(true).max(axis=1, keepdims=True) * BEYOND
    error = np.max(np.abs(fast - true) / (np.abs(true) + beyond), axis=1)[solved]
    ratio = np.asarray(after - before)[solved]
    ratio = np.where(np.isfinite(ratio), ratio, np.inf)
    weights, k_hat = pareto_smoothed(ratio) if np.isfinite(ratio).all() else (ratio, np.inf)
    return SolverCheck(
        error=np.asarray(error),
        log_ratio=ratio,
        log_weights=weights,
        k_hat=k_hat,
        failed=int(np.sum(~solved)),
        chosen=fit.chosen(draws, seed)[solved],
        route=next(iter(used.values())).solver.describe(),
    )


# ---------------------------------------------------------------------------------------------
# Recovery of known truth
# ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Recovery:
    """Fits of simulated data whose truth is known.

    Attributes:
        truth: name -> (simulation,).
        quantiles: name -> (simulation, 3): median and the ends of the 90 % interval.
        z: name -> (simulation,): (posterior mean - truth) / posterior SD, on the estimation scale.
        failed: simulations whose draws were not finite; they count as not covered.
    """

    truth: Mapping[str, np.ndarray]
    quantiles: Mapping[str, np.ndarray]
    z: Mapping[str, np.ndarray]
    failed: int

    def covered(self, name: str) -> np.ndarray:
        """Whether the 90 % interval holds the truth, per simulation."""
        _, low, high = self.quantiles[name].T
        return (low <= self.truth[name]) & (self.truth[name] <= high)

    def table(self) -> pd.DataFrame:
        """Per parameter: share of 90 % intervals that hold the truth, its 95 % binomial interval,
        mean z (0 without bias; SE 1/sqrt(simulations)) and SD of z (1 if the width is right)."""
        rows = []
        for name in self.truth:
            covered = self.covered(name)
            test = scipy.stats.binomtest(int(covered.sum()), covered.size)
            ends = test.proportion_ci(method="wilson")
            z = self.z[name][np.isfinite(self.z[name])]
            rows.append((name, covered.mean(), ends.low, ends.high, z.mean(), z.std()))
        columns = ["parameter", "coverage", "low", "high", "mean_z", "sd_z"]
        return pd.DataFrame(rows, columns=columns).set_index("parameter")

    def __repr__(self) -> str:
        size = next(iter(self.truth.values())).size
        head = f"Recovery of known truth in {size} simulated data sets ({self.failed} failed)"
        return head + "\n" + self.table().to_string(float_format="{:.2f}".format)


def recovery(
    population: Population,
    data: Any,
    *,
    simulations: int = 100,
    truth: Mapping[str, float] | None = None,
    draws: int = 300,
    tune: int = 300,
    seed: int = 0,
    method: str = "nuts",
    fitted: Population | None = None,
    derived: Mapping[str, Callable[[Any], Any]] | None = None,
    progress: bool = True,
) -> Recovery:
    """Simulate data like these many times, fit each, and see whether the truth is found.

    Cohort facts and individual observations are both simulated: the same numbers of patients,
    days, statistics and limits of quantification. Published statistics are computed from simulated
    patients by the hard rules of `nca`, so that every approximation in the likelihood is on trial.

    Args:
        population: what the truth and the data are drawn from.
        data: the design: a `Dataset` or a `Study`; its values are not used.
        simulations: number of data sets.
        truth: fixed true parameters; drawn from the priors, anew for each data set, if left out,
            so that 90 % intervals must hold the truth in 90 % of the data sets.
        draws, tune: of the single chain per data set.
        seed: same seed, same answer.
        method: "nuts", or "laplace": draws from a normal distribution around the mode, weighted by
            importance (PSIS) where that can be relied on: seconds where a chain takes minutes. What
            it misses, such as the skewness of SDs of random effects, shows in the coverage.
        fitted: fit this population instead, to see what a wrong assumption does.
        derived: further quantities whose truth must be found: name -> f(parameters of the typical
            patients, leaves (N,)), positive, shape (N,).
    """
    data = data if isinstance(data, Dataset) else data.dataset()
    bound = population.bind(data)
    theta = prior_draws(bound.priors, simulations, seed)
    if truth is not None:
        theta = {k: np.full_like(theta[k], v) for k, v in truth.items()}
    values = simulated_values(bound, theta, seed)
    target = bound if fitted is None else fitted.bind(data)
    names = list(target.priors)

    def model(values: Mapping[str, Any]) -> None:
        with_values(target, values).numpyro_model()

    if method == "nuts":
        samples = one_chain_each(
            model, values, draws=draws, tune=tune, seed=seed, progress=progress
        )
    elif method == "laplace":
        samples = _resampled(
            *laplace_each(model, values, draws=draws, seed=seed, progress=progress)
        )
    else:
        raise FitError(f'checks.recovery: method must be "nuts" or "laplace", but is {method!r}.')
    quantiles, z = {}, {}
    ends = [0.5, (1 - INTERVAL) / 2, (1 + INTERVAL) / 2]
    for n in names:
        scale = target.scale(n).forward
        x = np.asarray(scale(samples[n]))
        quantiles[n] = np.moveaxis(np.quantile(samples[n], ends, axis=1), 0, 1)
        z[n] = (x.mean(1) - np.asarray(scale(theta[n]))) / x.std(1)
    finite = np.all([np.isfinite(samples[n]).reshape(simulations, -1).all(1) for n in names], 0)
    failed = int((~finite).sum())
    truths, found, scores = _scalars(target, theta, quantiles, z)
    for n, derive in (derived or {}).items():
        estimated = target.population.estimated
        x = np.log(derive(_typical(target, {k: samples[k].ravel() for k in estimated})))
        x = x.reshape(simulations, -1)
        truths[n] = np.asarray(derive(_typical(target, {k: theta[k] for k in estimated})))
        found[n] = np.exp(np.moveaxis(np.quantile(x, ends, axis=1), 0, 1))
        scores[n] = (x.mean(1) - np.log(truths[n])) / x.std(1)
    return Recovery(truths, found, scores, failed)


def _resampled(
    proposals: Mapping[str, np.ndarray], log_weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Draws of equal weight, chosen systematically by their Pareto-smoothed weights.

    Where these cannot be relied on (k-hat, or too few draws that count) the draws stay as they are.
    """
    size = log_weights.shape[1]
    chosen = []
    for row in log_weights:
        smoothed, k_hat = pareto_smoothed(row)
        weights = np.exp(smoothed - smoothed.max())
        few = weights.sum() ** 2 / np.sum(weights**2) < 0.1 * size
        if k_hat > PARETO_K or few or not np.isfinite(weights).all():
            weights = np.isfinite(row).astype(float)
        share = np.cumsum(weights)
        chosen.append(np.searchsorted(share / share[-1], (np.arange(size) + 0.5) / size))
    return {
        k: np.stack([x[c] for x, c in zip(v, chosen, strict=True)]) for k, v in proposals.items()
    }


def _typical(bound: PopulationModel, theta: Mapping[str, np.ndarray]) -> Params:
    """Typical patients, leaves (N,)."""
    fixed = bound.population.fixed
    params = bound.population.model.params(**theta, **fixed)
    size = len(next(iter(theta.values())))
    return jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(x, float), (size,)), params)


def _scalars(target: PopulationModel, theta: Any, quantiles: Any, z: Any) -> tuple[Any, Any, Any]:
    """Split effects with several levels into scalars."""
    truths, q_out, z_out = {}, {}, {}
    for n in target.priors:
        q, score = quantiles[n], z[n]
        if q.ndim == 2:
            truths[n], q_out[n], z_out[n] = theta[n], q, score
            continue
        for j, level in enumerate(target.covariates[target.effects[n][1]].columns):
            name = f"{n}[{level}]"
            truths[name], q_out[name], z_out[name] = theta[n][:, j], q[:, :, j], score[:, j]
    return truths, q_out, z_out
