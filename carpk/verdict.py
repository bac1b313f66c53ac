"""Whether a fit can be trusted, and what to do where it cannot."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats
import xarray as xr

from carpk._arviz import PARETO_K, az
from carpk.advice import (
    BUT,
    GRADES,
    OK,
    WRONG,
    Finding,
    Grade,
    chance,
    doubt,
    note,
    number,
    surprising,
    trouble,
    unit_of,
)
from carpk.effects import CORRELATION
from carpk.laplace import DECREMENT
from carpk.population import PopulationModel

RHAT_MAX = 1.01
ESS_MIN = 400
EBFMI_MIN = 0.3
UNINFORMED = 0.9  # posterior SD over prior SD, on the estimation scale
CROSSINGS = 20  # between modes, of every chain, from which they are taken to be sampled
SAME_MODE = 0.1  # difference of ln density
CONFLICT = 3.0  # SDs of their difference between the prior and what the data say by themselves
CONFLICT_OF_TIMES = 2.5  # the same, of a parameter in time that is 24 times off
MOVED = 0.5  # posterior SDs by which a prior must move a parameter, for its conflict to be a doubt
MOVED_SPREAD = 1.0  # the same, of SDs: omegas and those of residuals
AT_BOUND = 0.01  # share of a range
PRIOR_ALONE = 0.05  # 1 - (SD ratio)^2 below which a posterior does not tell data from prior
HELD = 0.5  # the same, above which the prior hardly holds it
TOGETHER = 0.5  # least part in a direction that the data leave open, to be named
MASS = 0.05  # share of the posterior below which another mode is not told
EVEN = 0.8  # effective share of draws that weights for the solver's error leave, to be told below
SWAPPED = 0.1  # relative difference of two values that have changed places
FEW_PATIENTS = 40  # below which a normal approximation of population parameters is told of
FEW_POINTS = 5  # effective ones for a patient's random effects, to be told below


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a fit can be trusted.

    Attributes:
        findings: what there is to say, each with the grade that it gives the fit by itself.
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
        """Why the numbers may be wrong, one sentence each, with what to do."""
        return self._of(WRONG)

    @property
    def doubts(self) -> tuple[str, ...]:
        """What in the model or the data must be looked at although the draws are sound."""
        return self._of(BUT)

    @property
    def notes(self) -> tuple[str, ...]:
        """What else the reader may want to know."""
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
                _divergent(int(n["divergences"])),
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
            f"; by exact density {number(n['ess'], '.0f')} draws count "
            f"(Pareto k-hat {number(n['k_hat'], '.2f')})"
        )
    return f"normal approximation around {where}{patients}"


def _divergent(count: int) -> str:
    return f"{count} divergent transition{'' if count == 1 else 's'}"


def judge(
    posterior: xr.Dataset,
    stats: xr.Dataset,
    prior: xr.Dataset,
    bound: PopulationModel,
    settings: Mapping[str, Any],
    pointwise: xr.Dataset | None = None,
) -> Verdict:
    """The verdict on a set of draws; `pointwise` are the log-likelihoods of observations.

    Of `settings` it reads method, chains, draws, modes, mode, importance, ends, solver, surprises,
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
    bound: PopulationModel,
    settings: Mapping[str, Any],
    pointwise: xr.Dataset | None,
) -> Verdict:
    found = _not_finite(posterior)
    told = _of_modes(posterior, bound, settings)
    found += told
    modes = [finding for finding in told if finding.grade == WRONG]
    if settings["method"] == "nuts":
        more, numbers = _of_chains(posterior, stats, bound, settings, bool(modes))
    else:
        more, numbers = _of_mode(bound, settings)
    found += more + _of_levels(posterior, pointwise, settings)
    surprises = settings.get("surprises", {})
    found += _against_the_prior(posterior, prior, bound) + surprising(surprises)
    found += _of_weights(settings) + _of_points(bound, settings)
    if not modes:  # whose distance is no spread
        held = [fact["parameter"] for fact in surprises.get("shift", ())]
        found += _uninformed(posterior, prior, bound, settings, held)
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


def _of_data(bound: PopulationModel) -> list[Finding]:
    """What was taken for everybody, and the share below the LLOQ."""
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


def _uninformed(
    posterior: xr.Dataset,
    prior: xr.Dataset,
    bound: PopulationModel,
    settings: Mapping[str, Any],
    held: Sequence[str],
) -> list[Finding]:
    """Parameters, and combinations of them, of which the data say nothing.

    Args:
        held: parameters that the prior holds away from the data, which is another matter.
    """
    ratio = {k: posterior_over_prior(bound, posterior, prior, k).max() for k in bound.priors}
    alone = [k for k, x in ratio.items() if x > UNINFORMED and k not in held]
    found = []
    if alone:
        found.append(
            doubt(
                "parameter without information",
                "The data say next to nothing about "
                + ", ".join(alone)
                + f": the posterior is as wide as the prior (SD ratio above {UNINFORMED}), and "
                "what is reported of it is the prior.",
            )
        )
    return found + (
        _open_together(posterior, prior, bound, alone) if settings["method"] != "map" else []
    )


def _of_levels(
    posterior: xr.Dataset, pointwise: xr.Dataset | None, settings: Mapping[str, Any]
) -> list[Finding]:
    """Patients without levels, a solver that changed the answer, a fit that was stopped."""
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


def _of_solver(solver: Mapping[str, Any]) -> Finding:
    """A solver whose error is too large for the posterior, or that fails where another does not."""
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


def _levels_over_prior(bound: PopulationModel, prior: xr.Dataset) -> float:
    """Measured levels over those of a typical patient of the prior, in the median; 1 if none."""
    if bound.individual is None:
        return 1.0
    shared = {name: np.zeros(len(bound.clusters)) for name in bound.shared}
    theta = {k: np.median(prior[k].values, axis=(0, 1)) for k in bound.priors} | shared
    a, levels = bound.individual, np.asarray(bound.population_levels(theta))
    measured = a.mask & (a.censored == 0)
    ratio = float(np.exp(np.median(np.log(a.value / levels)[measured]))) if measured.any() else 1.0
    return ratio if np.isfinite(ratio) else 1.0


def _of_weights(settings: Mapping[str, Any]) -> list[Finding]:
    """Whether the solver's error is small enough, but not so small as to be forgotten."""
    solver = settings.get("solver")
    if solver is None or not solver["ok"] or solver.get("ess", 1.0) > EVEN:
        return []
    return [
        doubt(
            "solver error",
            f"The solver's error (levels off by up to {number(solver['error'], '.2g')} of their "
            f"value) moves the posterior: {solver['ess']:.0%} of the draws remain after weighting. "
            "Weight them (checks.solver(fit).log_weights), or fit again with "
            "Population(..., rtol=1e-6).",
        )
    ]


def _of_coordinates(settings: Mapping[str, Any]) -> list[Finding]:
    """How far "nuts" centred the random effects."""
    told = []
    for level, each in settings.get("mode", {}).get("held", {}).items():
        low, middle, high = np.quantile(each, (0, 0.5, 1))
        told.append(f"{level}s' {middle:.0%} ({low:.0%} to {high:.0%})")
    if settings["method"] != "nuts" or not told:
        return []
    return [
        note(
            "centring",
            f"random effects were sampled partly centred: {', '.join(told)}, where 100% is centred "
            "and 0% non-centred.",
        )
    ]


def _of_points(bound: PopulationModel, settings: Mapping[str, Any]) -> list[Finding]:
    """Patients over whose random effects "laplace" integrates badly."""
    points = settings.get("importance", {}).get("points")
    pairs = zip(bound.patients, points, strict=True) if points else ()
    few = [f"{patient} {n}" for patient, n in pairs if n < FEW_POINTS]
    if not few:
        return []
    of = "1 patient" if len(few) == 1 else f"{len(few)} patients"
    return [
        doubt(
            "rough integral",
            f"The random effects of {of} are far from normal given the population (of the "
            f"points over them few count: {', '.join(few[:5])}), and what they say of the "
            'population is rough: use method="nuts".',
        )
    ]


def _structural(bound: PopulationModel, name: str) -> bool:
    """Whether a parameter is one of the model, or an effect on one: neither omega nor sigma."""
    return not (name.startswith("omega_") or name in bound.residual_parameters)


def _against_the_prior(
    posterior: xr.Dataset, prior: xr.Dataset, bound: PopulationModel
) -> list[Finding]:
    """Parameters whose prior the data contradict, or that lie at the end of their range."""
    found = []
    for name in bound.priors:
        if name == CORRELATION or not np.isfinite(posterior[name].values).all():
            continue
        ends = _at_bound(posterior, prior, bound, name)
        conflict = _conflict(posterior, prior, bound, name)
        found += ends + [f for f in conflict if f.grade == WRONG or not ends]
    return found


def _conflict(
    posterior: xr.Dataset, prior: xr.Dataset, bound: PopulationModel, name: str
) -> list[Finding]:
    """What prior and data say of a parameter, where they contradict each other.

    On the estimation scale, with normal distributions: what the data say by themselves follows from
    prior and posterior, and the distance between it and the prior has a known SD. How far the prior
    moves the answer is told in posterior SDs: a prior that the data overrule is no doubt, unless
    its distance is that between two units.
    """
    scale = bound.scale(name)
    after, before = (np.asarray(scale.forward(x[name].values)) for x in (posterior, prior))
    middle, centre = (np.atleast_1d(np.median(x, (0, 1))) for x in (after, before))
    sd, wide = (np.atleast_1d(x.std((0, 1))) for x in (after, before))
    told = np.maximum(1 - (sd / wide) ** 2, PRIOR_ALONE)  # 1: all is known from the data
    away = (middle - centre) / wide
    pull = np.abs(away) / np.sqrt(told)
    moves = np.abs(away) * np.sqrt(np.maximum(1 - told, 0.0)) / told
    hours = _hours(bound, name, scale.inverse(middle), scale.inverse(centre))
    limit = CONFLICT_OF_TIMES if hours else CONFLICT
    clear = (told > PRIOR_ALONE) | (np.abs(away) > CONFLICT) | hours
    if not (np.isfinite(pull).all() and (clear & (pull > limit)).any()):
        return []
    i = int(np.argmax(np.where(clear, pull, 0.0)))
    data = centre[i] + (middle[i] - centre[i]) / told[i]
    here, there, alone = (
        number(float(np.ravel(np.asarray(scale.inverse(np.full(middle.shape, x))))[i]))
        for x in (centre[i], middle[i], data)
    )
    strength = chance(float(2 * scipy.stats.norm.sf(pull[i])))
    told_of = (
        f"its posterior ({there}) lies {number(abs(away[i]), '.1f')} prior SDs from the middle of "
        f"the prior ({here}){strength}"
    )
    model = _structural(bound, name)
    ratio = _levels_over_prior(bound, prior) if model else 1.0
    far = not 0.1 < ratio < 10
    levels = f" The levels are {number(ratio)} times those that it expects{unit_of(ratio)}."
    levels = levels if far else ""
    if unit_of(ratio):
        text = f"Data and prior disagree about {name}: {told_of}.{levels} Look at units and doses "
        return [trouble("unit", text + "first, then at the prior, then at the model.")]
    if hours:
        return [
            doubt(
                "hours or days",
                f"Data and prior disagree about {name}: {told_of}, a factor near 24: are times in "
                "hours? carpk counts in days (time, and the times of doses). Look at these columns "
                "first, then at the prior, then at the model.",
            )
        ]
    if moves[i] > (MOVED if model else MOVED_SPREAD) or levels:
        if told[i] < HELD:
            told_of = (
                f"the prior is so narrow that it holds {name} near {there}, but the data by "
                f"themselves would put it near {alone}, {number(pull[i], '.1f')} SDs away from "
                f"the prior{strength}"
            )
        else:
            told_of += f", which moves it by {number(float(moves[i]), '.1f')} posterior SDs"
        return [
            doubt(
                "prior against data",
                f"Data and prior disagree about {name}: {told_of}.{levels} Widen the prior, or "
                f"find out why these data differ from it: {_suspects(bound, name)}.",
            )
        ]
    if not model:
        return []
    return [
        note(
            "prior overruled",
            f"the data overrule the prior of {name}: {told_of}, which moves it by "
            f"{number(moves[i], '.1f')} posterior SDs only.{levels}",
        )
    ]


def _hours(bound: PopulationModel, name: str, here: Any, there: Any) -> bool:
    """Whether a parameter in time, or by time, is off as if hours stood for days."""
    if "day" not in bound.unit(name):
        return False
    ratio = abs(float(np.log(np.ravel(here)[0] / np.ravel(there)[0])))
    return abs(ratio - math.log(24)) < math.log(1.5)


def _suspects(bound: PopulationModel, name: str) -> str:
    """Where the reason may lie for what the data say of a parameter."""
    if name.startswith("omega_"):
        return "single patients first, then the model"
    if name in bound.residual_parameters:
        return "single samples first, then the model, which may not follow the curves"
    return "units, assay, patients, then the model"


def _at_bound(
    posterior: xr.Dataset, prior: xr.Dataset, bound: PopulationModel, name: str
) -> list[Finding]:
    low, high = bound.bounds(name)
    if not (math.isfinite(low) and math.isfinite(high)):
        return []
    places = [(x[name].values - low) / (high - low) for x in (posterior, prior)]
    at, before = [np.mean((x < AT_BOUND) | (x > 1 - AT_BOUND)) for x in places]
    if not (at > 0.5 and at > 2 * before):
        return []
    return [
        doubt(
            "parameter at its bound",
            f"{name} lies at the end of its range ({low:g} to {high:g}) in {at:.0%} of the draws: "
            "fix it there, or choose a model without it.",
        )
    ]


def _open_together(
    posterior: xr.Dataset, prior: xr.Dataset, bound: PopulationModel, alone: Sequence[str]
) -> list[Finding]:
    """Combinations of parameters that the data leave open though each of them looks informed.

    In units of the prior SDs, a direction in which the posterior is as wide as the prior.
    """
    names = [
        name
        for name in bound.priors
        if name != CORRELATION and name not in alone and posterior[name].ndim == 2
        if np.isfinite(posterior[name].values).all()
    ]
    if len(names) < 2:
        return []

    def columns(draws: xr.Dataset) -> np.ndarray:
        each = [np.ravel(bound.scale(n).forward(draws[n].values)) for n in names]
        return np.stack([np.asarray(x) for x in each])

    cov = np.cov(columns(posterior) / columns(prior).std(axis=1, keepdims=True))
    if not np.isfinite(cov).all():
        return []
    found = []
    values, vectors = np.linalg.eigh(cov)
    for value, vector in zip(values, vectors.T, strict=True):
        parts = [(n, x) for n, x in zip(names, vector, strict=True) if abs(x) > TOGETHER / 2]
        strong = sum(abs(x) > TOGETHER for _, x in parts)
        if value < UNINFORMED**2 or len(parts) < 2 or not strong:
            continue
        first = np.sign(parts[0][1])
        same = ", ".join(n for n, x in parts if np.sign(x) == first)
        other = ", ".join(n for n, x in parts if np.sign(x) != first)
        moves = f"{same} up and {other} down" if other else f"{same} up or down together"
        found.append(
            doubt(
                "parameters not told apart",
                f"The data do not tell {', '.join(n for n, _ in parts)} apart: {moves} fits them "
                "as well, as far as the prior allows. Fix one of them, or report only what they "
                "have in common, such as their product or ratio (checks.identifiability).",
            )
        )
    return found


def _of_modes(
    posterior: xr.Dataset, bound: PopulationModel, settings: Mapping[str, Any]
) -> list[Finding]:
    """Several modes that count, in words; and whether they are one with names exchanged.

    Chains that go to and fro between them have them in their right shares.
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
    bound: PopulationModel,
    modes: Sequence[Mapping[str, Any]],
    moved: Sequence[str],
) -> bool:
    """Whether every chain goes from mode to mode, `CROSSINGS` times at least.

    A draw is with the mode that is nearest on the estimation scale, in posterior SDs.
    """
    names = [name for name in moved if name in posterior and posterior[name].ndim == 2]
    if not names:
        return False
    away = 0.0
    for name in names:
        forward = bound.scale(name).forward
        draws = np.asarray(forward(posterior[name].values))  # (chain, draw)
        places = np.array([float(forward(mode["theta"][name])) for mode in modes])
        away = away + ((draws - places[:, None, None]) / max(float(draws.std()), 1e-300)) ** 2
    nearest = np.argmin(away, axis=0)
    visited = all(len(np.unique(chain)) == len(modes) for chain in nearest)
    return visited and int(np.min(np.sum(np.diff(nearest, axis=1) != 0, axis=1))) >= CROSSINGS


def _near(one: float, other: float) -> bool:
    """Whether two values are the same, but for the accuracy of a mode."""
    return abs(one - other) <= SWAPPED * max(abs(one), abs(other))


def _of_mode(
    bound: PopulationModel, settings: Mapping[str, Any]
) -> tuple[list[Finding], dict[str, float]]:
    """What there is to say of a mode."""
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


def _unsettled(mode: Mapping[str, Any]) -> list[Finding]:
    """Why a normal approximation is not one of the posterior."""
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
    """Whether draws around a mode may be weighted by their exact density."""
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
                f"Only {number(ess, '.0f')} draws count, below {ESS_MIN}, after weighting by their "
                'density: raise draws, or use method="nuts".',
            )
        ]
    return []


def _of_ends(ends: Sequence[float]) -> list[Finding]:
    """What a mode alone leaves open, and whether other starts ended there too."""
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


def _of_chains(
    posterior: xr.Dataset,
    stats: xr.Dataset,
    bound: PopulationModel,
    settings: Mapping[str, Any],
    several: bool,
) -> tuple[list[Finding], dict[str, float]]:
    """What there is to say of chains; `several` modes of the posterior are known."""
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
    posterior: xr.Dataset, bound: PopulationModel, count: int, cure: Mapping[str, Any]
) -> list[Finding]:
    """What divergent transitions mean, before or after a second run with smaller steps."""
    many = _divergent(count)
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
    spreads = {k: float(np.median(posterior[k].values)) for k in bound.priors if k[:6] == "omega_"}
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


def _slow_energy(bound: PopulationModel, ebfmi: float) -> Finding:
    omegas = any(name.startswith("omega_") for name in bound.priors)
    return doubt(
        "slow energy",
        f"The energy changes slowly from draw to draw (E-BFMI {number(ebfmi, '.2f')}, to be above "
        f"{EBFMI_MIN}): the posterior has heavy tails, and the ends of intervals are less exact "
        f"than R-hat and effective draws say. Use narrower priors"
        f"{' for the omegas' if omegas else ''}.",
    )


def _by_chain(posterior: xr.Dataset, name: str) -> str:
    """Medians by chain of a parameter of everybody."""
    if name not in posterior:
        return ""
    medians = np.median(posterior[name].values, axis=1)
    return "; medians by chain: " + ", ".join(number(float(x)) for x in medians)


def mixing(posterior: xr.Dataset) -> tuple[dict[str, float], dict[str, float]]:
    """R-hat, and the smaller of bulk and tail effective draws, of every scalar."""
    with np.errstate(invalid="ignore"):  # the diagonal of a correlation is 1 in every draw
        rhat = by_element(az.rhat(posterior))
        bulk, tail = (by_element(az.ess(posterior, method=how)) for how in ("bulk", "tail"))
    return rhat, {k: min(bulk[k], tail[k]) for k in bulk}


def by_element(result: Any) -> dict[str, float]:
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


def posterior_over_prior(
    bound: PopulationModel, posterior: xr.Dataset, prior: xr.Dataset, name: str
) -> np.ndarray:
    """Posterior SD over prior SD on the estimation scale, one per column of an effect."""
    forward = bound.scale(name).forward
    after, before = (np.asarray(forward(x[name].values)) for x in (posterior, prior))
    spread = [np.atleast_1d(x.std(axis=(0, 1))) for x in (after, before)]
    if name == CORRELATION:
        spread = [x[np.triu_indices(len(x), 1)] for x in spread]
    return spread[0] / spread[1]
