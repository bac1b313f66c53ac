"""Small simulated data sets of hierarchical models, some of whose posteriors are known exactly."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pandas as pd

import carpk as ck


class Params(ck.Params):
    base: ck.Scalar = ck.param(10.0, "cells/µL", "level on day 0", "assumed")
    halve: ck.Scalar = ck.param(10.0, "day", "half-life", "assumed")


LINEAR = ck.ClosedForm(  # ln level is linear in ln base: random effects on it are exactly normal
    name="decay",
    params=Params,
    outputs={"car_t": lambda t, p: p.base * jnp.exp(-jnp.log(2) * t / p.halve)},
    units={"car_t": "cells/µL"},
)
DAYS = (1.0, 3.0, 7.0, 14.0, 28.0)
PRIORS = {"sigma": dist.LogNormal(np.log(0.4), 0.3)}

PIECEWISE = ck.Population(
    ck.load_model("piecewise"),
    varies=["cmax", "t_alpha"],
    priors={
        "cmax": dist.LogNormal(np.log(50), 0.7),
        "tmax": dist.LogNormal(np.log(9), 0.2),
        "omega_cmax": dist.LogNormal(np.log(0.8), 0.4),
        "omega_t_alpha": dist.LogNormal(np.log(0.5), 0.4),
        "sigma": dist.LogNormal(np.log(0.5), 0.2),
    },
    fixed={"fb": 0.0079, "beta_alpha": 0.0142, "t_double": 0.755},
)


def one_dose(names):
    """1e8 cells on day 0 for each of these patients."""
    doses = pd.DataFrame({"patient": names})
    return doses.assign(time=0.0, product="car_t", amount=1e8, unit="cells", duration=0.0)


def decaying(patients=8, cohorts=2, lloq=0.0, seed=0, weight=False):
    """Simulated patients of `LINEAR`; every second one belongs to another cohort."""
    rng = np.random.default_rng(seed)
    names = [f"p{i}" for i in range(patients)]
    kg = 70 * np.exp(0.2 * rng.standard_normal(patients))
    rows = []
    for i, name in enumerate(names):
        shift = 0.5 * rng.standard_normal() + 0.8 * (i % cohorts) + 0.7 * np.log(kg[i] / 70)
        for day in DAYS:
            y = 10 * np.exp(shift - np.log(2) * day / 10 + 0.4 * rng.standard_normal())
            rows.append((name, day, "car_t", max(y, lloq), "cells/µL", lloq, int(y < lloq)))
    columns = ["patient", "time", "analyte", "value", "unit", "lloq", "censored"]
    observations = pd.DataFrame(rows, columns=columns).replace({"lloq": {0.0: np.nan}})
    people = {"patient": names, "cohort": [f"c{i % cohorts}" for i in range(patients)]}
    return ck.Dataset.from_frames(
        patients=pd.DataFrame(people | ({"kg": kg} if weight else {})),
        doses=one_dose(names),
        observations=observations,
        name="simulated",
    )


def peaking(patients, seed=2021):
    """Simulated patients of `PIECEWISE`'s model, four of whose parameters vary."""
    rng = np.random.default_rng(seed)
    days = np.array([2.0, 5.0, 7.0, 9.0, 11.0, 14.0, 18.0, 21.0, 28.0, 60.0, 90.0, 180.0])
    model, rows = PIECEWISE.model, []
    for i in range(patients):
        p = model.params()
        for name, omega in {"cmax": 0.65, "tmax": 0.2, "t_alpha": 0.5, "fb": 0.8}.items():
            p = p.replace(**{name: getattr(p, name) * np.exp(omega * rng.standard_normal())})
        levels = np.asarray(model.level("car_t", jnp.asarray(days), p))
        levels = levels * np.exp(0.5 * rng.standard_normal(len(days)))
        rows += [(f"p{i}", t, y) for t, y in zip(days, levels, strict=True)]
    observations = pd.DataFrame(rows, columns=["patient", "time", "value"])
    return ck.Dataset.from_frames(
        doses=one_dose([f"p{i}" for i in range(patients)]),
        observations=observations.assign(analyte="car_t", unit="cells/µL", censored=0),
        name="simulated",
    )
