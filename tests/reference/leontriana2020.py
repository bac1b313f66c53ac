"""Write `leontriana2020.csv`: trajectories of León-Triana 2020 from SciPy, independent of carpk.

The rate laws and numbers of BIOMD0000001011 ("none") and BIOMD0000001012 ("as_encoded") in plain
NumPy, and the latter with CAR-T cells excited in proportion to their number ("marrow"); "again" is
"none" with a second infusion of 1e9 cells on day 300. For the logarithms of all states, DOP853 at
rtol 1e-12, or Radau at 1e-11 as encoded, which is stiff. Never run by the test suite, which reads
the CSV. Run it in this folder:

    python leontriana2020.py
"""

import csv
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.integrate import solve_ivp

TAO_B, RHO_L, TAO_C, ALPHA = 60.0, 1 / 30, 14.0, 4.5e-11
RHO_C = 0.25 * ALPHA
TAO_I, BETA, C_50, I_0 = 6.0, 0.1, 1e9, 1e7
YEAR = [1, 3, 5, 7, 9, 11, 12, 14, 17, 21, 28, 40, 57, 75, 100, 150, 200, 250, 300, 330, 360, 365]
DAYS = np.array([*YEAR, 390, 410, 425, 435, 440, 444, 450, 460, 475, 489, 520, 600])
FIRST = [(0.0, 1e7)]
CASES = {
    "none": FIRST,
    "marrow": FIRST,
    "as_encoded": FIRST,
    "again": [*FIRST, (300.0, 1e9)],
}


def slopes(t, u, case):
    c, leukemia, b = np.exp(u)
    proliferation = RHO_C * (leukemia + b) * c
    made = 0.0
    if case in ("marrow", "as_encoded"):
        extra = RHO_C * BETA * I_0 / (1 + c / C_50)
        proliferation += extra * c if case == "marrow" else extra
        made = I_0 / TAO_I / (1 + c / C_50)
    b_slope = made - ALPHA * b * c - b / TAO_B
    return np.array([(proliferation - c / TAO_C) / c, RHO_L - ALPHA * c, b_slope / b])


def trajectory(case, doses):
    """C, L and B at DAYS, (time, 3)."""
    u, rows = np.array([-np.inf, np.log(5e10), np.log(2.5e10)]), []
    stiff = case == "as_encoded"
    for (begin, cells), (end, _) in pairwise([*doses, (DAYS[-1], 0.0)]):
        u[0] = np.log(np.exp(u[0]) + cells)
        seen = DAYS[(begin < DAYS) & (end >= DAYS)]
        sol = solve_ivp(
            slopes,
            (begin, end),
            u,
            method="Radau" if stiff else "DOP853",
            rtol=1e-11 if stiff else 1e-12,
            atol=1e-11 if stiff else 1e-12,
            t_eval=np.union1d(seen, end),
            args=(case,),
        )
        assert sol.success
        rows += [np.exp(y) for t, y in zip(sol.t, sol.y.T, strict=True) if t in seen]
        u = sol.y[:, -1].copy()
    return np.array(rows)


def main():
    with (Path(__file__).parent / "leontriana2020.csv").open("w", newline="") as file:
        write = csv.writer(file, lineterminator="\n")
        write.writerow(["case", "time", "C", "L", "B"])
        for case, doses in CASES.items():
            for day, row in zip(DAYS, trajectory(case, doses), strict=True):
                write.writerow([case, f"{day:g}", *(f"{x:.12g}" for x in row)])


if __name__ == "__main__":
    main()
