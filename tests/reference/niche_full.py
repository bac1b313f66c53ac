"""Write `niche_full.csv`: trajectories of the model niche_full from SciPy, independent of carpk.

Every compartment is a state here: F-ara-A in three [mg], cyclophosphamide [mg] and its induction,
both effect sites [mg/L], ln N, H, P, E, M, ln B and the two AUCs [mg h/L]. Patient of 50 kg,
1.45 m², eGFR 120; from day -10; every reference regimen with the values of either disease. DOP853
at rtol 1e-11, from one dose to the next. Never run by the test suite, which reads the CSV. Run it
in this folder:

    python niche_full.py
"""

import csv
from pathlib import Path

import numpy as np
from scipy.integrate import solve_ivp

SCALE = 50 / 70
CL = (3.2 + 0.78 * 120 * 60 / 1000) * SCALE**0.75  # L/h, as the other flows
Q2, Q3, CLY = 8.6 * SCALE**0.75, 3.8 * SCALE**0.75, 5.4 * SCALE**0.75
V1, V2, V3, VY, VC = 39 * SCALE, 20 * SCALE, 50 * SCALE, 33 * SCALE, 500 * SCALE
KEF, KEC, MR, KF, KC = np.log(2) / 1.0, np.log(2) / 0.5, 0.055, 0.14, 0.15
KZ, IMAX, C50Z = 0.0223 * 24, 0.5, 10
KN, RN, SN, KAP, KH, H50, NH = 500, 0.17, 0.02, 9, 1, 3, 2
KACT, DP, FM, RHO, DE, KEM, DM, AME, PHIC = 0.6, 0.2, 0.05, 2.0, 0.16, 0.002, 0.003, 0.03, 1.0
G, BMAX, KB = 0.02, 3000, 4
DISEASES = {  # S0, B50, gB, tau, B0
    "heme": (0.75, 10, 0.5, 1.0, 100),
    "solid": (0.5, 20, 0.15, 0.3, 200),
}

F, Y, P = 0, 3, 9  # where doses go
NAMES = ["Y", "z", "Fe", "Ce", "N", "H", "P", "E", "M", "B", "AUCF", "AUCC"]
LOGS = (7, 12)

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
EARLY = [-9, -7.4, -6.6, -5.5, -4.5, -3.4, -2.5, -1.5, -0.5, 0.3, 1, 2, 3, 5, 7, 9, 10.5, 12]
LATE = [14, 17, 21, 28, 36.5, 38.5, 40, 43, 46, 52, 60, 78, 83, 86, 90, 120, 180, 270, 365]
DAYS = np.array([*EARLY, *LATE])


def slopes(t, s, top, b50, kill_max, tau):
    f1, f2, f3, cy, z, fe, ce, ln_n, h, p, e, m, ln_b, _, _ = s
    n, b, conc = np.exp(ln_n), np.exp(ln_b), cy / VY
    kill = 24 * (KF * fe + KC * ce)
    total = n + p + e + m
    signal = top * b / (b + b50) * h**NH / (h**NH + H50**NH)
    return [
        24 * (-(CL + Q2 + Q3) * f1 / V1 + Q2 * f2 / V2 + Q3 * f3 / V3),
        24 * Q2 * (f1 / V1 - f2 / V2),
        24 * Q3 * (f1 / V1 - f3 / V3),
        -24 * CLY / VY * (0.2 + 0.8 * z) * cy,
        KZ * (1 + IMAX * conc / (conc + C50Z) - z),
        KEF * (f1 / V1 - fe),
        KEC * (MR * conc * z - ce),
        SN / n + RN * np.log(KN / total) - kill,
        KH * ((1 + KAP) / (1 + KAP * total / KN) - h),
        -(KACT + DP + PHIC * kill) * p,
        KACT * (1 - FM) * p + (RHO * signal - DE - KEM - PHIC * kill) * e + AME * signal * m,
        KACT * FM * p + KEM * e - (DM + AME * signal + PHIC * kill) * m,
        G * (1 - b / BMAX) - kill_max * tau * e / (KB + tau * e),
        24 * f1 / V1,
        24 * MR * conc * z,
    ]


def trajectory(values, events):
    """The states of NAMES at DAYS, (time, state)."""
    *values, burden = values
    s, begin, rows = np.zeros(15), -10.0, []
    s[[4, 7, 8, 12]] = 1.0, np.log(KN), 1.0, np.log(burden)
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
            args=tuple(values),
        )
        assert sol.success
        rows += [y for t, y in zip(sol.t, sol.y.T, strict=True) if t in seen]
        s, begin = sol.y[:, -1].copy(), day
        for when, where, amount in events:
            s[where] += amount * (when == day)
    table = np.array(rows)
    table[:, LOGS] = np.exp(table[:, LOGS])
    return table[:, 3:]


def main():
    with (Path(__file__).parent / "niche_full.csv").open("w", newline="") as file:
        write = csv.writer(file, lineterminator="\n")
        write.writerow(["case", "time", *NAMES])
        for disease, values in DISEASES.items():
            for name, events in REGIMENS.items():
                for day, row in zip(DAYS, trajectory(values, events), strict=True):
                    write.writerow([f"{disease}: {name}", f"{day:g}", *(f"{x:.10g}" for x in row)])


if __name__ == "__main__":
    main()
