"""CAR-T cells and tumor cells in blood, the three small models of a review (Chaudhury 2020).

Expanding CAR-T cells (CE) divide until day Tmax and then shrink, leaving persistent ones (CP); the
CAR-T cells that are seen are CE + CP. Tumor cells (U) grow by a Gompertz law, which a factor F
stops where few are left, so that a cure is possible. All are per µL of blood. The forms differ in
what the tumor is to the CAR-T cells. `load_model("chaudhury2020")`, where it is nothing:

    until Tmax  CE' = rho CE                         CP' = 0
    after       CE' = -(kE + kEP) CE                 CP' = kEP CE - beta CP
                U'  = F g U ln(Um / U) / ln Um - d CE U,    F = 1 / (1 + (Uc / U)^h)

`form="ec50"`, where expansion and killing both saturate, and the rest is as above:

    until Tmax  CE' = rho CE U / (EC50rho + CE + U)
                U'  = F g U ln(Um / U) / ln Um - d CE U / (EC50d + CE + U)

`form="lotka_volterra"`, predator and prey, without phases and without CP:

                CE' = rho CE U - kE CE
                U'  = g U - d CE U

These are examples that a review draws, with kE, kEP, beta and Tmax of Stein 2019 (tisagenlecleucel
in young patients with leukemia). The files name no data that they were fitted to, and no spread.

The files start from 10 CAR-T cells per µL. Here they are a dose: `regimens["paper"]` is 5e7 cells
in V = 5 L of blood, both assumed. Tmax is counted from the infusion. With several infusions (the
review has one), CAR-T cells expand until Tmax days after the latest, those of before with them:
assumed. The states `given` and `done` tell the phases; their difference is what was infused less
than Tmax days ago.

The first-order form of the file leaves 1e-237 tumor cells per µL. Below 1e-6 the number means
nothing: one cell in 5 L is 2e-7, and solutions name the day from which less is left (`one_cell`).
So in the two forms with F, killing is left out below GONE = 1e-100, and neither the number nor its
derivatives leave double precision; no digit of a tumor above 1e-80 changes. In the third form a
tumor returns, whatever it has fallen to.

As deposited, and not mended: the first-order form starts at U0 = 900, above its own Um = 100, so
its tumor would shrink without CAR-T cells. The growth term depends on the unit of U (cells/µL),
through ln Um, and Um must be above 1. F multiplies the growth in the EC50 form as well. A second
exponent in that file, h_T = 3, is used nowhere and is left out.

Reference: Chaudhury et al. (2020) J Clin Pharmacol 60(S1), doi:10.1002/jcph.1691; EC50: equations 7
to 9. The paper was not read. Equations and numbers are those of BioModels
MODEL2109110005 (first order), BIOMD0000001024 and BIOMD0000001025, the last two read in exports of
the files, the first at second hand; a public run of each is reproduced (`published`).
"""

from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp

import carpk as ck
from carpk.models import _body as body

Form = Literal["first_order", "lotka_volterra", "ec50"]

FIRST = "Chaudhury 2020, as in MODEL2109110005"
PREY = "Chaudhury 2020, as in BIOMD0000001024"
EC50 = "Chaudhury 2020, as in BIOMD0000001025"
BOTH = "Chaudhury 2020, as in MODEL2109110005 and BIOMD0000001025"
ALL = "Chaudhury 2020, as in all three files"
LITERS = 5.0  # of blood, assumed
GONE = 1e-100  # cells/µL; see above


class Common(ck.Params):
    """What all forms have."""

    kE: ck.Scalar = ck.param(
        0.16, "1/day", "loss rate of expanding CAR-T cells", ALL + "; alpha of Stein 2019"
    )
    U0: ck.Scalar = ck.param(900.0, "cells/µL", "tumor at the infusion", ALL)
    V: ck.Scalar = ck.param(
        LITERS,
        "L",
        "blood in which infused cells are spread",
        "assumed: blood of an adult; the files have 10 cells/µL",
        prior_sd=0.5,
    )


class Phases(Common):
    """What the forms with phases have."""

    kEP: ck.Scalar = ck.param(
        0.0012, "1/day", "rate at which expanding cells become persistent", BOTH
    )
    beta: ck.Scalar = ck.param(
        0.0032, "1/day", "loss rate of persistent CAR-T cells", BOTH + "; beta of Stein 2019"
    )
    Tmax: ck.Scalar = ck.param(
        9.3,
        "day",
        "days from the infusion to the end of expansion",
        BOTH + "; Stein 2019",
        prior_sd=0.5,
    )
    Uc: ck.Scalar = ck.param(0.1, "cells/µL", "tumor below which it no longer grows", BOTH)
    h: ck.Scalar = ck.param(3.0, "1", "how sharply growth ends below Uc", BOTH, prior_sd=0.3)


class FirstOrder(Phases):
    rho: ck.Scalar = ck.param(
        1.0, "1/day", "growth rate of CAR-T cells that expand", FIRST, prior_sd=0.3
    )
    g: ck.Scalar = ck.param(0.3, "1/day", "growth rate of the tumor, were U = 1/µL", FIRST)
    d: ck.Scalar = ck.param(7e-4, "µL/cell/day", "killing rate per CAR-T cell", FIRST)
    Um: ck.Scalar = ck.param(
        100.0, "cells/µL", "tumor that grows no further", FIRST + "; below U0", prior_sd=0.5
    )


class Saturable(Phases):
    rho: ck.Scalar = ck.param(8.8, "1/day", "largest growth rate of CAR-T cells", EC50)
    EC50rho: ck.Scalar = ck.param(
        1.0, "cells/µL", "tumor at half the largest growth, CAR-T cells being few", EC50
    )
    g: ck.Scalar = ck.param(0.2, "1/day", "growth rate of the tumor, were U = 1/µL", EC50)
    d: ck.Scalar = ck.param(0.35, "1/day", "largest killing rate", EC50)
    EC50d: ck.Scalar = ck.param(
        10.0, "cells/µL", "CAR-T cells at half the largest killing, the tumor being small", EC50
    )
    Um: ck.Scalar = ck.param(1000.0, "cells/µL", "tumor that grows no further", EC50, prior_sd=0.5)


class LotkaVolterra(Common):
    rho: ck.Scalar = ck.param(
        0.0018, "µL/cell/day", "growth rate of CAR-T cells per tumor cell", PREY, prior_sd=0.5
    )
    g: ck.Scalar = ck.param(0.15, "1/day", "growth rate of the tumor", PREY)
    d: ck.Scalar = ck.param(1.5e-4, "µL/cell/day", "killing rate per CAR-T cell", PREY)


class States(ck.States):
    CE: ck.Scalar = ck.state("cells/µL", "expanding CAR-T cells", log=True)
    U: ck.Scalar = ck.state("cells/µL", "tumor", log=True)


class PhasedStates(States):
    CP: ck.Scalar = ck.state("cells/µL", "persistent CAR-T cells")
    given: ck.Scalar = ck.state("cells/µL", "CAR-T cells infused so far")
    done: ck.Scalar = ck.state("cells/µL", "of those, infused more than Tmax days ago")


def tumor_growth(u: ck.Scalar, p: FirstOrder | Saturable) -> ck.Scalar:
    """Growth rate of the tumor [1/day]. F is written with tanh: no power of Uc / U overflows."""
    log_u = jnp.log(u)
    f = (1 + jnp.tanh(p.h * (log_u - jnp.log(p.Uc)) / 2)) / 2
    return f * p.g * (1 - log_u / jnp.log(p.Um))


def in_phases(
    y: PhasedStates, p: FirstOrder | Saturable, growth: ck.Scalar, killing: ck.Scalar
) -> PhasedStates:
    """Derivatives [per day] where CAR-T cells and then no more expand, at these rates [1/day]."""
    expanding = y.given - y.done > 1e-9 * y.given
    return PhasedStates(
        CE=y.CE * jnp.where(expanding, growth, -(p.kE + p.kEP)),
        U=y.U * (tumor_growth(y.U, p) - killing * y.U / (y.U + GONE)),
        CP=jnp.where(expanding, 0.0, p.kEP * y.CE - p.beta * y.CP),
        given=jnp.zeros(()),
        done=jnp.zeros(()),
    )


def first_order(t: ck.Scalar, y: PhasedStates, p: FirstOrder) -> PhasedStates:
    return in_phases(y, p, p.rho, p.d * y.CE)


def ec50(t: ck.Scalar, y: PhasedStates, p: Saturable) -> PhasedStates:
    growth = p.rho * y.U / (p.EC50rho + y.CE + y.U)
    return in_phases(y, p, growth, p.d * y.CE / (p.EC50d + y.CE + y.U))


def lotka_volterra(t: ck.Scalar, y: States, p: LotkaVolterra) -> States:
    return States(CE=y.CE * (p.rho * y.U - p.kE), U=y.U * (p.g - p.d * y.CE))


def per_cell(p: Common) -> ck.Scalar:
    """Cells per µL of blood, per cell infused."""
    return 1 / (p.V * body.UL_PER_L)


def both(t: ck.Scalar, y: PhasedStates, p: Common) -> ck.Scalar:
    """CAR-T cells that are seen."""
    return y.CE + y.CP


def expanding_only(t: ck.Scalar, y: States, p: Common) -> ck.Scalar:
    """CAR-T cells of the form without CP."""
    return y.CE


def tumor(t: ck.Scalar, y: States, p: Common) -> ck.Scalar:
    return y.U


def start(p: Common) -> States:
    return States(U=p.U0)


def phased_start(p: Common) -> PhasedStates:
    return PhasedStates(U=p.U0)


def build(form: Form = "first_order") -> ck.ODEModel:
    """The form of the review, by what the tumor is to CAR-T cells."""
    params, vector_field = FORMS[form]
    phased = form != "lotka_volterra"
    return ck.ODEModel(
        name="chaudhury2020",
        reference="doi:10.1002/jcph.1691",
        params=params,
        states=PhasedStates if phased else States,
        vector_field=vector_field,
        initial=phased_start if phased else start,
        targets={"car_t": (BLOOD, *PHASES) if phased else BLOOD},
        outputs={"car_t": both if phased else expanding_only, "tumor": tumor},
        units={"car_t": "cells/µL", "tumor": "cells/µL"},
        one_cell={"tumor": 1 / (LITERS * body.UL_PER_L)},
        regimens={"paper": PAPER},
        derived=DERIVED[form],
        published=PUBLISHED[form],
    )


PAPER = ck.Regimen.cells(0, 10 * LITERS * body.UL_PER_L)  # 10 cells/µL
BLOOD = ck.Target("CE", scale=per_cell)
PHASES = (
    ck.Target("given", scale=per_cell),
    ck.Target("done", scale=per_cell, lag=lambda p: p.Tmax),
)
FORMS: dict[Form, tuple[type[Common], Callable[..., States]]] = {
    "first_order": (FirstOrder, first_order),
    "lotka_volterra": (LotkaVolterra, lotka_volterra),
    "ec50": (Saturable, ec50),
}

DECLINE = {
    "t_half_contraction": (lambda p: jnp.log(2) / (p.kE + p.kEP), "day"),
    "t_half_persistence": (lambda p: jnp.log(2) / p.beta, "day"),
    "persisting": (lambda p: p.kEP / (p.kE + p.kEP - p.beta), "share of the peak"),
}
DERIVED = {
    "first_order": {
        "t_double": (lambda p: jnp.log(2) / p.rho, "day"),
        "foldx": (lambda p: jnp.exp(p.rho * p.Tmax), "1"),
        **DECLINE,
    },
    "lotka_volterra": {
        "t_half_contraction": (lambda p: jnp.log(2) / p.kE, "day"),
        "c_hold": (lambda p: p.g / p.d, "cells/µL"),  # CAR-T cells that only just hold the tumor
        "u_hold": (lambda p: p.kE / p.rho, "cells/µL"),  # tumor that only just holds CAR-T cells
        "period": (lambda p: 2 * jnp.pi / jnp.sqrt(p.g * p.kE), "day"),  # of small oscillations
    },
    "ec50": DECLINE,
}

STEIN: dict[
    str, tuple[Any, ...]
] = {  # Stein 2019, whose rates the files take: its Discussion and Table 1
    "half-life of contraction [day]": (DECLINE["t_half_contraction"][0], 4.3),
    "half-life of persistence [day]": (DECLINE["t_half_persistence"][0], 220.0),
    # kEP is rounded to 0.0012, from 0.00124
    "share of the peak that persists": (DECLINE["persisting"][0], 0.0079, 0.05),
}


def on(form: Form, day: float, output: str) -> Callable[[Common], ck.Scalar]:
    """An output on a day, as a function of the parameters."""
    return lambda p: ck.solve(build(form), PAPER, [day], p)[output][0]


# Public runs of the files with libRoadRunner (Biosimulant/models-oncology), last day reported. They
# say 10 days in steps of 1 (first order: 8.5), and are what stands on day 9 (8).
PUBLISHED: dict[Form, dict[str, tuple[Any, ...]]] = {
    "first_order": STEIN
    | {"tumor on day 8 [cells/µL]": (on("first_order", 8.0, "tumor"), 5.92e-7)},
    "lotka_volterra": {
        "CAR-T cells on day 9 [cells/µL]": (on("lotka_volterra", 9.0, "car_t"), 8323.4, 1e-4),
        "tumor on day 9 [cells/µL]": (on("lotka_volterra", 9.0, "tumor"), 0.1603, 1e-3),
    },
    "ec50": STEIN | {"tumor on day 9 [cells/µL]": (on("ec50", 9.0, "tumor"), 73.681, 1e-4)},
}

model = build()
