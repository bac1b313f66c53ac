"""Whether a fit can be trusted, and what to do where it cannot."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from carpk._arviz import PARETO_K, az
from carpk.effects import CORRELATION
from carpk.importance import POINTS
from carpk.laplace import DECREMENT
from carpk.population import PopulationModel

RHAT_MAX = 1.01
ESS_MIN = 400
EBFMI_MIN = 0.3
UNINFORMED = 0.9  # posterior SD over prior SD, on the estimation scale
SAME_MODE = 0.1  # difference of ln density
CONFLICT = 3.0  # prior SDs between the medians of prior and posterior
AT_BOUND = 0.01  # share of a range
PRIOR_ALONE = 0.05  # 1 - (SD ratio)^2 below which a posterior does not tell data from prior
HELD = 0.5  # the same, above which the prior hardly holds it
TOGETHER = 0.5  # least part in a direction that the data leave open, to be named
MASS = 0.05  # share of the posterior below which another mode is not told
EVEN = 0.8  # effective share of draws that weights for the solver's error leave, to be told below
SWAPPED = 0.1  # relative difference of two values that have changed places
FEW_POINTS = 5  # effective ones for a patient's random effects, to be told below
DOUBTED = 1e-3  # p of a surprise below which the fit is not to be trusted
UNITS = {1e3: "mL and µL, or mg and µg, say", 1e6: "L and µL, or g and µg, say"}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a fit can be trusted.

    Attributes:
        ok: False on any doubt about the draws themselves.
        troubles: one sentence each, with what to do; empty if and only if `ok`.
        notes: what the reader must know although the draws are sound, above all the parameters
            that the data say nothing about.
        numbers: the diagnostics behind it.
    """

    ok: bool
    troubles: tuple[str, ...]
    notes: tuple[str, ...]
    numbers: Mapping[str, float]

    def __str__(self) -> str:
        head = "OK" if self.ok else "DO NOT TRUST"
        troubles = [f"  {i}. {text}" for i, text in enumerate(self.troubles, 1)]
        notes = [f"  Note: {text}" for text in self.notes]
        return "\n".join([f"{head}: {self._numbers}.", *troubles, *notes])

    @property
    def _numbers(self) -> str:
        n = self.numbers
        if "decrement" in n:
            where = f"the mode, which is {math.sqrt(n['decrement']):.1g} posterior SDs away at most"
            if n["settled"] and not n["decrement"] < DECREMENT:
                where = "a centre found by importance sampling"
            patients = (
                f"; {n['patients_at_mode']:.0f} of {n['patients']:.0f} patients at their modes"
            )
            patients = patients if n["patients"] else ""
            if "k_hat" in n:
                patients += (
                    f"; {n['ess']:.0f} draws count by exact density (k-hat {n['k_hat']:.2f})"
                )
            return f"normal approximation around {where}{patients}"
        return (
            f"R-hat at most {n['rhat_max']:.3f}, effective draws at least {n['ess_min']:.0f}, "
            f"{n['divergences']:.0f} divergences, E-BFMI at least {n['ebfmi_min']:.2f}"
        )


def judge(
    posterior: xr.Dataset,
    stats: xr.Dataset,
    prior: xr.Dataset,
    bound: PopulationModel,
    settings: Mapping[str, Any],
    pointwise: xr.Dataset | None = None,
) -> Verdict:
    """The verdict on a set of draws; `pointwise` are the log-likelihoods of observations."""
    troubles, surprising = _surprising(settings.get("surprises", {}))
    nonfinite = [str(k) for k in posterior if not np.isfinite(posterior[k].values).all()]
    if nonfinite:
        troubles.append(
            f"{', '.join(nonfinite)} has draws that are not finite: look for impossible data or "
            "priors without bounds."
        )
    modes = _of_modes(settings)
    if settings["method"] == "nuts":
        more, numbers = _of_chains(posterior, stats, bool(modes))
    else:
        more, numbers = _of_mode(bound, settings)
    against, pulled = _against_the_prior(posterior, prior, bound)
    troubles += against
    troubles += modes + more + _of_levels(posterior, pointwise, bound, settings)
    notes = surprising + pulled + _of_weights(settings) + _of_points(bound, settings)
    notes += _of_coordinates(settings)
    notes += [
        f"{name} = {value:g} for everybody, the model file's reference: the data have no column "
        f"{name!r}."
        for name, value in bound.at_reference.items()
    ]
    ratio = {k: posterior_over_prior(bound, posterior, prior, k).max() for k in bound.priors}
    held = [fact["parameter"] for fact in settings.get("surprises", {}).get("shift", ())]
    uninformed = [k for k, x in ratio.items() if x > UNINFORMED and k not in held]
    if uninformed and not modes:  # whose distance is no spread
        notes.append(
            "the data say next to nothing about "
            + ", ".join(uninformed)
            + f": the posterior is as wide as the prior (SD ratio above {UNINFORMED})."
        )
    if settings["method"] != "map" and not modes:
        notes += _open_together(posterior, prior, bound, uninformed)
    if bound.individual is not None:
        censored = bound.individual.censored[bound.individual.mask] == 1
        if censored.any():
            notes.append(
                f"{censored.mean():.0%} of the observations are below the LLOQ (M3 likelihood)."
            )
    return Verdict(not troubles, tuple(troubles), tuple(notes), numbers)


def _of_levels(
    posterior: xr.Dataset,
    pointwise: xr.Dataset | None,
    bound: PopulationModel,
    settings: Mapping[str, Any],
) -> list[str]:
    """Patients without levels, and a solver that changed the answer."""
    troubles = []
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
        troubles.append(
            f"The likelihood of {len(lost)} patients is not finite in some draws ({named}): the "
            "equations have no solution there. Use narrower priors, or look at the patients' doses "
            "and units."
        )
    solver = settings.get("solver")
    if solver is not None and not solver["ok"]:
        troubles.append(
            f"The solver changed the posterior (Pareto k-hat {solver['k_hat']:.2f} above 0.7 over "
            f"{solver['draws']} draws solved again, ln likelihood off by up to "
            f"{solver['spread']:.2g} between them, {solver['failed']} without a solution): fit "
            "again with Population(..., rtol=1e-6)."
        )
    if settings.get("interrupted"):
        troubles.append(
            "The fit was stopped before its last draw: what is here may be used for a look. The "
            "same call with the same `folder` goes on from there."
        )
    return troubles


def _of_units(bound: PopulationModel, prior: xr.Dataset) -> str:
    """How far the measured levels lie from those of a typical patient of the prior."""
    if bound.individual is None:
        return ""
    shared = {name: np.zeros(len(bound.clusters)) for name in bound.shared}
    theta = {k: np.median(prior[k].values, axis=(0, 1)) for k in bound.priors} | shared
    a, levels = bound.individual, np.asarray(bound.population_levels(theta))
    measured = a.mask & (a.censored == 0)
    ratio = float(np.exp(np.median(np.log(a.value / levels)[measured]))) if measured.any() else 1.0
    if not np.isfinite(ratio) or 0.1 < ratio < 10:
        return ""
    return f" The levels are {ratio:.3g} times those that it expects{unit_of(ratio)}."


def _of_weights(settings: Mapping[str, Any]) -> list[str]:
    """Whether the solver's error is small enough, but not so small as to be forgotten."""
    solver = settings.get("solver")
    if solver is None or not solver["ok"] or solver.get("ess", 1.0) > EVEN:
        return []
    return [
        f"the solver's error (levels off by up to {solver['error']:.2g} of their value) moves the "
        f"posterior: {solver['ess']:.0%} of the draws remain after weighting. Weight them "
        "(checks.solver(fit).log_weights), or fit again with Population(..., rtol=1e-6)."
    ]


def _of_coordinates(settings: Mapping[str, Any]) -> list[str]:
    """How far "nuts" centred the random effects."""
    told = []
    for level, each in settings.get("mode", {}).get("held", {}).items():
        low, middle, high = np.quantile(each, (0, 0.5, 1))
        told.append(f"{level}s' {middle:.0%} ({low:.0%} to {high:.0%})")
    if settings["method"] != "nuts" or not told:
        return []
    return [f"random effects were sampled as far centred as data hold them: {', '.join(told)}."]


def _of_points(bound: PopulationModel, settings: Mapping[str, Any]) -> list[str]:
    """Patients over whose random effects "laplace" integrates badly."""
    points = settings.get("importance", {}).get("points")
    pairs = zip(bound.patients, points, strict=True) if points else ()
    few = [f"{patient} {n}" for patient, n in pairs if n < FEW_POINTS]
    if not few:
        return []
    return [
        f"the random effects of {len(few)} patients are far from normal given the population (of "
        f"{POINTS} points over them, few count: {', '.join(few[:5])}), and what they say of the "
        'population is rough: use method="nuts".'
    ]


def _against_the_prior(
    posterior: xr.Dataset, prior: xr.Dataset, bound: PopulationModel
) -> tuple[list[str], list[str]]:
    """Parameters that lie far outside their prior, or at the end of their range; and notes.

    That a prior holds a parameter away from the data rests on a normal likelihood far from where
    the draws are: a note, not a trouble.
    """
    troubles, held = [], []
    for name in bound.priors:
        if name == CORRELATION:
            continue
        forward = bound.scale(name).forward
        after, before = (np.asarray(forward(x[name].values)) for x in (posterior, prior))
        axes = (0, 1)
        middle, before_it = np.median(after, axes), np.median(before, axes)
        away = (middle - before_it) / before.std(axes)
        told = 1 - (after.std(axes) / before.std(axes)) ** 2  # 1: all is known from the data
        pull = away / np.sqrt(np.maximum(told, PRIOR_ALONE))
        i = int(np.argmax(np.abs(pull)))
        if np.max(np.abs(away)) > CONFLICT:
            inverse = bound.scale(name).inverse
            there, centre = (
                float(np.ravel(np.asarray(inverse(x)))[i]) for x in (middle, before_it)
            )
            troubles.append(
                f"Data and prior disagree about {name}: its posterior ({there:.3g}) lies "
                f"{np.max(np.abs(away)):.1f} prior SDs from the middle of the prior "
                f"({centre:.3g}).{_of_units(bound, prior)} Look at "
                + ("single patients" if name.startswith("omega_") else "units and doses")
                + " first, then at the prior, then at the model."
            )
        elif PRIOR_ALONE < np.ravel(told)[i] < HELD and np.max(np.abs(pull)) > CONFLICT:
            alone = bound.scale(name).inverse(before_it + (middle - before_it) / told)
            held.append(
                f"data and prior disagree about {name}: the prior is so narrow that it holds "
                f"{name} near {float(np.ravel(bound.scale(name).inverse(middle))[i]):.3g}, but the "
                f"data by themselves would put it near {float(np.ravel(alone)[i]):.2g}, "
                f"{np.max(np.abs(pull)):.1f} SDs away from the prior. Widen the prior, or find out "
                "why these data differ: units, assay, patients, then the model."
            )
        low, high = bound.bounds(name)
        if math.isfinite(low) and math.isfinite(high):
            places = [(x[name].values - low) / (high - low) for x in (posterior, prior)]
            at, before_at = [np.mean((x < AT_BOUND) | (x > 1 - AT_BOUND)) for x in places]
            if at > 0.5 and at > 2 * before_at:
                troubles.append(
                    f"{name} lies at the end of its range ({low:g} to {high:g}) in {at:.0%} of the "
                    "draws: fix it there, or choose a model without it."
                )
    return troubles, held


def _surprising(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[list[str], list[str]]:
    """(troubles, notes) about samples, patients and limits; see `surprises`."""
    troubles: list[str] = []
    notes: list[str] = []
    for kind, say in SURPRISES.items():
        for fact in found.get(kind, ()):
            (troubles if fact["p"] < DOUBTED else notes).append(say(fact))
    return troubles, notes


def _side(number: float) -> str:
    return "above" if number > 0 else "below"


def unit_of(ratio: float) -> str:
    """What a factor looks like, in brackets; empty where it is none between units."""
    for factor, what in UNITS.items():
        for one in (factor, 1 / factor):
            if one / 3 < ratio < one * 3:
                return f" (a factor near {one:g} is that between {what})"
    return ""


def _times_theirs(x: Mapping[str, Any]) -> str:
    """The factor between these and the others, where there is one."""
    return f", {x['ratio']:.3g} times theirs{unit_of(x['ratio'])}" if "ratio" in x else ""


def _say_tied(x: Mapping[str, Any]) -> str:
    return (
        f"{x['count']} measured values of {x['analyte']} are exactly {x['value']:g}, the lowest of "
        "all: this looks like a limit of quantification in place of values. Give these rows "
        f"censored = 1 and lloq = {x['value']:g} (of half the limit: twice that), and fit again."
    )


def _say_under(x: Mapping[str, Any]) -> str:
    return (
        f"{x['count']} measured values of {x['analyte']} lie below {x['lloq']:g}, the lowest LLOQ "
        f"of the censored ones (the smallest is {x['value']:.3g}): the LLOQ is too high, or in "
        "another unit. Look at column lloq."
    )


def _say_gap(x: Mapping[str, Any]) -> str:
    return (
        f"No measured value of {x['analyte']} lies between the LLOQ, {x['lloq']:.3g}, and "
        f"{x['lowest']:.3g}, where {x['expected']:.0f} are expected: the LLOQ is rather near "
        f"{x['lowest']:.2g}. Look at column lloq, its unit above all."
    )


def _say_below(x: Mapping[str, Any]) -> str:
    what = "Too many" if x["seen"] > x["expected"] else "Too few"
    return (
        f"{what} samples of {x['analyte']} are below the LLOQ: {x['seen']} of {x['of']}, where "
        f"{x['expected']:.1f} are expected from the fitted curves. Look at column lloq, at rows "
        "that were left out or filled in, then at the model (checks.vpc)."
    )


def _say_sample(x: Mapping[str, Any]) -> str:
    return (
        f"The sample of patient {x['patient']} on day {x['day']:g} ({x['analyte']} "
        f"{x['value']:.3g}) lies {abs(x['sds']):.1f} SDs of the other residuals "
        f"{_side(x['sds'])} the patient's own curve, and widens sigma for everybody. Look at its "
        "unit and at swapped samples; if it is right, fit without it too and report both."
    )


def _say_scatter(x: Mapping[str, Any]) -> str:
    return (
        f"The samples of patient {x['patient']} lie {x['times']:.1f} times as far from the curve "
        "as those of the others: the model does not describe this patient. Look at the data "
        "(plot.individual_fits): doses, days, a second infusion; then at what else may vary."
    )


def _say_effect(x: Mapping[str, Any]) -> str:
    times = _times_theirs(x)
    return (
        f"Patient {x['patient']} is unlike the others: {x['parameter']} lies {abs(x['sds']):.1f} "
        f"SDs of the others {_side(x['sds'])} their mean{times}, and widens "
        f"omega_{x['parameter']} for everybody. Look at the unit, the dose and swapped samples "
        "(plot.individual_fits); if all is right, fit without the patient too and report both."
    )


def _say_shift(x: Mapping[str, Any]) -> str:
    times = f", {x['ratio']:.3g} times it in the mean" if "ratio" in x else ""
    return (
        f"The patients' {x['parameter']} is not around its typical value{times} "
        f"({abs(x['sds']):.1f} standard errors {_side(x['sds'])} it): the prior of "
        f"{x['parameter']}, or a value in `fixed`, holds the typical value away from the data, and "
        f"omega_{x['parameter']} makes up for it. Widen the prior, or find out why these data "
        "differ from it: units, assay, patients, then the model."
    )


def _say_offset(x: Mapping[str, Any]) -> str:
    return (
        f"The levels of {x['analyte']} lie {_side(x['sds'])} the fitted curves in the mean, by "
        f"{abs(x['sds']):.1f} residual SDs: a prior or a value in `fixed` holds the curves away "
        "from them, and sigma makes up for it. Widen the prior, or find out why these data differ "
        "from it: units, assay, patients, then the model."
    )


def _say_groups(x: Mapping[str, Any]) -> str:
    times = _times_theirs(x)
    far = f"{abs(x['sds']):.1f} SDs within a group"
    told = [
        each["patient"] + (f" ({each['of']})" if each["of"] else "") for each in x["patients"][:8]
    ]
    named = ", ".join(told) + (", ..." if len(x["patients"]) > 8 else "")
    parameter = x["parameter"]
    if any(each["of"] for each in x["patients"]):
        return (
            f"By {parameter} the patients fall into two groups, {far} apart, and some are not with "
            f"their own: {named}. Look at swapped labels of cohorts or arms first, then at units; "
            f"if all is right, {parameter} needs another covariate. The effects of those that it "
            "has are too small as it is."
        )
    return (
        f"The patients fall into two groups by {parameter}: that of {named} lies {far} "
        f"{_side(x['sds'])} the others{times}. Look at units and doses; if all is right, a "
        f"covariate of {parameter} is missing."
    )


SURPRISES = {  # in the order in which they are told
    "tied": _say_tied,
    "under": _say_under,
    "gap": _say_gap,
    "below": _say_below,
    "shift": _say_shift,
    "offset": _say_offset,
    "effects": _say_effect,
    "groups": _say_groups,
    "samples": _say_sample,
    "scatter": _say_scatter,
}


def _open_together(
    posterior: xr.Dataset, prior: xr.Dataset, bound: PopulationModel, alone: Sequence[str]
) -> list[str]:
    """Combinations of parameters that the data leave open though each of them looks informed.

    In units of the prior SDs, a direction in which the posterior is as wide as the prior.
    """
    names = [
        name
        for name in bound.priors
        if name != CORRELATION and name not in alone and posterior[name].ndim == 2
    ]
    if len(names) < 2:
        return []

    def columns(draws: xr.Dataset) -> np.ndarray:
        each = [np.ravel(bound.scale(n).forward(draws[n].values)) for n in names]
        return np.stack([np.asarray(x) for x in each])

    cov = np.cov(columns(posterior) / columns(prior).std(axis=1, keepdims=True))
    if not np.isfinite(cov).all():
        return []
    notes = []
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
        notes.append(
            f"the data do not tell {', '.join(n for n, _ in parts)} apart: {moves} fits them as "
            "well, as far as the prior allows. Fix one of them, or report only what they have in "
            "common, such as their product or ratio (checks.identifiability)."
        )
    return notes


def _of_modes(settings: Mapping[str, Any]) -> list[str]:
    """Several modes that count, in words; and whether they are one with names exchanged."""
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
    mixed = (
        "medians and intervals mix the two as the chains fell"
        if settings["method"] == "nuts"
        else "what is shown holds for one of the two"
    )
    if swapped:
        pairs = " and ".join(f"{a} with {b}" for a, b in swapped)
        others = [k for k in moved if k not in sum(swapped, ())]
        also = "".join(f", as {k} goes from {first[k]:.3g} to {second[k]:.3g}" for k in others[:2])
        return [
            f"Exchanging {pairs} changes nothing that the data can tell{also}: the posterior is "
            f"there twice, and {mixed}. Say which is the larger, by priors that do not overlap or "
            "by a ratio between 0 and 1 in place of the smaller one (as beta_alpha in 'piecewise')."
        ]
    told = "; ".join(
        f"{m['share']:.0%} around "
        + ", ".join(f"{k} {m['theta'][k]:.3g}" for k in (moved or list(first))[:4])
        for m in modes[:3]
    )
    return [
        f"The posterior has {len(modes)} modes ({told}), and {mixed}. Say which one can be true "
        "with a prior (or a parameter fixed to its known value), and report the other if none can "
        "be ruled out."
    ]


def _near(one: float, other: float) -> bool:
    """Whether two values are the same, but for the accuracy of a mode."""
    return abs(one - other) <= SWAPPED * max(abs(one), abs(other))


def _of_mode(
    bound: PopulationModel, settings: Mapping[str, Any]
) -> tuple[list[str], dict[str, float]]:
    """What there is to say of a mode."""
    mode = settings["mode"]
    patients = len(getattr(bound, "patients", ()))
    lost = mode["unconverged"]
    troubles = []
    settled = settings.get("importance", {}).get("settled", mode["converged"])
    missed, flat = not mode["decrement"] < DECREMENT, mode["flat"]
    if not settled and missed:
        troubles.append(
            f"The mode was not found: by the curvature it is {math.sqrt(mode['decrement']):.2g} "
            'posterior SDs away. Use method="nuts", or narrower priors.'
        )
    if not settled and flat:
        troubles.append(
            f"The posterior is flat or bends upwards in {flat} directions, which are given "
            'the spread of the prior or more: use method="nuts", or fix a parameter that the data '
            "cannot tell (checks.identifiability names them)."
        )
    if not (settled or missed or flat or lost):
        troubles.append(
            "Importance sampling around the mode does not settle: the posterior is far from normal "
            'there. Use method="nuts", or narrower priors.'
        )
    draws = settings["chains"] * settings["draws"]
    k_hat, ess = (settings.get("importance", {}).get(key, math.nan) for key in ("k_hat", "ess"))
    if k_hat > PARETO_K:
        troubles.append(
            f"The posterior is far from normal around its mode (Pareto k-hat {k_hat:.2f} above "
            f'{PARETO_K}): intervals are too narrow, or lopsided. Use method="nuts".'
        )
    elif ess < ESS_MIN <= draws:
        troubles.append(
            f"Only {ess:.0f} draws count, below {ESS_MIN}, after weighting by their density: raise "
            'draws, or use method="nuts".'
        )
    if lost:
        named = ", ".join(bound.patients[i] for i in lost[:5])
        troubles.append(
            f"The random effects of {len(lost)} patients have no mode ({named}): look at their "
            "data (plot.individual_fits), at units and doses first."
        )
    if settings["method"] == "laplace" and draws < ESS_MIN:
        troubles.append(
            f"Too few draws ({draws}, below {ESS_MIN}): medians and intervals change with the "
            "seed. Raise draws to 1000, which costs next to nothing here."
        )
    if settings["method"] == "map":
        troubles.append(
            'A mode has no intervals: use method="laplace" or method="nuts" before you conclude.'
        )
        ends = settings["ends"]
        near = sum(ends[0] - x < SAME_MODE for x in ends)
        if near < 2 <= len(ends):
            troubles.append(
                f"Only one of {len(ends)} starts ended at the best mode (the next lies "
                f"{ends[0] - ends[1]:.2g} lower in ln density): there may be a better one. Raise "
                "`starts`, or use narrower priors."
            )
    numbers = {
        "decrement": mode["decrement"],
        "settled": float(settled),
        "patients": float(patients),
        "patients_at_mode": float(patients - len(lost)),
    }
    if math.isfinite(k_hat):
        numbers |= {"k_hat": k_hat, "ess": ess}
    return troubles, numbers


def _of_chains(
    posterior: xr.Dataset, stats: xr.Dataset, several: bool
) -> tuple[list[str], dict[str, float]]:
    """What there is to say of chains; `several` modes of the posterior are known."""
    rhat, ess = mixing(posterior)
    energy = stats["energy"].values
    change = np.mean(np.diff(energy, axis=1) ** 2, axis=1)
    ebfmi = change / np.maximum(np.var(energy, axis=1), 1e-300)
    divergences = int(stats["diverging"].values.sum())
    deep = float(stats["reached_max_treedepth"].values.mean())
    worst_rhat = max(rhat, key=lambda k: rhat[k] if math.isfinite(rhat[k]) else math.inf)
    worst_ess = min(ess, key=lambda k: ess[k] if math.isfinite(ess[k]) else -math.inf)
    troubles = []
    if posterior.sizes["chain"] < 2:
        troubles.append(
            "There is one chain only, and nothing to compare it with: a chain that stays in one "
            "place looks like one that has seen all. Use chains=4."
        )
    if not rhat[worst_rhat] <= RHAT_MAX:
        troubles.append(
            f"The chains disagree (R-hat of {worst_rhat} is {rhat[worst_rhat]:.3f}, above "
            f"{RHAT_MAX}{_by_chain(posterior, worst_rhat)}): "
            + (
                "they stay at different modes, which no number of draws mends."
                if several
                else "sample longer (tune=2000, draws=2000); if they still disagree, the posterior "
                "has several modes: use narrower priors."
            )
        )
    if not ess[worst_ess] >= ESS_MIN and not (several and rhat[worst_rhat] > RHAT_MAX):
        troubles.append(
            f"Too few effective draws ({ess[worst_ess]:.0f} of {worst_ess}, below {ESS_MIN}): "
            "raise draws; if that takes too long, fix what the data cannot tell "
            "(checks.identifiability names it) or give it a narrower prior."
        )
    if divergences:
        troubles.append(
            f"{divergences} divergent transitions: the sampler missed a narrow region. Raise "
            "target_accept to 0.95 or 0.99; if that does not help, a spread (omega) is close to "
            "0: leave that parameter out of `varies`."
        )
    if ebfmi.min() < EBFMI_MIN:
        troubles.append(
            f"The energy hardly mixes (E-BFMI {ebfmi.min():.2f}, below {EBFMI_MIN}): a heavy tail; "
            "use narrower priors for the omegas."
        )
    if deep > 0.05:
        troubles.append(
            f"{deep:.0%} of the draws reached the largest tree depth: parameters are strongly "
            "correlated; fix one of them, or give it a prior."
        )
    numbers = {
        "rhat_max": rhat[worst_rhat],
        "ess_min": ess[worst_ess],
        "divergences": float(divergences),
        "ebfmi_min": float(ebfmi.min()),
        "max_treedepth_share": deep,
    }
    return troubles, numbers


def _by_chain(posterior: xr.Dataset, name: str) -> str:
    """Medians by chain of a parameter of everybody."""
    if name not in posterior:
        return ""
    medians = np.median(posterior[name].values, axis=1)
    return "; medians by chain: " + ", ".join(f"{x:.3g}" for x in medians)


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
