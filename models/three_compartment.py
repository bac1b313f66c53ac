"""Three compartments with linear elimination.

    k10 = CL / V1,  k12 = Q2 / V1,  k21 = Q2 / V2,  k13 = Q3 / V1,  k31 = Q3 / V3
    C   = amount in the central compartment / V1

A drug that spreads into tissues of two kinds, so that its level falls in three phases.

    ck.load_model("three_compartment", absorption="first_order", lag="on")
    ck.disposition.three_compartment("first_order", lag=True)                      the same

Solved in closed form. The options of the absorption are in `_compartments.py`. Values are
placeholders, with wide priors (an SD of 1 on the log scale): give your own as `priors`.
"""

import carpk as ck
from carpk.models import _compartments as shared


class Params(ck.Params):
    CL: ck.Scalar = ck.param(24.0, "L/day", "clearance", shared.OWN)
    V1: ck.Scalar = ck.param(20.0, "L", "central volume", shared.OWN)
    Q2: ck.Scalar = ck.param(
        48.0, "L/day", "clearance to and from the second compartment", shared.OWN
    )
    V2: ck.Scalar = ck.param(30.0, "L", "volume of the second compartment", shared.OWN)
    Q3: ck.Scalar = ck.param(
        6.0, "L/day", "clearance to and from the third compartment", shared.OWN
    )
    V3: ck.Scalar = ck.param(60.0, "L", "volume of the third compartment", shared.OWN)


def disposition(p: Params) -> ck.Disposition:
    """The drug [mg/L] in these compartments."""
    return ck.Disposition(p.CL, p.V1, ((p.Q2, p.V2), (p.Q3, p.V3)))


build = shared.builder("three_compartment", Params, disposition)
model = build()
