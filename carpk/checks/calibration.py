"""Simulation-based calibration (SBC): ranks of the truth in posteriors of simulated data.

A parameter drawn from its prior, data simulated from it and draws from the posterior of these data:
among the draws, every rank of the true value is then as likely as any other (Talts et al. 2018,
arXiv:1804.06788). Ranks that are not uniform show a sampler, a likelihood or an approximation that
is wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
import xarray as xr

from carpk._arviz import az
from carpk._late import late
from carpk._tables import as_frame
from carpk.checks.truth import SimulatedFits, simulated_fits, typical
from carpk.errors import FitError
from carpk.population.bound import BoundPopulation
from carpk.population.parameters import split_draws
from carpk.population.population import Population
from carpk.population.replicates import with_values

if TYPE_CHECKING:
    import pandas as pd
    from jax import Array
    from jax.typing import ArrayLike
    from matplotlib.figure import Figure

    from carpk._types import Values
    from carpk.dataset import Dataset
    from carpk.library.study import Study
    from carpk.params import Params

FALSE_ALARM = 0.05  # chance that calibrated posteriors are not `ok`
REPLICATES = 20_000  # sets of uniform ranks that the bands are made from
PER_BIN = 10  # simulations expected per bin of the chi-square test, at least
ENOUGH = 0.7  # effective draws per draw ranked: below, ranks lean to the ends
SHORT = 0.1  # share of chains with fewer that is worth a word
LOG_LIK = "log_lik"


@dataclasses.dataclass(frozen=True)
class SBC:
    """Ranks of the truth among posterior draws, over simulated data sets.

    Attributes:
        ranks: quantity -> (simulation,): how many of the draws lie below the truth, 0 to `draws`.
        draws: draws that were ranked, thinned so that they are about independent.
        ess: quantity -> (simulation,): effective draws of the whole chain.
        failed: simulations whose draws were not finite; they have no ranks.
        fitted: what was fitted to what.
    """

    ranks: Mapping[str, np.ndarray]
    draws: int
    ess: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    failed: int = 0
    fitted: str = ""

    @classmethod
    def of(
        cls,
        truth: Mapping[str, np.ndarray],
        samples: Mapping[str, np.ndarray],
        *,
        draws: int | None = None,
        fitted: str = "",
    ) -> SBC:
        """From any sampler: name -> truth (simulation,), and its draws (simulation, draw).

        Simulations with a draw that is not finite are left out and counted as failed.

        Args:
            draws: how many of them to rank, evenly spaced; all, if left out.
        """
        names = list(truth)
        finite = np.all([np.isfinite(samples[n]).all(axis=1) for n in names], axis=0)
        total = samples[names[0]].shape[1]
        kept = np.linspace(0, total - 1, draws or total).round().astype(int)
        ranks = {
            n: np.sum(samples[n][finite][:, kept] < truth[n][finite, None], axis=1) for n in names
        }
        ess = _ess({n: samples[n][finite] for n in names}) if finite.any() else {}
        return cls(ranks, len(kept), ess, int(np.sum(~finite)), fitted)

    @property
    def simulations(self) -> int:
        """Number of ranked data sets."""
        return int(next(iter(self.ranks.values())).size)

    @cached_property
    def table(self) -> pd.DataFrame:
        """Per quantity: p_ecdf and p_chi2, of the two tests of uniform ranks; p_adjusted, of the
        first for all quantities together (Holm); how the posterior is off, if it is; and ess, the
        median effective draws.

        `p_ecdf` is the chance that the ECDF of uniform ranks leaves a simultaneous band as far as
        this one does.
        """
        rows = []
        for name, ranks in self.ranks.items():
            rows.append((name, self._p_ecdf(ranks), self._p_chi2(ranks)))
        found = as_frame(rows, ["quantity", "p_ecdf", "p_chi2"], index="quantity")
        found["p_adjusted"] = holm(found["p_ecdf"].to_numpy())
        found["posterior"] = [
            how_off(ranks, self.draws) if p < FALSE_ALARM else "-"
            for ranks, p in zip(self.ranks.values(), found["p_adjusted"], strict=True)
        ]
        if self.ess:
            found["ess"] = [float(np.median(self.ess[n])) for n in self.ranks]
        return found

    def _p_ecdf(self, ranks: np.ndarray) -> float:
        counts = np.cumsum(np.bincount(ranks, minlength=self.draws + 1))[:-1]
        reached = _tails(self.simulations, self.draws)[counts, np.arange(self.draws)].min()
        return float((1 + np.sum(self._uniform <= reached)) / (1 + self._uniform.size))

    def _p_chi2(self, ranks: np.ndarray) -> float:
        """Bins of equal numbers of ranks, as many as have ten simulations each, up to 20."""
        cells = self.draws + 1
        most = max(2, min(20, self.simulations // PER_BIN, cells))
        edges = np.linspace(0, cells, most + 1).round().astype(int)
        counts = np.histogram(ranks, bins=edges - 0.5)[0]
        expected = self.simulations * np.diff(edges) / cells
        return float(scipy.stats.chisquare(counts, expected).pvalue)

    @cached_property
    def _uniform(self) -> np.ndarray:
        """The smallest tail probability along the ECDF, of many sets of uniform ranks."""
        cells = self.draws + 1
        rng = np.random.default_rng(20220)
        table = _tails(self.simulations, self.draws)
        counts = rng.multinomial(self.simulations, np.full(cells, 1 / cells), size=REPLICATES)
        counts = np.cumsum(counts, axis=1)[:, :-1]
        least: np.ndarray = np.min(table[counts, np.arange(self.draws)], axis=1)
        return least

    @property
    def prob(self) -> float:
        """Coverage of the band of one quantity; of all bands together it is 95 %, or more."""
        return 1 - FALSE_ALARM / len(self.ranks)

    def band(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(share of ranks, lower, upper): the simultaneous band of ECDF less share, at `prob`."""
        gamma = np.quantile(self._uniform, 1 - self.prob)
        share = np.arange(1, self.draws + 1) / (self.draws + 1)
        ends = scipy.stats.binom.ppf([[gamma / 2], [1 - gamma / 2]], self.simulations, share)
        low, high = ends / self.simulations - share
        return share, low, high

    def ecdf_difference(self, name: str) -> np.ndarray:
        """ECDF of the ranks less that of uniform ones, at the shares of `band`."""
        counts = np.cumsum(np.bincount(self.ranks[name], minlength=self.draws + 1))[:-1]
        share = np.arange(1, self.draws + 1) / (self.draws + 1)
        return counts / self.simulations - share

    @property
    def off(self) -> tuple[str, ...]:
        """Quantities whose ranks are not uniform."""
        return tuple(map(str, self.table.index[self.table["p_adjusted"] < FALSE_ALARM]))

    @property
    def ok(self) -> bool:
        """All ranks are uniform, and no fit failed."""
        return not self.off and not self.failed

    def plot(self) -> Figure:
        """ECDF of the ranks less uniform, per quantity, with the simultaneous band."""
        figure: Figure = late("carpk.plot.sbc")(self)
        return figure

    def __repr__(self) -> str:
        lines = []
        every = f"{len(self.ranks)} quantities over {self.simulations} simulated data sets"
        if self.off:
            lines.append(
                f"DO NOT TRUST: the ranks of {len(self.off)} of {every} are not uniform: "
                f"{', '.join(self.off)}."
            )
        elif self.failed:
            lines.append(f"DO NOT TRUST: draws of {self.failed} of the fits are not finite.")
        else:
            p = self.table["p_adjusted"].min()
            lines.append(f"OK: uniform ranks of {every}; smallest adjusted p-value {p:.2f}.")
        if self.off and self.failed:
            lines.append(f"  Draws of {self.failed} other fits are not finite.")
        least = ENOUGH * self.draws
        short = {n: float(np.mean(e < least)) for n, e in self.ess.items()}
        worst = max(short, key=lambda n: short[n], default="")
        if worst and short[worst] > SHORT:
            lines.append(
                f"  {short[worst]:.0%} of the chains have fewer than {least:.0f} effective draws "
                f"of {worst}, where {self.draws} are ranked: ranks lean to the ends; raise draws."
            )
        lines.append(
            f"  {self.fitted + '; ' if self.fitted else ''}{self.draws} draws ranked per data set; "
            "p_ecdf: of the largest departure of the ECDF, by simulation; p_adjusted: Holm, for "
            f"all quantities; calibrated posteriors fail in {FALSE_ALARM:.0%} of the cases"
        )
        lines.append(self.table.to_string(float_format="{:.3g}".format))
        return "\n".join(lines)


def sbc(
    population: Population,
    data: Dataset | Study,
    *,
    simulations: int = 200,
    draws: int = 500,
    tune: int = 500,
    ranked: int = 99,
    seed: int = 0,
    method: str = "nuts",
    fitted: Population | None = None,
    derived: Mapping[str, Callable[[Any], ArrayLike]] | None = None,
    log_lik: bool = True,
    progress: bool = True,
) -> SBC:
    """Simulation-based calibration of the posteriors of data like these.

    Truths come from the priors, data from the truths, as in `recovery`; what is tested is the
    likelihood, its approximations and the sampler together. Priors so wide that they give
    impossible data make chains fail: use what you believe.

    Each quantity's ranks are tested by the simultaneous band of their ECDF (Säilynoja, Bürkner &
    Vehtari 2022, doi:10.1007/s11222-022-10090-6; here by simulation of uniform ranks), and the
    p-values are adjusted for the number of quantities (Holm).

    Args:
        population: what the truth and the data are drawn from.
        data: the design: a `Dataset` or a `Study`; its values are not used.
        simulations: number of data sets.
        draws, tune: of the single chain per data set.
        ranked: draws of the chain that are ranked, evenly spaced. Ranks need about independent
            draws: where chains have fewer effective ones than that, the result says so.
        seed: same seed, same answer.
        method: "nuts" or "laplace", as in `recovery`.
        fitted: fit this population instead, to see whether a wrong assumption shows.
        derived: name -> f(parameters of the typical patients, leaves (N,)), shape (N,): ranked too.
        log_lik: rank the joint log-likelihood of the data too, given the patients' random effects.
            It depends on the data, so it shows what no parameter does: a posterior that ignores
            part of the data, above all (Modrák et al. 2023, doi:10.1214/23-BA1404). It is left out
            where `fitted` has another structural model.
    """
    if not 1 <= ranked <= draws:
        raise FitError(
            f"checks.sbc: ranked must be between 1 and draws ({draws}), but is {ranked!r}."
        )
    known = simulated_fits(
        population,
        data,
        simulations=simulations,
        truth=None,
        draws=draws,
        tune=tune,
        seed=seed,
        method=method,
        fitted=fitted,
        progress=progress,
    )
    target = known.target
    truth, samples = (
        split_draws(target.parameters, {n: x[n] for n in target.priors})
        for x in (known.truth, known.samples)
    )
    estimated = target.population.estimated
    for name, derive in (derived or {}).items():
        truth[name] = np.asarray(derive(typical(target, {k: known.truth[k] for k in estimated})))
        flat = derive(typical(target, {k: known.samples[k].ravel() for k in estimated}))
        samples[name] = np.asarray(flat).reshape(simulations, -1)
    if log_lik and (fitted is None or fitted.model is population.model):
        truth[LOG_LIK], samples[LOG_LIK] = _log_likelihoods(known)
    what = f"{target.population.model.name} in the design of {target.data.name}"
    return SBC.of(truth, samples, draws=ranked, fitted=what)


def _log_likelihoods(known: SimulatedFits) -> tuple[np.ndarray, np.ndarray]:
    """ln likelihood of the data at the truth (simulation,) and at the draws (simulation, draw)."""
    target = known.target

    def total(bound: BoundPopulation, params: Params | None, theta: Values) -> Array:
        out = sum(jnp.sum(x) for x in bound.summary_log_likelihoods(theta).values())
        if params is not None:
            out = out + jnp.sum(bound.observation_log_likelihoods(params, theta))
        return jnp.asarray(out, float)

    def one(
        values: Mapping[str, Array], params: Params | None, theta: Values, sample: Values
    ) -> tuple[Array, Array]:
        bound = with_values(target, values)

        def at(sample: Values) -> Array:
            theta = {n: sample[n] for n in target.priors}
            people = None if bound.individual is None else bound.of_sample(sample)[0]
            return total(bound, people, theta)

        return total(bound, params, theta), jax.lax.map(at, sample)

    theta = {n: known.truth[n] for n in target.priors}
    arguments = jax.tree.map(
        jnp.asarray, (dict(known.values), known.patients, theta, dict(known.samples))
    )
    at_truth, at_draws = jax.jit(lambda a: jax.lax.map(lambda x: one(*x), a))(arguments)
    return np.asarray(at_truth), np.asarray(at_draws)


def _ess(samples: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Effective draws of each chain, quantity -> (simulation,)."""
    if next(iter(samples.values())).shape[1] < 4:
        return {}
    chains = {n: (("chain", "draw", "simulation"), x.T[None]) for n, x in samples.items()}
    found = az.ess(xr.Dataset(chains), method="bulk")  # type: ignore[no-untyped-call]  # ArviZ 0.x
    found = found if isinstance(found, xr.Dataset) else found.to_dataset()
    return {n: np.asarray(found[n].values) for n in samples}


def _tails(simulations: int, draws: int) -> np.ndarray:
    """Twice the smaller binomial tail of every count at every share, (simulations + 1, draws)."""
    share = np.arange(1, draws + 1) / (draws + 1)
    counts = np.arange(simulations + 1)[:, None]
    below = scipy.stats.binom.cdf(counts, simulations, share)
    above = scipy.stats.binom.sf(counts - 1, simulations, share)
    smaller: np.ndarray = np.minimum(below, above)
    return 2 * smaller


def holm(p: np.ndarray) -> np.ndarray:
    """P-values adjusted for their number (Holm 1979)."""
    order = np.argsort(p)
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    out = np.empty_like(adjusted)
    out[order] = np.minimum(adjusted, 1.0)
    return out


def how_off(ranks: np.ndarray, draws: int) -> str:
    """In words what ranks that are not uniform say of the posterior."""
    u = (ranks + 0.5) / (draws + 1)
    lean = (u.mean() - 0.5) * np.sqrt(12 * u.size)
    wide = (np.var(u) - 1 / 12) * np.sqrt(180 * u.size)
    if abs(lean) > abs(wide):
        return "too high" if lean < 0 else "too low"
    return "too narrow" if wide > 0 else "too wide"
