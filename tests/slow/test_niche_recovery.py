"""Kill rates, and how much more Flu/Cy expands than Flu, are found again in simulated trials.

Two simulated cohorts as in HEROS 2.0, 3 patients after Flu and 9 after Flu/Cy, 21 infusions in all,
CAR-T cells and lymphocytes counted. The truth of every trial is drawn from the priors, so 90 %
intervals must hold it in 90 % of the trials. The test runs few of them; all 100:

    python tests/slow/test_niche_recovery.py 100
"""

import sys

import numpy as np
import pandas as pd
import pytest
import scipy.stats

import carpk as ck
from carpk.solver import solve_many

SIMULATIONS = 8
MODEL = ck.load_model("niche", disease="solid", denominator="constant")
FLU, FLU_CY = (MODEL.regimens[f"HEROS {name}"] for name in ("Flu", "Flu/Cy"))
INFUSIONS = {"Flu": (1, 2, 2), "Flu/Cy": (1, 1, 1, 1, 2, 2, 2, 3, 3)}
EVERY = 42  # days, each infusion after lymphodepletion of its own
ESTIMATED = ("kF", "kC", "rho", "rN", "dE")
SAMPLES = {"car_t": (3, 7, 10, 14, 21, 28), "alc": (0, 7, 14, 28)}


def trial():
    """The design; values are placeholders."""
    doses, seen = [], []
    for arm, regimen in (("Flu", FLU), ("Flu/Cy", FLU_CY)):
        for i, infusions in enumerate(INFUSIONS[arm]):
            patient = f"{arm} {i + 1}"
            for later in range(infusions):
                for e in regimen.shift(later * EVERY).events:
                    doses.append((patient, e.time, e.product, e.amount, e.unit, 0.0))
                for analyte, days in SAMPLES.items():
                    seen += [(patient, later * EVERY + day, analyte) for day in days]
            seen.append((patient, -10, "alc"))
    names = ["patient", "time", "product", "amount", "unit", "duration"]
    observations = pd.DataFrame(seen, columns=["patient", "time", "analyte"])
    return ck.Dataset.from_frames(
        doses=pd.DataFrame(doses, columns=names),
        observations=observations.assign(value=10.0, unit="cells/µL", lloq=0.1, censored=0),
        name="simulated trial",
    )


def population():
    values = {k: i.value for k, i in MODEL.params.info().items() if k not in ESTIMATED}
    return ck.Population(
        MODEL,
        varies=["kC", "rho"],
        fixed=values,
        analytes=["car_t", "alc"],
        rtol=5e-3,
    )


def ratio(params):
    """Peak of typical patients after Flu/Cy over that after Flu."""
    days = np.arange(1.0, 29.0)
    flu, both = (
        solve_many(MODEL, regimen, days, params, rtol=1e-3, start=-10.0).outputs["car_t"]
        for regimen in (FLU, FLU_CY)
    )
    return both.max(axis=1) / flu.max(axis=1)


def recovered(simulations, progress=False):
    return ck.checks.recovery(
        population(),
        trial(),
        simulations=simulations,
        draws=400,
        method="laplace",
        derived={"Flu/Cy : Flu": ratio},
        progress=progress,
    )


def test_the_design_is_that_of_heros():
    data = trial()
    given = data.doses[data.doses["product"] == "car_t"]
    assert len(given) == 21
    assert (given.groupby("patient").size() > 1).sum() == 7


@pytest.mark.slow
def test_kill_rates_and_the_ratio_of_expansions_are_recovered():
    result = recovered(SIMULATIONS)
    assert result.failed == 0
    for name in ("kF", "kC", "Flu/Cy : Flu"):
        k = int(result.covered(name).sum())
        assert scipy.stats.binomtest(k, SIMULATIONS, 0.9).pvalue > 1e-2, (name, k)


if __name__ == "__main__":
    print(recovered(int(sys.argv[1]), progress=True))
