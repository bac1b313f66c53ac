"""Write `kimmel2021.csv`: trajectories of Kimmel 2021 from SciPy, independent of carpk.

The equations in plain NumPy, for ln N, ln C and ln B, with the numbers of BIOMD0000001041, but
rB = 0.19; "ghost" has the KC of the upper quartile (9.65e10 cells) and rB = 0.265, and its tumor
falls far below one cell. DOP853 at rtol 1e-12, from one event to the next. Never run by the test
suite, which reads the CSV. Run it in this folder:

    python kimmel2021.py
"""

import csv
from pathlib import Path

import numpy as np
from scipy.integrate import solve_ivp

KN, RN, RHO, A, B, GAMMA, KB = 500.0, 0.17, 0.0251, 0.423, 0.525, 1.15, 4.05
START = np.log([6.0, 0.36, 94.86])  # N [/µL], C [/µL], tumor [mL]; C is the infusion of day 0
BEFORE = [0.5, 1, 2, 3, 5, 7, 8, 9, 11, 14, 21, 28, 42, 60, 75, 89]
DAYS = np.array([*BEFORE, 91, 93, 97, 99, 104, 118, 150, 200, 250, 300, 365])
TWO = [(90.0, 0.012, 0.36)]  # day, share of T cells kept (500/µL back to 6), then the dose
CASES = {"one": (139.0, 0.19, []), "two": (139.0, 0.19, TWO), "ghost": (193.0, 0.265, [])}


def slopes(t, u, kc, growth):
    n, c, _ = np.exp(u)
    total = n + c
    rate = RHO + B * (total - KN) ** 2 / (A * total**2 + (total - KN) ** 2)
    killing = GAMMA * c / (KB + c)
    return np.array([-RN * np.log(total / KN), -rate * np.log(total / kc), growth - killing])


def trajectory(kc, growth, events):
    """States at DAYS, (time, 3)."""
    u, begin, rows = START, 0.0, []
    for day, share, dose in [*events, (DAYS[-1], 1.0, 0.0)]:
        seen = DAYS[(begin < DAYS) & (day >= DAYS)]
        sol = solve_ivp(
            slopes,
            (begin, day),
            u,
            method="DOP853",
            rtol=1e-12,
            atol=1e-12,
            t_eval=np.union1d(seen, day),
            args=(kc, growth),
        )
        assert sol.success
        rows += [np.exp(y) for t, y in zip(sol.t, sol.y.T, strict=True) if t in seen]
        n, c, tumor = np.exp(sol.y[:, -1])
        u, begin = np.log([share * n, share * c + dose, tumor]), day
    return np.array(rows)


def main():
    with (Path(__file__).parent / "kimmel2021.csv").open("w", newline="") as file:
        write = csv.writer(file, lineterminator="\n")
        write.writerow(["case", "time", "N", "C", "B"])
        for case, settings in CASES.items():
            for day, row in zip(DAYS, trajectory(*settings), strict=True):
                write.writerow([case, f"{day:g}", *(f"{x:.12g}" for x in row)])


if __name__ == "__main__":
    main()
