"""Theophylline by mouth in 12 patients (simulated): one compartment, first-order absorption."""

from pathlib import Path

import carpk as ck

SIMULATED_FROM = {"CL": 2.796, "V": 32.4, "ka": 1.6, "sigma_add": 0.71}  # data/README.md

data = ck.Dataset.from_nonmem(
    Path(__file__).parent / "data" / "theophylline.csv",
    time_unit="hour",
    analytes="theophylline",
    units={"theophylline": "mg/L"},
    lloq=0.5,
    products=("theophylline", "mg"),
)
model = ck.disposition.one_compartment(
    "first_order", output="theophylline", product="theophylline", time_unit="hour"
)
pop = ck.Population(model, varies=["CL", "V", "ka"], residual=ck.Additive())
fit = ck.fit(pop, data, method="laplace", seed=1)
print(fit)  # the verdict, then the summary
table = fit.summary()[["median", "eti90_low", "eti90_high", "unit"]]
print(table.assign(simulated_from=SIMULATED_FROM))
