"""T cells and tumor after axicabtagene ciloleucel in large B-cell lymphoma (Kimmel 2021).

Lymphodepletion leaves few normal T cells (N). They and the CAR-T cells (C) regrow by a Gompertz
law into the same space, T = N + C. CAR-T cells divide fast while there is room but stop at a lower
T than normal cells, so they peak when T passes KC and are then displaced. They kill tumor (B) at a
rate that saturates:

    N' = -rN N ln(T / KN)
    C' = -rC(T) C ln(T / KC),    rC(T) = rhoC + b (T - KN)² / (a T² + (T - KN)²)
    B' = rB B - gammaB B C / (kB + C)

Fitted by the authors to medians of ZUMA-1 and of 55 patients of Moffitt. Two forms:
`load_model("kimmel2021")` counts T cells per µL and the tumor in mL, `load_model("kimmel2021",
scale="body")` counts all of them in the body. 1 cell/µL is 5e8 cells and 1 mL of tumor 1e9, as the
paper's Table 1 and its text imply. The outputs are in cells/µL and mL in both. The forms differ in
the rounding of KC and kB, by 0.1 %: that is 0.4 % of the peak of CAR-T cells, 2 % of those left at
one year, and 17 % of the tumor that has come back by then.

Time zero is the infusion: N0 is what lymphodepletion has left on that day, so ask for no earlier
one, from which T cells would begin to regrow. The dose of the paper is `Regimen.cells(0, 1.8e8)`,
which is 0.36 cells/µL. Lymphodepletion drugs are not in the model. Before a second infusion
lymphodepletion is an event that leaves a share of all T cells; here the one that takes 500 cells/µL
back to 6, on the day of the infusion and named before it, so that it spares the new cells:

    lymphodepletion = ck.Regimen((ck.Multiply(90, 6 / 500, "N"), ck.Multiply(90, 6 / 500, "C")))
    regimen = lymphodepletion + ck.Regimen.cells([0, 90], 1.8e8)

Without it, so the authors, a second infusion does not help.

The tumor always returns in these equations. It may do so from less than one cell (1e-9 mL), which
is no relapse: solutions name the day (`one_cell`). The paper switches to single cells below 100
cells and finds most cures between days 20 and 80. `load_model("kimmel2021", cure=True)` has their
chance in closed form instead, as the output "cure": the probability that no tumor cell is left.
Every cell divides at rate rB + turnover and dies at rate mu = turnover + gammaB C / (kB + C), on
its own, so that (Kendall 1948) a lineage lives on until day t with the probability

    S = 1 / (1 + J),    J = integral of mu(s) B0 / B(s) ds from 0 to t,

and the n = B0 1e9 lineages have died out with (1 - S)^n. J grows beyond any number, so the state is
w = S B0 / B, which stays between 0 and 1: w' = w (mu - (rB + turnover) - mu w). The paper's own
split of rB into births and deaths stands in its supplement; `turnover` is assumed. This holds while
nothing but these equations changes B. Ask for it some 300 days after the last infusion.

Reference: Kimmel, Locke & Altrock (2021) Proc R Soc B 288:20210229, doi:10.1098/rspb.2021.0229,
Table 1, read in an OCR of the paper; the supplement was not read. Cells per µL: BioModels
BIOMD0000001041. Between-patient spread is published as quartiles only, quoted below, so no
parameter has a random effect. Errata: those of a and b do not contain the fitted values; the main
text prints a slip of brackets in rC, while the legend of Figure 2 and BioModels agree on the form
above; the axes of Figure 2 say "per ml" for per µL; BioModels stores rB = 0.01. Not identifiable
from each other, say the authors: kB from rB (correlation 0.94) and kB from gammaB (-0.96).
"""

from typing import Literal

import jax.numpy as jnp

import carpk as ck
from carpk.models import _body as body
from carpk.models import _variants as variants

TABLE = "Kimmel 2021, Table 1"
BIOMODELS = "BIOMD0000001041; in cells: " + TABLE
IN_CELLS = {"KN": 2.50e11, "KC": 6.96e10, "kB": 2.024e9, "N0": 3.0e9, "B0": 9.486e10}  # Table 1


class Params(ck.Params):
    KN: ck.Scalar = ck.param(
        500.0,
        "cells/µL",
        "T cells at which normal ones stop",
        BIOMODELS,
        prior_sd=0.3,
    )
    KC: ck.Scalar = ck.param(
        139.0,
        "cells/µL",
        "T cells at which CAR-T cells peak",
        BIOMODELS + " (quartiles 6.15e10 to 9.65e10 cells)",
        prior_sd=0.4,
    )
    rN: ck.Scalar = ck.param(
        0.170,
        "1/day",
        "growth rate of normal T cells",
        TABLE + " (quartiles 0.165 to 0.170)",
        prior_sd=0.3,
    )
    rhoC: ck.Scalar = ck.param(
        0.0251,
        "1/day",
        "growth rate of CAR-T cells when T = KN",
        TABLE + " (quartiles 0.0208 to 0.0354)",
        prior_sd=0.5,
    )
    a: ck.Scalar = ck.param(
        0.423,
        "1",
        "how soon crowding slows CAR-T cells",
        TABLE + " (quartiles printed as 0.100 to 0.302)",
        prior_sd=0.5,
    )
    b: ck.Scalar = ck.param(
        0.525,
        "1/day",
        "growth rate that room adds for CAR-T cells",
        TABLE + " (quartiles printed as 0.467 to 0.522)",
        prior_sd=0.3,
    )
    rB: ck.Scalar = ck.param(
        0.19,
        "1/day",
        "growth rate of the tumor",
        "Kimmel 2021, Figure 3: medium; slow 0.105, fast 0.265; Table 1: 0.01 to 0.50",
        prior_sd=0.5,
    )
    gammaB: ck.Scalar = ck.param(
        1.15, "1/day", "largest killing rate", TABLE + " (quartiles 0.64 to 1.35)", prior_sd=0.6
    )
    kB: ck.Scalar = ck.param(
        4.05,
        "cells/µL",
        "CAR-T cells that kill at half the largest rate",
        BIOMODELS + " (quartiles 1.40e9 to 3.125e9 cells)",
        prior_sd=0.6,
    )
    N0: ck.Scalar = ck.param(6.0, "cells/µL", "normal T cells at the infusion", BIOMODELS)
    B0: ck.Scalar = ck.param(
        94.86,
        "mL",
        "tumor at the infusion",
        BIOMODELS + "; Figure 3: smallest 2.3e9, largest 1.3e12 cells",
    )


class CureParams(Params):
    turnover: ck.Scalar = ck.param(
        0.5, "1/day", "death rate of tumor cells without CAR-T cells", "assumed"
    )


class States(ck.States):
    N: ck.Scalar = ck.state("cells/µL", "normal T cells", log=True)
    C: ck.Scalar = ck.state("cells/µL", "CAR-T cells", log=True)
    B: ck.Scalar = ck.state("mL", "tumor", log=True)


class CureStates(States):
    w: ck.Scalar = ck.state(
        "1", "chance that a lineage of tumor cells lives on, over B/B0", 1.0, log=True
    )


class BodyStates(States):
    N: ck.Scalar = ck.state("cells", "normal T cells", log=True)
    C: ck.Scalar = ck.state("cells", "CAR-T cells", log=True)
    B: ck.Scalar = ck.state("cells", "tumor", log=True)


class BodyCureStates(BodyStates, CureStates):
    pass


FORMS: dict[tuple[str, bool], tuple[type[Params], type[States]]] = {
    ("blood", False): (Params, States),
    ("blood", True): (CureParams, CureStates),
    ("body", False): (Params, BodyStates),
    ("body", True): (CureParams, BodyCureStates),
}


def in_cells(params: type[Params]) -> type[Params]:
    """The parameters with all T cells and tumor cells of the body counted, as in Table 1."""
    of = {n: i.source.replace(BIOMODELS, TABLE) for n, i in params.info().items()}
    return variants.with_fields(
        params,
        {
            n: variants.like(params, n, value=x, unit="cells", source=of[n])
            for n, x in IN_CELLS.items()
        },
    )


def slopes(y: States, p: Params) -> dict[str, ck.Scalar]:
    """Derivatives [per day]: equations 2.1 to 2.3."""
    total = y.N + y.C
    log_total = jnp.log(total)
    room = (total - p.KN) ** 2
    rC = p.rhoC + p.b * room / (p.a * total**2 + room)
    return dict(
        N=-p.rN * y.N * (log_total - jnp.log(p.KN)),
        C=-rC * y.C * (log_total - jnp.log(p.KC)),
        B=y.B * (p.rB - p.gammaB * y.C / (p.kB + y.C)),
    )


def vector_field(t: ck.Scalar, y: States, p: Params) -> States:
    """The equations of the paper."""
    return type(y)(**slopes(y, p))


def vector_field_with_cure(t: ck.Scalar, y: CureStates, p: CureParams) -> CureStates:
    """The same, and that of w."""
    death = p.turnover + p.gammaB * y.C / (p.kB + y.C)
    return type(y)(**slopes(y, p), w=y.w * (death - (p.rB + p.turnover) - death * y.w))


def build(
    scale: Literal["blood", "body"] = "blood", cure: Literal[False, True] = False
) -> ck.ODEModel:
    """The model with T cells per µL and the tumor in mL ("blood"), or in cells ("body")."""
    blood = scale == "blood"
    count = "cells/µL" if blood else "cells"
    per_ul, per_ml = (1.0, 1.0) if blood else (body.CELLS_PER_UL, body.CELLS_PER_ML)

    def no_cell_left(t: ck.Scalar, y: CureStates, p: CureParams) -> ck.Scalar:
        alive = jnp.minimum(y.w * y.B / p.B0, 1 - 1e-9)
        return jnp.exp(p.B0 / per_ml * body.CELLS_PER_ML * jnp.log1p(-alive))

    outputs = {
        "car_t": lambda t, y, p: y.C / per_ul,
        "t_cells": lambda t, y, p: y.N / per_ul,
        "tumor": lambda t, y, p: y.B / per_ml,
    }
    units = {"car_t": "cells/µL", "t_cells": "cells/µL", "tumor": "mL"}
    params, states = FORMS[scale, cure]
    if not blood:
        params = in_cells(params)
    if cure:
        outputs["cure"] = no_cell_left
        units["cure"] = "probability"

    if blood:
        published = {  # Table 1 counts cells; rounding of the cells/µL form: BIOMD0000001041
            "carrying capacity of normal T cells [cells]": (
                lambda p: p.KN * body.CELLS_PER_UL,
                2.50e11,
            ),
            "carrying capacity of CAR-T cells [cells]": (
                lambda p: p.KC * body.CELLS_PER_UL,
                6.96e10,
            ),
            "saturation of killing [cells]": (lambda p: p.kB * body.CELLS_PER_UL, 2.024e9),
            "normal T cells at the infusion [cells]": (lambda p: p.N0 * body.CELLS_PER_UL, 3.00e9),
            "tumor at the infusion [cells]": (lambda p: p.B0 * body.CELLS_PER_ML, 9.486e10),
        }
    else:
        published = {  # BIOMD0000001041; the tumor: legend of Figure 1
            "carrying capacity of normal T cells [/µL]": (
                lambda p: p.KN / body.CELLS_PER_UL,
                500.0,
            ),
            "carrying capacity of CAR-T cells [/µL]": (lambda p: p.KC / body.CELLS_PER_UL, 139.0),
            "saturation of killing [/µL]": (lambda p: p.kB / body.CELLS_PER_UL, 4.05),
            "normal T cells at the infusion [/µL]": (lambda p: p.N0 / body.CELLS_PER_UL, 6.0),
            "tumor at the infusion [mL]": (lambda p: p.B0 / body.CELLS_PER_ML, 94.86),
        }

    return ck.ODEModel(
        name="kimmel2021",
        product="axicabtagene ciloleucel",
        reference="doi:10.1098/rspb.2021.0229",
        params=params,
        states=states,
        vector_field=vector_field_with_cure if cure else vector_field,
        initial=lambda p: states(N=p.N0, C=0.0, B=p.B0),
        targets={"car_t": ck.Target("C", scale=lambda p: per_ul / body.CELLS_PER_UL)},
        outputs=outputs,
        units=units,
        one_cell={"tumor": 1 / body.CELLS_PER_ML},
        regimens={"paper": ck.Regimen.cells(0, 1.8e8)},
        derived={
            # CAR-T cells that only just hold the tumor; there are none where rB >= gammaB
            "c_hold": (lambda p: p.kB * p.rB / (p.gammaB - p.rB), count),
            "t_double_tumor": (lambda p: jnp.log(2) / p.rB, "day"),
            # of CAR-T cells once normal T cells are back at KN
            "t_half_late": (lambda p: jnp.log(2) / (p.rhoC * jnp.log(p.KN / p.KC)), "day"),
        },
        published=published,
    )


model = build()
