"""Findings about a fit: grade, statement and advice.

A finding has the grade that it gives the fit by itself. Outliers of patients' data are put into
sentences here, findings on draws, priors and solver in their own modules.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypedDict

Grade = Literal["OK", "OK, BUT", "DO NOT TRUST"]
OK: Grade = "OK"
BUT: Grade = "OK, BUT"
WRONG: Grade = "DO NOT TRUST"
GRADES: tuple[Grade, ...] = (OK, BUT, WRONG)  # from best to worst

DOUBTED = 1e-3  # p of an outlier below which it is a doubt, not a note ...
DOUBTED_EXCHANGE = 0.01  # ... of an exchange of labels, whose p counts all pairs, and which is rare
UNITS = {1e3: "mL and µL, or mg and µg, say", 1e6: "L and µL, or g and µg, say"}
MANY = 1e4  # SDs, or times, above which a number is rounded
SURE = 1e-12  # p below which it is not given exactly


@dataclasses.dataclass(frozen=True)
class Finding:
    """One statement of a verdict.

    Attributes:
        grade: of a fit of which nothing worse is found; "OK" for a note.
        kind: in a few words, such as "outlying sample".
        text: a sentence or two, with what to do.
    """

    grade: Grade
    kind: str
    text: str


class Labelled(TypedDict):
    """A patient, and its group where that matters."""

    patient: str
    of: str


class Outlier(TypedDict, total=False):
    """What `outliers` found; which keys there are depends on the kind."""

    analyte: str
    away: float
    bounded: bool
    column: str
    columns: list[str]
    count: int
    day: float
    df: float
    ends: Sequence[str]
    expected: float
    explained: float
    first: float
    fixed: bool
    gain: float
    last: float
    lloq: float
    looked: str
    lowest: float
    normal: bool
    of: int
    on_log: bool
    p: float
    parameter: str
    patient: str
    patients: list[Labelled]
    planned: int
    ratio: float
    rho: float
    sds: float
    seen: int
    sigma: str
    times: float
    value: float


class Cure(TypedDict, total=False):
    """What was done after the planned draws; empty where nothing was."""

    told: str
    agree: bool
    divergences: list[int]
    target_accept: float
    draws: int


class ModeFound(TypedDict):
    """One of several modes: its share of the density, and where it is."""

    share: float
    log_density: float
    theta: dict[str, float]


class ModeSummary(TypedDict):
    """Diagnostics of a mode; see `inference.laplace.Mode`."""

    converged: bool
    decrement: float
    flat: int
    unconverged: list[int]
    log_density: float
    evaluations: int
    held: dict[str, list[float]]


class SolverSummary(TypedDict, total=False):
    """What is kept of a `SolverCheck`."""

    k_hat: float
    spread: float
    failed: int
    ok: bool
    draws: int
    error: float
    ess: float


def note(kind: str, text: str) -> Finding:
    """Information without doubt about the fit."""
    return Finding(OK, kind, text)


def doubt(kind: str, text: str) -> Finding:
    """The draws are sound; the model or the data raise a question."""
    return Finding(BUT, kind, text)


def trouble(kind: str, text: str) -> Finding:
    """The numbers themselves may be wrong."""
    return Finding(WRONG, kind, text)


def number(x: float, form: str = ".3g") -> str:
    """A number in words: never "inf" or "nan", and no more digits than it deserves."""
    if math.isnan(x):
        return "an unknown number"
    if abs(x) > MANY and form[-1] == "f":
        form = ".1e"
    return f"{x:{form}}" if math.isfinite(x) else ("more than 1e300" if x > 0 else "below -1e300")


def chance(p: float, looked: str = "") -> str:
    """p value in brackets, with its multiplicity correction."""
    value = f"p = {p:.1g}" if p > SURE else f"p < {SURE:g}"
    return f" ({value}, corrected for {looked})" if looked else f" ({value})"


def unit_of(ratio: float) -> str:
    """Conversion of units that a factor suggests, in brackets; "" for none."""
    for factor, what in UNITS.items():
        for one in (factor, 1 / factor):
            if one / 3 < ratio < one * 3:
                return f" (a factor near {one:g} is that between {what})"
    return ""


def outlier_findings(found: Mapping[str, Sequence[Outlier]]) -> list[Finding]:
    """Findings about samples, patients and limits of quantification; see `outliers`."""
    findings = []
    for kind, (name, say) in OUTLIERS.items():
        for entry in found.get(kind, ()):
            limit = DOUBTED_EXCHANGE if kind == "swapped" else DOUBTED
            grade = OK if entry["p"] >= limit else BUT
            if grade == BUT and _by_units(kind, entry):
                findings.append(trouble("unit", say(entry)))
            else:
                findings.append(Finding(grade, name, say(entry)))
    return findings


def _by_units(kind: str, entry: Outlier) -> bool:
    """Patients differ by a conversion factor of units, from each other or from the prior."""
    swapped = any(each["of"] for each in entry.get("patients", ()))
    return (
        kind in ("shift", "effects", "groups")
        and not swapped
        and bool(unit_of(entry.get("ratio", 1.0)))
    )


def _side(x: float) -> str:
    return "above" if x > 0 else "below"


def _sds(x: Outlier) -> str:
    return number(abs(x["sds"]), ".1f")


def _times_theirs(x: Outlier) -> str:
    """Ratio to the others, where it is defined."""
    return f", {number(x['ratio'])} times theirs{unit_of(x['ratio'])}" if "ratio" in x else ""


def _strength(x: Outlier) -> str:
    return chance(x["p"], x["looked"])


def _held_by(x: Outlier) -> str:
    """Possible cause of a typical value or curves off the data."""
    return "a prior, or a value in `fixed`," if x["fixed"] else "a prior"


def _say_tied(x: Outlier) -> str:
    return (
        f"{x['count']} measured values of {x['analyte']} are exactly {x['value']:g}, the lowest of "
        "all: this looks like a limit of quantification in place of values. Give these rows "
        f"censored = 1 and lloq = {x['value']:g} (of half the limit: twice that), and fit again."
    )


def _say_under(x: Outlier) -> str:
    lie = "1 measured value lies" if x["count"] == 1 else f"{x['count']} measured values lie"
    return (
        f"{lie} below {x['lloq']:g}, the lowest LLOQ of the censored samples of {x['analyte']} "
        f"(the smallest is {x['value']:.3g}): the LLOQ is too high, or in another unit. Look at "
        "column lloq."
    )


def _say_left(x: Outlier) -> str:
    return (
        f"{x['count']} of {x['planned']} samples of {x['analyte']} are missing, on days on which "
        f"others have one, and rather in patients with low concentrations (rank correlation "
        f"{number(x['rho'], '.2f')}){_strength(x)}: were rows below the LLOQ left out? Enter them "
        "with censored = 1 and lloq, or the decline is biased upwards. Patients who left the "
        "study because their cells were gone do the same."
    )


def _say_gap(x: Outlier) -> str:
    return (
        f"No measured value of {x['analyte']} lies between the LLOQ, {x['lloq']:.3g}, and "
        f"{x['lowest']:.3g}, where {x['expected']:.0f} are expected{_strength(x)}: the LLOQ is "
        f"rather near {x['lowest']:.2g}. Look at column lloq, its unit above all."
    )


def _say_below(x: Outlier) -> str:
    what = "Too many" if x["seen"] > x["expected"] else "Too few"
    return (
        f"{what} samples of {x['analyte']} are below the LLOQ: {x['seen']} of {x['of']}, where "
        f"{x['expected']:.1f} are expected from the fitted curves{_strength(x)}. Look at column "
        "lloq, at rows that were left out or filled in, then at the model (checks.vpc)."
    )


def _say_sample(x: Outlier) -> str:
    away = (
        f"The sample of patient {x['patient']} on day {x['day']:g} ({x['analyte']} "
        f"{x['value']:.3g}) lies {_sds(x)} SDs of the other residuals {_side(x['sds'])} the "
        f"patient's own curve{_strength(x)}"
    )
    if not x["normal"]:
        return (
            f"{away}, which is far even for the residual model. Look at its unit and at swapped "
            "samples."
        )
    tails = ", or use residual=ck.StudentT(), in which it counts for less" if x["on_log"] else ""
    return (
        f"{away}, and widens {x['sigma']} for everybody. Look at its unit and at swapped samples; "
        f"if it is right, fit without it too and report both{tails}."
    )


def _say_tails(x: Outlier) -> str:
    return (
        f"The residuals of {x['analyte']} have heavier tails than a normal distribution: a Student "
        f"t with {x['df']:g} degrees of freedom makes the {x['count']} of them together "
        f"more likely by {number(x['gain'], '.1f')} in ln likelihood{_strength(x)}. Use "
        f"residual=ck.StudentT(df={x['df']:g}), and compare the estimates."
    )


def _say_scatter(x: Outlier) -> str:
    return (
        f"The samples of patient {x['patient']} lie {number(x['times'], '.1f')} times as far from "
        f"the curve as those of the others{_strength(x)}: the model does not describe this "
        "patient. Look at the data (plot.individual_fits): doses, days, a second infusion; then "
        "at what else may vary."
    )


def _say_effect(x: Outlier) -> str:
    return (
        f"Patient {x['patient']} is unlike the others: {x['parameter']} lies {_sds(x)} "
        f"SDs of the others {_side(x['sds'])} their mean{_times_theirs(x)}{_strength(x)}, and "
        f"widens omega_{x['parameter']} for everybody. Look at the unit, the dose and swapped "
        "samples (plot.individual_fits); if all is right, fit without the patient too and report "
        "both."
    )


def _say_shift(x: Outlier) -> str:
    times = f", {number(x['ratio'])} times it in the mean" if "ratio" in x else ""
    times += unit_of(x.get("ratio", 1.0))
    return (
        f"The patients' {x['parameter']} is not around its typical value{times}"
        f", {_sds(x)} standard errors {_side(x['sds'])} it{_strength(x)}: the prior of "
        f"{x['parameter']}{', or a value in `fixed`,' if x['fixed'] else ''} holds the typical "
        f"value away from the data, and omega_{x['parameter']} makes up for it. Widen the prior, "
        "or find out why these data differ from it: units, assay, patients, then the model."
    )


def _say_offset(x: Outlier) -> str:
    return (
        f"The observations of {x['analyte']} lie {_side(x['sds'])} the fitted curves in the mean, "
        f"by {_sds(x)} residual SDs{_strength(x)}: {_held_by(x)} holds the curves away "
        f"from them, and {x['sigma']} makes up for it. Widen the prior, or find out why these data "
        "differ from it: units, assay, patients, then the model."
    )


def _named(x: Outlier) -> str:
    told = [
        each["patient"] + (f" ({each['of']})" if each["of"] else "") for each in x["patients"][:8]
    ]
    return ", ".join(told) + (", ..." if len(x["patients"]) > 8 else "")


def _say_groups(x: Outlier) -> str:
    parameter, far = x["parameter"], f"{_sds(x)} SDs within a group"
    if any(each["of"] for each in x["patients"]):
        return (
            f"By {parameter} the patients fall into two groups, {far} apart{_strength(x)}, and "
            f"some are not with their own: {_named(x)}. Look at swapped labels of cohorts or arms "
            f"first, then at units; if all is right, {parameter} needs another covariate"
            f"{_columns(x)}. The effects of those that it has are too small as it is."
        )
    return (
        f"The patients fall into two groups by {parameter}: that of {_named(x)} lies {far} "
        f"{_side(x['sds'])} the others{_times_theirs(x)}{_strength(x)}. Look at units and doses; "
        f"if all is right, a covariate of {parameter} is missing{_columns(x)}."
    )


def _say_swapped(x: Outlier) -> str:
    one, other = (f"{each['patient']} ({each['of']})" for each in x["patients"])
    return (
        f"Patients {one} and {other} would fit better with their labels exchanged: by "
        f"{x['parameter']} each lies with the other's group, {_sds(x)} SDs within a group apart"
        f"{_strength(x)}. Look at the labels of cohorts or arms, and at swapped samples; if all is "
        "right, fit without the two as well and report both."
    )


def _say_copies(x: Outlier) -> str:
    one, other = (each["patient"] for each in x["patients"])
    return (
        f"Patients {one} and {other} have the same values on {x['count']} of {x['of']} days that "
        f"they share{_strength(x)}: is one patient in the data twice? Leave the copy out; it makes "
        "every interval too narrow."
    )


def _say_course(x: Outlier) -> str:
    one = x["first"] == x["last"]
    when = f"On day {x['first']:g}" if one else f"From day {x['first']:g} to {x['last']:g}"
    return (
        f"{when} the measured {x['analyte']} lies {number(abs(x['sds']), '.1f')} residual SDs "
        f"{_side(x['sds'])} the fitted curves in the mean, and elsewhere it does not"
        f"{_strength(x)}: the model cannot follow the course, and sigma makes up for it. Look at "
        "checks.vpc and plot.individual_fits, at units of time first; then let another parameter "
        "vary, or choose a model of another shape."
    )


def _say_unrelated(x: Outlier) -> str:
    return (
        f"The fitted curves explain {x['explained']:.0%} of the variance of {x['analyte']} within "
        "patients, and the residual error absorbs the rest. Do "
        "values and days belong together (a column sorted by itself, rows joined in the wrong "
        "order, swapped samples)? If they do, the data have no course that this model knows."
    )


def _say_column(x: Outlier) -> str:
    column, ends = x["column"], x["ends"]
    one, other = ends or ("in the upper half", "in the lower half")
    where = f"with {column} {one} as with {other}" if ends else f"{one} of {column} as {other}"
    how = f"is {number(x['ratio'])} times as high {where}" if "ratio" in x else ""
    how = how or f"is {'higher' if x['away'] > 0 else 'lower'} {where.replace(' as ', ' than ')}"
    return (
        f"The patients' {x['parameter']} {how}{_strength(x)}, and {column} is no covariate of it. "
        f'If it is known before the infusion, fit with covariates={{"{x["parameter"]}": '
        f'["{column}"]}} too and compare (checks.loo): as it is, the typical value is that of no '
        "group."
    )


def _columns(x: Outlier) -> str:
    """Columns of the data not used as covariates of the parameter."""
    if not x["columns"]:
        return ", which the data do not have"
    return f" (the data have {', '.join(x['columns'][:5])})"


Say = Callable[[Outlier], str]
OUTLIERS: dict[str, tuple[str, Say]] = {  # kind and sentence, in the order of the report
    "copies": ("patient twice", _say_copies),
    "tied": ("LLOQ", _say_tied),
    "under": ("LLOQ", _say_under),
    "left": ("samples left out", _say_left),
    "gap": ("LLOQ", _say_gap),
    "below": ("LLOQ", _say_below),
    "shift": ("prior against data", _say_shift),
    "offset": ("prior against data", _say_offset),
    "course": ("model off the course", _say_course),
    "unrelated": ("curves unrelated to data", _say_unrelated),
    "columns": ("covariate left out", _say_column),
    "swapped": ("swapped patients", _say_swapped),
    "effects": ("outlying patient", _say_effect),
    "groups": ("two groups of patients", _say_groups),
    "samples": ("outlying sample", _say_sample),
    "scatter": ("patient off the model", _say_scatter),
    "tails": ("heavy-tailed residuals", _say_tails),
}
