"""The niche models in SciPy, with every switch, independent of carpk: see `niche.py`.

Every compartment is a state here, drugs included, by name in a dict of slopes. Tumor, normal T
cells, donor cells and myeloid cells are integrated as logs. Patient of 50 kg, 1.45 m², eGFR 120.
DOP853 at rtol 1e-11, from one dose to the next.
"""

import csv
from pathlib import Path

import numpy as np
from scipy.integrate import solve_ivp

SCALE = 50 / 70
CL = (3.2 + 0.78 * 120 * 60 / 1000) * SCALE**0.75  # L/h, as the other flows
Q2, Q3, CLY = 8.6 * SCALE**0.75, 3.8 * SCALE**0.75, 5.4 * SCALE**0.75
V1, V2, V3, VY = 39 * SCALE, 20 * SCALE, 50 * SCALE, 33 * SCALE
SHARED = dict(
    **dict(keF=np.log(2) / 1.0, keC=np.log(2) / 0.5, MR=0.055, KN=500, N0=500, sN=0.02, g=0.02),
    **dict(Bmax=3000, kB=4, B0=100, kF=0.14, kC=0.15),
    **dict(Circ0=5.22, MTT=84.2, gamma=0.145, sF=1.5, sC=3.0),
    **dict(rJ=0.5, eJ=1, CJ=1, dJ=0.02, j0=1e-4, kJ=1, kEX=0.1, dX=0.1, eps=0.8, kres=0.05, Kd=0.1),
    **dict(mu1=1e-5, mu2=1e-5, turnover=0.5),
    **dict(gT=1, f7=0.95, kT=4, kMy=0.8, phiM=0.5, rD=0.12, KD=4000, sM=0.02, fratricide=0),
)
SMALL = SHARED | dict(
    **dict(rN=0.165, th=0, VC=419, kact=0.54, rho=1.35, LH=170, B50=11.2, dE=0.155, kEM=0.0022),
    **dict(dM=0.0035, gB=0.48, SA0=0, S0=1, tau=1, phiC=1, dP=0, fM=0, aME=0, kz=0, Imax=0),
)
FULL = SHARED | dict(
    **dict(rN=0.17, th=0, VC=500 * SCALE, kact=0.6, rho=2.0, B50=10, dE=0.16, kEM=0.002, dM=0.003),
    **dict(gB=0.5, SA0=0, S0=0.75, tau=1, phiC=1, dP=0.2, fM=0.05, aME=0.03, kz=0.0223 * 24),
    **dict(Imax=0.5, C50z=10, kap=9, kH=1, H50=3, nH=2),
)
ANTIBODIES = {  # clearance, exchange [L/day], volumes [L]: Ahamadi 2017; Hu 2024 at 2/3 lean mass
    "pembrolizumab": (
        *(0.22 * (50 / 76.8) ** 0.595 * (120 / 88.47) ** 0.135, 0.795 * (50 / 76.8) ** 0.595),
        *(3.48 * (50 / 76.8) ** 0.489, 4.06 * (50 / 76.8) ** 0.489),
    ),
    "nivolumab": (
        *(
            9.66 * 0.024 * (50 / 75) ** 0.63 * (120 / 90) ** 0.0982,
            35.9 * 0.024 * (50 / 75) ** 0.63,
        ),
        *(4.01 * (50 / 75) ** 0.932, 2.77 * (50 / 75) ** 0.932),
    ),
}

FLU3 = [(d, "F1", 0.781 * 30 * 1.45) for d in (-5, -4, -3)]
FLU5 = [(d, "F1", 0.781 * 25 * 1.45) for d in (-6, -5, -4, -3, -2)]
CY3 = [(d, "Y", 500 * 1.45) for d in (-5, -4, -3)]
CY2 = [(d, "Y", 30 * 50.0) for d in (-8, -7)]
CELLS = [(0, "P", 1e8 * 1.45)]  # divided by VC below
FLU_CY = FLU3 + CY3 + CELLS


def later(events, days):
    return [(day + days, *rest) for day, *rest in events]


THRICE = CELLS + later(CELLS, 42) + later(CELLS, 84)
REGIMENS = {
    "Flu/Cy 30/500": FLU_CY,
    "Flu/Cy 30/300": FLU3 + [(d, "Y", 300 * 1.45) for d in (-5, -4, -3)] + CELLS,
    "Flu 25 x5 + Cy 1500 x2": FLU5 + CY2 + CELLS,
    "HEROS Flu/Cy": later(FLU5, -1) + later(CY2, 1) + CELLS,
    "HEROS Flu": later(FLU5, -1) + CELLS,
    "Flu 25 x5": FLU5 + CELLS,
    "Flu 30 x3": FLU3 + CELLS,
    "Cy 500 x3": CY3 + CELLS,
    "Flu 25 x3 + Cy 60/kg": [(d, "F1", 0.781 * 25 * 1.45) for d in (-5, -4, -3)]
    + [(-6, "Y", 3000.0), *CELLS],
    "none": CELLS,
    "three infusions, Flu/Cy before the first": FLU3 + CY3 + THRICE,
    "three infusions, Flu/Cy before each": [e for s in (0, 42, 84) for e in later(FLU_CY, s)],
    "three infusions, Flu before each": [e for s in (0, 42, 84) for e in later(FLU3 + CELLS, s)],
}
SWITCHES = {  # options of the model, further events, other values
    "immunity": (THRICE[1:], {}),
    "exhaustion": ([], {}),
    "pembrolizumab": ([(14 + 21 * k, "A1", 200.0) for k in range(4)], {}),
    "nivolumab": ([(14 + 14 * k, "A1", 150.0) for k in range(6)], {}),
    "two": ([(28, "P_2", 1e8 * 1.45)], {}),
    "two, exhaustion, immunity": ([(28, "P_2", 1e8 * 1.45)], {}),
    "graft": ([(30, "graft", 1e8)], {}),
    "graft, fratricide": ([(30, "graft", 1e8)], {"fratricide": 0.3}),
    "cure": ([], {}),
}
EARLY = [-9, -7.4, -6.6, -5.5, -4.5, -3.4, -2.5, -1.5, -0.5, 0.3, 1, 2, 3, 5, 7, 9, 10.5, 12]
LATE = [14, 17, 21, 28, 36.5, 38.5, 40, 43, 46, 52, 60, 78, 83, 86, 90, 120, 180, 270, 365]
DAYS = np.array([*EARLY, *LATE])
LOGS = {"N", "B", "Bpp", "Nd", "Hm", "D", "w", "J", "J_2", "Prol", "T1", "T2", "T3", "Circ"}
NOTHING = 1e-30  # of donor cells before a graft


def slopes(full, switch, p, y):
    """Slopes of all states, dict to dict."""
    d = {}
    two, graft = "two" in switch, "graft" in switch
    worn = "exhaustion" in switch or switch in ANTIBODIES
    f1, f2, f3, conc = y["F1"] / V1, y["F2"] / V2, y["F3"] / V3, y["Y"] / VY
    d["F1"] = 24 * (-CL * f1 - Q2 * (f1 - f2) - Q3 * (f1 - f3))
    d["F2"], d["F3"] = 24 * Q2 * (f1 - f2), 24 * Q3 * (f1 - f3)
    z = y["z"] if full else 1.0
    d["Y"] = -24 * CLY * (0.2 + 0.8 * z) * conc
    if full:
        d["z"] = p["kz"] * (1 + p["Imax"] * conc / (conc + p["C50z"]) - z)
    d["Fe"] = p["keF"] * (f1 - y["Fe"])
    d["Ce"] = p["keC"] * (p["MR"] * conc * z - y["Ce"])
    d["AUCF"], d["AUCC"] = 24 * f1, 24 * p["MR"] * conc * z
    kill = 24 * (p["kF"] * y["Fe"] + p["kC"] * y["Ce"])
    own = ["P", "E", "M"] + ["X"] * worn
    suffixes = ["", "_2"] if two else [""]
    total = y["N"] + sum(y[n + s] for n in own for s in suffixes) + (y["Nd"] if graft else 0)
    full_at = total / p["KN"]
    room = -np.log(full_at) if p["th"] == 0 else (1 - full_at ** p["th"]) / p["th"]
    d["N"] = p["sN"] + (p["rN"] * room - kill) * y["N"]
    if full:
        d["H"] = p["kH"] * ((1 + p["kap"]) / (1 + p["kap"] * full_at) - y["H"])
        open_to = y["H"] ** p["nH"] / (y["H"] ** p["nH"] + p["H50"] ** p["nH"])
    else:
        open_to = 1 / (1 + (total / p["LH"]) ** 2)
    bound = 0.0
    if switch in ANTIBODIES:
        clear, exchange, v1, v2 = ANTIBODIES[switch]
        c1, c2 = y["A1"] / v1, y["A2"] / v2
        d["A1"], d["A2"] = -clear * c1 - exchange * (c1 - c2), exchange * (c1 - c2)
        bound = c1 / (c1 + p["Kd"])
    kills = []
    for s, mine in zip(suffixes, ("Bpm", "Bmp"), strict=False):
        seen = y["Bpp"] + y[mine] if two else y["B"]
        sa = p["SA0"] + (p["S0"] - p["SA0"]) * seen / (seen + p["B50"])
        gone = p["phiC"] * kill + (p["kJ"] * y["J" + s] if "immunity" in switch else 0)
        wear = p["kEX"] * sa * (1 - p["eps"] * bound) if worn else 0
        back = p["kres"] * bound
        x = y["X" + s] if worn else 0
        e, inf, m = y["E" + s], y["P" + s], y["M" + s]
        d["P" + s] = -(p["kact"] + p["dP"] + gone) * inf
        d["E" + s] = (
            p["kact"] * (1 - p["fM"]) * inf
            + (p["rho"] * sa * open_to - p["dE"] - p["kEM"] - gone - wear) * e
            + p["aME"] * sa * open_to * m
            + back * x
        )
        d["M" + s] = (
            p["kact"] * p["fM"] * inf
            + p["kEM"] * e
            - (p["dM"] + p["aME"] * sa * open_to + gone) * m
        )
        if worn:
            d["X" + s] = wear * e - (p["dX"] + gone + back) * x
        if "immunity" in switch:
            j, cells = y["J" + s], sum(y[n + s] for n in own)
            up = p["rJ"] * (y["N"] / p["KN"]) ** p["eJ"] * cells / (cells + p["CJ"])
            d["J" + s] = up * j * (1 - j) - (p["dJ"] + kill) * j + p["dJ"] * p["j0"]
        kills.append(p["gB"] * p["tau"] * e / (p["kB"] + p["tau"] * e))
    tumor = sum(y[b] for b in (("Bpp", "Bpm", "Bmp", "Bmm") if two else ("B",)))
    grow = p["g"] * (1 - tumor / p["Bmax"])
    if two:
        k1, k2 = kills
        d["Bpp"] = (grow - k1 - k2 - p["mu1"] - p["mu2"]) * y["Bpp"]
        d["Bpm"] = (grow - k1 - p["mu1"]) * y["Bpm"] + p["mu2"] * y["Bpp"]
        d["Bmp"] = (grow - k2 - p["mu2"]) * y["Bmp"] + p["mu1"] * y["Bpp"]
        d["Bmm"] = grow * y["Bmm"] + p["mu1"] * y["Bpm"] + p["mu2"] * y["Bmp"]
    else:
        d["B"] = (grow - kills[0]) * y["B"]
    if switch == "cure":  # w = S B0 / B, S' = -death S^2 B0 / B
        d["w"] = -(grow - kills[0]) * y["w"] - (p["turnover"] + kills[0]) * y["w"] ** 2
    if graft:
        e = y["E"] / (p["kT"] + y["E"])
        d["N"] -= p["gT"] * p["f7"] * e * y["N"]
        d["Nd"] = (p["rN"] * room - kill - p["gT"] * p["f7"] * e) * y["Nd"]
        back = p["rD"] * np.log(p["KD"] / (y["Hm"] + y["D"])) - p["phiM"] * kill
        d["Hm"] = p["sM"] + (back - p["kMy"] * e) * y["Hm"]
        d["D"] = back * y["D"]
        d["E"] -= p["fratricide"] * e * y["E"]
    else:
        ktr = 4 * 24 / p["MTT"]
        slowed = 1 - p["sF"] * y["Fe"] - p["sC"] * y["Ce"]
        d["Prol"] = ktr * y["Prol"] * (slowed * (p["Circ0"] / y["Circ"]) ** p["gamma"] - 1)
        for before, name in (("Prol", "T1"), ("T1", "T2"), ("T2", "T3"), ("T3", "Circ")):
            d[name] = ktr * (y[before] - y[name])
    return d


def initial(full, switch, p):
    two, graft = "two" in switch, "graft" in switch
    y = dict.fromkeys(("F1", "F2", "F3", "Y", "Fe", "Ce", "AUCF", "AUCC"), 0.0)
    y["N"] = p["N0"]
    if full:
        y |= {"z": 1.0, "H": (1 + p["kap"]) / (1 + p["kap"] * p["N0"] / p["KN"])}
    for s in ["", "_2"] if two else [""]:
        y |= {n + s: 0.0 for n in "PEM"}
        if "exhaustion" in switch or switch in ANTIBODIES:
            y["X" + s] = 0.0
        if "immunity" in switch:
            y["J" + s] = p["j0"]
    y |= {"Bpp": p["B0"], "Bpm": 0.0, "Bmp": 0.0, "Bmm": 0.0} if two else {"B": p["B0"]}
    if switch in ANTIBODIES:
        y |= {"A1": 0.0, "A2": 0.0}
    if switch == "cure":
        y["w"] = 1.0
    if graft:
        return y | {"Nd": NOTHING, "Hm": p["KD"], "D": NOTHING}
    return y | dict.fromkeys(("Prol", "T1", "T2", "T3", "Circ"), p["Circ0"])


def trajectory(full, switch, p, events):
    """State -> its values at DAYS."""
    y = initial(full, switch, p)
    names = list(y)
    logs = np.array([n in LOGS for n in names])

    def natural(s):
        return dict(zip(names, np.where(logs, np.exp(np.where(logs, s, 0)), s), strict=True))

    def inner(t, s):
        y = natural(s)
        d = slopes(full, switch, p, y)
        return [d[n] / y[n] if log else d[n] for n, log in zip(names, logs, strict=True)]

    def scaled(y):
        return np.array([np.log(y[n]) if log else y[n] for n, log in zip(names, logs, strict=True)])

    s, begin, rows = scaled(y), -10.0, []
    for day in sorted({float(day) for day, _, _ in events} | {DAYS[-1]}):
        seen = DAYS[(begin < DAYS) & (day >= DAYS)]
        sol = solve_ivp(
            inner,
            (begin, day),
            s,
            method="DOP853",
            rtol=1e-11,
            atol=1e-16,
            t_eval=np.union1d(seen, day),
        )
        assert sol.success
        rows += [natural(x) for t, x in zip(sol.t, sol.y.T, strict=True) if t in seen]
        y, begin = natural(sol.y[:, -1]), day
        for when, where, amount in events:
            if when != day:
                continue
            if where == "graft":
                y["Nd"] += amount / (p["VC"] * 1e6)
                y["D"] += 10.0 * amount / 1e8
            else:
                y[where] += amount / (p["VC"] * 1e6) if where[0] == "P" else amount
        s = scaled(y)
    return {n: np.array([row[n] for row in rows]) for n in names}


HIDDEN = {"F1", "F2", "F3", "A1", "A2"}  # in closed form in carpk, as Y in the smaller form


def write(path, full, cases):
    """The states of every case, (switch, values, events), one row per day."""
    hidden = HIDDEN | (set() if full else {"Y"})
    runs = {case: trajectory(full, *settings) for case, settings in cases.items()}
    names = list(dict.fromkeys(n for run in runs.values() for n in run if n not in hidden))
    with Path(path).open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["case", "time", *names])
        for case, run in runs.items():
            for i, day in enumerate(DAYS):
                levels = [f"{run[n][i]:.10g}" if n in run else "" for n in names]
                rows.writerow([case, f"{day:g}", *levels])
