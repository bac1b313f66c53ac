"""Write `cyclophosphamide.csv`: cyclophosphamide and its induction from SciPy, without carpk.

Amount in the body [mg], enzyme, and both integrals, in plain NumPy; three doses on days 0, 1 and 2.
The six cases are the presets: "house" with a patient of 50 kg and 725 mg over an hour, "ahmed2020"
with one of 1.8 m² on the regimen with fluorouracil and 900 mg over half an hour. DOP853 at rtol
1e-12, from one event to the next. Never run by the test suite, which reads the CSV. Run it in this
folder:

    python cyclophosphamide.py
"""

import csv
from pathlib import Path

import numpy as np
from scipy.integrate import solve_ivp

GIVEN = np.array([0.0, 24.0, 48.0])  # hours
DAYS = [0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.4, 0.7, 1, 1.01, 1.03, 1.1, 1.3, 1.6, 2, 2.01, 2.02]
DAYS = np.array([*DAYS, 2.05, 2.1, 2.2, 2.4, 2.7, 3, 3.3, 3.6, 4, 5, 7, 10])
PATIENTS = {  # clearance [L/h], volume [L], mg, hours
    "house": (5.4 * (50 / 70) ** 0.75, 33 * 50 / 70, 725.0, 1.0),
    "ahmed2020": (5.41 * (1 - 0.323), 46.5 * (1 - 0.371) * (1.8 / 1.58) ** 0.861, 900.0, 0.5),
}
LARGEST_GAIN = {"on": 0.5, "strong": 1.33, "off": 0.0}


def trajectory(clearance, volume, dose, hours, gain):
    """Amount, enzyme and integrals at DAYS, (time, 4)."""

    def slopes(t, y, rate):  # per hour
        level, enzyme = y[0] / volume, y[1]
        lost = clearance * (0.2 + 0.8 * enzyme) * level
        rise = 0.0223 * (1 + gain * level / (level + 10) - enzyme)
        return np.array([rate - lost, rise, level, 0.055 * level * enzyme])

    hour = 24 * DAYS
    y, begin, rows = np.array([0.0, 1.0, 0.0, 0.0]), 0.0, []
    for end in np.unique([*GIVEN[1:], *(GIVEN + hours), hour[-1]]):
        running = np.any((begin >= GIVEN) & (begin < GIVEN + hours))
        seen = hour[(begin < hour) & (end >= hour)]
        sol = solve_ivp(
            slopes,
            (begin, end),
            y,
            method="DOP853",
            rtol=1e-12,
            atol=1e-14,
            t_eval=np.union1d(seen, end),
            args=(dose / hours if running else 0.0,),
        )
        assert sol.success
        rows += [y for t, y in zip(sol.t, sol.y.T, strict=True) if t in seen]
        y, begin = sol.y[:, -1], end
    return np.array(rows)


def main():
    with (Path(__file__).parent / "cyclophosphamide.csv").open("w", newline="") as file:
        write = csv.writer(file, lineterminator="\n")
        write.writerow(["case", "time", "Y", "z", "auc", "auc4oh"])
        for values, patient in PATIENTS.items():
            for induction, gain in LARGEST_GAIN.items():
                for day, row in zip(DAYS, trajectory(*patient, gain), strict=True):
                    case = f"{values}-{induction}"
                    write.writerow([case, f"{day:g}", *(f"{x:.12g}" for x in row)])


if __name__ == "__main__":
    main()
