"""What a pharmacokineticist decides: points of lambda z, samples left out, rules of acceptance."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from carpk._tables import Columns, Rows, as_frame, records
from carpk.dosing.regimen import SAME
from carpk.errors import CarpkError

if TYPE_CHECKING:
    import pandas as pd

    Entries = Rows | Columns | pd.DataFrame


@dataclass(frozen=True)
class Acceptance:
    """Rules of acceptance of a terminal phase: what fails is flagged, and stays in the table.

    The limits are the defaults of PKNCA (min.hl.r.squared, there of R2; min.span.ratio;
    max.aucinf.pext).

    Attributes:
        r2adj: least adjusted R2 of the regression.
        span: least span of its points, in half-lives.
        extrapolated: largest extrapolated share of AUCIFO and of AUCIFP [%].
    """

    r2adj: float = 0.9
    span: float = 2.0
    extrapolated: float = 20.0

    def failed(self, parameters: Mapping[str, float]) -> str:
        """The rules that a row fails, such as "R2ADJ 0.81 < 0.9"; missing parameters fail none."""
        least = {"R2ADJ": self.r2adj, "LAMZSPN": self.span}
        most = {"AUCPEO": self.extrapolated, "AUCPEP": self.extrapolated}
        found = [f"{n} {parameters[n]:.3g} < {x:g}" for n, x in least.items() if parameters[n] < x]
        found += [f"{n} {parameters[n]:.3g} > {x:g}" for n, x in most.items() if parameters[n] > x]
        return "; ".join(found)


class Chosen(NamedTuple):
    """The days since an infusion between which lambda z is estimated, and why."""

    start: float
    stop: float
    reason: str


def _entries(given: Entries, columns: Sequence[str], name: str) -> pd.DataFrame:
    """A table that a user wrote, with these columns and no other."""
    frame = as_frame(given)
    if set(frame) != set(columns):
        raise CarpkError(
            f"`{name}` must have the columns {', '.join(columns)}, but has "
            f"{', '.join(map(str, frame)) or 'none'}."
        )
    for row, reason in enumerate(frame["reason"].fillna(""), start=1):
        if not str(reason).strip():
            raise CarpkError(
                f"`{name}`, row {row}, gives no reason. Write one: the table shows it."
            )
    return frame


def chosen_windows(
    given: Entries | None, infusions: Mapping[Hashable, Sequence[float]]
) -> dict[tuple[Hashable, int], Chosen]:
    """(patient, infusion) -> the days chosen for lambda z."""
    if given is None:
        return {}
    frame = _entries(given, ("patient", "infusion", "start", "stop", "reason"), "lambda_z")
    known = {(str(p), k + 1): (p, k + 1) for p, days in infusions.items() for k in range(len(days))}
    chosen: dict[tuple[Hashable, int], Chosen] = {}
    for row, entry in enumerate(records(frame), start=1):
        patient, number = entry["patient"], entry["infusion"]
        where = f"`lambda_z`, row {row} (patient {patient!r}, infusion {number})"
        key = known.get((str(patient), number))
        if key is None:
            raise CarpkError(
                f"{where}, matches no infusion. The first is 1; patients are "
                f"{', '.join(map(str, infusions))}."
            )
        if key in chosen:
            raise CarpkError(f"{where}, chooses points a second time. Keep one row.")
        if not entry["start"] < entry["stop"]:
            raise CarpkError(
                f"{where}, goes from day {entry['start']} to {entry['stop']}, but must go from an "
                "earlier to a later day since the infusion."
            )
        chosen[key] = Chosen(float(entry["start"]), float(entry["stop"]), str(entry["reason"]))
    return chosen


def without_excluded(
    observations: pd.DataFrame, given: Entries | None, analyte: str
) -> tuple[pd.DataFrame, dict[Hashable, list[tuple[float, str]]]]:
    """The observations that are kept; and patient -> (day, reason) of those that are not."""
    if given is None:
        return observations, {}
    frame = _entries(given, ("patient", "time", "reason"), "exclude")
    labels, days = observations["patient"].astype(str), observations["time"]
    kept = ~observations["patient"].isna()
    removed: dict[Hashable, list[tuple[float, str]]] = {}
    for row, entry in enumerate(records(frame), start=1):
        own = labels == str(entry["patient"])
        hit = own & ((days - float(entry["time"])).abs() <= SAME)
        if not (hit & kept).any():
            sampled = ", ".join(f"{day:g}" for day in sorted(days[own])) or "no day"
            raise CarpkError(
                f"`exclude`, row {row} (patient {entry['patient']!r}, day {entry['time']}), "
                f"matches no sample of {analyte!r} that is not excluded already. The patient was "
                f"sampled on {sampled}."
            )
        kept &= ~hit
        patient = observations.loc[hit, "patient"].iloc[0]
        removed.setdefault(patient, []).append((float(entry["time"]), str(entry["reason"])))
    return observations[kept], removed
