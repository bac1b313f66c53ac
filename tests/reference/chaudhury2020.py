"""Write `chaudhury2020.csv`: trajectories of Chaudhury 2020 from SciPy, independent of carpk.

The equations and numbers of the BioModels files MODEL2109110005 (first order), BIOMD0000001024
(Lotka-Volterra) and BIOMD0000001025 (EC50) in plain NumPy, for ln CE, CP and ln U, from one change
of phase to the next. "scarce" and "abundant" are the EC50 form with a hundredth and a hundred times
the tumor; in "again" its second infusion, on day 60, starts another phase of expansion, which is
no part of the files. DOP853 at rtol 1e-12. Never run by the test suite, which reads the CSV. Run it
in this folder:

    python chaudhury2020.py
"""

import csv
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.integrate import solve_ivp

K_E, K_EP, BETA, T_MAX, U_CRIT, HILL = 0.16, 0.0012, 0.0032, 9.3, 0.1, 3.0
BEGINNING = [0.5, 1, 2, 3, 4, 5, 6, 6.5, 7, 7.5, 8, 8.5, 9, 9.3, 9.5, 10, 11, 12, 14]
DAYS = np.array([*BEGINNING, 17, 21, 28, 45, 60, 61, 65, 69, 70, 90, 150, 250, 365])


def gompertz(u, g, u_max):
    """Growth rate of the tumor where a cure is possible."""
    f_cure = u**HILL / (u**HILL + U_CRIT**HILL)
    return f_cure * g * (np.log10(u_max) - np.log10(u)) / np.log10(u_max)


def first_order(ce, u, expanding):
    return (1.0 if expanding else -K_EP - K_E), gompertz(u, 0.3, 100.0) - 7e-4 * ce


def lotka_volterra(ce, u, expanding):
    return 0.0018 * u - 0.16, 0.15 - 1.5e-4 * ce


def ec50(ce, u, expanding):
    rate = 8.8 * u / (1.0 + ce + u) if expanding else -K_EP - K_E
    return rate, gompertz(u, 0.2, 1000.0) - 0.35 * ce / (10.0 + ce + u)


CASES = {
    "first_order": (first_order, 900.0, [0.0]),
    "lotka_volterra": (lotka_volterra, 900.0, [0.0]),
    "ec50": (ec50, 900.0, [0.0]),
    "scarce": (ec50, 9.0, [0.0]),
    "abundant": (ec50, 90_000.0, [0.0]),
    "again": (ec50, 900.0, [0.0, 60.0]),
}


def trajectory(rates, tumor, infusions):
    """CE, CP and U at DAYS, (time, 3); each infusion brings 10 cells/µL."""

    def slopes(t, y, expanding):
        ce = np.exp(y[0])
        grow, tumor_grows = rates(ce, np.exp(y[2]), expanding)
        persists = rates is not lotka_volterra and not expanding
        return [grow, K_EP * ce - BETA * y[1] if persists else 0.0, tumor_grows]

    ends = sorted({*infusions, *(t + T_MAX for t in infusions), DAYS[-1]})
    y, rows = np.array([-np.inf, 0.0, np.log(tumor)]), []
    for begin, end in pairwise(ends):
        if begin in infusions:
            y[0] = np.log(np.exp(y[0]) + 10.0)
        seen = DAYS[(begin < DAYS) & (end >= DAYS)]
        expanding = any(t <= begin < t + T_MAX for t in infusions)
        sol = solve_ivp(
            slopes,
            (begin, end),
            y,
            method="DOP853",
            rtol=1e-12,
            atol=1e-12,
            t_eval=np.union1d(seen, end),
            args=(expanding,),
        )
        assert sol.success
        rows += [row for t, row in zip(sol.t, sol.y.T, strict=True) if t in seen]
        y = sol.y[:, -1].copy()
    rows = np.array(rows)
    return np.column_stack([np.exp(rows[:, 0]), rows[:, 1], np.exp(rows[:, 2])])


def main():
    with (Path(__file__).parent / "chaudhury2020.csv").open("w", newline="") as file:
        write = csv.writer(file, lineterminator="\n")
        write.writerow(["case", "time", "CE", "CP", "U"])
        for case, settings in CASES.items():
            for day, row in zip(DAYS, trajectory(*settings), strict=True):
                write.writerow([case, f"{day:g}", *(f"{x:.12g}" for x in row)])


if __name__ == "__main__":
    main()
