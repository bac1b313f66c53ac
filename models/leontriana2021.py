"""CAR-T cells with one target in a solid tumor, or with CD19 as a second one (León-Triana 2021).

CAR-T cells (C) in the tumor (T) divide on meeting it and kill it; it inactivates them, at a rate a1
that stands for immune suppression and that few CAR-T cells suffer most. Numbers of cells:

    C' = rC C T / (gT + T) - a1 C T / (gC + C) - C / tC
    T' = rT T - a2 C T

`load_model("leontriana2021", targets="dual")` is of CAR-T cells that find CD19 too. They enter the
blood and lymphoid organs (Cb), divide there on meeting healthy B cells (B), and move on into the
tumor, where they are C:

    C'  = as above, and + k Cb
    Cb' = rCb Cb B / (gB + B) - Cb / tC - k Cb
    B'  = -aB B Cb - B / tB

The dose is a number of cells, into C of the single form (4e8 in the file, the tumor being 6.7e9
cells) and into Cb of the dual form (2e8; 3.35e10). Outputs: "car_t_body" is all CAR-T cells of the
model. "car_t" is those outside the tumor per µL of blood, which only the dual form has: Cb divided
by an apparent volume Vd, which is assumed; the files have no concentration.

a1 decides the outcome of the dual form, and the sources have three numbers for it. The file has
0.02, the default here. Its note says that Figure 5b is reproduced with 0.183 and that the article
says 0.2. So the smallest number of tumor cells is

    a1 = 0.02     0.09, less than one cell    model.params()
    a1 = 0.183    1.7e7                       model.params(a1=0.183)
    a1 = 0.2      2.4e9                       model.params(a1=0.2)

In the single form the file and its note have 0.04, the default; the legend of the figure is said to
differ and could not be read. The authors suggest PD-1 inhibitors: here, a smaller a1.

No tumor is ever 0 in these equations: what returns from less than one cell (`one_cell`) is no
relapse. Fewer than NONE = 1e-6 CAR-T cells neither divide nor are inactivated: a logarithm knows no
zero, and before an infusion there must be none.

Reference: León-Triana et al. (2021) Cancers 13:703, doi:10.3390/cancers13040703. Only its abstract
was read. Equations and numbers are those of BioModels BIOMD0000001013 (the paper's equations 1 and
2) and BIOMD0000001014 (3 to 6), read in exports of the files. No spread is published.
"""

from typing import Literal

import jax.numpy as jnp

import carpk as ck
from carpk.models import _body as body

SINGLE = "León-Triana 2021, as in BIOMD0000001013"
DUAL = "León-Triana 2021, as in BIOMD0000001014"
BOTH = DUAL + " and BIOMD0000001013"
NONE = 1e-6  # cells; see above


class Params(ck.Params):
    rC: ck.Scalar = ck.param(0.9, "1/day", "largest growth rate of CAR-T cells in the tumor", BOTH)
    gT: ck.Scalar = ck.param(1e10, "cells", "tumor at half the largest growth", BOTH)
    a1: ck.Scalar = ck.param(
        0.04, "1/day", "CAR-T cells that a tumor cell inactivates, at most", SINGLE
    )
    gC: ck.Scalar = ck.param(2e9, "cells", "CAR-T cells at half the largest inactivation", BOTH)
    tC: ck.Scalar = ck.param(7.0, "day", "mean life of CAR-T cells", BOTH)
    rT: ck.Scalar = ck.param(0.02, "1/day", "growth rate of the tumor", BOTH)
    a2: ck.Scalar = ck.param(2.5e-10, "1/cell/day", "killing rate per CAR-T cell", BOTH)
    T0: ck.Scalar = ck.param(6.7e9, "cells", "tumor at the infusion", SINGLE)


class DualParams(Params):
    a1: ck.Scalar = ck.param(
        0.02,
        "1/day",
        "CAR-T cells that a tumor cell inactivates, at most",
        DUAL + "; its note: 0.183 for Figure 5b, 0.2 in the article",
    )
    T0: ck.Scalar = ck.param(3.35e10, "cells", "tumor at the infusion", DUAL)
    rCb: ck.Scalar = ck.param(0.9, "1/day", "largest growth rate of CAR-T cells on B cells", DUAL)
    gB: ck.Scalar = ck.param(1e10, "cells", "B cells at half the largest growth", DUAL)
    k: ck.Scalar = ck.param(0.2, "1/day", "rate at which CAR-T cells move into the tumor", DUAL)
    aB: ck.Scalar = ck.param(4.5e-11, "1/cell/day", "killing rate of B cells per CAR-T cell", DUAL)
    tB: ck.Scalar = ck.param(60.0, "day", "mean life of B cells", DUAL)
    B0: ck.Scalar = ck.param(2.5e10, "cells", "healthy B cells at the infusion", DUAL)
    Vd: ck.Scalar = ck.param(
        500.0,
        "L",
        "apparent volume: CAR-T cells outside the tumor over those per volume of blood",
        "assumed: that of T cells in Kimmel 2021, 2.5e11 in the body at 500/µL",
    )


class States(ck.States):
    C: ck.Scalar = ck.state("cells", "CAR-T cells in the tumor", log=True)
    T: ck.Scalar = ck.state("cells", "tumor", log=True)


class DualStates(States):
    """CAR-T cells in the tumor come from outside it, so they cannot be a logarithm."""

    C: ck.Scalar = ck.state("cells", "CAR-T cells in the tumor")
    Cb: ck.Scalar = ck.state("cells", "CAR-T cells in blood and lymphoid organs", log=True)
    B: ck.Scalar = ck.state("cells", "healthy B cells", log=True)


def present(c: ck.Scalar) -> ck.Scalar:
    """CAR-T cells that meet others [cells]: all, unless there are none."""
    return c * c**2 / (c**2 + NONE**2)


def in_tumor(y: States | DualStates, p: Params) -> dict[str, ck.Scalar]:
    """Derivatives [per day] of C, but for what comes from outside, and of T."""
    growth = p.rC * y.T / (p.gT + y.T) - p.a1 * y.T / (p.gC + y.C)
    return dict(C=growth * present(y.C) - y.C / p.tC, T=(p.rT - p.a2 * y.C) * y.T)


def single(t: ck.Scalar, y: States, p: Params) -> States:
    """Equations 1 and 2."""
    return States(**in_tumor(y, p))


def dual(t: ck.Scalar, y: DualStates, p: DualParams) -> DualStates:
    """Equations 3 to 6."""
    tumor = in_tumor(y, p)
    return DualStates(
        C=tumor["C"] + p.k * y.Cb,
        T=tumor["T"],
        Cb=p.rCb * y.B / (p.gB + y.B) * present(y.Cb) - (1 / p.tC + p.k) * y.Cb,
        B=-(p.aB * y.Cb + 1 / p.tB) * y.B,
    )


def start(p: Params) -> States:
    return States(T=p.T0)


def dual_start(p: DualParams) -> DualStates:
    return DualStates(T=p.T0, B=p.B0)


def build(targets: Literal["single", "dual"] = "single") -> ck.ODEModel:
    """CAR-T cells with the tumor as their only target, or with CD19 beside it."""
    is_dual = targets == "dual"
    return ck.ODEModel(
        name="leontriana2021",
        reference="doi:10.3390/cancers13040703",
        params=DualParams if is_dual else Params,
        states=DualStates if is_dual else States,
        vector_field=dual if is_dual else single,
        initial=dual_start if is_dual else start,
        targets={"car_t": ck.Target("Cb" if is_dual else "C")},
        outputs=DUAL_OUTPUTS if is_dual else OUTPUTS,
        units={name: UNITS[name] for name in (DUAL_OUTPUTS if is_dual else OUTPUTS)},
        one_cell={"tumor": 1.0, "car_t_body": 1.0},
        regimens={"paper": ck.Regimen.cells(0, 2e8 if is_dual else 4e8)},
        derived=DERIVED | DUAL_DERIVED if is_dual else DERIVED,
        published=PUBLISHED,
    )


UNITS = {"car_t": "cells/µL", "car_t_body": "cells", "tumor": "cells", "b_cells": "cells"}
OUTPUTS = {
    "car_t_body": lambda t, y, p: y.C,
    "tumor": lambda t, y, p: y.T,
}
DUAL_OUTPUTS = {
    "car_t": lambda t, y, p: y.Cb / (p.Vd * body.UL_PER_L),
    # C is no logarithm: once it is next to nothing, an error can leave it below 0
    "car_t_body": lambda t, y, p: jnp.maximum(y.C, 0.0) + y.Cb,
    "tumor": lambda t, y, p: y.T,
    "b_cells": lambda t, y, p: y.B,
}
DERIVED = {
    "t_double_tumor": (lambda p: jnp.log(2) / p.rT, "day"),
    # CAR-T cells that only just hold the tumor; tumor that would only just hold CAR-T cells, were
    # a1 = 0
    "c_hold": (lambda p: p.rT / p.a2, "cells"),
    "t_hold": (lambda p: p.gT / (p.rC * p.tC - 1), "cells"),
}
DUAL_DERIVED = {  # B cells that only just hold the CAR-T cells outside the tumor
    "b_hold": (lambda p: p.gB * (1 / p.tC + p.k) / (p.rCb - 1 / p.tC - p.k), "cells"),
}
PUBLISHED = {  # as ODEbase prints the equation of BIOMD0000001013
    "loss rate of CAR-T cells [1/day]": (lambda p: 1 / p.tC, 0.1429, 1e-3),
}

model = build()
