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
        doses=pd.DataFrame(
            {"patient": names, "time": 0.0, "product": "car_t", "amount": 1e8}
            | {"unit": "cells", "duration": 0.0}
        ),
        observations=observations,
        name="simulated",
    )
