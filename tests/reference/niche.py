"""Write `niche.csv`: trajectories of the model niche from SciPy, independent of carpk.

Every reference regimen with the values "as_full" of either disease; Flu/Cy with the starting point
of the calibration ("calibrated"), with other shapes of recovery, and with each switch. Equations
and solver are in `_niche.py`. Never run by the test suite, which reads the CSV. Run it in this
folder:

    python niche.py
"""

from pathlib import Path

from _niche import CELLS, FLU_CY, REGIMENS, SMALL, SWITCHES, write

SOLID = SMALL | dict(rho=0.9, B50=22.4, gB=0.144, kB=4 / 0.3, B0=200)
STEEP = SMALL | dict(kF=0.18, kC=0.1, rN=0.2, th=0.9, rho=1.7, SA0=0.15)
CASES = {
    **{f"heme: {name}": ("", SMALL, events) for name, events in REGIMENS.items()},
    **{f"solid: {name}": ("", SOLID, events) for name, events in REGIMENS.items()},
    "floor": ("", STEEP, FLU_CY),
    "floor, none": ("", STEEP, CELLS),
    "logistic": ("", SMALL | {"th": 1.0}, FLU_CY),
    "slow": ("", SMALL | {"th": -0.5}, FLU_CY),
    **{name: (name, SMALL | own, FLU_CY + more) for name, (more, own) in SWITCHES.items()},
}

if __name__ == "__main__":
    write(Path(__file__).parent / "niche.csv", False, CASES)
