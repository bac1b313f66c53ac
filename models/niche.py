"""CAR-T cells in the niche that lymphodepletion opens, with tumor and repeated infusions (carpk).

A design of this project, not a published model. Fludarabine (Flu) and cyclophosphamide (Cy) kill T
cells through exposure at an effect site. The fewer T cells are left in all (L), the faster CAR-T
cells divide, as long as tumor (B) stimulates them. Infused cells (P) become effectors (E), and
these memory cells (M); normal T cells (N) come back meanwhile and close the niche. All in cells per
µL of blood, B in mL, rates per day, CF, CY and effect sites in mg/L:

    Fe' = keF (CF - Fe),    Ce' = keC (MR CY - Ce),    kLD = 24 (kF Fe + kC Ce)
    N'  = sN + rN N [1 - (L/KN)^th] / th - kLD N,      L = N + P + E + M
    P'  = -(kact + kLD) P
    E'  = kact P + (rho SA / (1 + (L/LH)^2) - dE - kEM - kLD) E
    M'  = kEM E - (dM + kLD) M
    B'  = g B (1 - B/Bmax) - gB E / (kB + E) B,        SA = B / (B + B50)

LH is the T-cell level at which the niche is half closed. th shapes the recovery of normal T cells:
-1 is a constant inflow, 0 (the default) Gompertz, ln(KN/L) in place of the bracket over th, and 1
logistic. CF is F-ara-A (three compartments, Langenhorst 2019), CY cyclophosphamide (one); both are
linear and solved in closed form. `load_model("niche", antigen="shared")` is for a target that
normal cells carry too (CD19): SA = SA0 + (1 - SA0) B / (B + B50), with SA0 assumed for scenarios.

Doses. Cells in number of CAR+ cells, `Regimen.cells`; VC converts them to cells/µL. Fludarabine in
mg of the prescribed phosphate, of which 0.781 is F-ara-A; cyclophosphamide in mg. `regimens` are
for the reference patient of 50 kg, 1.45 m² and an eGFR of 120, with 1e8 cells/m² on day 0 and every
drug dose at once; as infusions (`Regimen.lymphodepletion`) they change the peak by less than 1 %.
N0 and B0 hold at the start, which is the first dose unless `solve` is told an earlier day; the
reference runs have `start=-10`. An N0 other than KN is no steady state: set KN to N0 where only N0
is known.

"transgene" divides by N + P + E + M + Wmy, with a CONSTANT myeloid pool Wmy. Flu/Cy empties that
pool for a week or more, so copies/µg are understated several-fold in the first ten days after it,
and their peak comes days too late: do not compare lymphodepletion regimens, or this output with
data, in copies/µg. A modelled pool is to come; "car_t" is not concerned. "alc" counts T cells only;
B and NK cells add some 20 to 30 % (unverified).

The smaller form of `niche_full`, without its cytokine and with linear cyclophosphamide. The values
of the cells were fitted to that model's for blood cancers, themselves design values, over 15
scenarios (regimens, doses, rests, burdens, re-infusions): ln(car_t) differs by 0.13 (root mean
square, every day to day 120), host T cells by up to 7 %. There are no values for solid tumors yet.
Drugs and KN are published where `describe()` says so. Random effects are assumed but for those of
the drugs; do not widen that of rho: 1 % of rho is 4 to 6 % of the peak.

Known not to be met, until a joint calibration to data:
- Flu 25 mg/m² x 5 leaves some 100 T cells/µL; HEROS 2.0 (Hegde 2024) had lymphocytes below that at
  the infusion, after Flu and after Flu/Cy. How much more Flu/Cy expands than Flu is an output that
  rests on no data.
- A rest of 8 instead of 2 days before the infusion costs most of the expansion, for Gompertz
  recovery is fastest when T cells are fewest. Practice tolerates up to 14 days; th near 1 would.
- The peak comes on day 10 to 11; by PCR it is near day 7 in HEROS 2.0.
- Little tumor gives little expansion, so re-infusions expand less every time, or not at all where
  the first has cleared the tumor; HEROS 2.0 reports more with repeated cycles.
- Chemotherapy does not act on the tumor, which never reaches 0. VC is linear in weight.
Switches for immunity against the CAR, exhaustion, two products or a graft are not here yet.

Drugs: Langenhorst et al. (2019) Clin Pharmacokinet 58:627, doi:10.1007/s40262-018-0715-9, without
its variability between doses; Ahmed et al. (2020) Front Pharmacol 11:406,
doi:10.3389/fphar.2020.00406 (both read as transcribed in nlmixr2lib); Joy et al. (2012), abstract
PMC3477346. Cells: Kimmel et al. (2021), doi:10.1098/rspb.2021.0229 (Table 1).
"""

import math
from typing import Literal

import jax.numpy as jnp

import carpk as ck
from carpk.models import langenhorst2019

F_ARA_A, fludarabine = langenhorst2019.F_ARA_A, langenhorst2019.fludarabine
GENOMES = 151_515  # diploid genomes in 1 µg of DNA, at 6.6 pg each
ML_PER_CELL = 1e-9
H = 24.0  # per day; clearances are per hour
HOUSE = "this project: design value, assumed"
FITTED = "this project: fitted to niche_full"
AHMED = "Ahmed 2020, Table 3, as transcribed in nlmixr2lib"
KIMMEL = "Kimmel 2021, Table 1, through BIOMD0000001041"


# --- shared with niche_full -----------------------------------------------------------------------


class Common(langenhorst2019.Params):
    WT: ck.Scalar = ck.covariate(50.0, "kg", "actual body weight", HOUSE)
    keF: ck.Scalar = ck.param(
        math.log(2) / 1.0,
        "1/day",
        "rate of the effect site of fludarabine",
        HOUSE + ": half-life 1 day; F-ara-ATP in cells has some 15 to 24 h (unverified)",
        prior_sd=0.4,
    )
    CLY: ck.Scalar = ck.param(
        5.4,
        "L/h",
        "clearance of cyclophosphamide, 70 kg",
        AHMED + ": 5.41 L/h, CV 46.4 %; power 0.75 of weight assumed",
        cv=0.464,
        prior_sd=0.4,
    )
    VY: ck.Scalar = ck.param(
        33.0,
        "L",
        "volume of cyclophosphamide, 70 kg",
        "assumed: near 0.5 L/kg; Ahmed 2020 has 46.5 L, and the CV of 35.9 %",
        cv=0.359,
        prior_sd=0.3,
    )
    MR: ck.Scalar = ck.param(
        0.055,
        "1",
        "4-hydroxycyclophosphamide over cyclophosphamide",
        "this project, after Joy 2012 (abstract): ratio of AUC 0.06, SD 0.04",
        prior_sd=0.4,
    )
    keC: ck.Scalar = ck.param(
        math.log(2) / 0.5,
        "1/day",
        "rate of the effect site of cyclophosphamide",
        HOUSE + ": half-life 0.5 day",
        prior_sd=0.5,
    )
    kF: ck.Scalar = ck.param(
        0.14,
        "L/(mg h)",
        "ln T cells killed per AUC of F-ara-A",
        HOUSE + "; IIV assumed",
        iiv=0.25,
        prior_sd=0.5,
    )
    kC: ck.Scalar = ck.param(
        0.15,
        "L/(mg h)",
        "ln T cells killed per AUC of 4-hydroxycyclophosphamide",
        HOUSE + "; IIV assumed",
        iiv=0.25,
        prior_sd=0.5,
    )
    VCN: ck.Scalar = ck.param(1.0, "1", "transgene copies per CAR-T cell", "assumed", prior_sd=0.4)
    Wmy: ck.Scalar = ck.param(
        2500.0, "cells/µL", "other nucleated cells in the assay, constant", "assumed", prior_sd=0.5
    )
    KN: ck.Scalar = ck.param(
        500.0, "cells/µL", "T cells at which normal ones stop", KIMMEL, prior_sd=0.25
    )
    N0: ck.Scalar = ck.param(
        500.0, "cells/µL", "normal T cells at the start", "assumed: as KN", prior_sd=0.25
    )
    sN: ck.Scalar = ck.param(
        0.02, "cells/µL/day", "inflow of normal T cells", HOUSE + ": small", prior_sd=0.5
    )
    g: ck.Scalar = ck.param(
        0.02,
        "1/day",
        "growth rate of the tumor",
        "Leon-Triana 2021 (BIOMD0000001013): 0.02; differs between diseases",
        prior_sd=0.7,
    )
    Bmax: ck.Scalar = ck.param(3000.0, "mL", "largest tumor", HOUSE, prior_sd=0.5)


def cyclophosphamide(p) -> ck.Disposition:
    """Cyclophosphamide [mg/L] without autoinduction."""
    return ck.Disposition(H * p.CLY * (p.WT / 70) ** 0.75, p.VY * p.WT / 70)


def killing(y, p):
    """kLD, the rate at which both drugs kill T cells [per day]."""
    return H * (p.kF * y.Fe + p.kC * y.Ce)


def all_t_cells(y):
    """L [cells/µL]; the bound only holds where a coarse trial step undershoots 0."""
    return y.N + jnp.maximum(y.P + y.E + y.M, 0.0)


def car_t(t, y, p, c):
    """CAR-T cells [cells/µL]."""
    return y.P + y.E + y.M


def alc(t, y, p, c):
    """All T cells [cells/µL]."""
    return y.N + y.P + y.E + y.M


def transgene(t, y, p, c):
    """Copies per µg of DNA of all nucleated cells."""
    cells = car_t(t, y, p, c)
    return GENOMES * p.VCN * cells / (y.N + cells + p.Wmy)


OUTPUTS = {
    "car_t": car_t,
    "alc": alc,
    "transgene": transgene,
    "tumor": lambda t, y, p, c: y.B,
    "flu_auc": lambda t, y, p, c: y.AUCF,
    "cy4oh_auc": lambda t, y, p, c: y.AUCC,
}
UNITS = {
    "car_t": "cells/µL",
    "alc": "cells/µL",
    "transgene": "copies/µg",
    "tumor": "mL",
    "flu_auc": "mg h/L",
    "cy4oh_auc": "mg h/L",
}


# --- the reference runs ---------------------------------------------------------------------------

BSA, WEIGHT = 1.45, 50.0  # m², kg
ONCE = ck.Regimen.cells(0, 1e8 * BSA)
THREE_TIMES = ck.Regimen.cells([0, 42, 84], 1e8 * BSA)


def doses(product: str, days, amount: float) -> ck.Regimen:
    """The same dose [mg] on each of these days, at once."""
    return ck.Regimen(tuple(ck.Bolus(float(d), amount, product, "mg") for d in days))


def before_each(drugs: ck.Regimen) -> ck.Regimen:
    """Three infusions six weeks apart, each after these drugs."""
    return drugs + drugs.shift(42) + drugs.shift(84) + THREE_TIMES


FLU_3 = doses("fludarabine", (-5, -4, -3), 30 * BSA)
FLU_5 = doses("fludarabine", (-6, -5, -4, -3, -2), 25 * BSA)
CY_3 = doses("cyclophosphamide", (-5, -4, -3), 500 * BSA)
CY_2 = doses("cyclophosphamide", (-8, -7), 30 * WEIGHT)
REGIMENS = {
    "Flu/Cy 30/500": FLU_3 + CY_3 + ONCE,
    "Flu 25 x5 + Cy 1500 x2": FLU_5 + CY_2 + ONCE,
    "Flu 25 x5": FLU_5 + ONCE,
    "Flu 30 x3": FLU_3 + ONCE,
    "Cy 500 x3": CY_3 + ONCE,
    "none": ONCE,
    "three infusions, Flu/Cy before the first": FLU_3 + CY_3 + THREE_TIMES,
    "three infusions, Flu/Cy before each": before_each(FLU_3 + CY_3),
    "three infusions, Flu before each": before_each(FLU_3),
}


# --- the smaller form -----------------------------------------------------------------------------


class Params(Common):
    rN: ck.Scalar = ck.param(
        0.165, "1/day", "recovery rate of normal T cells", FITTED, prior_sd=0.25
    )
    th: ck.Scalar = ck.param(
        0.0,
        "1",
        "shape of their recovery: 0 Gompertz, 1 logistic",
        FITTED + ", which is Gompertz",
        bounds=(-1, 3),
        prior_sd=0.5,
    )
    VC: ck.Scalar = ck.param(
        419.0,
        "L",
        "volume that CAR-T cells spread into, 50 kg",
        FITTED + "; IIV assumed",
        iiv=0.3,
        prior_sd=0.4,
    )
    kact: ck.Scalar = ck.param(
        0.54, "1/day", "rate at which infused cells become effectors", FITTED, prior_sd=0.4
    )
    rho: ck.Scalar = ck.param(
        1.35,
        "1/day",
        "largest expansion rate",
        FITTED + "; IIV assumed",
        iiv=0.1,
        prior_sd=0.25,
    )
    LH: ck.Scalar = ck.param(
        170.0, "cells/µL", "T cells at which the niche is half closed", FITTED, prior_sd=0.4
    )
    B50: ck.Scalar = ck.param(11.2, "mL", "tumor that stimulates by half", FITTED, prior_sd=0.7)
    dE: ck.Scalar = ck.param(
        0.155, "1/day", "loss rate of effectors", FITTED + "; IIV assumed", iiv=0.3, prior_sd=0.3
    )
    kEM: ck.Scalar = ck.param(
        0.0022,
        "1/day",
        "rate at which effectors become memory cells",
        FITTED + "; IIV assumed",
        iiv=0.8,
        prior_sd=0.7,
    )
    dM: ck.Scalar = ck.param(0.0035, "1/day", "loss rate of memory cells", FITTED, prior_sd=0.55)
    gB: ck.Scalar = ck.param(0.48, "1/day", "largest killing rate", FITTED, prior_sd=0.55)
    kB: ck.Scalar = ck.param(
        4.0,
        "cells/µL",
        "effectors that kill at half the largest rate",
        HOUSE + ", after Kimmel 2021: 4.05",
        prior_sd=0.5,
    )
    B0: ck.Scalar = ck.param(
        100.0, "mL", "tumor at the start", HOUSE + ", after Kimmel 2021: 94.9", prior_sd=1.0
    )


class SharedParams(Params):
    SA0: ck.Scalar = ck.param(
        0.15, "1", "stimulation by normal cells", HOUSE + ", a scenario for CD19", bounds=(0, 1)
    )


class States(ck.States):
    Fe: ck.Scalar = ck.state("mg/L", "effect site of fludarabine")
    Ce: ck.Scalar = ck.state("mg/L", "effect site of cyclophosphamide")
    N: ck.Scalar = ck.state("cells/µL", "normal T cells", log=True)
    P: ck.Scalar = ck.state("cells/µL", "infused CAR-T cells")
    E: ck.Scalar = ck.state("cells/µL", "effector CAR-T cells")
    M: ck.Scalar = ck.state("cells/µL", "memory CAR-T cells")
    B: ck.Scalar = ck.state("mL", "tumor", log=True)
    AUCF: ck.Scalar = ck.state("mg h/L", "AUC of F-ara-A so far")
    AUCC: ck.Scalar = ck.state("mg h/L", "AUC of 4-hydroxycyclophosphamide so far")


def recovery(total, p):
    """[1 - (L/KN)^th] / th, and what it becomes at th = 0."""
    x = jnp.log(total / p.KN)
    u = p.th * x
    small = jnp.abs(u) < 1e-3
    safe = jnp.where(small, 1.0, u)
    series = 1 + u / 2 * (1 + u / 3 * (1 + u / 4 * (1 + u / 5)))
    return -x * jnp.where(small, series, jnp.expm1(safe) / safe)


def slopes(y, p, c, stimulation) -> States:
    """Derivatives [per day] under this antigen stimulation SA."""
    kLD = killing(y, p)
    total = all_t_cells(y)
    expansion = p.rho * stimulation / (1 + (total / p.LH) ** 2)
    active = p.MR * c["cy"]
    return States(
        Fe=p.keF * (c["flu"] - y.Fe),
        Ce=p.keC * (active - y.Ce),
        N=p.sN + (p.rN * recovery(total, p) - kLD) * y.N,
        P=-(p.kact + kLD) * y.P,
        E=p.kact * y.P + (expansion - p.dE - p.kEM - kLD) * y.E,
        M=p.kEM * y.E - (p.dM + kLD) * y.M,
        B=(p.g * (1 - y.B / p.Bmax) - p.gB * y.E / (p.kB + y.E)) * y.B,
        AUCF=H * c["flu"],
        AUCC=H * active,
    )


def vector_field(t, y, p, c):
    """The equations with antigen on the tumor only."""
    return slopes(y, p, c, y.B / (y.B + p.B50))


def vector_field_shared(t, y, p, c):
    """The equations with antigen on normal cells too."""
    return slopes(y, p, c, p.SA0 + (1 - p.SA0) * y.B / (y.B + p.B50))


def build(antigen: Literal["tumor", "shared"] = "tumor") -> ck.ODEModel:
    """The model with antigen on the tumor only, or "shared" with normal cells."""
    shared = antigen == "shared"
    return ck.ODEModel(
        name="niche",
        params=SharedParams if shared else Params,
        states=States,
        vector_field=vector_field_shared if shared else vector_field,
        initial=lambda p: States(N=p.N0, B=p.B0),
        targets={
            "car_t": ck.Target("P", lambda p: 1 / (p.VC * p.WT / WEIGHT * 1e6)),
            "fludarabine": ck.Target("flu", lambda p: F_ARA_A, unit="mg"),
            "cyclophosphamide": ck.Target("cy", unit="mg"),
        },
        inputs={"flu": fludarabine, "cy": cyclophosphamide},
        outputs=OUTPUTS,
        units=UNITS,
        one_cell={"tumor": ML_PER_CELL},
        regimens=REGIMENS,
        derived={
            # in an empty niche with plenty of tumor
            "t_double": (lambda p: jnp.log(2) / (p.rho - p.dE - p.kEM), "day"),
            "t_half_contraction": (lambda p: jnp.log(2) / (p.dE + p.kEM), "day"),
            "t_half_memory": (lambda p: jnp.log(2) / p.dM, "day"),
            "t_double_tumor": (lambda p: jnp.log(2) / p.g, "day"),
            # effectors that only just hold a small tumor; there are none where g >= gB
            "e_hold": (lambda p: p.kB * p.g / (p.gB - p.g), "cells/µL"),
            # ln of the T cells killed by 100 mg of the phosphate, or of cyclophosphamide
            "flu_ln_kill": (lambda p: 100 * F_ARA_A * p.kF * H / fludarabine(p).clearance, "1"),
            "cy_ln_kill": (lambda p: 100 * p.MR * p.kC * H / cyclophosphamide(p).clearance, "1"),
        },
        published={
            # Langenhorst 2019, section 3.3: median of adults after 160 mg/m² of the phosphate.
            # Table 1: 78 kg, eGFR 110; 1.93 m² is assumed for them, hence 5 %.
            "AUC of F-ara-A in adults [mg h/L]": (
                lambda p: (
                    H
                    * (160 * 1.93 * F_ARA_A)
                    / fludarabine(p.replace(WT=78.0, eGFR=110.0)).clearance
                ),
                26.0,
                0.05,
            ),
        },
    )


model = build()
