"""Write `gompertz.csv`: a Gompertz tumor under killing from SciPy, independent of carpk.

ln B in plain NumPy, in days. "untreated"; "treated": exposures of 1 on days 0 to 28 and of 0.5 on
days 100 to 160; "cured": an exposure of 3 for good, which takes the tumor far below one cell.
DOP853 at rtol 1e-12, from one event to the next. Never run by the test suite, which reads the CSV.
Run it in this folder:

    python gompertz.py
"""

import csv
from pathlib import Path

import numpy as np
from scipy.integrate import solve_ivp

G, LARGEST, START, KILL = np.exp(-2.9) * 12 / 365.25, np.log(3.1e12), np.log(1e10), 0.05
DAYS = np.array([0.5, 1, 3, 7, 10, 14, 21, 27, 29, 35, 42, 50, 60, 75, 90, 99, 101, 110, 125, 140])
DAYS = np.append(DAYS, [155, 159, 161, 170, 200, 240, 280, 320, 365])
CASES = {
    "untreated": [],
    "treated": [(1.0, 0, 28), (0.5, 100, 160)],
    "cured": [(3.0, 0, 400)],
}


def trajectory(exposures):
    """B and the exposure at DAYS, (time, 2)."""
    u, begin, rows = np.array([START]), 0.0, []
    ends = [x for _, first, last in exposures for x in (first, last) if 0 < x < DAYS[-1]]
    for end in np.unique([*ends, DAYS[-1]]):
        exposure = sum(x for x, first, last in exposures if first <= begin < last)
        seen = DAYS[(begin < DAYS) & (end >= DAYS)]
        days = np.union1d(seen, end)
        sol = solve_ivp(
            lambda t, u, x: G * (LARGEST - u) - KILL * x,
            (begin, end),
            u,
            method="DOP853",
            rtol=1e-12,
            atol=1e-12,
            t_eval=days,
            args=(exposure,),
        )
        assert sol.success
        rows += [(np.exp(y), exposure) for t, y in zip(days, sol.y[0], strict=True) if t in seen]
        u, begin = sol.y[:, -1], end
    return rows


def main():
    with (Path(__file__).parent / "gompertz.csv").open("w", newline="") as file:
        write = csv.writer(file, lineterminator="\n")
        write.writerow(["case", "time", "B", "exposure"])
        for case, exposures in CASES.items():
            for day, row in zip(DAYS, trajectory(exposures), strict=True):
                write.writerow([case, f"{day:g}", *(f"{x:.12g}" for x in row)])


if __name__ == "__main__":
    main()
