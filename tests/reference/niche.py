"""Write `niche.csv`: trajectories of the model niche from SciPy, independent of carpk.

Every compartment is a state here: F-ara-A in three [mg], cyclophosphamide [mg], both effect sites
[mg/L], ln N, P, E, M, ln B and the two AUCs [mg h/L]. Patient of 50 kg, 1.45 m², eGFR 120; from day
-10. "logistic" and "slow" are the first regimen with th = 1 and th = -0.5. DOP853 at rtol 1e-11,
from one dose to the next. Never run by the test suite, which reads the CSV. Run it in this folder:

    python niche.py
"""

import csv
from pathlib import Path

import numpy as np
from scipy.integrate import solve_ivp

SCALE = 50 / 70
CL = (3.2 + 0.78 * 120 * 60 / 1000) * SCALE**0.75  # L/h, as the other flows
Q2, Q3, CLY = 8.6 * SCALE**0.75, 3.8 * SCALE**0.75, 5.4 * SCALE**0.75
V1, V2, V3, VY, VC = 39 * SCALE, 20 * SCALE, 50 * SCALE, 33 * SCALE, 419.0
KEF, KEC, MR, KF, KC = np.log(2) / 1.0, np.log(2) / 0.5, 0.055, 0.14, 0.15
KN, RN, SN, KACT, RHO, LH, DE, KEM, DM = 500, 0.165, 0.02, 0.54, 1.35, 170, 0.155, 0.0022, 0.0035
G, BMAX, GB, KB, B50, B0 = 0.02, 3000, 0.48, 4, 11.2, 100

F, Y, P = 0, 3, 7  # where doses go
NAMES = ["Fe", "Ce", "N", "P", "E", "M", "B", "AUCF", "AUCC"]
COLUMNS = [4, 5, 6, 7, 8, 9, 10, 11, 12]
LOGS = (6, 10)

FLU3 = [(d, F, 0.781 * 30 * 1.45) for d in (-5, -4, -3)]
FLU5 = [(d, F, 0.781 * 25 * 1.45) for d in (-6, -5, -4, -3, -2)]
CY3 = [(d, Y, 500 * 1.45) for d in (-5, -4, -3)]
CY2 = [(d, Y, 30 * 50.0) for d in (-8, -7)]
CELLS = [(0, P, 1e8 * 1.45 / (VC * 1e6))]


def later(events, days):
    return [(day + days, *rest) for day, *rest in events]


THRICE = CELLS + later(CELLS, 42) + later(CELLS, 84)
REGIMENS = {
    "Flu/Cy 30/500": FLU3 + CY3 + CELLS,
    "Flu 25 x5 + Cy 1500 x2": FLU5 + CY2 + CELLS,
    "Flu 25 x5": FLU5 + CELLS,
    "Flu 30 x3": FLU3 + CELLS,
    "Cy 500 x3": CY3 + CELLS,
    "none": CELLS,
    "three infusions, Flu/Cy before the first": FLU3 + CY3 + THRICE,
    "three infusions, Flu/Cy before each": [
        e for s in (0, 42, 84) for e in later(FLU3 + CY3 + CELLS, s)
    ],
    "three infusions, Flu before each": [e for s in (0, 42, 84) for e in later(FLU3 + CELLS, s)],
}
CASES = {name: (0.0, events) for name, events in REGIMENS.items()}
CASES |= {"logistic": (1.0, FLU3 + CY3 + CELLS), "slow": (-0.5, FLU3 + CY3 + CELLS)}
EARLY = [-9, -7.4, -6.6, -5.5, -4.5, -3.4, -2.5, -1.5, -0.5, 0.3, 1, 2, 3, 5, 7, 9, 10.5, 12]
LATE = [14, 17, 21, 28, 36.5, 38.5, 40, 43, 46, 52, 60, 78, 83, 86, 90, 120, 180, 270, 365]
DAYS = np.array([*EARLY, *LATE])


def slopes(t, s, th):
    f1, f2, f3, cy, fe, ce, ln_n, p, e, m, ln_b, _, _ = s
    n, b = np.exp(ln_n), np.exp(ln_b)
    kill = 24 * (KF * fe + KC * ce)
    total = n + p + e + m
    room = np.log(KN / total) if th == 0 else (1 - (total / KN) ** th) / th
    growth = RHO * b / (b + B50) / (1 + (total / LH) ** 2)
    return [
        24 * (-(CL + Q2 + Q3) * f1 / V1 + Q2 * f2 / V2 + Q3 * f3 / V3),
        24 * Q2 * (f1 / V1 - f2 / V2),
        24 * Q3 * (f1 / V1 - f3 / V3),
        -24 * CLY * cy / VY,
        KEF * (f1 / V1 - fe),
        KEC * (MR * cy / VY - ce),
        SN / n + RN * room - kill,
        -(KACT + kill) * p,
        KACT * p + (growth - DE - KEM - kill) * e,
        KEM * e - (DM + kill) * m,
        G * (1 - b / BMAX) - GB * e / (KB + e),
        24 * f1 / V1,
        24 * MR * cy / VY,
    ]


def trajectory(th, events):
    """The states of NAMES at DAYS, (time, state)."""
    s, begin, rows = np.zeros(13), -10.0, []
    s[[6, 10]] = np.log(KN), np.log(B0)
    for day in sorted({float(day) for day, _, _ in events} | {DAYS[-1]}):
        seen = DAYS[(begin < DAYS) & (day >= DAYS)]
        sol = solve_ivp(
            slopes,
            (begin, day),
            s,
            method="DOP853",
            rtol=1e-11,
            atol=1e-16,
            t_eval=np.union1d(seen, day),
            args=(th,),
        )
        assert sol.success
        rows += [y for t, y in zip(sol.t, sol.y.T, strict=True) if t in seen]
        s, begin = sol.y[:, -1].copy(), day
        for when, where, amount in events:
            s[where] += amount * (when == day)
    table = np.array(rows)
    table[:, LOGS] = np.exp(table[:, LOGS])
    return table[:, COLUMNS]


def main():
    with (Path(__file__).parent / "niche.csv").open("w", newline="") as file:
        write = csv.writer(file, lineterminator="\n")
        write.writerow(["case", "time", *NAMES])
        for case, settings in CASES.items():
            for day, row in zip(DAYS, trajectory(*settings), strict=True):
                write.writerow([case, f"{day:g}", *(f"{x:.10g}" for x in row)])


if __name__ == "__main__":
    main()
