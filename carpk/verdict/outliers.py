"""Outlier tests: samples, patients, subgroups, LLOQ and unit errors.

Each test leaves the suspect out (externally studentized), so that an error cannot hide behind the
spread that it causes: a patient's random effect against the SD of the other patients' effects, the
most distant one after the other (Rosner's extreme studentized deviates); two groups of patients
against the best split of a normal sample; two patients of different arms against the best exchange
of labels in a normal sample; random effects against the columns of the patients table that are no
covariates; a sample against the SD of the other residuals; a patient's residuals against the other
patients'; curves against the patients' own means. Patients are compared with those of the same
cohort, arm or category of a covariate of the parameter. P values are corrected for multiplicity
(Bonferroni). Results are plain numbers, which a file can hold; `words` puts them into sentences.

The LLOQ is tested by the number of samples expected between it and the lowest measured value under
the fitted curves: if the limit is entered too low, they are missing.

Reference: Rosner (1983) Technometrics 25:165-172, doi:10.1080/00401706.1983.10487848.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jax import Array
from jax.scipy.special import log_ndtr

from carpk._compile import jit_fast_compile
from carpk._types import Values
from carpk.dataset.arrays import NEVER
from carpk.population.bound import BoundPopulation
from carpk.population.population import COHORT_INDEX
from carpk.population.random_effects import COHORT, PATIENT, covariate_effect_name, eta_name
from carpk.verdict.words import DOUBTED_EXCHANGE, Labelled, Outlier

if TYPE_CHECKING:
    import pandas as pd

NOTED = 0.003  # p below which an outlier is reported
TIED = 3  # times that the lowest value must repeat, and as many times any other value's repeats
FEWEST = 8  # samples, or patients, for a test of one of them or of two groups
SPLITS = (499, 9999)  # Monte Carlo replicates of the null distribution: a few, then many
RARE = 0.05  # p above which the few are enough
OFFSET = 0.3  # least mean residual [SDs] to be reported
FACTOR = math.log(1.25)  # least difference on a log or logit scale to be reported
HEAVY = (3.0, 4.0, 6.0, 10.0)  # degrees of freedom tried in place of a normal residual
MANY = 20  # samples, for a test of their tails or time course
DAYS, PER_DAY = (
    12,
    3,
)  # groups of sampling days that are compared, at most; samples in each, at least
FOLLOWED = 0.1  # R2 within patients below which curves and data may be unrelated
UNRELATED = 0.05  # p of the correlation above which they are
LARGEST = 50  # patients with one value on one day, above which it is no evidence of copies
WIDE = 1.5  # lowest measured value over its LLOQ, below which the limit is not tested
NAMED = 5  # reported of a kind, at most

Found: TypeAlias = list[Outlier]


def outliers(bound: BoundPopulation, samples: Values) -> dict[str, Found]:
    """Outliers by kind.

    Args:
        samples: name -> (draw, ...), the patients' random effects included; a hundred draws do.
    """
    if bound.individual is None:
        return {}
    found = {**_random_effects(bound, samples), **_of_values(bound)}
    below, gap, score, expected, curve = _scores(
        bound, {k: jnp.asarray(v) for k, v in samples.items()}
    )
    fine = np.isfinite(score).all((1, 2))
    if fine.any():
        residual, beyond = score[fine].mean(0), expected[fine].mean(0)
        found["offset"] = _offset(bound, beyond)
        found["unrelated"] = _unrelated(bound, curve[fine].mean(0))
        found |= _residuals(bound, residual, beyond) | _limits(bound, below[fine], gap[fine])
    return {kind: entries[:NAMED] for kind, entries in found.items() if entries}


def _random_effects(bound: BoundPopulation, samples: Values) -> dict[str, Found]:
    """Tests of random effects: mean 0, outlying patients, two groups, exchanged labels."""
    found: dict[str, Found] = {"shift": [], "swapped": [], "effects": [], "groups": []}
    names = [name for name in bound.random_effects.at(PATIENT) if eta_name(name) in samples]
    columns = _columns(bound, {name: np.asarray(samples[eta_name(name)]).mean(0) for name in names})
    explained = {entry["parameter"] for entry in columns if _notable(entry)}
    size = len(bound.patients)
    for name in names if size >= 4 else ():
        eta = np.asarray(samples[eta_name(name)])
        common = eta.mean(1, keepdims=True)  # uncertainty of the typical value
        mean, own = eta.mean(0), float((eta - common).var(0).mean())
        entry = partial(_entry, bound, name, len(names))
        t = mean.mean() / max(np.sqrt((mean.var(ddof=1) + own) / size), 1e-300)
        p = 2 * scipy.stats.t.sf(abs(t), size - 1)
        found["shift"].append(entry(mean.mean(), t, p, 1))
        stratum, labels = _strata(bound, name)
        lone = [
            {"patient": bound.patients[i]} | entry(away, t, p, size)
            for i, away, t, p in _distant(mean, own, stratum)
        ]
        x = mean + _stratum_effects(bound, samples, name)
        pair, away, sds, p = _swapped_pair(x, stratum) if size >= FEWEST else ((), 0.0, 0.0, 1.0)
        swap = entry(away, sds, p, 1)
        swap["patients"] = [{"patient": bound.patients[i], "of": labels[stratum[i]]} for i in pair]
        odd, far = np.zeros(0, int), swap
        if size >= FEWEST and not any(_notable(each) for each in lone):
            odd, away, sds, p = _two_groups(x, stratum)
            far = entry(away, sds, p, 1)
            far["patients"] = [
                {"patient": bound.patients[i], "of": labels[stratum[i]]} for i in odd
            ]
        if _notable(swap, DOUBTED_EXCHANGE) and not set(odd) - set(pair):
            found["swapped"].append(swap)
            both = {bound.patients[i] for i in pair}
            found["effects"] += [each for each in lone if each["patient"] not in both]
        else:
            found["effects"] += lone
            known = name in explained and not any(each["of"] for each in far.get("patients", ()))
            found["groups"] += [far] if odd.size and not known else []
    swapped = found.pop("swapped")
    told = {kind: sorted(filter(_notable, entries), key=_p) for kind, entries in found.items()}
    return told | {"swapped": swapped, "columns": sorted(filter(_notable, columns), key=_p)}


def _entry(
    bound: BoundPopulation, name: str, parameters: int, away: float, sds: float, p: float, of: int
) -> Outlier:
    """Entry on a parameter's random effects; p corrected for `parameters`, not for `of`."""
    on_log = bound.parameters[name].bounds == (0.0, np.inf)
    looked = [f"{of} patients"] * (of > 1) + [f"{parameters} parameters"] * (parameters > 1)
    used = bound.population.covariates.get(name, ())
    entry: Outlier = {
        "parameter": name,
        "away": float(away),
        "bounded": bool(np.isfinite(bound.parameters[name].bounds).any()),
        "sds": float(sds),
        "p": float(min(p * parameters, 1.0)),
        "looked": " and ".join(looked),
        "fixed": bool(bound.population.fixed),
        "columns": _unused(bound, used),
    }
    if on_log:
        entry["ratio"] = float(np.exp(np.clip(away, -50, 50)))
    return entry


def _unused(bound: BoundPopulation, used: Iterable[str]) -> list[str]:
    """Columns of the patients table that vary and are not covariates yet."""
    table = bound.data.patients.drop(columns="patient")
    return [str(c) for c in table if c not in set(used) and len(table[c].dropna().unique()) > 1]


def _notable(entry: Outlier, noted: float = NOTED) -> bool:
    """Significant, and large enough to matter.

    On a log or logit scale a factor of 1.25, the bioequivalence limit.
    """
    return entry["p"] < noted and (abs(entry["away"]) > FACTOR or not entry["bounded"])


def _columns(bound: BoundPopulation, effects: Mapping[str, np.ndarray]) -> Found:
    """Association of random effects with columns of the patients table that are no covariates.

    Spearman correlation for numbers, one-way ANOVA for categories of two patients or more. Where
    covariates are missing of a patient, without that patient.

    Args:
        effects: parameter -> means of the patients' random effects, (P,).
    """
    table, found = bound.data.patients, []
    table = table.set_index(table["patient"].astype(str)).loc[list(bound.patients)]
    for name, eta in effects.items():
        for column in _unused(bound, bound.population.covariates.get(name, ())):
            known = table[column].notna().to_numpy()
            values, y = table[column][known], eta[known]
            if len(y) < FEWEST or np.ptp(y) == 0:
                continue
            numbers = values.dtype.kind in "biuf"
            tested = _of_numbers(values.to_numpy(float), y) if numbers else _of_words(values, y)
            if tested is not None:
                p, away, ends = tested
                entry = _entry(bound, name, 1, away, 0.0, p, 1)
                found.append(entry | {"column": column, "ends": ends})
    for entry in found:
        entry["p"] = min(entry["p"] * len(found), 1.0)
        entry["looked"] = f"{len(found)} pairs of parameter and column" if len(found) > 1 else ""
    return found


def _of_numbers(x: np.ndarray, y: np.ndarray) -> tuple[float, float, list[str]] | None:
    """p of a correlation; difference of mean y between the upper and the lower half of x."""
    if np.ptp(x) == 0:
        return None
    high = x > np.median(x) if (x > np.median(x)).any() else x == x.max()
    p = scipy.stats.spearmanr(x, y).pvalue
    return float(p), float(y[high].mean() - y[~high].mean()), []


def _of_words(x: pd.Series, y: np.ndarray) -> tuple[float, float, list[str]] | None:
    """p of the ANOVA of y between categories; largest difference of means, and its categories."""
    words = x.astype(str).to_numpy()
    groups = {w: y[words == w] for w in np.unique(words) if (words == w).sum() > 1}
    if len(groups) < 2 or sum(map(len, groups.values())) < FEWEST:
        return None
    means = {w: each.mean() for w, each in groups.items()}
    ends = [max(means, key=means.__getitem__), min(means, key=means.__getitem__)]
    p = scipy.stats.f_oneway(*groups.values()).pvalue
    return float(p), float(means[ends[0]] - means[ends[1]]), ends


def _strata(bound: BoundPopulation, name: str) -> tuple[np.ndarray, list[str]]:
    """Strata of patients by cohort and categorical covariates of a parameter, and their labels."""
    columns, words = [], []
    for covariate in bound.population.covariates.get(name, ()):
        if bound.covariates[covariate].categories:
            columns.append(bound.patient_design[covariate])
            words.append([f"{covariate} {x}" for x in bound.data.covariate(covariate)])
    if name in bound.random_effects.at(COHORT) and bound.clusters:
        place = bound.patient_design[COHORT_INDEX]
        columns.append(place[:, None])
        words.append([f"cohort {bound.clusters[i]}" for i in place])
    if not columns:
        return np.zeros(len(bound.patients), int), [""]
    _, first, stratum = np.unique(
        np.hstack(columns), axis=0, return_index=True, return_inverse=True
    )
    return np.ravel(stratum), [", ".join(each[i] for each in words) for i in first]


def _distant(
    mean: np.ndarray, own: float, stratum: np.ndarray
) -> list[tuple[int, float, float, float]]:
    """(index, deviation, the same in SDs of the others, p), most distant first."""
    kinds = np.eye(stratum.max() + 1, dtype=bool)[stratum]  # (P, L)
    left, found = np.ones(len(mean), bool), []
    for _ in range(min(NAMED, len(mean) // 4)):
        count = (kinds & left[:, None]).sum(0)
        off = mean - ((mean * left) @ kinds / np.maximum(count, 1))[stratum]
        here, same = count[stratum], np.maximum(count[stratum] - 1, 1)
        free = left.sum() - 1 - ((count > 0).sum() - (here == 1))
        away = off * here / same  # from the mean of the others of the same stratum
        squares = np.sum(off[left] ** 2) - off * away  # within strata, without this one
        spread = np.sqrt((np.maximum(squares, 0) / np.maximum(free, 1) + own) * (1 + 1 / same))
        t = np.where(left & (here > 1) & (free >= 2), away / np.maximum(spread, 1e-300), 0.0)
        i = int(np.argmax(np.abs(t)))
        if t[i] == 0:
            break
        p = 2 * scipy.stats.t.sf(abs(t[i]), free[i]) * left.sum()
        left[i] = False
        found.append((i, float(away[i]), float(t[i]), float(p)))
    # masking: a second outlier hides the first
    p = np.minimum.accumulate([x[3] for x in found][::-1])[::-1]
    return [(*x[:3], float(q)) for x, q in zip(found, p, strict=True)]


def _stratum_effects(bound: BoundPopulation, samples: Values, name: str) -> np.ndarray:
    """Posterior mean of cohort and categorical covariate effects on a parameter, (P,)."""
    total = np.zeros(len(bound.patients))
    for covariate in bound.population.covariates.get(name, ()):
        if bound.covariates[covariate].categories:
            effect = np.asarray(samples[covariate_effect_name(name, covariate)]).mean(0)
            total += bound.patient_design[covariate] @ effect
    if name in bound.random_effects.at(COHORT) and bound.clusters:
        effect = np.asarray(samples[eta_name(name, COHORT)]).mean(0)
        total += effect[bound.patient_design[COHORT_INDEX]]
    return total


def _two_groups(x: np.ndarray, stratum: np.ndarray) -> tuple[np.ndarray, float, float, float]:
    """Patients in the wrong group of a two-group split, distance of the groups, in SDs, and p.

    The best split must leave less scatter than the strata; p by Monte Carlo with each stratum
    normal around its mean. With one stratum, the smaller group is given; with several, those who
    are not with the majority of their stratum.
    """
    kinds = np.eye(stratum.max() + 1)[stratum]  # (P, L)
    count = kinds.sum(0)

    def within(x: np.ndarray) -> np.ndarray:
        scatter: np.ndarray = np.sum((x - (x @ kinds / count)[:, stratum]) ** 2, axis=1)
        return scatter

    sd = np.sqrt(within(x[None])[0] / max(len(x) - len(count), 1))
    left, cut = _split(x[None])
    share = left / np.maximum(within(x[None]), 1e-300)
    rng = np.random.default_rng(0)
    for size in SPLITS:
        by_chance = (x @ kinds / count)[stratum] + sd * rng.standard_normal((size, len(x)))
        p = np.mean(np.append(_split(by_chance)[0] / within(by_chance) <= share, True))
        if p > RARE:
            break
    high = np.zeros(len(x), bool)
    high[np.argsort(x)[cut[0] :]] = True
    of_level = high @ kinds / count > 0.5
    odd = np.flatnonzero(high != of_level[stratum])
    away = x[high].mean() - x[~high].mean()
    if odd.size:
        away *= 1.0 if high[odd].mean() > 0.5 else -1.0
    return odd, float(away), float(away / max(np.sqrt(left[0] / (len(x) - 2)), 1e-300)), float(p)


def _swapped_pair(
    x: np.ndarray, stratum: np.ndarray
) -> tuple[tuple[int, ...], float, float, float]:
    """Two patients of different strata who fit better with their labels exchanged.

    The pair whose exchange leaves the least scatter within strata; p by Monte Carlo with each
    stratum normal around its mean.

    Returns:
        Their indices, their difference, the same in SDs within strata, and p; none, with p of 1,
        of one stratum.
    """
    kinds = np.eye(stratum.max() + 1)[stratum]  # (P, L)
    count = kinds.sum(0)
    if len(count) < 2:
        return (), 0.0, 0.0, 1.0

    def within(x: np.ndarray) -> np.ndarray:
        scatter: np.ndarray = np.sum((x - (x @ kinds / count)[:, stratum]) ** 2, axis=1)
        return scatter

    middle, scatter = (x @ kinds / count)[stratum], within(x[None])[0]
    sd = np.sqrt(scatter / max(len(x) - len(count), 1))
    gain, (pair,) = _best_exchange(x[None], stratum, kinds)
    left = 1 - gain[0] / max(scatter, 1e-300)
    rng = np.random.default_rng(0)
    for size in SPLITS:
        noise = rng.standard_normal((size, len(x)))
        by_chance = middle + sd * (noise - (noise @ kinds / count)[:, stratum])
        share = 1 - _best_exchange(by_chance, stratum, kinds)[0] / np.maximum(
            within(by_chance), 1e-300
        )
        p = float(np.mean(np.append(share <= left, True)))
        if p > RARE:
            break
    away = float(x[pair[0]] - x[pair[1]])
    inner = np.sqrt(max(scatter - gain[0], 0.0) / max(len(x) - len(count), 1))
    return tuple(pair), away, away / max(inner, 1e-300), p


def _best_exchange(
    x: np.ndarray, stratum: np.ndarray, kinds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Largest reduction of scatter by exchanging two labels, per row, (N,); the pair, (N, 2).

    The gain of a pair is convex in its difference, so that the best has the smallest or the largest
    of two strata.
    """
    rows, sums, count = np.arange(len(x)), x @ kinds, kinds.sum(0)
    most, who = np.full(len(x), -np.inf), np.zeros((len(x), 2), int)
    for a, b in itertools.combinations(range(len(count)), 2):
        of_a, of_b = np.flatnonzero(stratum == a), np.flatnonzero(stratum == b)
        low, high = x[:, of_a].argmin(1), x[:, of_a].argmax(1)
        ends = (low, x[:, of_b].argmax(1)), (high, x[:, of_b].argmin(1))
        for i, j in ((of_a[i], of_b[j]) for i, j in ends):
            d = x[rows, j] - x[rows, i]
            gain = (2 * sums[:, a] * d + d**2) / count[a] + (d**2 - 2 * sums[:, b] * d) / count[b]
            more = gain > most
            most = np.where(more, gain, most)
            who[more] = np.stack([i, j], axis=1)[more]
    return most, who


def _split(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum of squares within the two groups of the best split of each row, and its place.

    Groups have two members at least: one alone is no group.
    """
    x = np.sort(x, axis=1)
    n = x.shape[1]
    k = np.arange(2, n - 1)
    total, sums = np.sum((x - x.mean(1, keepdims=True)) ** 2, axis=1), np.cumsum(x, axis=1)
    low, high = sums[:, 1 : n - 2] / k, (sums[:, -1:] - sums[:, 1 : n - 2]) / (n - k)
    left = total[:, None] - k * (n - k) / n * (high - low) ** 2
    best = left.argmin(1)
    return np.maximum(left[np.arange(len(x)), best], 0.0), k[best]


def _p(entry: Outlier) -> float:
    return float(entry["p"])


def _scores(bound: BoundPopulation, samples: Values) -> tuple[np.ndarray, ...]:
    """P(below the LLOQ), P(between it and the lowest measured value), scores, expected scores and
    ln of the predictions.

    Each (draw, P, T); 0 where padded. Scores are 0 where censored; expected ones are there what is
    expected beyond the limit.
    """
    a = bound.individual
    _, top = _gap(bound)

    def one(sample: Values) -> tuple[Array, ...]:
        params, theta = bound.of_sample(sample)
        assert params is not None
        f = jnp.where(a.mask, bound.individual_predictions(params), 1.0)

        def below(y: Array) -> Array:
            def each(output: str) -> Array:
                residual = bound.population.residual_of(output)
                if residual.discrete:  # without a limit
                    return jnp.full_like(f, -jnp.inf)
                share: Array = residual.log_cdf(y, f, bound.residual_theta(theta, output))
                return share

            return jnp.exp(bound.by_endpoint(each))

        def score(output: str) -> Array:
            residual = bound.population.residual_of(output)
            own = bound.residual_theta(theta, output)
            return jnp.asarray(residual.score(a.value, f, own))

        def limited_score(output: str) -> Array:
            residual = bound.population.residual_of(output)
            own = bound.residual_theta(theta, output)
            measured = jnp.where(a.censored == 1, a.lloq, a.value)
            return jnp.asarray(residual.standardize(measured, f, own)[0])

        limit = bound.by_endpoint(limited_score)
        beyond = jnp.where(a.censored == 1, -1.0, 1.0)  # E of a score beyond that of the limit
        mills = beyond * jnp.exp(jax.scipy.stats.norm.logpdf(limit) - log_ndtr(beyond * -limit))
        under = below(jnp.asarray(a.lloq))
        measured = jnp.where(a.mask & (a.censored == 0), bound.by_endpoint(score), 0.0)
        limited = a.mask & (a.lloq > NEVER)
        return (
            jnp.where(limited, under, 0.0),
            jnp.where(limited, jnp.maximum(below(jnp.asarray(top)) - under, 0.0), 0.0),
            measured,
            jnp.where(a.mask & (a.censored != 0), mills, measured),
            jnp.log(f),
        )

    return tuple(np.asarray(x) for x in jit_fast_compile(lambda s: jax.lax.map(one, s))(samples))


def _analytes(bound: BoundPopulation) -> str:
    """Multiplicity correction of p values by analyte, in words; "" for one."""
    size = len(bound.individual.analytes)
    return f"{size} analytes" if size > 1 else ""


def _sigma(bound: BoundPopulation, analyte: str) -> str:
    """The parameters of an analyte's residual model, in words."""
    names = bound.population.residual_names(bound.endpoints[analyte])
    return " and ".join(names.values()) or "the residual error"


def _gap(bound: BoundPopulation) -> tuple[dict[int, float], np.ndarray]:
    """Lowest measured value over its LLOQ by analyte, and that times every LLOQ, (P, T)."""
    a = bound.individual
    top, lowest = np.array(a.lloq, float), {}
    for i in range(len(a.analytes)):
        here = a.mask & (a.analyte == i) & (a.lloq > NEVER)
        measured = here & (a.censored == 0)
        if measured.any():
            lowest[i] = float(np.min(a.value[measured] / a.lloq[measured]))
            top[here] *= max(lowest[i], 1.0)
    return lowest, top


def _offset(bound: BoundPopulation, expected: np.ndarray) -> Found:
    """Endpoints with a mean residual other than 0, patient by patient.

    Args:
        expected: scores, and what is expected of them where they are censored, (P, T).
    """
    a = bound.individual
    found: Found = []
    for i, analyte in enumerate(a.analytes):
        here = a.mask & (a.analyte == i)
        n = here.sum(1)
        mean = (np.where(here, expected, 0.0).sum(1) / np.maximum(n, 1))[n > 0]
        if len(mean) < 4:
            continue
        t = mean.mean() / max(mean.std(ddof=1) / np.sqrt(len(mean)), 1e-300)
        p = 2 * scipy.stats.t.sf(abs(t), len(mean) - 1) * len(a.analytes)
        if p < NOTED and abs(mean.mean()) > OFFSET:
            entry: Outlier = {"analyte": analyte, "sds": float(mean.mean()), "p": float(p)}
            entry |= {"looked": _analytes(bound), "fixed": bool(bound.population.fixed)}
            found.append(entry | {"sigma": _sigma(bound, analyte)})
    return found


def _residuals(bound: BoundPopulation, score: np.ndarray, expected: np.ndarray) -> dict[str, Found]:
    """Tests of residuals: outlying samples, scattering patients, time course, tails.

    Args:
        score: of measured samples, 0 elsewhere, (P, T).
        expected: the same, and what is expected of censored ones.
    """
    a = bound.individual
    measured = a.mask & (a.censored == 0)
    count, square = int(measured.sum()), np.where(measured, score**2, 0.0)
    if count < FEWEST:
        return {}
    total = square.sum()
    samples: Found = []
    t = score / np.sqrt(np.maximum(total - square, 0.0) / (count - 2) + 1e-300)
    p = 2 * scipy.stats.t.sf(np.abs(t), count - 2) * count
    odd = measured & (p < NOTED)
    for i, j in zip(*np.nonzero(odd), strict=True):
        entry: Outlier = {"patient": bound.patients[i], "day": float(a.time[i, j])}
        analyte = a.analytes[a.analyte[i, j]]
        entry |= {"value": float(a.value[i, j]), "analyte": analyte}
        entry |= {"looked": f"{count} samples", "sigma": _sigma(bound, analyte)}
        residual = bound.population.residual_of(bound.endpoints[analyte])
        entry |= {"normal": not residual.heavy, "on_log": residual.on_log}
        samples.append(entry | {"sds": float(t[i, j]), "p": float(p[i, j])})
    people: Found = []
    n, sums = (measured & ~odd).sum(1), np.where(odd, 0.0, square).sum(1)
    for i, name in enumerate(bound.patients):
        others = int(n.sum() - n[i])
        own = score[i, measured[i]]
        if odd[i].any():  # one outlier shifts the whole curve: without it, and the shift
            own = np.delete(own, np.abs(own).argmax())
            own = (own - own.mean()) * np.sqrt(len(own) / max(len(own) - 1, 1))
        if len(own) < 3 or others < FEWEST:
            continue
        ratio = np.mean(own**2) / max((sums.sum() - sums[i]) / others, 1e-300)
        p = scipy.stats.f.sf(ratio, len(own), others) * len(bound.patients)
        if p < NOTED:
            entry = {"patient": name, "times": float(np.sqrt(ratio)), "p": float(p)}
            people.append(entry | {"looked": f"{len(bound.patients)} patients"})
    told = {entry["patient"] for entry in people}
    samples = [entry for entry in samples if entry["patient"] not in told]
    return {
        "course": _course(bound, expected, a.mask & ~odd),
        "samples": sorted(samples, key=_p),
        "scatter": sorted(people, key=_p),
        "tails": _tails(bound, score, measured & ~odd),
    }


def _course(bound: BoundPopulation, score: np.ndarray, which: np.ndarray) -> Found:
    """Analytes whose residuals change with time: misspecified structural model.

    One-way analysis of variance between sampling days, or groups of neighbouring ones. Censored
    samples stand where they are expected: measured ones alone lie above the curves near a limit.
    """
    a = bound.individual
    found: Found = []
    for i, analyte in enumerate(a.analytes):
        here = which & (a.analyte == i)
        z, time = score[here], a.time[here]
        if len(z) < MANY:
            continue
        group = _neighbours(time)
        count = np.bincount(group)
        size, mean = len(count), np.bincount(group, z) / count
        within = np.sum((z - mean[group]) ** 2) / max(len(z) - size, 1)
        between = np.sum(count * (mean - z.mean()) ** 2) / max(size - 1, 1)
        p = scipy.stats.f.sf(between / max(within, 1e-300), size - 1, len(z) - size)
        p = float(p) * len(a.analytes)
        worst = int(np.argmax(np.abs(mean) * np.sqrt(count)))
        sds = float(mean[worst] / np.sqrt(np.mean(z**2)))
        if size > 1 and p < NOTED and abs(sds) > OFFSET:
            days = time[group == worst]
            entry: Outlier = {"analyte": analyte, "sds": sds, "p": p, "looked": _analytes(bound)}
            found.append(entry | {"first": float(days.min()), "last": float(days.max())})
    return found


def _unrelated(bound: BoundPopulation, curve: np.ndarray) -> Found:
    """Analytes whose predictions do not correlate with the data within patients.

    Args:
        curve: ln of the predictions, (P, T).
    """
    a = bound.individual
    found: Found = []
    for i, analyte in enumerate(a.analytes):
        here = a.mask & (a.analyte == i) & (a.censored == 0) & (a.value > 0) & ~bound.counted
        here &= here.sum(1, keepdims=True) > 1
        free = int(here.sum() - here.any(1).sum())  # degrees of freedom within patients
        if free < MANY:
            continue
        y, f = (_within(x, here) for x in (np.log(np.where(here, a.value, 1.0)), curve))
        total = float(np.sum(y**2))
        if total <= 1e-12 * free or not np.isfinite(f).all():
            continue
        explained = 1 - float(np.sum((y - f) ** 2)) / total
        r = float(np.sum(y * f)) / max(math.sqrt(total * float(np.sum(f**2))), 1e-300)
        t = r * math.sqrt((free - 1) / max(1 - r**2, 1e-12))
        if explained < FOLLOWED and scipy.stats.t.sf(t, free - 1) > UNRELATED:
            entry: Outlier = {"analyte": analyte, "explained": max(explained, 0.0)}
            found.append(entry | {"p": 0.0})
    return found


def _within(x: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Deviations from the means of rows, of the elements that count; (P, T), 0 elsewhere."""
    mean = np.where(which, x, 0.0).sum(1) / np.maximum(which.sum(1), 1)
    return np.where(which, x - mean[:, None], 0.0)


def _neighbours(time: np.ndarray) -> np.ndarray:
    """The group of each sample (N,), 0, 1, ...: its day, or days that are neighbours.

    Each has `PER_DAY` samples at least, and there are `DAYS` groups at most.
    """
    days, of_day, count = np.unique(time, return_inverse=True, return_counts=True)
    least = max(PER_DAY, -(-len(time) // DAYS)) if len(days) > DAYS else PER_DAY
    group, there = np.zeros(len(days), int), 0
    for i, n in enumerate(count):
        group[i] = group[i - 1] + (there >= least) if i else 0
        there = n if i and group[i] > group[i - 1] else there + n
    if there < least and group[-1]:  # the last ones are too few by themselves
        group[group == group[-1]] -= 1
    return group[of_day]


def _tails(bound: BoundPopulation, score: np.ndarray, which: np.ndarray) -> Found:
    """Analytes whose residuals are rather Student t than normal, by their likelihood ratio.

    The normal distribution is the end of the range of df, so that p is half of that of a chi-square
    with one degree of freedom (Self and Liang 1987, doi:10.1080/01621459.1987.10478472).
    """
    a = bound.individual
    found: Found = []
    # without random effects, residuals hold the differences between patients
    varied = bound.random_effects.columns
    for i, analyte in enumerate(a.analytes if varied else ()):
        residual = bound.population.residual_of(bound.endpoints[analyte])
        z = score[which & (a.analyte == i)]
        if len(z) < MANY or residual.heavy or not residual.on_log or not z.any():
            continue
        normal = scipy.stats.norm.logpdf(z, scale=np.sqrt(np.mean(z**2))).sum()
        gains = {df: _student(z, df) - normal for df in HEAVY}
        df = max(gains, key=gains.__getitem__)
        p = 0.5 * scipy.stats.chi2.sf(2 * max(gains[df], 0.0), 1) * len(a.analytes)
        if p < NOTED:
            entry: Outlier = {
                "analyte": analyte,
                "df": df,
                "count": len(z),
                "gain": float(gains[df]),
            }
            found.append(entry | {"p": float(p), "looked": _analytes(bound)})
    return found


def _student(z: np.ndarray, df: float) -> float:
    """ln likelihood of scores (N,) from a Student t distribution around 0, at its best scale."""
    square = np.mean(z**2)
    for _ in range(100):
        square = np.mean((df + 1) / (df + z**2 / square) * z**2)
    return float(scipy.stats.t.logpdf(z, df, scale=np.sqrt(square)).sum())


def _limits(bound: BoundPopulation, below: np.ndarray, gap: np.ndarray) -> dict[str, Found]:
    """Limits of quantification inconsistent with the values."""
    a = bound.individual
    lowest, _ = _gap(bound)
    missing, shares = [], []
    for i, analyte in enumerate(a.analytes):
        here = a.mask & (a.analyte == i) & (a.lloq > NEVER)
        if i in lowest and lowest[i] > WIDE:
            each = gap[:, here]
            none = np.exp(np.sum(np.log1p(-np.minimum(each, 1 - 1e-12)), axis=1))
            p = float(np.mean(none)) * len(a.analytes)
            if p < NOTED:
                limit, upper = float(np.median(a.lloq[here])), lowest[i]
                entry: Outlier = {"analyte": analyte, "lloq": limit, "lowest": limit * upper}
                entry |= {"looked": _analytes(bound)}
                missing.append(entry | {"expected": float(each.sum(1).mean()), "p": p})
        if here.any():
            share = below[:, here].mean(0)
            seen, expected = int((a.censored[here] == 1).sum()), float(share.sum())
            sd = float(np.sqrt(np.sum(share * (1 - share)))) + 0.5  # of whole numbers
            p = 2 * float(scipy.stats.norm.sf(abs(seen - expected) / sd)) * len(a.analytes)
            if p < NOTED:
                entry = {"analyte": analyte, "seen": seen, "expected": expected}
                entry |= {"looked": _analytes(bound)}
                shares.append(entry | {"of": int(here.sum()), "p": p})
    return {"gap": missing, "below": shares}


def _of_values(bound: BoundPopulation) -> dict[str, Found]:
    """Tests without the model: imputed limits, values below limits, dropouts, copies."""
    a = bound.individual
    tied: Found = []
    under: Found = []
    left: Found = []
    for i, analyte in enumerate(a.analytes):
        here = a.mask & (a.analyte == i)
        if bound.counted[here].any():  # counts are equal, and 0, by chance
            continue
        measured, limits = a.value[here & (a.censored == 0)], a.lloq[here & (a.censored == 1)]
        counts = Counter(measured.tolist())
        low = min(counts, default=0.0)
        others = max((n for value, n in counts.items() if value != low), default=1)
        if counts and counts[low] >= TIED * others:
            tied.append({"analyte": analyte, "value": low, "count": counts[low], "p": 0.0})
        if limits.size and (measured < limits.min()).any():
            entry: Outlier = {
                "analyte": analyte,
                "lloq": float(limits.min()),
                "value": low,
                "p": 0.0,
            }
            under.append(entry | {"count": int((measured < limits.min()).sum())})
        left += _left_out(bound, i)
    left = [entry | {"looked": _analytes(bound)} for entry in left if entry["p"] < NOTED]
    return {"copies": _copies(bound), "tied": tied, "under": under, "left": left}


def _left_out(bound: BoundPopulation, of: int) -> Found:
    """Samples missing not at random: more in patients with low concentrations of an analyte.

    Nominal days are those on which a quarter of the patients have a sample. A patient's number of
    missing ones is correlated with the mean log concentration relative to the others on the days
    that most have (Spearman, one-sided).
    """
    a = bound.individual
    here = a.mask & (a.analyte == of) & (a.value > 0)
    days, column = np.unique(a.time[here], return_inverse=True)
    ln_y = np.full((len(bound.patients), len(days)), np.nan)
    ln_y[np.nonzero(here)[0], column] = np.log(a.value[here])
    ln_y = ln_y[np.isfinite(ln_y).any(1)]
    ln_y = ln_y[:, np.isfinite(ln_y).sum(0) >= max(len(ln_y) / 4, 2)]
    common = ln_y[:, np.isfinite(ln_y).mean(0) > 0.5]
    known = np.isfinite(common).any(1)
    ln_y, common = ln_y[known], common[known]
    there = np.isfinite(ln_y)
    if len(ln_y) < FEWEST or there.all():
        return []
    lacking = (~there).sum(1)
    height = np.nanmean(common - np.nanmedian(common, axis=0), axis=1)
    if len(np.unique(lacking)) < 2 or len(np.unique(height)) < 2:
        return []
    rho, p = scipy.stats.spearmanr(lacking, height, alternative="less")
    entry: Outlier = {"analyte": bound.individual.analytes[of], "count": int(lacking.sum())}
    return [
        entry | {"planned": int(there.size), "rho": float(rho), "p": float(p) * len(a.analytes)}
    ]


def _copies(bound: BoundPopulation) -> Found:
    """Pairs of patients with the same values on the same days.

    p is binomial, with the share of equal values between other patients as that of chance, of whom
    those with the same record count once; of many pairs that are alike, corrected as by Benjamini
    and Hochberg (1995, doi:10.1111/j.2517-6161.1995.tb02031.x).
    """
    a = bound.individual
    records: list[dict[tuple[int, float], float]] = [
        {(int(k), float(t)): float(y) for k, t, y in zip(*columns, strict=True)}
        for columns in (
            (a.analyte[i, here], a.time[i, here], a.value[i, here])
            for i, here in enumerate(a.mask & (a.censored == 0) & ~bound.counted)
        )
    ]
    first: dict[frozenset[tuple[tuple[int, float], float]], int] = {}
    for i, record in enumerate(records):
        first.setdefault(frozenset(record.items()), i)
    distinct = set(first.values())
    samples: dict[tuple[int, float], dict[float, list[int]]] = {}
    for i, record in enumerate(records):
        for at, value in record.items():
            samples.setdefault(at, {}).setdefault(value, []).append(i)
    equal: Counter[tuple[int, int]] = Counter()
    total = every = 0  # equal values, and all, of pairs of patients with distinct records
    for values in samples.values():
        sizes = [len(distinct & set(who)) for who in values.values()]
        every += math.comb(sum(sizes), 2)
        total += sum(math.comb(size, 2) for size in sizes)
        for who in values.values():
            if len(who) <= LARGEST:
                equal.update(itertools.combinations(who, 2))
    pairs = math.comb(len(records), 2)
    found: Found = []
    tests, common = np.ones(pairs), {}  # 1: of pairs without an equal value
    for n, ((i, j), count) in enumerate(equal.items()):
        common[i, j] = len(records[i].keys() & records[j].keys())
        own = (count, common[i, j]) if {i, j} <= distinct else (0, 0)
        chance = min((total - own[0] + 1) / max(every - own[1] + 1, 1), 1.0)
        tests[n] = scipy.stats.binom.sf(count - 1, common[i, j], chance)
    corrected = scipy.stats.false_discovery_control(tests) if pairs else tests
    for ((i, j), count), p in zip(equal.items(), corrected, strict=False):
        if p < NOTED:
            both: list[Labelled] = [{"patient": bound.patients[k], "of": ""} for k in (i, j)]
            entry: Outlier = {"patients": both, "count": count, "of": common[i, j], "p": float(p)}
            found.append(entry | {"looked": f"{pairs} pairs"})
    return sorted(found, key=_p)
