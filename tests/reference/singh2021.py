"""Write `singh2021.csv`: trajectories of Singh 2021 from SciPy, independent of carpk.

The equations in plain NumPy with the numbers of the authors' Monolix code (nlmixr2lib,
Singh_2021_idecabtageneVicleucel_human), 450 million cells on day 0. Radau at rtol 1e-10, ln T in
place of T. Never run by the test suite, which reads the CSV. Run it in this folder:

    python singh2021.py
"""

import csv
from pathlib import Path

import numpy as np
from scipy.integrate import solve_ivp

K12, K21, KEL_E, KEL_M, RM = 1.71, 0.176, 113.0, 0.219, 2e-5
KEXP, EC50, KKILL, KC50, KG = 1.73, 10.0, 0.343, 2.24, 0.008
KON = 7.103e4 * 86400 / 6.023e23  # per day and receptor per L
KOFF = 2.385e-3 * 86400  # per day
CARS, ANTIGENS, TRANSC = 15_000.0, 12_590.0, 0.002
VB, VBM, T0 = 5.0, 3.65, 2.5e9
PM, KM, GM = 12.1e-12 * T0, 0.117, 0.215
PB, KB, GB = 0.175e-6 * T0, 0.7, 1.0
DOSE = 450e6
HALF_DAYS = [11.5, 12.5, 13.5, 14.2, 14.5, 15.5, 16.5]  # around the peak
DAYS = np.sort([0.01, 0.1, 0.5, *range(1, 29), *HALF_DAYS, 42, 60, 70, 80, 90, 180, 365])
NAMES = ["Eb", "Mb", "Et", "Mt", "T", "Mp", "Sb", "X"]


def balanced(cars, antigens):
    s = cars + antigens + KOFF / KON
    return 2 * cars * antigens / (s + np.sqrt(s * s - 4 * cars * antigens))


def slopes(t, y):
    """y without its last entry has complexes in balance."""
    eb, mb, et, mt, log_t, mp, sb = y[:7]
    tumor = np.exp(log_t)
    car_t = (et + mt) / VBM
    cars, antigens = car_t * CARS, tumor * ANTIGENS
    x = y[7] if len(y) > 7 else balanced(cars, antigens)
    expansion = KEXP * (x / car_t) / (EC50 + x / car_t)
    killing = KKILL * (x / tumor) / (KC50 + x / tumor)
    out = [
        -K12 * eb + K21 * et - KEL_E * eb,
        -K12 * mb + K21 * mt - KEL_M * mb,
        K12 * eb - K21 * et + expansion * et - RM * et,
        K12 * mb - K21 * mt + RM * et,
        KG - killing,
        PM * (tumor / T0) ** GM - KM * mp,
        PB * (tumor / T0) ** GB - KB * sb,
        KON * (cars - x) * (antigens - x) - KOFF * x,
    ]
    return np.array(out[: len(y)])


def main():
    start = [DOSE, 0.0, 1e-6 * VBM, 0.0, np.log(T0), PM / KM, PB / KB, 0.0]
    atol = np.array([1e-9, 1e-9, 1e-9, 1e-9, 1e-11, 1e-15, 1e-12, 1e-3])
    with (Path(__file__).parent / "singh2021.csv").open("w", newline="") as file:
        write = csv.writer(file, lineterminator="\n")
        write.writerow(["case", "time", *NAMES])
        for case, size in {"qss": 7, "full": 8}.items():
            sol = solve_ivp(
                slopes,
                (0, DAYS[-1]),
                start[:size],
                method="Radau",
                rtol=1e-10,
                atol=atol[:size],
                t_eval=DAYS,
            )
            assert sol.success
            y = sol.y.copy()
            y[4] = np.exp(y[4])
            for day, row in zip(DAYS, y.T, strict=True):
                write.writerow([case, f"{day:g}", *(f"{x:.12g}" for x in row)])


if __name__ == "__main__":
    main()
