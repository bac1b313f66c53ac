"""CAR-T cells and a homeostatic cytokine after lymphodepletion, with tumor: all steps (carpk).

A design of this project for teaching, not a published model; for fits and comparisons take
`niche`, its smaller form. Fludarabine (Flu) and cyclophosphamide (Cy) kill T cells; the fewer are
left (L), the higher rises the cytokine of the niche (H, IL-15 relative to health), which lets
effectors (E) divide as long as tumor (B) stimulates them (SA). P are infused cells, M memory cells,
N normal T cells. Cells per µL of blood, B in mL, rates per day, concentrations in mg/L:

    Fe' = keF (CF - Fe),       kLD = 24 (kF Fe + kC Ce)
    Y'  = -24 CLY/VY (0.2 + 0.8 z) Y,       CY = Y / VY
    z'  = kz (1 + Imax CY / (CY + C50z) - z)
    Ce' = keC (MR CY z - Ce)
    N'  = sN + rN N ln(KN/L) - kLD N,       L = N + P + E + M
    H'  = kH ((1 + kap) / (1 + kap L/KN) - H),       SH = H^nH / (H^nH + H50^nH)
    P'  = -(kact + dP + phiC kLD) P,        SA = S0 B / (B + B50)
    E'  = kact (1 - fM) P + (rho SA SH - dE - kEM - phiC kLD) E + aME SA SH M
    M'  = kact fM P + kEM E - (dM + aME SA SH + phiC kLD) M
    B'  = g B (1 - B/Bmax) - gB tau E / (kB + tau E) B

CF is F-ara-A (three compartments, Langenhorst 2019), in closed form; z is the autoinduction of the
clearance of cyclophosphamide (Y, mg), 0.8 of which can be induced. `load_model("niche_full",
disease="solid")` has other values of S0, gB, tau, B0 and B50: a tumor that is harder to reach and
to kill. `antigen="shared"` is for a target that normal cells carry too (CD19): SA = SA0 +
(S0 - SA0) B / (B + B50), with SA0 assumed for scenarios.

Doses, reference patient, regimens, the start (`start=-10` in the reference runs), outputs, the
neutrophils in the denominator of "transgene" and the other options are those of `niche`; read
there. "il15_fold" is H: 1 in health, 1 + kap with no T cells at all.

Nearly all values of the cells are design values, assumed; the drugs and some rates are published,
as `describe()` says. Random effects are assumed but for those of the drugs. Known not to be met:
Flu 25 mg/m² x 5 leaves 101 T cells/µL at the infusion, where HEROS 2.0 (Hegde 2024) had fewer than
100 lymphocytes/µL after Flu and after Flu/Cy, so that the peak after Flu/Cy being 13-fold that
after Flu (67-fold by PCR) rests on no data; a rest of 8 instead of 2 days before the infusion costs
94 % of the peak, while practice tolerates up to 14 days; the peak comes on day 10 to 11 in cells,
though near day 7 by PCR, as in HEROS 2.0; little tumor gives little expansion, so re-infusions
expand less every time, where HEROS 2.0 reports more with repeated cycles; in solid tumors ten times
the dose raises the peak 6- to 9-fold; chemotherapy does not act on the tumor, which never reaches
0; VC is linear in weight.

References as in `niche`. Autoinduction: kz and Imax from the abstract of a population model of
the Netherlands Cancer Institute (two enzymes, of which the faster is here); C50z is assumed. Rates
of CAR-T cells: Stein et al. (2019), doi:10.1002/psp4.12388; Owens & Bozic (2021) Bull Math Biol
83:42; IL-15 rising after Flu/Cy: Kochenderfer et al. (2017), PMC5455597 (abstract).
"""

from collections.abc import Mapping
from typing import Literal

import jax.numpy as jnp

import carpk as ck
from carpk.models import _body as body
from carpk.models import _niche_parts as parts
from carpk.models import _niche_switches as switches
from carpk.models import _variants as variants

HOUSE, KIMMEL = parts.HOUSE, parts.KIMMEL
INDUCIBLE = 0.8  # of the clearance of cyclophosphamide: all but the non-inducible 20 % (abstract)
NKI = "Netherlands Cancer Institute, population model (abstract)"
STEIN = "this project, after Stein 2019"
SOLID = {"S0": 0.5, "B50": 20.0, "gB": 0.15, "tau": 0.3, "B0": 200.0}


# --- parameters and states ------------------------------------------------------------------------


class Params(parts.Common):
    kz: ck.Scalar = ck.param(
        0.0223 * body.HOURS, "1/day", "rate of autoinduction", NKI + ": 0.0223/h", prior_sd=0.2
    )
    Imax: ck.Scalar = ck.param(
        0.5, "1", "largest gain of inducible clearance", NKI + ": about 50 %", prior_sd=0.3
    )
    C50z: ck.Scalar = ck.param(
        10.0, "mg/L", "cyclophosphamide that induces by half", HOUSE, prior_sd=0.5
    )
    rN: ck.Scalar = ck.param(
        0.17, "1/day", "recovery rate of normal T cells", KIMMEL, prior_sd=0.25
    )
    kap: ck.Scalar = ck.param(
        9.0,
        "1",
        "rise of the cytokine with no T cells left",
        HOUSE + ": 10-fold; that it rises: Kochenderfer 2017",
        prior_sd=0.4,
    )
    kH: ck.Scalar = ck.param(1.0, "1/day", "turnover of the cytokine", HOUSE, prior_sd=0.5)
    H50: ck.Scalar = ck.param(
        3.0, "fold of normal", "cytokine that acts by half", HOUSE, prior_sd=0.4
    )
    nH: ck.Scalar = ck.param(
        2.0, "1", "steepness of the cytokine's action (Hill)", HOUSE, prior_sd=0.2
    )
    phiC: ck.Scalar = ck.param(
        1.0,
        "1",
        "killing of CAR-T cells by drugs over that of normal T cells",
        "this project, after Owens 2021: equal",
        prior_sd=0.2,
    )
    VC: ck.Scalar = ck.param(
        500.0,
        "L",
        "volume that CAR-T cells spread into, 70 kg",
        "this project, after Kimmel 2021: 1 % of cells are in the blood; IIV assumed",
        iiv=0.3,
        prior_sd=0.4,
    )
    kact: ck.Scalar = ck.param(
        0.6,
        "1/day",
        "rate at which infused cells become active",
        HOUSE + "; lag of 3.3 days in Ogasawara 2021",
        prior_sd=0.4,
    )
    dP: ck.Scalar = ck.param(0.2, "1/day", "loss rate of infused cells", HOUSE, prior_sd=0.5)
    fM: ck.Scalar = ck.param(
        0.05,
        "1",
        "share of the infused cells that become memory cells",
        HOUSE,
        bounds=(0, 1),
        prior_sd=0.7,
    )
    rho: ck.Scalar = ck.param(
        2.0,
        "1/day",
        "largest expansion rate",
        HOUSE + ": doubling in 0.75 to 0.8 days, as in Stein 2019; IIV assumed",
        iiv=0.1,
        prior_sd=0.25,
    )
    S0: ck.Scalar = ck.param(
        0.75,
        "1",
        "stimulation by plenty of tumor",
        HOUSE,
        bounds=(0, 1),
        prior_sd=0.5,
    )
    B50: ck.Scalar = ck.param(
        10.0,
        "mL",
        "tumor that stimulates by half",
        HOUSE,
        prior_sd=0.7,
    )
    dE: ck.Scalar = ck.param(
        0.16,
        "1/day",
        "loss rate of effectors",
        STEIN + ": alpha 0.16; IIV assumed",
        iiv=0.3,
        prior_sd=0.3,
    )
    kEM: ck.Scalar = ck.param(
        0.002,
        "1/day",
        "rate at which effectors become memory cells",
        STEIN + ": FB (alpha - beta) = 0.0012; IIV assumed",
        iiv=0.8,
        prior_sd=0.7,
    )
    dM: ck.Scalar = ck.param(
        0.003,
        "1/day",
        "loss rate of memory cells",
        STEIN + ": beta 0.0032; Ogasawara 2021: 0.0020",
        prior_sd=0.55,
    )
    aME: ck.Scalar = ck.param(
        0.03, "1/day", "largest rate at which memory cells reactivate", HOUSE, prior_sd=0.5
    )
    gB: ck.Scalar = ck.param(
        0.5,
        "1/day",
        "largest killing rate",
        HOUSE + "; Kimmel 2021: 1.15, Singh 2021: 0.343",
        prior_sd=0.55,
    )
    kB: ck.Scalar = ck.param(
        4.0,
        "cells/µL",
        "effectors at the tumor that kill at half the largest rate",
        HOUSE + ", after Kimmel 2021: 4.05",
        prior_sd=0.5,
    )
    tau: ck.Scalar = ck.param(
        1.0,
        "1",
        "effectors at the tumor over those in blood",
        HOUSE,
        prior_sd=0.5,
    )
    B0: ck.Scalar = ck.param(
        100.0,
        "mL",
        "tumor at the start",
        HOUSE + ", after Kimmel 2021: 94.9",
        prior_sd=1.0,
    )


class SharedParams(Params):
    SA0: ck.Scalar = ck.param(
        0.15,
        "1",
        "stimulation by normal cells",
        HOUSE + ", a scenario for CD19",
        bounds=(0, 1),
    )


class States(parts.States):
    Y: ck.Scalar = ck.state("mg", "cyclophosphamide in the body")
    z: ck.Scalar = ck.state("1", "inducible clearance of cyclophosphamide", 1.0)
    H: ck.Scalar = ck.state("fold of normal", "cytokine of the niche (IL-15)", 1.0, log=True)


# --- equations ------------------------------------------------------------------------------------


def cytokine(L: ck.Scalar, p: Params) -> ck.Scalar:
    """The level at which H rests with this many T cells in all."""
    return (1 + p.kap) / (1 + p.kap * L / p.KN)


def action(H: ck.Scalar, p: Params) -> ck.Scalar:
    """SH, the share of the largest expansion that this much cytokine allows."""
    return 1 / (1 + (p.H50 / H) ** p.nH)


def recovery(L: ck.Scalar, p: Params) -> ck.Scalar:
    """Gompertz: ln(KN/L)."""
    return jnp.log(p.KN / L)


def equations(
    y: States, p: Params, c: Mapping[str, ck.Scalar], L: ck.Scalar, B: ck.Scalar
) -> dict[str, ck.Scalar]:
    """Slopes [per day]: the equations at the head, with L T cells in all and the tumor B."""
    size = p.WT / 70
    CY = jnp.maximum(y.Y, 0.0) / (p.VY * size)  # a coarse trial step may undershoot 0
    elimination = (
        body.HOURS * p.CLY * size**0.75 / (p.VY * size) * (1 - INDUCIBLE + INDUCIBLE * y.z)
    )
    active = p.MR * CY * y.z
    kLD = parts.killing_by_drugs(y, p)
    killed = p.phiC * kLD
    signal = parts.stimulation(B, p) * action(y.H, p)  # SA SH
    return dict(
        Fe=p.keF * (c["flu"] - y.Fe),
        Y=-elimination * y.Y,
        z=p.kz * (1 + p.Imax * CY / (CY + p.C50z) - y.z),
        Ce=p.keC * (active - y.Ce),
        N=p.sN + (p.rN * recovery(L, p) - kLD) * y.N,
        H=p.kH * (cytokine(L, p) - y.H),
        P=-(p.kact + p.dP + killed) * y.P,
        E=p.kact * (1 - p.fM) * y.P
        + (p.rho * signal - p.dE - p.kEM - killed) * y.E
        + p.aME * signal * y.M,
        M=p.kact * p.fM * y.P + p.kEM * y.E - (p.dM + p.aME * signal + killed) * y.M,
        B=(parts.tumor_growth(B, p) - parts.tumor_killing(y.E, p)) * B,
        AUCF=body.HOURS * c["flu"],
        AUCC=body.HOURS * active,
    )


FORM = switches.Form(
    name="niche_full",
    states=States,
    own=(
        *("kact", "dP", "fM", "rho", "S0", "SA0", "B50", "dE", "kEM", "dM", "aME", "gB", "kB"),
        *("tau", "rJ", "kJ", "kEX"),
    ),
    equations=equations,
    recovery=recovery,
    start=lambda p: {"H": cytokine(p.N0, p)},
    growth=lambda p: p.rho * p.S0 * action(1 + p.kap, p),
    volume=lambda p: p.VC * p.WT / 70,
    cyclophosphamide="Y",
    outputs={"il15_fold": (lambda t, y, p, c: y.H, "fold of normal")},
)


def build(
    disease: Literal["heme", "solid"] = "heme",
    antigen: Literal["tumor", "shared"] = "tumor",
    denominator: Literal["modelled", "constant"] = "modelled",
    immunity: Literal["off", "on"] = "off",
    exhaustion: Literal["off", "on", "pembrolizumab", "nivolumab"] = "off",
    products: Literal["one", "two"] = "one",
    graft: Literal["off", "on"] = "off",
    cure: Literal["off", "on"] = "off",
) -> ck.ODEModel:
    """The model with the values of either disease, and switches: see `_niche_switches`."""
    params: type[Params] = Params if antigen == "tumor" else SharedParams
    if disease == "solid":
        params = variants.revised(params, SOLID, HOUSE + " (solid)")
    return switches.assemble(
        FORM,
        params,
        switches.Switches(
            denominator=denominator,
            immunity=immunity,
            exhaustion=exhaustion,
            products=products,
            graft=graft,
            cure=cure,
        ),
    )


model = build()
