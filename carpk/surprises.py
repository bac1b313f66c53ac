"""What in patients' data the fit finds surprising: samples, patients, limits of quantification.

Everything is judged against the others, so that what is wrong cannot hide behind the spread that it
causes: a patient's random effect against the SD of the other patients' effects (Grubbs' test), a
sample against the SD of the other residuals, a patient's residuals against the other patients'. P
values count how many were looked at (Bonferroni). What comes out are plain numbers, which a file
can hold; `verdict` puts them into words.

A limit of quantification is known by what lies just above it: from the fitted curves follows how
many samples are to be expected between the limit and the lowest measured value. If the limit is
entered too low, they are missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from carpk.dataset.arrays import NEVER
from carpk.effects import PATIENT, eta_name
from carpk.population import PopulationModel

NOTED = 0.01  # p below which a surprise is told
TIED = 3  # times that the lowest value must repeat, and as many times any other value's repeats
FEWEST = 8  # samples, to say anything of one of them
NAMED = 5  # of a kind, at most

Found = list[dict[str, Any]]


def surprises(bound: PopulationModel, samples: Mapping[str, Any]) -> dict[str, Found]:
    """Surprises by kind, each a list of facts.

    Args:
        samples: name -> (draw, ...), the patients' random effects included; a hundred draws do.
    """
    if bound.individual is None:
        return {}
    found = {**_effects(bound, samples), **_of_values(bound)}
    below, gap, score = _scores(bound, {k: jnp.asarray(v) for k, v in samples.items()})
    fine = np.isfinite(score).all((1, 2))
    if fine.any():
        residual = score[fine].mean(0)
        found |= _residuals(bound, residual) | _limits(bound, below[fine], gap[fine])
    return {kind: facts[:NAMED] for kind, facts in found.items() if facts}


def _effects(bound: PopulationModel, samples: Mapping[str, Any]) -> dict[str, Found]:
    """Patients whose random effect is far from the others', and effects that are not around 0."""
    alone, shift = [], []
    names = [name for name in bound.random.at(PATIENT) if eta_name(name) in samples]
    size = len(bound.patients)
    if size < 4:
        return {}
    for name in names:
        eta = np.asarray(samples[eta_name(name)])
        common = eta.mean(1, keepdims=True)  # moves with a typical value that is hardly known
        mean, own = eta.mean(0), (eta - common).var(0)
        on_log = bound.bounds(name) == (0.0, np.inf)

        def fact(away: float, t: float, p: float, name: str = name, log: bool = on_log) -> dict:
            ratio = {"ratio": float(np.exp(np.clip(away, -50, 50)))} if log else {}
            return {"parameter": name, "sds": float(t), "p": float(p)} | ratio

        for i in range(size):
            others = np.delete(np.arange(size), i)
            spread = np.sqrt(mean[others].var(ddof=1) + own[others].mean())
            away = mean[i] - mean[others].mean()
            t = away / max(spread * np.sqrt(1 + 1 / len(others)), 1e-300)
            p = 2 * scipy.stats.t.sf(abs(t), size - 2) * size * len(names)
            if p < NOTED:
                alone.append({"patient": bound.patients[i]} | fact(away, t, p))
        t = mean.mean() / max(np.sqrt((mean.var(ddof=1) + own.mean()) / size), 1e-300)
        p = 2 * scipy.stats.t.sf(abs(t), size - 1) * len(names)
        if p < NOTED:
            shift.append(fact(mean.mean(), t, p))
    return {"effects": sorted(alone, key=_p), "shift": sorted(shift, key=_p)}


def _p(fact: Mapping[str, Any]) -> float:
    return float(fact["p"])


def _scores(bound: PopulationModel, samples: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    """P(below the LLOQ), P(between it and the lowest measured value), and scores of the values.

    Each (draw, P, T); 0 where padded, scores also where censored.
    """
    a = bound.individual
    _, top = _gap(bound)

    def one(sample: Mapping[str, Any]) -> Any:
        params, theta = bound.of_sample(sample)
        f = jnp.where(a.mask, bound.individual_levels(params), 1.0)

        def below(y: Any) -> Any:
            def each(output: str) -> Any:
                residual = bound.population.residual_of(output)
                return residual.log_cdf(y, f, bound.population.residual_theta(theta, output))

            return jnp.exp(bound.by_endpoint(each))

        def score(output: str) -> Any:
            residual = bound.population.residual_of(output)
            own = bound.population.residual_theta(theta, output)
            return residual.standardize(a.value, f, own)[0]

        under = below(jnp.asarray(a.lloq))
        measured = jnp.where(a.mask & (a.censored == 0), bound.by_endpoint(score), 0.0)
        limited = a.mask & (a.lloq > NEVER)
        return (
            jnp.where(limited, under, 0.0),
            jnp.where(limited, jnp.maximum(below(jnp.asarray(top)) - under, 0.0), 0.0),
            measured,
        )

    return tuple(np.asarray(x) for x in jax.jit(lambda s: jax.lax.map(one, s))(samples))


def _gap(bound: PopulationModel) -> tuple[dict[int, float], np.ndarray]:
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


def _residuals(bound: PopulationModel, score: np.ndarray) -> dict[str, Found]:
    """Samples far off the patients' own curves, and patients whose samples all scatter."""
    a = bound.individual
    measured = a.mask & (a.censored == 0)
    count, square = int(measured.sum()), np.where(measured, score**2, 0.0)
    if count < FEWEST:
        return {}
    total = square.sum()
    samples, odd = [], np.zeros_like(measured)
    for i, j in zip(*np.nonzero(measured), strict=True):
        t = score[i, j] / np.sqrt((total - square[i, j]) / (count - 2) + 1e-300)
        p = 2 * scipy.stats.t.sf(abs(t), count - 2) * count
        if p < NOTED:
            odd[i, j] = True
            fact = {"patient": bound.patients[i], "day": float(a.time[i, j])}
            fact |= {"value": float(a.value[i, j]), "analyte": a.analytes[a.analyte[i, j]]}
            samples.append(fact | {"sds": float(t), "p": float(p)})
    people = []
    kept = np.where(odd, 0.0, square)
    n, sums = (measured & ~odd).sum(1), kept.sum(1)
    for i, name in enumerate(bound.patients):
        others = n.sum() - n[i]
        if n[i] < 2 or others < FEWEST or odd[i].any():  # one odd sample moves the whole curve
            continue
        ratio = (sums[i] / n[i]) / max((sums.sum() - sums[i]) / others, 1e-300)
        p = scipy.stats.f.sf(ratio, n[i], others) * len(bound.patients)
        if p < NOTED:
            people.append({"patient": name, "times": float(np.sqrt(ratio)), "p": float(p)})
    return {"samples": sorted(samples, key=_p), "scatter": sorted(people, key=_p)}


def _limits(bound: PopulationModel, below: np.ndarray, gap: np.ndarray) -> dict[str, Found]:
    """Limits of quantification that do not belong to the values."""
    a = bound.individual
    lowest, _ = _gap(bound)
    missing, shares = [], []
    for i, analyte in enumerate(a.analytes):
        here = a.mask & (a.analyte == i) & (a.lloq > NEVER)
        if i in lowest and lowest[i] > 1:
            each = gap[:, here]
            p = float(np.mean(np.exp(np.sum(np.log1p(-np.minimum(each, 1 - 1e-12)), axis=1))))
            if p < NOTED:
                limit, upper = float(np.median(a.lloq[here])), lowest[i]
                fact = {"analyte": analyte, "lloq": limit, "lowest": limit * upper}
                missing.append(fact | {"expected": float(each.sum(1).mean()), "p": p})
        if here.any():
            share = below[:, here].mean(0)
            seen, expected = int((a.censored[here] == 1).sum()), float(share.sum())
            sd = float(np.sqrt(np.sum(share * (1 - share)))) + 0.5  # of whole numbers
            p = 2 * float(scipy.stats.norm.sf(abs(seen - expected) / sd))
            if p < NOTED:
                fact = {"analyte": analyte, "seen": seen, "expected": expected}
                shares.append(fact | {"of": int(here.sum()), "p": p})
    return {"gap": missing, "below": shares}


def _of_values(bound: PopulationModel) -> dict[str, Found]:
    """What values and limits say by themselves: limits in place of values, values below limits."""
    a = bound.individual
    tied, under = [], []
    for i, analyte in enumerate(a.analytes):
        here = a.mask & (a.analyte == i)
        measured, limits = a.value[here & (a.censored == 0)], a.lloq[here & (a.censored == 1)]
        counts = Counter(measured.tolist())
        low = min(counts, default=0.0)
        others = max((n for value, n in counts.items() if value != low), default=1)
        if counts and counts[low] >= TIED * others:
            tied.append({"analyte": analyte, "value": low, "count": counts[low], "p": 0.0})
        if limits.size and (measured < limits.min()).any():
            fact = {"analyte": analyte, "lloq": float(limits.min()), "value": low, "p": 0.0}
            under.append(fact | {"count": int((measured < limits.min()).sum())})
    return {"tied": tied, "under": under}
