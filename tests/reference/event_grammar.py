"""What NONMEM's event records mean for a linear system, by matrix exponentials and superposition.

Independent of carpk's events: every record is written out as single doses, those of a steady state
as hundreds before it, and each adds its own response. The system is a depot (1), a central (2) and
a peripheral compartment (3); amounts are in mg, times in days.
"""

import numpy as np
from scipy.linalg import expm

P = {"ka": 9.0, "CL": 6.0, "V1": 4.0, "Q": 5.0, "V2": 8.0}
SHARE = {1: 0.7, 2: 0.8, 3: 1.0}  # bioavailability of each compartment
BEFORE = 125.0  # days of a steady state of which the doses are written out


def _system(p):
    """Rate matrix of the amounts, turned: SciPy loses digits in matrices that are triangular."""
    matrix = np.array(
        [
            [-p["ka"], 0.0, 0.0],
            [p["ka"], -(p["CL"] + p["Q"]) / p["V1"], p["Q"] / p["V2"]],
            [0.0, p["Q"] / p["V1"], -p["Q"] / p["V2"]],
        ]
    )
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    return turn @ matrix @ turn.T, turn


def _response(p, compartment, duration, since):
    """Amounts (3,) `since` days after one unit began to enter, over `duration` days or at once."""
    matrix, turn = _system(p)
    unit = turn[:, compartment - 1]
    if duration <= 0:
        return turn.T @ expm(matrix * since) @ unit
    running = min(since, duration)
    whole = np.zeros((4, 4))
    whole[:3, :3], whole[:3, 3] = matrix, unit / duration
    entered = expm(whole * running)[:3, 3]
    return turn.T @ expm(matrix * (since - running)) @ entered


def levels(records, lag=None, modelled=None, p=P, share=SHARE):
    """Concentration in the central compartment at each observation (EVID 0), in order.

    Args:
        records: dicts of TIME, EVID, CMT, AMT, RATE, DUR, II, ADDL, SS; as in the file.
        lag: compartment -> lag time.
        modelled: {"rate": ..., "duration": ...}: what RATE -1 and -2 stand for.
    """
    lag, modelled = lag or {}, modelled or {}
    found = []
    for seen, record in enumerate(records):
        if record["EVID"]:
            continue
        t, total = record["TIME"], np.zeros(3)
        for number, dose in enumerate(
            records[:seen]
        ):  # those after it in the file are not yet given
            if dose["EVID"] not in (1, 4):
                continue
            # a reset, or a steady state that replaces, after this dose and before the observation
            wiped = any(
                later["EVID"] in (3, 4) or later.get("SS") == 1
                for later in records[number + 1 : seen]
            )
            if not wiped:
                total += _of(dose, t, lag, modelled, p, share)
        found.append(total[1] / p["V1"])
    return np.array(found)


def _of(dose, t, lag, modelled, p, share):
    """Amounts (3,) at `t` of a record: its dose, those that follow, those of its steady state."""
    cmt, amount, rate = dose["CMT"], dose.get("AMT", 0.0), dose.get("RATE", 0.0)
    arrives, wait = amount * share[cmt], lag.get(cmt, 0.0)
    if rate == -1:
        rate = modelled["rate"]
    duration = (
        modelled["duration"] if rate == -2 else arrives / rate if rate else dose.get("DUR", 0)
    )
    steady, interval = dose.get("SS", 0), dose.get("II", 0.0)
    if steady and not interval:  # a constant infusion up to the record
        matrix, turn = _system(p)
        plateau = -np.linalg.solve(matrix, turn[:, cmt - 1] * rate)
        return turn.T @ expm(matrix * (t - dose["TIME"])) @ plateau
    earlier = int(BEFORE / interval) if steady else 0
    numbers = range(-earlier, dose.get("ADDL", 0) + 1)
    total = np.zeros(3)
    for k in numbers:
        # a dose of the time of an observation that stands after it in the file, or that is late or
        # additional, comes before it
        since = t - (dose["TIME"] + k * interval + wait)
        if since >= -1e-9:
            total += arrives * _response(p, cmt, duration, max(since, 0.0))
    return total
