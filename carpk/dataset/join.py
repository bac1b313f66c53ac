"""Several data sets as one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from carpk.dataset import tables
from carpk.dataset.assemble import Fields, sampling_days
from carpk.dataset.doses import OPTIONAL
from carpk.dataset.folder import provenance
from carpk.dataset.tables import count
from carpk.errors import DatasetError

if TYPE_CHECKING:
    from carpk.dataset.dataset import Dataset


def joined(
    parts: Sequence["Dataset"], name: str | None, sampling: Sequence[float] | None
) -> Fields:
    if not parts:
        raise DatasetError("There is no data set to put together. Pass at least one.")
    title = name or " + ".join(part.name for part in parts)
    owner: dict[str, str] = {}
    unit: dict[str, tuple[str, str]] = {}
    for part in parts:
        both = [patient for patient in part.patients["patient"] if patient in owner]
        if both:
            raise DatasetError(
                f"Datasets {owner[both[0]]!r} and {part.name!r} both have "
                f"{'a patient' if len(both) == 1 else count(len(both), 'patient')} named "
                f"{tables.some(both)}. Rename them, for instance 'study/1', before adding."
            )
        owner |= dict.fromkeys(part.patients["patient"], part.name)
        for analyte, name_of_unit in part.units.items():
            before, where = unit.setdefault(analyte, (name_of_unit, part.name))
            if before and name_of_unit and before != name_of_unit:
                raise DatasetError(
                    f"Analyte {analyte!r} is in {before!r} in dataset {where!r}, but in "
                    f"{name_of_unit!r} in {part.name!r}. Bring both to one unit, or give the two "
                    "assays two names."
                )
    notes = [f"{part.name}: {note}" for part in parts for note in part.notes]
    doses = list(dict.fromkeys(column for part in parts for column in part.doses))
    usual = {column: value for column, value in OPTIONAL.items() if column in doses}
    frames = {
        what: [getattr(part, what) for part in parts]
        for what in ("patients", "doses", "observations", "summaries", "cohorts")
    }
    frames["doses"] = [
        frame.assign(**{c: value for c, value in usual.items() if c not in frame})
        for frame in frames["doses"]
    ]
    merged = {what: _stack(each, parts, what, notes) for what, each in frames.items()}
    return dict(
        name=title,
        patients=merged["patients"],
        doses=merged["doses"],
        observations=merged["observations"],
        summaries=merged["summaries"],
        cohorts=merged["cohorts"],
        sampling=_common_sampling(parts, sampling, title),
        about={
            "citation": "; ".join(provenance(part.about) for part in parts),
            "parts": {part.name: part.about for part in parts},
        },
        notes=tuple(notes),
    )


def _stack(
    frames: list[pd.DataFrame], parts: Sequence["Dataset"], what: str, notes: list[str]
) -> pd.DataFrame:
    """Rows of all parts; covariates one part lacks are missing there, and a note says so."""
    columns = list(dict.fromkeys(c for frame in frames for c in frame.columns))
    filled = [(frame, part) for frame, part in zip(frames, parts, strict=True) if len(frame)]
    if not filled:
        return frames[0].reindex(columns=columns)
    stacked: dict[str, pd.Series] = {}
    for column in columns:
        have = [(f, part) for f, part in filled if column in f]
        lack = [part.name for f, part in filled if column not in f]
        if not have:
            stacked[column] = tables.words([None] * sum(len(f) for f, _ in filled))
            continue
        numeric = {bool(pd.api.types.is_numeric_dtype(f[column])): part.name for f, part in have}
        if len(numeric) > 1:
            raise DatasetError(
                f"Covariate `{column}` is numbers in dataset {numeric[True]!r}, but words in "
                f"{numeric[False]!r}. Code it alike in both."
            )
        if lack and what in ("patients", "cohorts"):
            notes.append(f"`{column}` is missing in the {what} of {', '.join(lack)}.")
        entries = [e for f, _ in filled for e in (f[column] if column in f else [None] * len(f))]
        kind = have[0][0][column].dtype if not lack else (float if True in numeric else object)
        stacked[column] = pd.Series(entries, dtype=kind)
    frame = pd.DataFrame(stacked)
    if what != "cohorts":
        return frame
    frame = frame[~frame.duplicated()].reset_index(drop=True)
    twice = frame["cohort"][frame["cohort"].duplicated()].tolist()
    if twice:
        raise DatasetError(
            f"Cohort {twice[0]!r} is in several data sets with different covariates. Rename it in "
            "one of them, or make the covariates agree."
        )
    return frame


def _common_sampling(
    parts: Sequence["Dataset"], sampling: Sequence[float] | None, title: str
) -> tuple[float, ...] | None:
    if sampling is not None:
        return sampling_days(sampling, title)
    published = [part for part in parts if len(part.summaries)]
    days = dict.fromkeys(part.sampling for part in (published or parts))
    if len(days) > 1 and published:
        raise DatasetError(
            f"Datasets {' and '.join(repr(part.name) for part in published)} have published "
            "summaries from different sampling days, but a data set has one list of them. Fit "
            "them separately, or pass Dataset.concat(..., sampling=[...]) if one list serves all."
        )
    return next(iter(days)) if len(days) == 1 else None
