"""Caveats: what a comparison of virtual patients rests on, in sentences made of facts."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import scipy.stats
import xarray as xr

from carpk._arviz import group
from carpk.comparison.arms import ArmSpec, Source, Window
from carpk.comparison.contrasts import usual, variances
from carpk.comparison.virtual import VirtualPatientCounts
from carpk.dosing.regimen import CELLS, Regimen
from carpk.errors import CarpkWarning
from carpk.inference.result import Fit
from carpk.population.parameters import Kind, split_draws
from carpk.structural import ClosedForm, ODEModel
from carpk.verdict.priors import UNINFORMED, posterior_over_prior

if TYPE_CHECKING:
    import pandas as pd

    from carpk._types import Arrays

DRIVES = 0.1  # share of the variance of a contrast from which a parameter is said to matter
NOISY = 0.1  # share of virtual patients' noise in the spread over draws that is worth a sentence
ROUGH = 0.05  # standard error of a ratio, or of a difference over it, that is worth a sentence
NEUTROPHILS = "anc"  # output of models that predict the denominator of copies per µg of DNA
CONDITIONING = ("conditioning", "lymphodepletion")  # names of this covariate in data sets


def listing(names: Iterable[object], most: int = 8) -> str:
    every = [str(name) for name in names]
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def _beside_cells(regimen: Regimen) -> pd.DataFrame:
    """Products of a regimen other than cells."""
    events = [e for e in regimen.events if getattr(e, "unit", "") != CELLS]
    return Regimen(tuple(events)).describe()


def about_arms(
    source: Source, specs: Mapping[str, ArmSpec], reference: str, output: str
) -> Iterable[str]:
    """Differences between the arms other than the contrast of interest."""
    model = source.population.model if isinstance(source, Fit) else source
    differ = differing({name: spec.covariates for name, spec in specs.items()})
    if isinstance(source, Fit):
        effects = {p.covariate for p in source.bound.parameters.values() if p.kind == Kind.BETA}
        if asked := [c for c in differ if c in effects]:
            yield (
                f"Not randomized: the effect of {listing(asked)} is that between the patients "
                "behind the fit, and whatever else differed between them is in it."
            )
    drugs = {name: _beside_cells(spec.regimen) for name, spec in specs.items()}
    if isinstance(model, ClosedForm) and any(spec.regimen.drugs for spec in specs.values()):
        yield (
            f"{model.name!r} is a closed form without a lymphodepletion term: its drugs change "
            "nothing here, and a contrast of 1 is no finding."
        )
    amounts = {frozenset(e.amount for e in s.regimen.infusions) for s in specs.values()}
    if isinstance(model, ClosedForm) and model.dose_effect is None and len(amounts) > 1:
        yield (
            f"{model.name!r} is a closed form, whose curves do not follow the number of cells: "
            "that the arms differ in it changes nothing here. model.with_dose_effect(exponent, "
            "reference) gives it an effect."
        )
    conditioned = any(not d.equals(drugs[reference]) for d in drugs.values()) or any(
        c.lower() in CONDITIONING for c in differ
    )
    if conditioned and model.units[output] == "copies/µg":
        yield denominator(output, NEUTROPHILS in model.outputs)
    doses = {
        name: {
            f"{e.product} in {e.unit}" + (f"/{e.per}" if e.per else "")
            for e in spec.regimen.infusions
        }
        for name, spec in specs.items()
    }
    if len({frozenset(d) for d in doses.values()}) > 1:
        told = "; ".join(f"{name}: {listing(sorted(d))}" for name, d in doses.items())
        yield (
            f"The dose is defined differently between arms ({told}); whether CAR+ or all cells "
            "are counted may differ too."
        )


def differing(covariates: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Names of covariates whose value is not the same in all arms."""
    names = dict.fromkeys(name for given in covariates.values() for name in given)
    return [
        name for name in names if len({repr(given.get(name)) for given in covariates.values()}) > 1
    ]


def denominator(output: str, modelled: bool) -> str:
    """The sentence on copies per µg of DNA; a warning where the denominator is no model's."""
    if modelled:
        return (
            f"{output} is in copies per µg of DNA, over the leukocytes that the model predicts: "
            "the contrast is of cells and of this denominator together."
        )
    text = (
        f"{output} is in copies per µg of DNA. Lymphodepletion empties the denominator (all "
        "leukocytes), more so where it is stronger, and nothing here takes that into account: a "
        "part of the contrast may be leukopenia, not expansion. Compare cells/µL."
    )
    warnings.warn(f"compare: {text}", CarpkWarning, stacklevel=4)
    return text


def about_parameters(
    source: Source, specs: Mapping[str, ArmSpec], theta: Mapping[str, Arrays], data: xr.Dataset
) -> Iterable[str]:
    """Sources of the parameters that drive the contrasts: estimated, published or assumed."""
    if isinstance(source, Fit):
        if not source.ok:
            yield f"The fit cannot be trusted: {' '.join(source.verdict.troubles)}"
        elif source.verdict.doubts:
            yield f"The fit is {source.verdict.head}: see `fit.verdict`."
        yield from _about_priors(source, specs, theta, data)
    elif theta:
        known = [name for name, info in source.params.info().items() if not info.is_covariate]
        fixed = [name for name in known if name not in theta]
        if fixed:
            yield (
                f"Of {len(known)} parameters {len(theta)} are uncertain here; taken as known: "
                f"{listing(fixed)}."
            )
    else:
        assumed = [
            name
            for name, info in source.params.info().items()
            if "assumed" in info.source and not info.is_covariate
        ]
        yield (
            f"{source.name!r} has no posterior: its parameters are taken as known, and how far "
            "off they may be is not in any number here."
            + (f" Assumed values: {listing(assumed)}." if assumed else "")
        )


def _about_priors(
    fit: Fit, specs: Mapping[str, ArmSpec], theta: Mapping[str, Arrays], data: xr.Dataset
) -> Iterable[str]:
    """Contrasts driven by priors."""
    bound = fit.bound
    groups = group(fit.idata, "posterior"), group(fit.idata, "prior")
    designs = [
        bound.design_at(**{k: v for k, v in spec.covariates.items() if k in bound.covariates})
        for spec in specs.values()
    ]
    told = set()
    effects = bound.named(Kind.BETA)
    for name in effects:
        parameter, covariate = bound.parameters[name].of, bound.parameters[name].covariate
        used = np.ptp([d[covariate] for d in designs], axis=0) > 0
        ratio = posterior_over_prior(bound, *groups, name)
        for column in np.flatnonzero(used & (ratio > UNINFORMED)):
            told.add(name)
            yield (
                f"The prior drove the answer: the effect of {covariate} "
                f"({bound.covariates[covariate].columns[column]}) on {parameter} is as uncertain "
                f"after the data as before (posterior SD {ratio[column]:.2f} of the prior's)."
            )
    free = [n for n in bound.priors if n not in told and n not in effects]
    free = [n for n in free if posterior_over_prior(bound, *groups, n).max() > UNINFORMED]
    for (outcome, arm, _), c in usual(data):
        if not c.known:
            continue
        with np.errstate(all="ignore"):
            m = np.nanmean(c.x, axis=1)
        drawn = {n: np.asarray(x) for n, x in theta.items()}
        for name, x in split_draws({n: bound.parameters[n] for n in free}, drawn).items():
            share = _explained(m, np.asarray(x))
            if share > DRIVES:
                yield (
                    f"The prior drove a part of the answer: the data say next to nothing about "
                    f"{name}, which goes with {share:.0%} of the variance of {outcome} ({arm})."
                )


def _explained(m: np.ndarray, theta: np.ndarray) -> float:
    """Squared rank correlation of a contrast with a parameter over draws."""
    good = np.isfinite(m)
    if good.sum() < 3 or not np.ptp(m[good]) or not np.ptp(theta[good]):
        return 0.0
    return float(scipy.stats.spearmanr(m[good], theta[good]).statistic ** 2)


def about_extrapolation(
    fit: Fit, specs: Mapping[str, ArmSpec], windows: Mapping[str, Window]
) -> Iterable[str]:
    """Extrapolation of arms beyond the fitted data."""
    data, model = fit.data, fit.population.model
    doses = data.doses
    most = int(data.infusions.groupby("patient").size().max()) if len(data.infusions) else 1
    fitted = list(fit.population.regimens.values())
    most = max([most, *(len(r.infusions) for r in fitted)])
    for name, spec in specs.items():
        if (n := len(spec.regimen.infusions)) > most:
            yield (
                f"Extrapolation: {name!r} has {n} infusions, but no patient behind the fit had "
                f"more than {most}."
            )
    end = max(float(w.t[-1]) for w in windows.values())
    seen = [*data.observations["time"], *data.summaries["time"], *(data.sampling or ())]
    last = max((float(x) for x in seen if math.isfinite(x)), default=math.nan)
    if end > last:
        yield (
            f"Extrapolation: the data end on day {last:g}, the comparison {end:g} days after the "
            "infusion."
        )
    if isinstance(model, ClosedForm) and model.dose_effect is None:
        return
    given: dict[tuple[str, str], list[float]] = {}
    for product, unit, amount in zip(doses["product"], doses["unit"], doses["amount"], strict=True):
        given.setdefault((str(product), str(unit)), []).append(float(amount))
    for e in (e for r in fitted for e in r.doses):
        unit = e.unit + (f"/{e.per}" if e.per else "")
        given.setdefault((e.product, unit), []).append(float(e.amount))
    for name, spec in specs.items():
        told = set()
        for e in spec.regimen.doses:
            key = (e.product, e.unit + (f"/{e.per}" if e.per else ""))
            low, high = (
                (min(given[key]), max(given[key])) if key in given else (math.inf, -math.inf)
            )
            if low <= e.amount <= high or key in told:
                continue
            told.add(key)
            before = f"{low:g} to {high:g} {key[1]}" if key in given else f"none in {key[1]}"
            yield (
                f"Extrapolation: {name!r} has {e.amount:g} {key[1]} of {e.product}; the patients "
                f"behind the fit had {before}."
            )


def about_patients(
    model: ClosedForm | ODEModel, data: xr.Dataset, counts: VirtualPatientCounts
) -> Iterable[str]:
    """Failed patients, tumours below one cell, and Monte Carlo error."""
    for name, reasons in counts.failures.items():
        for reason, count in reasons.items():
            yield (
                f"{count} of {counts.pairs} virtual patients have no solution under {name!r} "
                f"({reason}); they are left out of every arm."
            )
    for outcome, variable in data.data_vars.items():
        undefined = int((~np.isfinite(variable.values)).any(axis=0).sum())
        failed = max(sum(reasons.values()) for reasons in counts.failures.values())
        if undefined > failed:
            yield (
                f"{outcome} is not defined for {undefined} of {counts.pairs} virtual patients in "
                "some arm; they are left out of every arm."
            )
    for output, shares in counts.extinct.items():
        if any(shares.values()):
            told = ", ".join(f"{share:.0%} under {name!r}" for name, share in shares.items())
            yield (
                f"{output}: less than one cell is left at some time in some patients ({told}); "
                "what returns from there is not a relapse."
            )
    if not counts.iiv:
        yield (
            f"{model.name!r} has no spread between patients here: every virtual patient is the "
            "typical one."
        )
    noisy, rough = [], []
    for (outcome, arm, _), c in usual(data):
        between, _, noise = variances(c.x)
        if c.known and noise > NOISY * (between + noise):
            noisy.append(f"{outcome} ({arm})")
        scale = 1.0 if c.ratio else abs(float(np.nanmean(c.x)))
        if not c.known and math.sqrt(noise) > ROUGH * scale:
            error = f"{math.sqrt(noise):.0%}" if c.ratio else f"{math.sqrt(noise):.2g} {c.unit}"
            rough.append(f"{outcome} ({arm}) {error}")
    if rough:
        yield (
            "The number of virtual patients leaves a standard error in the population's contrast: "
            f"{listing(rough)}; raise `patients`."
        )
    if noisy:
        yield (
            f"Intervals of {listing(noisy)} are widened by the number of virtual patients "
            f"(`mc_se`): more than {NOISY:.0%} of their variance; raise `patients`."
        )
