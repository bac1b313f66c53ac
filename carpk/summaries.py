"""Likelihood of published cohort summaries.

A published "median peak 48,692 (n = 97)" is a statistic of n patients drawn from a population. Its
likelihood here is that of this statistic, never that of a typical patient: a cohort's median curve
is flatter than any patient's. The population is represented by S virtual patients at fixed
quasi-random positions (Sobol) in the space of random effects and assay noise, so the likelihood is
smooth and repeatable.

**Margins.** With F the population's distribution of the quantity, n patients, and every statistic
and interval of `carpk.dataset.cohort_summaries.LIKELIHOODS` (all others are refused when they are
read):

- median, quartiles, percentiles, range: order statistics of n draws. U_k = F(y_k) has a Dirichlet
  density with ranks r_k = 1 + p_k (n - 1) (quantiles as R's type 7, the default of most software;
  where a quantile lies between two patients, its true SD is a few percent smaller: 4 % at n = 8).
  For a concentration at a day F is the mixture F(y) = mean_s Phi((ln y - ln f_s) / sigma), exact
  given the virtual patients; for the highest of several samples the product of such terms; for
  other quantities a smoothed distribution of the virtual patients' values. The confidence interval
  of a median ends at the order statistics with the binomial ranks (exact, distribution-free).
- a median, percentile, quartile or end of a range below the LLOQ is censored: it enters by the
  probability that this order statistic lies below the LLOQ, given those above it.
- geometric mean and log-SD (geometric CV, geometric SD, or from the confidence interval and the t
  quantile): mean and variance of n logs; normal, and chi-square with degrees of freedom adjusted
  for the population's kurtosis.
- mean and SD (or SE, CV, confidence interval and t quantile, which are that SD): of n draws from a
  log-normal, matched to the population where its larger values are (`as_log_normal`). The joint
  distribution of (ln mean, ln sqrt(ln(1 + SD²/mean²))) is tabulated by simulation once per n. An SD
  or CV beside a median, and an SD beside a geometric mean, are conditioned on it by the same table.
  Half-lives have neither mean nor SD in a population, and those printed are refused.
- mean or geometric mean with quartiles or range: the joint density of the two order statistics,
  times that of the mean given them: the other patients are independent draws from F between, below
  and above the two, and the density of their sum is the saddlepoint approximation.
- counts: binomial in F at the threshold, or else the LLOQ; a proportion is the sum over all counts
  that are printed so.
- Tmax lies on a sampling day. Median, and median with range: exact multinomial probabilities; mean
  and SD (SE, CV, confidence interval): normal, with the moments of the days of the peak.

**Dependence.** Statistics of one cohort come from the same patients, so their product would count
these patients several times. The statistics are therefore tied by a Gaussian copula: each is a
mean over patients of a function of the patient's normal score, with known Hermite coefficients c,
so the correlation of statistics a and b is sum_m c_am c_bm rho^m (Mehler), rho being the
correlation of the two quantities between virtual patients, times sqrt(n_small / n_large) where
one was reported for fewer patients; the quantities may be of several analytes. Counts, Tmax and
censored statistics are taken as independent of the rest.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.special as jsp
import jax.scipy.stats as jst
import numpy as np
import scipy.special
import scipy.stats
from jax import Array
from jaxtyping import Float

from carpk._types import Arrays, Numbers
from carpk.assay.residual import Residual, Theta
from carpk.dataset.cohort_summaries import SAMPLED, no_likelihood, percent_of
from carpk.errors import FitError

HERMITE_ORDER = 10
KERNEL = 0.15  # bandwidth of the smoothed distribution, in robust SDs of ln(quantity)
SOFT_MAX = 0.1  # softness of "the highest sample" and "is quantifiable", in ln(concentration)
SOFT_FIT = 0.01  # softness of "the best adjusted R²"
NO_DECLINE = 2e-5  # 1/day, of the softness of "declines"
UNUSABLE = -3.0  # stands for an adjusted R² of samples that no half-life comes from; below all
# of the highest sample, around the highest true concentration
PEAK_SCORES = np.linspace(-2.6, 3.7, 8)
SAME_DAY = 1e-6  # days
FEW_FOR_RANGES = 32  # patients, up to whom the usual virtual ones are enough for a range; above:
PER_PATIENT, MOST_FOR_RANGES = 8, 1024  # virtual patients of each, and at most


class CohortSummary(NamedTuple):
    """One published summary of one cohort, as it enters the likelihood.

    Attributes:
        metric: level, cmax, tmax, auc, t_half or detectable.
        time: day of a concentration, last day of an AUC; nan otherwise.
        statistic: "median", "geometric mean", "mean", "p10" and other percentiles, "count" or
            "proportion".
        value: the statistic; 0 stands for "below the LLOQ".
        low, high: the ends of the interval, where `interval` is "IQR", "range", "95% CI" or
            "90% CI"; of a proportion, what is rounded to it.
        interval: one of `carpk.dataset.cohort_summaries.INTERVALS`, or "".
        spread: of an SD, SE, CV% (geometric beside a geometric mean) or GSD.
        n: patients.
        lloq: lower limit of quantification, nan where unknown; for counts the threshold.
        use: "fit", "value" (without its interval) or "check" (outside the likelihood).
        label: for messages.
        output: the model's output that it is about.
    """

    metric: str
    time: float
    statistic: str
    value: float
    low: float
    high: float
    interval: str
    spread: float
    n: int
    lloq: float
    use: str
    label: str
    output: str = ""


CONFIDENCE = {"95% CI": 0.95, "90% CI": 0.90}


def t_quantile(interval: str, n: int) -> float:
    """Half-width of a CI over the SE: quantile of Student's t with n - 1 degrees of freedom."""
    return float(scipy.stats.t.ppf((1 + CONFIDENCE[interval]) / 2, n - 1))


def end_ranks(interval: str, n: int) -> tuple[float, float]:
    """Ranks, among n, of the lower and upper end of an interval made of order statistics."""
    if interval in CONFIDENCE:  # of the median
        k = float(scipy.stats.binom.ppf((1 - CONFIDENCE[interval]) / 2, n, 0.5))
        return k, n + 1 - k
    return {"IQR": (1 + 0.25 * (n - 1), 1 + 0.75 * (n - 1)), "range": (1.0, float(n))}[interval]


def sample_sd(summary: CohortSummary) -> float:
    """SD between the n patients, from whatever was printed with a mean or a median."""
    if summary.interval in CONFIDENCE:
        half = (summary.high - summary.low) / 2
        return half / t_quantile(summary.interval, summary.n) * math.sqrt(summary.n)
    if summary.interval == "CV%":
        return summary.spread / 100 * summary.value
    return summary.spread * (math.sqrt(summary.n) if summary.interval == "SE" else 1.0)


def sample_log_sd(summary: CohortSummary) -> Array:
    """SD of the n logs, from whatever was printed with a geometric mean."""
    if summary.interval in CONFIDENCE:
        half = jnp.log(summary.high / summary.low) / 2
        return half / t_quantile(summary.interval, summary.n) * math.sqrt(summary.n)
    if summary.interval == "GSD":
        return jnp.log(summary.spread)
    return jnp.sqrt(jnp.log1p((summary.spread / 100) ** 2))


# ---------------------------------------------------------------------------------------------
# Quantities of the virtual patients
# ---------------------------------------------------------------------------------------------


class Distribution(NamedTuple):
    """Distribution function, its complement and density of a quantity, at K values.

    Shape (S, K) given each virtual patient; (K,), as logs, over the population.
    """

    cdf: Float[Array, "*patient value"]
    sf: Float[Array, "*patient value"]
    pdf: Float[Array, "*patient value"]


TINY = 1e-300


def normal(z: Arrays, log_slope: Numbers = 0.0) -> Distribution:
    """The standard normal at z, with density per unit of a variable of which ln dz/dy is given."""
    tail = 0.5 * jsp.erfc(jnp.abs(z) / math.sqrt(2))
    left = z < 0
    pdf = jnp.exp(-0.5 * z**2 + log_slope) / math.sqrt(2 * math.pi)
    return Distribution(jnp.where(left, tail, 1 - tail), jnp.where(left, 1 - tail, tail), pdf)


class Curves(NamedTuple):
    """Virtual patients' curves at the sampling days.

    Attributes:
        t: sampling days, shape (J,).
        f: true concentrations, shape (S, J).
        y: measured concentrations, shape (S, J).
    """

    t: Float[np.ndarray, " day"]
    f: Float[Array, "patient day"]
    y: Float[Array, "patient day"]


def log1mexp(x: Array) -> Array:
    """ln(1 - e^x) for x < 0, finite gradient included."""
    x = jnp.minimum(x, -1e-300)
    near = x > -0.693
    return jnp.where(
        near,
        jnp.log(-jnp.expm1(jnp.where(near, x, -1.0))),
        jnp.log1p(-jnp.exp(jnp.where(near, -1.0, x))),
    )


def _ln(y: Array) -> Array:
    return jnp.log(jnp.maximum(y, 1e-300))


def auc(curves: Curves, stop: float) -> Float[Array, " patient"]:
    """ln AUC from day 0 to `stop` of each virtual patient's samples, linear-up/log-down.

    Samples before day 0 do not enter; the concentration on day 0 is 0 unless it was sampled.
    """
    inside = (curves.t >= 0) & (curves.t <= stop)
    t = jnp.concatenate([jnp.zeros(1), curves.t[inside]])
    c = jnp.concatenate([jnp.zeros_like(curves.y[:, :1]), curves.y[:, inside]], axis=1)
    left, right = c[:, :-1], c[:, 1:]
    falls = right < left
    ratio = jnp.where(falls, left / jnp.where(falls, right, 1.0), 2.0)
    mean = jnp.where(falls, (left - right) / jnp.log(ratio), (left + right) / 2)
    return _ln(jnp.sum(mean * jnp.diff(t), axis=1))


def log_half_life(
    curves: Curves, lloq: float
) -> tuple[Float[Array, " patient"], Float[Array, " patient"]]:
    """ln terminal half-life of each virtual patient and its weight.

    The rule of noncompartmental analysis, rounded off: log-linear regression over the last k >= 3
    quantifiable samples after the highest, k chosen by adjusted R². A patient without three such
    samples or without a decline has weight 0.
    """
    ln_y, t = _ln(curves.y), curves.t
    peak = jax.nn.softmax(ln_y / SOFT_MAX, axis=1) @ t
    counts = jnp.ones_like(ln_y)
    if math.isfinite(lloq):
        counts = jax.nn.sigmoid((ln_y - math.log(lloq)) / SOFT_MAX)

    later = np.tril(np.ones((len(t), len(t))))  # sums over the last samples, from each on

    def tail(x: Array) -> Array:
        return x @ later

    n = tail(counts)
    safe = jnp.maximum(n, 1e-3)
    mt, my = tail(counts * t) / safe, tail(counts * ln_y) / safe
    stt = jnp.maximum(tail(counts * t * t) / safe - mt**2, 1e-9)
    syy = jnp.maximum(tail(counts * ln_y**2) / safe - my**2, 1e-9)
    sty = tail(counts * t * ln_y) / safe - mt * my
    rate = -sty / stt
    r2 = jnp.clip(sty**2 / (stt * syy), 0.0, 1.0)
    enough = jax.nn.sigmoid((n - 2.75) / 0.02)
    adjusted = enough * (1 - (1 - r2) * (n - 1) / jnp.maximum(n - 2, 0.5))
    after = jax.nn.sigmoid((t - peak[:, None]) / 0.1)
    usable = enough * counts * after * jax.nn.sigmoid(rate / NO_DECLINE)
    chosen = usable * adjusted + (1 - usable) * UNUSABLE  # a rise fits as well, and is no decline
    weights = jax.nn.softmax(chosen / SOFT_FIT, axis=1)
    ln_half = jnp.log(math.log(2) / jnp.maximum(rate, NO_DECLINE))
    return jnp.sum(weights * ln_half, axis=1), jnp.max(usable, axis=1)


class Quantity(NamedTuple):
    """One quantity of every virtual patient.

    Attributes:
        x: its measured value on the log scale, shape (S,).
        weight: 1, or less where the quantity is hardly defined, shape (S,).
        conditional: y (K,) -> Distribution, or None: smoothed from x.
    """

    x: Float[Array, " patient"]
    weight: Float[Array, " patient"]
    conditional: Callable[[Arrays], Distribution] | None


def quantity(
    metric: str, time: float, lloq: float, curves: Curves, residual: Residual, theta: Theta
) -> Quantity:
    """The quantity that a summary is about, for every virtual patient."""
    ones = jnp.ones(curves.f.shape[0])
    if metric in ("level", "detectable"):
        day = int(np.flatnonzero(np.asarray(curves.t) == time)[0])
        f = curves.f[:, day, None]

        def at_day(y: Arrays) -> Distribution:
            return normal(*residual.standardize(y[None, :], f, theta))

        return Quantity(_ln(curves.y[:, day]), ones, at_day)
    if metric == "cmax":

        def highest(y: Arrays) -> Distribution:
            each = normal(*residual.standardize(y[None, None, :], curves.f[:, :, None], theta))
            cdf = jnp.prod(each.cdf + TINY, axis=1)
            pdf = cdf * jnp.sum(each.pdf / (each.cdf + TINY), axis=1)
            return Distribution(cdf, 1 - cdf, pdf)

        return Quantity(_ln(jnp.max(curves.y, axis=1)), ones, highest)
    if metric == "auc":
        return Quantity(auc(curves, time), ones, None)
    if metric == "t_half":
        x, weight = log_half_life(curves, lloq)
        return Quantity(x, weight, None)
    raise FitError(f"The metric {metric!r} has no likelihood.")


def moments(q: Quantity) -> tuple[Array, Array, Array]:
    """Mean, variance and excess kurtosis of the log quantity between patients."""
    w = q.weight / jnp.sum(q.weight)
    mean = w @ q.x
    d = q.x - mean
    var = w @ d**2 + 1e-6
    return mean, var, (w @ d**4) / var**2 - 3


def population_distribution(q: Quantity, y: Arrays) -> Distribution:
    """ln F, ln(1 - F) and ln density of the quantity over the population, at y (K,)."""
    if q.conditional is None:
        mean, var, _ = moments(q)
        # One patient whose peak comes months late has an area near 0 and moves the SD of all.
        away = q.weight @ jnp.sqrt((q.x - mean) ** 2 + 1e-12) / jnp.sum(q.weight)
        h = KERNEL * jnp.minimum(away * math.sqrt(math.pi / 2), jnp.sqrt(var))
        x = mean + (q.x - mean) * jnp.sqrt(1 - h**2 / var)  # so that the variance stays the same
        ln_y = jnp.log(y)[None, :]
        each = normal((ln_y - x[:, None]) / h, -jnp.log(h) - ln_y)
    else:
        each = q.conditional(y)
    w = q.weight / jnp.sum(q.weight)
    return Distribution(*(jnp.log(w @ part + TINY) for part in each))


# ---------------------------------------------------------------------------------------------
# Margins: ln density, normal scores and Hermite coefficients of one published summary
# ---------------------------------------------------------------------------------------------


class Margin(NamedTuple):
    """ln likelihood of one block of statistics, and what ties it to the others.

    Attributes:
        log_prob: scalar.
        scores: normal scores of the k statistics of the block, independent of each other.
        hermite: coefficients of each score's mean over patients, shape (k, HERMITE_ORDER).
    """

    log_prob: Float[Array, ""]
    scores: Float[Array, " statistic"]
    hermite: Float[Arrays, "statistic coefficient"]


def ranks(probabilities: Sequence[float], n: int) -> np.ndarray:
    """Ranks of sample quantiles among n order statistics, R's type 7: 0 -> 1, 1 -> n."""
    return 1 + np.asarray(probabilities) * (n - 1)


def log_order_statistics(u: Distribution, rank: np.ndarray, n: int) -> Array:
    """ln density of the order statistics with these (real, ascending) ranks among n draws.

    With F(y_k) = U_k, the spacings (U_1, U_2 - U_1, ..., 1 - U_K) are Dirichlet distributed with
    parameters (r_1, r_2 - r_1, ..., n + 1 - r_K).
    """
    a = np.diff(np.concatenate([[0.0], rank, [n + 1.0]]))
    constant: float = scipy.special.gammaln(n + 1) - scipy.special.gammaln(a).sum()
    low, high = u.cdf[:-1], u.cdf[1:]
    upper, lower = u.sf[1:], u.sf[:-1]
    left = low < math.log(0.5)  # take the difference where it loses no digits
    gap = jnp.where(
        left,
        high + log1mexp(jnp.where(left, low - high, -1.0)),
        lower + log1mexp(jnp.where(left, -1.0, upper - lower)),
    )
    spacing = jnp.concatenate([u.cdf[:1], gap, u.sf[-1:]])
    return constant + jnp.sum((a - 1) * spacing) + jnp.sum(u.pdf)


def order_scores(u: Distribution, rank: np.ndarray, n: int) -> Array:
    """Independent normal scores of the order statistics, each given those below it."""
    a = np.diff(np.concatenate([[0.0], rank, [n + 1.0]]))
    rest = np.cumsum(a[::-1])[::-1]
    cdf = jnp.exp(u.cdf)
    below = jnp.concatenate([jnp.zeros(1), cdf[:-1]])
    share = jnp.clip((cdf - below) / jnp.maximum(1 - below, 1e-12), 1e-9, 1 - 1e-9)
    return beta_score(share, a[:-1], rest[1:])


def beta_score(x: Array, a: np.ndarray, b: np.ndarray) -> Array:
    """Normal score of a Beta(a, b) variable: Paulson (1942) Ann Math Stat 13:233-235.

    The cube root of the matching F ratio is nearly normal: between the 10 % and the 90 % point
    the scores are within 0.04 of the exact ones for a, b >= 1; farther out they fall short of
    them by up to 0.3 (1 %, a = 1). They serve the dependence only; margins are exact.
    """
    w = jnp.cbrt(x * b / ((1 - x) * a))
    u, v = 1 / (9 * a), 1 / (9 * b)
    return (w * (1 - v) - (1 - u)) / jnp.sqrt(w**2 * v + u)


@lru_cache(maxsize=256)
def order_hermite(rank: tuple[float, ...], n: int) -> np.ndarray:
    """Hermite coefficients of `order_scores`: those of quantile indicators, made independent."""
    p = np.asarray(rank) / (n + 1)
    q = scipy.stats.norm.ppf(p)
    c = np.empty((len(p), HERMITE_ORDER))
    for m in range(1, HERMITE_ORDER + 1):
        he = scipy.special.eval_hermitenorm(m - 1, q)
        c[:, m - 1] = scipy.stats.norm.pdf(q) * he / math.sqrt(math.factorial(m))
    cov = np.minimum.outer(p, p) - np.outer(p, p)
    return np.linalg.solve(np.linalg.cholesky(cov), c)


def log_beta_cdf(x: Array, a: float, b: float) -> Array:
    """ln P(Beta(a, b) <= x), by its leading term where the probability underflows."""
    x = jnp.clip(x, TINY, 1.0)
    cdf = jsp.betainc(a, b, x)
    seen = cdf > 1e-250
    ln_b = scipy.special.betaln(a, b)
    leading = a * jnp.log(x) + b * jnp.log1p(-jnp.minimum(x, 0.5)) - math.log(a) - ln_b
    return jnp.where(seen, jnp.log(jnp.where(seen, cdf, 1.0)), leading)


def order_block(
    q: Quantity, y: Arrays, rank: np.ndarray, n: int, lloq: float
) -> tuple[Margin, int | Array]:
    """Order statistics y (K,) of n draws, those below the LLOQ censored, and how many those are.

    U_k = F(y_k). The highest censored one has P(U_j < F(LLOQ) | U_{j+1}), a beta probability; the
    lower ones say nothing beside it. Whether a value is censored may depend on data that are
    replaced (`with_summaries`): then every number of censored ones is worked out, and one chosen.
    """
    if not math.isfinite(lloq):
        return _order_block(q, y, rank, n, 0), 0
    below, y = y < lloq, quantified(y, lloq)
    if isinstance(y, np.ndarray):
        censored = int(np.sum(below))
        return _order_block(q, y, rank, n, censored), censored
    j = jnp.sum(below)
    each = [_order_block(q, y, rank, n, k) for k in range(len(rank) + 1)]
    return jax.tree.map(lambda *x: jax.lax.select_n(j, *x), *each), j


def _order_block(q: Quantity, y: Arrays, rank: np.ndarray, n: int, censored: int) -> Margin:
    """`order_block` with the lowest `censored` of them at the LLOQ."""
    u = population_distribution(q, y)
    k = len(rank)
    log_prob, scores, hermite = jnp.zeros(()), jnp.zeros(k), np.zeros((k, HERMITE_ORDER))
    if censored:
        above = rank[censored] if censored < k else n + 1.0
        ln_share = u.cdf[censored - 1] - (u.cdf[censored] if censored < k else 0.0)
        highest = rank[censored - 1]
        log_prob = log_beta_cdf(jnp.exp(jnp.minimum(ln_share, 0.0)), highest, above - highest)
    if censored < k:
        exact = Distribution(*(part[censored:] for part in u))
        log_prob = log_prob + log_order_statistics(exact, rank[censored:], n)
        scores = scores.at[censored:].set(order_scores(exact, rank[censored:], n))
        hermite[censored:] = order_hermite(tuple(rank[censored:].tolist()), n)
    return Margin(log_prob, scores, jnp.asarray(hermite))


def stacked(parts: Sequence[Numbers]) -> Arrays:
    """Numbers as one vector; of NumPy, and so known while others are traced, if all of them are."""
    if any(isinstance(x, jax.core.Tracer) for x in parts):
        return jnp.stack([jnp.asarray(x, float) for x in parts])
    return np.array(parts, float)


def quantified(y: Arrays, lloq: float) -> Arrays:
    """Values, those below a known LLOQ at it."""
    if not math.isfinite(lloq):
        return y
    return np.maximum(y, lloq) if isinstance(y, np.ndarray) else jnp.maximum(y, lloq)


def joined(first: Margin, *, log_prob: Array, score: Array, hermite: Array) -> Margin:
    """A block with one more statistic, whose score is independent of those before it."""
    return Margin(
        first.log_prob + log_prob,
        jnp.concatenate([first.scores, score[None]]),
        jnp.concatenate([jnp.asarray(first.hermite), hermite[None]]),
    )


def quantiles(summary: CohortSummary, q: Quantity) -> Margin:
    """A median, alone or with an interval, or a percentile."""
    n = summary.n
    percent = percent_of(summary.statistic)
    middle = ranks([0.5 if percent is None else percent / 100], n)
    if summary.interval in ("", "SD", "CV%"):
        block, _ = order_block(q, stacked([summary.value]), middle, n, summary.lloq)
        if not summary.interval:
            return block
        table, x = moment_table(n), table_place(as_log_normal(q)[1])
        return with_spread(block, summary, q, MEDIAN, block.scores[0], at(table.hermite, x)[MEDIAN])
    low, high = end_ranks(summary.interval, n)
    rank = np.array([low, middle[0], high])
    block, _ = order_block(
        q, stacked([summary.low, summary.value, summary.high]), rank, n, summary.lloq
    )
    return block


def log_moments(summary: CohortSummary, q: Quantity) -> Margin:
    """Geometric mean, alone or with an interval: mean and variance of n logs."""
    if summary.interval in ("IQR", "range"):
        return given_ends(summary, q, log=True)
    mean, var, kurtosis = moments(q)
    n = summary.n
    z = (jnp.log(summary.value) - mean) / jnp.sqrt(var / n)
    hermite = np.eye(2, HERMITE_ORDER)
    of_mean = jst.norm.logpdf(z) - 0.5 * jnp.log(var / n)
    if summary.interval in ("", "SD"):
        block = Margin(of_mean, z[None], hermite[:1])
        return with_spread(block, summary, q, LOGS, z, hermite[0]) if summary.interval else block
    s2 = sample_log_sd(summary) ** 2
    kurtosis = jnp.clip(kurtosis, -1.5, 30.0)
    nu = 2 / (2 / (n - 1) + kurtosis / n)  # Var(s²) = var² (2/(n-1) + kurtosis/n)
    scaled = s2 / var
    of_var = (
        0.5 * nu * jnp.log(0.5 * nu)
        - jsp.gammaln(0.5 * nu)
        + 0.5 * nu * jnp.log(scaled)
        - 0.5 * nu * scaled
    )
    k = 2 / (9 * nu)
    score = (scaled ** (1 / 3) - (1 - k)) / jnp.sqrt(k)  # Wilson and Hilferty
    return Margin(of_mean + of_var, jnp.stack([z, score]), hermite)


MEAN, CV, SD, LOGS, MEDIAN = range(5)  # columns of `MomentTable`
LN_TAU = np.linspace(math.log(0.05), math.log(3.0), 40)  # its rows


class MomentTable(NamedTuple):
    """Joint sampling distribution of five statistics of n draws exp(mu + tau Z), by ln tau.

    They are ln mean - mu, ln tau-hat - ln tau with tau-hat = sqrt(ln(1 + SD²/mean²)), ln SD - mu,
    and the normal scores of the mean of the logs and of the median.
    """

    mean: np.ndarray  # (grid, 5)
    sd: np.ndarray  # (grid, 5)
    corr: np.ndarray  # (grid, 5, 5)
    hermite: np.ndarray  # (grid, 5, HERMITE_ORDER)


@lru_cache(maxsize=64)
def moment_table(n: int, replicates: int = 4000) -> MomentTable:
    """Simulated once per n with fixed random numbers, common to all tau."""
    rng = np.random.default_rng(20190)
    z = rng.standard_normal((replicates, n))
    h = np.stack(
        [
            np.sqrt(n) * scipy.special.eval_hermitenorm(m, z).mean(1) / math.sqrt(math.factorial(m))
            for m in range(1, 5)
        ]
    )
    (rank,) = ranks([0.5], n)
    below = scipy.stats.norm.cdf(np.median(z, axis=1))
    median = scipy.stats.norm.ppf(scipy.stats.beta.cdf(below, rank, n + 1 - rank))
    mean, sd, corr, hermite = [], [], [], np.zeros((len(LN_TAU), 5, HERMITE_ORDER))
    for g, tau in enumerate(np.exp(LN_TAU)):
        x = np.exp(tau * z)
        m, s = x.mean(1), x.std(1, ddof=1) if n > 1 else np.ones(replicates)
        cv = np.log(np.sqrt(np.log1p((s / m) ** 2)) / tau)
        every = np.stack([np.log(m), cv, np.log(s), h[0], median])
        mean.append(every.mean(1))
        sd.append(every.std(1))
        with np.errstate(invalid="ignore"):
            both = np.nan_to_num(np.corrcoef(every, h))
        corr.append(both[:5, :5])
        hermite[g, :, :4] = both[:5, 5:]
    return MomentTable(np.array(mean), np.array(sd), np.array(corr), hermite)


TILT = 0.5  # power of the size by which virtual patients are weighted


def as_log_normal(q: Quantity) -> tuple[Array, Array]:
    """mu and ln tau of the log-normal that stands for the population in `MomentTable`.

    Means and SDs follow the patients with high concentrations. So the mean and the variance of the
    logs are those weighted by a power a of the concentration, under which a log-normal has mu + a
    tau² and tau²: a tail of low concentrations, long on the scale of logs, hardly enters. With a =
    1/2 coverage was best of 0, 1/4, 1/2, 3/4, 1 (`docs/summaries.md`): smaller ones feel the low
    tail, larger ones rest on few of the virtual patients.
    """
    share = jax.nn.softmax(jnp.log(q.weight + TINY) + TILT * q.x)
    middle = share @ q.x
    var = share @ (q.x - middle) ** 2 + 1e-6
    return middle - TILT * var, 0.5 * jnp.log(var)


def table_place(ln_tau: Array) -> Array:
    """ln tau as far as the table goes."""
    return jnp.clip(ln_tau, LN_TAU[0], LN_TAU[-1])


def at(columns: np.ndarray, x: Array) -> Array:
    """Entries (grid, ...) of a `MomentTable` at one ln tau, by linear interpolation."""
    place = (x - LN_TAU[0]) / (LN_TAU[1] - LN_TAU[0])
    i = jnp.clip(jnp.floor(place).astype(int), 0, len(LN_TAU) - 2)
    share: Array = place - i
    known = jnp.asarray(columns)
    return (1 - share) * known[i] + share * known[i + 1]


def with_spread(
    block: Margin, summary: CohortSummary, q: Quantity, centre: int, score: Array, hermite: Array
) -> Margin:
    """A block whose first statistic is the centre, and the SD or CV beside it.

    Given the score of the centre, the log of the SD, or of tau-hat where that is known, is normal
    with what the table says of a log-normal population.
    """
    mu, ln_tau = as_log_normal(q)
    table, x = moment_table(summary.n), table_place(ln_tau)
    relative = summary.interval == "CV%" or centre == MEAN
    column = CV if relative else SD
    sd = sample_sd(summary)
    if relative:
        observed = 0.5 * jnp.log(jnp.log1p((sd / summary.value) ** 2)) - ln_tau
    else:
        observed = jnp.log(sd) - mu
    r, scale = at(table.corr, x)[centre, column], at(table.sd, x)[column]
    rest = jnp.sqrt(1 - r**2)
    z = ((observed - at(table.mean, x)[column]) / scale - r * score) / rest
    return joined(
        block,
        log_prob=jst.norm.logpdf(z) - jnp.log(scale * rest),
        score=z,
        hermite=(at(table.hermite, x)[column] - r * hermite) / rest,
    )


def raw_moments(summary: CohortSummary, q: Quantity) -> Margin:
    """Mean, alone or with an interval, of a quantity that is about log-normal between patients."""
    if summary.interval in ("IQR", "range"):
        return given_ends(summary, q, log=False)
    mu, ln_tau = as_log_normal(q)
    table, x = moment_table(summary.n), table_place(ln_tau)
    scale, hermite = at(table.sd, x)[MEAN], at(table.hermite, x)[MEAN]
    z = (jnp.log(summary.value) - mu - at(table.mean, x)[MEAN]) / scale
    block = Margin(jst.norm.logpdf(z) - jnp.log(scale), z[None], hermite[None])
    return with_spread(block, summary, q, MEAN, z, hermite) if summary.interval else block


def given_ends(summary: CohortSummary, q: Quantity, *, log: bool) -> Margin:
    """Mean or geometric mean with quartiles or range: order statistics, and the mean given them."""
    n, rank = summary.n, np.array(end_ranks(summary.interval, summary.n))
    ends = stacked([summary.low, summary.high])
    block, censored = order_block(q, ends, rank, n, summary.lloq)
    ends = quantified(ends, summary.lloq)  # a branch that is not chosen has a finite gradient too
    if n == len(rank):  # nobody else: the mean follows from the ends
        return block
    if isinstance(censored, int):
        log_prob, z = mean_given(q, ends[censored:], rank[censored:], n, summary.value, log)
    else:
        each = [mean_given(q, ends[j:], rank[j:], n, summary.value, log) for j in range(3)]
        log_prob, z = jax.tree.map(lambda *x: jax.lax.select_n(censored, *x), *each)
    x = table_place(as_log_normal(q)[1])
    own = jnp.eye(1, HERMITE_ORDER)[0] if log else at(moment_table(n).hermite, x)[MEAN]
    hermite = jnp.asarray(block.hermite)
    own = own - (hermite @ own) @ hermite
    own = own / jnp.maximum(jnp.linalg.norm(own), 0.2)
    return joined(block, log_prob=log_prob, score=z, hermite=own)


NODES, WEIGHTS = np.polynomial.legendre.leggauss(32)
REACH = 0.3  # how much farther than the virtual patients F is looked at, in their distance


def mean_given(
    q: Quantity, ends: Arrays, rank: np.ndarray, n: int, value: float, log: bool
) -> tuple[Array, Array]:
    """ln density, and normal score, of an arithmetic or geometric mean given order statistics.

    Of the n patients K have the values `ends`, with these ranks; the others are independent draws
    from F below, between and above these. The density of their sum is that of the saddlepoint
    (Daniels 1954, Ann Math Stat 25:631-650), the cumulants being integrals over ln y.
    """
    mean, var, _ = moments(q)
    sd, ln_ends = jnp.sqrt(var), jnp.log(ends)
    smallest, largest = jnp.min(q.x), jnp.max(q.x)
    first, last = smallest - REACH * (mean - smallest), largest + REACH * (largest - mean)
    if len(rank):
        first, last = jnp.minimum(first, ln_ends[0] - sd), jnp.maximum(last, ln_ends[-1] + sd)
    edge = jnp.concatenate([first[None], ln_ends, last[None]])
    half = jnp.diff(edge)[:, None] / 2
    ln_y = (edge[:-1, None] + half) + half * NODES  # (groups, nodes)
    u = population_distribution(q, jnp.exp(ln_y.ravel()))
    weight = jax.nn.softmax(u.pdf.reshape(ln_y.shape) + ln_y + np.log(WEIGHTS), axis=1)

    def of(ln_y: Array) -> Array:
        x = ln_y - jnp.log(value)
        return x if log else jnp.exp(jnp.minimum(x, 50.0))

    others = np.maximum(np.diff(np.concatenate([[0.0], rank, [n + 1.0]])) - 1, 0)
    total = (0.0 if log else float(n)) - jnp.sum(of(ln_ends))
    return saddlepoint(of(ln_y), jnp.log(weight), others, total)


STEEPEST = 12.0  # asinh of the largest tilt that is looked at


def saddlepoint(x: Array, ln_weight: Array, sizes: np.ndarray, total: Array) -> tuple[Array, Array]:
    """ln density at `total` of a sum of independent draws, and its normal score.

    Args:
        x, ln_weight: values and ln probabilities of each group, shape (groups, values).
        sizes: draws from each group.
        total: the sum.
    """
    draws = jnp.asarray(sizes)

    def cumulants(t: Array) -> tuple[Array, Array, Array]:
        """The cumulant generating function of the sum and its first two derivatives."""
        tilted = ln_weight + t * x
        each = jsp.logsumexp(tilted, axis=1)
        share = jnp.exp(tilted - each[:, None])
        mean = jnp.sum(share * x, axis=1)
        var = jnp.sum(share * (x - mean[:, None]) ** 2, axis=1)
        return draws @ each, draws @ mean, draws @ var + 1e-9

    def halve(_: int, between: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = between
        middle = (low + high) / 2
        less = cumulants(jnp.sinh(middle))[1] < total
        return jnp.where(less, middle, low), jnp.where(less, high, middle)

    start = (jnp.asarray(-STEEPEST), jnp.asarray(STEEPEST))
    t = jnp.sinh(jax.lax.stop_gradient(jax.lax.fori_loop(0, 50, halve, start)[0]))
    _, mean, var = cumulants(t)
    t = t + jnp.clip((total - mean) / var, -1.0, 1.0)  # carries the gradient
    k, _, var = cumulants(t)
    log_prob = k - t * total - 0.5 * jnp.log(2 * math.pi * var)
    r = jnp.sign(t) * jnp.sqrt(2 * jnp.maximum(t * total - k, 0.0) + 1e-12)
    u = t * jnp.sqrt(var)
    far = jnp.abs(r) > 1e-2
    correction = jnp.log(jnp.where(far, u / jnp.where(far, r, 1.0), 1.0))
    return log_prob, r + jnp.where(far, correction / jnp.where(far, r, 1.0), 0.0)


def count(summary: CohortSummary, q: Quantity) -> Array:
    """ln probability that `value` of n patients are at or above the limit on that day.

    Of a proportion: that the count is one of those which are rounded to it.
    """
    at_limit = population_distribution(q, jnp.asarray([summary.lloq], float))
    n = summary.n
    k = summary.value if summary.statistic == "count" else np.arange(n + 1.0)
    constant = jsp.gammaln(n + 1.0) - jsp.gammaln(k + 1.0) - jsp.gammaln(n - k + 1.0)
    ln_prob = constant + k * at_limit.sf[0] + (n - k) * at_limit.cdf[0]
    if summary.statistic == "count":
        return ln_prob
    share = k / n
    return jsp.logsumexp(ln_prob, where=(share >= summary.low) & (share <= summary.high))


def peak_day_shares(
    f: Float[Array, "patient day"], residual: Residual, theta: Theta
) -> Float[Array, " day"]:
    """Share of patients whose highest sample is that of each sampling day.

    With y the highest measured concentration and z its score around the highest true one, sample j
    is the highest with probability integral p_j(y) prod_{k != j} P(y_k < y) dy/dz dz, here by the
    trapezoidal rule: to 5e-4 given the virtual patients.

    Args:
        f: true concentrations of the virtual patients, shape (S, J).
        residual: residual model.
        theta: its parameters.

    Returns:
        Shape (J,), adding up to 1.
    """
    top, z = jnp.max(f, axis=1), jnp.asarray(PEAK_SCORES)[:, None]
    y = jnp.asarray(residual.sample(z, top, theta))  # (Q, S)
    _, slope = residual.standardize(y, top, theta)
    each = normal(*residual.standardize(y[None], f.T[:, None, :], theta))  # (J, Q, S)
    below = each.cdf + TINY
    highest = jnp.exp(jnp.sum(jnp.log(below), axis=0) - slope)
    share = jnp.sum(each.pdf / below * highest, axis=(1, 2))
    return share / jnp.sum(share)


def peak_day(
    summary: CohortSummary, days: np.ndarray, f: Array, residual: Residual, theta: Theta
) -> Array:
    """ln probability of what was published of the days of n observed peaks."""
    share = jnp.maximum(peak_day_shares(f, residual, theta), TINY)
    if summary.statistic == "mean":
        return mean_peak_day(summary, days, share)
    return median_peak_day(summary, days, share)


def mean_peak_day(summary: CohortSummary, days: np.ndarray, share: Array) -> Array:
    """ln density of the mean of n peak days, and of their SD: normal, of (mean, ln variance)."""
    scores, scales = mean_peak_day_scores(summary, days, share)
    return jnp.sum(jst.norm.logpdf(scores) - jnp.log(scales))


def mean_peak_day_scores(
    summary: CohortSummary, days: np.ndarray, share: Array
) -> tuple[Array, Array]:
    """Independent normal scores of the mean, and of the variance given it, and their scales."""
    n = summary.n
    mean = share @ days
    second, third, fourth = (share @ (days - mean) ** m for m in (2, 3, 4))
    scale = jnp.sqrt(second / n)
    z = (summary.value - mean) / scale
    if not summary.interval:
        return z[None], scale[None]
    var = (fourth / second**2 - (n - 3) / (n - 1)) / n  # of s², over its square
    cov = third / second**1.5 / n
    r = jnp.clip(cov / jnp.sqrt(var / n), -0.99, 0.99)
    rest = jnp.sqrt(var * (1 - r**2))
    observed = 2 * jnp.log(sample_sd(summary)) - jnp.log(second)
    z_var = (observed - r * jnp.sqrt(var) * z) / rest
    return jnp.stack([z, z_var]), jnp.stack([scale, rest])


def median_peak_day(summary: CohortSummary, days: np.ndarray, share: Array) -> Array:
    """ln probability that the median of n observed peak days, and their range, are as published.

    A peak is observed on a sampling day. So the median is a sampling day, unless n is even and it
    lies halfway between two: then as many patients peaked up to the one as from the other on. A
    number that is neither stands for the sampling day next to it, as the ends of the range do.
    """
    n, ranged = summary.n, summary.interval == "range"
    first = next_to(days, summary.low) if ranged else np.ones(len(days), bool)
    last = next_to(days, summary.high) if ranged else np.ones(len(days), bool)
    if ranged and n == 2:
        same = jnp.all(first == last)
        return jnp.where(same, 0.0, math.log(2)) + ln_sum(share, first) + ln_sum(share, last)
    median = next_to(days, summary.value)
    below = ~median & (days < summary.value)
    above = ~median & (days > summary.value)
    half = np.arange((n - 1) // 2 + 1.0)  # fewer than half are below the median, and above
    if ranged:
        under = within(share, first, below & (days > summary.low), half, jnp.any(first & median))
        over = within(share, last, above & (days < summary.high), half, jnp.any(last & median))
    else:
        under, over = ln_sum(share, below) * half, ln_sum(share, above) * half
    same_day = n - half[:, None] - half[None, :]
    ways = scipy.special.gammaln(n + 1) - sum(
        scipy.special.gammaln(k + 1) for k in (half[:, None], same_day, half[None, :])
    )
    on_a_day = jsp.logsumexp(
        ways + under[:, None] + same_day * ln_sum(share, median) + over[None, :]
    )
    if n % 2:
        return on_a_day
    m = n // 2
    if ranged:
        lower = up_to(share, first, jnp.asarray(days > summary.low) & ~first, m)
        upper = up_to(share[::-1], last[::-1], (jnp.asarray(days < summary.high) & ~last)[::-1], m)
    else:
        lower, upper = up_to(share, None, None, m), up_to(share[::-1], None, None, m)
    halves = lower[:-1] + upper[::-1][1:]
    ways_of_halves = scipy.special.gammaln(n + 1) - 2 * scipy.special.gammaln(m + 1)
    between = jnp.abs((days[1:] + days[:-1]) / 2 - summary.value) <= SAME_DAY
    found = jnp.any(between)
    split = ways_of_halves + jsp.logsumexp(halves, where=between | ~found)
    return jnp.where(found, split, on_a_day)


def next_to(days: np.ndarray, day: float) -> Array:
    """Nearest sampling day, or the two nearest, of a day."""
    distance = jnp.abs(days - day)
    return distance <= jnp.min(distance) + SAME_DAY


def ln_sum(share: Array, where: Arrays) -> Array:
    """ln of the share of some days."""
    return jnp.log(jnp.sum(jnp.where(where, share, 0.0)) + TINY)


def within(share: Array, end: Arrays, inside: Arrays, k: np.ndarray, at_median: Array) -> Array:
    """ln P(k patients peak between the end of a range and the median, some of them at the end).

    Where the end is the median itself, nobody may peak beyond it: k = 0.
    """
    inner = ln_sum(share, inside & ~end)
    every = jnp.logaddexp(ln_sum(share, end), inner)
    some = k * every + log1mexp(jnp.maximum(k, 1) * (inner - every))
    never = -1e6
    return jnp.where(k == 0, jnp.where(at_median, 0.0, never), jnp.where(at_median, never, some))


def up_to(share: Array, first: Arrays | None, after: Arrays | None, m: int) -> Array:
    """ln P(m of m patients peak up to each day, some on it), and some on the first of a range."""

    def before(x: Array) -> Array:
        return jnp.concatenate([jnp.zeros(1), jnp.cumsum(x)[:-1]])

    if first is None or after is None:
        every, less = jnp.log(jnp.cumsum(share)), jnp.log(before(share) + TINY**2)
        return m * every + log1mexp(m * (jnp.maximum(less, 2 * math.log(TINY)) - every))
    at_first, later = jnp.where(first, share, 0.0), jnp.where(after, share, 0.0)
    here = jnp.maximum(jnp.where(first | after, share, TINY), TINY)
    inner = before(later)
    a, every = jnp.sum(at_first), jnp.sum(at_first) + inner + here
    both = 1 - ((inner + here) / every) ** m - ((a + inner) / every) ** m + (inner / every) ** m
    leading = math.log(max(m * (m - 1), 1)) + jnp.log(a) + jnp.log(here) - 2 * jnp.log(every)
    seen = both > 1e-9
    apart = m * jnp.log(every) + jnp.where(seen, jnp.log(jnp.where(seen, both, 1.0)), leading)
    if m == 1:  # one patient cannot be on two days
        apart = jnp.full_like(apart, -1e6)
    return jnp.where(first, m * jnp.log(here), jnp.where(after, apart, -1e6))


def margin_of(summary: CohortSummary, q: Quantity) -> Margin:
    """The block of one summary about a concentration, Cmax, AUC or half-life."""
    if summary.statistic == "mean":
        return raw_moments(summary, q)
    return (
        log_moments(summary, q) if summary.statistic == "geometric mean" else quantiles(summary, q)
    )


# ---------------------------------------------------------------------------------------------
# One cohort
# ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class CohortLikelihood:
    """Joint likelihood of everything published about one cohort.

    Attributes:
        summaries: the statistics, of one output or several.
        sampling: nominal sampling days behind Cmax, Tmax, AUC and half-life.
        residuals: residual model of each output.
        virtual_patients: S; a power of two.
        random_effects: R.
        dependence: False multiplies the margins as if every statistic had its own patients
            (composite likelihood): kept to show what that does to the width of intervals.
    """

    summaries: tuple[CohortSummary, ...]
    sampling: tuple[float, ...]
    residuals: Mapping[str, Residual]
    virtual_patients: int
    random_effect_count: int
    dependence: bool = True

    def __post_init__(self) -> None:
        for summary in self.summaries:
            check_summary(summary, self.sampling)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs that the summaries are about, in their order."""
        return tuple(dict.fromkeys(summary.output for summary in self.summaries))

    def days_of(self, output: str) -> np.ndarray:
        """Every day at which the curves of an output are needed, ascending."""
        summaries = [f for f in self.summaries if f.output == output]
        days = [f.time for f in summaries if f.metric in ("level", "detectable")]
        sampled = self.sampling if any(f.metric in SAMPLED for f in summaries) else ()
        return np.unique(np.array([*days, *sampled], float))

    @property
    def days(self) -> np.ndarray:
        """Days of the predictions (T,): those of each output, one after the other."""
        return np.concatenate([self.days_of(output) for output in self.outputs])

    @property
    def which(self) -> np.ndarray:
        """The output, by its number, of each of `days` (T,)."""
        return np.repeat(np.arange(len(self.outputs)), [len(self.days_of(o)) for o in self.outputs])

    def normals(self) -> tuple[np.ndarray, np.ndarray]:
        """Standard-normal random effects (S, R) and assay noise (S, T)."""
        dims = self.random_effect_count + len(self.days)
        z = virtual_normals(self.virtual_patients, dims)
        return z[:, : self.random_effect_count], z[:, self.random_effect_count :]

    def curves(self, f: Array, theta: Mapping[str, Theta]) -> dict[str, tuple[Curves, Curves]]:
        """Curves of each output, at all its days and at the sampling days; as `log_likelihoods`."""
        noise, every = self.normals()[1], {}
        for i, output in enumerate(self.outputs):
            here, days = self.which == i, self.days_of(output)
            true = f[:, here]
            y = jnp.asarray(self.residuals[output].sample(noise[:, here], true, theta[output]))
            sampled = np.isin(days, self.sampling)
            scheduled = Curves(days[sampled], true[:, sampled], y[:, sampled])
            every[output] = Curves(days, true, y), scheduled
        return every

    def log_likelihoods(
        self, f: Float[Array, "patient time"], theta: Mapping[str, Theta]
    ) -> Float[Array, " term"]:
        """ln likelihood of each summary as if alone, and last the term of their dependence.

        Args:
            f: true concentrations of the virtual patients at `days`, of the outputs `which`, shape
                (S, T).
            theta: parameters of the residual model of each output.

        Returns:
            Shape (summaries + 1,); the sum is the joint ln likelihood.
        """
        every = self.curves(f, theta)
        terms, margins, values, sizes = [], [], [], []
        for summary in self.summaries:
            curves = every[summary.output][summary.metric in SAMPLED]
            residual, own = self.residuals[summary.output], theta[summary.output]
            if summary.metric == "tmax":
                terms.append(peak_day(summary, curves.t, curves.f, residual, own))
                continue
            q = quantity(summary.metric, summary.time, summary.lloq, curves, residual, own)
            if summary.metric == "detectable":
                terms.append(count(summary, q))
                continue
            margin = margin_of(summary, q)
            terms.append(margin.log_prob)
            margins.append(margin)
            values.append(q)
            sizes.append(summary.n)
        tie: float | Array = 0.0
        if self.dependence and len(margins) > 1:
            tie = log_copula(margins, values, sizes)
        return jnp.stack([*terms, jnp.asarray(tie, float)])


def needed_for_ranges(summaries: Sequence[CohortSummary]) -> int:
    """Virtual patients that the fitted ranges of many patients need; a power of two, or 0."""
    sizes = [f.n for f in summaries if f.interval == "range" and f.use == "fit"]
    largest = max((n for n in sizes if n > FEW_FOR_RANGES), default=0)
    return min(2 ** math.ceil(math.log2(PER_PATIENT * largest)), MOST_FOR_RANGES) if largest else 0


@lru_cache(maxsize=64)
def virtual_normals(size: int, dims: int) -> np.ndarray:
    """Sobol points as standard normals, shape (size, dims), always the same."""
    points = scipy.stats.qmc.Sobol(dims, scramble=True, rng=np.random.default_rng(7)).random(size)
    z = scipy.stats.norm.ppf(np.clip(points, 1e-9, 1 - 1e-9))
    standard: np.ndarray = (z - z.mean(0)) / z.std(0)
    return standard


def bounded_scores(q: Quantity) -> Float[Array, " patient"]:
    """The patients' scores of a quantity, unit length; far tails are bent back to 3 SDs.

    A correlation of logs would hang on the one virtual patient whose peak comes months late. A
    patient in whom the quantity is hardly defined stands at the mean.
    """
    mean = (q.weight @ q.x) / jnp.sum(q.weight)
    x = mean + q.weight * (q.x - mean)
    scale = jnp.mean(jnp.sqrt((x - mean) ** 2 + 1e-12)) * math.sqrt(math.pi / 2)
    z = 3 * jnp.tanh((x - mean) / (3 * scale))
    z = z - jnp.mean(z)
    return z / jnp.sqrt(jnp.sum(z**2) + 1e-12)


def log_copula(
    margins: Sequence[Margin], values: Sequence[Quantity], sizes: Sequence[int]
) -> Array:
    """ln density of the Gaussian copula that ties the statistics of one cohort."""
    x = jnp.stack([bounded_scores(q) for q in values])
    rho = x @ x.T  # a Gram matrix, so positive definite
    block = np.repeat(np.arange(len(margins)), [m.scores.shape[0] for m in margins])
    c = jnp.concatenate([jnp.asarray(m.hermite) for m in margins])
    n = np.asarray(sizes, float)[block]
    overlap = np.sqrt(np.minimum.outer(n, n) / np.maximum.outer(n, n))
    power = rho[block][:, block][..., None] ** np.arange(1, HERMITE_ORDER + 1)
    r = overlap * jnp.einsum("am,bm,abm->ab", c, c, power)
    same = block[:, None] == block[None, :]
    r = jnp.where(same, np.eye(len(block)), 0.99 * r)
    z = jnp.clip(jnp.concatenate([m.scores for m in margins]), -6.0, 6.0)
    chol = jnp.linalg.cholesky(r)
    white = jax.scipy.linalg.solve_triangular(chol, z, lower=True)
    return -jnp.sum(jnp.log(jnp.diagonal(chol))) - 0.5 * (white @ white - z @ z)


def check_summary(summary: CohortSummary, sampling: Sequence[float]) -> None:
    """Refuse a summary that has no likelihood, naming what to do about it."""
    why = no_likelihood(summary.metric, summary.statistic, summary.interval)
    if why:
        raise FitError(
            f'{summary.label}: {why}. Set its `use` to "check" to keep it out of the fit and '
            "compare it afterwards."
        )
    if summary.metric == "detectable" and not math.isfinite(summary.lloq):
        raise FitError(
            f"{summary.label}: a count of detectable patients needs an `lloq` or a `threshold`."
        )
    if summary.metric in SAMPLED and len(sampling) < 3:
        raise FitError(
            f"{summary.label}: {summary.metric} depends on when samples were taken; give the "
            "nominal sampling days of the study (`sampling`), at least three from the infusion on, "
            "and say if they are assumed."
        )
    if summary.metric == "auc" and not any(math.isclose(summary.time, t) for t in sampling):
        raise FitError(
            f"{summary.label}: the AUC ends on day {summary.time:g}, which must be one of the "
            f"sampling days {', '.join(f'{t:g}' for t in sampling)}."
        )
