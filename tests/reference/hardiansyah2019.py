"""Write `hardiansyah2019.csv`: trajectories of Hardiansyah 2019 from SciPy, independent of carpk.

The equations of the supplement in plain NumPy, with nlmixr2lib's corrections, in 1e9 cells and for
the log of B. Cases: UPN1, UPN3, and "burden", which is UPN1 with the 1.1e10 B cells of BioModels
MODEL2009230001. DOP853 at rtol 1e-12, from one dose to the next. Never run by the test suite, which
reads the CSV. Run it in this folder:

    python hardiansyah2019.py
"""

import csv
from pathlib import Path

import numpy as np
from scipy.integrate import solve_ivp

NAMES = ["B", "Ep", "Et", "Mp", "Mt", "IL6", "IL10", "IFN"]
KIN, KOUT, H = 76.78, 1.84, 1e5
SPLIT = [(0.0, 0.1), (1.0, 0.3), (2.0, 0.6)]
FIRST = [0.02, 0.04, 0.1, 0.3, 0.98, 1.02, 1.1, 1.5, 2.02, 2.06, 2.2, 2.6]
DAYS = np.array([*FIRST, 3, 3.5, 4, 5, 7, 10, 14, 17, 20, 23, 28, 35, 50, 80, 150, 250, 365])
#        rE    dE   aE   Kbc; secretion of IL-6, IL-10, IFN; their baselines
UPN1 = [16.16, 23.04, 0.024, 0.19], [1.8e-3, 0.7e-3, 0.3e-3], [1.7, 4.5, 2.3]
UPN3 = [14.40, 1.44, 0.12, 2.21], [0.6e-2, 1.7e-2, 0.6e-2], [1.0, 0.5, 1.7]
CASES = {"upn1": (*UPN1, 4.14, 1.1), "upn3": (*UPN3, 0.93, 0.014), "burden": (*UPN1, 11.0, 1.1)}


def slopes(t, y, cells, secretion, baseline):
    grow, lose, convert, kill = cells
    b, ep, et, mp, mt, il6, il10, ifn = y
    b = np.exp(b)
    f = b / (b + H)
    made = 1e6 * b * ep * np.array(secretion)
    made[2] *= 0.59 + 0.41 * 650 / (il10 + 650)
    cytokines = np.array([3.96, 4.68, 1.51]) * (np.array(baseline) - [il6, il10, ifn]) + made
    become, return_ = convert * ep * (1 - f), 1.0 * mp * f
    return [
        9.3e-3 - 7.6e-3 - kill * ep,
        grow * ep * b - lose * ep - KIN * ep + KOUT * et - become + return_,
        KIN * ep - KOUT * et,
        0.0509 * mp - 0.408 * mp - KIN * mp + KOUT * mt + become - return_,
        KIN * mp - KOUT * mt,
        *cytokines,
    ]


def trajectory(cells, secretion, baseline, burden, dose):
    """States at DAYS, (time, 8)."""
    y, rows = np.array([np.log(burden), 0, 0, 0, 0, *baseline]), []
    ends = [day for day, _ in SPLIT[1:]] + [DAYS[-1]]
    for (begin, share), end in zip(SPLIT, ends, strict=True):
        y[1] += share * dose
        seen = DAYS[(begin < DAYS) & (end >= DAYS)]
        sol = solve_ivp(
            slopes,
            (begin, end),
            y,
            method="DOP853",
            rtol=1e-12,
            atol=1e-18,
            t_eval=np.union1d(seen, end),
            args=(cells, secretion, baseline),
        )
        assert sol.success
        at = dict(zip(sol.t, sol.y.T, strict=True))
        rows += [[np.exp(at[t][0]), *at[t][1:]] for t in seen]
        y = sol.y[:, -1].copy()
    return np.array(rows)


def main():
    with (Path(__file__).parent / "hardiansyah2019.csv").open("w", newline="") as file:
        write = csv.writer(file, lineterminator="\n")
        write.writerow(["case", "time", *NAMES])
        for case, settings in CASES.items():
            for day, row in zip(DAYS, trajectory(*settings), strict=True):
                write.writerow([case, f"{day:g}", *(f"{x:.12g}" for x in row)])


if __name__ == "__main__":
    main()
