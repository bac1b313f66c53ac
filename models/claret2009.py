"""Size of solid tumors during treatment, with growing resistance (Claret 2009, colorectal cancer).

The tumor (y, a sum of diameters) grows exponentially; the drug shrinks it in proportion to the
exposure, ever less as resistance grows with the time t since treatment began:

    y' = KL y - KD0 exp(-lambda t) Exposure y

The exposure is what the regimen says it is: a state that nothing in the equations changes. It is
set, held and ended with events, in units of its own:

    ck.Regimen((ck.Replace(0, 2.07, "exposure"), ck.Replace(42, 0, "exposure")))

While it is constant, y = y0 exp(KL t - KD0 Exposure (1 - exp(-lambda t)) / lambda). `START` is the
day on which treatment begins, 0 unless told otherwise: set it if the first exposure is on another
day, for resistance counts from there.

The parameters are those of a file at BioModels that was never curated, MODEL1708310001, without
random effects; the paper's own table was not read. The rates of the file carry no unit of time. The
paper is said to count weeks, and so does this model unless told otherwise; the file as it stands
runs in days: `load_model("claret2009", time_base="day")`. A meeting abstract of the same authors
(PAGE, abstract 1312) speaks for weeks: capecitabine at 1250, 1000 and 850 mg/m² twice daily shrinks
tumors by 13.1, 9.0 and 6.6 % at week 6. With weeks, the exposure that gives the first (2.07) gives
8.3 and 5.4 % for the others in proportion to dose; with days, tumors would grow under both.

What the exposure is was not read either: the paper takes the dose, says DDMODEL00000090. The
regimen of the file is capecitabine twice daily, 14 days of 21: an exposure of 12 for 1.5 hours at
each dose, 1.5 on average over a day of treatment. Its days are days in both time bases. The unit of
y is not stated (y0 = 200).

Reference: Claret et al. (2009) J Clin Oncol 27:4103-4108, doi:10.1200/JCO.2008.21.0807. Read:
MODEL1708310001 and abstracts, not the paper. Left out: its model of survival.
"""

from typing import Any, Literal

import jax.numpy as jnp

import carpk as ck
from carpk.models import _variants as variants

FILE = "MODEL1708310001 (not curated)"
DAYS = {"week": 7.0, "day": 1.0}
SHRINKAGE = 13.1  # % at week 6, capecitabine 1250 mg/m² twice daily; PAGE, abstract 1312


class States(ck.States):
    y: ck.Scalar = ck.state("unit not stated", "size of the tumor", log=True)
    exposure: ck.Scalar = ck.state("1", "exposure to the drug, set by events")


class Params(ck.Params):
    KL: ck.Scalar = ck.param(0.021, "1/week", "growth rate of the tumor", FILE)
    KD0: ck.Scalar = ck.param(0.025, "1/week", "shrinkage rate per exposure, at the start", FILE)
    lam: ck.Scalar = ck.param(0.053, "1/week", "rate at which resistance appears (lambda)", FILE)
    y0: ck.Scalar = ck.param(200.0, "unit not stated", "size of the tumor at the start", FILE)
    START: ck.Scalar = ck.covariate(
        0.0, "day", "day on which treatment begins", "time zero, assumed"
    )


def relative_size(p: Params, exposure: ck.Scalar, t: ck.Scalar) -> ck.Scalar:
    """Size over that at the start, at time t of a constant exposure, t in the unit of the rates."""
    killing = p.KD0 * exposure * -jnp.expm1(-p.lam * t) / p.lam
    return jnp.exp(p.KL * t - killing)


def shrinkage(p: Params, dose: float) -> ck.Scalar:
    """At week 6 [%] with this share of the exposure that gives `SHRINKAGE`; rates per week."""
    growth, effect = 6 * p.KL, p.KD0 * -jnp.expm1(-6 * p.lam) / p.lam
    full = (growth - jnp.log(1 - SHRINKAGE / 100)) / effect
    return 100 * (1 - relative_size(p, dose * full, 6.0))


def pulses(cycles: int = 3) -> ck.Regimen:
    """The file's: an exposure of 12 for 1.5 hours twice daily, on 14 of 21 days."""
    starts = [21 * c + d + h for c in range(cycles) for d in range(14) for h in (0.0, 0.5)]
    events: list[ck.Replace] = []
    for start in starts:
        events += [ck.Replace(start, 12.0, "exposure"), ck.Replace(start + 1 / 16, 0.0, "exposure")]
    return ck.Regimen(tuple(events))


def build(time_base: Literal["week", "day"] = "week") -> ck.ODEModel:
    """The model with rates per week, as the paper is said to have them, or per day."""
    days = DAYS[time_base]
    params = Params
    if time_base == "day":
        rates = {name: variants.like(Params, name, unit="1/day") for name in ("KL", "KD0", "lam")}
        params = variants.with_fields(Params, rates)

    def vector_field(t: ck.Scalar, y: States, p: Params) -> States:
        since = jnp.maximum(t - p.START, 0.0) / days
        rate = p.KL - p.KD0 * jnp.exp(-p.lam * since) * y.exposure
        return States(y=y.y * rate / days, exposure=0.0)

    published: dict[str, tuple[Any, ...]] = {}
    if time_base == "week":
        published = {  # PAGE, abstract 1312. Lower doses were reduced less often, so shrink more.
            "shrinkage at week 6 with 1000 mg/m² [%]": (
                lambda p: shrinkage(p, 1000 / 1250),
                9.0,
                0.1,
            ),
            "shrinkage at week 6 with 850 mg/m² [%]": (
                lambda p: shrinkage(p, 850 / 1250),
                6.6,
                0.2,
            ),
        }
    return ck.ODEModel(
        name="claret2009",
        product="capecitabine",
        reference="doi:10.1200/JCO.2008.21.0807",
        params=params,
        states=States,
        vector_field=vector_field,
        initial=lambda p: States(y=p.y0, exposure=0.0),
        outputs={
            "tumor": lambda t, y, p: y.y,
            "tumor_change": lambda t, y, p: y.y / p.y0,
        },
        units={"tumor": "unit not stated", "tumor_change": "fraction of baseline"},
        regimens={
            "as in MODEL1708310001": pulses(),
            "constant for 18 weeks": ck.Regimen(
                (ck.Replace(0.0, 2.07, "exposure"), ck.Replace(126.0, 0.0, "exposure"))
            ),
        },
        derived={
            "t_double": (lambda p: days * jnp.log(2) / p.KL, "day"),
            "t_half_effect": (lambda p: days * jnp.log(2) / p.lam, "day"),
            # exposure that only just holds the tumor at the start
            "exposure_to_hold": (lambda p: p.KL / p.KD0, "1"),
        },
        published=published,
    )


model = build()
