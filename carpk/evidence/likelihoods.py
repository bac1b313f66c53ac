"""Likelihood of a reported result by its kind: pure functions of a result and of an arm."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.special as jsp
import numpy as np
import numpyro.distributions as dist
from jax import Array

from carpk._types import Arrays, Numbers
from carpk.summaries import Distribution, log1mexp, log_order_statistics, ranks


class ReportedResult(NamedTuple):
    """A row of the table: figure as printed, number of patients, two-sided p-value."""

    value: Numbers
    n: Numbers
    p: Numbers


class ArmPrediction(NamedTuple):
    """Prediction of the arm of a reported result.

    Attributes:
        level: mean z without lymphodepletion.
        effect: what lymphodepletion adds to it, per component of a mixed arm, shape (K,).
        share: of the components, shape (K,), sums to 1.
        spread: SD of z between patients.
        base: logit of the outcome without lymphodepletion.
        slope: of the outcome per unit of z.
        dilution: log10 factor on copies per µg of DNA.
    """

    level: Numbers
    effect: Arrays
    share: Arrays
    spread: Numbers
    base: Numbers = 0.0
    slope: Numbers = 0.0
    dilution: Numbers = 0.0


def _log_tails(arm: ArmPrediction, z: Numbers) -> tuple[Array, Array]:
    """ln P(Z <= z) and ln P(Z > z) of a patient of the arm."""
    score = (z - arm.level - arm.effect) / arm.spread
    below, above = jsp.log_ndtr(score), jsp.log_ndtr(-score)
    return jsp.logsumexp(below, b=arm.share), jsp.logsumexp(above, b=arm.share)


def _log_binomial(k: Numbers, n: Numbers, log_yes: Array, log_no: Array) -> Array:
    choose = jsp.gammaln(n + 1) - jsp.gammaln(k + 1) - jsp.gammaln(n - k + 1)
    return choose + k * log_yes + (n - k) * log_no


def expanded(result: ReportedResult, arm: ArmPrediction) -> Array:
    """`value` of n had z > 0."""
    log_no, log_yes = _log_tails(arm, 0.0)
    return _log_binomial(result.value, result.n, log_yes, log_no)


def some_expanded(result: ReportedResult, arm: ArmPrediction) -> Array:
    """At least one of n had z > 0; none, if `value` is 0."""
    log_none = _log_tails(arm, 0.0)[0] * result.n
    return jnp.where(result.value > 0, log1mexp(log_none), log_none)


def median_fold(result: ReportedResult, arm: ArmPrediction) -> Array:
    """Density of the median of n draws of z, all above 0."""
    z = jnp.log10(result.value)
    _, above_zero = _log_tails(arm, 0.0)
    sf = _log_tails(arm, z)[1] - above_zero
    log_pdf = dist.Normal(arm.level + arm.effect, arm.spread).log_prob(z)
    pdf = jsp.logsumexp(log_pdf, b=arm.share) - above_zero
    u = Distribution(log1mexp(sf)[None], sf[None], pdf[None])
    n = int(result.n)
    return log_order_statistics(u, ranks([0.5], n), n)


ROUNDING = 1 / math.sqrt(12)  # SD of a number printed to a whole log
FEWEST = 2  # patients in each of the three cohorts
NODES = 21  # of the quadrature over the median of those not treated


def up_to(result: ReportedResult, arm: ArmPrediction) -> Array:
    """The highest of those treated lies `value` logs above the median of those who were not.

    The n patients are in three cohorts, untreated, treated and another, of at least `FEWEST` each:
    the mean over all such splits. The median of m is normal with variance pi/2 spread² / m.
    """
    n = int(result.n)
    sizes = np.arange(FEWEST, n - 2 * FEWEST + 1)
    untreated, treated = sizes[:, None, None], sizes[:, None]  # (M, 1, 1), (K, 1)
    allowed = untreated + treated <= n - FEWEST
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    sd = jnp.sqrt(arm.spread**2 * math.pi / 2 / untreated + ROUNDING**2)
    shift = jnp.sum(arm.share * arm.effect) + arm.dilution
    score = (result.value + sd * nodes - shift) / arm.spread
    below = jsp.log_ndtr(score)  # (M, 1, nodes)
    log_pdf = dist.Normal(0.0, 1.0).log_prob(score) - jnp.log(arm.spread)
    highest = np.log(treated) + (treated - 1) * below + log_pdf
    return jsp.logsumexp(highest, b=allowed / allowed.sum() * weights / weights.sum())


def linked_count(result: ReportedResult, arm: ArmPrediction) -> Array:
    """`value` of n had the outcome, with logit base + slope * effect."""
    logit = arm.base + arm.slope * arm.effect
    log_yes, log_no = (jsp.logsumexp(jax.nn.log_sigmoid(x), b=arm.share) for x in (logit, -logit))
    return _log_binomial(result.value, result.n, log_yes, log_no)


def linked_ratio(
    result: ReportedResult, arm: ArmPrediction, *, log: Callable[[Numbers], Array]
) -> Array:
    """A ratio, with over without: normal on the log scale, its standard error from the p-value."""
    seen = log(result.value)
    error = jnp.abs(seen) / jnp.abs(jsp.ndtri(result.p / 2))
    mean = arm.slope * jnp.sum(arm.share * arm.effect)
    log_prob: Array = dist.Normal(mean, error).log_prob(seen)
    return log_prob


LIKELIHOODS: dict[str, Callable[[ReportedResult, ArmPrediction], Array]] = {
    "expanded": expanded,
    "some_expanded": some_expanded,
    "median_fold": median_fold,
    "up_to": up_to,
    "detectable": linked_count,
    "response": linked_count,
    "odds_ratio": partial(linked_ratio, log=jnp.log),
    "persistence": partial(linked_ratio, log=jnp.log10),
}
SLOPES = {
    "detectable": "slope_detectable",
    "response": "slope_response",
    "odds_ratio": "slope_response",
    "persistence": "slope_persistence",
}
SIZED = ("median_fold", "up_to")  # n sets the shape of the computation
COUNTS = ("expanded", "some_expanded", "detectable", "response")
RATIOS = ("odds_ratio", "persistence")
