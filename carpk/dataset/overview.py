"""What a data set holds, arm by arm."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from carpk.dataset import units
from carpk.errors import DatasetError

if TYPE_CHECKING:
    from carpk.dataset.dataset import Dataset

ALL = "all"


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


def since_last(data: "Dataset") -> np.ndarray:
    """Days of each observation since the patient's last cell infusion; before the first, to it."""
    days = data.observations["time"].to_numpy(dtype=float).copy()
    own = {p: np.sort(t.to_numpy(float)) for p, t in data.infusions.groupby("patient")["time"]}
    for i, patient in enumerate(data.observations["patient"]):
        times = own.get(patient)
        if times is not None:  # a sample at the time of an infusion ends the interval before it
            place = max(int(np.searchsorted(times, days[i], side="left")) - 1, 0)
            days[i] -= times[place]
    return days


def summary(data: "Dataset", by: str | None) -> pd.DataFrame:
    """One row per arm and analyte."""
    arm = arms(data, by)
    rows = []
    for name in dict.fromkeys(arm.values()):
        people = [p for p, own in arm.items() if own == name]
        cells = data.infusions[data.infusions["patient"].isin(people)]
        given = data.doses[data.doses["patient"].isin(people)]
        drugs = given[~given["unit"].isin((*units.CELL_UNITS, ""))]
        seen = data.observations[data.observations["patient"].isin(people)]
        about = {
            "arm": name,
            "patients": len(people),
            "treated": cells["patient"].nunique(),
            "infusions": len(cells),
            "drugs": ", ".join(dict.fromkeys(drugs["product"])),
        }
        for analyte in dict.fromkeys(data.observations["analyte"]):
            own = seen[seen["analyte"] == analyte]
            each = own.groupby("patient").size()
            rows.append(
                about
                | {
                    "analyte": analyte,
                    "unit": data.units[analyte],
                    "sampled": len(each),
                    "samples": len(own),
                    "per_patient": float(each.median()) if len(each) else 0.0,
                    "blq_percent": 100 * float((own["censored"] == 1).mean())
                    if len(own)
                    else np.nan,
                    "first_day": own["time"].min(),
                    "last_day": own["time"].max(),
                }
            )
    columns = ["arm", "analyte", "unit", "patients", "treated", "infusions", "sampled", "samples"]
    columns += ["per_patient", "blq_percent", "first_day", "last_day", "drugs"]
    return pd.DataFrame(rows, columns=columns).set_index(["arm", "analyte"])
