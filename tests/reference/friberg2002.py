"""Write `friberg2002.csv`: blood counts after chemotherapy from SciPy, independent of carpk.

Five compartments, integrated as logarithms, and the drug in two, in plain NumPy, in hours and µmol
as the sources have them. "docetaxel": the typical man with 180 mg in one hour every three weeks;
"patient": the woman that comes with DDMODEL00000224 with the same; "paclitaxel": leukocytes, 410
µmol in three hours, once. DOP853 at rtol 1e-12, from one event to the next. Never run by the
test suite, which reads the CSV. Run it in this folder:

    python friberg2002.py
"""

import csv
from pathlib import Path

import numpy as np
from scipy.integrate import solve_ivp

DAYS = np.array([0.02, 0.05, 0.125, 0.5, 1, 2, 3, 5, 6, 7, 8, 9, 10, 12, 14, 17, 20, 21, 22, 25])
DAYS = np.append(DAYS, [28, 30, 35, 42, 45, 50, 55, 63, 70, 72, 75, 84, 100, 120, 150])
BASELINE = 5.22 * 0.879 * 1.13 * 0.853 * (1 + 0.495 * 1.2)  # AAG 2.54 g/L

# baseline, MTT [h], gamma, slope [L/µmol], CL, Vc, Q, Vp [L/h, L], dose [µmol], hours, days given
CASES = {
    "docetaxel": (
        *(5.22, 84.2, 0.145, 15.6, 32.6, 5.77, 5.34, 11.0),
        *(180 / 0.808, 1.0, [0, 21, 42, 63]),
    ),
    "patient": (
        *(BASELINE, 84.2, 0.145, 15.6 * (1 - 0.351 * 1.2), 32.6, 5.77, 5.34, 11.0),
        *(180 / 0.808, 1.0, [0, 21, 42, 63]),
    ),
    "paclitaxel": (7.21, 124.0, 0.239, 28.9, 285.0, 290.0, 204.0, 1000.0, 410.0, 3.0, [0]),
}


def trajectory(start, mtt, gamma, slope, cl, vc, q, vp, dose, hours, given):
    """Prol, three stages, Circ [1e9/L] and the drug [µmol/L] at DAYS, (time, 6)."""
    k = 4 / mtt

    def slopes(t, y, rate):
        prol, one, two, three, circ = y[:5]
        central, peripheral = y[5] / vc, y[6] / vp
        division = (1 - slope * central) * np.exp(gamma * (np.log(start) - circ))
        exchange = q * (central - peripheral)
        return np.array(
            [
                k * (division - 1),
                k * (np.exp(prol - one) - 1),
                k * (np.exp(one - two) - 1),
                k * (np.exp(two - three) - 1),
                k * (np.exp(three - circ) - 1),
                rate - cl * central - exchange,
                exchange,
            ]
        )

    times, doses = 24 * DAYS, 24.0 * np.array(given)
    y, begin, rows = np.append(np.full(5, np.log(start)), [0.0, 0.0]), 0.0, []
    for end in np.unique([*doses[1:], *(doses + hours), times[-1]]):
        running = any(d <= begin < d + hours for d in doses)
        seen = times[(begin < times) & (end >= times)]
        sol = solve_ivp(
            slopes,
            (begin, end),
            y,
            method="DOP853",
            rtol=1e-12,
            atol=1e-13,
            t_eval=np.union1d(seen, end),
            args=(dose / hours if running else 0.0,),
        )
        assert sol.success
        for t, y in zip(sol.t, sol.y.T, strict=True):
            if t in seen:
                rows.append([*np.exp(y[:5]), y[5] / vc])
        y, begin = sol.y[:, -1], end
    return np.array(rows)


def main():
    with (Path(__file__).parent / "friberg2002.csv").open("w", newline="") as file:
        write = csv.writer(file, lineterminator="\n")
        write.writerow(["case", "time", "Prol", "T1", "T2", "T3", "Circ", "drug"])
        for case, settings in CASES.items():
            for day, row in zip(DAYS, trajectory(*settings), strict=True):
                write.writerow([case, f"{day:g}", *(f"{x:.12g}" for x in row)])


if __name__ == "__main__":
    main()
