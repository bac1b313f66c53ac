"""What treatment does to counts and cytokines: baseline, nadir, recovery, peak over baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from carpk._tables import as_frame
from carpk.dosing.regimen import SAME
from carpk.errors import CarpkError, nearest_of
from carpk.nca.areas import METHOD, time_above
from carpk.nca.reasons import told
from carpk.nca.terms import units_of
from carpk.nca.windows import Infusions, Opened, Tables, named, padded_size, window_of

if TYPE_CHECKING:
    import pandas as pd

    from carpk.nca.choices import Entries


PEAK = ("CMAX", "TMAX", "CHG", "R2BASE")
Measured = tuple[tuple[float, ...], dict[str, str]]  # the columns; why some are missing


class Course(NamedTuple):
    """One infusion with its lymphodepletion; times count from the infusion."""

    infusion: Opened
    begin: float  # first dose of the course [day]
    end: float  # first dose of the next, inf after the last [day]
    product: str  # given first
    base: float  # nan without a baseline sample
    base_day: float
    base_limit: float  # LLOQ of the baseline sample, nan where unknown
    t: np.ndarray  # [day] after the first dose, up to the next course
    c: np.ndarray  # 0 where censored or BLQ

    @property
    def no_baseline(self) -> str:
        return f"no sample up to {self.product} on day {self.begin:g}"

    @property
    def basis(self) -> str:
        """What the baseline rests on."""
        if np.isnan(self.base):
            return self.no_baseline
        blq = f" (BLQ, LLOQ {self.base_limit:g})" if self.base == 0 < self.base_limit else ""
        return f"day {self.base_day:g}{blq}, before {self.product} on day {self.begin:g}"


def nadir(
    dataset: Tables,
    analyte: str | None = None,
    by: str | Sequence[str] | None = None,
    *,
    below: float,
    recovery: float | None = None,
    sustained: float = 0.0,
    conditioning: Sequence[str] | None = None,
    product: str | None = None,
    bags_within: float | None = None,
    exclude: Entries | None = None,
) -> pd.DataFrame:
    """Nadir and recovery of a count (ALC, ANC, platelets): one row per patient and infusion.

    A course begins with the first dose after the infusion before, of lymphodepletion as a rule, and
    ends with the next course; its days count from the infusion and may be negative. Columns: BASE,
    the last sample before its first dose; CMIN and TMIN, the nadir and its first day; TBELOW, days
    below the threshold between baseline and last sample, on the curve of `auc`; TRECOV, the first
    sampled day back at or above `recovery` after a sample below it. BASIS says what the baseline
    rests on, METHOD what was asked, NCAXRS which samples were excluded, PPREASND why a column is
    missing: "not back by day 90" is a recovery that was not seen. BLQ counts as 0.

    Args:
        dataset, analyte, by, product, bags_within, exclude: as in `table`.
        below: threshold of TBELOW, in the unit of the analyte.
        recovery: threshold of TRECOV; `below` unless given.
        sustained: days for which all samples must stay at or above it, to a last one at least so
            long after; 0 for one sample.
        conditioning: products that may begin a course; all unless given.

    Raises:
        CarpkError: a threshold that is not above 0, or an unknown product.
    """
    recovery = below if recovery is None else recovery
    if not (below > 0 and recovery > 0 and sustained >= 0):
        raise CarpkError(
            f"nca.nadir: `below` and `recovery` must be above 0 and `sustained` 0 or more, but are "
            f"{below:g}, {recovery:g} and {sustained:g}."
        )

    def measured(course: Course) -> Measured:
        day, why = _recovery(course, recovery, sustained)
        row = (course.base, *_lowest(course), _days_below(course, below), day)
        return row, {"TRECOV": why} if why else {}

    asked = f"; recovery at or above {recovery:g}" + f" for {sustained:g} day" * (sustained > 0)
    infusions = Infusions.of(dataset, analyte, product, bags_within, exclude)
    courses = _courses(infusions, named(by), conditioning)
    columns = ("BASE", "CMIN", "TMIN", "TBELOW", "TRECOV")
    method = f"days below {below:g}: {METHOD}{asked}"
    return _framed(infusions, courses, named(by), columns, measured, method)


def change(
    dataset: Tables,
    analyte: str | None = None,
    by: str | Sequence[str] | None = None,
    *,
    conditioning: Sequence[str] | None = None,
    product: str | None = None,
    bags_within: float | None = None,
    exclude: Entries | None = None,
) -> pd.DataFrame:
    """Peak over baseline of a cytokine (il6, ferritin, crp): one row per patient and infusion.

    Columns: BASE, the last sample before the first dose of the course (as in `nadir`); CMAX and
    TMAX, the peak after the infusion; CHG, peak minus baseline, and R2BASE, peak over baseline (as
    in ADaM). A baseline that is BLQ is 0 in BASE and CHG, and its LLOQ in R2BASE, which is a lower
    bound then; BASIS says so, and on which day the baseline was taken. PPREASND says why a column
    is missing. Arguments are those of `nadir`.

    Raises:
        CarpkError: an unknown product.
    """
    infusions = Infusions.of(dataset, analyte, product, bags_within, exclude)
    courses = _courses(infusions, named(by), conditioning)
    method = "peak after the infusion"
    return _framed(infusions, courses, named(by), ("BASE", *PEAK), _over_baseline, method)


def _framed(
    infusions: Infusions,
    courses: list[Course],
    by: list[str],
    columns: Sequence[str],
    measured: Callable[[Course], Measured],
    method: str,
) -> pd.DataFrame:
    """What was measured in each course, with its labels, basis and reasons."""
    rows = []
    for course in courses:
        row, own = measured(course)
        absent = {n: _why(n, course) for n, x in zip(columns, row, strict=True) if np.isnan(x)}
        labels = (*course.infusion.labels.values(), course.infusion.patient, infusions.analyte)
        said = (method, "BLQ: 0", course.basis, _excluded(infusions, course), told(absent | own))
        rows.append((*labels, *course.infusion[1:3], *row, *said))
    texts = ("METHOD", "BLQRULE", "BASIS", "NCAXRS", "PPREASND")
    frame = as_frame(rows, [*by, "patient", "analyte", "infusion", "day", *columns, *texts])
    if by:
        frame = frame.sort_values(by, kind="stable", ignore_index=True)
    units = units_of(columns, infusions.unit, infusions.dose_unit)
    frame.attrs["units"] = {"day": "day", **units}
    return frame


def _excluded(infusions: Infusions, course: Course) -> str:
    """The excluded samples of a course; of the first, all before it."""
    after = course.begin if course.infusion.number > 1 else -np.inf
    return infusions.excluded(course.infusion.patient, after, course.end)


def _lowest(course: Course) -> tuple[float, float]:
    """The nadir and its first day."""
    if not course.t.size:
        return np.nan, np.nan
    return float(course.c.min()), float(course.t[np.argmin(course.c)])


def _over_baseline(course: Course) -> Measured:
    """Baseline, peak and its day, difference and ratio; why there is no ratio."""
    after = course.t > SAME
    t, c = course.t[after], course.c[after]
    peak, day = (float(c.max()), float(t[np.argmax(c)])) if c.size else (np.nan, np.nan)
    over = course.base if course.base > 0 else course.base_limit
    ratio = peak / over if over > 0 and not np.isnan(course.base) else np.nan
    no_ratio = course.base == 0 and not over > 0
    row = (course.base, peak, day, peak - course.base, ratio)
    return row, {"R2BASE": "baseline 0 and no LLOQ known"} if no_ratio else {}


def _why(name: str, course: Course) -> str:
    """Why a column is missing, where the column itself does not say more."""
    if name in ("BASE", "CHG", "R2BASE") and np.isnan(course.base):
        return course.no_baseline
    return "no sample after the " + ("infusion" if name in PEAK else "first dose of the course")


def _courses(
    infusions: Infusions, by: list[str], conditioning: Sequence[str] | None
) -> list[Course]:
    doses = infusions.dataset.doses
    doses = doses[doses["unit"].astype(str) != ""]
    known = list(dict.fromkeys(doses["product"].astype(str)))
    for name in conditioning or ():
        if name not in known:
            raise CarpkError(
                f"`conditioning` names {name!r}, which was not given; {nearest_of(name, known)}"
            )
    opened = list(infusions.opened(by))
    if conditioning is not None:
        cells = infusions.doses["product"].astype(str)
        doses = doses[doses["product"].astype(str).isin({*conditioning, *cells})]
    begins = [_begin(infusions, doses, given) for given in opened]
    return [
        _course(infusions, given, *begins[i], begins[i + 1][0] if _same(opened, i) else np.inf)
        for i, given in enumerate(opened)
    ]


def _same(opened: list[Opened], i: int) -> bool:
    """Does the next infusion belong to the same patient?"""
    return i + 1 < len(opened) and opened[i + 1].patient == opened[i].patient


def _begin(infusions: Infusions, doses: pd.DataFrame, given: Opened) -> tuple[float, str]:
    """Day and product of the first dose since the infusion before."""
    earlier = [day for day in infusions.starts[given.patient] if day < given.start]
    since = earlier[-1] + max(infusions.within, SAME) if earlier else -np.inf
    own = doses[doses["patient"] == given.patient]
    own = own[(own["time"] >= since) & (own["time"] <= given.start + SAME)]
    first = float(own["time"].min())
    names = own.loc[own["time"] <= first + SAME, "product"].astype(str)
    return first, " + ".join(dict.fromkeys(names))


def _course(infusions: Infusions, given: Opened, begin: float, product: str, end: float) -> Course:
    window = window_of(infusions.observations, given._replace(start=begin, stop=end), np.nan, None)
    own = infusions.observations
    own = own[(own["patient"] == given.patient) & (own["time"] <= begin + SAME)]
    base = own.sort_values("time").tail(1)
    value, limit, day = (
        float(base[name].iloc[0]) if len(base) else np.nan for name in ("value", "lloq", "time")
    )
    t, c = window.t + begin - given.start, np.where(window.quantifiable, window.c, 0.0)
    return Course(given, begin, end, product, 0.0 if value < limit else value, day, limit, t, c)


def _days_below(course: Course, threshold: float) -> float:
    """Days below a threshold, from the baseline (or the first sample) to the last sample."""
    t, c = course.t, course.c
    if not np.isnan(course.base):
        first = course.base_day - course.infusion.start
        t, c = np.append(first, t), np.append(course.base, c)
    if not course.t.size:
        return np.nan
    day, count = np.full((2, padded_size(t.size, 8)), np.nan)
    day[: t.size], count[: t.size] = t, c
    return float(t[-1] - t[0]) - float(time_above(day, count, threshold))


def _recovery(course: Course, threshold: float, sustained: float) -> tuple[float, str]:
    """The first day back at or above a threshold; or why there is none."""
    t, c = course.t, course.c
    low = c < threshold
    if not t.size:
        return np.nan, "no sample after the first dose of the course"
    if not low.any():
        return np.nan, f"never below {threshold:g}"
    for i in range(int(np.argmax(low)) + 1, t.size):
        ahead = (t >= t[i]) & (t <= t[i] + sustained + SAME)
        if not low[ahead].any():
            if t[-1] < t[i] + sustained - SAME:
                return np.nan, f"back from day {t[i]:g}, but not followed for {sustained:g} day"
            return float(t[i]), ""
    return np.nan, f"not back by day {t[-1]:g}"
