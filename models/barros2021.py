"""CAR-T cells and blood cancer in mice: effectors, memory cells, tumor (CARTmath, Barros 2021).

Effector CAR-T cells (C) kill tumor cells (T), turn into memory cells (M) and are inhibited by the
tumor; memory cells turn back into effectors where they meet it:

    C' = (phi - rho) C + theta T M - alpha T C
    M' = eps C - theta T M - mu M
    T' = r T (1 - b T) - gamma C T

This is a model of immunodeficient mice, in cells per mouse: doses, times and levels are not those
of patients. `cells` is the tumor and its CAR: "hdlm2" (HDLM-2 Hodgkin lymphoma, CAR-T 123),
"raji" (RAJI lymphoma, CAR-T 19), "raji_ido" (RAJI that makes the inhibitor IDO) and "raji_ido_1mt"
(the same, treated with 1-MT, which blocks IDO). The three RAJI forms differ in alpha only, the
place for any checkpoint or its blocker. phi and rho are in the equations as a difference only, so
`delta` = rho - phi is the parameter; for RAJI it is the small difference of two printed numbers
(0.8300536 - 0.83), of which no digit may go.

Everything is a dose: tumor cells too (product "tumor"), 2e6 HDLM-2 or 3e6 RAJI on day 0, which is
the inoculation and not the infusion. CAR-T cells follow on day 42 (HDLM-2) or 7 (RAJI), and all of
them take part. `regimen({42: 5e5, 49: 5e5}, {0: 2e6, 250: 1e6})` in this file makes fractionated
doses and rechallenges. A mouse that is given no tumor has none.

With M in balance, C grows only while the tumor lies between two sizes (`dormant` and `escape`).
Above `escape` the tumor wins; below `dormant` so few cells are left that C dies away, and T comes
to rest near `dormant` where memory lasts. The paper calls the outcome on day 300 a complete
response below 8e5 tumor cells and none above 1e10. The equations never reach 0: "eliminated" is
less than one cell (`one_cell`), and what returns from there is no relapse. The authors' simulator
sets what is below 1e-6 cells to 0, which is not done here.

RAJI is stiff (theta T is 1e5 per day and more): `method="kvaerno5"`. Its tumor has no limit (b = 0,
so there is no b), and CAR-T cells do not hold it: the authors simulate 15 days, and far longer
times mean nothing.

Reference: Barros et al. (2021) Cancers 13:2941, doi:10.3390/cancers13122941. Equations and numbers
were read in the paper and agree with the authors' simulator (CARTmath) and, but for a digit of
alpha with 1-MT, with BIOMD0000001019 and BIOMD0000001020. Those two set C to the dose where the
paper adds it, and BIOMD0000001019 does so on day 45: `regimens["BioModels"]`. Doses of Figures 3
and 4 are as the simulator and a public redrawing have them. No spread between mice was estimated;
the paper's virtual mice vary every parameter by up to 60 %, with rho between phi and phi + eps.
"""

from bisect import bisect_left
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp

import carpk as ck
from carpk.models import _variants as variants

MILLION = 1e6  # C and M are counted in it, so that solvers need not resolve 1e-12 cells
PAPER = "Barros 2021, table of parameters"
HDLM2 = dict(delta=0.350 - 0.265, eps=0.150, theta=6.0e-6, alpha=4.5e-8, mu=5.0e-3)
HDLM2 |= dict(r=5.650026e-2, gamma=3.715843e-6)
RAJI = dict(delta=0.8300536 - 0.830, eps=1.59795, theta=2.3e-4, mu=6.89e-7)
RAJI |= dict(r=0.5071721, gamma=3.365388e-8)
CELLS = {
    "hdlm2": HDLM2,
    "raji": RAJI | dict(alpha=1.248506e-8),
    "raji_ido": RAJI | dict(alpha=1.461699e-8),
    "raji_ido_1mt": RAJI | dict(alpha=1.261662e-8),
}


def regimen(car_t: Mapping[float, float], tumor: Mapping[float, float]) -> ck.Regimen:
    """Cells by day: of CAR-T cells, and of tumor cells that are injected."""
    return ck.Regimen.cells(list(tumor), list(tumor.values()), product="tumor") + ck.Regimen.cells(
        list(car_t), list(car_t.values())
    )


INOCULATED = {0.0: 2e6}
IN_HDLM2 = {
    "2 million cells": regimen({42: 2e6}, INOCULATED),
    "rechallenge": regimen({42: 2e6}, {0: 2e6, 250: 1e6}),
    "1.5 million cells": regimen({42: 1.5e6}, INOCULATED),
    "0.5 million cells": regimen({42: 0.5e6}, INOCULATED),
    "0.2 million cells": regimen({42: 0.2e6}, INOCULATED),
    "4 doses, every week": regimen({42 + 7 * k: 0.5e6 for k in range(4)}, INOCULATED),
    "4 doses, every 2 weeks": regimen({42 + 14 * k: 0.5e6 for k in range(4)}, INOCULATED),
    "10, 30 and 60 % on 3 days": regimen({42: 0.2e6, 43: 0.6e6, 44: 1.2e6}, INOCULATED),
    "BioModels": ck.Regimen.cells(0, 2e6, product="tumor")
    + ck.Regimen((ck.Replace(45.0, 2.0, "C"),)),
}
IN_RAJI = {"10 million cells": regimen({7: 1e7}, {0: 3e6})}


# Runs of both BioModels files with libRoadRunner (Biosimulant/models-oncology), last day reported
PUBLIC_RUNS = {
    "hdlm2": {"tumor": 3.33e6},
    "raji": {"tumor": 1.29e8, "car_t_body": 1.28e7, "memory": 685.8},
}


class States(ck.States):
    C: ck.Scalar = ck.state("million cells", "effector CAR-T cells")
    M: ck.Scalar = ck.state("million cells", "memory CAR-T cells")
    T: ck.Scalar = ck.state("cells", "tumor", log=True)


class Params(ck.Params):
    delta: ck.Scalar = ck.param(
        HDLM2["delta"], "1/day", "loss of effectors over their division", PAPER + ": rho - phi"
    )
    eps: ck.Scalar = ck.param(
        HDLM2["eps"], "1/day", "rate at which effectors make memory cells", PAPER
    )
    theta: ck.Scalar = ck.param(
        HDLM2["theta"], "1/cell/day", "return of memory cells, per tumor cell", PAPER
    )
    alpha: ck.Scalar = ck.param(
        HDLM2["alpha"], "1/cell/day", "inhibition of effectors, per tumor cell", PAPER
    )
    mu: ck.Scalar = ck.param(HDLM2["mu"], "1/day", "death rate of memory cells", PAPER)
    r: ck.Scalar = ck.param(HDLM2["r"], "1/day", "growth rate of the tumor", PAPER, prior_sd=0.5)
    gamma: ck.Scalar = ck.param(HDLM2["gamma"], "1/cell/day", "killing rate per effector", PAPER)


class Limited(Params):
    b: ck.Scalar = ck.param(1.404029e-12, "1/cell", "1 over the largest tumor", PAPER)


def slopes(y: States, p: Params, growth: ck.Scalar) -> States:
    """Derivatives [per day], where the tumor alone would grow at the rate `growth`."""
    woken = p.theta * y.T * y.M
    return States(
        C=-(p.delta + p.alpha * y.T) * y.C + woken,
        M=p.eps * y.C - woken - p.mu * y.M,
        T=y.T * (growth - p.gamma * MILLION * y.C),
    )


def limited(t: ck.Scalar, y: States, p: Limited) -> States:
    """A tumor that grows to 1 / b."""
    return slopes(y, p, p.r * (1 - p.b * y.T))


def unlimited(t: ck.Scalar, y: States, p: Params) -> States:
    """A tumor that grows for ever."""
    return slopes(y, p, p.r)


def sizes(p: Params) -> tuple[ck.Scalar, ck.Scalar]:
    """Tumor at which C neither grows nor shrinks, M being in balance: the smaller, the larger."""
    a, b, c = p.alpha * p.theta, p.theta * (p.eps - p.delta) - p.alpha * p.mu, p.delta * p.mu
    larger = (b + jnp.sqrt(b**2 - 4 * a * c)) / (2 * a)
    return c / (a * larger), larger


def least_dose(model: ck.ODEModel, p: Params) -> int:
    """CAR-T cells on day 42 that 2 million HDLM-2 cells do not survive 300 days, to 20,000."""

    def controls(dose: int) -> bool:
        day_300 = ck.solve(model, regimen({42: dose}, INOCULATED), [300.0], p)["tumor"][0]
        return bool(day_300 < 8e5)

    doses = range(100_000, 2_000_001, 20_000)
    return doses[bisect_left(doses, True, key=controls)]


def build(cells: Literal["hdlm2", "raji", "raji_ido", "raji_ido_1mt"] = "hdlm2") -> ck.ODEModel:
    """The tumor, and the CAR-T cells made against it."""
    hodgkin = cells == "hdlm2"
    published: dict[str, tuple[Any, ...]] = {}
    if cells in PUBLIC_RUNS:
        published = {
            f"{output} on day 9 [cells]": (
                lambda p, output=output: ck.solve(mice, first, [9.0], p)[output][0],
                level,
                0.003,  # three digits
            )
            for output, level in PUBLIC_RUNS[cells].items()
        }
    if hodgkin:  # from a public redrawing of Figure 5, which steps by 20,000 cells
        published["least dose against 2 million cells"] = (lambda p: least_dose(mice, p), 260_000)

    regimens = IN_HDLM2 if hodgkin else IN_RAJI
    first: ck.Regimen = next(iter(regimens.values()))
    mice: ck.ODEModel = ck.ODEModel(
        name="barros2021",
        reference="doi:10.3390/cancers13122941",
        params=Limited if hodgkin else variants.revised(Params, CELLS[cells]),
        states=States,
        vector_field=limited if hodgkin else unlimited,
        targets={"car_t": ck.Target("C", scale=lambda p: 1 / MILLION), "tumor": ck.Target("T")},
        outputs={
            # not below 0, around which what has died away is uncertain by 1e-6 cells
            "car_t_body": lambda t, y, p: MILLION * jnp.maximum(y.C + y.M, 0.0),
            "memory": lambda t, y, p: MILLION * jnp.maximum(y.M, 0.0),
            "tumor": lambda t, y, p: y.T,
        },
        units={"car_t_body": "cells", "memory": "cells", "tumor": "cells"},
        one_cell={"tumor": 1.0},
        regimens=regimens,
        derived={
            "dormant": (lambda p: sizes(p)[0], "cells"),
            "escape": (lambda p: sizes(p)[1], "cells"),
            "t_double_tumor": (lambda p: jnp.log(2) / p.r, "day"),
            "t_half_effectors": (lambda p: jnp.log(2) / p.delta, "day"),
            "t_half_memory": (lambda p: jnp.log(2) / p.mu, "day"),
        },
        published=published,
    )
    return mice


model = build()
