"""Two compartments with linear elimination.

    k10 = CL / V1,  k12 = Q / V1,  k21 = Q / V2
    C   = amount in the central compartment / V1

A drug that spreads into tissues, so that its level falls in two phases.

    ck.load_model("two_compartment", absorption="first_order", lag="on")
    ck.disposition.two_compartment("first_order", lag=True)                      the same

Solved in closed form. The options of the absorption are in `_compartments.py`. Values are
placeholders, with wide priors (an SD of 1 on the log scale): give your own as `priors`.
"""

import carpk as ck
from carpk.models import _compartments as shared


class Params(ck.Params):
    CL: ck.Scalar = ck.param(24.0, "L/day", "clearance", shared.OWN)
    V1: ck.Scalar = ck.param(20.0, "L", "central volume", shared.OWN)
    Q: ck.Scalar = ck.param(48.0, "L/day", "intercompartmental clearance", shared.OWN)
    V2: ck.Scalar = ck.param(30.0, "L", "peripheral volume", shared.OWN)


def disposition(p: Params) -> ck.Disposition:
    """The drug [mg/L] in these compartments."""
    return ck.Disposition(p.CL, p.V1, ((p.Q, p.V2),))


build = shared.builder("two_compartment", Params, disposition)
model = build()
