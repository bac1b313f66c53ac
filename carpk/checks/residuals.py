"""Residuals and random effects of a fit: NPDE, goodness of fit, and deviations of patients."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from carpk._late import late
from carpk._tables import as_frame
from carpk.checks.observed import Observed, bound_of, middle, population_draws
from carpk.errors import FitError
from carpk.inference.result import Fit
from carpk.population.bound import BoundPopulation
from carpk.population.random_effects import PATIENT, eta_name, omega_name

if TYPE_CHECKING:
    import pandas as pd
    from jax import Array
    from matplotlib.figure import Figure

    from carpk._types import Values

PER_SAMPLE = 5  # replicates per sample of a patient, for a covariance that can be relied on
SHAPIRO = 5000  # observations up to which the Shapiro-Wilk test is valid
DOUBTFUL = 0.05  # adjusted p below which NPDE are called a departure from the standard normal
SHRUNK = 0.3  # shrinkage beyond which plots of random effects mislead

# --- NPDE -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class NPDE:
    """Normalised prediction distribution errors of one output.

    Attributes:
        table: one row per observation: patient, time, output, DV, CENS (1 below the LLOQ), PRED,
            NPD (normalised prediction discrepancy, not decorrelated) and NPDE.
        output, unit: what was checked.
        replicates, failed: replicated data sets; those left out as they were not finite.
        source: "posterior" or "prior".
        data: name of the data set.
    """

    table: pd.DataFrame
    output: str
    unit: str
    replicates: int
    failed: int
    source: str
    data: str

    @property
    def tests(self) -> pd.DataFrame:
        """Tests of the NPDE against the standard normal: `tests_of_npde` of their finite values."""
        return tests_of_npde(self.table["NPDE"].to_numpy())

    def plot(self) -> Figure:
        """QQ plot, histogram, NPDE against time and PRED."""
        figure: Figure = late("carpk.plot.npde")(self)
        return figure

    def __repr__(self) -> str:
        tests, t = self.tests, self.table
        each = dict(zip(tests.index, tests["p"].to_numpy(float), strict=True))
        p = each.pop("all three")
        if not np.isfinite(p):
            verdict = "Too few observations to test them."
        elif p < DOUBTFUL:
            worst = min(each, key=lambda name: each[name])
            verdict = (
                f"NPDE depart from the standard normal, above all in their {worst} (adjusted p = "
                f"{p:.2g}): look where, with .plot()."
            )
        else:
            verdict = f"No departure from the standard normal was found (adjusted p = {p:.2g})."
        lines = [
            verdict,
            f"NPDE of {self.output} [{self.unit}]: {self.data}, {len(t)} observations of "
            f"{t['patient'].nunique()} patients, against {self.replicates} data sets of new "
            f"patients from the {self.source}.",
        ]
        if self.failed:
            lines.append(f"  {self.failed} draws without finite concentrations are left out.")
        if (t["CENS"] == 1).any():
            lines.append(
                f"  {(t['CENS'] == 1).mean():.0%} are below the LLOQ; theirs are drawn at random "
                "from what the model has below the LLOQ."
            )
        if self.source == "posterior":
            lines.append("  The same data were fitted, which makes the tests mild.")
        shown = tests.to_string(float_format="{:.3g}".format, na_rep="", index_names=False)
        return "\n".join([*lines, shown])


def npde(
    fit: Fit | BoundPopulation, *, output: str | None = None, replicates: int = 1000, seed: int = 0
) -> NPDE:
    """Normalised prediction distribution errors, decorrelated within patients.

    Reference: Brendel et al. (2006) Pharm Res 23:2036-2049, doi:10.1007/s11095-006-9067-5; Comets
    et al. (2008) Comput Methods Programs Biomed 90:154-166, doi:10.1016/j.cmpb.2007.12.002. A
    patient's concentrations and their replicates are centred and decorrelated by the Cholesky
    factor of the replicates' covariance, in the order of time; the share of replicates below the
    observed one is the prediction distribution error, and its normal score the NPDE: standard
    normal, without any trend, if the model is right. NPD are the same without decorrelation.

    With a residual model on the log scale (`LogNormal`, `StudentT`) this is done there, where
    covariances describe what is skewed on the natural one. Concentrations below the LLOQ are
    treated as by Nguyen et al. (2012, doi:10.1007/s10928-012-9264-2): the prediction discrepancy is
    drawn uniformly between 0 and the predicted probability of a concentration below the LLOQ, the
    concentration follows from the replicates' distribution, and replicates below the LLOQ are drawn
    anew in the same way. Counts, and yes and no, are spread uniformly up to the next whole number.

    Args:
        fit: a fit; or a population model bound to data (`population.bind(data)`), whose prior is
            checked.
        output: of several endpoints, each decorrelated by itself; the first unless given.
        replicates: data sets, each of new patients at one draw of the posterior.
        seed: same seed, same replicates and imputed values.
    """
    who = "checks.npde"
    seen = Observed.of(bound_of(fit), output, who)
    most = int(np.bincount(seen.patient).max())
    theta = population_draws(fit, replicates, seed, who)
    y, failed = seen.replicates(theta, seed, who)
    if len(y) < PER_SAMPLE * most:
        raise FitError(
            f"{who}: {len(y)} replicates are too few for the covariance of {most} samples of one "
            f"patient; use replicates={PER_SAMPLE * most} or more."
        )
    rng = np.random.default_rng(seed)
    value, y, imputed = impute(seen, y, rng)
    residual = seen.bound.population.residual_of(seen.output)
    if residual.on_log:
        value, y = np.log(value), np.log(y)
    if residual.discrete:  # ties are broken at random, so that the errors are continuous
        value, y = value + rng.uniform(size=value.shape), y + rng.uniform(size=y.shape)
    discrepancy = np.where(np.isfinite(imputed), imputed, np.mean(y < value, axis=0))
    error = np.empty(len(value))
    for i in np.unique(seen.patient):
        own = seen.patient == i
        one, many = decorrelated(value[own], y[:, own])
        error[own] = np.mean(many < one, axis=0)
    each = as_frame(
        {
            "patient": seen.labels,
            "time": seen.time,
            "output": seen.output,
            "DV": seen.value,
            "CENS": seen.censored,
            "PRED": seen.population_prediction(middle(theta)),
            "NPD": _normal_score(discrepancy, len(y)),
            "NPDE": _normal_score(error, len(y)),
        }
    )
    source = "prior" if isinstance(fit, BoundPopulation) else "posterior"
    return NPDE(each, seen.output, seen.unit, len(y), failed, source, seen.bound.data.name)


def impute(
    seen: Observed, y: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Imputed censored observations: (observed, replicates, prediction discrepancies).

    The discrepancies are NaN where nothing was imputed. A replicate below the LLOQ takes the
    concentration of another one of the same sample below the LLOQ, at random: as for the observed
    ones, nothing but the limit is known of it. Concentrations above the range of the assay are
    treated in the same way.
    """
    value, y, drawn = seen.value.copy(), y.copy(), np.full(len(seen.value), np.nan)
    limits = zip(seen.censored, seen.lloq, seen.upper, strict=True)
    for j, (censored, lloq, upper) in enumerate(limits):
        low, high = y[:, j] < lloq, y[:, j] > upper
        y[low, j] = rng.permutation(y[low, j])
        y[high, j] = rng.permutation(y[high, j])
        share, uniform = low.mean(), rng.uniform()
        if censored == 1:
            drawn[j] = uniform * share
            value[j] = np.quantile(y[low, j], uniform) if low.any() else lloq
        elif censored == -1:
            drawn[j] = 1 - uniform * high.mean()
            value[j] = np.quantile(y[high, j], 1 - uniform) if high.any() else value[j]
    return value, y, drawn


def decorrelated(observed: np.ndarray, replicates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One patient's concentrations (n,) and their replicates (draw, n), centred and decorrelated.

    With mean m and covariance L L' of the replicates, x becomes L^-1 (x - m).
    """
    mean = replicates.mean(axis=0)
    factor = np.linalg.cholesky(np.atleast_2d(np.cov(replicates, rowvar=False)))
    inverse = np.linalg.inv(factor).T
    return (observed - mean) @ inverse, (replicates - mean) @ inverse


def _normal_score(share: np.ndarray, draws: int) -> np.ndarray:
    """Normal scores; a share of 0 or 1 counts as half a replicate from the end."""
    score: np.ndarray = scipy.stats.norm.ppf(np.clip(share, 0.5 / draws, 1 - 0.5 / draws))
    return score


def tests_of_npde(x: np.ndarray) -> pd.DataFrame:
    """Tests of the standard normal, those of the R package npde: statistic, value, its p.

    Mean 0 by Wilcoxon's signed ranks, variance 1 by chi-square, normality by Shapiro-Wilk (beyond
    5000 observations by D'Agostino-Pearson); "all three" is the smallest p times 3 (Bonferroni).
    They take the NPDE as independent; decorrelated is a little less than that.
    """
    x = x[np.isfinite(x)]
    n = len(x)
    p = dict.fromkeys(("mean", "variance", "shape"), float("nan"))
    variance = float(np.var(x, ddof=1)) if n > 1 else float("nan")
    if n >= 3:
        chi = scipy.stats.chi2(n - 1)
        square = variance * (n - 1)
        normal = scipy.stats.shapiro if n <= SHAPIRO else scipy.stats.normaltest
        p["mean"] = float(scipy.stats.wilcoxon(x).pvalue)
        p["variance"] = float(2 * min(chi.cdf(square), chi.sf(square)))
        p["shape"] = float(normal(x).pvalue)
    p["all three"] = float(np.minimum(1.0, 3 * np.min(list(p.values()))))  # NaN stays NaN
    value = [float(np.mean(x)) if n else float("nan"), variance, float("nan"), float("nan")]
    return as_frame({"value": value, "p": list(p.values())}, labels=(None, list(p)))


# --- goodness of fit ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class GOF:
    """Predictions and residuals of every observation of one output.

    Attributes:
        table: one row per observation: patient, time, output, DV, CENS (1: below the LLOQ, which DV
            then is), LLOQ (NaN where unknown), PRED (population prediction: random effects 0,
            median of the posterior), IPRED (median of the patient's own concentration), IWRES
            (standardised residual of DV around IPRED at the median of the residual parameters; NaN
            where CENS is not 0) and NPDE, which stands for CWRES as the residual around the
            population and is drawn at random for BLQ.
        output, unit: what was checked.
        shrinkage: of the residuals, 1 - SD(IWRES).
        data: name of the data set.
    """

    table: pd.DataFrame
    output: str
    unit: str
    shrinkage: float
    data: str

    def plot(self) -> Figure:
        """DV against PRED and IPRED; NPDE and IWRES against time and prediction."""
        figure: Figure = late("carpk.plot.gof")(self)
        return figure

    def __repr__(self) -> str:
        t = self.table
        seen = t[t["CENS"] == 0]
        ratios = {k: (seen["DV"] / seen[k]).to_numpy() for k in ("PRED", "IPRED")}
        numbers = (
            "none was measured"
            if seen.empty
            else "; ".join(
                f"DV / {k}: median {np.median(x):.2f}, within a factor of 2 "
                f"{np.mean((x > 0.5) & (x < 2)):.0%}"
                for k, x in ratios.items()
            )
        )
        return (
            f"Goodness of fit of {self.output} [{self.unit}]: {self.data}, {len(t)} observations, "
            f"{(t['CENS'] == 1).sum()} below the LLOQ\n  {numbers}\n  IWRES: mean "
            f"{seen['IWRES'].mean():.2f}, SD {seen['IWRES'].std():.2f} (shrinkage "
            f"{self.shrinkage:.0%}); NPDE: mean {t['NPDE'].mean():.2f}, SD {t['NPDE'].std():.2f}"
        )


def gof(fit: Fit, *, output: str | None = None, draws: int = 1000, seed: int = 0) -> GOF:
    """Predictions and residuals of every observation, and their figure: the basic plots.

    Args:
        fit: a fit.
        output: of several endpoints; the first unless given.
        draws: of the posterior behind IPRED, and replicated data sets behind NPDE.
        seed: same seed, same answer.
    """
    bound = fit.bound
    seen = Observed.of(bound, output, "checks.gof")
    errors = npde(fit, output=output, replicates=draws, seed=seed)
    sample = {k: jnp.asarray(v) for k, v in fit.draws(draws, seed, effects=True).items()}

    def concentrations(sample: Values) -> Array:
        params, _ = bound.of_sample(sample)
        f: Array = bound.individual_predictions(params)
        return f

    every = np.asarray(jax.jit(lambda s: jax.lax.map(concentrations, s))(sample))[:, seen.place]
    ipred = np.median(every, axis=0)
    residual = bound.population.residual_of(seen.output)
    known = bound.individual.sd[seen.place]
    theta = bound.residual_theta(middle(fit.draws()), seen.output, sd=known)
    score = np.asarray(residual.standardize(jnp.asarray(seen.value), jnp.asarray(ipred), theta)[0])
    iwres = np.where(seen.censored == 0, score, np.nan)
    table = errors.table[["patient", "time", "output", "DV", "CENS", "PRED"]].copy()
    table.insert(5, "LLOQ", np.where(seen.limited, seen.lloq, np.nan))
    table["IPRED"], table["IWRES"], table["NPDE"] = ipred, iwres, errors.table["NPDE"]
    measured = iwres[np.isfinite(iwres)]
    shrinkage = 1 - float(np.std(measured, ddof=1)) if len(measured) > 1 else float("nan")
    return GOF(table, seen.output, seen.unit, shrinkage, bound.data.name)


# --- random effects -------------------------------------------------------------------------------


def eta_means(fit: Fit, who: str) -> pd.DataFrame:
    """Posterior mean of every patient's random effects: a row per patient, a column per parameter.

    The empirical Bayes estimates of the field; `Fit.effects` has their SDs as well, and the
    effects of infusions and cohorts, which are left out here.

    Args:
        who: asks, for the message of a refusal.
    """
    bound = fit.bound
    if bound.individual is None:
        raise FitError(
            f"{who}: {bound.data.name} has published cohort summaries only, so there "
            "are no random effects of patients; their spreads (omega) are in fit.summary()."
        )
    names = bound.random_effects.at(PATIENT)
    if not names:
        raise FitError(
            f"{who}: no parameter varies between patients; name some in Population(varies=...)."
        )
    each = {n: fit.posterior[eta_name(n)].mean(("chain", "draw")).to_numpy() for n in names}
    return as_frame(each, labels=("patient", bound.patients))


def shrinkage(fit: Fit) -> pd.Series:
    """1 - SD of the patients' posterior means / omega (posterior median), per parameter.

    Beyond 0.3 the data say little of single patients: plots of their random effects then hide
    relations that exist, and show some that do not (Savic and Karlsson 2009,
    doi:10.1208/s12248-009-9133-0).
    """
    means, draws = eta_means(fit, "checks.shrinkage"), fit.draws()
    values = [
        1 - float(means[name].std()) / float(np.median(draws[omega_name(str(name))]))
        for name in means
    ]
    return as_frame({"shrinkage": values}, labels=(None, list(means)))["shrinkage"]
