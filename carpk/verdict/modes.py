"""Verdict on modes, and on the normal approximation around one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from carpk._arviz import PARETO_K
from carpk.population.bound import BoundPopulation
from carpk.verdict.chains import ESS_MIN
from carpk.verdict.words import Finding, ModeFound, ModeSummary, doubt, note, number, trouble

DECREMENT = 1e-3  # of a mode: g' H^-1 g, in squared posterior SDs, below which it is found
CROSSINGS = 20  # between modes, per chain, from which they count as sampled
SAME_MODE = 0.1  # difference of ln density
MASS = 0.05  # share of the posterior below which another mode is not reported
SWAPPED = 0.1  # relative difference of two values that have changed places
FEW_PATIENTS = 40  # below which the normal approximation is noted
FEW_POINTS = 5  # effective points of a patient's random effects, reported below


def of_points(bound: BoundPopulation, settings: Mapping[str, Any]) -> list[Finding]:
    """Patients with an inexact integral over random effects in "laplace"."""
    points = settings.get("importance", {}).get("points")
    pairs = zip(bound.patients, points, strict=True) if points else ()
    few = [f"{patient} {n}" for patient, n in pairs if n < FEW_POINTS]
    if not few:
        return []
    of = "1 patient" if len(few) == 1 else f"{len(few)} patients"
    return [
        doubt(
            "rough integral",
            f"The random effects of {of} are far from normal given the population (effective "
            f"importance points: {', '.join(few[:5])}), so their marginal likelihood is inexact: "
            'use method="nuts".',
        )
    ]


def of_modes(
    posterior: xr.Dataset, bound: BoundPopulation, settings: Mapping[str, Any]
) -> list[Finding]:
    """Several modes, or one with exchanged labels.

    Chains that change between them often have them in their right shares.
    """
    modes = [m for m in settings.get("modes", ()) if m["share"] > MASS]
    if len(modes) < 2:
        return []
    first, second = modes[0]["theta"], modes[1]["theta"]
    moved = [k for k in first if not _near(first[k], second[k])]
    swapped = [
        (a, b)
        for i, a in enumerate(moved)
        for b in moved[i + 1 :]
        if _near(first[a], second[b]) and _near(first[b], second[a])
    ]
    sampled = settings["method"] == "nuts" and _crossed(posterior, bound, modes, moved)
    mixed = (
        "medians and intervals mix the two"
        if sampled
        else "medians and intervals mix the two as the chains fell"
        if settings["method"] == "nuts"
        else "what is shown holds for one of the two"
    )
    if swapped:
        pairs = " and ".join(f"{a} with {b}" for a, b in swapped)
        others = [k for k in moved if k not in sum(swapped, ())]
        also = "".join(
            f", as {k} goes from {number(first[k])} to {number(second[k])}" for k in others[:2]
        )
        text = (
            f"Exchanging {pairs} changes nothing that the data can tell{also}: the posterior is "
            f"there twice, and {mixed}. Say which is the larger, by priors that do not overlap or "
            "by a ratio between 0 and 1 in place of the smaller one (as beta_alpha in 'piecewise')."
        )
        if sampled:
            return [doubt("exchangeable parameters", text)]
        return [trouble("exchangeable parameters", text)]
    told = "; ".join(
        f"{m['share']:.0%} around "
        + ", ".join(f"{k} {number(m['theta'][k])}" for k in (moved or list(first))[:4])
        for m in modes[:3]
    )
    if sampled:
        text = (
            f"the posterior has {len(modes)} modes by their curvature ({told}), which overlap: "
            "every chain goes to and fro between them."
        )
        return [note("several modes", text)]
    text = (
        f"The posterior has {len(modes)} modes ({told}), and {mixed}. Say which one can be true "
        "with a prior (or a parameter fixed to its known value), and report the other if none can "
        "be ruled out."
    )
    return [trouble("several modes", text)]


def _crossed(
    posterior: xr.Dataset,
    bound: BoundPopulation,
    modes: Sequence[ModeFound],
    moved: Sequence[str],
) -> bool:
    """Every chain changes between modes `CROSSINGS` times at least.

    A draw is with the mode that is nearest on the estimation scale, in posterior SDs.
    """
    names = [name for name in moved if name in posterior and posterior[name].ndim == 2]
    if not names:
        return False
    away = 0.0
    for name in names:
        forward = bound.parameters[name].transform.forward
        draws = np.asarray(forward(posterior[name].values))  # (chain, draw)
        places = np.array([float(forward(mode["theta"][name])) for mode in modes])
        away = away + ((draws - places[:, None, None]) / max(float(draws.std()), 1e-300)) ** 2
    nearest = np.argmin(away, axis=0)
    visited = all(len(np.unique(chain)) == len(modes) for chain in nearest)
    return visited and int(np.min(np.sum(np.diff(nearest, axis=1) != 0, axis=1))) >= CROSSINGS


def _near(one: float, other: float) -> bool:
    """Equal within the accuracy of a mode."""
    return abs(one - other) <= SWAPPED * max(abs(one), abs(other))


def of_mode(
    bound: BoundPopulation, settings: Mapping[str, Any]
) -> tuple[list[Finding], dict[str, float]]:
    """Findings on a mode."""
    mode, weights = settings["mode"], settings.get("importance", {})
    patients = len(getattr(bound, "patients", ()))
    lost = mode["unconverged"]
    settled = bool(weights.get("settled", mode["converged"]))
    draws = settings["chains"] * settings["draws"]
    found = [] if settled else _unsettled(mode)
    if "k_hat" in weights:
        found += _of_density(weights["k_hat"], weights["ess"], draws)
    if lost:
        named = ", ".join(bound.patients[i] for i in lost[:5])
        of = "1 patient have" if len(lost) == 1 else f"{len(lost)} patients have"
        found.append(
            trouble(
                "patients without a mode",
                f"The random effects of {of} no mode ({named}): look at their data "
                "(plot.individual_fits), at units and doses first.",
            )
        )
    if settings["method"] == "laplace" and draws < ESS_MIN:
        found.append(
            trouble(
                "too few draws",
                f"Too few draws ({draws}, below {ESS_MIN}): medians and intervals change with the "
                "seed. Raise draws to 1000, which costs next to nothing here.",
            )
        )
    if settings["method"] == "map":
        found += _of_ends(settings["ends"])
    elif 0 < patients < FEW_PATIENTS and "k_hat" not in weights:
        found.append(
            note(
                "few patients",
                '"laplace" takes the population parameters as normally distributed, which in few '
                "patients puts the ends of intervals 0.2 to 1 posterior SDs off "
                '(docs/verdict.md): report with method="nuts".',
            )
        )
    numbers = {
        "decrement": mode["decrement"],
        "settled": float(settled),
        "patients": float(patients),
        "patients_at_mode": float(patients - len(lost)),
    }
    return found, numbers | {k: weights[k] for k in ("k_hat", "ess") if k in weights}


def _unsettled(mode: ModeSummary) -> list[Finding]:
    """Findings on a normal approximation that did not converge."""
    found = []
    if not mode["decrement"] < DECREMENT:
        away = math.sqrt(max(mode["decrement"], 0.0))
        by = f"it is {number(away, '.2g')} posterior SDs away"
        by = by if math.isfinite(away) else "its distance is not finite"
        found.append(
            trouble(
                "mode not found",
                f'The mode was not found: by the curvature {by}. Use method="nuts", or narrower '
                "priors.",
            )
        )
    if mode["flat"]:
        where = "1 direction, which is" if mode["flat"] == 1 else f"{mode['flat']} directions,"
        where += "" if mode["flat"] == 1 else " which are"
        found.append(
            trouble(
                "flat posterior",
                f"The posterior is flat or bends upwards in {where} given the spread of the prior "
                'or more: use method="nuts", or fix a parameter that the data cannot tell '
                "(checks.identifiability names them).",
            )
        )
    if not (found or mode["unconverged"]):
        found.append(
            trouble(
                "far from normal",
                "Importance sampling around the mode does not settle: the posterior is far from "
                'normal there. Use method="nuts", or narrower priors.',
            )
        )
    return found


def _of_density(k_hat: float, ess: float, draws: int) -> list[Finding]:
    """Reliability of importance weights of draws around a mode."""
    if not k_hat <= PARETO_K:
        return [
            trouble(
                "far from normal",
                "The posterior is far from normal around its mode (Pareto k-hat "
                f"{number(k_hat, '.2f')}, to be below {PARETO_K}): intervals are too narrow, or "
                'lopsided. Use method="nuts".',
            )
        ]
    if draws >= ESS_MIN and not ess >= ESS_MIN:
        return [
            trouble(
                "too few draws",
                f"The importance ESS is {number(ess, '.0f')}, below {ESS_MIN}: raise draws, or use "
                'method="nuts".',
            )
        ]
    return []


def _of_ends(ends: Sequence[float]) -> list[Finding]:
    """Limits of a mode alone, and agreement of the starts."""
    found = [
        trouble(
            "a mode alone",
            'A mode has no intervals: use method="laplace" or method="nuts" before you conclude.',
        )
    ]
    near = sum(ends[0] - x < SAME_MODE for x in ends)
    if near < 2 <= len(ends):
        found.append(
            trouble(
                "uncertain mode",
                f"Only one of {len(ends)} starts ended at the best mode (the next lies "
                f"{number(ends[0] - ends[1], '.2g')} lower in ln density): there may be a better "
                "one. Raise `starts`, or use narrower priors.",
            )
        )
    return found
