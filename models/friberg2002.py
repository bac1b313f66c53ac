"""Blood counts after chemotherapy: docetaxel or paclitaxel (Friberg 2002; Kloft 2006).

Cells of the bone marrow divide (Prol), mature through three stages (T1, T2, T3) and enter the blood
(Circ). The drug slows division in proportion to its concentration C; low counts in blood speed it:

    Prol' = ktr Prol (1 - slope C) (Circ0/Circ)^gamma - ktr Prol,    ktr = 4/MTT
    T1' = ktr (Prol - T1),  T2' = ktr (T1 - T2),  T3' = ktr (T2 - T3),  Circ' = ktr (T3 - Circ)

All five start at Circ0, where they rest without a drug. Above slope C = 1 cells die. Two sets:

- `load_model("friberg2002")`: neutrophils and docetaxel, the values of Kloft 2006 as used by
  Netterberg 2017. Baseline and slope follow sex, performance status, earlier treatment and alpha-1
  acid glycoprotein (AAG, which binds docetaxel):
      Circ0 (1 - 0.121 FEMALE)(1 + 0.130 ECOG)(1 - 0.147 PRIOR)(1 + b (AAG - 1.34)),
      b = 0.175 below 1.34 g/L and 0.495 above;  slope (1 - 0.351 (AAG - 1.34))
  Not for an AAG above 4.2 g/L, where the slope would be negative.
- `load_model("friberg2002", cells="leukocytes")`: leukocytes and paclitaxel, Friberg 2002.

Doses are mg of drug; the slopes are per µmol/L, at 808 g/mol (docetaxel) and 853.9 (paclitaxel).

The pharmacokinetics are not part of either model: each took the concentrations of its own patients.
Docetaxel here has the two compartments of Onoue 2016 for Japanese women, read in the code of
Norris 2017; clearance depends on age there, but the coefficient was not read. Paclitaxel has the
medians of the individual estimates that come with the model of Friberg 2002; by its clearance and
the name of its slope there (SLOPU) C is the unbound drug. For other pharmacokinetics change CL, Vc,
Q and Vp. The pair of Kloft 2006 and Onoue 2016 is not published, so the depth of the nadir is not
either: for the patient that comes with DDMODEL00000224 it is 0.74e9/L here and about 0.5 there.

No slope is published for fludarabine or cyclophosphamide. What lymphodepletion does to neutrophils
is therefore not here, but in `niche` with slopes that are assumed; counts of lymphocytes, which
these drugs kill in blood, do not follow this model at all.

Reference: Friberg et al. (2002) J Clin Oncol 20:4713-4721, doi:10.1200/JCO.2002.02.140; Kloft et
al. (2006), in Netterberg et al. (2017) Cancer Chemother Pharmacol 80:343-353,
doi:10.1007/s00280-017-3366-x. Read in the transcriptions of nlmixr2lib (Friberg_2002_paclitaxel,
Netterberg_2017_docetaxel) from DDMODEL00000186 and DDMODEL00000224, not in the papers. Docetaxel:
Onoue et al. (2016) Eur J Clin Pharmacol 72:703-710, doi:10.1007/s00228-016-2031-3; Norris (2017)
doi:10.12688/f1000research.10624.3. Left out: the variance of gamma in Kloft 2006 (0.0216), which
Netterberg 2017 set to 0. Random effects of the counts are printed as variances of ln.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal

import jax.numpy as jnp

import carpk as ck
from carpk.models import _body as body

KLOFT = "Kloft 2006, in Netterberg 2017 (DDMODEL00000224), as transcribed in nlmixr2lib"
FRIBERG = "Friberg 2002 (DDMODEL00000186), as transcribed in nlmixr2lib"
ONOUE = "Onoue 2016, Table 2, as used by Norris 2017"
MEDIAN = FRIBERG + "; median of individual estimates in its simulated data"
MOLAR_MASS = {"docetaxel": 808.0, "paclitaxel": 853.9}  # g/mol, as in the transcriptions
RESIDUAL_SD = {"neutrophils": 0.424, "leukocytes": 0.286}  # of ln(count); proportional
MEDIAN_AAG = 1.34  # g/L; Kloft 2006


class Neutrophils(ck.Params):
    Circ0: ck.Scalar = ck.param(
        5.22, "1e9/L", "neutrophils before treatment", KLOFT, iiv=0.0640**0.5, prior_sd=0.5
    )
    MTT: ck.Scalar = ck.param(
        84.2, "h", "mean time from division to blood", KLOFT, iiv=0.0192**0.5, prior_sd=0.3
    )
    gamma: ck.Scalar = ck.param(
        0.145, "1", "strength of the feedback from blood", KLOFT, prior_sd=0.3
    )
    slope: ck.Scalar = ck.param(
        15.6, "L/µmol", "effect on division per concentration", KLOFT, iiv=0.128**0.5, prior_sd=0.5
    )
    CL: ck.Scalar = ck.param(32.6, "L/h", "clearance", ONOUE + " (CV 29.5 %)", cv=0.295)
    Vc: ck.Scalar = ck.param(5.77, "L", "central volume", ONOUE)
    Q: ck.Scalar = ck.param(
        5.34,
        "L/h",
        "intercompartmental clearance",
        ONOUE + " (CV 55.1 %)",
        cv=0.551,
    )
    Vp: ck.Scalar = ck.param(11.0, "L", "peripheral volume", ONOUE + " (CV 59.8 %)", cv=0.598)
    FEMALE: ck.Scalar = ck.covariate(0.0, "1", "1 for a woman", "reference: a man")
    ECOG: ck.Scalar = ck.covariate(
        0.0, "1", "1 for an ECOG performance status of 1 or more", "reference: status 0"
    )
    PRIOR: ck.Scalar = ck.covariate(
        0.0, "1", "1 after earlier treatment of the cancer", "reference: none"
    )
    AAG: ck.Scalar = ck.covariate(
        MEDIAN_AAG, "g/L", "alpha-1 acid glycoprotein in serum", KLOFT + ": median"
    )


class Leukocytes(ck.Params):
    Circ0: ck.Scalar = ck.param(
        7.21, "1e9/L", "leukocytes before treatment", FRIBERG, iiv=0.107**0.5, prior_sd=0.5
    )
    MTT: ck.Scalar = ck.param(
        124.0, "h", "mean time from division to blood", FRIBERG, iiv=0.0296**0.5, prior_sd=0.3
    )
    gamma: ck.Scalar = ck.param(
        0.239, "1", "strength of the feedback from blood", FRIBERG, prior_sd=0.3
    )
    slope: ck.Scalar = ck.param(
        28.9,
        "L/µmol",
        "effect on division per concentration",
        FRIBERG,
        iiv=0.176**0.5,
        prior_sd=0.5,
    )
    CL: ck.Scalar = ck.param(285.0, "L/h", "clearance", MEDIAN)
    Vc: ck.Scalar = ck.param(290.0, "L", "central volume", MEDIAN)
    Q: ck.Scalar = ck.param(204.0, "L/h", "intercompartmental clearance", FRIBERG + " (fixed)")
    Vp: ck.Scalar = ck.param(1000.0, "L", "peripheral volume", MEDIAN)


class States(ck.States):
    Prol: ck.Scalar = ck.state("1e9/L", "dividing cells of the marrow", log=True)
    T1: ck.Scalar = ck.state("1e9/L", "maturing cells, first stage", log=True)
    T2: ck.Scalar = ck.state("1e9/L", "maturing cells, second stage", log=True)
    T3: ck.Scalar = ck.state("1e9/L", "maturing cells, third stage", log=True)
    Circ: ck.Scalar = ck.state("1e9/L", "cells in blood", log=True)


def baseline(p: Neutrophils | Leukocytes) -> ck.Scalar:
    """Count before treatment [1e9/L] of a patient with these covariates."""
    if isinstance(p, Leukocytes):
        return p.Circ0
    above = p.AAG - MEDIAN_AAG
    by_aag = jnp.where(above > 0, 0.495, 0.175) * above
    groups = (1 - 0.121 * p.FEMALE) * (1 + 0.130 * p.ECOG) * (1 - 0.147 * p.PRIOR)
    return p.Circ0 * groups * (1 + by_aag)


def sensitivity(p: Neutrophils | Leukocytes) -> ck.Scalar:
    """Effect per concentration [L/µmol] of a patient with these covariates."""
    if isinstance(p, Leukocytes):
        return p.slope
    return p.slope * (1 - 0.351 * (p.AAG - MEDIAN_AAG))


def disposition(p: Neutrophils | Leukocytes) -> ck.Disposition:
    """Of the drug."""
    return ck.Disposition(body.HOURS * p.CL, p.Vc, ((body.HOURS * p.Q, p.Vp),))


def slopes(
    y: States, effect: ck.Scalar, feedback: ck.Scalar, MTT: ck.Scalar
) -> dict[str, ck.Scalar]:
    """Derivatives [per day] of the chain, under this effect of drugs and (Circ0/Circ)^gamma."""
    ktr = 4 * body.HOURS / MTT
    return dict(
        Prol=ktr * y.Prol * ((1 - effect) * feedback - 1),
        T1=ktr * (y.Prol - y.T1),
        T2=ktr * (y.T1 - y.T2),
        T3=ktr * (y.T2 - y.T3),
        Circ=ktr * (y.T3 - y.Circ),
    )


def chain(drug: str) -> Callable[..., States]:
    """The vector field with this drug."""

    def vector_field(
        t: ck.Scalar, y: States, p: Neutrophils | Leukocytes, c: Mapping[str, ck.Scalar]
    ) -> States:
        effect = sensitivity(p) * c[drug] * 1000 / MOLAR_MASS[drug]
        return States(**slopes(y, effect, (baseline(p) / y.Circ) ** p.gamma, p.MTT))

    return vector_field


def initial(p: Neutrophils | Leukocytes) -> States:
    """All compartments at the baseline."""
    count = baseline(p)
    return States(count, count, count, count, count)


def day_of_nadir(model: ck.ODEModel, p: Neutrophils | Leukocytes) -> ck.Scalar:
    """Day of the lowest count after the first of the model's regimens."""
    days = jnp.arange(2.0, 21.0, 0.25)
    regimen, count = next(iter(model.regimens.values())), next(iter(model.outputs))
    return days[jnp.argmin(jnp.asarray(ck.solve(model, regimen, days, p)[count]))]


def simulated_patient(p: Neutrophils) -> Neutrophils:
    """The one of DDMODEL00000224."""
    return p.replace(FEMALE=1.0, ECOG=1.0, PRIOR=1.0, AAG=2.54)


def infusion(drug: str, amount: float, hours: float, cycles: int = 1) -> ck.Regimen:
    """Of a drug [mg], every three weeks if more than once."""
    once = ck.Infusion(0.0, amount, hours / body.HOURS, product=drug)
    again = dataclasses.replace(once, addl=cycles - 1, ii=21.0)
    return ck.Regimen((again if cycles > 1 else once,))


def build(cells: Literal["neutrophils", "leukocytes"] = "neutrophils") -> ck.ODEModel:
    """Neutrophils after docetaxel, or leukocytes after paclitaxel."""
    params: type[Neutrophils | Leukocytes]
    if cells == "neutrophils":
        drug, count, params = "docetaxel", "anc", Neutrophils
        regimens = {  # for 1.8 m²
            "100 mg/m²": infusion(drug, 180.0, 1.0),
            "100 mg/m² every 3 weeks": infusion(drug, 180.0, 1.0, cycles=4),
            "75 mg/m² every 3 weeks": infusion(drug, 135.0, 1.0, cycles=4),
        }
        published = {  # of the patient that comes with DDMODEL00000224: nlmixr2lib's article
            "neutrophils before treatment, simulated patient [1e9/L]": (
                lambda p: baseline(simulated_patient(p)),
                7.05,
            ),
            "lowest neutrophils, simulated patient [day]": (  # "around days 7-9"
                lambda p: day_of_nadir(made, simulated_patient(p)),
                8.0,
                1 / 8,
            ),
        }
    else:
        drug, count, params = "paclitaxel", "wbc", Leukocytes
        regimens = {"410 µmol over 3 h": infusion(drug, 0.41 * MOLAR_MASS[drug], 3.0)}
        published = {  # nlmixr2lib's article: 7 to 14 days
            "lowest leukocytes [day]": (lambda p: day_of_nadir(made, p), 10.5, 1 / 3),
        }
    made: ck.ODEModel = ck.ODEModel(
        name="friberg2002",
        product=drug,
        reference="doi:10.1200/JCO.2002.02.140",
        params=params,
        states=States,
        vector_field=chain(drug),
        initial=initial,
        inputs={drug: disposition},
        targets={drug: ck.Target(drug, unit="mg")},
        outputs={
            count: lambda t, y, p, c: y.Circ,
            drug: lambda t, y, p, c: c[drug],
        },
        units={count: "1e9/L", drug: "mg/L"},
        regimens=regimens,
        derived={
            "k_tr": (lambda p: 4 * body.HOURS / p.MTT, "1/day"),
            "baseline": (baseline, "1e9/L"),
            # concentration at which division stops
            "C_stop": (lambda p: MOLAR_MASS[drug] / 1000 / sensitivity(p), "mg/L"),
            "t_half_drug": (
                lambda p: body.HOURS * jnp.log(2) / disposition(p).modes().rate[-1],
                "h",
            ),
        },
        published=published,
    )
    return made


model = build()
