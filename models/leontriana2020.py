"""CD19 CAR-T cells, leukemia and B cells in acute lymphoblastic leukemia (León-Triana 2020).

CAR-T cells (C) divide on meeting CD19 and kill what carries it, leukemia (L) and healthy B cells
(B) alike. All are counted in the whole body:

    C' = rhoC (L + B) C - C / tC,    rhoC = k alpha
    L' = rL L - alpha L C
    B' = -alpha B C - B / tB

`load_model("leontriana2020", progenitors="marrow")` adds B cells that the marrow goes on making.
Its CD19+ progenitors, I = I0 / (1 + C / C50), excite CAR-T cells too, beta times as much:

    C' = rhoC (L + B + beta I) C - C / tC
    B' = I / tI - alpha B C - B / tB

Predator and prey: the leukemia falls to 4e5 cells within two months, comes back, and meets a second
wave of CAR-T cells more than a year later, as large as the first. It never falls below one cell.
But the second wave grows from 2.5 CAR-T cells in the whole body, which are left on day 361: too few
for equations that know no chance. What the authors conclude holds here: the number of cells infused
hardly matters, and CAR-T cells infused again as the leukemia comes back make a smaller relapse.

The dose is a number of CAR-T cells; the files start from 1e7. C is what the equations give, as the
output "car_t_body". The files have no concentration in blood: "car_t" divides C by an apparent
volume Vd, assumed; fit it, or use "car_t_body". Changing alpha changes the growth of CAR-T cells
with it, since rhoC = k alpha. Fewer than NONE = 1e-6 CAR-T cells do not divide: a logarithm knows
no zero, and before an infusion there must be none.

`progenitors="as_encoded"` is the file BIOMD0000001012 to the letter. Its term of the progenitors,
rhoC beta I, lacks the factor C: it is a rate where cells per day are due, and adds CAR-T cells to a
patient who was given none. At I0 = 1e7 it leaves 0.3 % fewer CAR-T cells after a year than
"marrow". The factor is taken to be lost in the file: a transcription of the paper's full model, for
the program SIAN, has it.

Reference: León-Triana et al. (2021, online 2020) Commun Nonlinear Sci Numer Simul 94:105570,
doi:10.1016/j.cnsns.2020.105570. Only its abstract was read. Equations and numbers are those of
BioModels BIOMD0000001011 (the paper's equations 4a to 4c) and BIOMD0000001012 (3a to 3c), read in
exports of the files. No spread is published. Left out: the full model with CD19- stem cells, of
which no numbers could be read, and the authors' formulas of the largest expansion and the day of
relapse; `c_max` below is our own.
"""

from typing import Literal

import jax.numpy as jnp

import carpk as ck
from carpk.models import _body as body

FILE = "León-Triana 2020, as in BIOMD0000001011"
MARROW = "León-Triana 2020, as in BIOMD0000001012"
NONE = 1e-6  # cells; see above


class Params(ck.Params):
    alpha: ck.Scalar = ck.param(4.5e-11, "1/cell/day", "killing rate per CAR-T cell", FILE)
    k: ck.Scalar = ck.param(0.25, "1", "CAR-T cells gained per cell killed", FILE)
    tC: ck.Scalar = ck.param(14.0, "day", "mean life of CAR-T cells", FILE)
    rL: ck.Scalar = ck.param(1 / 30, "1/day", "growth rate of the leukemia", FILE)
    tB: ck.Scalar = ck.param(60.0, "day", "mean life of B cells", FILE)
    L0: ck.Scalar = ck.param(5e10, "cells", "leukemic cells at the infusion", FILE)
    B0: ck.Scalar = ck.param(2.5e10, "cells", "healthy B cells at the infusion", FILE)
    Vd: ck.Scalar = ck.param(
        500.0,
        "L",
        "apparent volume: CAR-T cells in the body over those per volume of blood",
        "assumed: that of T cells in Kimmel 2021, 2.5e11 in the body at 500/µL",
    )


class MarrowParams(Params):
    I0: ck.Scalar = ck.param(1e7, "cells", "CD19+ progenitors without CAR-T cells", MARROW)
    tI: ck.Scalar = ck.param(6.0, "day", "days for progenitors to become B cells", MARROW)
    beta: ck.Scalar = ck.param(
        0.1, "1", "how far progenitors excite CAR-T cells, of B cells", MARROW
    )
    C50: ck.Scalar = ck.param(1e9, "cells", "CAR-T cells that halve the progenitors", MARROW)


class States(ck.States):
    C: ck.Scalar = ck.state("cells", "CAR-T cells", log=True)
    L: ck.Scalar = ck.state("cells", "leukemia", log=True)
    B: ck.Scalar = ck.state("cells", "healthy B cells", log=True)


class FilledStates(States):
    """CAR-T cells that arise from none cannot be a logarithm."""

    C: ck.Scalar = ck.state("cells", "CAR-T cells")


def none(t: ck.Scalar, y: States, p: Params) -> States:
    """No new B cells."""
    return slopes(y, p, excited=(y.L + y.B) * dividing(y), made=0.0)


def marrow(t: ck.Scalar, y: States, p: MarrowParams) -> States:
    """B cells are made, and their progenitors excite CAR-T cells."""
    progenitors = p.I0 / (1 + y.C / p.C50)
    excited = (y.L + y.B + p.beta * progenitors) * dividing(y)
    return slopes(y, p, excited, progenitors / p.tI)


def as_encoded(t: ck.Scalar, y: States, p: MarrowParams) -> States:
    """The same with the progenitors' term as in the file."""
    progenitors = p.I0 / (1 + y.C / p.C50)
    return slopes(y, p, (y.L + y.B) * dividing(y) + p.beta * progenitors, progenitors / p.tI)


def dividing(y: States) -> ck.Scalar:
    """CAR-T cells that can divide [cells]: all, unless there are none."""
    return y.C * y.C**2 / (y.C**2 + NONE**2)


def slopes(y: States, p: Params, excited: ck.Scalar, made: ck.Scalar) -> States:
    """Derivatives [per day], with CAR-T cells x cells met, and with B cells made per day."""
    return type(y)(
        C=p.k * p.alpha * excited - y.C / p.tC,
        L=(p.rL - p.alpha * y.C) * y.L,
        B=made - (p.alpha * y.C + 1 / p.tB) * y.B,
    )


def curative_progenitors(p: MarrowParams) -> ck.Scalar:
    """I0 from which on B cells and progenitors alone excite `c_hold` CAR-T cells [cells]."""
    b_cells = 1 / (p.tI * (p.rL + 1 / p.tB))  # per progenitor
    return (1 + p.rL / (p.alpha * p.C50)) / (p.k * p.alpha * p.tC * (b_cells + p.beta))


def start(p: Params) -> States:
    return States(L=p.L0, B=p.B0)


def filled_start(p: MarrowParams) -> FilledStates:
    return FilledStates(L=p.L0, B=p.B0)


def build(progenitors: Literal["none", "marrow", "as_encoded"] = "none") -> ck.ODEModel:
    """The model without new B cells, with them, or with them as in the public file."""
    params, states, vector_field, initial = FORMS[progenitors]

    def peak(p: Params, cells: float) -> ck.Scalar:
        days = jnp.linspace(1.0, 40.0, 157)
        return jnp.max(ck.solve(build(progenitors), ck.Regimen.cells(0, cells), days, p)["car_t"])

    return ck.ODEModel(
        name="leontriana2020",
        reference="doi:10.1016/j.cnsns.2020.105570",
        params=params,
        states=states,
        vector_field=vector_field,
        initial=initial,
        targets={"car_t": ck.Target("C")},
        outputs=OUTPUTS,
        units={"car_t": "cells/µL", "car_t_body": "cells", "tumor": "cells", "b_cells": "cells"},
        one_cell={"tumor": 1.0, "car_t_body": 1.0},
        regimens={"paper": ck.Regimen.cells(0, 1e7)},
        derived=DERIVED if progenitors == "none" else DERIVED | CURATIVE,
        published={
            # Abstract: "the number of CAR T cells injected does not critically affect the treatment
            # outcome"; here: with ten times the cells, the peak stays within a tenth
            "peak after 1e8 cells over the peak after 1e7": (
                lambda p: peak(p, 1e8) / peak(p, 1e7),
                1.0,
                0.1,
            ),
            # as the program that wrote BIOMD0000001011 evaluates it
            "rhoC [1/cell/day]": (lambda p: p.k * p.alpha, 1.125e-11, 1e-9),
        },
    )


FORMS = {
    "none": (Params, States, none, start),
    "marrow": (MarrowParams, States, marrow, start),
    "as_encoded": (MarrowParams, FilledStates, as_encoded, filled_start),
}
OUTPUTS = {
    "car_t": lambda t, y, p: y.C / (p.Vd * body.UL_PER_L),
    "car_t_body": lambda t, y, p: y.C,
    "tumor": lambda t, y, p: y.L,
    "b_cells": lambda t, y, p: y.B,
}
DERIVED = {
    "t_double_tumor": (lambda p: jnp.log(2) / p.rL, "day"),
    # CAR-T cells that only just hold the leukemia, and cells with CD19 that only just hold them
    "c_hold": (lambda p: p.rL / p.alpha, "cells"),
    "cd19_hold": (lambda p: 1 / (p.k * p.alpha * p.tC), "cells"),
    # peak beside the dose, were growth of L and losses too slow to matter: then C + k (L + B) stays
    "c_max": (lambda p: p.k * (p.L0 + p.B0), "cells"),
}
# With more, no leukemia lives on: "Persistence of the disease depends on the generation of B-cells
# in the bone marrow" (highlights)
CURATIVE = {"I0_cure": (curative_progenitors, "cells")}
model = build()
