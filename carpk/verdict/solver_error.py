"""Effect of the solver error on the posterior: draws solved again on the adaptive route."""

from __future__ import annotations

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from carpk._arviz import PARETO_K, pareto_smoothed
from carpk._types import Values
from carpk.population.bound import BoundPopulation
from carpk.population.predict import ODEPredictor
from carpk.solver.system import BEYOND

NEGLIGIBLE = 0.1  # change of the log-likelihood between draws that no weight needs to mend


@dataclasses.dataclass(frozen=True)
class SolverCheck:
    """Effect of the solver error on the posterior (Timonen et al. 2023, doi:10.1002/sta4.614).

    Attributes:
        error: largest relative error of the predictions behind the likelihood, per draw.
        log_ratio: log-likelihood on the adaptive route less that of the fit, per draw.
        log_weights: Pareto-smoothed, normalised importance weights of the draws (logarithms).
        k_hat: shape of the tail of the weights; below 0.7 they can be relied on.
        failed: draws that the adaptive route could not solve; they are left out.
        solved: success of the adaptive route, per draw.
        route: solver of the fit.
    """

    error: np.ndarray
    log_ratio: np.ndarray
    log_weights: np.ndarray
    k_hat: float
    failed: int
    solved: np.ndarray
    route: str

    @property
    def ok(self) -> bool:
        """The weights are even, or reliable."""
        return not self.failed and (self.spread < NEGLIGIBLE or self.k_hat < PARETO_K)

    @property
    def spread(self) -> float:
        """Range of the log-ratios; what is common to all draws changes nothing.

        Of a single draw, such as a mode, the size of its log-ratio.
        """
        if self.log_ratio.size == 1:
            return float(np.abs(self.log_ratio[0]))
        return float(np.ptp(self.log_ratio)) if self.log_ratio.size else math.inf

    @property
    def ess(self) -> float:
        """Effective number of draws after weighting."""
        with np.errstate(over="ignore"):  # weights of likelihoods that are not finite
            total = np.sum(np.exp(2 * self.log_weights))
        return float(1 / total) if self.log_weights.size else 0.0

    def __repr__(self) -> str:
        head = "OK" if self.ok else "DO NOT TRUST"
        line = (
            f"{head}: {self.error.size} posterior draws solved again on the adaptive route; "
            f"relative error of the predictions: median {np.median(self.error):.1e}, largest "
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


def solver_check(bound: BoundPopulation, sample: Values, rtol: float = 1e-8) -> SolverCheck | None:
    """Draws (random effects included) with the predictions solved again; None for a closed form.

    Args:
        sample: name -> (draw, ...).
        rtol: of the adaptive route.
    """
    used = {k: p for k, p in bound.predictors.items() if isinstance(p, ODEPredictor)}
    if not used:
        return None
    exact = dataclasses.replace(bound, predictors={k: p.adaptive(rtol) for k, p in used.items()})
    sample = {k: jnp.asarray(v) for k, v in sample.items()}

    def predictions(of: BoundPopulation, sample: Values) -> tuple[Array, Array | int]:
        params, theta = of.of_sample(sample)
        each = [of.predictors[c](of.virtual_patients(theta, c)).ravel() for c in of.cohorts]
        if params is not None:
            each.append(
                jnp.where(of.individual.mask, of.individual_predictions(params), 1.0).ravel()
            )
        total = sum(jnp.sum(x) for x in of.summary_log_likelihoods(theta).values())
        if params is not None:
            total = total + jnp.sum(of.observation_log_likelihoods(params, theta))
        return jnp.concatenate(each), total

    (fast, before), (true, after) = (
        jax.jit(partial(jax.lax.map, partial(predictions, of)))(sample) for of in (bound, exact)
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
        solved=np.asarray(solved),
        route=next(iter(used.values())).solver.describe(),
    )
