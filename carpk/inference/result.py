"""A fit: the posterior with everything it came from, and its tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from carpk._arviz import group
from carpk._late import late
from carpk._options import options
from carpk._tables import as_frame
from carpk.dataset import Dataset
from carpk.inference import saving
from carpk.population.bound import BoundPopulation
from carpk.population.parameters import Kind
from carpk.population.population import Population
from carpk.population.random_effects import INFUSION, PATIENT, eta_name
from carpk.verdict.chains import mixing
from carpk.verdict.judge import Verdict

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True)
class Fit:
    """A posterior, with everything it came from.

    Attributes:
        population, data: what was fitted to what.
        idata: ArviZ object with groups posterior, sample_stats, prior, log_prior (of densities on
            the estimation scale) and, where there are individual observations, log_likelihood,
            posterior_predictive, observed_data and constant_data.
        verdict: can it be trusted.
        settings: method, draws, tune, chains, seed, versions and a hash of the data.
    """

    population: Population
    data: Dataset
    idata: Any
    verdict: Verdict
    settings: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        """The draws can be trusted; reasons are in `verdict`."""
        return self.verdict.ok

    @cached_property
    def bound(self) -> BoundPopulation:
        """The population model, bound to the data."""
        return self.population.bind(self.data)

    @property
    def model_name(self) -> str:
        """Name of the structural model."""
        return self.population.model.name

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters of the population and its cohorts."""
        return tuple(self.bound.parameters)

    @property
    def posterior(self) -> xr.Dataset:
        """Draws of every parameter, dims (chain, draw, ...)."""
        return group(self.idata, "posterior")

    def draws(
        self, size: int | None = None, seed: int = 0, *, effects: bool = False
    ) -> dict[str, np.ndarray]:
        """Parameters, name -> (draw, ...); all draws, or `size` of them at random.

        Those of the population and its cohorts; with `effects` the patients' random effects
        too.
        """
        names = list(self.parameters)
        names = [str(name) for name in self.posterior.data_vars] if effects else names
        stacked = {
            str(n): self.posterior[n].values.reshape(-1, *self.posterior[n].shape[2:])
            for n in names
        }
        chosen = self.chosen(size, seed)
        return {n: x[chosen] for n, x in stacked.items()}

    def chosen(self, size: int | None = None, seed: int = 0) -> np.ndarray:
        """Indices of the draws that `draws` takes, chain after chain."""
        total = int(np.prod(next(iter(self.posterior.values())).shape[:2]))
        if size is None or size >= total:
            return np.arange(total)
        return np.random.default_rng(seed).choice(total, size, replace=False)

    def summary(self) -> pd.DataFrame:
        """One row per population parameter and derived quantity.

        Columns: median, the equal-tailed interval of `options.interval_prob` (eti90_low,
        eti90_high), unit, the spread
        between patients (`iiv_sd`: SD on the estimation scale, median; and its interval), R-hat and
        the smaller of bulk and tail effective sample size.
        """
        return summarize(self)

    def effects(self) -> pd.DataFrame:
        """Random effects of patients (empirical Bayes estimates), infusions and cohorts.

        One row per effect: parameter, level, label of its patient or cohort, infusion; mean and SD
        of the posterior on the estimation scale. How far the data leave them to the population:
        `checks.shrinkage`.
        """
        return random_effects_table(self)

    def plot(self, **kwargs: Any) -> Any:
        """Posterior predictive bands over the data, and posterior against prior."""
        return late("carpk.plot.fit")(self, **kwargs)

    def save(self, path: str | Path) -> Path:
        """Write everything to one NetCDF file that ArviZ and xarray can open."""
        return saving.save(self, path)

    def __repr__(self) -> str:
        s = self.settings
        sizes = self.posterior.sizes
        how = f"{sizes['chain']} chains of {sizes['draw']} draws"
        how = {"map": "the mode alone"}.get(s["method"], how)
        how = f"{s['method']}, {how}, seed {s['seed']}"
        what = f"Fit of {self.model_name!r} to {self.data.name} ({how})"
        table = self.summary()
        text = table.to_string(float_format="{:.3g}".format, na_rep="")
        shown = f"median and {table.attrs['interval']} interval"
        return f"{self.verdict}\n{what}; {shown}:\n{text}"


def random_effects_table(result: Fit) -> pd.DataFrame:
    rows = []
    for parameter, levels in result.bound.population.variability_levels.items():
        for level in levels:
            name = eta_name(parameter, level)
            if name not in result.posterior:
                continue
            x = result.posterior[name]
            mean, sd = x.mean(("chain", "draw")), x.std(("chain", "draw"))
            for index in np.ndindex(mean.shape):
                if level == INFUSION and not result.bound.individual.infusion_mask[index]:
                    continue  # it never took place
                labels = {dim: mean[dim].values[i] for dim, i in zip(mean.dims, index, strict=True)}
                row = {"parameter": parameter, "level": level} | labels
                rows.append(row | {"mean": mean.values[index], "sd": sd.values[index]})
    columns = ["parameter", "level", "patient", "cohort", "infusion", "mean", "sd"]
    return as_frame(rows, columns).dropna(axis="columns", how="all")


def summarize(result: Fit) -> pd.DataFrame:
    bound, posterior = result.bound, result.posterior
    named = posterior[[n for n in bound.priors if n in posterior]]
    sampled = result.settings["method"] == "nuts"
    rhat, ess = mixing(named) if sampled else ({}, {})
    interval = options.interval
    rows = []

    def row(name: str, x: np.ndarray, unit: str, diagnostics: str = "") -> dict[str, str | float]:
        entry = {"parameter": name, "median": np.median(x), "unit": unit}
        entry |= dict(zip(interval.columns, np.quantile(x, interval.tails), strict=True))
        if diagnostics in rhat:
            entry["rhat"] = rhat[diagnostics]
            entry["ess"] = ess[diagnostics]
        return entry

    draws = result.draws()
    parameters = bound.parameters
    spreads = {p.of: draws[name] for name, p in parameters.items() if p.level == PATIENT}
    for name in bound.named(Kind.TYPICAL):
        entry = row(name, draws[name], parameters[name].unit, name)
        if name in spreads:
            low, mid, high = np.quantile(spreads[name], interval.with_median)
            entry |= {"iiv_sd": mid, "iiv_low": low, "iiv_high": high}
        rows.append(entry)
    typical = bound.population.model.params(
        **{n: draws[n] for n in bound.population.estimated}, **bound.population.fixed
    )
    for name, (derive, unit) in bound.population.model.derived.items():
        rows.append(row(name, np.asarray(derive(typical)), unit))
    for kinds in ((Kind.BETA,), (Kind.CORRELATION,), (Kind.OMEGA, Kind.RESIDUAL)):
        for name in bound.named(*kinds):
            if parameters[name].level != PATIENT:  # those SDs stand beside the typical values
                each = parameters[name].split(draws[name])
                unit = parameters[name].unit or "1"
                rows += [row(label, x, unit, label) for label, x in each.items()]
    columns = ["parameter", "median", *interval.columns, "unit"]
    columns += ["iiv_sd", "iiv_low", "iiv_high", "rhat", "ess"]
    made = as_frame(rows, columns, index="parameter")
    made.attrs["interval"] = f"{interval} equal-tailed"
    return made
