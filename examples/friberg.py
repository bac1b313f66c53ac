"""Neutrophils after docetaxel in 24 patients (simulated): the library's `friberg2002`.

Pharmacokinetics are fixed at the model file's values, as no concentrations were measured.
"""

from pathlib import Path

import carpk as ck

data = ck.Dataset.from_nonmem(
    Path(__file__).parent / "data" / "friberg.csv",
    time_unit="hour",
    analytes="anc",
    units={"anc": "1e9/L"},
    products=("docetaxel", "mg"),
)
model = ck.load_model("friberg2002")
typical = model.params()
pop = ck.Population(
    model,
    varies=["Circ0", "MTT", "slope"],
    fixed={name: float(getattr(typical, name)) for name in ("CL", "Vc", "Q", "Vp")},
    priors="published",
    analytes=["anc"],
)
fit = ck.fit(pop, data, method="laplace", starts=1, seed=1)
print(fit)  # the verdict, then the summary
