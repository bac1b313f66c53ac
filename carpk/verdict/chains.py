"""Verdict on chains: R-hat, effective draws, divergences, energy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from carpk._arviz import az
from carpk.population.bound import BoundPopulation
from carpk.population.parameters import Kind, named
from carpk.population.random_effects import CORRELATION
from carpk.verdict.words import Cure, Finding, doubt, note, number, trouble

RHAT_MAX = 1.01
ESS_MIN = 400
EBFMI_MIN = 0.3


def divergent(count: int) -> str:
    return f"{count} divergent transition{'' if count == 1 else 's'}"


def of_chains(
    posterior: xr.Dataset,
    stats: xr.Dataset,
    bound: BoundPopulation,
    settings: Mapping[str, Any],
    several: bool,
) -> tuple[list[Finding], dict[str, float]]:
    """Findings on chains; `several`: the posterior has several known modes."""
    rhat, ess = mixing(posterior)
    energy = stats["energy"].values
    change = np.mean(np.diff(energy, axis=1) ** 2, axis=1)
    ebfmi = change / np.maximum(np.var(energy, axis=1), 1e-300)
    divergences = int(stats["diverging"].values.sum())
    deep = float(stats["reached_max_treedepth"].values.mean())
    worst_rhat = max(rhat, key=lambda k: rhat[k] if math.isfinite(rhat[k]) else math.inf)
    worst_ess = min(ess, key=lambda k: ess[k] if math.isfinite(ess[k]) else -math.inf)
    found = []
    if posterior.sizes["chain"] < 2:
        found.append(
            trouble(
                "one chain",
                "There is one chain only, and nothing to compare it with: a chain that stays in "
                "one place looks like one that has seen all. Use chains=4.",
            )
        )
    elif not rhat[worst_rhat] <= RHAT_MAX:
        found.append(_disagreement(posterior, worst_rhat, rhat[worst_rhat], several))
    if not ess[worst_ess] >= ESS_MIN and not (several and rhat[worst_rhat] > RHAT_MAX):
        found.append(
            trouble(
                "too few effective draws",
                f"Too few effective draws ({number(ess[worst_ess], '.0f')} of {worst_ess}, below "
                f"{ESS_MIN}): raise draws; if that takes too long, fix what the data cannot tell "
                "(checks.identifiability names it) or give it a narrower prior.",
            )
        )
    cure = settings.get("cure", {})
    found += [note("cure", cure["told"])] if cure.get("told") else []
    found += _of_divergences(posterior, bound, divergences, cure) if divergences else []
    if posterior.sizes["draw"] > 1 and not ebfmi.min() >= EBFMI_MIN:
        found.append(_slow_energy(bound, float(ebfmi.min())))
    if deep > 0.05:
        found.append(
            note(
                "tree depth",
                f"{deep:.0%} of the draws reached the largest tree depth, which costs time and "
                "not accuracy: parameters are strongly correlated (checks.identifiability).",
            )
        )
    numbers = {
        "rhat_max": rhat[worst_rhat],
        "ess_min": ess[worst_ess],
        "divergences": float(divergences),
        "ebfmi_min": float(ebfmi.min()),
        "max_treedepth_share": deep,
    }
    return found, numbers


def _disagreement(posterior: xr.Dataset, name: str, rhat: float, several: bool) -> Finding:
    advice = (
        "they stay at different modes, which no number of draws mends."
        if several
        else "sample longer (tune=2000, draws=2000); if they still disagree, the posterior has "
        "several modes: use narrower priors."
    )
    how = f"is {number(rhat, '.3f')}, above {RHAT_MAX}"
    how = how if not math.isnan(rhat) else "cannot be computed: the chains do not move"
    return trouble(
        "chains disagree",
        f"The chains disagree (R-hat of {name} {how}{_by_chain(posterior, name)}): {advice}",
    )


def _of_divergences(
    posterior: xr.Dataset, bound: BoundPopulation, count: int, cure: Cure
) -> list[Finding]:
    """Findings on divergent transitions, before or after a second run with smaller steps."""
    many = divergent(count)
    if cure.get("agree"):
        return [
            note(
                "divergences",
                f"{many} left, but two runs with different steps agree within Monte Carlo error "
                "in every reported quantity.",
            )
        ]
    smaller = (
        "Raise target_accept to 0.95 or 0.99; if that does not help, "
        if len(cure.get("divergences", ())) < 2
        else "A smaller step did not help: "
    )
    spreads = {
        k: float(np.median(posterior[k].values)) for k in named(bound.parameters, Kind.OMEGA)
    }
    least = min(spreads, key=lambda k: spreads[k], default="")
    advice = (
        f"a spread may be close to 0 ({least} is the smallest, {number(spreads[least])}): leave "
        "that parameter out of `varies`, or give its omega a narrower prior."
        if least
        else "use narrower priors for what the data hardly tell (checks.identifiability)."
    )
    return [
        trouble(
            "divergences",
            f"{many}: the sampler missed a narrow region. {smaller}{advice}",
        )
    ]


def _slow_energy(bound: BoundPopulation, ebfmi: float) -> Finding:
    return doubt(
        "low E-BFMI",
        f"Low E-BFMI ({number(ebfmi, '.2f')} < {EBFMI_MIN}): the momentum resampling explores "
        "energies slowly, usually because of heavy tails, and the ends of intervals are less exact "
        f"than R-hat and effective draws say. Use narrower priors"
        f"{' for the omegas' if named(bound.parameters, Kind.OMEGA) else ''}.",
    )


def _by_chain(posterior: xr.Dataset, name: str) -> str:
    """Medians by chain of a parameter of everybody."""
    if name not in posterior:
        return ""
    medians = np.median(posterior[name].values, axis=1)
    return "; medians by chain: " + ", ".join(number(float(x)) for x in medians)


def mixing(posterior: xr.Dataset) -> tuple[dict[str, float], dict[str, float]]:
    """R-hat, and the smaller of bulk and tail effective draws, of every scalar."""
    rhat_of: Callable[..., xr.Dataset | xr.DataTree] = az.rhat
    ess_of: Callable[..., xr.Dataset | xr.DataTree] = az.ess
    with np.errstate(invalid="ignore"):  # the diagonal of a correlation is 1 in every draw
        rhat = by_element(rhat_of(posterior))
        bulk, tail = (by_element(ess_of(posterior, method=how)) for how in ("bulk", "tail"))
    return rhat, {k: min(bulk[k], tail[k]) for k in bulk}


def by_element(result: xr.Dataset | xr.DataTree) -> dict[str, float]:
    """Worst-case numbers per scalar, named `x` or `x[label]`."""
    if not isinstance(result, xr.Dataset):
        result = result.to_dataset()
    flat = {}
    for name, array in result.data_vars.items():
        for index in np.ndindex(array.shape):
            if name == CORRELATION and index[0] >= index[1]:
                continue  # known from the others
            labels = [
                str(array.coords[d].values[i]) for d, i in zip(array.dims, index, strict=True)
            ]
            flat[f"{name}[{', '.join(labels)}]" if labels else str(name)] = float(
                array.values[index]
            )
    return flat
