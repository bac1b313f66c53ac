"""Leave-one-out cross-validation: prediction of a new observation, patient or cohort.

The expected log predictive density (elpd) of each left-out unit comes from the draws of the one
fit, weighted by the inverse of the unit's likelihood and Pareto-smoothed (PSIS-LOO: Vehtari,
Gelman & Gabry 2017, doi:10.1007/s11222-016-9696-4). Where k-hat says that the weights cannot be
relied on, `refit=True` fits again without the unit.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict, Unpack

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from scipy.special import logsumexp

from carpk._arviz import PARETO_K, az, group, groups, pareto_smoothed
from carpk._tables import as_frame
from carpk.checks.marginal import marginal, proposal
from carpk.errors import CarpkError, FitError
from carpk.inference.fit import fit_bound
from carpk.inference.result import Fit
from carpk.population.bound import BoundPopulation

if TYPE_CHECKING:
    import pandas as pd
    from jax import Array

    from carpk._types import Draws, Values

OBSERVATION, PATIENT, COHORT = UNITS = ("observation", "patient", "cohort")
ROUGH = 0.1  # Monte-Carlo error of a unit's elpd from the integral over random effects
SMALL = 4.0  # differences of elpd below are small whatever their SE (Sivula et al. 2020)
FEW = 100  # units below which the SE of a difference is often too small (ibid.)
SHOWN = 5  # units named in a message
BATCH = 100  # draws evaluated at a time
MEANING = {
    OBSERVATION: "a new sample of a patient whose other samples are known",
    PATIENT: "all data of a new patient",
    COHORT: "all data of a new cohort",
}


@dataclasses.dataclass(frozen=True)
class LOO:
    """Leave-one-out prediction.

    Attributes:
        unit: what is left out: "observation", "patient" or "cohort".
        table: one row per unit: elpd; p_loo, by how much less that is than the log density after
            the unit was seen; k_hat; refitted. By patient or cohort also mc_error, the Monte-Carlo
            error of elpd from the integral over random effects, and ess, its effective number of
            points (5 % quantile over the draws).
        draws: posterior draws.
        points: of the integral over random effects; 0 where there was none.
        fitted: what was fitted to what.
        outcomes: fingerprint of the outcomes in the likelihood; only like ones can be compared.
        troubles: what is wrong with the fit or its refits, a sentence each.
    """

    unit: str
    table: pd.DataFrame
    draws: int
    points: int
    fitted: str
    outcomes: str
    troubles: tuple[str, ...] = ()

    @property
    def elpd(self) -> float:
        """Expected log predictive density, the sum over units; higher is better."""
        return float(self.table["elpd"].sum())

    @property
    def se(self) -> float:
        """Standard error of `elpd`, as if the units were drawn at random from many."""
        return _se(self.table["elpd"].to_numpy())

    @property
    def p_loo(self) -> float:
        """Effective number of parameters."""
        return float(self.table["p_loo"].sum())

    @property
    def mc_error(self) -> float:
        """Monte-Carlo error of `elpd` from the integral over random effects."""
        if "mc_error" not in self.table:
            return 0.0
        return float(np.sqrt(np.sum(self.table["mc_error"] ** 2)))

    @property
    def k_limit(self) -> float:
        """Largest k-hat to be relied on: min(1 - 1/log10(draws), 0.7)."""
        return k_limit(self.draws)

    @property
    def bad(self) -> tuple[str, ...]:
        """Units with k-hat above `k_limit` and no refit."""
        t = self.table
        high = ~(t["k_hat"] <= self.k_limit) & ~t["refitted"]
        return tuple(map(str, t.index[high]))

    @property
    def rough(self) -> tuple[str, ...]:
        """Units with too large an error of the integral over random effects."""
        if "mc_error" not in self.table:
            return ()
        return tuple(map(str, self.table.index[~(self.table["mc_error"] <= ROUGH)]))

    @property
    def refits(self) -> int:
        """Number of units predicted by a refit without them."""
        return int(self.table["refitted"].sum())

    @property
    def ok(self) -> bool:
        """`elpd` is reliable."""
        return not (self.bad or self.rough or self.troubles) and bool(np.isfinite(self.elpd))

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it cannot be relied on, and what to do, a sentence each."""
        told = list(self.troubles)
        if self.bad:
            told.append(
                f"The draws tell too little about {some(self.bad)}: use refit=True, which fits "
                "again without each of them. They are the units that the fit hangs on, or that the "
                "model does not expect."
            )
        if self.rough:
            told.append(
                f"The integral over random effects is too rough for {some(self.rough)} (error of "
                f"elpd above {ROUGH}): raise `points`, {self.points} now."
            )
        return tuple(told)

    def __repr__(self) -> str:
        head = "OK" if self.ok else "DO NOT TRUST"
        high = int(np.sum(~(self.table["k_hat"] <= self.k_limit)))
        counted = f"{high} of {len(self.table)} k-hats above {self.k_limit:.2f}"
        if self.refits:
            counted += f", {self.refits} refitted"
        plural = "ies" if self.unit.endswith("y") else "s"
        name = self.unit.removesuffix("y") + plural if len(self.table) != 1 else self.unit
        lines = [
            f"{head}: elpd {self.elpd:.1f} (SE {self.se:.1f}) of {len(self.table)} {name}, "
            f"p_loo {self.p_loo:.1f}; {counted}."
        ]
        lines += [f"  {text}" for text in self.reasons]
        lines.append(
            f"  {self.fitted}; predicts {MEANING[self.unit]}, {self.draws} posterior draws"
            + (
                f", {self.points} points over random effects (error {self.mc_error:.2f})."
                if self.points
                else "."
            )
        )
        shown = [c for c in self.table if c in ("elpd", "p_loo", "k_hat", "mc_error", "ess")]
        worst = self.table.sort_values("elpd")[shown].head(SHOWN)
        lines.append("predicted worst:\n" + worst.to_string(float_format="{:.2f}".format))
        return "\n".join(lines)


def loo(
    fit: Fit,
    *,
    by: str = OBSERVATION,
    cohort: str = "cohort",
    refit: bool | Sequence[str] = False,
    draws: int = 1000,
    points: int = 128,
    seed: int = 0,
    progress: bool = True,
) -> LOO:
    """Leave-one-out cross-validation of a fit, by observation, patient or cohort.

    By observation, the density of a sample is that given the patient's random effects, which the
    patient's other samples tell: the fit is asked to go on with a known patient. By patient it is
    the density of all of the patient's data with the random effects integrated out for each draw
    of the population parameters. (The sum of the conditional densities would not do: the draws of
    the random effects have seen the data that are to be left out, and importance weights cannot
    undo so much.) Comparing models of what differs between patients calls for `by="patient"`.

    Args:
        fit: the fit.
        by: "observation"; "patient"; or "cohort": all patients of each cohort, all summaries of
            each published cohort.
        cohort: with by="cohort", the column of the patients table that says which is whose.
        refit: fit again, with the fit's own settings, without each unit whose k-hat is too high,
            and take the exact density; or names of units for which to do that.
        draws: posterior draws, at random, for by="patient" and "cohort"; "observation" takes all.
        points: a power of two: quasi-random points of the integral over random effects.
        seed: of the draws and the points.
        progress: show it, on standard error.
    """
    if by not in UNITS:
        raise FitError(
            f"checks.loo: by must be {', '.join(map(repr, UNITS[:-1]))} or {UNITS[-1]!r}, but is "
            f"{by!r}."
        )
    bound = fit.bound
    theta = fit.draws(None if by == OBSERVATION else draws, seed, effects=True)
    if by == OBSERVATION:
        units = _observations(fit)
    elif by == PATIENT:
        units = _patients(bound, theta, points, seed)
    else:
        units = _cohorts(bound, theta, cohort, points, seed)
    show = f"leaving out by {by}" if progress else ""
    each = units.stored or units.of(theta, show)
    r_eff = min(1.0, _ess(fit) / len(each.total))
    elpd, k_hat = _left_out(each.total, r_eff)
    found = {"elpd": elpd, "p_loo": _log_mean(each.total) - elpd, "k_hat": k_hat}
    found["refitted"] = np.zeros(len(elpd), bool)
    if each.scrambles is not None and each.ess is not None:
        found["mc_error"] = _error([_left_out(x, r_eff)[0] for x in each.scrambles])
        found["ess"] = np.quantile(each.ess, 0.05, axis=0)
    troubles = [] if fit.ok else ["The fit itself is not to be trusted: see its verdict."]
    for i in _to_refit(list(units.labels.index), k_hat, refit, len(each.total)):
        name = units.labels.index[i]
        again = fit_bound(
            units.without(i), fit.settings, label=f"without {name}", progress=progress
        )
        if not again.ok:
            troubles.append(f"The fit without {name}: {again.verdict.troubles[0]}")
        exact = units.of(again.draws(None if by == OBSERVATION else draws, seed, effects=True), "")
        found["elpd"][i] = _log_mean(exact.total)[i]
        found["p_loo"][i] = _log_mean(each.total)[i] - found["elpd"][i]
        found["refitted"][i] = True
        if exact.scrambles is not None and exact.ess is not None:
            found["mc_error"][i] = _error([_log_mean(x) for x in exact.scrambles])[i]
            found["ess"][i] = np.quantile(exact.ess[:, i], 0.05)
    return LOO(
        unit=by,
        table=units.labels.assign(**found),
        draws=len(each.total),
        points=0 if each.scrambles is None else points,
        fitted=f"{bound.population.model.name} fitted to {bound.data.name}",
        outcomes=outcomes(bound),
        troubles=tuple(troubles),
    )


def _to_refit(
    names: Sequence[str], k_hat: np.ndarray, refit: bool | Sequence[str], draws: int
) -> list[int]:
    """Numbers of the units to be predicted by a fit without them."""
    if isinstance(refit, bool):
        return np.flatnonzero(~(k_hat <= k_limit(draws))).tolist() if refit else []
    numbers: list[int] = []
    for name in [refit] if isinstance(refit, str) else list(refit):
        here = np.flatnonzero(np.asarray(names) == name).tolist()
        if not here:
            raise FitError(
                f"checks.loo: there is no unit {name!r} to refit without; they are {some(names)}."
            )
        numbers += here
    return numbers


# --- units ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Densities:
    """ln density of every unit at every draw.

    Attributes:
        total: (draw, unit).
        scrambles: the same from each scramble of the integral's points, (scramble, draw, unit), or
            None where nothing was integrated.
        ess: effective number of points, (draw, unit), or None.
    """

    total: np.ndarray
    scrambles: np.ndarray | None = None
    ess: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Units:
    """Units of the cross-validation, left out one at a time.

    Attributes:
        labels: a row per unit.
        of: draws of a fit, and a label for the progress or "" -> `Densities`.
        without: number of a unit -> the same population model and data without it. The unit is
            taken out of the likelihood and stays in the data: the covariates' references, and with
            them the meaning of the priors, are those of the fit.
        stored: the densities of the fit's own draws, where the fit keeps them.
    """

    labels: pd.DataFrame
    of: Callable[[Mapping[str, np.ndarray], str], Densities]
    without: Callable[[int], BoundPopulation]
    stored: Densities | None = None


def _observations(fit: Fit) -> Units:
    bound = fit.bound
    a = bound.individual
    if a is None:
        raise FitError(
            f"checks.loo: {bound.data.name} has no individual observations to leave out; published "
            'cohorts are left out with by="cohort".'
        )
    where = [np.argwhere(a.mask & (a.analyte == i)) for i in range(len(a.analytes))]
    places = np.concatenate(where)
    analytes = [a.analytes[a.analyte[i, j]] for i, j in places]
    rows = {
        "patient": [bound.patients[i] for i, _ in places],
        "time": [float(a.time[i, j]) for i, j in places],
    }
    several = len(a.analytes) > 1
    names = [
        f"{p}, day {t:g}" + (f", {o}" if several else "")
        for p, t, o in zip(rows["patient"], rows["time"], analytes, strict=True)
    ]
    rows |= {"analyte": analytes} if several else {}
    labels = as_frame(rows, labels=(OBSERVATION, names))

    def each(sample: Values) -> Array:
        every = bound.observation_log_likelihoods(*bound.of_sample(sample))
        own: Array = every[places[:, 0], places[:, 1]]
        return own

    compiled = jax.jit(lambda s: jax.lax.map(each, s, batch_size=BATCH))

    def of(sample: Mapping[str, np.ndarray], _: str) -> Densities:
        return Densities(np.asarray(compiled({k: jnp.asarray(v) for k, v in sample.items()})))

    def without(unit: int) -> BoundPopulation:
        mask = a.mask.copy()
        mask[tuple(places[unit])] = False
        return _seen(bound, mask, ())

    return Units(labels, of, without, _stored(fit))


def _stored(fit: Fit) -> Densities | None:
    """The densities of the observations, as the fit keeps them."""
    if "log_likelihood" not in groups(fit.idata):
        return None
    kept = group(fit.idata, "log_likelihood")
    names = [fit.bound.endpoints[analyte] for analyte in fit.bound.individual.analytes]
    return Densities(
        np.concatenate([x.reshape(-1, x.shape[2]) for x in (kept[n].values for n in names)], axis=1)
    )


def _patients(bound: BoundPopulation, theta: Draws, points: int, seed: int) -> Units:
    if bound.individual is None:
        raise FitError(
            f"checks.loo: {bound.data.name} has no individual patients to leave out; published "
            'cohorts are left out with by="cohort".'
        )
    of_draws = marginal(bound, proposal(bound, theta), points=points, seed=seed)
    # Patients without fitted samples predict nothing.
    kept = np.flatnonzero(bound.individual.mask.any(axis=1))
    labels = as_frame({}, labels=(PATIENT, [bound.patients[i] for i in kept]))

    def of(sample: Mapping[str, np.ndarray], label: str) -> Densities:
        found = of_draws(sample, label=label, progress=bool(label))
        return Densities(
            found.log_likelihood[:, kept], found.scrambles[:, :, kept], found.ess[:, kept]
        )

    def without(unit: int) -> BoundPopulation:
        mask = bound.individual.mask.copy()
        mask[kept[unit]] = False
        return _seen(bound, mask, ())

    return Units(labels, of, without)


def _cohorts(bound: BoundPopulation, theta: Draws, column: str, points: int, seed: int) -> Units:
    """Published cohorts, and the individual patients of each; both where they share a name."""
    of_patients: Units | None = None
    member = np.zeros(0, str)
    if bound.individual is not None:
        try:
            every = bound.data.covariate(column)
        except CarpkError as error:
            raise FitError(
                "checks.loo: leaving out cohorts of patients needs the column of the patients "
                f"table that says which is whose, cohort={column!r} now: {error}"
            ) from None
        of_patients = _patients(bound, theta, points, seed)
        place = dict(zip(bound.patients, every, strict=True))
        member = np.array([str(place[p]) for p in of_patients.labels.index])
    names = list(dict.fromkeys([*bound.cohorts, *member.tolist()]))
    if len(names) < 2:
        raise FitError(
            f"checks.loo: {bound.data.name} has the single cohort {names[0]!r}, and without it "
            "nothing is left to fit."
        )
    belongs = (member[:, None] == np.array(names)[None, :]).astype(float)  # (patient, cohort)

    def published(theta: Values) -> dict[str, Array]:
        each = bound.summary_log_likelihoods(theta)
        return {name: jnp.sum(x) for name, x in each.items()}

    compiled = jax.jit(lambda theta: jax.lax.map(published, theta, batch_size=BATCH))

    def of(sample: Mapping[str, np.ndarray], label: str) -> Densities:
        size = len(next(iter(sample.values())))
        summaries = np.zeros((size, len(names)))
        if bound.cohorts:
            found = compiled({n: jnp.asarray(sample[n]) for n in bound.priors})
            for name, x in found.items():
                summaries[:, names.index(name)] = np.asarray(x)
        if of_patients is None:
            return Densities(summaries)
        own = of_patients.of(sample, label)
        assert own.scrambles is not None
        assert own.ess is not None
        least = [np.min(np.where(b > 0, own.ess, points), axis=1) for b in belongs.T]
        return Densities(
            summaries + own.total @ belongs,
            summaries + own.scrambles @ belongs,
            np.stack(least, axis=1),
        )

    def without(unit: int) -> BoundPopulation:
        if of_patients is None:
            return _seen(bound, None, (names[unit],))
        out = {p for p, c in zip(of_patients.labels.index, member, strict=True) if c == names[unit]}
        stays = np.array([p not in out for p in bound.patients])
        return _seen(bound, bound.individual.mask & stays[:, None], (names[unit],))

    return Units(as_frame({}, labels=(COHORT, names)), of, without)


def _seen(
    bound: BoundPopulation, mask: np.ndarray | None, cohorts: Sequence[str]
) -> BoundPopulation:
    """The likelihood of these observations alone, without these published cohorts."""
    individual = bound.individual
    if mask is not None:
        individual = dataclasses.replace(individual, mask=mask)
    kept = {k: v for k, v in bound.cohorts.items() if k not in cohorts}
    return dataclasses.replace(bound, individual=individual, cohorts=kept)


# --- numbers --------------------------------------------------------------------------------------


def k_limit(draws: int) -> float:
    """Largest Pareto k-hat to be relied on with so many draws (Vehtari et al. 2024, JMLR 25:72)."""
    limit: float = 1 - 1 / np.log10(max(draws, 11))
    return min(limit, PARETO_K)


def _left_out(log_density: np.ndarray, r_eff: float) -> tuple[np.ndarray, np.ndarray]:
    """elpd and k-hat of every unit, from ln density (draw, unit)."""
    elpd, k_hats = [], []
    for x in log_density.T:
        if not np.isfinite(x).all():
            elpd.append(-np.inf)
            k_hats.append(np.inf)
            continue
        if np.ptp(x) < 1e-12:  # all draws agree, and no weights are needed
            elpd.append(x[0])
            k_hats.append(-np.inf)
            continue
        log_weights, k_hat = pareto_smoothed(-x, r_eff)
        elpd.append(float(logsumexp(log_weights + x)))
        k_hats.append(k_hat)
    return np.array(elpd), np.array(k_hats)


def _error(scrambles: Sequence[np.ndarray]) -> np.ndarray:
    """Standard error of the mean over scrambles of the points."""
    error: np.ndarray = np.std(scrambles, axis=0, ddof=1) / np.sqrt(len(scrambles))
    return error


def _log_mean(log_density: np.ndarray) -> np.ndarray:
    mean: np.ndarray = logsumexp(log_density, axis=0) - np.log(len(log_density))
    return mean


def _se(each: np.ndarray) -> float:
    return float(np.sqrt(each.size) * np.std(each, ddof=1)) if each.size > 1 else np.nan


def _ess(fit: Fit) -> float:
    """Effective number of draws, the mean over all parameters."""
    found = az.ess(fit.posterior, method="mean")  # type: ignore[no-untyped-call]  # ArviZ 0.x
    found = found if isinstance(found, xr.Dataset) else found.to_dataset()
    return float(np.mean(np.concatenate([np.ravel(x.values) for x in found.data_vars.values()])))


def outcomes(bound: BoundPopulation) -> str:
    """Fingerprint of the outcomes in the likelihood, whatever the population model."""
    parts: list[str] = [
        repr(tuple(summary._replace(label="") for summary in bound.cohorts[cohort].summaries))
        + cohort
        for cohort in sorted(bound.cohorts)
    ]
    a = bound.individual
    if a is not None:
        names = np.array(a.analytes)[a.analyte]
        rows = [
            repr((p, *(float(x[i, j]) for x in (a.time, a.value, a.lloq, a.limit, a.censored))))
            + names[i, j]
            for i, p in enumerate(a.patients)
            for j in np.flatnonzero(a.mask[i])
        ]
        parts += sorted(rows)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def some(names: Iterable[object]) -> str:
    """The first few of them, and how many more."""
    every = list(map(str, names))
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return "; ".join(every[:SHOWN]) + more


# --- comparison -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LOOComparison:
    """Comparison of population models by out-of-sample prediction.

    Attributes:
        unit: what was left out.
        table: one row per fit, the best first: elpd, se; difference, its elpd less that of the
            first; se_difference, over the units' own differences; p_loo; bad, units that are not
            to be relied on.
        results: name -> `LOO`.
    """

    unit: str
    table: pd.DataFrame
    results: Mapping[str, LOO]

    @property
    def ok(self) -> bool:
        """All results are reliable."""
        return all(r.ok for r in self.results.values())

    def __repr__(self) -> str:
        first = self.table.index[0]
        rest = self.table.iloc[1:]
        close = rest.index[
            (rest["difference"] > -SMALL) | (rest["difference"] > -2 * rest["se_difference"])
        ]
        head = "OK" if self.ok else "DO NOT TRUST"
        size = len(self.results[first].table)
        if len(close):
            verdict = f"{first!r} predicts best, but {some(close)} hardly worse"
        else:
            verdict = f"{first!r} predicts best"
        lines = [f"{head}: {verdict}; leave-one-out by {self.unit}, {size} units."]
        for name, result in self.results.items():
            if not result.ok:
                lines.append(f"  {name}: {repr(result).splitlines()[0]}")
                lines += [f"    {text}" for text in result.reasons]
        lines.append(self.table.to_string(float_format="{:.2f}".format))
        lines.append(
            f"  Differences below {SMALL:g}, or below 2 SE, are small"
            + (f"; with fewer than {FEW} units the SE is often too small." if size < FEW else ".")
        )
        return "\n".join(lines)


class Options(TypedDict, total=False):
    """Options of `loo` beside the unit."""

    cohort: str
    refit: bool | Sequence[str]
    draws: int
    points: int
    seed: int
    progress: bool


def compare_loo(
    results: Mapping[str, Fit | LOO], *, by: str = OBSERVATION, **options: Unpack[Options]
) -> LOOComparison:
    """Compare population models of the same data by leave-one-out prediction.

    The SE of a difference is over the units' own differences, which is smaller than the SEs of the
    two let expect, as both models predict the same units (Vehtari, Gelman & Gabry 2017, Eq. 24).
    How far it can be relied on: Sivula et al. (2020) arXiv:2008.10296.

    Args:
        results: name -> a fit, or what `loo` gave for it.
        by: what is left out, where fits are given.
        options: of `loo`.
    """
    if len(results) < 2:
        raise FitError(
            "checks.compare_loo: give at least two fits by name, {'a': fit, 'b': other}."
        )
    found = {
        name: r if isinstance(r, LOO) else loo(r, by=by, **options) for name, r in results.items()
    }
    first_name, first = next(iter(found.items()))
    for name, other in found.items():
        if other.unit != first.unit:
            raise FitError(
                f"checks.compare_loo: {first_name!r} leaves out by {first.unit}, {name!r} by "
                f"{other.unit}; only like ones can be compared."
            )
        if other.outcomes != first.outcomes or set(other.table.index) != set(first.table.index):
            raise FitError(
                f"checks.compare_loo: {first_name!r} and {name!r} were not fitted to the same "
                "outcomes (samples, published summaries, units, limits), so their densities "
                "are of different things; fit both to one data set."
            )
    order = sorted(found, key=lambda name: -found[name].elpd)
    best = found[order[0]]
    rows = []
    for name in order:
        r = found[name]
        apart = _paired(r, best)
        rows.append((name, r.elpd, r.se, apart.sum(), _se(apart), r.p_loo, len({*r.bad, *r.rough})))
    columns = ["fit", "elpd", "se", "difference", "se_difference", "p_loo", "bad"]
    return LOOComparison(first.unit, as_frame(rows, columns, index="fit"), found)


def _paired(one: LOO, other: LOO) -> np.ndarray:
    """elpd of `one` less that of `other`, unit by unit; units of a name stay in their order."""
    mine, theirs = (r.table["elpd"].sort_index(kind="stable") for r in (one, other))
    apart: np.ndarray = mine.to_numpy() - theirs.to_numpy()
    return apart
