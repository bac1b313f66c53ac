"""Write `niche_full.csv`: trajectories of the model niche_full from SciPy, independent of carpk.

Every reference regimen with the values of either disease, and Flu/Cy with each switch. Equations
and solver are in `_niche.py`. Never run by the test suite, which reads the CSV. Run it in this
folder:

    python niche_full.py
"""

from pathlib import Path

from _niche import FLU_CY, FULL, REGIMENS, SWITCHES, write

SOLID = FULL | dict(S0=0.5, B50=20, gB=0.15, tau=0.3, B0=200)
CASES = {
    **{f"heme: {name}": ("", FULL, events) for name, events in REGIMENS.items()},
    **{f"solid: {name}": ("", SOLID, events) for name, events in REGIMENS.items()},
    **{name: (name, FULL | own, FLU_CY + more) for name, (more, own) in SWITCHES.items()},
}

if __name__ == "__main__":
    write(Path(__file__).parent / "niche_full.csv", True, CASES)
