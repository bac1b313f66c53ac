"""Parameter recovery: fits of simulated data with known truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from carpk._compile import stacked
from carpk._options import Interval, options
from carpk._tables import as_frame
from carpk.dataset import Dataset
from carpk.errors import FitError
from carpk.inference.density import LogDensity
from carpk.inference.importance import around, refined
from carpk.inference.laplace import CompiledDensity, Mode, Replaced
from carpk.inference.nuts import in_threads, one_chain_each, prior_draws
from carpk.inference.standard import Standard
from carpk.inference.starts import around_cohorts, centre, prior_draws_unconstrained
from carpk.params import Params
from carpk.population.bound import BoundPopulation
from carpk.population.population import Population
from carpk.population.replicates import simulated, with_cohorts, with_values

if TYPE_CHECKING:
    import pandas as pd
    from jax.typing import ArrayLike

    from carpk.library.study import Study


@dataclasses.dataclass(frozen=True)
class Recovery:
    """Fits of simulated data with known truth.

    Attributes:
        truth: name -> (simulation,).
        quantiles: name -> (simulation, 3): median and the ends of the interval.
        z: name -> (simulation,): (posterior mean - truth) / posterior SD, on the estimation scale.
        failed: simulations whose draws were not finite; they count as not covered.
        interval: `options.interval_prob` when it was made.
    """

    truth: Mapping[str, np.ndarray]
    quantiles: Mapping[str, np.ndarray]
    z: Mapping[str, np.ndarray]
    failed: int
    interval: Interval

    def covered(self, name: str) -> np.ndarray:
        """Coverage of the truth by the interval, per simulation."""
        _, low, high = self.quantiles[name].T
        inside: np.ndarray = (low <= self.truth[name]) & (self.truth[name] <= high)
        return inside

    def table(self) -> pd.DataFrame:
        """Per parameter: share of intervals that hold the truth, its 95 % binomial interval,
        mean z (0 without bias; SE 1/sqrt(simulations)) and SD of z (1 if the width is right)."""
        rows = []
        for name in self.truth:
            covered = self.covered(name)
            test = scipy.stats.binomtest(int(covered.sum()), covered.size)
            ends = test.proportion_ci(method="wilson")
            z = self.z[name][np.isfinite(self.z[name])]
            rows.append((name, covered.mean(), ends.low, ends.high, z.mean(), z.std()))
        columns = ["parameter", "coverage", "low", "high", "mean_z", "sd_z"]
        return as_frame(rows, columns, index="parameter")

    def __repr__(self) -> str:
        size = next(iter(self.truth.values())).size
        head = f"Recovery of known truth in {size} simulated data sets ({self.failed} failed)"
        return head + "\n" + self.table().to_string(float_format="{:.2f}".format)


@dataclasses.dataclass(frozen=True)
class SimulatedFits:
    """Posterior draws of simulated data, with the truth and the simulated data.

    Attributes:
        target: the population model that was fitted.
        truth: parameter of the population -> (simulation, ...).
        patients: the true individual patients, leaves (simulation, patient, infusion), or None.
        values: the simulated data, as `replicates.with_values` takes them.
        samples: name -> (simulation, draw, ...), random effects among them.
    """

    target: BoundPopulation
    truth: Mapping[str, np.ndarray]
    patients: Params | None
    values: Mapping[str, np.ndarray]
    samples: Mapping[str, np.ndarray]

    @property
    def finite(self) -> np.ndarray:
        """All draws of the population parameters are finite, per simulation."""
        each = [self.samples[n] for n in self.target.priors]
        every: np.ndarray = np.all(
            [np.isfinite(x).reshape(len(x), -1).all(1) for x in each], axis=0
        )
        return every


def simulated_fits(
    population: Population,
    data: Dataset | Study,
    *,
    simulations: int,
    truth: Mapping[str, float] | None,
    draws: int,
    tune: int,
    seed: int,
    method: str,
    fitted: Population | None,
    progress: bool,
) -> SimulatedFits:
    """Simulate data like these many times and fit each; arguments as in `recovery`."""
    data = data if isinstance(data, Dataset) else data.dataset()
    bound = population.bind(data)
    theta = prior_draws(bound.priors, simulations, seed)
    if truth is not None:
        theta = {k: np.full_like(theta[k], v) for k, v in truth.items()}
    theta = with_cohorts(bound, theta, seed)
    values, people = simulated(bound, theta, seed)
    target = bound if fitted is None else fitted.bind(data)
    missing = [n for n in target.priors if n not in theta]
    if missing:
        raise FitError(
            f"checks: {', '.join(missing)} of the fitted population has no true value; fix it, or "
            "let the data be simulated with it."
        )

    if method not in ("nuts", "laplace"):
        raise FitError(f'checks: method must be "nuts" or "laplace", but is {method!r}.')
    samples = sampled(
        target, values, method=method, draws=draws, tune=tune, seed=seed, progress=progress
    )
    return SimulatedFits(target, theta, people, values, samples)


def sampled(
    target: BoundPopulation,
    values: Mapping[str, np.ndarray],
    *,
    method: str,
    draws: int,
    tune: int,
    seed: int,
    progress: bool,
) -> dict[str, np.ndarray]:
    """Draws from the posterior of each simulated data set, name -> (simulation, draw, ...)."""
    size = len(next(iter(values.values())))

    def of(own: Replaced) -> LogDensity:
        values, cohorts = own
        return LogDensity(with_values(target, values), cohorts)

    unknown = LogDensity(target).no_cohorts
    compiled = CompiledDensity(of, (jax.tree.map(lambda x: jnp.asarray(x[0]), values), unknown))
    first = compiled.density
    middle, spread = centre(prior_draws_unconstrained(first))

    def mode(i: int) -> tuple[CompiledDensity, Mode]:
        own = compiled.with_values((jax.tree.map(lambda x: jnp.asarray(x[i]), values), unknown))
        own, (found, *_) = around_cohorts(own, [own.mode(middle, spread)], spread)
        return own, found

    if method == "laplace":
        seeds = np.random.default_rng(seed).integers(2**31, size=size).tolist()

        def draw(i: int) -> dict[str, np.ndarray]:
            own, found = mode(i)
            return around(own, refined(own, found, seeds[i]).mode, draws, seeds[i]).samples

        samples: dict[str, np.ndarray] = stacked(in_threads(draw, size, "modes", progress))
        return samples
    each, modes = zip(*in_threads(mode, size, "modes", progress), strict=True)
    owns, standards = stacked(own.values for own in each), stacked(map(Standard.of, modes))
    shape = (size, first.patients, first.inner)
    start = {"population": np.zeros((size, first.outer))}  # the mode
    start |= {"patients": np.zeros(shape)} if min(shape) else {}
    return one_chain_each(
        lambda data: data[1].target(of(data[0]), data[2]),
        (owns, standards, start),
        draws=draws,
        tune=tune,
        seed=seed,
        progress=progress,
    )


def recovery(
    population: Population,
    data: Dataset | Study,
    *,
    simulations: int = 100,
    truth: Mapping[str, float] | None = None,
    draws: int = 300,
    tune: int = 300,
    seed: int = 0,
    method: str = "nuts",
    fitted: Population | None = None,
    derived: Mapping[str, Callable[[Any], ArrayLike]] | None = None,
    progress: bool = True,
) -> Recovery:
    """Simulate data like these many times, fit each, and see whether the truth is found.

    Cohort summaries and individual observations are both simulated: the same numbers of patients,
    days, statistics and limits of quantification. Published summaries are computed from simulated
    patients by the hard rules of `nca`, so that every approximation in the likelihood is on trial.

    Args:
        population: what the truth and the data are drawn from.
        data: the design: a `Dataset` or a `Study`; its values are not used.
        simulations: number of data sets.
        truth: fixed true parameters; drawn from the priors, anew for each data set, if left out,
            so that intervals of 90 % must hold the truth in 90 % of the data sets.
        draws, tune: of the single chain per data set.
        seed: same seed, same answer.
        method: "nuts", or "laplace", as in `fit`: seconds where a chain takes minutes. Without
            random effects its draws are weighted by importance (PSIS) where that can be relied on.
            What it misses, such as skewness, shows in the coverage.
        fitted: fit this population instead, to see what a wrong assumption does.
        derived: further quantities whose truth must be found: name -> f(parameters of the typical
            patients, leaves (N,)), positive, shape (N,).
    """
    known = simulated_fits(
        population,
        data,
        simulations=simulations,
        truth=truth,
        draws=draws,
        tune=tune,
        seed=seed,
        method=method,
        fitted=fitted,
        progress=progress,
    )
    target, theta, samples = known.target, known.truth, known.samples
    truths, found, scores = {}, {}, {}
    interval = options.interval
    ends = [0.5, *interval.tails]
    for n in target.priors:
        parameter = target.parameters[n]
        forward, true = parameter.transform.forward, parameter.split(theta[n])
        for label, x in parameter.split(samples[n]).items():
            truths[label] = true[label]
            found[label] = np.moveaxis(np.quantile(x, ends, axis=1), 0, 1)
            on_scale = np.asarray(forward(x))
            scores[label] = (on_scale.mean(1) - np.asarray(forward(true[label]))) / on_scale.std(1)
    failed = int((~known.finite).sum())
    for n, derive in (derived or {}).items():
        estimated = target.population.estimated
        x = np.log(derive(typical(target, {k: samples[k].ravel() for k in estimated})))
        x = x.reshape(simulations, -1)
        truths[n] = np.asarray(derive(typical(target, {k: theta[k] for k in estimated})))
        found[n] = np.exp(np.moveaxis(np.quantile(x, ends, axis=1), 0, 1))
        scores[n] = (x.mean(1) - np.log(truths[n])) / x.std(1)
    return Recovery(truths, found, scores, failed, interval)


def typical(bound: BoundPopulation, theta: Mapping[str, np.ndarray]) -> Params:
    """Typical patients, leaves (N,)."""
    fixed = bound.population.fixed
    params = bound.population.model.params(**theta, **fixed)
    size = len(next(iter(theta.values())))
    out: Params = jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(x, float), (size,)), params)
    return out
