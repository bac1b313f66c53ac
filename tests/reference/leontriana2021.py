"""Write `leontriana2021.csv`: trajectories of León-Triana 2021 from SciPy, independent of carpk.

The rate laws and numbers of BIOMD0000001013 ("single") and BIOMD0000001014 ("dual") in plain NumPy.
"figure" and "article" are the latter with the alpha_1 of its note and of the article; "suppressed"
is the former with the cells and the tumor of the latter and alpha_1 = 0.183. For the logarithms of
all states; in the tumor of "dual" a thousandth of a cell stands for none at the infusion. LSODA at
rtol 1e-12. Never run by the test suite, which reads the CSV. Run it in this folder:

    python leontriana2021.py
"""

import csv
from pathlib import Path

import numpy as np
from scipy.integrate import solve_ivp

RHO_C, G_T, G_C, TAO_C, RHO_T, ALPHA_2 = 0.9, 1e10, 2e9, 7.0, 0.02, 2.5e-10
RHO_C_BAR, G_B, K, ALPHA_B, TAO_B = 0.9, 1e10, 0.2, 4.5e-11, 60.0
EARLY = [0.1, 0.5, 1, 2, 3, 4, 5, 7, 9, 11, 13, 15, 17, 19, 21, 25, 28, 32, 36, 40, 45, 50, 54]
DAYS = np.array([*EARLY, 60, 75, 90, 120, 150, 200, 250, 300, 365])
NONE = 1e-3  # cells


def slopes(t, u, alpha_1):
    c, tumor = np.exp(u[0]), np.exp(u[1])
    grow = RHO_C * tumor / (G_T + tumor) - alpha_1 * tumor / (G_C + c) - 1 / TAO_C
    out = [grow, RHO_T - ALPHA_2 * c]
    if u.size == 4:
        c_bar, b = np.exp(u[2]), np.exp(u[3])
        out[0] += K * c_bar / c
        out += [RHO_C_BAR * b / (G_B + b) - 1 / TAO_C - K, -ALPHA_B * c_bar - 1 / TAO_B]
    return np.array(out)


CASES = {  # alpha_1; C, T, and Cb, B at the infusion
    "single": (0.04, [4e8, 6.7e9]),
    "suppressed": (0.183, [2e8, 3.35e10]),
    "dual": (0.02, [NONE, 3.35e10, 2e8, 2.5e10]),
    "figure": (0.183, [NONE, 3.35e10, 2e8, 2.5e10]),
    "article": (0.2, [NONE, 3.35e10, 2e8, 2.5e10]),
}


def main():
    with (Path(__file__).parent / "leontriana2021.csv").open("w", newline="") as file:
        write = csv.writer(file, lineterminator="\n")
        write.writerow(["case", "time", "C", "T", "Cb", "B"])
        for case, (alpha_1, start) in CASES.items():
            sol = solve_ivp(
                slopes,
                (0, DAYS[-1]),
                np.log(start),
                method="LSODA",
                rtol=1e-12,
                atol=1e-12,
                t_eval=DAYS,
                args=(alpha_1,),
            )
            assert sol.success
            for day, row in zip(DAYS, np.exp(sol.y.T), strict=True):
                blank = [""] * (4 - row.size)
                write.writerow([case, f"{day:g}", *(f"{x:.12g}" for x in row), *blank])


if __name__ == "__main__":
    main()
