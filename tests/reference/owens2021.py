"""Write `owens2021.csv`: trajectories of Owens & Bozic 2021 from SciPy, independent of carpk.

The equations in plain NumPy for ln T, ln E, ln C and M, without any floor for T and C: a tumor that
dies goes on falling. Two cases for each of the four patients, five pulses and 1e7 CAR-T cells two
days later at the medium burden, with the numbers behind the figures ("run") and with the printed
ones; and the two panels of Figure 6 with 2.5e8 cells. LSODA at rtol 1e-12, from one event to the
next. C is absent until it is given. Never run by the test suite, which reads the CSV. Run it in
this folder:

    python owens2021.py
"""

import csv
from pathlib import Path

import numpy as np
from scipy.integrate import solve_ivp

NAMES = ["a", "1/b", "dE", "g", "jE", "jC", "K", "k", "l", "mE", "qE", "qC", "s"]
PATIENTS = {
    "1": [0.255, 2e12, 2.03, 1.4e3, 0.011, 0.242, 1.65e9, 2.019e5, 1.395, 0.007, 3.42e-11, 3e-11],
    "2": [0.176, 2e12, 2.03, 4.7e4, 0.00746, 0.165, 1.65e9, 7e7, 1.419, 0.034, 6.716e-11, 3e-11],
    "3": [0.514, 9.804e8, 5.8, 1.3e4, 0.027, 0.6, 1.65e8, 2e7, 1.36, 0.02, 3.42e-10, 1.53e-9],
    "4": [0.514, 9.804e8, 4.23, 1.3e4, 0.027, 0.6, 1.65e8, 2e7, 1.43, 0.02, 3.42e-10, 1.53e-9],
}
for number, s in {"1": 0.305, "2": 0.305, "3": 0.25, "4": 0.36}.items():
    PATIENTS[number].append(s)
DC, KT, KEC, GAMMA, E0, PULSES, STRENGTH = 2.25, 0.7, 0.6, 0.9, 4e5, 5, 77.0
RUN, PRINTED = (0.293, 1 / 24), (0.0293, 1 / 48)  # mC, days per pulse
CASES = {  # patient, mC and pulse, tumor, effective cells, rest
    **{f"{n} run": (n, *RUN, 5e9 if n in "12" else 5e8, 1e5, 2) for n in PATIENTS},
    **{f"{n} printed": (n, *PRINTED, 5e9 if n in "12" else 5e8, 1e5, 2) for n in PATIENTS},
    "figure 6, 3 days": ("2", *RUN, 1e10, 2.5e6, 3),
    "figure 6, 4 days": ("2", *RUN, 1e10, 2.5e6, 4),
}
BEFORE = [0.1, 0.5, 1, 1.5, 2, 3, 3.5, 4, 4.5, 5, 6]
DAYS = np.array([*BEFORE, 6.5, 7.5, 8.5, 9.5, 11, 13, 15, 17, 19, 21, 24, 27, 30, 40, 60, 90, 150])


def slopes(t, u, p, loss, given):
    tumor, own, car, drug = np.exp(u[0]), np.exp(u[1]), given * np.exp(u[2]), u[3]
    share_e = 1 / (1 + p["s"] * np.exp(p["l"] * (u[0] - u[1])))
    share_c = given / (1 + p["s"] * np.exp(np.minimum(p["l"] * (u[0] - u[2]), 700)))
    room, effect = np.log((own + car) / p["K"]), 1 - np.exp(-drug)
    met_e, met_c = (p["dE"] * share_e * tumor) ** 2, (DC * share_c * tumor) ** 2
    divide_e = -p["jE"] * room * met_e / (p["k"] + met_e)
    divide_c = -p["jC"] * room * met_c / (p["k"] + met_c)
    return [
        p["a"] * (1 - tumor / p["1/b"]) - p["dE"] * share_e - DC * share_c - KT * effect,
        p["g"] / own - p["mE"] + divide_e - p["qE"] * tumor - KEC * effect,
        given * (divide_c - loss - p["qC"] * tumor - KEC * effect),
        -GAMMA * drug,
    ]


def trajectory(patient, loss, pulse, tumor, dose, rest):
    """States at DAYS, (time, 4); what an event adds is seen after its time."""
    p = dict(zip(NAMES, PATIENTS[patient], strict=True))
    infusion = PULSES - 1 + rest
    u, rows, given = np.array([np.log(tumor), np.log(E0), 0.0, 0.0]), [], 0
    for begin in sorted({*range(PULSES), infusion}):
        if begin < PULSES:
            u[3] += STRENGTH * pulse
        if begin == infusion:
            u[2], given = np.log(dose), 1
        end = infusion if begin == PULSES - 1 else begin + 1 if begin < PULSES else DAYS[-1]
        seen = DAYS[(begin < DAYS) & (end >= DAYS)]
        sol = solve_ivp(
            slopes,
            (begin, end),
            u,
            method="LSODA",
            rtol=1e-12,
            atol=[1e-12, 1e-12, 1e-12, 1e-30],
            t_eval=np.union1d(seen, end),
            args=(p, loss, given),
        )
        assert sol.success
        rows += [
            [np.exp(y[0]), np.exp(y[1]), given * np.exp(y[2]), y[3]]
            for t, y in zip(sol.t, sol.y.T, strict=True)
            if t in seen
        ]
        u = sol.y[:, -1]
    return np.array(rows)


def main():
    with (Path(__file__).parent / "owens2021.csv").open("w", newline="") as file:
        write = csv.writer(file, lineterminator="\n")
        write.writerow(["case", "time", "T", "E", "C", "M"])
        for case, settings in CASES.items():
            for day, row in zip(DAYS, trajectory(*settings), strict=True):
                write.writerow([case, f"{day:g}", *(f"{x:.12g}" for x in row)])


if __name__ == "__main__":
    main()
