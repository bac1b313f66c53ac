"""Simulate the data sets of the examples; nobody's measurements are in them.

    python examples/data/make.py

Writes theophylline.csv, warfarin.csv and friberg.csv beside this file. README.md here says where
the values come from. PK is in closed form and PCA solved by SciPy, apart from carpk; the
neutrophils are those of the library's `friberg2002`. All SDs of parameters are of their logarithms.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.integrate import solve_ivp

import carpk as ck

HERE = Path(__file__).parent
HOURS = 24.0
Rows = Iterable[dict[str, object]]


def oral(t: np.ndarray, dose: float, CL: float, V: float, ka: float) -> np.ndarray:
    """Concentration [mg/L] at t [h] after an oral dose [mg]; one compartment."""
    k = CL / V
    return dose * ka / (V * (ka - k)) * (np.exp(-k * t) - np.exp(-ka * t))


def dose_row(ID: int, amount: float) -> dict[str, object]:
    return {"ID": ID, "TIME": 0, "AMT": amount, "EVID": 1, "CMT": 1}


def sample_rows(ID: int, times: np.ndarray, values: np.ndarray, **more: object) -> Rows:
    for t, value in zip(times, values, strict=True):
        yield {"ID": ID, "TIME": t, "DV": round(float(value), 2), "EVID": 0, **more}


def theophylline(rng: np.random.Generator) -> Rows:
    """12 patients, 11 samples each; a value below 0.5 mg/L is written as CENS 1."""
    times = np.array([0.25, 0.5, 1, 2, 3, 4, 5, 7, 9, 12, 24])
    typical = np.array([70 * np.exp(-3.22), 70 * np.exp(-3.22 + 2.45), np.exp(0.47)])
    for ID in range(1, 13):
        yield dose_row(ID, 320)
        own = typical * np.exp(rng.normal(0, [0.03**0.5, 0.03**0.5, 0.4**0.5]))
        values = oral(times, 320, *own) + rng.normal(0, 0.5**0.5, len(times))
        for row in sample_rows(ID, times, np.maximum(values, 0.5), CMT=2):
            yield row | {"CENS": int(row["DV"] == 0.5)}


def pca(times: np.ndarray, PK: np.ndarray, IC50: float, kout: float, R0: float) -> np.ndarray:
    """Prothrombin complex activity [%] after 70 mg of warfarin."""

    def slope(t: float, R: np.ndarray) -> np.ndarray:
        C = oral(np.array(t), 70, *PK)
        return kout * R0 * (1 - 0.968 * C / (IC50 + C)) - kout * R

    return solve_ivp(slope, (0, times[-1]), [R0], t_eval=times, rtol=1e-8, atol=1e-8).y[0]


def warfarin(rng: np.random.Generator) -> Rows:
    """32 patients, 8 concentrations (DVID 1) and 7 samples of PCA (DVID 2) each."""
    levels = np.array([0.5, 1, 2, 6, 24, 36, 72, 120])
    activity = np.array([24, 36, 48, 72, 96, 120, 144])
    for ID in range(1, 33):
        yield dose_row(ID, 70)
        PK = np.array([0.15, 8, 1]) * np.exp(rng.normal(0, [0.07**0.5, 0.02**0.5, 0.6**0.5]))
        PD = np.array([1.007, 0.055, 96.5]) * np.exp(rng.normal(0, [0.3, 0.2, 0.1]))
        seen = oral(levels, 70, *PK) * (1 + 0.1 * rng.normal(size=len(levels)))
        yield from sample_rows(ID, levels, seen, CMT=2, DVID=1)
        seen = pca(activity, PK, *PD) + rng.normal(0, 3.91, len(activity))
        yield from sample_rows(ID, activity, seen, CMT=3, DVID=2)


def friberg(rng: np.random.Generator) -> Rows:
    """24 patients, 8 neutrophil counts [1e9/L] each over 180 mg of docetaxel in 1 h."""
    model, days = ck.load_model("friberg2002"), np.array([0, 4, 7, 9, 11, 14, 17, 21])
    typical, regimen = model.params(), model.regimens["100 mg/m²"]
    for ID in range(1, 25):
        yield dose_row(ID, 180) | {"RATE": 180}
        eta = dict(zip(("Circ0", "MTT", "slope"), rng.normal(size=3), strict=True))
        spread = {name: model.params.info()[name].iiv for name in eta}
        own = {n: getattr(typical, n) * np.exp(spread[n] * z) for n, z in eta.items()}
        counts = np.asarray(ck.solve(model, regimen, days, typical.replace(**own))["anc"])
        seen = counts * np.exp(0.2 * rng.normal(size=len(days)))
        yield from sample_rows(ID, days * HOURS, seen, CMT=2)


if __name__ == "__main__":
    for simulate in (theophylline, warfarin, friberg):
        table = pd.DataFrame(simulate(np.random.default_rng(2026)))
        table = table.sort_values(["ID", "TIME"], kind="stable")
        table = table.convert_dtypes().astype(object).where(table.notna(), ".")
        table.to_csv(HERE / f"{simulate.__name__}.csv", index=False)
