"""Power scaling: does the posterior hang on the prior, on the data, or on neither?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from carpk._arviz import PARETO_K, group, groups, pareto_smoothed
from carpk._options import options
from carpk._tables import as_frame
from carpk.inference.draws import log_priors
from carpk.inference.result import Fit
from carpk.population.parameters import split_draws

if TYPE_CHECKING:
    import pandas as pd

    from carpk._types import Numbers, Values

ALPHAS = (0.99, 1.01)  # for the sensitivity: a derivative
WIDE = (0.8, 1.25)  # displayed: the interval under these powers
SENSITIVE = 0.05
BATCH = 100  # draws evaluated at a time
CONFLICT, WEAK, NOTHING = "prior-data conflict", "strong prior / weak likelihood", "-"


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """Sensitivity of the posterior to power-scaling of prior and likelihood.

    Attributes:
        table: one row per population parameter: prior and likelihood, the sensitivities; diagnosis.
        moved: (parameter, component, power) -> median and equal-tailed interval of the
            posterior with that component raised to that power; power 1 is the fit.
        k_hat: the worst of all weights; below 0.7 they can be relied on.
        fitted: what was fitted to what.
    """

    table: pd.DataFrame
    moved: pd.DataFrame
    k_hat: float
    fitted: str

    @property
    def conflicts(self) -> tuple[str, ...]:
        """Parameters for which prior and data disagree."""
        return self._diagnosed(CONFLICT)

    @property
    def weak(self) -> tuple[str, ...]:
        """Parameters that the prior decides, because the data say little."""
        return self._diagnosed(WEAK)

    @property
    def ok(self) -> bool:
        """Prior and data agree, by reliable weights."""
        return not self.conflicts and self.k_hat < PARETO_K

    def _diagnosed(self, diagnosis: str) -> tuple[str, ...]:
        return tuple(map(str, self.table.index[self.table["diagnosis"] == diagnosis]))

    def __repr__(self) -> str:
        lines = []
        if not self.k_hat < PARETO_K:
            lines.append(
                f"DO NOT TRUST: the weights cannot be relied on (Pareto k-hat {self.k_hat:.2f}): "
                "the posterior changes too much; fit again with other priors instead."
            )
        if self.conflicts:
            lines.append(
                f"PRIOR AND DATA DISAGREE about {', '.join(self.conflicts)}: look at "
                "plot.prior_posterior, and whether the prior says what you believe."
            )
        if not lines:
            lines.append("OK: no conflict between prior and data.")
        if self.weak:
            lines.append(
                f"  The prior decides {', '.join(self.weak)}: the data say little; name the source "
                "of the prior when you report them."
            )
        lines.append(
            f"  {self.fitted}; sensitivity per doubling of the power, above {SENSITIVE} worth a "
            f"look; Pareto k-hat at most {self.k_hat:.2f}"
        )
        lines.append(self.table.to_string(float_format="{:.3f}".format))
        return "\n".join(lines)


def sensitivity(fit: Fit) -> Sensitivity:
    """Power-scaling sensitivity of the posterior to prior and data, without refitting.

    The prior, then the likelihood, is raised to a power close to 1 by importance weights; how far
    each parameter's posterior moves is its sensitivity (`power_scaling`). Sensitive to both: prior
    and data disagree. To the prior only: the data are weak, and the prior decides.

    The prior is that of the population parameters, all together, as a density on the estimation
    scale: raised to a power, a normal prior of ln Cmax keeps its median and changes its width. (As
    a density of Cmax it would move, too.) The distribution of the random effects belongs to the
    model and is not raised. The likelihood is that of the observations, given the random effects,
    and of the published summaries.
    """
    bound, draws = fit.bound, fit.draws()
    log_prior = np.sum(list(log_priors(bound, draws).values()), axis=0)
    log_likelihood = _log_likelihood(fit)
    scalars = split_draws(bound.parameters, draws)
    table = power_scaling(scalars, log_prior, log_likelihood, alphas=ALPHAS)
    rows, k_hats = [], [float(table["k_hat"].max())]
    for component, log_density in (("prior", log_prior), ("likelihood", log_likelihood)):
        for alpha in (WIDE[0], 1.0, WIDE[1]):
            weights, k_hat = _weights(log_density, alpha)
            for name, x in scalars.items():
                rows.append((name, component, alpha, *_quantiles(x, weights), k_hat))
    columns = ["parameter", "component", "power", "median", *options.interval.columns, "k_hat"]
    moved = as_frame(rows, columns, index=columns[:3]).sort_index()
    return Sensitivity(
        table=table.drop(columns="k_hat").rename_axis("parameter"),
        moved=moved.reindex(list(scalars), level=0),
        k_hat=max(k_hats),
        fitted=f"{bound.population.model.name} fitted to {bound.data.name}",
    )


def _log_likelihood(fit: Fit) -> np.ndarray:
    """ln likelihood of everything at each draw, (draw,): the observations' as the fit keeps it."""
    bound, total = fit.bound, np.zeros(1)
    if "log_likelihood" in groups(fit.idata):
        for x in group(fit.idata, "log_likelihood").values():
            total = total + x.values.reshape(-1, x.shape[2]).sum(axis=1)
    if bound.cohorts:

        def summaries(theta: Values) -> Numbers:
            return sum(jnp.sum(x) for x in bound.summary_log_likelihoods(theta).values())

        theta = {k: jnp.asarray(v) for k, v in fit.draws().items()}
        of_summaries = jax.jit(lambda theta: jax.lax.map(summaries, theta, batch_size=BATCH))(theta)
        total = total + np.asarray(of_summaries)
    return total


def _quantiles(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Median and interval of weighted draws."""
    order = np.argsort(x)
    share = (np.cumsum(weights[order]) - 0.5 * weights[order]) / weights.sum()
    levels = [0.5, *options.interval.tails]
    found: np.ndarray = np.interp(levels, share, x[order])
    return found


def _weights(log_density: np.ndarray, alpha: float) -> tuple[np.ndarray, float]:
    """Weights of the draws with that density raised to the power alpha, and their k-hat."""
    scaled = (alpha - 1) * log_density
    if np.ptp(scaled) < 1e-12:
        return np.ones(scaled.size), -np.inf
    log_weights, k_hat = pareto_smoothed(scaled)
    return np.exp(log_weights - log_weights.max()), k_hat


def power_scaling(
    draws: Mapping[str, np.ndarray],
    log_prior: np.ndarray,
    log_likelihood: np.ndarray,
    *,
    alphas: tuple[float, float] = ALPHAS,
) -> pd.DataFrame:
    """Sensitivity of posteriors to their prior and likelihood, without refitting.

    The prior, then the likelihood, is raised to the powers `alphas` by Pareto-smoothed importance
    weights; the sensitivity is the mean over both of the distance to the posterior (`distance`)
    per doubling of the power. Above 0.05 to both: prior-data conflict; to the prior only: strong
    prior / weak likelihood (the prior decides). Kallioinen et al. (2024) Stat Comput 34:57,
    doi:10.1007/s11222-023-10366-5.

    Args:
        draws: name -> posterior draws, shape (draw,).
        log_prior, log_likelihood: of the same draws, shape (draw,), up to a constant.
        alphas: below and above 1.

    Returns:
        One row per name: prior, likelihood (sensitivities), k_hat (the worst of the weights; above
        0.7 they are not to be relied on) and diagnosis.
    """
    weights, k_hats = {}, []
    for component, log_density in {"prior": log_prior, "likelihood": log_likelihood}.items():
        for alpha in alphas:
            weights[component, alpha], k_hat = _weights(log_density, alpha)
            k_hats.append(k_hat)
    rows: list[dict[str, object]] = []
    for name, x in draws.items():
        s = {
            component: np.mean(
                [distance(x, weights[component, a]) / abs(np.log2(a)) for a in alphas]
            )
            for component in ("prior", "likelihood")
        }
        rows.append({"effect": name} | s | {"k_hat": max(k_hats), "diagnosis": _diagnosis(**s)})
    return as_frame(rows, index="effect")


def _diagnosis(prior: float, likelihood: float) -> str:
    if prior <= SENSITIVE:
        return NOTHING
    return CONFLICT if likelihood > SENSITIVE else WEAK


def distance(x: np.ndarray, weights: np.ndarray) -> float:
    """Cumulative Jensen-Shannon distance, 0 to 1, between draws and the same draws weighted.

    The larger of that of x and of -x, as it is not symmetric: Nguyen & Vreeken (2015),
    doi:10.1007/978-3-319-23525-7_11, normalised as in Kallioinen et al. (2024).
    """
    return max(_one_sided(x, weights), _one_sided(-x, weights))


def _one_sided(x: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(x)
    width = np.diff(x[order])
    p = np.arange(1, x.size) / x.size
    q = np.cumsum(weights[order])[:-1] / weights.sum()
    middle = (p + q) / 2

    def entropy(f: np.ndarray) -> np.ndarray:
        out: np.ndarray = f * np.log2(np.where(f > 0, f, 1.0) / middle)
        return out

    # The terms linear in p and q of the two directions cancel in their sum.
    divergence = width @ (entropy(p) + entropy(q))
    return float(np.sqrt(max(divergence, 0.0) / (width @ (p + q))))
