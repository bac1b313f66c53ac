"""Whether a fit can be trusted, and what to do where it cannot."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from carpk._arviz import az
from carpk.effects import CORRELATION, PATIENT, eta_name, omega_name
from carpk.laplace import DECREMENT
from carpk.population import PopulationModel

RHAT_MAX = 1.01
ESS_MIN = 400
EBFMI_MIN = 0.3
UNINFORMED = 0.9  # posterior SD over prior SD, on the estimation scale
SAME_MODE = 0.1  # difference of ln density
CONFLICT = 3.0  # prior SDs between the medians of prior and posterior
AT_BOUND = 0.01  # share of a range
UNLIKE = 3.0  # SDs of a patient's random effect


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
            return (
                f"normal approximation around the mode, which is {math.sqrt(n['decrement']):.1g} "
                f"posterior SDs away at most; {n['patients_at_mode']:.0f} of {n['patients']:.0f} "
                "patients at their modes"
            )
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
    troubles: list[str] = []
    nonfinite = [str(k) for k in posterior if not np.isfinite(posterior[k].values).all()]
    if nonfinite:
        troubles.append(
            f"{', '.join(nonfinite)} has draws that are not finite: look for impossible data or "
            "priors without bounds."
        )
    if settings["method"] == "nuts":
        more, numbers = _of_chains(posterior, stats, settings)
    else:
        more, numbers = _of_mode(bound, settings)
    troubles += more + _of_levels(posterior, pointwise, bound, settings)
    troubles += _against_the_prior(posterior, prior, bound)
    notes = [
        f"{name} = {value:g} for everybody, the model file's reference: the data have no column "
        f"{name!r}."
        for name, value in bound.at_reference.items()
    ]
    ratio = {k: posterior_over_prior(bound, posterior, prior, k).max() for k in bound.priors}
    uninformed = [k for k, x in ratio.items() if x > UNINFORMED]
    if uninformed:
        notes.append(
            "the data say next to nothing about "
            + ", ".join(uninformed)
            + f": the posterior is as wide as the prior (SD ratio above {UNINFORMED})."
        )
    notes += _unlike_the_others(posterior, bound)
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


def _against_the_prior(
    posterior: xr.Dataset, prior: xr.Dataset, bound: PopulationModel
) -> list[str]:
    """Parameters that lie far outside their prior, or at the end of their range."""
    troubles = []
    for name in bound.priors:
        if name == CORRELATION:
            continue
        forward = bound.scale(name).forward
        after, before = (np.asarray(forward(x[name].values)) for x in (posterior, prior))
        axes = (0, 1)
        away = np.abs(np.median(after, axes) - np.median(before, axes)) / before.std(axes)
        if np.max(away) > CONFLICT:
            troubles.append(
                f"Data and prior disagree about {name}: its posterior lies {np.max(away):.1f} "
                "prior SDs from the middle of the prior. Look at units and doses first, then at "
                "the prior, then at the model."
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
    return troubles


def _unlike_the_others(posterior: xr.Dataset, bound: PopulationModel) -> list[str]:
    """Patients whose random effect is far from the others'."""
    notes = []
    for parameter in bound.random.at(PATIENT):
        if eta_name(parameter) not in posterior:
            continue
        eta, omega = posterior[eta_name(parameter)], posterior[omega_name(parameter)]
        z = (eta / omega).median(("chain", "draw"))
        for i in np.flatnonzero(np.abs(z.values) > UNLIKE):
            away, side = abs(float(z[i])), "above" if z[i] > 0 else "below"
            notes.append(
                f"patient {z['patient'].values[i]} is unlike the others: {away:.1f} SDs {side} the "
                f"typical {parameter}. Look at the data (plot.individual_fits): a wrong unit or a "
                "swapped sample widens omega for everybody."
            )
    return notes


def _of_mode(
    bound: PopulationModel, settings: Mapping[str, Any]
) -> tuple[list[str], dict[str, float]]:
    """What there is to say of a mode."""
    mode = settings["mode"]
    patients = len(getattr(bound, "patients", ()))
    lost = mode["unconverged"]
    troubles = []
    if not mode["decrement"] < DECREMENT:
        troubles.append(
            f"The mode was not found: by the curvature it is {math.sqrt(mode['decrement']):.2g} "
            'posterior SDs away. Use method="nuts", or narrower priors.'
        )
    if mode["flat"]:
        troubles.append(
            f"The posterior is flat or bends upwards in {mode['flat']} directions, which are given "
            'the spread of the prior or more: use method="nuts", or fix a parameter that the data '
            "cannot tell (checks.identifiability names them)."
        )
    if lost:
        named = ", ".join(bound.patients[i] for i in lost[:5])
        troubles.append(
            f"The random effects of {len(lost)} patients have no mode ({named}): look at their "
            "data (plot.individual_fits), at units and doses first."
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
        "patients": float(patients),
        "patients_at_mode": float(patients - len(lost)),
    }
    return troubles, numbers


def _of_chains(
    posterior: xr.Dataset, stats: xr.Dataset, settings: Mapping[str, Any]
) -> tuple[list[str], dict[str, float]]:
    """What there is to say of chains."""
    rhat, bulk, tail = (
        by_element(measure(posterior))
        for measure in (
            az.rhat,
            lambda p: az.ess(p, method="bulk"),
            lambda p: az.ess(p, method="tail"),
        )
    )
    ess = {k: min(bulk[k], tail[k]) for k in bulk}
    energy = stats["energy"].values
    change = np.mean(np.diff(energy, axis=1) ** 2, axis=1)
    ebfmi = change / np.maximum(np.var(energy, axis=1), 1e-300)
    divergences = int(stats["diverging"].values.sum())
    deep = float(stats["reached_max_treedepth"].values.mean())
    worst_rhat = max(rhat, key=lambda k: rhat[k] if math.isfinite(rhat[k]) else math.inf)
    worst_ess = min(ess, key=lambda k: ess[k] if math.isfinite(ess[k]) else -math.inf)
    troubles = []
    if not rhat[worst_rhat] <= RHAT_MAX:
        troubles.append(
            f"The chains disagree (R-hat of {worst_rhat} is {rhat[worst_rhat]:.3f}, above "
            f"{RHAT_MAX}): sample longer (tune=2000, draws=2000); if they still disagree, the "
            "posterior has several modes: use narrower priors."
        )
    if not ess[worst_ess] >= ESS_MIN:
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
