"""What is known of a drug alone: initial concentration, clearance, volume, mean residence time.

Definitions are those of PKNCA and of CDISC: CL = dose / AUCinf, Vz = CL / lambda z, MRT = AUMCinf /
AUCinf, less half the duration of an infusion.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

from carpk.errors import CarpkError
from carpk.nca.windows import Infusions, Opened, Window

ROUTES = {  # route -> the parameters that it adds
    "bolus": ("C0", "AUCPBEO", "AUCPBEP", "CLO", "VZO", "MRTIVIFO"),
    "infusion": ("CLO", "VZO", "MRTIVIFO"),
    "extravascular": ("CLFO", "VZFO", "MRTEVIFO"),
    "": (),  # cells
}


def route_of(route: str | None, product: str | None, infusions: Infusions) -> str:
    """The route that was given or that the durations tell; "" of cells, and of what is no drug."""
    doses = infusions.doses
    lasting = doses["duration"] > 0
    if route is not None and (route not in ROUTES or not route or not infusions.drugs):
        raise CarpkError(
            f"nca.table: `route` must be one of 'bolus', 'infusion', 'extravascular' and is for "
            f"drugs, but is {route!r} for doses of {' and '.join(sorted(set(doses['unit'])))}."
        )
    if route == "bolus" and lasting.any():
        patient, day = doses.loc[lasting, ["patient", "time"]].iloc[0]
        raise CarpkError(
            f"nca.table: `route` is 'bolus', but the dose of patient {patient!r} on day {day:g} "
            "has a duration. Name route='infusion', or set the duration to 0."
        )
    level_of_drug = product is not None or infusions.analyte in set(doses["product"])
    if not infusions.drugs or (route is None and not level_of_drug):
        return ""
    if route is None and lasting.any() and not lasting.all():
        raise CarpkError(
            "nca.table: some doses have a duration and some have none. Name `route`, or `product`."
        )
    return route or ("infusion" if lasting.any() else "extravascular")


def duration_of(infusions: Infusions, given: Opened) -> float:
    """Days from the beginning of a dose to its end, 0 of a bolus."""
    bags = infusions.bags(given)
    return float((bags["time"] - given.start + bags["duration"]).max())


def initial_concentration(t: np.ndarray, c: np.ndarray) -> float:
    """C0 of a bolus: on the line of ln c through the first two samples, else the first sample.

    The line is taken where the second is lower and not BLQ, as `pk.calc.c0` of PKNCA does.
    """
    if not t.size:
        return np.nan
    if t.size > 1 and 0 < c[1] < c[0]:
        return float(c[0] * (c[0] / c[1]) ** (t[0] / (t[1] - t[0])))
    return float(c[0])


def drug_parameters(
    window: Window, ruled: np.ndarray, found: Mapping[str, float]
) -> dict[str, float]:
    """The parameters of a drug, from those of its curve; nan on the residual of an earlier dose."""
    kept = ~np.isnan(ruled) & (window.t <= found["TLST"])
    t, c = np.append(0.0, window.t[kept]), np.append(window.initial, ruled[kept])
    last, rate, area = found["CLST"], found["LAMZ"], found["AUCIFO"]
    moment = _first_moment(t, c) + last * found["TLST"] / rate + last / rate**2
    clearance = window.dose / area if not window.residual else np.nan
    mean_time = moment / area if not window.residual else np.nan
    first = _area_of(t[0], c[0], t[1], c[1]) if t.size > 1 else np.nan
    return {
        "C0": window.initial if window.t.size else np.nan,
        "AUCPBEO": 100 * first / area,
        "AUCPBEP": 100 * first / found["AUCIFP"],
        "CLO": clearance,
        "CLFO": clearance,
        "VZO": clearance / rate,
        "VZFO": clearance / rate,
        "MRTIVIFO": mean_time - window.duration / 2,
        "MRTEVIFO": mean_time,
    }


def _first_moment(t: np.ndarray, c: np.ndarray) -> float:
    """Area under t c, by the rule of the areas: linear-up/log-down."""
    return sum(_moment_of(*one, *two) for one, two in itertools.pairwise(zip(t, c, strict=True)))


def _moment_of(t1: float, c1: float, t2: float, c2: float) -> float:
    if not 0 < c2 < c1:
        return (t2 - t1) * (t1 * c1 + t2 * c2) / 2
    rate = np.log(c1 / c2) / (t2 - t1)
    return float((t1 * c1 - t2 * c2) / rate + (c1 - c2) / rate**2)


def _area_of(t1: float, c1: float, t2: float, c2: float) -> float:
    if not 0 < c2 < c1:
        return (t2 - t1) * (c1 + c2) / 2
    return float((t2 - t1) * (c1 - c2) / np.log(c1 / c2))
