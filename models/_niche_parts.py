"""What both niche models share: patient, drugs, blood counts, doses, and the switches.

`niche` and `niche_full` each say how their drugs, normal T cells and CAR-T cells behave (`Form`);
`assemble` makes a model of it. Every switch is written here, once, and is off unless asked for;
what is off has no state, no parameter and no term. All values of switches are assumed, for
scenarios.

Cells are per µL of blood, B in mL, rates per day, concentrations in mg/L. SA is the stimulation of
a product by its antigen, C all of its cells, L all T cells, kLD the killing by drugs:

denominator="modelled" (the default): neutrophils, after Friberg, dilute the transgene.
    Prol' = ktr Prol [(1 - sF Fe - sC Ce) (Circ0/Circ)^gamma - 1],   T1' = ktr (Prol - T1), ...,
    Circ' = ktr (T3 - Circ),    ktr = 4/MTT;    copies/µg = 151515 VCN C / (L + 1000 Circ)
immunity="on": anti-CAR immunity J, from j0 to at most 1; E, P, M (and X) are lost at kJ J as well.
    J' = rJ (N/KN)^eJ C / (C + CJ) J (1 - J) - (dJ + kLD) J + dJ j0
exhaustion="on": effectors become exhausted (X), which neither kill nor divide. With an antibody to
PD-1, "pembrolizumab" or "nivolumab", fewer do and some come back; RO is the share of PD-1 bound.
    x = kEX SA (1 - eps RO),    E' gets - x E + kres RO X,    RO = conc / (conc + Kd)
    X' = x E - (dX + kLD + kres RO) X
products="two": a second product, "car_t_2", with parameters and states of its own (rho_2, E_2) in
the same niche; the tumor has four classes, Bpp with both antigens to Bmm with none. k1 and k2 are
the killing rates of the products, G = g (1 - B/Bmax), B their sum:
    Bpp' = (G - k1 - k2 - mu1 - mu2) Bpp,          Bpm' = (G - k1 - mu1) Bpm + mu2 Bpp
    Bmp' = (G - k2 - mu2) Bmp + mu1 Bpp,           Bmm' = G Bmm + mu1 Bpm + mu2 Bmp
graft="on": CAR-T cells against CD7, then a graft of donor T cells (Nd) and donor myeloid cells (D)
beside the host's (N, Hm). CAR-T cells kill T cells of both and the host's myeloid cells:
    N'  gets - k7 N,    Nd' = rN room Nd - (kLD + k7) Nd,    k7 = gT f7 E / (kT + E)
    Hm' = sM + rD ln(KD / (Hm + D)) Hm - (phiM kLD + kMy E / (kT + E)) Hm
    D'  = rD ln(KD / (Hm + D)) D - phiM kLD D,    E' gets - FRATRICIDE E / (E + kT) E
  Hm + D takes the place of neutrophils in the denominator and in "anc".
cure="on": the chance that no tumor cell is left, "cure", as in `kimmel2021`.
"""

import dataclasses
import functools
import math
import operator
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import jax.numpy as jnp

import carpk as ck
from carpk.models import ahamadi2017, friberg2002, hu2024_nivolumab, kimmel2021, langenhorst2019

F_ARA_A, fludarabine = langenhorst2019.F_ARA_A, langenhorst2019.fludarabine
GENOMES = 151_515  # diploid genomes in 1 µg of DNA, at 6.6 pg each
ML_PER_CELL = 1e-9
UL_PER_NL = 1000.0  # cells/µL in 1e9/L
UL_PER_L = 1e6
GRAFT = 1e8  # T cells, the graft that brings D0 myeloid cells
H = 24.0  # per day; clearances are per hour
HOUSE = "this project: design value, assumed"
SCENARIO = HOUSE + ", a scenario"
AHMED = "Ahmed 2020, Table 3, as transcribed in nlmixr2lib"
KIMMEL = "Kimmel 2021, Table 1, through BIOMD0000001041"


# --- parameters and states of both forms ----------------------------------------------------------


class Common(langenhorst2019.Params):
    # What a form may leave out, and has these values then
    S0: ClassVar[Any] = 1.0  # stimulation by plenty of tumor
    SA0: ClassVar[Any] = 0.0  # stimulation by normal cells
    tau: ClassVar[Any] = 1.0  # effectors at the tumor over those in blood
    phiC: ClassVar[Any] = 1.0  # killing of CAR-T cells by drugs over that of normal T cells
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


# --- parameters of the switches -------------------------------------------------------------------


def field(info: Any, **changes: Any) -> Any:
    """A parameter like this one, with other values of some of its properties."""
    known = info._asdict()
    for name in ("symbol", "is_covariate", "share"):
        del known[name]
    return ck.param(**(known | changes))


class ConstantPool(ck.Params):
    Wmy: ck.Scalar = ck.param(
        2500.0, "cells/µL", "other nucleated cells in the assay, constant", "assumed", prior_sd=0.5
    )


NEUTROPHILS = friberg2002.Neutrophils.info()
UNPUBLISHED = SCENARIO + ": no slope is published"


class Myeloid(ck.Params):
    Circ0: ck.Scalar = field(NEUTROPHILS["Circ0"])
    MTT: ck.Scalar = field(NEUTROPHILS["MTT"])
    gamma: ck.Scalar = field(NEUTROPHILS["gamma"])
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


class Immunity(ck.Params):
    rJ: ck.Scalar = ck.param(0.5, "1/day", "growth rate of anti-CAR immunity", SCENARIO)
    eJ: ck.Scalar = ck.param(
        1.0, "1", "power of normal T cells over KN in its growth", SCENARIO, prior_sd=0.5
    )
    CJ: ck.Scalar = ck.param(1.0, "cells/µL", "CAR-T cells that stimulate it by half", SCENARIO)
    dJ: ck.Scalar = ck.param(0.02, "1/day", "loss rate of anti-CAR immunity", SCENARIO)
    j0: ck.Scalar = ck.param(1e-4, "1", "anti-CAR immunity at the start", SCENARIO, bounds=(0, 1))
    kJ: ck.Scalar = ck.param(1.0, "1/day", "largest loss rate of CAR-T cells to it", SCENARIO)


class Exhaustion(ck.Params):
    kEX: ck.Scalar = ck.param(0.1, "1/day", "largest rate of exhaustion", SCENARIO)
    dX: ck.Scalar = ck.param(0.1, "1/day", "loss rate of exhausted CAR-T cells", SCENARIO)


class Checkpoint(Exhaustion):
    eps: ck.Scalar = ck.param(
        0.8, "1", "share of exhaustion that PD-1 brings about", SCENARIO, bounds=(0, 1)
    )
    kres: ck.Scalar = ck.param(
        0.05, "1/day", "rate at which exhausted cells come back, all PD-1 bound", SCENARIO
    )
    Kd: ck.Scalar = ck.param(
        0.1, "µg/mL", "antibody that binds half of PD-1", "assumed: unverified, not read"
    )


class Antigens(ck.Params):
    mu1: ck.Scalar = ck.param(1e-5, "1/day", "rate of loss of the first antigen", SCENARIO)
    mu2: ck.Scalar = ck.param(1e-5, "1/day", "rate of loss of the second antigen", SCENARIO)
    ONLY1: ck.Scalar = ck.covariate(
        0.0, "1", "share of the tumor with the first antigen only", "reference: none"
    )
    ONLY2: ck.Scalar = ck.covariate(
        0.0, "1", "share of the tumor with the second antigen only", "reference: none"
    )
    NEITHER: ck.Scalar = ck.covariate(
        0.0, "1", "share of the tumor with neither antigen", "reference: none"
    )


class Graft(ck.Params):
    gT: ck.Scalar = ck.param(
        1.0, "1/day", "largest rate at which CAR-T cells kill T cells with CD7", SCENARIO
    )
    f7: ck.Scalar = ck.param(0.95, "1", "share of T cells with CD7", SCENARIO, bounds=(0, 1))
    kT: ck.Scalar = ck.param(
        4.0, "cells/µL", "effectors that kill normal cells at half the largest rate", SCENARIO
    )
    kMy: ck.Scalar = ck.param(
        0.8, "1/day", "largest rate at which they kill host myeloid cells", SCENARIO
    )
    phiM: ck.Scalar = ck.param(
        0.5, "1", "killing of myeloid cells by drugs over that of T cells", SCENARIO
    )
    rD: ck.Scalar = ck.param(0.12, "1/day", "recovery rate of myeloid cells", SCENARIO)
    KD: ck.Scalar = ck.param(
        4000.0, "cells/µL", "myeloid cells at the start, at which they stop", SCENARIO
    )
    sM: ck.Scalar = ck.param(0.02, "cells/µL/day", "inflow of host myeloid cells", SCENARIO)
    D0: ck.Scalar = ck.param(
        10.0, "cells/µL", "donor myeloid cells that a graft with 1e8 T cells starts", SCENARIO
    )
    FRATRICIDE: ck.Scalar = ck.covariate(
        0.0,
        "1/day",
        "largest rate at which effectors kill each other; 0 for a product without CD7",
        "reference: a product without CD7",
    )


class Cure(ck.Params):
    turnover: ck.Scalar = field(kimmel2021.build(cure=True).params.info()["turnover"])


# --- states of the switches -----------------------------------------------------------------------


class ImmunityStates(ck.States):
    J: ck.Scalar = ck.state("1", "anti-CAR immunity", log=True)


class ExhaustionStates(ck.States):
    X: ck.Scalar = ck.state("cells/µL", "exhausted CAR-T cells")


class AntigenStates(ck.States):
    Bpp: ck.Scalar = ck.state("mL", "tumor with both antigens", log=True)
    Bpm: ck.Scalar = ck.state("mL", "tumor with the first antigen only")
    Bmp: ck.Scalar = ck.state("mL", "tumor with the second antigen only")
    Bmm: ck.Scalar = ck.state("mL", "tumor with neither antigen")


class GraftStates(ck.States):
    Nd: ck.Scalar = ck.state("cells/µL", "T cells of the donor", log=True)
    Hm: ck.Scalar = ck.state("cells/µL", "myeloid cells of the host", log=True)
    D: ck.Scalar = ck.state("cells/µL", "myeloid cells of the donor", log=True)


class CureStates(ck.States):
    w: ck.Scalar = ck.state(
        "1", "chance that a lineage of tumor cells lives on, over B/B0", 1.0, log=True
    )


# --- equations ------------------------------------------------------------------------------------

CAR_T = ("P", "E", "M", "X")
SECOND = "_2"


class Own:
    """States or parameters as a second product sees them: `rho` is `rho_2` where there is one."""

    def __init__(self, of: Any) -> None:
        self._of = of

    def __getattr__(self, name: str) -> Any:
        mine = name + SECOND
        return getattr(self._of, mine if hasattr(self._of, mine) else name)


def total_of(y: Any, names: Iterable[str]) -> Any:
    """Sum of those states that the model has."""
    return functools.reduce(operator.add, [getattr(y, n) for n in names if hasattr(y, n)])


def cells_of(y: Any, suffix: str = "") -> Any:
    """CAR-T cells of one product [cells/µL]."""
    return total_of(y, [n + suffix for n in CAR_T])


def all_cells(y: Any) -> Any:
    """CAR-T cells of every product [cells/µL]."""
    return total_of(y, [n + suffix for suffix in ("", SECOND) for n in CAR_T])


def normal_cells(y: Any) -> Any:
    """T cells without a CAR [cells/µL]."""
    return total_of(y, ("N", "Nd"))


def all_t_cells(y: Any) -> Any:
    """L [cells/µL]; the bound only holds where a coarse trial step undershoots 0."""
    return normal_cells(y) + jnp.maximum(all_cells(y), 0.0)


def killing(y: Any, p: Any) -> Any:
    """kLD, the rate at which both drugs kill T cells [per day]."""
    return H * (p.kF * y.Fe + p.kC * y.Ce)


def stimulation(burden: Any, p: Any) -> Any:
    """SA with this much tumor that carries the antigen [mL]."""
    return p.SA0 + (p.S0 - p.SA0) * burden / (burden + p.B50)


def tumor_killing(y: Any, p: Any) -> Any:
    """Rate at which a product kills tumor that carries its antigen [per day]."""
    reached = p.tau * y.E
    return p.gB * reached / (p.kB + reached)


def tumor_growth(tumor: Any, p: Any) -> Any:
    """Rate at which a tumor of this size grows [per day]."""
    return p.g * (1 - tumor / p.Bmax)


def neutrophils(y: Any, p: Any) -> dict[str, Any]:
    """Friberg's chain with both drugs."""
    ktr = 4 * H / p.MTT
    effect = p.sF * y.Fe + p.sC * y.Ce
    return dict(
        Prol=ktr * y.Prol * ((1 - effect) * (p.Circ0 / y.Circ) ** p.gamma - 1),
        T1=ktr * (y.Prol - y.T1),
        T2=ktr * (y.T1 - y.T2),
        T3=ktr * (y.T2 - y.T3),
        Circ=ktr * (y.T3 - y.Circ),
    )


def immunity(y: Any, p: Any, kLD: Any) -> dict[str, Any]:
    """Anti-CAR immunity, and what it adds to the slopes of one product."""
    cells = jnp.maximum(total_of(y, CAR_T), 0.0)
    growth = p.rJ * (y.N / p.KN) ** p.eJ * cells / (cells + p.CJ)
    return dict(
        {n: -p.kJ * y.J * getattr(y, n) for n in CAR_T if hasattr(y, n)},
        J=growth * y.J * (1 - y.J) - (p.dJ + kLD) * y.J + p.dJ * p.j0,
    )


def occupancy(concentration: Any, p: Any) -> Any:
    """The share of PD-1 that is bound."""
    return concentration / (concentration + p.Kd)


def exhaustion(y: Any, p: Any, kLD: Any, SA: Any, bound: Any) -> dict[str, Any]:
    """Exhausted cells, and what they add to the slopes of one product.

    Args:
        bound: share of PD-1 that an antibody binds; None without one.
    """
    if bound is None:
        lost = p.kEX * SA * y.E
        return dict(E=-lost, X=lost - (p.dX + p.phiC * kLD) * y.X)
    lost, back = p.kEX * SA * (1 - p.eps * bound) * y.E, p.kres * bound * y.X
    return dict(E=back - lost, X=lost - back - (p.dX + p.phiC * kLD) * y.X)


def antigen_classes(y: Any, p: Any, first: Any, second: Any) -> dict[str, Any]:
    """The four classes of a tumor that two products kill at these rates."""
    growth = tumor_growth(tumor(y), p)
    return dict(
        Bpp=(growth - first - second - p.mu1 - p.mu2) * y.Bpp,
        Bpm=(growth - first - p.mu1) * y.Bpm + p.mu2 * y.Bpp,
        Bmp=(growth - second - p.mu2) * y.Bmp + p.mu1 * y.Bpp,
        Bmm=growth * y.Bmm + p.mu1 * y.Bpm + p.mu2 * y.Bmp,
    )


def graft(y: Any, p: Any, kLD: Any, room: Any) -> dict[str, Any]:
    """Donor cells and the host's myeloid cells, and what they add to the slopes of the others.

    Args:
        room: net division rate of T cells over rN.
    """
    killing = y.E / (p.kT + y.E)
    by_cd7 = p.gT * p.f7 * killing
    regrowth = p.rD * jnp.log(p.KD / (y.Hm + y.D)) - p.phiM * kLD
    return dict(
        N=-by_cd7 * y.N,
        Nd=(p.rN * room - kLD - by_cd7) * y.Nd,
        Hm=p.sM + (regrowth - p.kMy * killing) * y.Hm,
        D=regrowth * y.D,
        E=-p.FRATRICIDE * killing * y.E,
    )


def add(slopes: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Add terms to the slopes of states, which start at nothing."""
    for name, term in more.items():
        slopes[name] = slopes[name] + term if name in slopes else term


# --- outputs --------------------------------------------------------------------------------------


def tumor(y: Any) -> Any:
    """All tumor [mL]."""
    return total_of(y, ("B", "Bpp", "Bpm", "Bmp", "Bmm"))


def alc(y: Any) -> Any:
    """All T cells [cells/µL]."""
    return normal_cells(y) + all_cells(y)


def myeloid(y: Any, p: Any) -> Any:
    """The nucleated cells of the assay that are not T cells [cells/µL]."""
    if hasattr(y, "Circ"):
        return UL_PER_NL * y.Circ
    return y.Hm + y.D if hasattr(y, "Hm") else p.Wmy


def transgene(y: Any, p: Any) -> Any:
    """Copies per µg of DNA of all nucleated cells."""
    return GENOMES * p.VCN * all_cells(y) / (alc(y) + myeloid(y, p))


def no_cell_left(y: Any, p: Any) -> Any:
    """The chance that no tumor cell is left."""
    alive = jnp.minimum(y.w * y.B / p.B0, 1 - 1e-9)
    return jnp.exp(p.B0 / ML_PER_CELL * jnp.log1p(-alive))


# --- antibodies to PD-1 ---------------------------------------------------------------------------


def pembrolizumab(p: Any) -> ck.Disposition:
    """Of the typical patient of Ahamadi 2017 with this weight and renal function."""
    return ahamadi2017.pembrolizumab(ahamadi2017.Params(WT=p.WT, eGFR=p.eGFR))


def nivolumab(p: Any) -> ck.Disposition:
    """Of the typical patient of Hu 2024 with this weight and renal function.

    Lean body mass is in proportion to weight (assumed). The clearance is that of the first dose:
    its later fall, by up to 26 %, is left out.
    """
    typical = hu2024_nivolumab.Params()
    lean = typical.LBM * p.WT / typical.WT
    own = typical.replace(WT=p.WT, eGFR=p.eGFR, LBM=lean)
    central, peripheral = hu2024_nivolumab.volumes(own)
    exchange = own.Q * hu2024_nivolumab.LITERS_PER_DAY * (own.WT / 75) ** 0.630
    return ck.Disposition(hu2024_nivolumab.first_clearance(own), central, ((exchange, peripheral),))


ANTIBODIES = {"pembrolizumab": pembrolizumab, "nivolumab": nivolumab}


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
ANTIBODY_REGIMENS = {  # days assumed
    "pembrolizumab": ahamadi2017.doses(200.0, 21.0, 4).shift(14),
    "nivolumab": hu2024_nivolumab.doses(3 * WEIGHT, 14.0, 6).shift(14),
}
SECOND_PRODUCT = ck.Regimen.cells(28, 1e8 * BSA, product="car_t_2")  # day assumed
DONOR = ck.Regimen.cells(30, GRAFT, product="graft")  # day: another center's median of 33.5


# --- a model of a form and its switches -----------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Form:
    """What a form of the model has of its own.

    Attributes:
        name: of the model's file.
        states: class of the states, beside those of tumor and switches.
        own: parameters that every product has for itself.
        around: f(y, p, c, L, kLD), slopes of drugs, normal T cells and what else is shared.
        product: f(y, p, SA, L, kLD), slopes of P, E and M of one product.
        room: f(L, p), net division rate of normal T cells over rN.
        start: f(p), states that do not start at 0, beside the tumor.
        growth: f(p), division rate in an empty niche with plenty of tumor [per day].
        volume: f(p), what CAR-T cells spread into [L].
        cyclophosphamide: the compartment that it goes into.
        inputs, derived, published: as in `ck.ODEModel`, beside the shared ones.
        outputs: name -> (function, unit), beside the shared ones.
    """

    name: str
    states: type[ck.States]
    own: tuple[str, ...]
    around: Callable[..., dict[str, Any]]
    product: Callable[..., dict[str, Any]]
    room: Callable[..., Any]
    start: Callable[[Any], dict[str, Any]]
    growth: Callable[[Any], Any]
    volume: Callable[[Any], Any]
    cyclophosphamide: str
    inputs: Mapping[str, Callable[[Any], ck.Disposition]] = dataclasses.field(default_factory=dict)
    outputs: Mapping[str, tuple[Callable[..., Any], str]] = dataclasses.field(default_factory=dict)
    derived: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    published: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Switches:
    """The options that both forms have; see the head of this file."""

    denominator: str
    immunity: str
    exhaustion: str
    products: str
    graft: str
    cure: str

    def __post_init__(self) -> None:
        if self.products == "two" and self.graft == "on":
            raise ck.ModelError(
                'niche: products="two" and graft="on" cannot be combined, because a graft is '
                "modeled with one product, against CD7. Leave one of them out."
            )
        if self.products == "two" and self.cure == "on":
            raise ck.ModelError(
                'niche: products="two" and cure="on" cannot be combined, because the chance of '
                "cure is that of a tumor of one kind of cell. Leave one of them out."
            )
        if self.denominator == "constant" and self.graft == "on":
            raise ck.ModelError(
                'niche: denominator="constant" and graft="on" cannot be combined, because a graft '
                'comes with myeloid cells of its own. Leave the denominator at "modelled".'
            )


def joined(name: str, classes: Iterable[type]) -> Any:
    """A class with the fields of all of these, in their order."""
    return types.new_class(name, tuple(reversed(list(classes))))


def with_fields(base: type, fields: Mapping[str, Any]) -> Any:
    """`base` with these fields beside its own, or in their place."""
    own = dict(fields, __annotations__=dict.fromkeys(fields, ck.Scalar))
    return types.new_class(base.__name__, (base,), exec_body=lambda space: space.update(own))


def revised(params: type[ck.Params], values: Mapping[str, float], source: str) -> Any:
    """The class with other typical values, all from this source."""
    known = params.info()
    return with_fields(
        params, {name: field(known[name], value=x, source=source) for name, x in values.items()}
    )


def parameters(own: tuple[str, ...], base: type[ck.Params], on: Switches) -> type[ck.Params]:
    """The class of the parameters."""
    groups: list[type] = [base]
    if on.graft == "on":
        groups.append(Graft)
    else:
        groups.append(Myeloid if on.denominator == "modelled" else ConstantPool)
    if on.immunity == "on":
        groups.append(Immunity)
    if on.exhaustion != "off":
        groups.append(Checkpoint if on.exhaustion in ANTIBODIES else Exhaustion)
    if on.cure == "on":
        groups.append(Cure)
    if on.products == "one":
        return joined("Params", groups)
    one = joined("Params", [*groups, Antigens])
    again = {
        name + SECOND: field(info, about=info.about + ", second product")
        for name, info in one.info().items()
        if name in own
    }
    return with_fields(one, again)


def compartments(form: Form, on: Switches) -> type[ck.States]:
    """The class of the states."""
    groups = [form.states, AntigenStates if on.products == "two" else OneTumor]
    product = ["P", "E", "M"]
    if on.exhaustion != "off":
        groups.append(ExhaustionStates)
        product.append("X")
    if on.immunity == "on":
        groups.append(ImmunityStates)
        product.append("J")
    if on.graft == "on":
        groups.append(GraftStates)
    elif on.denominator == "modelled":
        groups.append(friberg2002.States)
    if on.cure == "on":
        groups.append(CureStates)
    one = joined("States", groups)
    if on.products == "one":
        return one
    known = {f.name: f for f in dataclasses.fields(one)}
    again = {}
    for name in product:
        like = known[name].metadata
        about = like["about"] + ", second product"
        again[name + SECOND] = ck.state(like["unit"], about, log=like["log"])
    return with_fields(one, again)


def equations(form: Form, states: type[ck.States], on: Switches) -> Callable[..., Any]:
    """The vector field."""

    def vector_field(t: Any, y: Any, p: Any, c: Any) -> Any:
        kLD, total = killing(y, p), all_t_cells(y)
        slopes = form.around(y, p, c, total, kLD)
        bound = None
        if on.exhaustion in ANTIBODIES:
            bound = occupancy(c[on.exhaustion], p)

        def product(y: Any, p: Any, suffix: str, burden: Any) -> Any:
            """Slopes of one product join the others; its killing rate is returned."""
            SA = stimulation(burden, p)
            own = form.product(y, p, SA, total, kLD)
            if on.exhaustion != "off":
                add(own, exhaustion(y, p, kLD, SA, bound))
            if on.immunity == "on":
                add(own, immunity(y, p, kLD))
            slopes.update({name + suffix: slope for name, slope in own.items()})
            return tumor_killing(y, p)

        if on.products == "two":
            first = product(y, p, "", y.Bpp + y.Bpm)
            second = product(Own(y), Own(p), SECOND, y.Bpp + y.Bmp)
            add(slopes, antigen_classes(y, p, first, second))
        else:
            kill = product(y, p, "", y.B)
            growth = tumor_growth(y.B, p) - kill
            slopes["B"] = growth * y.B
            if on.cure == "on":
                slopes["w"] = -(growth + (p.turnover + kill) * y.w) * y.w
        if on.graft == "on":
            add(slopes, graft(y, p, kLD, form.room(total, p)))
        elif on.denominator == "modelled":
            add(slopes, neutrophils(y, p))
        return states(**slopes)

    return vector_field


def initial(form: Form, states: type[ck.States], on: Switches) -> Callable[[Any], Any]:
    """The compartments at the start."""

    def start(p: Any) -> Any:
        level = {"N": p.N0, **form.start(p)}
        if on.products == "two":
            level |= {"Bpm": p.B0 * p.ONLY1, "Bmp": p.B0 * p.ONLY2, "Bmm": p.B0 * p.NEITHER}
            level["Bpp"] = p.B0 * (1 - p.ONLY1 - p.ONLY2 - p.NEITHER)
        else:
            level["B"] = p.B0
        if on.immunity == "on":
            level["J"] = p.j0
            if on.products == "two":
                level["J" + SECOND] = p.j0
        if on.graft == "on":
            level |= {"Nd": 0.0, "Hm": p.KD, "D": 0.0}
        elif on.denominator == "modelled":
            level |= dict.fromkeys(friberg2002.States.names(), p.Circ0)
        return states(**level)

    return start


def seen(form: Form, on: Switches) -> tuple[dict[str, Any], dict[str, str]]:
    """The outputs and their units."""
    outputs = {
        "car_t": (lambda t, y, p, c: all_cells(y), "cells/µL"),
        "alc": (lambda t, y, p, c: alc(y), "cells/µL"),
        "transgene": (lambda t, y, p, c: transgene(y, p), "copies/µg"),
        "wbc": (lambda t, y, p, c: alc(y) + myeloid(y, p), "cells/µL"),
        "tumor": (lambda t, y, p, c: tumor(y), "mL"),
        "flu_auc": (lambda t, y, p, c: y.AUCF, "mg h/L"),
        "cy4oh_auc": (lambda t, y, p, c: y.AUCC, "mg h/L"),
    }
    outputs |= form.outputs
    if on.denominator == "modelled":
        outputs["anc"] = (lambda t, y, p, c: myeloid(y, p) / UL_PER_NL, "1e9/L")
    if on.immunity == "on":
        outputs["immunity"] = (lambda t, y, p, c: y.J, "share of its largest")
    if on.exhaustion in ANTIBODIES:
        drug = on.exhaustion
        outputs[drug] = (lambda t, y, p, c: c[drug], "µg/mL")
        outputs["pd1_occupancy"] = (lambda t, y, p, c: occupancy(c[drug], p), "share of PD-1")
    if on.products == "two":
        outputs["car_t_1"] = (lambda t, y, p, c: cells_of(y), "cells/µL")
        outputs["car_t_2"] = (lambda t, y, p, c: cells_of(y, SECOND), "cells/µL")
        carried = {"antigen_1": ("Bpp", "Bpm"), "antigen_2": ("Bpp", "Bmp")}
        for name, with_it in carried.items():
            share = lambda t, y, p, c, with_it=with_it: total_of(y, with_it) / tumor(y)  # noqa: E731
            outputs[name] = (share, "share of the tumor")
    if on.graft == "on":
        outputs["chimerism_t"] = (lambda t, y, p, c: y.Nd / (y.Nd + y.N), "share of the donor")
        outputs["chimerism_myeloid"] = (
            lambda t, y, p, c: y.D / (y.D + y.Hm),
            "share of the donor",
        )
    if on.cure == "on":
        outputs["cure"] = (lambda t, y, p, c: no_cell_left(y, p), "probability")
    return {k: f for k, (f, _) in outputs.items()}, {k: unit for k, (_, unit) in outputs.items()}


def assemble(form: Form, params: type[ck.Params], on: Switches) -> ck.ODEModel:
    """The model of this form with these typical values and switches."""
    states = compartments(form, on)
    outputs, units = seen(form, on)
    into = ck.Target("P", lambda p: 1 / (form.volume(p) * UL_PER_L))
    targets: dict[str, Any] = {
        "car_t": into,
        "fludarabine": ck.Target("flu", lambda p: F_ARA_A, unit="mg"),
        "cyclophosphamide": ck.Target(form.cyclophosphamide, unit="mg"),
    }
    inputs = {"flu": fludarabine, **form.inputs}
    regimens = dict(REGIMENS)
    if on.exhaustion in ANTIBODIES:
        drug = on.exhaustion
        inputs[drug] = ANTIBODIES[drug]
        targets[drug] = ck.Target(drug, unit="mg")
        regimens[f"Flu/Cy 30/500, {drug} from day 14"] = FLU_CY + ANTIBODY_REGIMENS[drug]
    if on.products == "two":
        targets["car_t_2"] = dataclasses.replace(into, compartment="P" + SECOND)
        regimens["Flu/Cy 30/500, second product on day 28"] = FLU_CY + SECOND_PRODUCT
    if on.graft == "on":
        targets["graft"] = (
            dataclasses.replace(into, compartment="Nd"),
            ck.Target("D", lambda p: p.D0 / GRAFT),
        )
        regimens["Flu/Cy 30/500, graft on day 30"] = FLU_CY + DONOR
    return ck.ODEModel(
        name=form.name,
        params=parameters(form.own, params, on),
        states=states,
        vector_field=equations(form, states, on),
        initial=initial(form, states, on),
        targets=targets,
        inputs=inputs,
        outputs=outputs,
        units=units,
        one_cell={"tumor": ML_PER_CELL},
        regimens=regimens,
        derived={
            # in an empty niche with plenty of tumor
            "t_double": (lambda p: jnp.log(2) / (form.growth(p) - p.dE - p.kEM), "day"),
            "t_half_contraction": (lambda p: jnp.log(2) / (p.dE + p.kEM), "day"),
            "t_half_memory": (lambda p: jnp.log(2) / p.dM, "day"),
            "t_double_tumor": (lambda p: jnp.log(2) / p.g, "day"),
            # effectors in blood that only just hold a small tumor; there are none where g >= gB
            "e_hold": (lambda p: p.kB * p.g / (p.gB - p.g) / p.tau, "cells/µL"),
            **form.derived,
        },
        published=form.published,
    )
