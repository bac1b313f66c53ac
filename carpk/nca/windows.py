"""Infusions of a data set, and what was observed from each to the next."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from carpk.dosing.regimen import SAME
from carpk.errors import CarpkError, CarpkWarning
from carpk.nca.choices import Chosen, without_excluded

if TYPE_CHECKING:
    import pandas as pd

    from carpk.nca.choices import Entries


class Tables(Protocol):
    """What of a data set is analysed."""

    @property
    def observations(self) -> pd.DataFrame: ...

    @property
    def doses(self) -> pd.DataFrame: ...


class Opened(NamedTuple):
    """One infusion of one patient, the interval that it opens, and its labels."""

    patient: Hashable
    number: int  # the first is 1
    start: float  # [day]
    stop: float  # the next infusion, inf after the last [day]
    labels: dict[str, object]

    @property
    def after(self) -> float:
        """The day after which samples enter: of the first infusion, all before it do."""
        return self.start if self.number > 1 else -np.inf


@dataclass(frozen=True)
class Infusions:
    """The infusions from which days count, and the samples of one analyte.

    Attributes:
        observations: of the analyte, `value` 0 where censored, `lloq` where known.
        doses: those that open intervals.
        within: days in which doses are bags of one infusion.
        starts: patient -> days of infusions.
        removed: patient -> (day, reason) of the samples that were excluded.
    """

    dataset: Tables
    analyte: str
    unit: str
    observations: pd.DataFrame
    doses: pd.DataFrame
    within: float
    starts: dict[Hashable, list[float]]
    removed: dict[Hashable, list[tuple[float, str]]]

    @classmethod
    def of(
        cls,
        dataset: Tables,
        analyte: str | None,
        product: str | None,
        bags_within: float | None,
        exclude: Entries | None,
    ) -> Infusions:
        every, analyte, unit = _observations(dataset, analyte)
        doses, within = _doses(dataset, analyte, product, bags_within)
        starts = _infusions(doses, every, within)
        kept, removed = without_excluded(every, exclude, analyte)
        return cls(dataset, analyte, unit, kept, doses, within, starts, removed)

    def opened(self, by: Sequence[str] = ()) -> Iterator[Opened]:
        """Every infusion, labelled by columns of doses, patients or observations."""
        for patient, starts in self.starts.items():
            for k, start in enumerate(starts):
                labels = {
                    name: _label(self.dataset, self.doses, name, patient, start, self.within)
                    for name in by
                }
                stop = starts[k + 1] if k + 1 < len(starts) else np.inf
                yield Opened(patient, k + 1, start, stop, labels)

    def dose(self, infusion: Opened) -> float:
        """What an infusion held; NaN where that is not known, or doses have several units."""
        return _amount(self.doses, infusion.patient, infusion.start, self.within)

    def excluded(self, patient: Hashable, start: float, stop: float) -> str:
        """Samples excluded after `start` up to `stop`, such as "day 9: haemolysed"."""
        own = sorted(self.removed.get(patient, []))
        inside = [(day, why) for day, why in own if start + SAME < day <= stop + SAME]
        return "; ".join(f"day {day:g}: {why}" for day, why in inside)

    def bags(self, infusion: Opened) -> pd.DataFrame:
        """The doses that are one infusion."""
        return _of_infusion(self.doses, infusion.patient, infusion.start, self.within)

    @property
    def drugs(self) -> bool:
        """Are the doses drugs, not cells?"""
        return not self.doses["unit"].astype(str).str.startswith("cells").any()

    @property
    def dose_unit(self) -> str:
        return " or ".join(dict.fromkeys(self.doses["unit"].astype(str))) or "dose"


def named(by: str | Sequence[str] | None) -> list[str]:
    """The columns of `by`."""
    return [by] if isinstance(by, str) else list(by or ())


class Window(NamedTuple):
    """What is known from one infusion to the next; times count from it."""

    t: np.ndarray  # [day]
    c: np.ndarray  # 0 where censored
    lloq: np.ndarray  # 0 where unknown
    limit: float  # highest LLOQ; nan where none is known
    initial: float  # concentration before the infusion; C0 after a bolus
    dose: float  # nan where unknown
    until: float  # day of the next infusion, inf after the last
    chosen: Chosen | None  # of lambda z
    residual: bool  # was there a concentration before the infusion?
    duration: float = 0.0  # of a dose of a drug

    @property
    def quantifiable(self) -> np.ndarray:
        return (self.c >= self.lloq) & (self.c > 0)


def _observations(dataset: Tables, analyte: str | None) -> tuple[pd.DataFrame, str, str]:
    """The observed values of one analyte, with `value` 0 where censored and `lloq` where known."""
    found = dataset.observations
    choices = sorted(set(found["analyte"]))
    if analyte is None and len(choices) == 1:
        analyte = choices[0]
    if analyte not in choices:
        asked = "`analyte` must be named" if analyte is None else f"Analyte {analyte!r} is unknown"
        raise CarpkError(f"{asked}: choose one of {', '.join(map(repr, choices)) or 'none'}.")
    found = found[(found["analyte"] == analyte) & found["value"].notna() & found["time"].notna()]
    units = list(dict.fromkeys(found["unit"]))
    if len(units) > 1:
        raise CarpkError(
            f"Analyte {analyte!r} comes in {len(units)} units ({', '.join(map(str, units))}). "
            f"Convert its values to one unit first."
        )
    censored = found["censored"].fillna(0)
    if (upper := int((~censored.isin([0, 1])).sum())) > 0:
        warnings.warn(
            f"{upper} values of {analyte!r} are censored otherwise than from below and are used as "
            f"they stand: CMAX and areas of these patients are lower bounds.",
            CarpkWarning,
            stacklevel=4,
        )
    left = censored == 1
    lloq = found["lloq"].astype(float)
    lloq = lloq.where(lloq.notna() | ~left, found["value"])  # a censored value holds the LLOQ
    found = found.assign(value=found["value"].astype(float).where(~left, 0.0), lloq=lloq)
    negative = found[(found["value"] < 0) & ~(lloq > 0)]
    if len(negative):
        patient, day, value = negative[["patient", "time", "value"]].iloc[0]
        raise CarpkError(
            f"Patient {patient!r} has the value {value:g} of {analyte!r} on day {day:g} and no "
            "LLOQ. Give the LLOQ, so that the BLQ rule holds for it, or remove a failed sample."
        )
    return found, str(analyte), str(units[0]) if units else ""


def _doses(
    dataset: Tables, analyte: str, product: str | None, bags_within: float | None
) -> tuple[pd.DataFrame, float]:
    """The doses from which days count, and how far apart those of one infusion may begin."""
    doses = dataset.doses
    doses = doses[doses["unit"].astype(str) != ""]
    lasting = doses["duration"].fillna(0.0) if "duration" in doses else 0.0
    doses = doses.assign(duration=lasting)
    names = list(dict.fromkeys(doses["product"]))
    if product is not None and product not in names:
        raise CarpkError(
            f"`product` {product!r} was not given; it must be one of "
            f"{', '.join(map(repr, names)) or 'none'}."
        )
    cells = doses["unit"].astype(str).str.startswith("cells")
    if product is None and analyte in names:
        product = analyte
    if product is not None:
        doses = doses[doses["product"] == product]
    elif cells.any():
        doses = doses[cells]
    drugs = not doses["unit"].astype(str).str.startswith("cells").any()
    return doses, (0.0 if drugs else 1.0) if bags_within is None else bags_within


def _infusions(
    doses: pd.DataFrame, observations: pd.DataFrame, within: float
) -> dict[Hashable, list[float]]:
    """Days of each observed patient's infusions: of the first bag of each."""
    days = {
        patient: _first_bags(sorted(group["time"].astype(float)), within)
        for patient, group in doses.groupby("patient", sort=False)
    }
    patients = list(dict.fromkeys(observations["patient"]))
    without = [patient for patient in patients if patient not in days]
    if without:
        what = " or ".join(dict.fromkeys(doses["product"])) or "cells"
        warnings.warn(
            f"{len(without)} of {len(patients)} patients had no infusion of {what} and are left "
            f"out: {', '.join(map(str, without[:5]))}{', ...' if len(without) > 5 else ''}. Add "
            "the dose from which their days count.",
            CarpkWarning,
            stacklevel=4,
        )
    return {patient: days[patient] for patient in patients if patient in days}


def _of_infusion(
    doses: pd.DataFrame, patient: Hashable, start: float, within: float
) -> pd.DataFrame:
    """The doses that are one infusion."""
    since = doses["time"].astype(float) - start
    bags = (since >= 0) & (since < max(within, SAME))
    return doses[(doses["patient"] == patient) & bags]


def _amount(doses: pd.DataFrame, patient: Hashable, start: float, within: float) -> float:
    """What an infusion held; NaN where that is not known, or doses have several units."""
    bags = _of_infusion(doses, patient, start, within)
    alike = len(set(doses["unit"])) == 1
    return float(bags["amount"].sum(skipna=False)) if alike else np.nan


def _first_bags(days: Sequence[float], within: float) -> list[float]:
    firsts: list[float] = []
    for day in days:
        if not firsts or day - firsts[-1] >= max(within, SAME):
            firsts.append(day)
    return firsts


def _label(
    dataset: Tables,
    doses: pd.DataFrame,
    name: str,
    patient: Hashable,
    start: float,
    within: float,
) -> object:
    """Value of the data set's column `name` for one infusion of one patient."""
    if name in doses:
        values = list(dict.fromkeys(_of_infusion(doses, patient, start, within)[name]))
        return values[0] if len(values) == 1 else " + ".join(map(str, values))
    for frame in (getattr(dataset, "patients", None), dataset.observations):
        if frame is None or name not in frame:
            continue
        rows = frame["patient"] if "patient" in frame else frame.index.to_series()
        values = list(dict.fromkeys(frame.loc[rows == patient, name]))
        if len(values) == 1:
            return values[0]
        raise CarpkError(
            f"`by` column {name!r} must hold one value per patient, but holds {len(values)} for "
            f"patient {patient!r}."
        )
    raise CarpkError(
        f"`by` column {name!r} is unknown: it must be a column of the data set's doses, patients "
        f"or observations."
    )


def window_of(
    observations: pd.DataFrame, infusion: Opened, dose: float, chosen: Chosen | None
) -> Window:
    """What was observed from an infusion to the next."""
    patient, _, start, stop, _ = infusion
    own = observations[observations["patient"] == patient].sort_values("time")
    during = own[(own["time"] > start + SAME) & (own["time"] <= stop + SAME)]
    repeated = during.loc[during["time"].duplicated(), "time"]
    if not repeated.empty:
        raise CarpkError(
            f"Patient {patient!r} has more than one observation on day {repeated.iloc[0]:g}. "
            f"Average replicates first."
        )
    before = own[own["time"] <= start + SAME]
    initial = 0.0
    if not before.empty:
        concentration, lloq = before["value"].iloc[-1], before["lloq"].iloc[-1]
        initial = 0.0 if concentration < lloq else max(float(concentration), 0.0)
    known = during["lloq"].dropna()
    return Window(
        during["time"].to_numpy(float) - start,
        during["value"].to_numpy(float),
        during["lloq"].fillna(0.0).to_numpy(float),
        float(known.max()) if known.size else np.nan,
        initial,
        dose if dose > 0 else np.nan,
        stop - start,
        chosen,
        initial > 0,
    )


def padded_size(n: int, least: int) -> int:
    """A power of two, so that few shapes are compiled."""
    return max(least, 1 << (n - 1).bit_length()) if n else least
