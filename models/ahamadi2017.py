"""Pembrolizumab, an antibody to PD-1, in adults with solid tumors (Ahamadi 2017).

Two compartments with a clearance that does not change with time. 2188 patients of KEYNOTE-001,
-002 and -006, melanoma (74 %) and non-small cell lung cancer (25 %):

    CL = CL_ref (WT/76.8)^0.595 (ALB/39.6)^-0.907 (SLD/89.6)^0.0872 (eGFR/88.47)^0.135
         (1 - 0.152 FEMALE) (1 + 0.145 NSCLC) (1 - 0.0739 ECOG) (1 + 0.140 PRIOR_IPI) fCL
    Vc = Vc_ref (WT/76.8)^0.489 (ALB/39.6)^-0.208 (1 - 0.134 FEMALE) (1 + 0.0736 PRIOR_IPI) fV
    Q  = Q_ref (WT/76.8)^0.595 fCL,    Vp = Vp_ref (WT/76.8)^0.489 fV

Doses are mg into the central compartment. The presets give each over 30 minutes, which is the usual
infusion and not stated in the paper. The output is the serum concentration [µg/mL] and its integral
from the start (AUC). CL and Q share one random effect, fCL; Vc and Vp share another, fV. Their
variances are 0.134 and 0.0417. The text of the paper speaks of a covariance of the two but its
Table 3 has none, so there is none here.

`load_model("ahamadi2017", occupancy="unverified")` adds the share of PD-1 that is bound,
C / (C + Kd). The Kd of 0.1 µg/mL is not from this paper and was not read in any; only its size, of
tens of ng/mL, is commonly reported. At clinical doses the share is close to 1 with any such value.
What Kd decides is when it falls after the last dose.

Errata: a footnote to Table 3 prints (1 + 0.0739 ECOG); the table itself and the discussion, where
patients with ECOG 0 clear faster, have the minus sign. The same footnotes print other values
throughout (CL 0.202, exponent of weight 0.578, of albumin -0.854); the table is taken. With it the
terminal half-life is 25.8 days, while the paper states 27.3; its time to steady state, 129 days, is
five times 25.8. Not in this model: clearance falls with time on treatment, by 23 %, from 252 to
195 mL/day, says the Swiss product information.

Reference: Ahamadi et al. (2017) CPT Pharmacometrics Syst Pharmacol 6:49-57,
doi:10.1002/psp4.12139, Table 3. Read in the transcription of nlmixr2lib
(Ahamadi_2017_pembrolizumab) and its article, not in the paper itself.
"""

from collections.abc import Mapping
from typing import Literal

import jax.numpy as jnp

import carpk as ck
from carpk.models import _body as body

TABLE = "Ahamadi 2017, Table 3, as transcribed in nlmixr2lib"
RESIDUAL_SD = 0.272  # of ln(concentration); same table
HALF_HOUR = 0.5 / body.HOURS


class Params(ck.Params):
    CL: ck.Scalar = ck.param(0.22, "L/day", "clearance of the reference patient", TABLE)
    Vc: ck.Scalar = ck.param(3.48, "L", "central volume of the reference patient", TABLE)
    Q: ck.Scalar = ck.param(0.795, "L/day", "intercompartmental clearance", TABLE)
    Vp: ck.Scalar = ck.param(4.06, "L", "peripheral volume", TABLE)
    fCL: ck.Scalar = ck.param(
        1.0,
        "1",
        "this patient's CL and Q over those expected of the covariates",
        TABLE + " (variance 0.134)",
        iiv=0.134**0.5,
    )
    fV: ck.Scalar = ck.param(
        1.0,
        "1",
        "this patient's Vc and Vp over those expected of the covariates",
        TABLE + " (variance 0.0417)",
        iiv=0.0417**0.5,
    )
    WT: ck.Scalar = ck.covariate(76.8, "kg", "body weight", TABLE + ", footnotes")
    ALB: ck.Scalar = ck.covariate(39.6, "g/L", "serum albumin", TABLE + ", footnotes")
    SLD: ck.Scalar = ck.covariate(
        89.6, "mm", "sum of the longest diameters of target lesions", TABLE + ", footnotes"
    )
    eGFR: ck.Scalar = ck.covariate(
        88.47, "mL/min/1.73m²", "estimated glomerular filtration rate", TABLE + ", footnotes"
    )
    FEMALE: ck.Scalar = ck.covariate(0.0, "1", "1 for a woman", "reference: a man")
    NSCLC: ck.Scalar = ck.covariate(
        0.0, "1", "1 in non-small cell lung cancer", "reference: melanoma"
    )
    ECOG: ck.Scalar = ck.covariate(
        0.0, "1", "1 for an ECOG performance status of 1 or more", "reference: status 0"
    )
    PRIOR_IPI: ck.Scalar = ck.covariate(
        0.0, "1", "1 after treatment with ipilimumab", "reference: naive (or not known)"
    )


class OccupancyParams(Params):
    Kd: ck.Scalar = ck.param(
        0.1, "µg/mL", "concentration that binds half of PD-1", "assumed: unverified, not read"
    )


class States(ck.States):
    auc: ck.Scalar = ck.state("µg/mL day", "integral of the concentration")


def clearance(p: Params) -> ck.Scalar:
    """CL [L/day] of a patient with these covariates."""
    size = (p.WT / 76.8) ** 0.595 * (p.ALB / 39.6) ** -0.907
    disease = (p.SLD / 89.6) ** 0.0872 * (p.eGFR / 88.47) ** 0.135
    groups = (1 - 0.152 * p.FEMALE) * (1 + 0.145 * p.NSCLC)
    groups = groups * (1 - 0.0739 * p.ECOG) * (1 + 0.140 * p.PRIOR_IPI)
    return p.CL * size * disease * groups * p.fCL


def pembrolizumab(p: Params) -> ck.Disposition:
    """Its disposition in a patient with these covariates."""
    weight = (p.WT / 76.8) ** 0.489
    Vc = p.Vc * weight * (p.ALB / 39.6) ** -0.208 * (1 - 0.134 * p.FEMALE)
    Vc = Vc * (1 + 0.0736 * p.PRIOR_IPI) * p.fV
    Q = p.Q * (p.WT / 76.8) ** 0.595 * p.fCL
    return ck.Disposition(clearance(p), Vc, ((Q, p.Vp * weight * p.fV),))


def vector_field(t: ck.Scalar, y: States, p: Params, c: Mapping[str, ck.Scalar]) -> States:
    """The exposure; the drug itself is in closed form."""
    return States(auc=c["pembrolizumab"])


def half_life(p: Params) -> ck.Scalar:
    """Terminal half-life [day]."""
    slowest: ck.Scalar = pembrolizumab(p).modes().rate[-1]
    return jnp.log(2) / slowest


def accumulation(p: Params) -> ck.Scalar:
    """AUC over an interval of 21 days at steady state over that after the first dose."""
    modes = pembrolizumab(p).modes()
    shares: list[ck.Scalar] = [w / k for w, k in zip(modes.weight, modes.rate, strict=True)]
    first = sum(-s * jnp.expm1(-21 * k) for s, k in zip(shares, modes.rate, strict=True))
    return sum(shares) / first


def doses(amount: float, every: float, number: int) -> ck.Regimen:
    """Infusions of 30 minutes [mg]."""
    first = ck.Infusion(0.0, amount, HALF_HOUR, product="pembrolizumab", addl=number - 1, ii=every)
    return ck.Regimen((first,))


def build(occupancy: Literal["off", "unverified"] = "off") -> ck.ODEModel:
    """The model, without or with the share of PD-1 that is bound at an unverified Kd."""
    outputs = {
        "pembrolizumab": lambda t, y, p, c: c["pembrolizumab"],
        "pembrolizumab_auc": lambda t, y, p, c: y.auc,
    }
    units = {"pembrolizumab": "µg/mL", "pembrolizumab_auc": "µg/mL day"}
    if occupancy == "unverified":
        outputs["pd1_occupancy"] = lambda t, y, p, c: (
            c["pembrolizumab"] / (c["pembrolizumab"] + p.Kd)
        )
        units["pd1_occupancy"] = "share of PD-1"
    return ck.ODEModel(
        name="ahamadi2017",
        product="pembrolizumab",
        reference="doi:10.1002/psp4.12139",
        params=Params if occupancy == "off" else OccupancyParams,
        states=States,
        vector_field=vector_field,
        inputs={"pembrolizumab": pembrolizumab},
        targets={"pembrolizumab": ck.Target("pembrolizumab", unit="mg")},
        outputs=outputs,
        units=units,
        regimens={
            "200 mg every 3 weeks": doses(200.0, 21.0, 8),
            "2 mg/kg every 3 weeks, 76.8 kg": doses(153.6, 21.0, 8),
            "10 mg/kg every 3 weeks, 76.8 kg": doses(768.0, 21.0, 8),
            "10 mg/kg every 2 weeks, 76.8 kg": doses(768.0, 14.0, 12),
        },
        derived={
            "CL_patient": (clearance, "L/day"),
            "t_half": (half_life, "day"),
            "V_ss": (lambda p: pembrolizumab(p).volume + pembrolizumab(p).peripheral[0][1], "L"),
        },
        published={
            # Discussion. The estimates of Table 3 give 25.8 days (see above), and less accumulation
            # with it, 2.09.
            "terminal half-life [day]": (half_life, 27.3, 0.06),
            "time to steady state, five half-lives [day]": (lambda p: 5 * half_life(p), 129.0),
            "accumulation of AUC, every 3 weeks": (accumulation, 2.2, 0.06),
            # Freshwater 2017, doi:10.1186/s40425-017-0242-5, abstract: means over patients
            "AUC of 6 weeks at steady state, 200 mg every 3 weeks [mg/mL day]": (
                lambda p: 2 * 200 / clearance(p) / 1000,
                1.87,
                0.04,
            ),
            "AUC of 6 weeks at steady state, 2 mg/kg every 3 weeks [mg/mL day]": (
                lambda p: 2 * 2 * p.WT / clearance(p) / 1000,
                1.38,
            ),
        },
    )


model = build()
