"""Fludarabine (F-ara-A) in children and adults before stem-cell transplantation (Langenhorst 2019).

Three compartments with linear elimination. 258 patients of 0.3 to 74 years and 4.3 to 130 kg:

    CL = (CLnr + fren eGFR) (WT/70)^0.75 fCL        eGFR in L/h: 0.06 times mL/min/1.73 m²
    Q2 = Q2_70 (WT/70)^0.75 fCL,    Q3 likewise
    V1 = V1_70 (WT/70) fV,          V2 and V3 likewise

WT is actual body weight. The outputs are the concentration of F-ara-A in plasma [mg/L] and its
integral from the start [mg h/L] (AUC).

Doses are mg of fludarabine PHOSPHATE, as prescribed and as `Regimen.lymphodepletion` gives them. A
mg of it holds 0.781 mg of F-ara-A (molecular weights 285.2 / 365.2), and that is what arrives. The
transcription read here omits this and lets the prescribed mg in whole, which overstates exposure
1.28-fold: with the factor the AUC of a typical adult is 2 % above the paper's median, without it
31 %. The study infused over 1 hour, before CAR-T cells it is usually half an hour; `regimens` say
which.

eGFR is from the mean creatinine of days -7 to 0: Cockcroft-Gault, scaled to 1.73 m², from 14 years
(men) or 17 years (women), Schwartz below, and never above `egfr_cap(age)`. The constants of the
Schwartz formula that was used were not read, so there is no function for eGFR itself. Give the
model capped values; it does not cap them.

CL, Q2 and Q3 share one random effect, fCL, and V1 to V3 another, fV (printed as CVs of 23 and
48 %). Left out: variability between the doses of one patient, a further 12 and 31 %, because a
patient's parameters do not change within a course here. Clofarabine and ATG were not kept as
covariates by the authors; all patients had busulfan.

Cumulative AUCs that others found to matter before CAR-T cells, `AUC_ENOUGH` and
`AUC_WINDOW_AXI_CEL`, are cutoffs in cohorts and not targets that were tested. Exposure measured in
adults with lymphoma was often above what a model of transplantation predicts (Sánchez-Salinas 2024,
as told in the reply, Blood Adv 8:6015); `varela2025` was fitted to such adults.

Not met: the paper's median AUC of children after 160 mg/m², 21 mg h/L. A child of 29 kg (their
median weight) has 26 here. Of that median's range, 5.7 to 42, the lower end is below the 10 mg h/L
at which the range of all patients begins in the abstract, so it may not be for that dose alone.

Reference: Langenhorst et al. (2019) Clin Pharmacokinet 58:627-637, doi:10.1007/s40262-018-0715-9,
Table 2. Read in the transcription of nlmixr2lib (Langenhorst_2019_fludarabine) and its article, and
in the abstract; not in the paper itself. Section 3.3 gives eGFR in "l/h/kg"; only L/h fits Table 2.
"""

from collections.abc import Iterable, Mapping

import jax.numpy as jnp

import carpk as ck
from carpk.models import _body as body

TABLE = "Langenhorst 2019, Table 2, as transcribed in nlmixr2lib"
F_ARA_A = 0.781  # mg of F-ara-A per mg of fludarabine phosphate: molecular weights 285.2 / 365.2
L_PER_H = 0.06  # in 1 mL/min
RESIDUAL_SD = 0.063  # proportional; same table

# Cumulative AUC of F-ara-A [mg h/L]
AUC_ENOUGH = {
    # Blood Adv 2022;6:1961: 152 children and young adults with leukemia before tisa-cel. Below it,
    # relapse was more likely: hazard ratio 2.45 (1.34-4.48)
    "Fabrizio 2022": 13.8,
    # Blood Adv 2022;6:1969: 26 patients with leukemia before tisa-cel. Below it, median
    # leukemia-free survival was 1.8 instead of 12.9 months
    "Dekker 2022": 14.0,
}
# Scordo 2023, doi:10.1182/bloodadvances.2023010302: 199 adults with lymphoma before axi-cel
AUC_WINDOW_AXI_CEL = (18.0, 20.0)


class Params(ck.Params):
    CLnr: ck.Scalar = ck.param(
        3.2, "L/h", "clearance of F-ara-A but by the kidney, 70 kg", TABLE, prior_sd=0.2
    )
    fren: ck.Scalar = ck.param(
        0.78, "1", "clearance of F-ara-A by the kidney over eGFR, 70 kg", TABLE, prior_sd=0.15
    )
    V1: ck.Scalar = ck.param(39.0, "L", "central volume, 70 kg", TABLE, prior_sd=0.2)
    V2: ck.Scalar = ck.param(20.0, "L", "first peripheral volume, 70 kg", TABLE, prior_sd=0.2)
    V3: ck.Scalar = ck.param(50.0, "L", "second peripheral volume, 70 kg", TABLE, prior_sd=0.2)
    Q2: ck.Scalar = ck.param(8.6, "L/h", "clearance between V1 and V2, 70 kg", TABLE, prior_sd=0.2)
    Q3: ck.Scalar = ck.param(3.8, "L/h", "clearance between V1 and V3, 70 kg", TABLE, prior_sd=0.2)
    fCL: ck.Scalar = ck.param(
        1.0,
        "1",
        "this patient's clearances over those expected of the covariates",
        TABLE + ": 23 % CV, shared by CL, Q2, Q3",
        cv=0.23,
        prior_sd=0.2,
    )
    fV: ck.Scalar = ck.param(
        1.0,
        "1",
        "this patient's volumes over those expected of the covariates",
        TABLE + ": 48 % CV, shared by V1, V2, V3",
        cv=0.48,
        prior_sd=0.2,
    )
    WT: ck.Scalar = ck.covariate(70.0, "kg", "actual body weight", TABLE + ": reference")
    eGFR: ck.Scalar = ck.covariate(
        120.0,
        "mL/min/1.73m²",
        "glomerular filtration rate, at most `egfr_cap(age)`",
        "Langenhorst 2019, Table 1: median of all patients, as transcribed in nlmixr2lib",
    )


class States(ck.States):
    auc: ck.Scalar = ck.state("mg h/L", "integral of the concentration of F-ara-A")


def egfr_cap(age: ck.Scalar) -> ck.Scalar:
    """The largest eGFR [mL/min/1.73 m²] that counts at this age [years]: section 2.5.

    35 at birth, rising to 140 at 1.5 years; 140 to 30 years; then 8 less every ten years.
    """
    return jnp.minimum(35 + 70 * jnp.minimum(age, 1.5), 140 - 0.8 * jnp.maximum(age - 30, 0))


def clearance(p: Params) -> ck.Scalar:
    """CL [L/h] of a patient with these covariates."""
    return (p.CLnr + p.fren * L_PER_H * p.eGFR) * (p.WT / 70) ** 0.75 * p.fCL


def fludarabine(p: Params) -> ck.Disposition:
    """F-ara-A [mg/L] in a patient with these covariates."""
    flow = body.HOURS * (p.WT / 70) ** 0.75 * p.fCL
    size = p.WT / 70 * p.fV
    peripheral = ((flow * p.Q2, size * p.V2), (flow * p.Q3, size * p.V3))
    return ck.Disposition(body.HOURS * clearance(p), size * p.V1, peripheral)


def vector_field(t: ck.Scalar, y: States, p: ck.Params, c: Mapping[str, ck.Scalar]) -> States:
    """The exposure; the drug itself is in closed form."""
    return States(auc=body.HOURS * c["flu"])


def auc_of(p: Params, phosphate: float) -> ck.Scalar:
    """AUC from 0 to infinity [mg h/L] of this much fludarabine phosphate [mg]."""
    return F_ARA_A * phosphate / clearance(p)


def doses(days: Iterable[float], amount: float, hours: float) -> ck.Regimen:
    """The same infusion of fludarabine phosphate [mg] on each of these days."""
    return ck.Regimen(
        tuple(
            ck.Infusion(float(d), amount, hours / body.HOURS, product="fludarabine") for d in days
        )
    )


model = ck.ODEModel(
    name="langenhorst2019",
    product="fludarabine",
    reference="doi:10.1007/s40262-018-0715-9",
    params=Params,
    states=States,
    vector_field=vector_field,
    inputs={"flu": fludarabine},
    targets={"fludarabine": ck.Target("flu", scale=lambda p: F_ARA_A, unit="mg")},
    outputs={"flu": lambda t, y, p, c: c["flu"], "flu_auc": lambda t, y, p, c: y.auc},
    units={"flu": "mg/L", "flu_auc": "mg h/L"},
    regimens={  # mg/m² times 1.8 m², assumed for the reference patient of 70 kg
        "40 mg/m² x 4 over 1 h, 1.8 m²": doses((-5, -4, -3, -2), 72.0, 1.0),
        "10 mg/m² x 4 over 1 h, 1.8 m²": doses((-5, -4, -3, -2), 18.0, 1.0),
        "30 mg/m² x 3 over 0.5 h, 1.8 m²": doses((-5, -4, -3), 54.0, 0.5),
        "25 mg/m² x 3 over 0.5 h, 1.8 m²": doses((-5, -4, -3), 45.0, 0.5),
    },
    derived={
        "CL": (clearance, "L/h"),
        "V_ss": (lambda p: (p.V1 + p.V2 + p.V3) * p.WT / 70 * p.fV, "L"),
        "t_half": (lambda p: body.HOURS * jnp.log(2) / fludarabine(p).modes().rate[-1], "h"),
        "auc_100mg": (lambda p: auc_of(p, 100.0), "mg h/L"),
        # fludarabine phosphate, all doses together, for the AUC of Fabrizio 2022
        "phosphate_for_13_8": (lambda p: AUC_ENOUGH["Fabrizio 2022"] / auc_of(p, 1.0), "mg"),
    },
    published={
        # Section 3.3, quoted in the article of nlmixr2lib: medians after 160 mg/m² in all. Table 1:
        # adults 78 kg, eGFR 110; children 29 kg, eGFR 140. Body surfaces of 1.93 and 1.03 m² are
        # assumed for them, hence 5 %; of the children see the head of this file.
        "AUC in adults [mg h/L]": (
            lambda p: auc_of(p.replace(WT=78.0, eGFR=110.0), 160 * 1.93),
            26.0,
            0.05,
        ),
        "AUC in children [mg h/L]": (
            lambda p: auc_of(p.replace(WT=29.0, eGFR=140.0), 160 * 1.03),
            21.0,
            0.25,
        ),
        # Abstract: 3.24 and 0.782 where Table 2 rounds, at an eGFR of 7.2 L/h
        "clearance at an eGFR of 120, 70 kg [L/h]": (
            lambda p: clearance(p.replace(WT=70.0, eGFR=120.0)),
            3.24 + 0.782 * 7.2,
        ),
    },
)
