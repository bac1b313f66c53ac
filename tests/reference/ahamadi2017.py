"""Write `ahamadi2017.csv`: pembrolizumab of Ahamadi 2017 from SciPy, independent of carpk.

Amounts [mg] in two compartments and the integral of the concentration, in plain NumPy; eight
infusions of half an hour, three weeks apart. "reference" is the reference patient with 200 mg,
"patient" a woman with every covariate off its reference and random effects, with 2 mg/kg. DOP853 at
rtol 1e-12, from one event to the next. Never run by the test suite, which reads the CSV. Run it in
this folder:

    python ahamadi2017.py
"""

import csv
from pathlib import Path

import numpy as np
from scipy.integrate import solve_ivp

LENGTH, GIVEN = 0.5 / 24, np.arange(8) * 21.0
DAYS = np.array([0.01, 0.1, 0.5, 1, 2, 4, 7, 10, 14, 21, 21.5, 28, 42, 42.01, 45, 60, 63, 70, 84])
DAYS = np.append(DAYS, [100, 126, 147, 147.02, 150, 160, 168, 190, 220, 260, 300, 365])


def macro(wt, alb, sld, egfr, female, nsclc, ecog, ipi, f_cl, f_v):
    """CL, Vc, Q, Vp [L/day, L] of a patient."""
    cl = 0.22 * (wt / 76.8) ** 0.595 / (alb / 39.6) ** 0.907 * (sld / 89.6) ** 0.0872
    cl *= (egfr / 88.47) ** 0.135 * (0.848 if female else 1) * (1.145 if nsclc else 1)
    cl *= (0.9261 if ecog else 1) * (1.14 if ipi else 1) * f_cl
    vc = 3.48 * (wt / 76.8) ** 0.489 / (alb / 39.6) ** 0.208
    vc *= (0.866 if female else 1) * (1.0736 if ipi else 1) * f_v
    return cl, vc, 0.795 * (wt / 76.8) ** 0.595 * f_cl, 4.06 * (wt / 76.8) ** 0.489 * f_v


CASES = {
    "reference": (200.0, macro(76.8, 39.6, 89.6, 88.47, 0, 0, 0, 0, 1, 1)),
    "patient": (110.0, macro(55, 30, 200, 60, 1, 1, 1, 1, 1.4, 0.8)),
}


def trajectory(dose, constants):
    """Concentration and its integral at DAYS, (time, 2)."""
    cl, vc, q, vp = constants

    def slopes(t, y, rate):
        central, peripheral = y[0] / vc, y[1] / vp
        exchange = q * (central - peripheral)
        return np.array([rate - cl * central - exchange, exchange, central])

    y, begin, rows = np.zeros(3), 0.0, []
    for end in np.unique([*GIVEN[1:], *(GIVEN + LENGTH), DAYS[-1]]):
        running = any(g <= begin < g + LENGTH for g in GIVEN)
        seen = DAYS[(begin < DAYS) & (end >= DAYS)]
        sol = solve_ivp(
            slopes,
            (begin, end),
            y,
            method="DOP853",
            rtol=1e-12,
            atol=1e-12,
            t_eval=np.union1d(seen, end),
            args=(dose / LENGTH if running else 0.0,),
        )
        assert sol.success
        rows += [(y[0] / vc, y[2]) for t, y in zip(sol.t, sol.y.T, strict=True) if t in seen]
        y, begin = sol.y[:, -1], end
    return np.array(rows)


def main():
    with (Path(__file__).parent / "ahamadi2017.csv").open("w", newline="") as file:
        write = csv.writer(file, lineterminator="\n")
        write.writerow(["case", "time", "pembrolizumab", "auc"])
        for case, settings in CASES.items():
            for day, row in zip(DAYS, trajectory(*settings), strict=True):
                write.writerow([case, f"{day:g}", *(f"{x:.12g}" for x in row)])


if __name__ == "__main__":
    main()
