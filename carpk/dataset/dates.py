"""Dates and clock times of doses and observations, as days from each patient's day 0.

Day 0 is the patient's first cell infusion, or the date in the column `time_zero` of the patients
table. Whether a day or a month comes first is never guessed: the data prove it (a number above 12)
or `day_first` says it.
"""

import datetime
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np
import pandas as pd

from carpk.dataset import units
from carpk.dataset.doses import RESET
from carpk.dataset.tables import Table, count, each, listing, number_of, text_of
from carpk.dataset.validate import Settings

NONMEM = {"DATE": "", "DAT1": "dmy", "DAT2": "ymd", "DAT3": "ydm"}
"""Columns of dates in NM-TRAN -> order of day, month and year; in `DATE` the data must prove it."""
ZERO = "time_zero"
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_NUMBERS = re.compile(r"(\d{1,4})([-/.])(\d{1,2})\2(\d{1,4})")
_NAMED = re.compile(rf"(\d{{1,2}})[- ]?({'|'.join(_MONTHS)})[a-z]*\.?,?[- ]?(\d{{4}})", re.I)
_CLOCK = re.compile(
    r"(?:^|[T ,:]\s*)(?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d(?:\.\d+)?))?"
    r"(?:\s*(?P<half>[ap])\.?m\.?)?(?P<zone>\s*(?:Z|[A-Z]{3,4}|[+-]\d\d:?(?:\d\d)?))?$",
    re.IGNORECASE,
)
_FORMS = "Write dates as 2024-03-01 or 2024-03-01 08:30, at the local time of the site."


@dataclass(frozen=True)
class Moment:
    """A day of the calendar and, where it is known, seconds since its midnight."""

    day: datetime.date
    clock: float | None = None

    def __str__(self) -> str:
        return self.day.isoformat() + ("" if self.clock is None else f" {_clock_text(self.clock)}")


@dataclass(frozen=True)
class _Written:
    """A date as written: the year, two numbers, and which of them is the day ('' if open)."""

    year: int
    numbers: tuple[int, int]
    order: str
    clock: float | None


@dataclass(frozen=True)
class _Column:
    """The entries of a column that are to be dates."""

    table: Table
    name: str
    entries: Sequence[object]
    order: str = ""

    def fail(self, row: int, problem: str, advice: str) -> NoReturn:
        self.table.fail(problem, advice, rows=[row], column=self.name)


def _clock_text(clock: float) -> str:
    minutes, seconds = divmod(clock, 60)
    hour, minute = divmod(int(minutes), 60)
    return f"{hour:02d}:{minute:02d}" + (f":{seconds:g}" if seconds else "")


def looks_dated(entry: object) -> bool:
    """The entry is a date, a clock time or both, rightly written or not."""
    text = text_of(entry)
    if isinstance(entry, Moment | datetime.date | datetime.time | np.datetime64):
        return bool(text)
    return any(form.match(text) for form in (_NUMBERS, _NAMED)) or bool(_CLOCK.search(text))


# ---- doses and observations -------------------------------------------------------------------


def to_days(read: Mapping[str, Table], settings: Settings) -> dict[str, Table]:
    """Tables whose times are days, where they were dates; doses and observations share the rule."""
    both = {key: read[key] for key in ("doses", "observations") if key in read}
    if not any("date" in t or _any_dated(t.columns.get("time", ())) for t in both.values()):
        return dict(read)
    columns = {key: _dated_column(table) for key, table in both.items() if len(table)}
    moments = dict(zip(columns, read_dates([*columns.values()], settings), strict=True))
    zeros = _day_zeros(read, moments, settings)
    found = dict(read)
    for key, column in columns.items():
        days = _days(column, moments[key], zeros)
        kept = {name: entries for name, entries in both[key].columns.items() if name != "date"}
        found[key] = replace(both[key], columns=kept | {"time": days})
    if ZERO in found.get("patients", ()):
        found["patients"] = _without(found["patients"], ZERO)
    settings.dated = True
    _say(moments, settings)
    return found


def _any_dated(entries: Iterable[object]) -> bool:
    return any(each(looks_dated, entries))


def _without(table: Table, column: str) -> Table:
    return replace(table, columns={k: v for k, v in table.columns.items() if k != column})


def _dated_column(table: Table) -> _Column:
    """The times of a table, with the dates of a column `date` where it has one."""
    if "date" in table:
        return joined(table, "date", "time", "")
    table.require(["time"], [], covariates=True)
    return _Column(table, "time", table.columns["time"])


def joined(table: Table, date: str, time: str, order: str) -> _Column:
    """Dates of one column with the clock times of another, which may be empty or not there."""
    clocks = table.columns.get(time, [None] * len(table))
    entries: list[object] = []
    for i, (day, clock) in enumerate(zip(table.columns[date], clocks, strict=True)):
        text = text_of(clock)
        if not text:
            entries.append(day)
            continue
        match = _CLOCK.match(text)
        if match is None:
            table.fail(
                f"column `{date}` holds dates, but {text!r} in `{time}` is no clock time",
                "Write clock times as 08:30, or keep one of the two columns: dates, or days since "
                "the patient's first cell infusion.",
                rows=[i],
                column=time,
            )
        written = day.date() if isinstance(day, datetime.datetime) and text_of(day) else day
        entries.append(f"{text_of(written)} {text}" if text_of(written) else None)
    return _Column(table, date, entries, order)


def nonmem_column(table: Table) -> _Column | None:
    """The times of an event table, where they are dates; its columns of dates are NM-TRAN's."""
    named = [name for name in NONMEM if name in table]
    if len(named) > 1:
        table.fail(f"columns {listing(named)} both hold dates", "Keep one of them.")
    if named:
        return joined(table, named[0], "TIME", NONMEM[named[0]])
    if _any_dated(table.columns["TIME"]):
        return _Column(table, "TIME", table.columns["TIME"])
    return None


def in_order(table: Table) -> np.ndarray:
    """Days that rise where the moments in TIME do; one without a clock time as the one before."""
    found: list[float] = []
    for moment in table.columns["TIME"]:
        assert isinstance(moment, Moment)
        day = float(moment.day.toordinal())
        before = found[-1] if found and found[-1] // 1 == day else day
        found.append(before if moment.clock is None else day + moment.clock / 86400)
    return np.array(found)


# ---- as written -------------------------------------------------------------------------------


def read_dates(columns: Sequence[_Column], settings: Settings) -> list[list[Moment]]:
    """Moments of all columns, of which one may prove the order of day and month of the others."""
    _refuse_mixture(columns)
    written = [[_written(c, i) for i in range(len(c.entries))] for c in columns]
    _settle_order(columns, written, settings)
    return [
        _without_midnights([_moment(column, i, entry, settings) for i, entry in enumerate(entries)])
        for column, entries in zip(columns, written, strict=True)
    ]


def _refuse_mixture(columns: Sequence[_Column]) -> None:
    """Refuse numbers among dates, or dates among numbers: the rarer ones."""
    every = [(c, i, c.entries[i]) for c in columns for i in range(len(c.entries))]
    numbers = [x for x in every if text_of(x[2]) and number_of(x[2]) is not None]
    dates = [x for x in every if looks_dated(x[2])]
    if not numbers or not dates:
        return
    few, many = sorted((numbers, dates), key=len)
    kinds = ("a number", "dates") if few is numbers else ("a date or clock time", "numbers")
    (column, row, odd), (other, place, usual) = few[0], many[0]
    column.fail(
        row,
        f"the time {text_of(odd)!r} is {kinds[0]}, but others are {kinds[1]}, such as "
        f"{text_of(usual)!r} ({other.table.label}, {other.table.at(place)})",
        "Give all times of doses and observations as dates, or all as days since the patient's "
        "first cell infusion.",
    )


def _written(column: _Column, row: int) -> _Written | Moment:
    entry = column.entries[row]
    if isinstance(entry, Moment):
        return entry
    if isinstance(entry, np.datetime64):
        entry = pd.Timestamp(entry)
    text = text_of(entry)
    if not text:
        column.fail(row, "the time is missing", "Give a date, as in the other rows.")
    if isinstance(entry, datetime.datetime):
        if entry.tzinfo is not None:
            _refuse_zone(column, row, text)
        clock = (entry - datetime.datetime.combine(entry, datetime.time())).total_seconds()
        return Moment(entry.date(), clock)
    if isinstance(entry, datetime.date):
        return Moment(entry)
    return _of_text(column, row, text)


def _refuse_zone(column: _Column, row: int, text: str) -> NoReturn:
    column.fail(row, f"{text!r} has a time zone", _FORMS)


def _of_text(column: _Column, row: int, text: str) -> _Written:
    found = _CLOCK.search(text)
    day = text if found is None else text[: found.start()].strip()
    clock = None if found is None else _seconds(column, row, text, found)
    if found is not None and not day:
        column.fail(
            row,
            f"{text!r} is a clock time without a date",
            "Give dates in a column `date` (in a NONMEM table DATE), or days since the patient's "
            "first cell infusion.",
        )
    if named := _NAMED.fullmatch(day):
        month = _MONTHS.index(named[2].lower()) + 1
        return _Written(int(named[3]), (int(named[1]), month), "dm", clock)
    numbers = _NUMBERS.fullmatch(day)
    if numbers is None:
        column.fail(row, f"{text!r} is no complete date", _FORMS)
    return _of_numbers(column, row, text, (numbers[1], numbers[3], numbers[4]), clock)


def _seconds(column: _Column, row: int, text: str, found: re.Match[str]) -> float:
    if found["zone"]:
        _refuse_zone(column, row, text)
    hour, minute, second = int(found["hour"]), int(found["minute"]), float(found["second"] or 0)
    half = (found["half"] or "").lower()
    if hour > 23 or minute > 59 or second >= 60 or (half and not 1 <= hour <= 12):
        column.fail(row, f"{text!r} has no clock time of a day", "Hours run from 00:00 to 23:59.")
    if half:
        hour = hour % 12 + (12 if half == "p" else 0)
    return 3600.0 * hour + 60 * minute + second


def _of_numbers(
    column: _Column, row: int, text: str, parts: tuple[str, str, str], clock: float | None
) -> _Written:
    """Three numbers, of which the one with four digits is the year."""
    first, last = len(parts[0]) == 4, len(parts[2]) == 4
    if first == last:
        column.fail(row, f"the year of {text!r} has not four digits", _FORMS)
    year = int(parts[0] if first else parts[2])
    numbers = (int(parts[1]), int(parts[2])) if first else (int(parts[0]), int(parts[1]))
    if column.order and column.order.startswith("y") != first:
        where = "first" if column.order.startswith("y") else "last"
        column.fail(row, f"the year of {text!r} is not {where}, as in {column.name}", _FORMS)
    order = column.order.replace("y", "") or ("md" if first else "")
    return _Written(year, numbers, order, clock)


# ---- day or month first -----------------------------------------------------------------------


def _settle_order(
    columns: Sequence[_Column],
    written: Sequence[Sequence[_Written | Moment]],
    settings: Settings,
) -> None:
    """Set `day_first` where the data prove it; refuse dates that may be read in two ways."""
    open_ones = [
        (column, i, entry)
        for column, entries in zip(columns, written, strict=True)
        for i, entry in enumerate(entries)
        if isinstance(entry, _Written) and not entry.order
    ]
    if settings.day_first is not None and open_ones:
        settings.notes.append(f"Dates were read {_first(settings)} first, as `day_first` says.")
    if settings.day_first is not None or not open_ones:
        return
    day, month = ([x for x in open_ones if x[2].numbers[k] > 12] for k in (0, 1))
    if day and month:
        few, many = sorted((day, month), key=len)
        _refuse_two_orders(few[0], many[0])
    for column, i, entry in open_ones:
        if not (day or month) and entry.numbers[0] != entry.numbers[1]:
            _refuse_two_readings(column, i, entry)
    for column, row, _ in [*day, *month][:1]:
        settings.day_first = bool(day)
        settings.notes.append(
            f"Dates were read {_first(settings)} first, as {text_of(column.entries[row])!r} shows "
            f"({column.table.label}, {column.table.at(row)})."
        )


def _first(settings: Settings) -> str:
    return "day" if settings.day_first else "month"


def _refuse_two_orders(
    odd: tuple[_Column, int, _Written], usual: tuple[_Column, int, _Written]
) -> NoReturn:
    (column, row, entry), (other, place, _) = odd, usual
    words = ("day", "month") if entry.numbers[0] > 12 else ("month", "day")
    column.fail(
        row,
        f"{text_of(column.entries[row])!r} has the {words[0]} first, but "
        f"{text_of(other.entries[place])!r} the {words[1]} ({other.table.label}, "
        f"{other.table.at(place)})",
        _FORMS,
    )


def _refuse_two_readings(column: _Column, row: int, entry: _Written) -> NoReturn:
    one, other = (
        f"{a} {_MONTHS[b - 1].capitalize()}" for a, b in (entry.numbers, entry.numbers[::-1])
    )
    column.fail(
        row,
        f"{text_of(column.entries[row])!r} may be {one} or {other}, and no date has a number "
        "above 12 that would tell",
        f"Pass day_first=True ({one}) or day_first=False ({other}), or write {entry.year}-MM-DD.",
    )


def _moment(column: _Column, row: int, entry: _Written | Moment, settings: Settings) -> Moment:
    if isinstance(entry, Moment):
        return entry
    order = entry.order or ("md" if settings.day_first is False else "dm")
    day, month = entry.numbers if order == "dm" else entry.numbers[::-1]
    try:
        return Moment(datetime.date(entry.year, month, day), entry.clock)
    except ValueError:
        column.fail(
            row,
            f"{text_of(column.entries[row])!r} is no day of the calendar (day {day}, month "
            f"{month}, year {entry.year})",
            "Correct the date, or the order of day and month (`day_first`).",
        )


def _without_midnights(moments: list[Moment]) -> list[Moment]:
    """Where no moment of a column has a clock time but midnight, dates alone are meant."""
    return moments if any(m.clock for m in moments) else [Moment(m.day) for m in moments]


# ---- from day 0 -------------------------------------------------------------------------------


def _day_zeros(
    read: Mapping[str, Table], moments: Mapping[str, Sequence[Moment]], settings: Settings
) -> dict[str, Moment]:
    """Day 0 of each patient: the first infusion of cells, unless the patients table tells it."""
    zeros: dict[str, Moment] = {}
    if "doses" in moments:
        zeros = _first_infusions(read["doses"], moments["doses"])
    patients = read.get("patients")
    if patients is None or ZERO not in patients or "patient" not in patients:
        return zeros
    told = [i for i, entry in enumerate(patients.columns[ZERO]) if text_of(entry)]
    table = patients.take(told)
    column = _Column(table, ZERO, table.columns[ZERO])
    given = dict(zip(table.texts("patient"), read_dates([column], settings)[0], strict=True))
    settings.notes.append(
        f"{table.label}: `{ZERO}` gave the date of day 0 of {count(len(given), 'patient')}."
    )
    return zeros | given


def _first_infusions(table: Table, moments: Sequence[Moment]) -> dict[str, Moment]:
    table.require(["patient", "unit"], [], covariates=True)
    first: dict[str, Moment] = {}
    resets = [number_of(entry) == RESET for entry in table.columns.get("evid", [1] * len(table))]
    named = zip(table.texts("patient"), table.texts("unit", required=False), strict=True)
    for (patient, unit), moment, reset in zip(named, moments, resets, strict=True):
        known = units.dose(unit)
        if known is None or known[0] not in units.CELL_UNITS or reset:
            continue
        first[patient] = min(first.get(patient, moment), moment, key=_sorted_by)
    return first


def _sorted_by(moment: Moment) -> tuple[int, float]:
    return moment.day.toordinal(), -1.0 if moment.clock is None else moment.clock


def _days(column: _Column, moments: Sequence[Moment], zeros: Mapping[str, Moment]) -> list[float]:
    table, found = column.table, []
    patients = table.texts("patient")
    for i, (patient, moment) in enumerate(zip(patients, moments, strict=True)):
        zero = zeros.get(patient)
        if zero is None:
            table.fail(
                f"the time is a date, but day 0 of patient {patient!r} is not known: there is no "
                "cell infusion in the doses table",
                "Add the infusion, or give the date of day 0 in a column `time_zero` of the "
                "patients table.",
                rows=[j for j, other in enumerate(patients) if other == patient],
                column=column.name,
            )
        if moment.clock is not None and zero.clock is None:
            column.fail(
                i,
                f"the row has a clock time ({moment}), but the patient's day 0 ({zero}) has none",
                "Give the clock time of the first cell infusion, too, or dates alone in all rows.",
            )
        found.append(_since(moment, zero))
    return found


def _since(moment: Moment, zero: Moment) -> float:
    whole = float((moment.day - zero.day).days)
    if moment.clock is None or zero.clock is None:
        return whole
    return whole + (moment.clock - zero.clock) / 86400


def _say(moments: Mapping[str, Sequence[Moment]], settings: Settings) -> None:
    note = "Dates became days since the patient's day 0, the first cell infusion"
    bare = {key: sum(m.clock is None for m in each) for key, each in moments.items()}
    if any(bare.values()):
        listed = " and ".join(f"{key} {n}" for key, n in bare.items() if n)
        note += (
            f"; rows without a clock time ({listed}) count whole days. On the day of the infusion "
            "they are at its time: a sample before it, unless recorded after it"
        )
    settings.notes.append(f"{note}.")
