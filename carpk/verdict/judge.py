"""The verdict on a fit: can it be trusted, and what to do if not."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from carpk._arviz import PARETO_K
from carpk.population.bound import BoundPopulation
from carpk.verdict.chains import divergent, of_chains
from carpk.verdict.modes import DECREMENT, of_mode, of_modes, of_points
from carpk.verdict.priors import against_the_prior, uninformed
from carpk.verdict.words import (
    BUT,
    GRADES,
    OK,
    WRONG,
    Finding,
    Grade,
    SolverSummary,
    doubt,
    note,
    number,
    outlier_findings,
    trouble,
)

EVEN = 0.8  # relative ESS after weighting for the solver error, reported below


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Trustworthiness of a fit.

    Attributes:
        findings: each with the grade that it gives the fit by itself.
        numbers: the diagnostics behind it.
    """

    findings: tuple[Finding, ...]
    numbers: Mapping[str, float]

    @property
    def grade(self) -> Grade:
        """The worst of the findings.

        "OK"; "OK, BUT": the draws are sound, and the model or the data raise a doubt that the
        reader must see; "DO NOT TRUST": the numbers themselves may be wrong.
        """
        return max((f.grade for f in self.findings), key=GRADES.index, default=OK)

    @property
    def ok(self) -> bool:
        """False where the numbers themselves may be wrong: "DO NOT TRUST"."""
        return self.grade != WRONG

    @property
    def troubles(self) -> tuple[str, ...]:
        """Reasons why the numbers may be wrong, with advice."""
        return self._of(WRONG)

    @property
    def doubts(self) -> tuple[str, ...]:
        """Doubts about model or data although the draws are sound, with advice."""
        return self._of(BUT)

    @property
    def notes(self) -> tuple[str, ...]:
        """Further information."""
        return self._of(OK)

    def _of(self, grade: Grade) -> tuple[str, ...]:
        return tuple(f.text for f in self.findings if f.grade == grade)

    def __str__(self) -> str:
        advice = [f"  {i}. {text}" for i, text in enumerate((*self.troubles, *self.doubts), 1)]
        notes = [f"  Note: {text}" for text in self.notes]
        return "\n".join([f"{self.head}: {self._numbers}.", *advice, *notes])

    @property
    def head(self) -> str:
        """The grade, and the number and kinds of doubts where it is "OK, BUT"."""
        if self.grade != BUT:
            return self.grade
        kinds = [f.kind for f in self.findings if f.grade == BUT]
        many = "1 doubt" if len(kinds) == 1 else f"{len(kinds)} doubts"
        return f"{BUT} {many} ({'; '.join(dict.fromkeys(kinds))})"

    @property
    def _numbers(self) -> str:
        n = self.numbers
        if "decrement" in n:
            return _numbers_of_mode(n)
        if not n:
            return "no diagnostics"
        return ", ".join(
            [
                _limit("R-hat at most", n["rhat_max"], ".3f"),
                _limit("effective draws at least", n["ess_min"], ".0f"),
                divergent(int(n["divergences"])),
                _limit("E-BFMI at least", n["ebfmi_min"], ".2f"),
            ]
        )


def _limit(what: str, x: float, form: str) -> str:
    """A diagnostic and its worst value, if it has one."""
    if math.isnan(x):
        return f"{what.split(' at ')[0]} cannot be computed"
    return f"{what} {number(x, form)}"


def _numbers_of_mode(n: Mapping[str, float]) -> str:
    away = math.sqrt(max(n["decrement"], 0.0)) if math.isfinite(n["decrement"]) else math.nan
    where = f"the mode, which is {number(away, '.1g')} posterior SDs away at most"
    if math.isnan(away):
        where = "a point whose distance from the mode is not known"
    if n["settled"] and not n["decrement"] < DECREMENT:
        where = "a centre found by importance sampling"
    patients = f"; {n['patients_at_mode']:.0f} of {n['patients']:.0f} patients at their modes"
    patients = patients if n["patients"] else ""
    if "k_hat" in n:
        patients += (
            f"; importance ESS {number(n['ess'], '.0f')} (Pareto k-hat {number(n['k_hat'], '.2f')})"
        )
    return f"normal approximation around {where}{patients}"


def judge(
    posterior: xr.Dataset,
    stats: xr.Dataset,
    prior: xr.Dataset,
    bound: BoundPopulation,
    settings: Mapping[str, Any],
    pointwise: xr.Dataset | None = None,
) -> Verdict:
    """The verdict on a set of draws; `pointwise` are the log-likelihoods of observations.

    Of `settings` it reads method, chains, draws, modes, mode, importance, ends, solver, outliers,
    interrupted and cure: {"told": what was done after the planned draws, in a sentence; "agree":
    two runs agree within Monte Carlo error; "divergences": of the first and of the second run}.
    """
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of what is not finite, which is told
        return _judged(posterior, stats, prior, bound, settings, pointwise)


def _judged(
    posterior: xr.Dataset,
    stats: xr.Dataset,
    prior: xr.Dataset,
    bound: BoundPopulation,
    settings: Mapping[str, Any],
    pointwise: xr.Dataset | None,
) -> Verdict:
    found = _not_finite(posterior)
    told = of_modes(posterior, bound, settings)
    found += told
    modes = [finding for finding in told if finding.grade == WRONG]
    if settings["method"] == "nuts":
        more, numbers = of_chains(posterior, stats, bound, settings, bool(modes))
    else:
        more, numbers = of_mode(bound, settings)
    found += more + _of_predictions(posterior, pointwise, settings)
    outliers = settings.get("outliers", {})
    found += against_the_prior(posterior, prior, bound) + outlier_findings(outliers)
    found += _of_weights(settings) + of_points(bound, settings)
    if not modes:  # whose distance is no spread
        held = [each["parameter"] for each in outliers.get("shift", ())]
        found += uninformed(posterior, prior, bound, settings, held)
    found += _of_coordinates(settings) + _of_data(bound)
    return Verdict(tuple(sorted(found, key=lambda f: -GRADES.index(f.grade))), numbers)


def _not_finite(posterior: xr.Dataset) -> list[Finding]:
    names = [str(k) for k in posterior if not np.isfinite(posterior[k].values).all()]
    if not names:
        return []
    have = "has" if len(names) == 1 else "have"
    return [
        trouble(
            "draws that are not finite",
            f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''} {have} draws that are not "
            "finite: look for impossible data or priors without bounds.",
        )
    ]


def _of_data(bound: BoundPopulation) -> list[Finding]:
    """Covariates at their reference, and the share below the LLOQ."""
    found = [
        note(
            "reference value",
            f"{name} = {value:g} for everybody, the model file's reference: the data have no "
            f"column {name!r}.",
        )
        for name, value in bound.at_reference.items()
    ]
    if bound.individual is not None:
        censored = bound.individual.censored[bound.individual.mask] == 1
        if censored.any():
            found.append(
                note(
                    "below the LLOQ",
                    f"{censored.mean():.0%} of the observations are below the LLOQ (M3 "
                    "likelihood).",
                )
            )
    return found


def _of_predictions(
    posterior: xr.Dataset, pointwise: xr.Dataset | None, settings: Mapping[str, Any]
) -> list[Finding]:
    """Patients without a solution, a solver that biases the posterior, an interrupted fit."""
    found = []
    lost: dict[str, int] = {}
    for each in [] if pointwise is None else pointwise.data_vars.values():
        failing = ~np.isfinite(each.values)
        patient = next(c for c in each.coords if str(c).startswith("patient"))
        for label, count in zip(each[patient].values, failing.sum((0, 1)), strict=True):
            if count:
                lost[str(label)] = max(lost.get(str(label), 0), int(count))
    if lost:
        total = posterior.sizes["chain"] * posterior.sizes["draw"]
        named = ", ".join(f"{k} in {n} of {total}" for k, n in list(lost.items())[:5])
        of = "1 patient" if len(lost) == 1 else f"{len(lost)} patients"
        found.append(
            trouble(
                "likelihood that is not finite",
                f"The likelihood of {of} is not finite in some draws ({named}): the equations have "
                "no solution there. Use narrower priors, or look at the patients' doses and units.",
            )
        )
    solver = settings.get("solver")
    if solver is not None and not solver["ok"]:
        found.append(_of_solver(solver))
    if settings.get("interrupted"):
        found.append(
            trouble(
                "interrupted",
                "The fit was stopped before its last draw: what is here may be used for a look. "
                "The same call with the same `folder` goes on from there.",
            )
        )
    return found


def _of_solver(solver: SolverSummary) -> Finding:
    """A solver error too large for the posterior, or failures the adaptive route does not have."""
    if math.isfinite(solver["k_hat"]) and math.isfinite(solver["spread"]):
        how = (
            f"Pareto k-hat {number(solver['k_hat'], '.2f')}, to be below {PARETO_K}, over "
            f"{solver['draws']} draws solved again adaptively, ln likelihood off by up to "
            f"{number(solver['spread'], '.2g')} between them, {solver['failed']} without a solution"
        )
    else:
        how = (
            f"of {solver['draws']} draws solved again adaptively, some have a finite likelihood "
            "there and none here, or the other way round"
        )
    return trouble(
        "solver",
        f"The solver changed the posterior ({how}): fit again with Population(..., rtol=1e-6).",
    )


def _of_weights(settings: Mapping[str, Any]) -> list[Finding]:
    """A solver error that weights can correct, but that is not negligible."""
    solver = settings.get("solver")
    if solver is None or not solver["ok"] or solver.get("ess", 1.0) > EVEN:
        return []
    return [
        doubt(
            "solver error",
            f"The solver's error (predictions off by up to {number(solver['error'], '.2g')} of "
            f"their value) moves the posterior: {solver['ess']:.0%} of the draws remain after "
            "weighting. Weight them (checks.solver_error(fit).log_weights), or fit again with "
            "Population(..., rtol=1e-6).",
        )
    ]


def _of_coordinates(settings: Mapping[str, Any]) -> list[Finding]:
    """Partial centring of the random effects by "nuts"."""
    told = []
    for level, each in settings.get("mode", {}).get("held", {}).items():
        low, middle, high = np.quantile(each, (0, 0.5, 1))
        told.append(f"{level}s median {middle:.0%} (range {low:.0%} to {high:.0%})")
    if settings["method"] != "nuts" or not told:
        return []
    return [
        note(
            "centring",
            f"partial centring of random effects: {', '.join(told)}; 100% = centred.",
        )
    ]
