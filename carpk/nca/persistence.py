"""Times known only between two samples: loss of detectability, and first detection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from carpk._late import late
from carpk._options import Interval, options
from carpk._tables import as_frame
from carpk.dosing.regimen import SAME
from carpk.errors import CarpkError
from carpk.nca.turnbull import innermost, masses
from carpk.nca.windows import Infusions, Opened, Tables, Window, named, window_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from carpk.nca.choices import Entries

RESAMPLED = 1e-6  # change of mass at which the estimate of a resample stops
ENDS = ("death", "relapse", "transplant")  # columns of the patients table that end follow-up


class Seen(NamedTuple):
    """What one patient's samples say of an event: it lies in (left, right], and why no more."""

    left: float
    right: float  # inf where the event was not seen
    event: str


@dataclass(frozen=True, eq=False, repr=False)
class TimeToEvent:
    """Interval-censored times of patients, and Turnbull's estimate of their distribution.

    Attributes:
        event: "loss of detectability" or "first detection".
        by: the columns that tell arms apart.
        table: a row per patient: LEFT, RIGHT [day since the infusion], the samples between which
            the event lies; CNSR (1 right-censored) and EVNTDESC (what happened, or ended the
            follow-up), as in ADTTE of CDISC; NCAXRS, the samples that were excluded.
        curve: a row per arm and innermost interval with mass: LEFT, RIGHT, PROBBEF and PROBAFT, the
            share of patients without the event before and after it, and the interval of PROBAFT.
            Inside, the data do not tell how the share falls.
        medians: a row per arm: n, events, censored; the median time lies in (LEFT, RIGHT], and the
            interval goes from the lowest LEFT to the highest RIGHT.
        interval: the probability of these intervals, percentiles of resampled patients.
    """

    event: str
    by: tuple[str, ...]
    analyte: str
    table: pd.DataFrame
    curve: pd.DataFrame
    medians: pd.DataFrame
    interval: Interval

    def plot(self) -> Figure:
        """Share of patients without the event, a curve per arm, with the band of resamples."""
        figure: Figure = late("carpk.plot.time_to_event")(self)
        return figure

    def __repr__(self) -> str:
        head = f"Time to {self.event} of {self.analyte} [day since the infusion], Turnbull"
        note = f"{self.interval} equal-tailed intervals: patients resampled"
        return f"{head}\n{self.medians.to_string(index=False, float_format='{:g}'.format)}\n{note}"


def persistence(
    dataset: Tables,
    analyte: str | None = None,
    by: str | Sequence[str] | None = None,
    *,
    product: str | None = None,
    bags_within: float | None = None,
    infusion: int = 1,
    until: Sequence[str] | None = None,
    exclude: Entries | None = None,
    resamples: int = 500,
    seed: int = 0,
) -> TimeToEvent:
    """Time from an infusion to loss of detectability, interval-censored.

    It lies after the last quantifiable sample and up to the next one, BLQ as all that follow
    (EVNTDESC says how many). A patient without a quantifiable sample lost detectability before the
    first BLQ. Where the last sample is quantifiable, the time is right-censored there. Follow-up
    ends with the next infusion, and on the first day that one of `until` names; later samples do
    not count.

    Args:
        dataset, analyte, by, product, bags_within: as in `table`; `by` tells arms apart.
        infusion: which infusion of each patient; the first is 1.
        until: columns of the patients table with the day of an event [day, as in the
            observations; missing where there was none; before the infusion it does not count];
            unless given, those of death, relapse and transplant that are there.
        exclude: samples left out, with a reason each, as in `table`.
        resamples: of patients within arms, for the intervals (`ck.options.interval_prob`).
        seed: of the resampling.

    Raises:
        CarpkError: an unknown column or infusion, or events that are no days.

    Source: Turnbull (1976), doi:10.1111/j.2517-6161.1976.tb01597.x.
    """
    infusions = Infusions.of(dataset, analyte, product, bags_within, exclude)
    return _time_to(
        "loss of detectability", _loss, infusions, named(by), infusion, until, resamples, seed
    )


def first_detection(
    dataset: Tables,
    analyte: str | None = None,
    by: str | Sequence[str] | None = None,
    *,
    product: str | None = None,
    bags_within: float | None = None,
    infusion: int = 1,
    until: Sequence[str] | None = None,
    exclude: Entries | None = None,
    resamples: int = 500,
    seed: int = 0,
) -> TimeToEvent:
    """Time from an infusion to the first quantifiable sample, interval-censored.

    It lies after the BLQ sample before (or the infusion) and up to the first quantifiable one;
    right-censored at the last sample where there is none. Arguments and errors are those of
    `persistence`.
    """
    infusions = Infusions.of(dataset, analyte, product, bags_within, exclude)
    return _time_to(
        "first detection", _detection, infusions, named(by), infusion, until, resamples, seed
    )


def _loss(window: Window, ended: str) -> Seen:
    """When the samples stopped to be quantifiable."""
    seen = window.quantifiable
    if not window.t.size:
        return Seen(0.0, np.inf, f"no sample before {ended}")
    first_after = int(np.flatnonzero(seen)[-1]) + 1 if seen.any() else 0
    left = float(window.t[first_after - 1]) if first_after else 0.0
    after = window.t.size - first_after
    if not after:
        return Seen(left, np.inf, f"quantifiable until {ended}")
    what = "lost" if seen.any() else "never quantifiable"
    return Seen(left, float(window.t[first_after]), f"{what}, {after} BLQ")


def _detection(window: Window, ended: str) -> Seen:
    """When the samples began to be quantifiable."""
    seen = window.quantifiable
    if not window.t.size:
        return Seen(0.0, np.inf, f"no sample before {ended}")
    if not seen.any():
        return Seen(float(window.t[-1]), np.inf, f"BLQ until {ended}")
    first = int(np.argmax(seen))
    return Seen(float(window.t[first - 1]) if first else 0.0, float(window.t[first]), "detected")


def _time_to(
    event: str,
    rule: Callable[[Window, str], Seen],
    infusions: Infusions,
    by: list[str],
    number: int,
    until: Sequence[str] | None,
    resamples: int,
    seed: int,
) -> TimeToEvent:
    if resamples < 1:
        raise CarpkError(f"`resamples` must be 1 or more, but is {resamples}.")
    ends = _ends(infusions.dataset, until)
    rows = []
    for given in infusions.opened(by):
        if given.number != number:
            continue
        stop, ended = _follow_up(given, ends)
        window = window_of(infusions.observations, given._replace(stop=stop), np.nan, None)
        found = rule(window, ended)
        labels = (*given.labels.values(), given.patient, infusions.analyte, number, given.start)
        ends_at = (found.left, found.right, int(np.isinf(found.right)))
        left_out = infusions.excluded(given.patient, given.after, given.stop)
        rows.append((*labels, *ends_at, found.event, left_out))
    if not rows:
        raise CarpkError(f"No patient has an infusion number {number}; the first is 1.")
    known = ("patient", "analyte", "infusion", "day", "LEFT", "RIGHT", "CNSR", "EVNTDESC", "NCAXRS")
    table = as_frame(rows, [*by, *known])
    if by:
        table = table.sort_values(by, kind="stable", ignore_index=True)
    interval = options.interval
    parts = [(k, _estimate(arm, interval, resamples, seed)) for k, arm in _arms(table, by)]
    curve = [(*key, *row) for key, (steps, _) in parts for row in steps]
    medians = [(*key, *row) for key, (_, row) in parts]
    steps = ("LEFT", "RIGHT", "PROBBEF", "PROBAFT", *interval.columns)
    columns = ("n", "events", "censored", "LEFT", "RIGHT", *interval.columns)
    return TimeToEvent(
        event=event,
        by=tuple(by),
        analyte=infusions.analyte,
        table=table,
        curve=as_frame(curve, [*by, *steps]),
        medians=as_frame(medians, [*by, *columns]),
        interval=interval,
    )


def _arms(table: pd.DataFrame, by: list[str]) -> list[tuple[tuple[object, ...], pd.DataFrame]]:
    return [(key, arm) for key, arm in table.groupby(by, dropna=False)] if by else [((), table)]


def _ends(dataset: Tables, until: Sequence[str] | None) -> pd.DataFrame:
    """Days that end the follow-up, a column per kind, by patient."""
    patients = getattr(dataset, "patients", None)
    known = [] if patients is None else [str(name) for name in patients]
    wanted = [name for name in ENDS if name in known] if until is None else list(until)
    for name in wanted:
        if name not in known:
            raise CarpkError(
                f"`until` names {name!r}, but the patients table has the columns "
                f"{', '.join(known) or 'none'}. Add the day of the event."
            )
    if not wanted or patients is None:
        return as_frame({})
    labelled: pd.DataFrame = patients.set_index("patient")[wanted]
    try:
        days = labelled.astype(float)
    except ValueError as error:
        raise CarpkError(
            f"The columns {', '.join(wanted)} of the patients table must hold days, empty where "
            f"there was no such event, but {error}."
        ) from error
    for name in wanted:
        if set(days[name].dropna()) <= {0.0, 1.0} and days[name].notna().sum() > 1:
            raise CarpkError(
                f"Column {name!r} of the patients table holds only 0 and 1, which tell whether and "
                "not when: give the day of the event, empty where there was none, or leave it out "
                "with until=[...]."
            )
    return days


def _follow_up(infusion: Opened, ends: pd.DataFrame) -> tuple[float, str]:
    """The day on which the follow-up of an infusion ends, and what ended it."""
    days = {str(name): float(ends[name].get(infusion.patient, np.nan)) for name in ends}
    days = {f"{name} on day {day:g}": day for name, day in days.items() if day > infusion.start}
    days[f"the infusion on day {infusion.stop:g}"] = infusion.stop
    first = min(days, key=lambda name: days[name])
    return days[first], first if np.isfinite(days[first]) else "the last sample"


def _estimate(
    arm: pd.DataFrame, interval: Interval, resamples: int, seed: int
) -> tuple[list[tuple[float, ...]], tuple[float, ...]]:
    """Rows of the curve of one arm, and its row of medians."""
    left, right = arm["LEFT"].to_numpy(float), arm["RIGHT"].to_numpy(float)
    cells = innermost(left, right)
    after = _share_after(masses(cells.inside, np.ones(left.size)))
    n = left.size
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    many = _share_after(masses(cells.inside, weights.astype(float), RESAMPLED))
    low, high = np.quantile(many, interval.tails, axis=0)
    before = np.concatenate([[1.0], after[:-1]])
    columns = (cells.low, cells.high, before, after, low, high)
    steps = [
        row for row in zip(*(x.tolist() for x in columns), strict=True) if row[2] - row[3] > SAME
    ]
    where = np.argmax(after <= 0.5 + SAME)
    places = np.argmax(many <= 0.5 + SAME, axis=1)
    ends = (
        np.quantile(cells.low[places], interval.tails[0], method="inverted_cdf"),
        np.quantile(cells.high[places], interval.tails[1], method="inverted_cdf"),
    )
    censored = int(np.isinf(right).sum())
    return steps, (n, n - censored, censored, cells.low[where], cells.high[where], *ends)


def _share_after(mass: np.ndarray) -> np.ndarray:
    """Share of patients whose event lies after each innermost interval."""
    later = np.cumsum(mass[..., :0:-1], axis=-1)[..., ::-1]
    return np.concatenate([later, np.zeros_like(mass[..., :1])], axis=-1)
