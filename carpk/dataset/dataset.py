"""`Dataset`: the checked tables, what is in them, and how they are read and written."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from carpk import _files
from carpk._late import late
from carpk.dataset import cohort_summaries, excel, nonmem_file, overview, sources, tables, units
from carpk.dataset.arrays import IndividualArrays, padded
from carpk.dataset.assemble import assemble, settings_of
from carpk.dataset.doses import follows, regimens
from carpk.dataset.folder import provenance
from carpk.dataset.join import joined
from carpk.dataset.missing import Missing
from carpk.dataset.nonmem_names import Arguments, Labelled, Labels, Products
from carpk.dataset.tables import Frame, count, listing, nearest
from carpk.dosing.regimen import Regimen
from carpk.errors import CarpkWarning, DatasetError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Patients, doses, observations and published summaries of a study, with provenance.

    Make one with `from_frames`, `from_folder`, `from_nonmem` or `from_excel`, which check every
    entry.

    Attributes:
        name: shown in messages.
        patients: patient and covariates, among them perhaps `cohort`.
        doses: patient, time [day], product, amount, unit, duration [day; 0 is a bolus]; and, where
            any dose says it, rate [amount/day; -1 and -2 are given by the model], ss, ii [day],
            evid, compartment, record.
        observations: patient, time [day], analyte, value, unit, lloq, censored (0 observed; 1 the
            level is below `lloq`, which is also the value; -1 it is above the value) and limit
            (lower bound of a censored observation, NaN where there is none); and, where any is
            known, sd (standard deviation of the value's error, in its unit), record.
        summaries: published cohort summaries, a row each.
        cohorts: cohort and covariates; may be empty.
        sampling: nominal sampling days of the study behind the summaries.
        about: provenance: citation, licence, registration and whatever else was given.
        notes: what was converted, inferred, filled or left out, a sentence each.
    """

    name: str
    patients: pd.DataFrame
    doses: pd.DataFrame
    observations: pd.DataFrame
    summaries: pd.DataFrame
    cohorts: pd.DataFrame
    sampling: tuple[float, ...] | None = None
    about: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def from_frames(
        cls,
        patients: Frame | None = None,
        doses: Frame | None = None,
        observations: Frame | None = None,
        summaries: Frame | None = None,
        cohorts: Frame | None = None,
        sampling: Sequence[float] | None = None,
        name: str = "data set",
        about: Mapping[str, object] | None = None,
        time_unit: str = "day",
        lloq: float | Mapping[str, float] | None = None,
        uloq: float | Mapping[str, float] | None = None,
        units: Mapping[str, str] | None = None,
        time_zero: str = "first cell infusion",
        day_first: bool | None = None,
        missing: Missing | None = None,
    ) -> "Dataset":
        """A data set from data frames (or what pandas makes one of); rows go by their index.

        Args:
            patients: column patient, and covariates; taken from the other tables if left out.
            doses: columns patient, time, product, amount, unit and perhaps duration; further, as in
                NONMEM, rate, ss, ii, addl, evid (3 is a reset, 4 one and a dose), compartment.
            observations: columns patient, time, analyte, value, unit, lloq, censored and perhaps
                limit, and sd, the known standard deviation of a value's error in the unit of the
                value, for `ck.assay.KnownSD`; a value may say '<50', '>1e6' or a word for below the
                LLOQ, such as 'BLQ'. A sample at the time of a dose was taken before it, unless both
                tables have a column `record`, numbers in the order of which a patient's events were
                recorded.
            summaries: columns of a study's `facts.csv`; times are days.
            cohorts: column cohort, and covariates.
            sampling: nominal sampling days of the study behind the summaries.
            time_unit: 'day', 'hour', 'minute' or 'week': of times, durations, rates and intervals
                of doses and of times of observations.
            lloq: a number, or one per analyte, in the unit of the data; used where a row has none.
            uloq: the upper limit, likewise (or a column `uloq`): values at or above it are
                right-censored; inf says that there is none, where a highest value repeats.
            units: unit per analyte, used where a row has none.
            time_zero: 'first cell infusion': times already count from it, which is checked; 'first
                dose': each patient's times are shifted so that they do.
            day_first: whether 01/02/2024 is 1 February; needed where no date has a number above 12.
            missing: numbers or words that stand for a missing covariate or value, such as [-99] or
                {'weight': [-99]}; those of `value` leave the sample out. An empty list says that
                none does, where one looks so.

        Times may be dates, with or without clock times (ISO 8601, 31/01/2024, 31-Jan-2024,
        `datetime`, `Timestamp`), also in a column `date` beside clock times in `time`. They become
        days since the patient's first cell infusion, or since the date in a column `time_zero` of
        the patients table. A row without a clock time counts whole days.

        Columns of SDTM (DM, EX, PC, LB, CP) and ADPC are read by their names; study days (--DY,
        ADY), which know no day 0, become days since day 1.
        """
        settings = settings_of(name, time_unit, time_zero, units, lloq, uloq, day_first, missing)
        given = {
            "patients": patients,
            "doses": doses,
            "observations": observations,
            "summaries": summaries,
            "cohorts": cohorts,
        }
        read = {
            key: tables.from_frame(frame, key, name)
            for key, frame in given.items()
            if frame is not None
        }
        return cls(**assemble(read, settings, sampling, about))

    @classmethod
    def from_folder(cls, path: str | Path, time_zero: str | None = None) -> "Dataset":
        """A data set from a study folder; `about.toml` says citation, units, LLOQ, time zero."""
        return cls(**sources.folder(Path(path), time_zero).fields())

    @classmethod
    def from_nonmem(
        cls,
        path: str | Path,
        *,
        analytes: Labelled[str] | str | None = None,
        units: Mapping[str, str] | None = None,
        lloq: float | Mapping[str, float] | None = None,
        uloq: float | Mapping[str, float] | None = None,
        time_unit: str = "day",
        products: Products | None = None,
        infusion_cmt: Labels | None = None,
        covariates: Sequence[str] | Mapping[str, str] | None = None,
        ignore: str | None = "C",
        time_zero: str = "first cell infusion",
        day_first: bool | None = None,
        missing: Missing | None = None,
        name: str | None = None,
        about: Mapping[str, object] | None = None,
    ) -> "Dataset":
        """A data set from a NONMEM, Monolix, rxode2 or ADPPK table; column names in any case.

        A table written by `to_nonmem` has a sidecar (`data.info.json`) that stands in for
        arguments not given. A column SD holds the known standard deviations of DV's error (`sd`).

        Args:
            analytes: DVID (or YTYPE; else the CMT of observations) -> analyte; needed when there is
                more than one. A single one is 'car_t' unless named.
            units: analyte -> unit, where there is no column DVU; also product -> unit of its doses.
            lloq: a number, or one per analyte, in the unit of the data; used where a row has none.
            uloq: as in `from_frames`; or a column ULOQ.
            time_unit: unit of TIME, II and DUR, and of the time in RATE.
            products: CMT (or ADM) of doses -> name, or (name, unit) such as
                ('fludarabine', 'mg/m2'), where there is no column DOSEU; a single one needs no CMT:
                ('theophylline', 'mg').
            infusion_cmt: the CMT (or several) that receives cells; all others receive drugs.
            covariates: columns to keep, called as listed here (if left out: all, in lower case; a
                covariate is found in any case); a mapping may say 'first' for a column
                that changes over time.
            ignore: character that starts comment lines, '@' for any letter, None for no comments;
                lines that start with '#' or '@' are comments unless it is None.
            time_zero, day_first, missing: as in `from_frames`. Dates may stand in TIME, or in DATE,
                DAT1, DAT2 or DAT3 beside clock times in TIME.
        """
        path = Path(path)
        label = path.stem if name is None else name
        settings = settings_of(label, time_unit, time_zero, units, lloq, uloq, day_first, missing)
        given = Arguments(analytes, units, products, infusion_cmt, covariates, ignore)
        return cls(**sources.nonmem_table(path, given, settings, about or {}).fields())

    @classmethod
    def from_excel(
        cls,
        path: str | Path,
        *,
        sheets: Mapping[str, str] | None = None,
        columns: Mapping[str, str] | None = None,
        analytes: Mapping[str, str] | None = None,
        analyte: str | None = None,
        ignore: Sequence[str] = (),
        units: Mapping[str, str] | None = None,
        lloq: float | Mapping[str, float] | None = None,
        uloq: float | Mapping[str, float] | None = None,
        time_unit: str = "day",
        time_zero: str = "first cell infusion",
        day_first: bool | None = None,
        missing: Missing | None = None,
        sampling: Sequence[float] | None = None,
        name: str | None = None,
        about: Mapping[str, object] | None = None,
    ) -> "Dataset":
        """A data set from a workbook (.xlsx) with sheets patients, infusions and samples.

        Usual names of sheets and columns are understood, and noted. Samples may have a row each, or
        stand in a column per analyte, per day or per patient, under one header row or two. What may
        mean two things is refused with its sheet and cell. `carpk template` writes such a workbook.

        Args:
            sheets: table (patients, doses, observations, cohorts, summaries) -> name of its sheet,
                where that is not usual.
            columns: column as the workbook names it -> carpk's, as in `from_frames`.
            analytes: analyte as the workbook names it -> carpk's, such as 'transgene'.
            analyte: what was measured where a sheet of samples does not say it; with its unit and
                LLOQ, if need be: 'transgene (copies/µg, LLOQ 50)'.
            ignore: columns that are not read.
            time_unit: unit of times where neither header nor entry ('D7') says it.
            units, lloq, uloq, time_zero, day_first, missing, sampling, about: as in `from_frames`.
        """
        path = Path(path)
        label = path.stem if name is None else name
        settings = settings_of(label, time_unit, time_zero, units, lloq, uloq, day_first, missing)
        names = excel.names_of(sheets, columns, analytes, analyte, ignore)
        return cls(**sources.workbook(path, names, settings, sampling, about).fields())

    @staticmethod
    def concat(
        *parts: "Dataset", name: str | None = None, sampling: Sequence[float] | None = None
    ) -> "Dataset":
        """One data set of several; patients must differ, units of an analyte must not."""
        return Dataset(**joined(parts, name, sampling))

    def __add__(self, other: object) -> "Dataset":
        if not isinstance(other, Dataset):
            return NotImplemented
        return Dataset(**joined((self, other), None, None))

    # ---- what is in it --------------------------------------------------------------------

    @property
    def analytes(self) -> tuple[str, ...]:
        """Analytes of the observations, then those of the summaries."""
        both = [*self.observations["analyte"], *self.summaries["analyte"]]
        return tuple(dict.fromkeys(both))

    @property
    def units(self) -> dict[str, str]:
        """Analyte -> unit; analytes whose summaries tell no level unit have carpk's, or none."""
        found = dict(zip(self.observations["analyte"], self.observations["unit"], strict=True))
        found = cohort_summaries.concentration_units(self.summaries) | found
        return {a: found.get(a, units.KNOWN_ANALYTES.get(a, "")) for a in self.analytes}

    def in_units(self, wanted: Mapping[str, str]) -> "Dataset":
        """Observations and summaries of some analytes in other units (analyte -> unit), noted."""
        observations, summaries, notes = self.observations, self.summaries, list(self.notes)
        for analyte, unit in wanted.items():
            here = (observations["analyte"] == analyte).to_numpy()
            own = self.units.get(analyte, unit)
            factor = units.between(own, unit)
            if unit == own or analyte not in self.analytes:
                continue
            if factor is None:
                raise DatasetError(
                    f"Dataset {self.name!r}: {analyte} is in {own!r}, from which nothing leads to "
                    f"{unit!r}. Convert the values before they are read."
                )
            observations = observations.copy()
            for column in ("value", "lloq", "limit", "sd"):
                if column in observations:
                    observations.loc[here, column] *= factor
            observations.loc[here, "unit"] = unit
            summaries = cohort_summaries.converted(summaries, analyte, unit, factor)
            notes.append(f"{analyte} converted from {own} to {unit} (factor {factor:g}).")
        return replace(self, observations=observations, summaries=summaries, notes=tuple(notes))

    @property
    def infusions(self) -> pd.DataFrame:
        """Doses of cells; those in mg, mg/m2 or mg/kg are drugs."""
        return self.doses[self.doses["unit"].isin(units.CELL_UNITS)]

    def covariate(self, name: str) -> np.ndarray:
        """The covariate of every patient, from the patients table or else from their cohorts."""
        column = _find(name, self.patients, "patient")
        if column is not None:
            labels, values = self.patients["patient"], self.patients[column]
            source, kind = f"column `{column}` of the patients table", "patient"
        else:
            column = _find(name, self.cohorts, "cohort")
            if column is None or "cohort" not in self.patients:
                self._no_covariate(name)
            by_cohort = self.cohorts.set_index("cohort")[column]
            labels, values = self.patients["patient"], self.patients["cohort"].map(by_cohort)
            source, kind = f"column `{column}` of the cohorts table", "patient"
        self._refuse_missing(values, labels, name, source, kind)
        numeric = pd.api.types.is_numeric_dtype(values)
        return values.to_numpy(dtype=float) if numeric else np.array(values.tolist(), dtype=str)

    def has_covariate(self, name: str) -> bool:
        """The patients or the cohorts table has a column of this name."""
        tables = ((self.patients, "patient"), (self.cohorts, "cohort"))
        return any(_find(name, table, owner) is not None for table, owner in tables)

    def first_doses(self, products: Sequence[str], never: float) -> np.ndarray:
        """Day of every patient's first dose of any of the products from day 0 on, or `never`."""
        given = self.doses[self.doses["product"].isin(products) & (self.doses["time"] >= 0)]
        first = given.groupby("patient")["time"].min()
        days: np.ndarray = self.patients["patient"].map(first).fillna(never).to_numpy(float)
        return days

    def cohort_covariate(self, name: str) -> dict[str, float | str]:
        """Cohort -> value of a covariate of the cohorts table; `cohort` itself is one too."""
        if name == "cohort":
            named = [*self.cohorts["cohort"], *self.summaries["cohort"]]
            return {cohort: cohort for cohort in dict.fromkeys(named)}
        column = _find(name, self.cohorts, "cohort")
        if column is None:
            known = [c for c in self.cohorts.columns if c != "cohort"]
            close = nearest(name, known)
            raise DatasetError(
                f"Dataset {self.name!r}: the cohorts table has no covariate `{name}`; known are "
                f"{listing(known)}. "
                + (f"Did you mean `{close}`?" if close else "Add it as a column of cohorts.csv.")
            )
        source = f"column `{column}` of the cohorts table"
        self._refuse_missing(self.cohorts[column], self.cohorts["cohort"], name, source, "cohort")
        values = self.cohorts[column].tolist()
        return dict(zip(self.cohorts["cohort"].tolist(), values, strict=True))

    def _no_covariate(self, name: str) -> None:
        known = [c for c in self.patients.columns if c != "patient"]
        if "cohort" in self.patients:
            known += [c for c in self.cohorts.columns if c not in ("cohort", *known)]
        close = nearest(name, known)
        hint = f"Did you mean `{close}`?" if close else "Add it as a column of the patients table."
        if _find(name, self.cohorts, "cohort") is not None:
            hint = "The cohorts table has it: add a column `cohort` to the patients table."
        raise DatasetError(
            f"Dataset {self.name!r}: no covariate `{name}`; known are {listing(known)}. {hint}"
        )

    def _refuse_missing(
        self, values: pd.Series, labels: pd.Series, name: str, source: str, kind: str
    ) -> None:
        missing = labels[values.isna().to_numpy()].tolist()
        if missing:
            raise DatasetError(
                f"Dataset {self.name!r}: {source} has no value for "
                f"{count(len(missing), kind)} ({tables.some(missing)}), but the covariate "
                f"`{name}` is needed for each. Fill it in, or leave out these {kind}s or the "
                "covariate."
            )

    def arrays(self, analytes: Sequence[str]) -> IndividualArrays:
        """Observations of these analytes, and the cell infusions, padded to one shape."""
        wanted = [analytes] if isinstance(analytes, str) else list(analytes)
        people = self.patients["patient"].tolist()
        seen = self.observations.assign(
            follows=follows(self.observations, self.doses),
            follows_cells=follows(self.observations, self.infusions),
        )
        return padded(self.name, people, self.analytes, seen, self.infusions, wanted)

    def regimens(self) -> list[Regimen]:
        """Regimen of each patient, in the data set's order, in absolute amounts.

        Doses per m² or kg are multiplied by the covariates `bsa` [m²] and `weight` [kg].
        """
        return regimens(self.name, self.patients, self.doses)

    def to_frames(self) -> dict[str, Any]:
        """Arguments of `from_frames` that give this data set again, exactly but for its notes.

        Tables without rows are left out. Levels that `in_units` converted are read as any others,
        and so in carpk's unit.
        """
        doses = self.doses
        if "rate" in doses:  # which gives the duration
            doses = doses.assign(duration=doses["duration"].where(~(doses["rate"] > 0), 0.0))
        tables = {
            "patients": self.patients,
            "doses": doses,
            "observations": self.observations,
            "summaries": self.summaries,
            "cohorts": self.cohorts,
        }
        frames = {name: table.copy() for name, table in tables.items() if len(table)}
        return {**frames, "sampling": self.sampling, "name": self.name, "about": dict(self.about)}

    def to_nonmem(self, path: str | Path) -> nonmem_file.Written:
        """Write the individual data as a NONMEM table with upper-case columns.

        At equal times observations come before doses, unless it is known that they do not. What
        the numbers in DVID and CMT stand for
        is returned, as arguments of `from_nonmem`, and written beside the table
        (`data.info.json`). Covariates of cohorts become columns. NONMEM itself reads numbers only:
        recode subjects and covariates that are words before running it.
        """
        path = Path(path)
        if self.patients.empty:
            raise DatasetError(
                f"Dataset {self.name!r} holds no individual patients, so there is no table to "
                "write; published summaries have no place in a NONMEM table."
            )
        if not self.summaries.empty:
            warnings.warn(
                f"Dataset {self.name!r}: the published summaries "
                f"({len(self.summaries)}) are not written to {path.name}: a NONMEM table holds "
                "individual data only.",
                CarpkWarning,
                stacklevel=2,
            )
        people = self.patients
        if "cohort" in people:
            for column in self.cohorts.columns:
                if column not in people:
                    by_cohort = self.cohorts.set_index("cohort")[column]
                    people = people.assign(**{column: people["cohort"].map(by_cohort)})
        if not path.parent.is_dir():
            raise DatasetError(
                f"There is no folder {path.parent} to write {path.name} to. Make it."
            )
        text, arguments = nonmem_file.event_table(people, self.doses, self.observations, self.units)
        about = nonmem_file.sidecar_text(arguments, self.about)
        _files.write_all({path: text, nonmem_file.sidecar(path): about})
        return arguments

    def summary(self, by: str | None = None, *, since: str = "first") -> pd.DataFrame:
        """What there is, a row per arm and analyte.

        Columns: unit; patients, treated (with cells) and infusions of cells of the arm; sampled
        (patients), samples, per_patient (their median number), blq_percent; first_day and last_day
        of the samples; drugs.

        Args:
            by: covariate whose values are the arms; `cohort` unless given, where the data have it.
            since: "first" or "last": days count from the first infusion of cells, or from the last
                one before the sample (of a drug in data without cells: time after dose, TAD). With
                "last", a row per arm, number of the infusion and analyte: its samples, and as
                treated the patients who were given so many. Samples before the first infusion count
                to it; the number of patients without any is 0.
        """
        return overview.summary(self, by, since)

    def plot(
        self,
        analytes: str | list[str] | None = None,
        *,
        by: str | None = None,
        since: str = "first",
    ) -> "Figure":
        """Levels of every patient by arm, with doses and limits; see `carpk.plot.dataset`."""
        figure: Figure = late("carpk.plot.dataset")(self, analytes, by=by, since=since)
        return figure

    def __repr__(self) -> str:
        cells = len(self.infusions)
        lines = [
            f"Dataset {self.name!r}: {count(len(self.patients), 'patient')}, "
            f"{count(len(self.doses), 'dose')} ({cells} of cells), "
            f"{count(len(self.observations), 'observation')}, "
            + (
                f"{count(len(self.summaries), 'published summary')}"
                if len(self.summaries)
                else "no published summaries"
            )
        ]
        for analyte, rows in self.observations.groupby("analyte", sort=False):
            low = 100 * float((rows["censored"] == 1).mean())
            lines.append(
                f"  {analyte} [{rows['unit'].iloc[0]}]: {count(len(rows), 'observation')} of "
                f"{count(rows['patient'].nunique(), 'patient')}, {low:.0f} % below LLOQ"
            )
        for cohort, rows in self.summaries.groupby("cohort", sort=False):
            uses = ", ".join(f"{n} {use}" for use, n in rows["use"].value_counts().items())
            lines.append(
                f"  cohort {cohort!r}: {count(len(rows), 'statistic')} ({uses}) of "
                f"{', '.join(dict.fromkeys(rows['analyte']))}"
            )
        lines.append(f"  source: {provenance(self.about)}")
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)

    __str__ = __repr__


def _find(name: str, frame: pd.DataFrame, owner: str) -> str | None:
    """The column called `name`, if need be in another case."""
    columns = [c for c in frame.columns if c != owner]
    if name in columns:
        return name
    same = [c for c in columns if str(c).lower() == str(name).lower()]
    return same[0] if len(same) == 1 else None


def load_dataset(path: str | Path) -> Dataset:
    """The data set in a study folder: `about.toml` and its CSV files."""
    return Dataset.from_folder(path)
