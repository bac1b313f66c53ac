"""Studies: arms of a trial, published summaries and their sources.

A study is a folder: `about.toml` (citation, registration, licence, sources, how figures were
obtained, caveats, sampling days), `arms.toml` (lymphodepletion and infusion recipe per arm),
`facts.csv` and `cohorts.csv` (published summaries), and `patients.csv`, `doses.csv` and
`observations.csv` where patients' data are public.
"""

from __future__ import annotations

import re
import textwrap
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from carpk.dataset.cohort_summaries import COLUMNS
from carpk.dataset.folder import as_given
from carpk.dosing.regimen import Regimen
from carpk.errors import CarpkError, DatasetError, RegimenError

if TYPE_CHECKING:
    import pandas as pd

    from carpk.dataset import Dataset

ARM_KEYS = ("about", "n", "lymphodepletion", "cells")
LYMPHODEPLETION_KEYS = ("preset", "flu", "cy", "per", "none", "source")
CELLS_KEYS = ("day", "amount", "per", "product", "source")


@dataclass(frozen=True)
class Arm:
    """One arm of a study: patients and treatment.

    Attributes:
        name: as in `arms.toml`.
        about: one sentence.
        n: patients infused; None where it is not known.
        lymphodepletion: its events; empty where none was given or its doses are not known.
        days: days of the cell infusions, the first being day 0.
        amount: cells per infusion (one number per day); None where the dose is not known.
        per: "" (absolute), "m2" or "kg".
        product: name of the cells.
        sources: "lymphodepletion" and "cells" -> where each recipe was read, and what is assumed.
    """

    name: str
    about: str
    n: int | None
    lymphodepletion: Regimen
    days: tuple[float, ...]
    amount: tuple[float, ...] | None
    per: str
    product: str
    sources: Mapping[str, str]

    @property
    def regimen(self) -> Regimen:
        """Lymphodepletion and cells; refused where the number of cells is not known."""
        if self.amount is None:
            days = ", ".join(f"{day:g}" for day in self.days)
            raise RegimenError(
                f"Arm {self.name!r} has no regimen: how many cells were given was not read. Say "
                f"the dose yourself: arm.lymphodepletion + Regimen.cells(day=[{days}], amount=..., "
                "per=...)."
            )
        cells = Regimen.cells(self.days, self.amount, self.per or None, self.product)
        return self.lymphodepletion + cells

    def __repr__(self) -> str:
        n = "n not known" if self.n is None else f"n = {self.n}"
        lines = [f"Arm {self.name!r} ({n}): {self.about}"]
        for what, rows in self.lymphodepletion.courses().groupby("product"):
            lines.append(f"  {what} {_given(rows)}")
        if self.amount is None:
            days = ", ".join(f"{day:g}" for day in self.days)
            lines.append(f"  {self.product}: dose not read; day {days}")
        else:
            lines.append(f"  {self.product} {_given(Regimen(self.regimen.infusions).courses())}")
        for what, source in self.sources.items():
            lines.append(_wrap(source, f"  source ({what}): "))
        return "\n".join(lines)


class Sampling(TypedDict, total=False):
    """When blood was drawn, and how that is known."""

    days: list[float]
    provenance: str


@dataclass(frozen=True)
class Study:
    """A trial: its arms and published summaries with sources; prints provenance.

    Attributes:
        name: the folder's name.
        title: one line.
        about: `about.toml` as it is: citation, sources, licence, how figures were obtained, ...
        arms: name -> `Arm`.
        summaries: one row per published summary; `use` says what a fit does with it: "fit" (value
            and interval enter the likelihood), "value" (only the value does), "check" (compared
            after the fit), "no" (kept for the record); `note` says why.
        cohorts: one row per cohort: cohort, arm, covariates.
        sampling: {"days": [...], "provenance": "..."}: when blood was drawn.
        path: the folder.
    """

    name: str
    title: str
    about: Mapping[str, Any]
    arms: Mapping[str, Arm]
    summaries: pd.DataFrame
    cohorts: pd.DataFrame
    sampling: Sampling
    path: Path

    def dataset(self) -> Dataset:
        """The figures, and the patients' data where they are public, ready for `fit`."""
        from carpk.dataset import load_dataset

        return load_dataset(self.path)

    @property
    def caveats(self) -> tuple[str, ...]:
        """Caveats of the figures: the study's own, and assumptions."""
        found = [" ".join(str(caveat).split()) for caveat in self.about.get("caveats", ())]
        if str(self.sampling.get("provenance", "")).startswith("assumed"):
            found.append(f"Sampling days are {self.sampling['provenance']}.")
        for arm in self.arms.values():
            if arm.amount is None:
                found.append(f"Arm {arm.name}: the dose of cells was not read.")
            for what, source in arm.sources.items():
                found += [
                    f"Arm {arm.name}, {what}: {sentence}"
                    for sentence in re.split(r"(?<=\.)\s+(?=[A-Z])", source)
                    if "assum" in sentence.lower()
                ]
        return tuple(found)

    def __repr__(self) -> str:
        about = self.about
        lines = [_wrap(f"{self.name!r}: {self.title}", "Study ")]
        for label, key in (
            ("cite", "citation"),
            ("registered", "registration"),
            ("licence", "licence"),
            ("obtained", "obtained"),
        ):
            lines.append(_wrap(str(about.get(key) or "not stated"), f"  {label:<12}"))
        for read in about.get("sources", ()):
            doi = f". doi:{read['doi']}" if read.get("doi") else ""
            use = f"{read['used_for']}: " if read.get("used_for") else ""
            lines.append(_wrap(f"{use}{read['text']}{doi}", "  source      "))
        days = self.sampling.get("days")
        if days:
            told = f"days {', '.join(f'{day:g}' for day in days)}"
            provenance = self.sampling.get("provenance", "provenance not stated")
            lines.append(_wrap(f"{told} ({provenance.partition(':')[0]})", "  sampling    "))
        for arm in self.arms.values():
            n = "n not known" if arm.n is None else f"n = {arm.n}"
            lines.append(_wrap(f"{arm.name} ({n}): {arm.about}", "  arm         "))
        lines.append(_wrap(self._counts(), "  figures     "))
        lines += [_wrap(caveat, "  caveat      ") for caveat in self.caveats]
        return "\n".join(lines)

    def _counts(self) -> str:
        if self.summaries.empty:
            return "none"
        used = self.summaries["use"].value_counts()
        fit, value, check, no = (int(used.get(k, 0)) for k in ("fit", "value", "check", "no"))
        by_value = f" ({value} of them by their value alone)" if value else ""
        return (
            f"{len(self.summaries)} for {self.summaries['cohort'].nunique()} cohort(s): "
            f"{fit + value} enter a fit{by_value}, {check} are compared afterwards, {no} kept for "
            "the record"
        )


def read_study(folder: Path) -> Study:
    """The study in a folder; a folder with a fault is refused with its file and entry."""
    folder = folder.resolve()
    about = _toml(folder / "about.toml", folder.name)
    if not about.get("title"):
        raise DatasetError(
            f"Study {folder.name!r}: about.toml has no `title`. Add one line that says product, "
            "disease and trial."
        )
    recipes = folder / "arms.toml"
    arms = _toml(recipes, folder.name) if recipes.exists() else {}
    return Study(
        name=folder.name,
        title=str(about["title"]),
        about=about,
        arms={name: _arm(name, recipe, folder.name) for name, recipe in arms.items()},
        summaries=as_given(folder / "facts.csv", SUMMARIES),
        cohorts=as_given(folder / "cohorts.csv", ("cohort", "arm")),
        sampling=about.get("sampling", {}),
        path=folder,
    )


SUMMARIES = tuple(column for column in COLUMNS if column != "threshold")  # which is optional


def _toml(path: Path, study: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as trouble:
        raise DatasetError(
            f"Study {study!r}: {path} cannot be read ({trouble.strerror}). A study folder needs "
            f"{path.name}."
        ) from trouble
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as trouble:
        raise DatasetError(
            f"Study {study!r}: {path.name} is not valid TOML: {trouble}. Texts stand in quotes, "
            "lists in [ ], and every table name in [ ] on a line of its own."
        ) from trouble


def _arm(name: str, entry: object, study: str) -> Arm:
    place = f"Study {study!r}: arms.toml, arm {name!r}"
    recipe = _known(entry, ARM_KEYS, place)
    given = recipe.get("lymphodepletion", {})
    cells = recipe.get("cells", {})
    _known(given, LYMPHODEPLETION_KEYS, f"{place}, lymphodepletion")
    _known(cells, CELLS_KEYS, f"{place}, cells")
    chosen = {key: given[key] for key in ("preset", "flu", "cy", "per") if key in given}
    try:
        conditioning = Regimen.lymphodepletion(**chosen) if chosen else Regimen()
        days = _numbers(cells.get("day", [0]))
        amount = _numbers(cells["amount"]) if "amount" in cells else None
        arm = Arm(
            name=name,
            about=str(recipe.get("about", "")),
            n=recipe.get("n"),
            lymphodepletion=conditioning,
            days=days,
            amount=amount,
            per=str(cells.get("per", "")),
            product=str(cells.get("product", "car_t")),
            sources={
                what: str(table["source"])
                for what, table in (("lymphodepletion", given), ("cells", cells))
                if table.get("source")
            },
        )
        if amount is not None:
            arm.regimen  # noqa: B018  # an impossible dose is refused here, with its place
    except (CarpkError, TypeError, ValueError) as trouble:
        raise DatasetError(f"{place}: {trouble}") from trouble
    return arm


def _known(table: object, known: Sequence[str], place: str) -> dict[str, Any]:
    """The table, if it is one and has no other keys."""
    if not isinstance(table, dict):
        raise DatasetError(
            f"{place}: a table with {', '.join(known)} is expected, but found {table!r}."
        )
    unknown = [key for key in table if key not in known]
    if unknown:
        raise DatasetError(f"{place}: `{unknown[0]}` is unknown; known are {', '.join(known)}.")
    return table


def _numbers(entry: float | list[float]) -> tuple[float, ...]:
    return tuple(float(x) for x in (entry if isinstance(entry, list) else [entry]))


def _given(courses: pd.DataFrame) -> str:
    """ "30 mg/m2 on days -5, -4, -3", one clause per amount."""
    clauses = []
    for row in courses.to_dict("records"):
        dose, days = f"{row['amount']:g} {row['unit']}".strip(), str(row["days"])
        clauses.append(f"{dose} on day{'s' if ',' in days else ''} {days}")
    return "; ".join(clauses)


def _wrap(text: str, first: str, width: int = 100) -> str:
    return textwrap.fill(
        re.sub(r"\s+", " ", text.strip()),
        width,
        initial_indent=first,
        subsequent_indent=" " * min(len(first), 14),
        break_long_words=False,
        break_on_hyphens=False,
    )
