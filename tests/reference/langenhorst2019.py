"""Write `langenhorst2019.csv`: F-ara-A of Langenhorst 2019 from SciPy, independent of carpk.

Amounts [mg] in three compartments and the integral of the concentration, in plain NumPy. "adult"
is the reference patient, 70 kg and eGFR 120, with 72 mg of the phosphate on days -5 to -2 over an
hour; "child" one of 14 kg, eGFR 140, with random effects, and 18 mg on days -5 to -3 over half an
hour. DOP853 at rtol 1e-12, from one event to the next. Never run by the test suite, which reads the
CSV. Run it in this folder:

    python langenhorst2019.py
"""

import csv
from pathlib import Path

import numpy as np
from scipy.integrate import solve_ivp

DAYS = [-4.98, -4.95, -4.9, -4.7, -4.5, -4.2, -4, -3.98, -3.8, -3.5, -3, -2.97, -2.8, -2.5, -2]
DAYS = np.array([*DAYS, -1.97, -1.9, -1.7, -1.5, -1, -0.5, 0, 1, 2, 3, 4, 5, 7, 10])


def macro(weight, egfr, f_cl, f_v):
    """Flows [L/h] out of the body, to V2 and to V3, and the three volumes [L]."""
    scale = (weight / 70) ** 0.75 * f_cl
    flows = np.array([3.2 + 0.78 * egfr * 60 / 1000, 8.6, 3.8]) * scale
    return flows, np.array([39.0, 20.0, 50.0]) * weight / 70 * f_v


CASES = {  # mg of phosphate, hours, days of the doses, patient, last day
    "adult": (72.0, 1.0, [-5, -4, -3, -2], macro(70, 120, 1, 1), 10),
    "child": (18.0, 0.5, [-5, -4, -3], macro(14, 140, 1.3, 0.6), 0),
}


def trajectory(dose, hours, given, patient, last):
    """Hour, concentration [mg/L] and its integral [mg h/L] at DAYS up to the last, (time, 3)."""
    (out, to2, to3), volumes = patient

    def slopes(t, y, rate):  # per hour
        c1, c2, c3 = y[:3] / volumes
        second, third = to2 * (c1 - c2), to3 * (c1 - c3)
        return np.array([rate - out * c1 - second - third, second, third, c1])

    hour = 24 * DAYS[last >= DAYS]
    starts = 24.0 * np.array(given)
    y, begin, rows = np.zeros(4), starts[0], []
    for end in np.unique([*starts[1:], *(starts + hours), hour[-1]]):
        running = np.any((starts <= begin) & (begin < starts + hours))
        seen = hour[(begin < hour) & (end >= hour)]
        sol = solve_ivp(
            slopes,
            (begin, end),
            y,
            method="DOP853",
            rtol=1e-12,
            atol=1e-16,
            t_eval=np.union1d(seen, end),
            args=(0.781 * dose / hours if running else 0.0,),
        )
        assert sol.success
        rows += [
            (t, y[0] / volumes[0], y[3]) for t, y in zip(sol.t, sol.y.T, strict=True) if t in seen
        ]
        y, begin = sol.y[:, -1], end
    return np.array(rows)


def main():
    with (Path(__file__).parent / "langenhorst2019.csv").open("w", newline="") as file:
        write = csv.writer(file, lineterminator="\n")
        write.writerow(["case", "time", "flu", "auc"])
        for case, settings in CASES.items():
            for hour, *row in trajectory(*settings):
                write.writerow([case, f"{hour / 24:g}", *(f"{x:.12g}" for x in row)])


if __name__ == "__main__":
    main()
