"""What a data set holds, arm by arm."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from carpk.dataset import units
from carpk.dataset.doses import follows
from carpk.dosing.regimen import SAME
from carpk.errors import DatasetError

if TYPE_CHECKING:
    from carpk.dataset.dataset import Dataset

ALL = "all"
SINCE = ("first", "last")


def arms(data: "Dataset", by: str | None) -> dict[str, str]:
    """Patient -> arm: the value of a covariate, by default of `cohort` where the data have it."""
    people = data.patients["patient"].tolist()
    if by is None and "cohort" not in data.patients:
        return dict.fromkeys(people, ALL)
    values = data.covariate(by or "cohort")
    if len(set(values.tolist())) > max(12, len(people) // 2):
        raise DatasetError(
            f"Dataset {data.name!r}: `{by}` has {len(set(values.tolist()))} values in "
            f"{len(people)} patients, which are no arms. Name a covariate with few."
        )
    return dict(zip(people, (f"{value}" for value in values.tolist()), strict=True))


def check_since(since: str, who: str) -> None:
    """Refuse an axis of days that there is not; `who` asks."""
    if since not in SINCE:
        raise DatasetError(f'{who}: since must be "first" or "last", but is {since!r}.')


def counted_from(data: "Dataset") -> pd.DataFrame:
    """The doses that days since the last one count from: of cells; without cells, of drugs."""
    cells = data.infusions
    return data.doses[data.doses["unit"] != ""] if cells.empty else cells


def dose_word(data: "Dataset") -> str:
    """What `counted_from` is called."""
    return "dose" if data.infusions.empty else "infusion"


def day_label(data: "Dataset", since: str) -> str:
    """The label of an axis of days."""
    return f"days after the last {dose_word(data)}" if since == "last" else "days after infusion"


def since_last(data: "Dataset", rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Days of these observations since the patient's last dose, and the number of that dose.

    Doses are those of `counted_from`; several at one time are one. A sample at the time of a dose
    was taken before it, unless its record says otherwise. Before the first dose, days count to it
    and the number is 1; in a patient without any, the days are as they are and the number is 0.
    """
    doses = counted_from(data)
    own = {p: np.unique(t.to_numpy(float)) for p, t in doses.groupby("patient")["time"]}
    days, number = rows["time"].to_numpy(dtype=float).copy(), np.zeros(len(rows), int)
    upto = days + np.where(follows(rows, doses) > 0, SAME, -SAME)
    for i, patient in enumerate(rows["patient"]):
        if patient in own:
            number[i] = max(int(np.searchsorted(own[patient], upto[i])), 1)
            days[i] -= own[patient][number[i] - 1]
    return days, number


def summary(data: "Dataset", by: str | None, since: str) -> pd.DataFrame:
    """One row per arm and analyte; of days since the last dose, per arm, dose and analyte."""
    check_since(since, "Dataset.summary")
    arm = arms(data, by)
    seen = data.observations
    word, given = dose_word(data), counted_from(data).groupby("patient")["time"].nunique()
    if since == "last":
        days, number = since_last(data, seen)
        seen = seen.assign(time=days, number=number)
    rows = []
    for name in dict.fromkeys(arm.values()):
        people = [p for p, own in arm.items() if own == name]
        here = seen[seen["patient"].isin(people)]
        about = {"arm": name, "patients": len(people), **_given(data, people)}
        if since == "first":
            rows += _of_analytes(data, here, about)
            continue
        own = given.reindex(people, fill_value=0)
        for n in sorted({*here["number"], *range(1, own.max() + 1)}) or [0]:
            entry = {word: n, "treated": int((own >= n).sum()) if n else 0}
            rows += _of_analytes(data, here[here["number"] == n], about | entry)
    place = ["arm", "analyte"] if since == "first" else ["arm", word, "analyte"]
    columns = [*place, "unit", "patients", "treated", "infusions", "sampled", "samples"]
    columns += ["per_patient", "blq_percent", "first_day", "last_day", "drugs"]
    if since == "last":
        columns.remove("infusions")
    return pd.DataFrame(rows, columns=columns).set_index(place)


def _given(data: "Dataset", people: list[str]) -> dict[str, object]:
    """Patients with cells, infusions of cells, and drugs of an arm."""
    cells = data.infusions[data.infusions["patient"].isin(people)]
    given = data.doses[data.doses["patient"].isin(people)]
    drugs = given[~given["unit"].isin((*units.CELL_UNITS, ""))]
    return {
        "treated": cells["patient"].nunique(),
        "infusions": len(cells),
        "drugs": ", ".join(dict.fromkeys(drugs["product"])),
    }


def _of_analytes(
    data: "Dataset", seen: pd.DataFrame, about: dict[str, object]
) -> list[dict[str, object]]:
    """A row per analyte of the data, of these observations."""
    rows = []
    for analyte in dict.fromkeys(data.observations["analyte"]):
        own = seen[seen["analyte"] == analyte]
        each = own.groupby("patient").size()
        found = {
            "analyte": analyte,
            "unit": data.units[analyte],
            "sampled": len(each),
            "samples": len(own),
            "per_patient": float(each.median()) if len(each) else 0.0,
            "blq_percent": 100 * float((own["censored"] == 1).mean()) if len(own) else np.nan,
            "first_day": own["time"].min(),
            "last_day": own["time"].max(),
        }
        rows.append(about | found)
    return rows
