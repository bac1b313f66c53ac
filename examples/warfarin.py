"""Warfarin in 32 patients (simulated): concentrations and PCA fitted together.

    R' = kout R0 (1 - Imax C / (IC50 + C)) - kout R      C: one compartment, in closed form

R is the prothrombin complex activity (PCA); warfarin inhibits its production.
"""

from pathlib import Path

import carpk as ck

HOURS, OWN = 24, "assumed: its order; the data decide"


class Params(ck.Params):
    CL: ck.Scalar = ck.param(0.1, "L/h", "clearance", OWN)
    V: ck.Scalar = ck.param(10.0, "L", "volume", OWN)
    ka: ck.Scalar = ck.param(1.0, "1/h", "rate of absorption", OWN)
    R0: ck.Scalar = ck.param(100.0, "%", "PCA before treatment", OWN, prior_sd=0.3)
    kout: ck.Scalar = ck.param(0.05, "1/h", "loss rate of PCA", OWN)
    Imax: ck.Scalar = ck.param(0.9, "1", "largest inhibition of production", OWN, (0, 1))
    IC50: ck.Scalar = ck.param(1.0, "mg/L", "concentration at half of it", OWN)


class States(ck.States):
    R: ck.Scalar = ck.state("%", "prothrombin complex activity (PCA)", log=True)


def vector_field(t, y, p, c):
    inhibition = p.Imax * c["warfarin"] / (p.IC50 + c["warfarin"])
    return States(R=HOURS * p.kout * (p.R0 * (1 - inhibition) - y.R))


model = ck.ODEModel(
    name="warfarin",
    params=Params,
    states=States,
    inputs={"warfarin": lambda p: ck.Disposition(HOURS * p.CL, p.V, absorption=HOURS * p.ka)},
    targets={"warfarin": ck.Target("warfarin_depot", unit="mg")},
    vector_field=vector_field,
    initial=lambda p: States(R=p.R0),
    outputs={"conc": lambda t, y, p, c: c["warfarin"], "pca": lambda t, y, p, c: y.R},
    units={"conc": "mg/L", "pca": "%"},
)

data = ck.Dataset.from_nonmem(
    Path(__file__).parent / "data" / "warfarin.csv",
    time_unit="hour",
    analytes={1: "conc", 2: "pca"},
    units={"conc": "mg/L", "pca": "%"},
    products=("warfarin", "mg"),
)
pop = ck.Population(
    model,
    varies=["CL", "V", "ka", "R0", "kout", "IC50"],
    analytes=["conc", "pca"],
    residual={"conc": ck.Proportional(), "pca": ck.Additive(typical_add=5.0)},
)
fit = ck.fit(pop, data, method="laplace", starts=1, seed=1)
print(fit)  # the verdict, then the summary
