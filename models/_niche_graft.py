"""Scenario of the niche models, graft="on": CAR-T cells against CD7, then donor cells.

A graft of donor T cells (Nd) brings donor myeloid cells (D), beside the host's (N, Hm). CAR-T cells
kill T cells of both, the host's myeloid cells and, where the product carries CD7, each other
(FRATRICIDE). Hm + D takes the place of neutrophils in the denominator of "transgene" and in "anc".
All values are assumed. With kLD the killing by drugs and "room" the net division rate of normal T
cells over rN:

    K   = E / (kT + E),    k7 = gT f7 K
    N'  gets - k7 N
    Nd' = (rN room - kLD - k7) Nd
    Hm' = sM + (rD ln(KD / (Hm + D)) - phiM kLD - kMy K) Hm
    D'  = (rD ln(KD / (Hm + D)) - phiM kLD) D
    E'  gets - FRATRICIDE K E
"""

import jax.numpy as jnp

import carpk as ck
from carpk.models import _niche_parts as parts

CELLS = 1e8  # T cells, the graft that brings D0 myeloid cells
REGIMEN = ck.Regimen.cells(30, CELLS, product="graft")  # day: another center's median of 33.5


class Params(ck.Params):
    gT: ck.Scalar = ck.param(
        1.0, "1/day", "largest rate at which CAR-T cells kill T cells with CD7", parts.SCENARIO
    )
    f7: ck.Scalar = ck.param(0.95, "1", "share of T cells with CD7", parts.SCENARIO, bounds=(0, 1))
    kT: ck.Scalar = ck.param(
        4.0, "cells/µL", "effectors that kill normal cells at half the largest rate", parts.SCENARIO
    )
    kMy: ck.Scalar = ck.param(
        0.8, "1/day", "largest rate at which they kill host myeloid cells", parts.SCENARIO
    )
    phiM: ck.Scalar = ck.param(
        0.5, "1", "killing of myeloid cells by drugs over that of T cells", parts.SCENARIO
    )
    rD: ck.Scalar = ck.param(0.12, "1/day", "recovery rate of myeloid cells", parts.SCENARIO)
    KD: ck.Scalar = ck.param(
        4000.0, "cells/µL", "myeloid cells at the start, at which they stop", parts.SCENARIO
    )
    sM: ck.Scalar = ck.param(0.02, "cells/µL/day", "inflow of host myeloid cells", parts.SCENARIO)
    D0: ck.Scalar = ck.param(
        10.0, "cells/µL", "donor myeloid cells that a graft with 1e8 T cells starts", parts.SCENARIO
    )
    FRATRICIDE: ck.Scalar = ck.covariate(
        0.0,
        "1/day",
        "largest rate at which effectors kill each other; 0 for a product without CD7",
        "reference: a product without CD7",
    )


class States(ck.States):
    Nd: ck.Scalar = ck.state("cells/µL", "T cells of the donor", log=True)
    Hm: ck.Scalar = ck.state("cells/µL", "myeloid cells of the host", log=True)
    D: ck.Scalar = ck.state("cells/µL", "myeloid cells of the donor", log=True)


def slopes(
    y: States, N: ck.Scalar, E: ck.Scalar, divided: ck.Scalar, kLD: ck.Scalar, p: Params
) -> dict[str, ck.Scalar]:
    """Derivatives [cells/µL/day] of the graft, and what is added to those of N and E.

    Args:
        divided: rN room, the net division rate of T cells [per day].
    """
    killing = E / (p.kT + E)
    by_cd7 = p.gT * p.f7 * killing
    regrowth = p.rD * jnp.log(p.KD / (y.Hm + y.D)) - p.phiM * kLD
    return dict(
        N=-by_cd7 * N,
        Nd=(divided - kLD - by_cd7) * y.Nd,
        Hm=p.sM + (regrowth - p.kMy * killing) * y.Hm,
        D=regrowth * y.D,
        E=-p.FRATRICIDE * killing * E,
    )
