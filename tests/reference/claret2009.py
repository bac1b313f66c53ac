"""Write `claret2009.csv`: tumor size of Claret 2009 from SciPy, independent of carpk.

ln y in plain NumPy, in the time unit of the rates. "week" and "day": the regimen of
MODEL1708310001, 12 for 1/16 day twice daily on 14 of 21 days, three times, with rates per week or
per day; "constant": an exposure of 2.07 on days 10 to 136, rates per week and resistance from day
10. DOP853 at rtol 1e-12, from one event to the next. Never run by the test suite, which reads the
CSV. Run it in this folder:

    python claret2009.py
"""

import csv
from pathlib import Path

import numpy as np
from scipy.integrate import solve_ivp

KL, KD0, DECAY, SIZE = 0.021, 0.025, 0.053, 200.0
DAYS = np.array([0.03, 0.3, 0.53, 1.2, 2.8, 5.04, 7, 9.3, 12, 13.52, 14.5, 18, 21.03, 25, 30.8])
DAYS = np.append(DAYS, [35.2, 40, 42.04, 47, 55.03, 60, 70, 90, 120, 150, 200, 250, 300, 365])
PULSES = [(12.0, 21 * c + d / 2, 21 * c + d / 2 + 1 / 16) for c in range(3) for d in range(28)]
CASES = {
    "week": (7.0, 0.0, PULSES),
    "day": (1.0, 0.0, PULSES),
    "constant": (7.0, 10.0, [(2.07, 10.0, 136.0)]),
}


def trajectory(unit, start, exposures):
    """y and the exposure at DAYS, (time, 2)."""

    def slope(t, u, exposure):
        resistance = np.exp(-DECAY * max(t - start / unit, 0.0))
        return np.array([KL - KD0 * resistance * exposure])

    u, begin, rows = np.log([SIZE]), 0.0, []
    ends = [x for _, first, last in exposures for x in (first, last) if x > 0]
    for end in np.unique([*ends, DAYS[-1]]):
        exposure = sum(x for x, first, last in exposures if first <= begin < last)
        seen = DAYS[(begin < DAYS) & (end >= DAYS)]
        sol = solve_ivp(
            slope,
            (begin / unit, end / unit),
            u,
            method="DOP853",
            rtol=1e-12,
            atol=1e-13,
            t_eval=np.union1d(seen, end) / unit,
            args=(exposure,),
        )
        assert sol.success
        days = np.union1d(seen, end)
        rows += [(np.exp(y), exposure) for t, y in zip(days, sol.y[0], strict=True) if t in seen]
        u, begin = sol.y[:, -1], end
    return rows


def main():
    with (Path(__file__).parent / "claret2009.csv").open("w", newline="") as file:
        write = csv.writer(file, lineterminator="\n")
        write.writerow(["case", "time", "y", "exposure"])
        for case, settings in CASES.items():
            for day, row in zip(DAYS, trajectory(*settings), strict=True):
                write.writerow([case, f"{day:g}", *(f"{x:.12g}" for x in row)])


if __name__ == "__main__":
    main()
