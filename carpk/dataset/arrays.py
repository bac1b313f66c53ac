"""Individual data as padded arrays, the form that JAX takes."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from carpk.dataset.tables import listing, nearest
from carpk.dosing.regimen import UNTOLD
from carpk.errors import CarpkWarning, DatasetError

NEVER = 1e-30
"""Stands for an unknown LLOQ in arrays: no level lies below it."""


@dataclass(frozen=True)
class IndividualArrays:
    """Individual data as arrays: P patients in the data set's order, T samples, K infusions.

    Rows are sorted by time; at equal times they keep their order. Beyond a patient's last entry
    `mask` (`infusion_mask`) is False and the arrays hold harmless numbers: time 0, value 1, LLOQ 1,
    no limit, SD 1, censored 0, analyte 0; infusion time 0 and amount 0.

    Attributes:
        patients: labels, as `Dataset.covariate` orders its values.
        analytes: what `analyte` counts from 0.
        time: days from the first cell infusion, (P, T).
        value: level in the analyte's unit; the LLOQ where `censored` is 1, (P, T).
        lloq: lower limit of quantification; 1e-30 where unknown, (P, T).
        limit: lower bound of a censored observation (M4); NaN where there is none or it is 0, (P,
            T).
        sd: known SD of the observation's error, in its unit; NaN where unknown, (P, T).
        censored: 0 observed, 1 below the LLOQ, -1 above `value`, (P, T).
        analyte: index into `analytes`, (P, T).
        follows: events at the time of the observation that were recorded before it; -1 where the
            order is not known, (P, T).
        follows_cells: the same of cell infusions, (P, T).
        mask: True where there is an observation, (P, T).
        infusion_time, infusion_amount, infusion_mask: cell infusions, (P, K).
        infusion_unit: unit of the amounts; 'mixed' where patients differ in it.
    """

    patients: tuple[str, ...]
    analytes: tuple[str, ...]
    time: np.ndarray
    value: np.ndarray
    lloq: np.ndarray
    limit: np.ndarray
    sd: np.ndarray
    censored: np.ndarray
    analyte: np.ndarray
    follows: np.ndarray
    follows_cells: np.ndarray
    mask: np.ndarray
    infusion_time: np.ndarray
    infusion_amount: np.ndarray
    infusion_mask: np.ndarray
    infusion_unit: str


def padded(
    name: str,
    patients: list[str],
    known: Sequence[str],
    observations: pd.DataFrame,
    infusions: pd.DataFrame,
    analytes: list[str],
) -> IndividualArrays:
    """Observations of these analytes, and cell infusions, sorted by time and padded."""
    for analyte in analytes:
        if analyte not in known:
            close = nearest(analyte, known)
            hint = f"Did you mean {close!r}?" if close else "Name one of these."
            raise DatasetError(
                f"Dataset {name!r} holds no analyte {analyte!r}; it has {listing(known)}. {hint}"
            )
    if len(set(analytes)) < len(analytes) or not analytes:
        raise DatasetError(
            f"Dataset {name!r}: name each analyte once, but they are {listing(analytes)}."
        )
    seen = observations[observations["analyte"].isin(analytes)]
    seen = seen.sort_values("time", kind="stable")
    given = infusions.sort_values("time", kind="stable")
    row, place, shape = _places(seen["patient"], patients)
    row_given, place_given, shape_given = _places(given["patient"], patients)

    def filled(column: ArrayLike, pad: float, kind: type = float) -> np.ndarray:
        out: np.ndarray = np.full(shape, pad, dtype=kind)
        out[row, place] = np.asarray(column)
        return out

    def infused(column: ArrayLike, pad: float, kind: type = float) -> np.ndarray:
        out: np.ndarray = np.full(shape_given, pad, dtype=kind)
        out[row_given, place_given] = np.asarray(column)
        return out

    kinds = given["unit"].unique().tolist()
    if len(kinds) > 1:
        warnings.warn(
            f"Dataset {name!r}: cell infusions are in {' and '.join(kinds)}; their amounts "
            "cannot be compared between patients. Convert them with weight or surface area if the "
            "amount matters.",
            CarpkWarning,
            stacklevel=3,
        )
    index = {analyte: i for i, analyte in enumerate(analytes)}
    limit = seen["limit"].to_numpy(dtype=float)
    return IndividualArrays(
        patients=tuple(patients),
        analytes=tuple(analytes),
        time=filled(seen["time"], 0.0),
        value=filled(seen["value"], 1.0),
        lloq=filled(seen["lloq"].fillna(NEVER), 1.0),
        limit=filled(np.where(limit > 0, limit, np.nan), np.nan),
        sd=filled(seen["sd"] if "sd" in seen else np.full(len(seen), np.nan), 1.0),
        censored=filled(seen["censored"], 0, int),
        analyte=filled([index[a] for a in seen["analyte"]], 0, int),
        follows=filled(seen["follows"], UNTOLD, int),
        follows_cells=filled(seen["follows_cells"], UNTOLD, int),
        mask=filled(True, False, bool),
        infusion_time=infused(given["time"], 0.0),
        infusion_amount=infused(given["amount"], 0.0),
        infusion_mask=infused(True, False, bool),
        infusion_unit=kinds[0] if len(kinds) == 1 else "mixed" if kinds else "",
    )


def _places(
    owners: pd.Series, patients: list[str]
) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Row and column of each entry in a padded array, and the array's shape."""
    index = {patient: i for i, patient in enumerate(patients)}
    row = np.array([index[owner] for owner in owners], dtype=int)
    place = owners.groupby(owners).cumcount().to_numpy(dtype=int)
    width = int(place.max()) + 1 if place.size else 1
    return row, place, (len(patients), width)
