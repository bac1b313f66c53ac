"""One compartment with linear elimination.

    k10 = CL / V
    C   = amount in the central compartment / V

A drug that spreads at once.

    ck.load_model("one_compartment", absorption="first_order", lag="on")
    ck.disposition.one_compartment("first_order", lag=True)                      the same

Solved in closed form. The options of the absorption are in `_compartments.py`. Values are
placeholders, with wide priors (an SD of 1 on the log scale): give your own as `priors`.
"""

import carpk as ck
from carpk.models import _compartments as shared


class Params(ck.Params):
    CL: ck.Scalar = ck.param(24.0, "L/day", "clearance", shared.OWN)
    V: ck.Scalar = ck.param(20.0, "L", "volume", shared.OWN)


def disposition(p: Params) -> ck.Disposition:
    """The drug [mg/L] in these compartments."""
    return ck.Disposition(p.CL, p.V)


build = shared.builder("one_compartment", Params, disposition)
model = build()
