"""Nivolumab, an antibody to PD-1, in children and adults with cancer (Hu 2024).

Two compartments with a clearance that falls with time on treatment. 2325 patients of 13 studies,
275 of them 1 to 17 years old; the 79 children with solid tumors include osteosarcoma (19),
neuroblastoma (18), rhabdomyosarcoma (17) and Ewing sarcoma (10). With t since the first dose:

    CL(t) = CL0 exp(Emax t^H / (T50^H + t^H))
    CL0 = CL0_ref (WT/75)^0.630 (eGFR/90)^0.0982 exp(sum of effects on CL)
    VC  = VC_ref (LBM/55)^0.932 exp(sum of effects on VC)
    Q   = Q_ref (WT/75)^0.630,    VP = VP_ref (LBM/55)^0.932

The typical adult, a man with melanoma, ends at exp(-0.298) = 74 % of the first clearance. Effects:

    on ln CL:  FEMALE -0.0998, PS 0.166, BLACK 0.0693, ASIAN 0.00333, IPI_1_Q3W 0.0973,
               IPI_3_Q3W 0.349, BRENTUXIMAB 0.132, and by tumor against melanoma:
               LYMPHOMA -0.382 from 18 years and -0.411 below, CNS -0.578 and -0.801,
               OTHER_ST 0.00699 from 18 years, -0.223 from 12 to 17, -0.580 below 12
    on ln VC:  FEMALE 0.0195, and with any tumor -0.273 from 12 to 17 years, -0.277 below 12
    on Emax:   PS -0.157, ipilimumab -0.124; from 18 years LYMPHOMA 0.132, OTHER_ST 0.118; below 18
               CNS 0.696. With CNS from 18 years (glioblastoma) Emax is 0

LYMPHOMA, CNS and OTHER_ST all 0 is melanoma. The paper has no effect of melanoma in children; the
one child with it was counted as OTHER_ST. Children with OTHER_ST or lymphoma have the Emax of adult
melanoma.

Doses are mg into the central compartment; the presets give them over 30 minutes (the paper does not
say). `START` is the day of the first dose, 0 unless told otherwise: if nivolumab begins on another
day, set it, for before it the clearance does not change. The output is the serum concentration
[µg/mL] and its integral from the start (AUC).

Random effects: one block for CL0 and VC (variances 0.108 and 0.0751, covariance 0.0220), the same
block again for Q and VP; Emax has an additive one, variance 0.160. Left out: coefficients that the
paper fixed to 0 (age, ipilimumab every 6 weeks on CL, radiotherapy, temozolomide), and the model of
adjuvant treatment in its supplement, which has no typical values.

`load_model("hu2024_nivolumab", occupancy="unverified")` adds the share of PD-1 that is bound,
C / (C + Kd). The Kd of 0.1 µg/mL is not from this paper and was not read in any; only its size, of
tens of ng/mL, is commonly reported. What it decides is when the share falls after the last dose.

Reference: Hu et al. (2024) CPT Pharmacometrics Syst Pharmacol 13:476-493, doi:10.1002/psp4.13098,
Table 4. Read in the transcription of nlmixr2lib (Hu_2024_nivolumab: the paper's equations, Table 4
and the authors' NONMEM code) and its article, not in the paper itself. That Emax is 0 in
glioblastoma and that Q and VP share the block of CL and VC is in that code only.
"""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

import carpk as ck
from carpk.models import _body as body

TRANSCRIBED = ", as transcribed in nlmixr2lib"
TABLE = "Hu 2024, Table 4" + TRANSCRIBED
CODE = "Hu 2024, NONMEM code" + TRANSCRIBED
REFERENCE = "Hu 2024, Table 4: reference"
RESIDUAL_SD = 0.199  # proportional; same table
LITERS_PER_DAY = body.HOURS / 1000  # in 1 mL/h
HALF_HOUR = 0.5 / body.HOURS


class Params(ck.Params):
    CL0: ck.Scalar = ck.param(
        9.66, "mL/h", "clearance at the first dose", TABLE + " (variance 0.108)", iiv=0.108**0.5
    )
    VC: ck.Scalar = ck.param(
        4.01, "L", "central volume", TABLE + " (variance 0.0751)", iiv=0.0751**0.5
    )
    Q: ck.Scalar = ck.param(
        35.9,
        "mL/h",
        "intercompartmental clearance",
        TABLE + "; random effect: " + CODE,
        iiv=0.108**0.5,
    )
    VP: ck.Scalar = ck.param(
        2.77, "L", "peripheral volume", TABLE + "; random effect: " + CODE, iiv=0.0751**0.5
    )
    Emax: ck.Scalar = ck.param(
        -0.298,
        "1",
        "largest change of ln clearance with time",
        TABLE + " (variance 0.160)",
        bounds=(-math.inf, math.inf),
        iiv=0.160**0.5,
        prior_sd=0.2,
    )
    T50: ck.Scalar = ck.param(2670.0, "h", "time to half of that change", TABLE, prior_sd=0.5)
    H: ck.Scalar = ck.param(2.32, "1", "steepness of that change in time", TABLE, prior_sd=0.3)
    START: ck.Scalar = ck.covariate(0.0, "day", "day of the first dose", "time zero, assumed")
    WT: ck.Scalar = ck.covariate(75.0, "kg", "body weight", REFERENCE)
    LBM: ck.Scalar = ck.covariate(55.0, "kg", "lean body mass (Boer; children: Peter)", REFERENCE)
    eGFR: ck.Scalar = ck.covariate(
        90.0, "mL/min/1.73m²", "estimated glomerular filtration rate", REFERENCE
    )
    AGE: ck.Scalar = ck.covariate(
        55.0, "year", "age: below 12, 12 to 17, from 18", "Hu 2024, Table 1: median"
    )
    FEMALE: ck.Scalar = ck.covariate(0.0, "1", "1 for a woman or girl", REFERENCE)
    PS: ck.Scalar = ck.covariate(0.0, "1", "1 for a performance status above 0", REFERENCE)
    LYMPHOMA: ck.Scalar = ck.covariate(0.0, "1", "1 with a lymphoma", REFERENCE)
    CNS: ck.Scalar = ck.covariate(0.0, "1", "1 with a tumor of the nervous system", REFERENCE)
    OTHER_ST: ck.Scalar = ck.covariate(
        0.0, "1", "1 with a solid tumor outside it, not melanoma", REFERENCE
    )
    BLACK: ck.Scalar = ck.covariate(0.0, "1", "1 if Black or African American", REFERENCE)
    ASIAN: ck.Scalar = ck.covariate(0.0, "1", "1 if Asian", REFERENCE)
    IPI_1_Q3W: ck.Scalar = ck.covariate(
        0.0, "1", "1 with ipilimumab 1 mg/kg every 3 weeks", REFERENCE
    )
    IPI_3_Q3W: ck.Scalar = ck.covariate(
        0.0, "1", "1 with ipilimumab 3 mg/kg every 3 weeks", REFERENCE
    )
    IPI_1_Q6W: ck.Scalar = ck.covariate(
        0.0, "1", "1 with ipilimumab 1 mg/kg every 6 weeks", REFERENCE
    )
    BRENTUXIMAB: ck.Scalar = ck.covariate(0.0, "1", "1 with brentuximab vedotin", REFERENCE)


class OccupancyParams(Params):
    Kd: ck.Scalar = ck.param(
        0.1, "µg/mL", "concentration that binds half of PD-1", "assumed: unverified, not read"
    )


class States(ck.States):
    central: ck.Scalar = ck.state("mg", "nivolumab in serum and what is in balance with it")
    peripheral: ck.Scalar = ck.state("mg", "nivolumab in tissues")
    auc: ck.Scalar = ck.state("µg/mL day", "integral of the concentration")


def ages(p: Params) -> tuple[ck.Scalar, ck.Scalar, ck.Scalar]:
    """(below 12, 12 to 17, from 18 years), 1.0 for the one that holds."""
    child, adult = jnp.where(p.AGE < 12, 1.0, 0.0), jnp.where(p.AGE >= 18, 1.0, 0.0)
    return child, 1 - child - adult, adult


def first_clearance(p: Params) -> ck.Scalar:
    """Clearance at the first dose [L/day]."""
    child, teen, adult = ages(p)
    minor = child + teen
    person = -0.0998 * p.FEMALE + 0.166 * p.PS + 0.0693 * p.BLACK + 0.00333 * p.ASIAN
    drugs = 0.0973 * p.IPI_1_Q3W + 0.349 * p.IPI_3_Q3W + 0.132 * p.BRENTUXIMAB
    tumor = p.LYMPHOMA * (-0.382 * adult - 0.411 * minor)
    tumor = tumor + p.CNS * (-0.578 * adult - 0.801 * minor)
    tumor = tumor + p.OTHER_ST * (0.00699 * adult - 0.223 * teen - 0.580 * child)
    size = (p.WT / 75) ** 0.630 * (p.eGFR / 90) ** 0.0982
    return p.CL0 * LITERS_PER_DAY * size * jnp.exp(person + drugs + tumor)


def largest_change(p: Params) -> ck.Scalar:
    """Of ln clearance with time: Emax of this patient."""
    child, teen, adult = ages(p)
    ipilimumab = p.IPI_1_Q3W + p.IPI_3_Q3W + p.IPI_1_Q6W
    change = p.Emax - 0.157 * p.PS - 0.124 * ipilimumab
    change = change + adult * (0.132 * p.LYMPHOMA + 0.118 * p.OTHER_ST)
    change = change + 0.696 * (child + teen) * p.CNS
    return change * (1 - adult * p.CNS)


def clearance(t: ck.Scalar, p: Params) -> ck.Scalar:
    """Clearance on day t [L/day]."""
    since = t - p.START
    begun = since > 0
    # Two `where`s: the derivatives of t^H at t = 0 are not numbers.
    logit = p.H * jnp.log(jnp.where(begun, since, 1.0) / (p.T50 / body.HOURS))
    done = jnp.where(begun, jax.nn.sigmoid(logit), 0.0)
    return first_clearance(p) * jnp.exp(largest_change(p) * done)


def volumes(p: Params) -> tuple[ck.Scalar, ck.Scalar]:
    """Central and peripheral volume [L]."""
    child, teen, _ = ages(p)
    size = (p.LBM / 55) ** 0.932
    return p.VC * size * jnp.exp(0.0195 * p.FEMALE - 0.273 * teen - 0.277 * child), p.VP * size


def serum_level(y: States, p: Params) -> ck.Scalar:
    """Concentration [µg/mL]; what is left after a year of washout may be solver noise around 0."""
    return jnp.maximum(y.central, 0.0) / volumes(p)[0]


def vector_field(t: ck.Scalar, y: States, p: Params) -> States:
    """Derivatives [per day]."""
    VC, VP = volumes(p)
    serum = y.central / VC
    exchange = p.Q * LITERS_PER_DAY * (p.WT / 75) ** 0.630 * (serum - y.peripheral / VP)
    return States(central=-clearance(t, p) * serum - exchange, peripheral=exchange, auc=serum)


def doses(amount: float, every: float, number: int) -> ck.Regimen:
    """Infusions of 30 minutes [mg]."""
    first = ck.Infusion(0.0, amount, HALF_HOUR, product="nivolumab", addl=number - 1, ii=every)
    return ck.Regimen((first,))


def lower(f: Callable[[Params], ck.Scalar], **covariates: float) -> Callable[[Params], ck.Scalar]:
    """By how much f is lower in a patient with these covariates than in the typical adult [%]."""
    return lambda p: 100 * (1 - f(p.replace(**covariates)) / f(p))


def half_life(p: Params) -> ck.Scalar:
    """Terminal half-life at the first clearance [day]."""
    VC, VP = volumes(p)
    q = p.Q * LITERS_PER_DAY * (p.WT / 75) ** 0.630
    slowest: ck.Scalar = ck.Disposition(first_clearance(p), VC, ((q, VP),)).modes().rate[-1]
    return jnp.log(2) / slowest


def build(occupancy: Literal["off", "unverified"] = "off") -> ck.ODEModel:
    """The model, without or with the share of PD-1 that is bound at an unverified Kd."""
    outputs = {
        "nivolumab": lambda t, y, p: serum_level(y, p),
        "nivolumab_auc": lambda t, y, p: y.auc,
    }
    units = {"nivolumab": "µg/mL", "nivolumab_auc": "µg/mL day"}
    if occupancy == "unverified":
        outputs["pd1_occupancy"] = lambda t, y, p: serum_level(y, p) / (serum_level(y, p) + p.Kd)
        units["pd1_occupancy"] = "share of PD-1"
    return ck.ODEModel(
        name="hu2024_nivolumab",
        product="nivolumab",
        reference="doi:10.1002/psp4.13098",
        params=Params if occupancy == "off" else OccupancyParams,
        states=States,
        vector_field=vector_field,
        targets={"nivolumab": ck.Target("central", unit="mg")},
        outputs=outputs,
        units=units,
        correlation={
            ("CL0", "VC"): 0.0220 / math.sqrt(0.108 * 0.0751),
            ("Q", "VP"): 0.0220 / math.sqrt(0.108 * 0.0751),
        },
        regimens={
            "240 mg every 2 weeks": doses(240.0, 14.0, 12),
            "480 mg every 4 weeks": doses(480.0, 28.0, 6),
            "3 mg/kg every 2 weeks, 55 kg": doses(165.0, 14.0, 12),
        },
        derived={
            "CL_first": (first_clearance, "L/day"),
            "CL_late": (lambda p: first_clearance(p) * jnp.exp(largest_change(p)), "L/day"),
            "t_half_first": (half_life, "day"),
            "V_ss": (lambda p: sum(volumes(p)), "L"),
        },
        published={  # Results, in words
            "CL lower in adult lymphoma [%]": (lower(first_clearance, LYMPHOMA=1.0), 32.0),
            "CL lower in glioblastoma [%]": (lower(first_clearance, CNS=1.0), 44.0),
            "CL lower in solid tumors, 12 to 17 years [%]": (
                lower(first_clearance, OTHER_ST=1.0, AGE=15.0),
                20.0,
            ),
            "CL lower in solid tumors, below 12 years [%]": (
                lower(first_clearance, OTHER_ST=1.0, AGE=8.0),
                44.0,
            ),
            "CL lower in lymphoma below 18 years [%]": (
                lower(first_clearance, LYMPHOMA=1.0, AGE=15.0),
                34.0,
            ),
            "CL lower in CNS tumors below 18 years [%]": (
                lower(first_clearance, CNS=1.0, AGE=10.0),
                55.0,
            ),
            "VC lower from 12 to 17 years [%]": (
                lower(lambda p: volumes(p)[0], AGE=15.0),
                24.0,
            ),
            "VC lower below 12 years [%]": (lower(lambda p: volumes(p)[0], AGE=8.0), 24.0),
        },
    )


model = build()
