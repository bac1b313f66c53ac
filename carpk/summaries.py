"""Likelihood of published cohort summaries.

A published "median peak 48,692 (n = 97)" is a statistic of n patients drawn from a population. Its
likelihood here is that of this statistic, never that of a typical patient: a cohort's median curve
is flatter than any patient's. The population is represented by S virtual patients at fixed
quasi-random positions (Sobol) in the space of random effects and assay noise, so the likelihood is
smooth and repeatable.

**Margins.** With F the population's distribution of the quantity:

- quantiles (median, quartiles, range): order statistics of n draws. U_k = F(y_k) has a Dirichlet
  density with ranks r_k = 1 + p_k (n - 1) (quantiles as R's type 7, the default of most software;
  where a quantile lies between two patients, its true SD is a few percent smaller: 4 % at n = 8).
  For a level at a day F is the mixture F(y) = mean_s Phi((ln y - ln f_s) / sigma), exact given the
  virtual patients; for the highest of several samples the product of such terms; for other
  quantities a smoothed distribution of the virtual patients' values.
- geometric mean and geometric CV: mean and variance of n logs; normal, and chi-square with degrees
  of freedom adjusted for the population's kurtosis.
- mean and SD: of n draws from a log-normal, whose logarithm has the population's mean and SD; the
  joint distribution of (ln mean, ln sqrt(ln(1 + SD²/mean²))) is tabulated by simulation once per n.
- counts: binomial; median Tmax: the probability that the middle patients peak on that sampling day.

**Dependence.** Statistics of one cohort come from the same patients, so their product would count
these patients several times. The statistics are therefore tied by a Gaussian copula: each is a
mean over patients of a function of the patient's normal score, with known Hermite coefficients c,
so the correlation of statistics a and b is sum_m c_am c_bm rho^m (Mehler), rho being the
correlation of the two quantities between virtual patients, times sqrt(n_small / n_large) where
one was reported for fewer patients. Counts and Tmax are taken as independent of the rest.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.special as jsp
import jax.scipy.stats as jst
import numpy as np
import scipy.special
import scipy.stats

from carpk.assay import Residual, Theta
from carpk.errors import FitError

HERMITE_ORDER = 10
KERNEL = 0.25  # bandwidth of the smoothed distribution, in SDs of ln(quantity)
SOFT_MAX = 0.1  # softness of "the highest sample" and "is quantifiable", in ln(level)
SOFT_FIT = 0.01  # softness of "the best adjusted R²"
PEAK_SCORES = np.linspace(-2.6, 3.7, 8)  # of the highest sample, around the highest true level
SAME_DAY = 1e-6  # days


class Fact(NamedTuple):
    """One published statistic of one cohort, as it enters the likelihood.

    Attributes:
        metric: level, cmax, tmax, auc, t_half or detectable.
        time: day of a level, last day of an AUC; nan otherwise.
        statistic: "median", "geometric mean", "mean" or "count".
        value: the statistic.
        low, high: the interval, where `interval` is "IQR" or "range".
        interval: "IQR", "range", "CV%", "SD" or "".
        spread: geometric CV in percent, or SD.
        n: patients.
        lloq: lower limit of quantification, nan where unknown.
        use: "fit", "value" (without its interval) or "check" (outside the likelihood).
        label: for messages.
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


SUPPORTED = ("level", "cmax", "tmax", "auc", "t_half", "detectable")
NEEDS_SAMPLING = ("cmax", "tmax", "auc", "t_half")


# ---------------------------------------------------------------------------------------------
# Quantities of the virtual patients
# ---------------------------------------------------------------------------------------------


class Distribution(NamedTuple):
    """Distribution function, its complement and density of a quantity, at K values.

    Shape (S, K) given each virtual patient; (K,), as logs, over the population.
    """

    cdf: Any
    sf: Any
    pdf: Any


TINY = 1e-300


def normal(z: Any, log_slope: Any = 0.0) -> Distribution:
    """The standard normal at z, with density per unit of a variable of which ln dz/dy is given."""
    tail = 0.5 * jsp.erfc(jnp.abs(z) / math.sqrt(2))
    left = z < 0
    pdf = jnp.exp(-0.5 * z**2 + log_slope) / math.sqrt(2 * math.pi)
    return Distribution(jnp.where(left, tail, 1 - tail), jnp.where(left, 1 - tail, tail), pdf)


class Curves(NamedTuple):
    """Virtual patients' curves at the sampling days.

    Attributes:
        t: sampling days, shape (J,).
        f: true levels, shape (S, J).
        y: measured levels, shape (S, J).
    """

    t: Any
    f: Any
    y: Any


def log1mexp(x: Any) -> Any:
    """ln(1 - e^x) for x < 0, finite gradient included."""
    x = jnp.minimum(x, -1e-300)
    near = x > -0.693
    return jnp.where(
        near,
        jnp.log(-jnp.expm1(jnp.where(near, x, -1.0))),
        jnp.log1p(-jnp.exp(jnp.where(near, -1.0, x))),
    )


def _ln(y: Any) -> Any:
    return jnp.log(jnp.maximum(y, 1e-300))


def auc(curves: Curves, stop: float) -> Any:
    """ln AUC from day 0 to `stop` of each virtual patient's samples, linear-up/log-down.

    Samples before day 0 do not enter; the level on day 0 is 0 unless it was sampled.
    """
    inside = (curves.t >= 0) & (curves.t <= stop)
    t = jnp.concatenate([jnp.zeros(1), curves.t[inside]])
    c = jnp.concatenate([jnp.zeros_like(curves.y[:, :1]), curves.y[:, inside]], axis=1)
    left, right = c[:, :-1], c[:, 1:]
    falls = right < left
    ratio = jnp.where(falls, left / jnp.where(falls, right, 1.0), 2.0)
    mean = jnp.where(falls, (left - right) / jnp.log(ratio), (left + right) / 2)
    return _ln(jnp.sum(mean * jnp.diff(t), axis=1))


def log_half_life(curves: Curves, lloq: float) -> tuple[Any, Any]:
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

    def tail(x: Any) -> Any:
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
    usable = enough * counts * after * jax.nn.sigmoid(rate / 5e-4)
    weights = jax.nn.softmax(adjusted / SOFT_FIT + jnp.log(usable + 1e-30), axis=1)
    ln_half = jnp.log(math.log(2) / jnp.maximum(rate, 1e-4))
    return jnp.sum(weights * ln_half, axis=1), jnp.max(usable, axis=1)


class Quantity(NamedTuple):
    """One quantity of every virtual patient.

    Attributes:
        x: its measured value on the log scale, shape (S,).
        weight: 1, or less where the quantity is hardly defined, shape (S,).
        conditional: y (K,) -> Distribution, or None: smoothed from x.
    """

    x: Any
    weight: Any
    conditional: Callable[[Any], Distribution] | None


def quantity(
    metric: str, time: float, lloq: float, curves: Curves, residual: Residual, theta: Theta
) -> Quantity:
    """The quantity that a fact is about, for every virtual patient."""
    ones = jnp.ones(curves.f.shape[0])
    if metric in ("level", "detectable"):
        day = int(np.flatnonzero(np.asarray(curves.t) == time)[0])
        f = curves.f[:, day, None]

        def at_day(y: Any) -> Distribution:
            return normal(*residual.standardize(y[None, :], f, theta))

        return Quantity(_ln(curves.y[:, day]), ones, at_day)
    if metric == "cmax":

        def highest(y: Any) -> Distribution:
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
    raise FitError(f"The metric {metric!r} has no likelihood; known are {', '.join(SUPPORTED)}.")


def moments(q: Quantity) -> tuple[Any, Any, Any]:
    """Mean, variance and excess kurtosis of the log quantity between patients."""
    w = q.weight / jnp.sum(q.weight)
    mean = w @ q.x
    d = q.x - mean
    var = w @ d**2 + 1e-6
    return mean, var, (w @ d**4) / var**2 - 3


def population_distribution(q: Quantity, y: Any) -> Distribution:
    """ln F, ln(1 - F) and ln density of the quantity over the population, at y (K,)."""
    if q.conditional is None:
        mean, var, _ = moments(q)
        h = KERNEL * jnp.sqrt(var)
        x = mean + (q.x - mean) * math.sqrt(1 - KERNEL**2)  # so that the variance stays the same
        ln_y = jnp.log(y)[None, :]
        each = normal((ln_y - x[:, None]) / h, -jnp.log(h) - ln_y)
    else:
        each = q.conditional(y)
    w = q.weight / jnp.sum(q.weight)
    return Distribution(*(jnp.log(w @ part + TINY) for part in each))


# ---------------------------------------------------------------------------------------------
# Margins: ln density, normal scores and Hermite coefficients of one published statistic
# ---------------------------------------------------------------------------------------------


class Margin(NamedTuple):
    """ln likelihood of one block of statistics, and what ties it to the others.

    Attributes:
        log_prob: scalar.
        scores: normal scores of the k statistics of the block, independent of each other.
        hermite: coefficients of each score's mean over patients, shape (k, HERMITE_ORDER).
    """

    log_prob: Any
    scores: Any
    hermite: Any


def ranks(probabilities: Sequence[float], n: int) -> np.ndarray:
    """Ranks of sample quantiles among n order statistics, R's type 7: 0 -> 1, 1 -> n."""
    return 1 + np.asarray(probabilities) * (n - 1)


def log_order_statistics(u: Distribution, rank: np.ndarray, n: int) -> Any:
    """ln density of the order statistics with these (real, ascending) ranks among n draws.

    With F(y_k) = U_k, the spacings (U_1, U_2 - U_1, ..., 1 - U_K) are Dirichlet distributed with
    parameters (r_1, r_2 - r_1, ..., n + 1 - r_K).
    """
    a = np.diff(np.concatenate([[0.0], rank, [n + 1.0]]))
    constant = scipy.special.gammaln(n + 1) - scipy.special.gammaln(a).sum()
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


def order_scores(u: Distribution, rank: np.ndarray, n: int) -> Any:
    """Independent normal scores of the order statistics, each given those below it."""
    a = np.diff(np.concatenate([[0.0], rank, [n + 1.0]]))
    rest = np.cumsum(a[::-1])[::-1]
    cdf = jnp.exp(u.cdf)
    below = jnp.concatenate([jnp.zeros(1), cdf[:-1]])
    share = jnp.clip((cdf - below) / jnp.maximum(1 - below, 1e-12), 1e-9, 1 - 1e-9)
    return beta_score(share, a[:-1], rest[1:])


def beta_score(x: Any, a: Any, b: Any) -> Any:
    """Normal score of a Beta(a, b) variable: Paulson (1942) Ann Math Stat 13:233-235.

    The cube root of the matching F ratio is nearly normal: between the 10 % and the 90 % point
    the scores are within 0.04 of the exact ones for a, b >= 1; farther out they fall short of
    them by up to 0.3 (1 %, a = 1). They serve the dependence only; margins are exact.
    """
    w = jnp.cbrt(x * b / ((1 - x) * a))
    u, v = 1 / (9 * a), 1 / (9 * b)
    return ((1 - v) * w - (1 - u)) / jnp.sqrt(v * w**2 + u)


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


def quantiles(fact: Fact, q: Quantity) -> Margin:
    """Median, alone or with quartiles or range."""
    ends = {"IQR": (0.25, 0.75), "range": (0.0, 1.0)}.get(fact.interval)
    p = (0.5,) if ends is None else (ends[0], 0.5, ends[1])
    y = [fact.value] if ends is None else [fact.low, fact.value, fact.high]
    u = population_distribution(q, jnp.stack([jnp.asarray(v, float) for v in y]))
    rank = ranks(p, fact.n)
    return Margin(
        log_order_statistics(u, rank, fact.n),
        order_scores(u, rank, fact.n),
        order_hermite(tuple(rank.tolist()), fact.n),
    )


def log_moments(fact: Fact, q: Quantity) -> Margin:
    """Geometric mean, alone or with its geometric CV: mean and variance of n logs."""
    mean, var, kurtosis = moments(q)
    n = fact.n
    z = (jnp.log(fact.value) - mean) / jnp.sqrt(var / n)
    hermite = np.eye(2, HERMITE_ORDER)
    of_mean = jst.norm.logpdf(z) - 0.5 * jnp.log(var / n)
    if fact.interval != "CV%":
        return Margin(of_mean, z[None], hermite[:1])
    s2 = jnp.log1p((fact.spread / 100) ** 2)
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


class MomentTable(NamedTuple):
    """Sampling distribution of (a, b) = (ln mean - mu, ln tau-hat) of n draws exp(mu + tau Z).

    tau-hat = sqrt(ln(1 + SD²/mean²)). Columns follow ln tau.
    """

    ln_tau: np.ndarray
    mean: np.ndarray  # (grid, 2); the second less ln tau
    sd: np.ndarray  # (grid, 2)
    corr: np.ndarray  # (grid,)
    hermite: np.ndarray  # (grid, 2, HERMITE_ORDER)


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
    ln_tau = np.linspace(math.log(0.05), math.log(3.0), 40)
    mean, sd, corr, hermite = [], [], [], np.zeros((len(ln_tau), 2, HERMITE_ORDER))
    for g, tau in enumerate(np.exp(ln_tau)):
        x = np.exp(tau * z)
        m, s = x.mean(1), x.std(1, ddof=1)
        ab = np.stack([np.log(m), np.log(np.sqrt(np.log1p((s / m) ** 2)))])
        mean.append([ab[0].mean(), ab[1].mean() - np.log(tau)])
        sd.append(ab.std(1))
        corr.append(np.corrcoef(ab)[0, 1])
        hermite[g, :, :4] = np.corrcoef(ab, h)[:2, 2:]
    return MomentTable(ln_tau, np.array(mean), np.array(sd), np.array(corr), hermite)


def raw_moments(fact: Fact, q: Quantity) -> Margin:
    """Mean, alone or with its SD, of a quantity that is about log-normal between patients."""
    mu, var, _ = moments(q)
    table = moment_table(fact.n)
    ln_tau = 0.5 * jnp.log(var)
    x = jnp.clip(ln_tau, table.ln_tau[0], table.ln_tau[-1])

    def at(column: np.ndarray) -> Any:
        return jnp.interp(x, table.ln_tau, column)

    sd_a = at(table.sd[:, 0])
    za = (jnp.log(fact.value) - mu - at(table.mean[:, 0])) / sd_a
    of_mean = jst.norm.logpdf(za) - jnp.log(sd_a)
    hermite_a = jnp.stack([at(table.hermite[:, 0, m]) for m in range(HERMITE_ORDER)])
    if fact.interval != "SD":
        return Margin(of_mean, za[None], hermite_a[None])
    observed = 0.5 * jnp.log(jnp.log1p((fact.spread / fact.value) ** 2))
    r, sd_b = at(table.corr), at(table.sd[:, 1])
    rest = jnp.sqrt(1 - r**2)
    zb = ((observed - ln_tau - at(table.mean[:, 1])) / sd_b - r * za) / rest
    of_sd = jst.norm.logpdf(zb) - jnp.log(sd_b * rest)
    hermite_b = jnp.stack([at(table.hermite[:, 1, m]) for m in range(HERMITE_ORDER)])
    hermite = jnp.stack([hermite_a, (hermite_b - r * hermite_a) / rest])
    return Margin(of_mean + of_sd, jnp.stack([za, zb]), hermite)


def count(fact: Fact, q: Quantity) -> Any:
    """ln probability that `value` of n patients are at or above the LLOQ on that day."""
    at_limit = population_distribution(q, jnp.asarray([fact.lloq], float))
    k, n = fact.value, fact.n
    constant = jsp.gammaln(n + 1.0) - jsp.gammaln(k + 1.0) - jsp.gammaln(n - k + 1.0)
    return constant + k * at_limit.sf[0] + (n - k) * at_limit.cdf[0]


def peak_day_shares(f: Any, residual: Residual, theta: Theta) -> Any:
    """Share of patients whose highest sample is that of each sampling day.

    With y the highest measured level and z its score around the highest true one, sample j is the
    highest with probability integral p_j(y) prod_{k != j} P(y_k < y) dy/dz dz, here by the
    trapezoidal rule: to 5e-4 given the virtual patients.

    Args:
        f: true levels of the virtual patients, shape (S, J).
        residual: residual model.
        theta: its parameters.

    Returns:
        Shape (J,), adding up to 1.
    """
    top, z = jnp.max(f, axis=1), jnp.asarray(PEAK_SCORES)[:, None]
    y = residual.sample(z, top, theta)  # (Q, S)
    _, slope = residual.standardize(y, top, theta)
    each = normal(*residual.standardize(y[None], f.T[:, None, :], theta))  # (J, Q, S)
    below = each.cdf + TINY
    highest = jnp.exp(jnp.sum(jnp.log(below), axis=0) - slope)
    share = jnp.sum(each.pdf / below * highest, axis=(1, 2))
    return share / jnp.sum(share)


def median_peak_day(fact: Fact, days: np.ndarray, f: Any, residual: Residual, theta: Theta) -> Any:
    """ln probability that the median of n observed peak days is the published one.

    A peak is observed on a sampling day. So the median is a sampling day, unless n is even and it
    lies halfway between two: then as many patients peaked up to the one as from the other on. A
    number that is neither stands for the sampling day next to it.
    """
    share = jnp.maximum(peak_day_shares(f, residual, theta), TINY)
    distance = jnp.abs(days - fact.value)
    nearest = distance <= jnp.min(distance) + SAME_DAY
    parts = [
        jnp.log(jnp.sum(jnp.where(where, share, 0.0)) + TINY)
        for where in (~nearest & (days < fact.value), nearest, ~nearest & (days > fact.value))
    ]
    half = np.arange((fact.n - 1) // 2 + 1.0)  # fewer than half are below the median, and above
    under, over = half[:, None], half[None, :]
    at = fact.n - under - over
    ways = scipy.special.gammaln(fact.n + 1) - sum(
        scipy.special.gammaln(k + 1) for k in (under, at, over)
    )
    terms = ways + under * parts[0] + at * parts[1] + over * parts[2]
    day = jsp.logsumexp(terms)
    if fact.n % 2:
        return day
    m = fact.n // 2
    upto, since = jnp.log(jnp.cumsum(share)), jnp.log(jnp.cumsum(share[::-1])[::-1])

    def with_next(x: Any) -> Any:
        """ln (e^{m x_i} - e^{m x_{i-1}}), x rising from -inf: m of m up to i, not all before it."""
        before = jnp.concatenate([jnp.full(1, 2 * math.log(TINY)), x[:-1]])
        return m * x + log1mexp(m * (before - x))

    halves = with_next(upto)[:-1] + with_next(since[::-1])[::-1][1:]
    ways_of_halves = scipy.special.gammaln(fact.n + 1) - 2 * scipy.special.gammaln(m + 1)
    between = jnp.abs((days[1:] + days[:-1]) / 2 - fact.value) <= SAME_DAY
    found = jnp.any(between)
    split = ways_of_halves + jsp.logsumexp(halves, where=between | ~found)
    return jnp.where(found, split, day)


MARGINS = {"median": quantiles, "geometric mean": log_moments, "mean": raw_moments}


# ---------------------------------------------------------------------------------------------
# One cohort
# ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class CohortLikelihood:
    """Joint likelihood of everything published about one cohort and one analyte.

    Attributes:
        facts: the statistics.
        sampling: nominal sampling days behind Cmax, Tmax, AUC and half-life.
        residual: residual model.
        virtual_patients: S; a power of two.
        random_effects: R.
        dependence: False multiplies the margins as if every statistic had its own patients
            (composite likelihood): kept to show what that does to the width of intervals.
    """

    facts: tuple[Fact, ...]
    sampling: tuple[float, ...]
    residual: Residual
    virtual_patients: int
    random_effects: int
    dependence: bool = True

    def __post_init__(self) -> None:
        for fact in self.facts:
            check_fact(fact, self.sampling)

    @property
    def days(self) -> np.ndarray:
        """Every day at which the curves of the virtual patients are needed, ascending."""
        level = [f.time for f in self.facts if f.metric in ("level", "detectable")]
        return np.unique(np.array([*level, *self.sampling], float))

    def normals(self) -> tuple[np.ndarray, np.ndarray]:
        """Standard-normal random effects (S, R) and assay noise (S, days)."""
        dims = self.random_effects + len(self.days)
        z = virtual_normals(self.virtual_patients, dims)
        return z[:, : self.random_effects], z[:, self.random_effects :]

    def log_likelihoods(self, f: Any, theta: Theta) -> Any:
        """ln likelihood of each fact as if alone, and last the term of their dependence.

        Args:
            f: true levels of the virtual patients at `days`, shape (S, days).
            theta: parameters of the residual model.

        Returns:
            Shape (facts + 1,); the sum is the joint ln likelihood.
        """
        days = self.days
        y = self.residual.sample(self.normals()[1], f, theta)
        everything = Curves(days, f, y)
        sampled = np.isin(days, self.sampling)
        scheduled = Curves(days[sampled], f[:, sampled], y[:, sampled])
        terms, margins, values, sizes = [], [], [], []
        for fact in self.facts:
            curves = scheduled if fact.metric in NEEDS_SAMPLING else everything
            if fact.metric == "tmax":
                terms.append(median_peak_day(fact, curves.t, curves.f, self.residual, theta))
                continue
            q = quantity(fact.metric, fact.time, fact.lloq, curves, self.residual, theta)
            if fact.statistic == "count":
                terms.append(count(fact, q))
                continue
            margin = MARGINS[fact.statistic](fact, q)
            terms.append(margin.log_prob)
            margins.append(margin)
            values.append(q)
            sizes.append(fact.n)
        tie = 0.0
        if self.dependence and len(margins) > 1:
            tie = log_copula(margins, values, sizes)
        return jnp.stack([*terms, jnp.asarray(tie, float)])


@lru_cache(maxsize=64)
def virtual_normals(size: int, dims: int) -> np.ndarray:
    """Sobol points as standard normals, shape (size, dims), always the same."""
    points = scipy.stats.qmc.Sobol(dims, scramble=True, rng=np.random.default_rng(7)).random(size)
    z = scipy.stats.norm.ppf(np.clip(points, 1e-9, 1 - 1e-9))
    return (z - z.mean(0)) / z.std(0)


def bounded_scores(q: Quantity) -> Any:
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


def log_copula(margins: Sequence[Margin], values: Sequence[Quantity], sizes: Sequence[int]) -> Any:
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


def check_fact(fact: Fact, sampling: Sequence[float]) -> None:
    """Refuse a fact that has no likelihood, naming what to do about it."""
    advice = 'Set its `use` to "check" to keep it out of the fit and compare it afterwards.'
    if fact.metric not in SUPPORTED:
        raise FitError(
            f"{fact.label}: the metric {fact.metric!r} has no likelihood; known are "
            f"{', '.join(SUPPORTED)}. {advice}"
        )
    if (fact.statistic == "count") != (fact.metric == "detectable"):
        raise FitError(
            f"{fact.label}: a count is of patients with a detectable level, but this is the "
            f"{fact.statistic} of {fact.metric!r}. {advice}"
        )
    if fact.metric == "detectable" and not math.isfinite(fact.lloq):
        raise FitError(f"{fact.label}: a count of detectable patients needs an `lloq`.")
    if fact.metric == "tmax" and fact.statistic != "median":
        raise FitError(
            f"{fact.label}: Tmax has a likelihood for its median only, not for its "
            f"{fact.statistic}. {advice}"
        )
    if fact.metric in NEEDS_SAMPLING and len(sampling) < 3:
        raise FitError(
            f"{fact.label}: {fact.metric} depends on when samples were taken; give the nominal "
            "sampling days of the study (`sampling`), at least three, and say if they are assumed."
        )
    if fact.metric == "auc" and not any(math.isclose(fact.time, t) for t in sampling):
        raise FitError(
            f"{fact.label}: the AUC ends on day {fact.time:g}, which must be one of the sampling "
            f"days {', '.join(f'{t:g}' for t in sampling)}."
        )
