"""What both niche models share: patient, drugs, T cells, tumor, neutrophils and reference runs.

`niche` and `niche_full` write their own equations with the functions here; `_niche_switches` makes
a model of them, with the scenarios that are asked for. Cells are per µL of blood, B in mL, rates
per day, concentrations in mg/L:

    kLD = 24 (kF Fe + kC Ce)                                    killing of T cells by both drugs
    SA  = SA0 + (S0 - SA0) B / (B + B50)                        stimulation by the antigen
    k   = gB tau E / (kB + tau E),    G = g (1 - B/Bmax)        killing and growth of the tumor

denominator="modelled" (the default): neutrophils, after Friberg, dilute the transgene.

    Prol' = ktr Prol [(1 - sF Fe - sC Ce) (Circ0/Circ)^gamma - 1],   T1' = ktr (Prol - T1), ...,
    Circ' = ktr (T3 - Circ),    ktr = 4/MTT;    copies/µg = 151515 VCN C / (L + 1000 Circ)
"""

import math
from collections.abc import Iterable

import carpk as ck
from carpk.models import _body as body
from carpk.models import _variants as variants
from carpk.models import friberg2002, langenhorst2019

F_ARA_A, fludarabine = langenhorst2019.F_ARA_A, langenhorst2019.fludarabine
HOUSE = "this project: design value, assumed"
SCENARIO = HOUSE + ", a scenario"
AHMED = "Ahmed 2020, Table 3, as transcribed in nlmixr2lib"
KIMMEL = "Kimmel 2021, Table 1, through BIOMD0000001041"


# --- parameters and states ------------------------------------------------------------------------


class Common(langenhorst2019.Params):
    """Patient, drugs, normal T cells and tumor."""

    WT: ck.Scalar = ck.covariate(50.0, "kg", "actual body weight", HOUSE)
    BSA: ck.Scalar = ck.covariate(
        1.45, "m²", "body surface, for doses per m²", HOUSE + "; not in the equations"
    )
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

    # Parameters for which each form has a value of its own

    @property
    def B50(self) -> ck.Scalar:
        """Tumor that stimulates by half [mL]."""
        raise NotImplementedError

    @property
    def gB(self) -> ck.Scalar:
        """Largest killing rate [per day]."""
        raise NotImplementedError

    @property
    def kB(self) -> ck.Scalar:
        """Effectors at the tumor that kill at half of it [cells/µL]."""
        raise NotImplementedError

    @property
    def B0(self) -> ck.Scalar:
        """Tumor at the start [mL]."""
        raise NotImplementedError

    # Parameters of one form, which are these numbers in the other

    @property
    def S0(self) -> ck.Scalar:
        """Stimulation by plenty of tumor."""
        return 1.0

    @property
    def SA0(self) -> ck.Scalar:
        """Stimulation by normal cells."""
        return 0.0

    @property
    def tau(self) -> ck.Scalar:
        """Effectors at the tumor over those in blood."""
        return 1.0

    @property
    def phiC(self) -> ck.Scalar:
        """Killing of CAR-T cells by drugs over that of normal T cells."""
        return 1.0


class States(ck.States):
    Fe: ck.Scalar = ck.state("mg/L", "effect site of fludarabine")
    Ce: ck.Scalar = ck.state("mg/L", "effect site of cyclophosphamide")
    N: ck.Scalar = ck.state("cells/µL", "normal T cells", log=True)
    P: ck.Scalar = ck.state("cells/µL", "infused CAR-T cells")
    E: ck.Scalar = ck.state("cells/µL", "effector CAR-T cells")
    M: ck.Scalar = ck.state("cells/µL", "memory CAR-T cells")
    AUCF: ck.Scalar = ck.state("mg h/L", "AUC of F-ara-A so far")
    AUCC: ck.Scalar = ck.state("mg h/L", "AUC of 4-hydroxycyclophosphamide so far")


class OneTumor(ck.States):
    B: ck.Scalar = ck.state("mL", "tumor", log=True)


class ConstantPool(ck.Params):
    Wmy: ck.Scalar = ck.param(
        2500.0, "cells/µL", "other nucleated cells in the assay, constant", "assumed", prior_sd=0.5
    )


UNPUBLISHED = SCENARIO + ": no slope is published"


class Myeloid(ck.Params):
    Circ0: ck.Scalar = variants.like(friberg2002.Neutrophils, "Circ0")
    MTT: ck.Scalar = variants.like(friberg2002.Neutrophils, "MTT")
    gamma: ck.Scalar = variants.like(friberg2002.Neutrophils, "gamma")
    sF: ck.Scalar = ck.param(
        1.5, "L/mg", "effect of F-ara-A on the division of neutrophils", UNPUBLISHED, prior_sd=0.5
    )
    sC: ck.Scalar = ck.param(
        3.0,
        "L/mg",
        "effect of 4-hydroxycyclophosphamide on the division of neutrophils",
        UNPUBLISHED,
        prior_sd=0.5,
    )


# --- equations ------------------------------------------------------------------------------------


def killing_by_drugs(y: States, p: Common) -> ck.Scalar:
    """kLD, the rate at which both drugs kill T cells [per day]."""
    return body.HOURS * (p.kF * y.Fe + p.kC * y.Ce)


def stimulation(B: ck.Scalar, p: Common) -> ck.Scalar:
    """SA with this much tumor that carries the antigen [mL]."""
    return p.SA0 + (p.S0 - p.SA0) * B / (B + p.B50)


def tumor_killing(E: ck.Scalar, p: Common) -> ck.Scalar:
    """k, the rate at which these effectors kill tumor that carries their antigen [per day]."""
    reached = p.tau * E
    return p.gB * reached / (p.kB + reached)


def tumor_growth(B: ck.Scalar, p: Common) -> ck.Scalar:
    """G, the rate at which a tumor of this size grows [per day]."""
    return p.g * (1 - B / p.Bmax)


def neutrophils(y: States, chain: friberg2002.States, p: Myeloid) -> dict[str, ck.Scalar]:
    """Friberg's chain with both drugs."""
    effect = p.sF * y.Fe + p.sC * y.Ce
    return friberg2002.slopes(chain, effect, (p.Circ0 / chain.Circ) ** p.gamma, p.MTT)


# --- the reference runs ---------------------------------------------------------------------------

BSA, WEIGHT = Common.info()["BSA"].value, Common.info()["WT"].value
ONCE = ck.Regimen.cells(0, 1e8 * BSA)
THREE_TIMES = ck.Regimen.cells([0, 42, 84], 1e8 * BSA)


def doses(product: str, days: Iterable[float], amount: float) -> ck.Regimen:
    """The same dose [mg] on each of these days, at once."""
    return ck.Regimen(tuple(ck.Bolus(float(d), amount, product, "mg") for d in days))


def before_each(drugs: ck.Regimen) -> ck.Regimen:
    """Three infusions six weeks apart, each after these drugs."""
    return drugs + drugs.shift(42) + drugs.shift(84) + THREE_TIMES


FLU_3 = doses("fludarabine", (-5, -4, -3), 30 * BSA)
FLU_5 = doses("fludarabine", (-6, -5, -4, -3, -2), 25 * BSA)
CY_3 = doses("cyclophosphamide", (-5, -4, -3), 500 * BSA)
CY_2 = doses("cyclophosphamide", (-8, -7), 30 * WEIGHT)
HEROS_FLU = FLU_5.shift(-1)  # two days of rest; days inferred from the order in NCT00902044
FLU_CY = FLU_3 + CY_3 + ONCE
REGIMENS = {
    "Flu/Cy 30/500": FLU_CY,
    "Flu/Cy 30/300": FLU_3 + doses("cyclophosphamide", (-5, -4, -3), 300 * BSA) + ONCE,
    "Flu 25 x5 + Cy 1500 x2": FLU_5 + CY_2 + ONCE,
    "HEROS Flu/Cy": HEROS_FLU + CY_2.shift(1) + ONCE,
    "HEROS Flu": HEROS_FLU + ONCE,
    "Flu 25 x5": FLU_5 + ONCE,
    "Flu 30 x3": FLU_3 + ONCE,
    "Cy 500 x3": CY_3 + ONCE,
    "Flu 25 x3 + Cy 60/kg": (  # days assumed
        doses("fludarabine", (-5, -4, -3), 25 * BSA)
        + doses("cyclophosphamide", (-6,), 60 * WEIGHT)
        + ONCE
    ),
    "none": ONCE,
    "three infusions, Flu/Cy before the first": FLU_3 + CY_3 + THREE_TIMES,
    "three infusions, Flu/Cy before each": before_each(FLU_3 + CY_3),
    "three infusions, Flu before each": before_each(FLU_3),
}
