"""Gompertz growth of a tumor, with killing in proportion to an exposure (Norton 1988, breast).

The nearer the tumor (B) comes to its largest size, the slower it grows. Killing is added here:

    B' = g B ln(Bmax/B) - kill exposure B

The exposure is what the regimen says it is: a state that nothing in the equations changes, set and
ended with events. It is meant as a share of the largest effect, between 0 and 1; for CAR-T cells at
a level E it may be E / (kB + E). Four weeks of full effect:

    ck.Regimen((ck.Replace(0, 1, "exposure"), ck.Replace(28, 0, "exposure")))

While it is constant, with x = kill exposure / g,

    ln B = ln Bmax - x + (ln(B0/Bmax) + x) exp(-g t)

so the tumor goes to Bmax exp(-x) and never to 0. Below one cell the equations have nothing to say:
solutions name the day (`one_cell`). The growth rate without exposure is that of B0: small tumors
grow faster, relatively, and what is left after killing grows back faster than it grew before.

"sld" is the sum of diameters over that at the start, (B/B0)^(1/3): what it would be if every lesion
kept its shape and its share of the cells. In millimeters it is not known.

Growth: Norton (1988) Cancer Res 48:7067-7071, untreated breast cancer: Bmax = 3.1e12 cells; ln g,
g per month, is normal with mean -2.9 and SD 0.71. Read as quoted by others, not in the paper. B0
and all of the killing are assumed, for no tumor in particular: replace them.
"""

import math

import jax.numpy as jnp

import carpk as ck

NORTON = "Norton 1988, breast cancer, read as quoted by others"
DAYS_PER_MONTH = 365.25 / 12
LETHAL = 1e12  # cells; Norton 1988


class Params(ck.Params):
    g: ck.Scalar = ck.param(
        math.exp(-2.9),
        "1/month",
        "growth rate per ln of Bmax/B",
        NORTON + ": ln g is -2.9, SD 0.71",
        iiv=0.71,
        prior_sd=0.7,
    )
    Bmax: ck.Scalar = ck.param(3.1e12, "cells", "largest size of the tumor", NORTON)
    B0: ck.Scalar = ck.param(
        1e10, "cells", "tumor at the start", "assumed: about 10 mL", prior_sd=0.5
    )
    kill: ck.Scalar = ck.param(
        0.05, "1/day", "killing rate at an exposure of 1", "assumed: shrinks 1e10 cells in weeks"
    )


class States(ck.States):
    B: ck.Scalar = ck.state("cells", "tumor", log=True)
    exposure: ck.Scalar = ck.state("share of the largest effect", "exposure, set by events")


def rate(p: Params) -> ck.Scalar:
    """g per day."""
    return p.g / DAYS_PER_MONTH


def vector_field(t: ck.Scalar, y: States, p: Params) -> States:
    """Derivatives [per day]."""
    growth = rate(p) * (jnp.log(p.Bmax) - jnp.log(y.B))
    return States(B=y.B * (growth - p.kill * y.exposure), exposure=0.0)


def size(p: Params, exposure: ck.Scalar, t: ck.Scalar) -> ck.Scalar:
    """The tumor [cells] after t days of a constant exposure."""
    x = p.kill * exposure / rate(p)
    log_ratio = (jnp.log(p.B0 / p.Bmax) + x) * jnp.exp(-rate(p) * t)
    return p.Bmax * jnp.exp(log_ratio - x)


def days_to(p: Params, cells: ck.Scalar) -> ck.Scalar:
    """Day on which the tumor has this size without any exposure."""
    return jnp.log(jnp.log(p.Bmax / p.B0) / jnp.log(p.Bmax / cells)) / rate(p)


model = ck.ODEModel(
    name="gompertz",
    params=Params,
    states=States,
    vector_field=vector_field,
    initial=lambda p: States(B=p.B0, exposure=0.0),
    outputs={
        "tumor": lambda t, y, p: y.B,
        "sld": lambda t, y, p: jnp.exp((jnp.log(y.B) - jnp.log(p.B0)) / 3),
    },
    units={"tumor": "cells", "sld": "fraction of baseline"},
    one_cell={"tumor": 1.0},
    regimens={
        "full effect for 28 days (assumed)": ck.Regimen(
            (ck.Replace(0.0, 1.0, "exposure"), ck.Replace(28.0, 0.0, "exposure"))
        )
    },
    derived={
        "t_double": (lambda p: days_to(p, 2 * p.B0), "day"),
        "t_lethal": (lambda p: days_to(p, LETHAL), "day"),
        # exposure that only just holds a tumor of B0
        "exposure_to_hold": (lambda p: rate(p) * jnp.log(p.Bmax / p.B0) / p.kill, "1"),
    },
)
