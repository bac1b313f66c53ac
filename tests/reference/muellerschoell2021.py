"""Write `muellerschoell2021.csv`: trajectories of Müller-Schöll 2021 from SciPy alone.

The equations in plain NumPy, for the logs of the four phenotypes and of the tumor, with the numbers
of nlmixr2lib's transcription. Cases: the reference patient; patient 14 of Table S1 (after a
transplant); patient 4 (low-expansion class); and the reference patient with a second infusion on
day 60, of half as many cells. DOP853 at rtol 1e-12. Never run by the test suite, which reads the
CSV. Run it in this folder:

    python muellerschoell2021.py
"""

import csv
from pathlib import Path

import numpy as np
from scipy.integrate import solve_ivp

NAMES = ["TN", "TCM", "TEM", "TEff", "B"]
ON = np.array([0.140, 0.191, 0.355, 0.0])  # differentiation, to the next phenotype
OFF = np.array([0.0104, 0.0104, 0.0104, 0.518])  # death
SELF = np.array([0.0005, 0.007, 0.007, 0.0])  # homeostatic growth
KILL = np.array([2.57, 4.04, 3.78, 4.24])
BEFORE = [0.5, 1, 2, 3, 5, 7, 10, 12, 14, 17, 21, 25, 28, 35, 42, 50, 59]
DAYS = np.array([*BEFORE, 61, 63, 67, 75, 90, 120, 150, 180, 240, 300, 365])
# expansion rate, tumor at the infusion, (day, cells/µL of each phenotype) of further infusions
CASES = {
    "reference": (0.00846, 85.7, []),
    "transplant": (0.00846 * 3.53 * 0.130**-0.385, 85.7, []),
    "low": (0.000700, 264.0, []),
    "two": (0.00846, 85.7, [(60.0, 0.05)]),
}


def slopes(t, u, rate):
    cells, tumor = np.exp(u[:4]), np.exp(u[4])
    dividing = np.array([1.0, 1.0, 1.0, 0.0])
    change = dividing * rate * tumor / (1.13 + cells) + SELF - ON - OFF
    change[1:] += ON[:3] * cells[:3] / cells[1:]
    killing = KILL @ cells / (276 + tumor)
    return np.append(change, 0.0023 * (1 - tumor / 5000) - killing)


def trajectory(rate, tumor, infusions):
    """States at DAYS, (time, 5)."""
    u, begin, rows = np.log([0.1, 0.1, 0.1, 0.1, tumor]), 0.0, []
    for day, dose in [*infusions, (DAYS[-1], 0.0)]:
        seen = DAYS[(begin < DAYS) & (day >= DAYS)]
        sol = solve_ivp(
            slopes,
            (begin, day),
            u,
            method="DOP853",
            rtol=1e-12,
            atol=1e-12,
            t_eval=np.union1d(seen, day),
            args=(rate,),
        )
        assert sol.success
        rows += [np.exp(y) for t, y in zip(sol.t, sol.y.T, strict=True) if t in seen]
        u, begin = sol.y[:, -1].copy(), day
        u[:4] = np.log(np.exp(u[:4]) + dose)
    return np.array(rows)


def main():
    with (Path(__file__).parent / "muellerschoell2021.csv").open("w", newline="") as file:
        write = csv.writer(file, lineterminator="\n")
        write.writerow(["case", "time", *NAMES])
        for case, settings in CASES.items():
            for day, row in zip(DAYS, trajectory(*settings), strict=True):
                write.writerow([case, f"{day:g}", *(f"{x:.12g}" for x in row)])


if __name__ == "__main__":
    main()
