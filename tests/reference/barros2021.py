"""Write `barros2021.csv`: trajectories of Barros 2021 (CARTmath) from SciPy, independent of carpk.

The equations in plain NumPy for C and M in million cells and ln T, with phi and rho as printed.
HDLM-2: doses of Figures 3 and 4, and the event of BIOMD0000001019, which sets C to 2e6 on day 45.
RAJI: its three forms. Radau at rtol 1e-10, from one event to the next. Never run by the test suite,
which reads the CSV. Run it in this folder:

    python barros2021.py
"""

import csv
from pathlib import Path

import numpy as np
from scipy.integrate import solve_ivp

HDLM2 = (0.265, 0.350, 0.150, 6.0e-6, 4.5e-8, 5.0e-3, 5.650026e-2, 1.404029e-12, 3.715843e-6)
RAJI = (0.83, 0.8300536, 1.59795, 2.3e-4, None, 6.89e-7, 0.5071721, 0.0, 3.365388e-8)
IN_HDLM2 = {  # (day, of what, million cells, whether they replace what is there)
    "2 million": [(42, "C", 2.0, False)],
    "rechallenge": [(42, "C", 2.0, False), (250, "T", 1.0, False)],
    "0.5 million": [(42, "C", 0.5, False)],
    "0.2 million": [(42, "C", 0.2, False)],
    "weekly": [(day, "C", 0.5, False) for day in (42, 49, 56, 63)],
    "3 days": [(42, "C", 0.2, False), (43, "C", 0.6, False), (44, "C", 1.2, False)],
    "BioModels": [(45, "C", 2.0, True)],
}
IN_RAJI = {"raji": 1.248506e-8, "raji_ido": 1.461699e-8, "raji_ido_1mt": 1.261662e-8}  # alpha
LONG = [1, 9, 21, 42, 42.1, 42.5, 43, 43.5, 44, 44.5, 45, 45.5, 46, 48, 50, 53, 56, 60, 64, 70, 80]
LONG = np.array([*LONG, 100, 150, 200, 250, 250.2, 251, 253, 260, 300, 365], float)
SHORT = np.array([1, 3, 5, 7, 7.01, 7.1, 7.3, 7.6, *np.arange(8, 15.1, 0.5)])


def slopes(t, u, p):
    phi, rho, eps, theta, alpha, mu, r, b, gamma = p
    tumor = np.exp(u[2])
    return [
        phi * u[0] - rho * u[0] + theta * tumor * u[1] - alpha * tumor * u[0],
        eps * u[0] - theta * tumor * u[1] - mu * u[1],
        r * (1 - b * tumor) - gamma * 1e6 * u[0],
    ]


def trajectory(p, inoculated, events, days):
    """States on these days, (time, 3); what an event adds is seen after its time."""
    u, begin, rows = np.array([0.0, 0.0, np.log(inoculated)]), 0.0, []
    for end, what, amount, replaces in [*events, (days[-1], "", 0.0, False)]:
        seen = days[(begin < days) & (end >= days)]
        sol = solve_ivp(
            slopes,
            (begin, end),
            u,
            method="Radau",
            rtol=1e-10,
            atol=1e-13,
            t_eval=np.union1d(seen, end),
            args=(p,),
        )
        assert sol.success
        rows += [
            [y[0], y[1], np.exp(y[2])] for t, y in zip(sol.t, sol.y.T, strict=True) if t in seen
        ]
        u, begin = sol.y[:, -1].copy(), end
        if what == "C":
            u[0] = amount + (0.0 if replaces else u[0])
        if what == "T":
            u[2] = np.log(np.exp(u[2]) + 1e6 * amount)
    return np.array(rows)


def main():
    runs = [(case, HDLM2, 2e6, events, LONG) for case, events in IN_HDLM2.items()]
    for case, alpha in IN_RAJI.items():
        p = tuple(alpha if x is None else x for x in RAJI)
        runs.append((case, p, 3e6, [(7, "C", 10.0, False)], SHORT))
    with (Path(__file__).parent / "barros2021.csv").open("w", newline="") as file:
        write = csv.writer(file, lineterminator="\n")
        write.writerow(["case", "time", "C", "M", "T"])
        for case, p, inoculated, events, days in runs:
            for day, row in zip(days, trajectory(p, inoculated, events, days), strict=True):
                write.writerow([case, f"{day:g}", *(f"{x:.12g}" for x in row)])


if __name__ == "__main__":
    main()
