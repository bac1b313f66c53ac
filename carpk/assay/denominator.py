"""Copies per µg of DNA and cells per µL: the leukocytes that lie between them."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import numpy as np
import pandas as pd

from carpk._types import Numbers
from carpk.errors import CarpkWarning, DatasetError
from carpk.models._body import GENOMES_PER_UG

if TYPE_CHECKING:
    from carpk.dataset import Dataset

COPIES, CELLS = "copies/µg", "cells/µL"
COLUMNS = ("patient", "time", "analyte", "value", "unit")  # of observations


def copies_per_ug(car_t: Numbers, leukocytes: Numbers, vcn: Numbers = 1.0) -> Numbers:
    """Transgene copies per µg of DNA from CAR-T cells and all nucleated cells [both cells/µL].

    1 µg of DNA is about 151,515 diploid genomes (6.6 pg each), so the level is a share of the
    leukocytes: after lymphodepletion the denominator falls, and the level rises without any
    expansion.

    Args:
        car_t: CAR-T cells [cells/µL].
        leukocytes: all nucleated cells in the extracted fraction, CAR-T included [cells/µL].
        vcn: vector copies per CAR-T cell.
    """
    copies: Numbers = GENOMES_PER_UG * vcn * car_t / leukocytes
    return copies


def cells_per_ul(transgene: Numbers, leukocytes: Numbers, vcn: Numbers = 1.0) -> Numbers:
    """CAR-T cells/µL from transgene copies/µg of DNA; the inverse of `copies_per_ug`."""
    cells: Numbers = transgene * leukocytes / (GENOMES_PER_UG * vcn)
    return cells


Denominator = Literal["measured", "constant"]
Vcn: TypeAlias = float | Mapping[Any, float]  # a number, or patient -> number
Data = TypeVar("Data", "Dataset", pd.DataFrame)


def to_cells(
    data: Data,
    *,
    vcn: Vcn,
    denominator: Denominator = "measured",
    leukocytes: float | None = None,
    analyte: str = "transgene",
    name: str = "car_t",
    wbc: str = "wbc",
) -> Data:
    """Measured transgene copies/µg of DNA as CAR-T cells/µL, by `cells_per_ul`.

    With "measured" every sample is divided by the patient's own leukocyte count of its day, between
    two counts on the logarithmic scale. Nothing is extrapolated: a sample before the first or after
    the last count is refused. With "constant" all are divided by `leukocytes`, and it warns.
    Limits of quantification are converted with their sample, so that they come to differ.

    The count must be of the cells whose DNA was taken: WBC where that is whole blood, but
    mononuclear cells where it is those.

    Args:
        data: a `Dataset`, or observations: columns patient, time, analyte, value, unit and perhaps
            lloq, limit, sd, censored. Counts are observations too, of the analyte `wbc` in
            cells/µL; `Dataset` converts 10^9/L when it reads them.
        vcn: vector copies per CAR-T cell, a number or patient -> number; it is never guessed.
        denominator: "measured" or "constant".
        leukocytes: with "constant", nucleated cells/µL.
        analyte: what is converted.
        name: what it is called then.
        wbc: analyte of the leukocyte counts.

    Returns:
        Like `data`, with the rows of `analyte` converted and a note; all others as they are.

    Raises:
        DatasetError: names the patient and day of what cannot be converted.
    """
    pair = (analyte, COPIES), (name, CELLS)
    cells: Data = _converted(data, vcn, denominator, leukocytes, *pair, wbc)
    return cells


def to_copies(
    data: Data,
    *,
    vcn: Vcn,
    denominator: Denominator = "measured",
    leukocytes: float | None = None,
    analyte: str = "car_t",
    name: str = "transgene",
    wbc: str = "wbc",
) -> Data:
    """CAR-T cells/µL as transgene copies/µg of DNA, by `copies_per_ug`; undoes `to_cells`."""
    pair = (analyte, CELLS), (name, COPIES)
    copies: Data = _converted(data, vcn, denominator, leukocytes, *pair, wbc)
    return copies


def _converted(
    data: Dataset | pd.DataFrame,
    vcn: Vcn,
    denominator: str,
    leukocytes: float | None,
    old: tuple[str, str],
    new: tuple[str, str],
    wbc: str,
) -> Any:
    """`to_cells` and `to_copies`: (analyte, unit) of input and output; the kind of `data`."""
    label = "observations" if isinstance(data, pd.DataFrame) else f"Dataset {data.name!r}"
    frame = (data if isinstance(data, pd.DataFrame) else data.observations).copy()
    absent = [column for column in COLUMNS if column not in frame]
    if absent:
        raise DatasetError(f"{label}: no column `{absent[0]}`; needed are {', '.join(COLUMNS)}.")
    here = frame["analyte"] == old[0]
    chosen = _rows_of(frame, old, label)
    if (frame["analyte"] == new[0]).any():
        raise DatasetError(
            f"{label} has {new[0]!r} already, which another assay measured. Give what is converted "
            "a name of its own, such as name='car_t_qpcr'."
        )
    if denominator == "measured":
        if leukocytes is not None:
            raise DatasetError(
                f"{label}: `leukocytes` belongs to denominator='constant'; the measured one takes "
                f"the counts in the analyte {wbc!r}."
            )
        level = _leukocytes(frame, chosen, wbc, label)
        how = f"the patient's own leukocyte counts ({wbc!r}, log-linear between counts)"
    elif denominator == "constant":
        level = np.full(len(chosen), _positive(leukocytes, "leukocytes [cells/µL]", label))
        how = f"a constant {leukocytes:g} leukocytes/µL"
        warnings.warn(
            f"{label}: {how} stand for those of every day. After lymphodepletion there are fewer, "
            "and leukopenia then reads as expansion, several-fold in the first ten days after "
            "Flu/Cy. Use counts (denominator='measured'), or fit the copies to the output "
            "'transgene' of 'niche'.",
            CarpkWarning,
            stacklevel=3,
        )
    else:
        raise DatasetError(
            f"{label}: denominator={denominator!r} is unknown; data convert with 'measured' or "
            "'constant'. A modelled one is in the models: fit the copies as they are to the output "
            "'transgene' of 'niche' or 'niche_full'."
        )
    number = [
        _positive(_of(vcn, patient, label), f"vcn of patient {patient!r}", label)
        for patient in chosen["patient"]
    ]
    convert = cells_per_ul if new[1] == CELLS else copies_per_ug
    factor = convert(1.0, level, np.array(number))
    for column in ("value", "lloq", "limit", "sd"):
        if column in frame:
            frame[column] = frame[column].astype(float)
            frame.loc[here, column] = chosen[column].to_numpy(dtype=float) * factor
    frame.loc[here, ["analyte", "unit"]] = list(new)
    cells = (frame[here] if new[1] == CELLS else chosen)["value"].to_numpy(dtype=float)
    _warn_of_more_cells_than_there_are(chosen, cells / level, label)
    note = (
        f"observations: {len(chosen)} of {old[0]} in {old[1]} converted to {new[0]} in {new[1]} "
        f"through {how}, {GENOMES_PER_UG:.0f} genomes per µg of DNA and the VCN that was given."
    )
    if isinstance(data, pd.DataFrame):
        return frame
    if (data.summaries["analyte"] == old[0]).any():
        note += f" Published summaries of {old[0]} stay in {old[1]}."
    return dataclasses.replace(data, observations=frame, notes=(*data.notes, note))


def _rows_of(frame: pd.DataFrame, what: tuple[str, str], label: str) -> pd.DataFrame:
    """The rows of an analyte, all of which must be in its unit."""
    analyte, unit = what
    rows = frame[frame["analyte"] == analyte]
    if rows.empty:
        known = ", ".join(map(repr, dict.fromkeys(frame["analyte"])))
        raise DatasetError(f"{label} has no {analyte!r}; it has {known or 'no rows'}.")
    wrong = rows[rows["unit"] != unit]
    if not wrong.empty:
        raise DatasetError(
            f"{label}: {analyte!r} must be in {unit}, but is in {wrong['unit'].iloc[0]!r} "
            f"{_place(wrong.iloc[0])}. carpk.Dataset.from_frames converts units."
        )
    return rows


def _leukocytes(frame: pd.DataFrame, chosen: pd.DataFrame, wbc: str, label: str) -> np.ndarray:
    """Leukocytes [cells/µL] at every sample, log-linear in time between the patient's counts."""
    counts = _rows_of(frame, (wbc, CELLS), label)
    level = np.empty(len(chosen))
    by_patient = dict(list(counts.groupby("patient")))
    owners = chosen["patient"].to_numpy()
    for patient in dict.fromkeys(owners):
        own = by_patient.get(patient)
        if own is None:
            raise DatasetError(
                f"{label}: patient {patient!r} has no {wbc!r}. Add the patient's leukocyte counts, "
                "or leave out the patient."
            )
        own = own.sort_values("time")
        _check_counts(own, wbc, label)
        days, sampled = own["time"].to_numpy(float), chosen["time"].to_numpy(float)
        mine = np.flatnonzero(owners == patient)
        for day in sampled[mine]:
            if not days[0] <= day <= days[-1]:
                raise DatasetError(
                    f"{label}: patient {patient!r} has a sample on day {day:g}, but {wbc!r} only "
                    f"from day {days[0]:g} to day {days[-1]:g}, and counts are not extrapolated. "
                    "Add a count of that day, or leave the sample out."
                )
        logs = np.log(own["value"].to_numpy(float))
        level[mine] = np.exp(np.interp(sampled[mine], days, logs))
    return level


def _check_counts(own: pd.DataFrame, wbc: str, label: str) -> None:
    """One patient's counts: measured, above 0, one at a time."""
    censored = own["censored"] if "censored" in own else pd.Series(0, index=own.index)
    advice = "Give the number of cells, or leave the count out."
    for wrong, words in (
        (~(own["value"] > 0), "is not above 0"),
        (censored != 0, "is only known to lie beyond a limit"),
        (own["time"].duplicated(), "is the second of that time"),
    ):
        if wrong.any():
            raise DatasetError(f"{label}: {wbc!r} {_place(own[wrong].iloc[0])} {words}. {advice}")


def _warn_of_more_cells_than_there_are(rows: pd.DataFrame, share: np.ndarray, label: str) -> None:
    over = np.flatnonzero(share > 1)
    if over.size:
        warnings.warn(
            f"{label}: {over.size} sample(s), the first {_place(rows.iloc[over[0]])}, hold more "
            f"CAR-T cells than leukocytes ({share[over[0]]:.3g}-fold). Look at vcn, at the unit of "
            "the counts, and at which cells the DNA is from.",
            CarpkWarning,
            stacklevel=4,
        )


def _place(row: pd.Series) -> str:
    return f"of patient {row['patient']!r} on day {row['time']:g}"


def _of(vcn: Vcn, patient: object, label: str) -> float:
    if not isinstance(vcn, Mapping):
        return vcn
    if patient not in vcn:
        raise DatasetError(f"{label}: `vcn` has no patient {patient!r}. Add the patient's number.")
    return vcn[patient]


def _positive(number: float | None, what: str, label: str) -> float:
    if number is None or not 0 < float(number) < np.inf:
        raise DatasetError(f"{label}: {what} must be a number above 0, but is {number!r}.")
    return float(number)
