"""Fludarabine (F-ara-A) before axi-cel or tisa-cel in adults with lymphoma (Varela 2025).

Three compartments with linear elimination. 56 adults with large B-cell lymphoma, 348 samples:

    CL = (CLnr + CLren CRCL/96) (WT/70)^0.75 fCL
    V1 = V1_70 (WT/70),           V2 and V3 likewise
    CLD2 = CLD2_70 (WT/70)^0.75,  CLD3 likewise

CLnr is 4.4 L/h before axi-cel and 3.9 L/h before tisa-cel, `load_model("varela2025",
product="tisa-cel")`. The cells had not been given when blood was taken, so this tells two groups of
patients apart and is no effect of the product; the authors call it unlikely to be of clinical
meaning. CRCL is creatinine clearance by Cockcroft-Gault [mL/min], as it is and not per 1.73 m². It
was measured twice in a course; here a patient has one.

Doses are mg of fludarabine PHOSPHATE, as prescribed and as `Regimen.lymphodepletion` gives them. A
mg of it holds 0.781 mg of F-ara-A (molecular weights 285.2 / 365.2), and that is what arrives: the
authors convert by 0.78 before fitting, the transcription read here expects converted amounts. Half
an hour on days -5, -4 and -3, 30 mg/m² before axi-cel and 25 mg/m² before tisa-cel; a quarter less
with a CRCL of 45 to 60, and 40 % less with 30 to 45. The outputs are the concentration of F-ara-A
in serum [mg/L; the paper has ng/mL] and its integral from the start [mg h/L] (AUC).

Random effects: on CL (CV 29.8 %) and on V1 (CV 34.8 %), with a correlation of 0.9; none on V2, V3,
CLD2 and CLD3. Variability between doses was tried by the authors and not kept.

Beware of the tail. With 7 of 348 samples at 7 hours the distribution phase is hardly seen, so the
authors; V3 is 11 L, against 50 L in `langenhorst2019`, and the terminal half-life 8.5 h against 15.
With 70 kg and 96 mL/min the AUC of a dose is 26 % (axi-cel) or 37 % (tisa-cel) larger than there.

Errata: Methods 2.3.2 says that covariates are divided by their medians, but weight is divided by 70
kg, not by the median of 82.5; only so does CL come to the 6.1 and 5.6 L/h of the Discussion.
Table 1 has a mean CRCL of 90 and labels it mL/min/1.73 m², the Discussion a median of 96 mL/min.

Reference: Varela-González-Aller et al. (2025) Pharmaceutics 17:1592,
doi:10.3390/pharmaceutics17121592, Table 2. Read in the transcription of nlmixr2lib
(VarelaGonzalezAller_2025_fludarabine) and its article, not in the paper itself.
"""

from typing import Any, Literal

import jax.numpy as jnp

import carpk as ck
from carpk.models import _body as body
from carpk.models import _variants as variants
from carpk.models import langenhorst2019

TABLE = "Varela 2025, Table 2, as transcribed in nlmixr2lib"
F_ARA_A = langenhorst2019.F_ARA_A
ENOUGH = langenhorst2019.AUC_ENOUGH["Fabrizio 2022"]
RESIDUAL_SD = 0.29  # of ln(concentration); same table
BY_OTHERS = "clearance of F-ara-A but by the kidney before {}, 70 kg"
CLNR = {"axi-cel": 4.4, "tisa-cel": 3.9}  # L/h
PER_M2 = {"axi-cel": 30, "tisa-cel": 25}  # mg of the phosphate
TYPICAL_CL = {"axi-cel": 6.1, "tisa-cel": 5.6}  # L/h; Discussion: 70 kg, CRCL 96


class Params(ck.Params):
    CLnr: ck.Scalar = ck.param(
        CLNR["axi-cel"],
        "L/h",
        BY_OTHERS.format("axi-cel"),
        TABLE,
        prior_sd=0.2,
    )
    CLren: ck.Scalar = ck.param(
        1.7, "L/h", "clearance by the kidney at a CRCL of 96, 70 kg", TABLE, prior_sd=0.2
    )
    fCL: ck.Scalar = ck.param(
        1.0,
        "1",
        "this patient's clearance over that expected of the covariates",
        TABLE + ": 29.8 % CV",
        cv=0.298,
        prior_sd=0.2,
    )
    V1: ck.Scalar = ck.param(
        41.2,
        "L",
        "central volume, 70 kg",
        TABLE + ": 34.8 % CV",
        cv=0.348,
        prior_sd=0.2,
    )
    V2: ck.Scalar = ck.param(14.5, "L", "shallow peripheral volume, 70 kg", TABLE, prior_sd=0.3)
    V3: ck.Scalar = ck.param(10.8, "L", "deep peripheral volume, 70 kg", TABLE, prior_sd=0.3)
    CLD2: ck.Scalar = ck.param(
        4.8, "L/h", "clearance between V1 and V2, 70 kg", TABLE, prior_sd=0.3
    )
    CLD3: ck.Scalar = ck.param(
        3.6, "L/h", "clearance between V1 and V3, 70 kg", TABLE, prior_sd=0.3
    )
    WT: ck.Scalar = ck.covariate(70.0, "kg", "body weight", TABLE + ": reference")
    CRCL: ck.Scalar = ck.covariate(
        96.0, "mL/min", "creatinine clearance, Cockcroft-Gault", TABLE + ": reference, median"
    )


def clearance(p: Params) -> ck.Scalar:
    """CL [L/h] of a patient with these covariates."""
    return (p.CLnr + p.CLren * p.CRCL / 96) * (p.WT / 70) ** 0.75 * p.fCL


def fludarabine(p: Params) -> ck.Disposition:
    """F-ara-A [mg/L] in a patient with these covariates."""
    flow, size = body.HOURS * (p.WT / 70) ** 0.75, p.WT / 70
    peripheral = ((flow * p.CLD2, size * p.V2), (flow * p.CLD3, size * p.V3))
    return ck.Disposition(body.HOURS * clearance(p), size * p.V1, peripheral)


def auc_of(p: Params, phosphate: float) -> ck.Scalar:
    """AUC from 0 to infinity [mg h/L] of this much fludarabine phosphate [mg]."""
    return F_ARA_A * phosphate / clearance(p)


def late_ratio(p: Params, low: float, high: float) -> ck.Scalar:
    """Concentration five days after the first of three doses, at one CRCL over that at another."""
    level = [
        fludarabine(p.replace(CRCL=each)).concentration(
            jnp.array([5.0]), jnp.arange(3.0), 1.0, 0.5 / body.HOURS
        )[0]
        for each in (low, high)
    ]
    return level[0] / level[1]


def build(product: Literal["axi-cel", "tisa-cel"] = "axi-cel") -> ck.ODEModel:
    """The model for patients who wait for axi-cel or for tisa-cel."""
    about = BY_OTHERS.format(product)
    other = {"CLnr": variants.like(Params, "CLnr", value=CLNR[product], about=about)}
    params = Params if product == "axi-cel" else variants.with_fields(Params, other)

    published: dict[str, tuple[Any, ...]] = {
        "clearance of the typical patient [L/h]": (clearance, TYPICAL_CL[product])
    }
    if product == "axi-cel":
        # Results on Figure 4, axi-cel at the median weight: "five-fold" between the 10th and 90th
        # percentile of CRCL at the end of the simulation. Neither is printed: 5 days, and 96 mL/min
        # times or over 1.67, are those of the article of nlmixr2lib
        published["late concentration, low over high CRCL"] = (
            lambda p: late_ratio(p.replace(WT=82.5), 96 / 1.67, 96 * 1.67),
            5.0,
            0.1,
        )
    mg = PER_M2[product] * 1.8
    return ck.ODEModel(
        name="varela2025",
        product="fludarabine",
        reference="doi:10.3390/pharmaceutics17121592",
        params=params,
        states=langenhorst2019.States,
        vector_field=langenhorst2019.vector_field,
        inputs={"flu": fludarabine},
        targets={"fludarabine": ck.Target("flu", scale=lambda p: F_ARA_A, unit="mg")},
        outputs={"flu": lambda t, y, p, c: c["flu"], "flu_auc": lambda t, y, p, c: y.auc},
        units={"flu": "mg/L", "flu_auc": "mg h/L"},
        correlation={("fCL", "V1"): 0.9},
        regimens={  # 1.8 m² is 70 kg at the cohort's median body mass index, 25.3 kg/m² (Mosteller)
            f"{PER_M2[product]} mg/m² x 3, 1.8 m²": langenhorst2019.doses((-5, -4, -3), mg, 0.5),
        },
        derived={
            "CL": (clearance, "L/h"),
            "V_ss": (lambda p: (p.V1 + p.V2 + p.V3) * p.WT / 70, "L"),
            "t_half": (lambda p: body.HOURS * jnp.log(2) / fludarabine(p).modes().rate[-1], "h"),
            "auc_100mg": (lambda p: auc_of(p, 100.0), "mg h/L"),
            # fludarabine phosphate, all doses together, for the AUC of Fabrizio 2022
            "phosphate_for_13_8": (lambda p: ENOUGH / auc_of(p, 1.0), "mg"),
        },
        published=published,
    )


model = build()
