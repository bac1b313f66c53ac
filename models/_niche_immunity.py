"""Scenario of the niche models, immunity="on": the patient's immunity against the CAR.

J goes from j0 to at most 1. It grows on CAR-T cells (C) the faster the more normal T cells there
are (N), and dies by the drugs as T cells do. Every compartment of CAR-T cells (P, E, M, and X with
exhaustion) is lost to it. All values are assumed. With kLD the killing by drugs:

    J' = rJ (N/KN)^eJ C / (C + CJ) J (1 - J) - (dJ + kLD) J + dJ j0
    P', E', M', X' get - kJ J times themselves
"""

import jax.numpy as jnp

import carpk as ck
from carpk.models import _niche_parts as parts


class Params(ck.Params):
    rJ: ck.Scalar = ck.param(0.5, "1/day", "growth rate of anti-CAR immunity", parts.SCENARIO)
    eJ: ck.Scalar = ck.param(
        1.0, "1", "power of normal T cells over KN in its growth", parts.SCENARIO, prior_sd=0.5
    )
    CJ: ck.Scalar = ck.param(
        1.0, "cells/µL", "CAR-T cells that stimulate it by half", parts.SCENARIO
    )
    dJ: ck.Scalar = ck.param(0.02, "1/day", "loss rate of anti-CAR immunity", parts.SCENARIO)
    j0: ck.Scalar = ck.param(
        1e-4, "1", "anti-CAR immunity at the start", parts.SCENARIO, bounds=(0, 1)
    )
    kJ: ck.Scalar = ck.param(1.0, "1/day", "largest loss rate of CAR-T cells to it", parts.SCENARIO)


class States(ck.States):
    J: ck.Scalar = ck.state("1", "anti-CAR immunity", log=True)


def slope(
    J: ck.Scalar, car_t: ck.Scalar, refilled: ck.Scalar, kLD: ck.Scalar, p: Params
) -> ck.Scalar:
    """J' [per day], with this many CAR-T cells of the product and normal T cells N/KN."""
    cells = jnp.maximum(car_t, 0.0)
    growth = p.rJ * refilled**p.eJ * cells / (cells + p.CJ)
    return growth * J * (1 - J) - (p.dJ + kLD) * J + p.dJ * p.j0


def loss(cells: ck.Scalar, J: ck.Scalar, p: Params) -> ck.Scalar:
    """What it adds to the slope of a compartment of CAR-T cells [cells/µL/day]."""
    return -p.kJ * J * cells
