"""Write `hu2024_nivolumab.csv`: nivolumab of Hu 2024 from SciPy, independent of carpk.

Amounts [mg] in two compartments and the integral of the concentration, in plain NumPy, in hours as
the paper has them; six infusions of half an hour, two weeks apart. "adult" is the reference patient
with 240 mg; "teen" a girl of 15 years with an osteosarcoma and 3 mg/kg, performance status 1, late
start; "combination" an adult with another solid tumor and ipilimumab 3 mg/kg every 3 weeks;
"glioblastoma" an adult whose clearance stays. DOP853 at rtol 1e-12, from one event to the next.
Never run by the test suite, which reads the CSV. Run it in this folder:

    python hu2024_nivolumab.py
"""

import csv
from pathlib import Path

import numpy as np
from scipy.integrate import solve_ivp

HOURS, GIVEN = 0.5, np.arange(6) * 14.0
T50, HILL = 2670.0, 2.32
DAYS = np.array([0.01, 0.1, 1, 3, 7, 10, 14, 14.5, 20, 28, 30, 42, 49, 56, 63, 70, 71, 77, 84, 98])
DAYS = np.append(DAYS, [120, 140, 170, 200, 240, 280, 320, 365])

# dose [mg], day of the first dose, CL0 [mL/h], Emax, VC [L], Q [mL/h], VP [L]
CASES = {
    "adult": (240.0, 0.0, 9.66, -0.298, 4.01, 35.9, 2.77),
    "teen": (
        3 * 50.0,
        30.0,
        9.66 * (50 / 75) ** 0.63 * (110 / 90) ** 0.0982 * np.exp(-0.0998 + 0.166 - 0.223),
        -0.298 - 0.157,
        4.01 * (38 / 55) ** 0.932 * np.exp(0.0195 - 0.273),
        35.9 * (50 / 75) ** 0.63,
        2.77 * (38 / 55) ** 0.932,
    ),
    "combination": (
        240.0,
        0.0,
        9.66 * np.exp(0.349 + 0.00699),
        -0.298 - 0.124 + 0.118,
        4.01,
        35.9,
        2.77,
    ),
    "glioblastoma": (240.0, 0.0, 9.66 * np.exp(-0.578), 0.0, 4.01, 35.9, 2.77),
}


def trajectory(dose, first, cl0, emax, vc, q, vp):
    """Amounts and AUC [µg/mL day] at `first` + DAYS, (time, 3)."""

    def slopes(t, y, rate):
        clearance = cl0 / 1000 * np.exp(emax * t**HILL / (T50**HILL + t**HILL))
        exchange = q / 1000 * (y[0] / vc - y[1] / vp)
        return np.array([rate - clearance * y[0] / vc - exchange, exchange, y[0] / vc / 24])

    times, given = 24 * DAYS, 24 * GIVEN
    y, begin, rows = np.zeros(3), 0.0, []
    for end in np.unique([*given[1:], *(given + HOURS), times[-1]]):
        running = any(g <= begin < g + HOURS for g in given)
        seen = times[(begin < times) & (end >= times)]
        sol = solve_ivp(
            slopes,
            (begin, end),
            y,
            method="DOP853",
            rtol=1e-12,
            atol=1e-12,
            t_eval=np.union1d(seen, end),
            args=(dose / HOURS if running else 0.0,),
        )
        assert sol.success
        rows += [y for t, y in zip(sol.t, sol.y.T, strict=True) if t in seen]
        y, begin = sol.y[:, -1], end
    return first + DAYS, np.array(rows)


def main():
    with (Path(__file__).parent / "hu2024_nivolumab.csv").open("w", newline="") as file:
        write = csv.writer(file, lineterminator="\n")
        write.writerow(["case", "time", "central", "peripheral", "auc"])
        for case, settings in CASES.items():
            for day, row in zip(*trajectory(*settings), strict=True):
                write.writerow([case, f"{day:g}", *(f"{x:.12g}" for x in row)])


if __name__ == "__main__":
    main()
