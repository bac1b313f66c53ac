"""Write `varela2025.csv`: F-ara-A of Varela 2025 from SciPy, independent of carpk.

Amounts [mg] in three compartments and the integral of the concentration, in plain NumPy; three
doses on days -5 to -3 over half an hour. "axi-cel" is the reference patient, 70 kg and CRCL 96,
with 54 mg of the phosphate; "tisa-cel" one of 90 kg, CRCL 50, with random effects, and 40 mg.
DOP853 at rtol 1e-12, from one event to the next. Never run by the test suite, which reads the CSV.
Run it in this folder:

    python varela2025.py
"""

import csv
from pathlib import Path

import numpy as np
from scipy.integrate import solve_ivp

DAYS = [-4.99, -4.98, -4.97, -4.95, -4.9, -4.8, -4.6, -4.3, -4, -3.98, -3.9, -3.7, -3.4, -3, -2.98]
DAYS = np.array([*DAYS, -2.96, -2.9, -2.7, -2.4, -2, -1.5, -1, -0.5, 0, 1, 2, 3, 4, 5])
HOURS, GIVEN = 0.5, 24.0 * np.array([-5, -4, -3])


def macro(nonrenal, weight, crcl, f_cl, f_v1):
    """Flows [L/h] out of the body, to V2 and to V3, and the three volumes [L]."""
    flows = np.array([(nonrenal + 1.7 * crcl / 96) * f_cl, 4.8, 3.6]) * (weight / 70) ** 0.75
    return flows, np.array([41.2 * f_v1, 14.5, 10.8]) * weight / 70


CASES = {  # mg of phosphate, patient
    "axi-cel": (54.0, macro(4.4, 70, 96, 1, 1)),
    "tisa-cel": (40.0, macro(3.9, 90, 50, 0.8, 1.25)),
}


def trajectory(dose, patient):
    """Concentration [mg/L] and its integral [mg h/L] at DAYS, (time, 2)."""
    (out, to2, to3), volumes = patient

    def slopes(t, y, rate):  # per hour
        c1, c2, c3 = y[:3] / volumes
        second, third = to2 * (c1 - c2), to3 * (c1 - c3)
        return np.array([rate - out * c1 - second - third, second, third, c1])

    hour = 24 * DAYS
    y, begin, rows = np.zeros(4), GIVEN[0], []
    for end in np.unique([*GIVEN[1:], *(GIVEN + HOURS), hour[-1]]):
        running = np.any((begin >= GIVEN) & (begin < GIVEN + HOURS))
        seen = hour[(begin < hour) & (end >= hour)]
        sol = solve_ivp(
            slopes,
            (begin, end),
            y,
            method="DOP853",
            rtol=1e-12,
            atol=1e-16,
            t_eval=np.union1d(seen, end),
            args=(0.781 * dose / HOURS if running else 0.0,),
        )
        assert sol.success
        rows += [
            (y[0] / volumes[0], y[3]) for t, y in zip(sol.t, sol.y.T, strict=True) if t in seen
        ]
        y, begin = sol.y[:, -1], end
    return np.array(rows)


def main():
    with (Path(__file__).parent / "varela2025.csv").open("w", newline="") as file:
        write = csv.writer(file, lineterminator="\n")
        write.writerow(["case", "time", "flu", "auc"])
        for case, settings in CASES.items():
            for day, row in zip(DAYS, trajectory(*settings), strict=True):
                write.writerow([case, f"{day:g}", *(f"{x:.12g}" for x in row)])


if __name__ == "__main__":
    main()
