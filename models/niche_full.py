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

Doses, reference patient, regimens, the start (`start=-10` in the reference runs) and the outputs
are those of `niche`; read there. Above all: "transgene" has a CONSTANT myeloid pool, so copies/µg
are understated several-fold in the first ten days after Flu/Cy and peak days too late; compare
lymphodepletion regimens in cells/µL. "il15" is H: 1 in health, 1 + kap with no T cells at all.

Nearly all values of the cells are design values, assumed; the drugs and some rates are published,
as `describe()` says. Random effects are assumed but for those of the drugs. Known not to be met:
Flu 25 mg/m² x 5 leaves 101 T cells/µL at the infusion, where HEROS 2.0 (Hegde 2024) had fewer than
100 lymphocytes/µL after Flu and after Flu/Cy, so that the peak after Flu/Cy being 13-fold that
after Flu rests on no data; a rest of 8 instead of 2 days before the infusion costs 94 % of the
peak, while practice tolerates up to 14 days; the peak comes on day 10 to 11, by PCR near day 7 in
HEROS 2.0; little tumor gives little expansion, so re-infusions expand less every time, where
HEROS 2.0 reports more with repeated cycles; in solid tumors ten times the dose raises the peak 6-
to 9-fold; chemotherapy does not act on the tumor, which never reaches 0; VC is linear in weight.
Switches for immunity against the CAR, exhaustion, two products or a graft are not here yet.

References as in `niche`. Autoinduction: kz and Imax from the abstract of a population model of
the Netherlands Cancer Institute (two enzymes, of which the faster is here); C50z is assumed. Rates
of CAR-T cells: Stein et al. (2019), doi:10.1002/psp4.12388; Owens & Bozic (2021) Bull Math Biol
83:42; IL-15 rising after Flu/Cy: Kochenderfer et al. (2017), PMC5455597 (abstract).
"""

from typing import Literal

import jax.numpy as jnp

import carpk as ck
from carpk.models import niche

H, HOUSE, KIMMEL = niche.H, niche.HOUSE, niche.KIMMEL
INDUCIBLE = 0.8  # of the clearance of cyclophosphamide: all but the non-inducible 20 % (abstract)
NKI = "Netherlands Cancer Institute, population model (abstract)"
STEIN = "this project, after Stein 2019"


class States(ck.States):
    Fe: ck.Scalar = ck.state("mg/L", "effect site of fludarabine")
    Y: ck.Scalar = ck.state("mg", "cyclophosphamide in the body")
    z: ck.Scalar = ck.state("1", "inducible clearance of cyclophosphamide", 1.0)
    Ce: ck.Scalar = ck.state("mg/L", "effect site of cyclophosphamide")
    N: ck.Scalar = ck.state("cells/µL", "normal T cells", log=True)
    H: ck.Scalar = ck.state("fold of normal", "cytokine of the niche (IL-15)", 1.0, log=True)
    P: ck.Scalar = ck.state("cells/µL", "infused CAR-T cells")
    E: ck.Scalar = ck.state("cells/µL", "effector CAR-T cells")
    M: ck.Scalar = ck.state("cells/µL", "memory CAR-T cells")
    B: ck.Scalar = ck.state("mL", "tumor", log=True)
    AUCF: ck.Scalar = ck.state("mg h/L", "AUC of F-ara-A so far")
    AUCC: ck.Scalar = ck.state("mg h/L", "AUC of 4-hydroxycyclophosphamide so far")


def cytokine(total, p):
    """The level at which H rests with this many T cells in all."""
    return (1 + p.kap) / (1 + p.kap * total / p.KN)


def slopes(y, p, c, stimulation) -> States:
    """Derivatives [per day] under this antigen stimulation SA."""
    size = p.WT / 70
    rate = H * p.CLY * size**0.75 / (p.VY * size) * (1 - INDUCIBLE + INDUCIBLE * y.z)
    CY = jnp.maximum(y.Y, 0.0) / (p.VY * size)  # a coarse trial step may undershoot 0
    active = p.MR * CY * y.z
    kLD = niche.killing(y, p)
    total = niche.all_t_cells(y)
    signal = stimulation / (1 + (p.H50 / y.H) ** p.nH)
    reached = p.tau * y.E
    return States(
        Fe=p.keF * (c["flu"] - y.Fe),
        Y=-rate * y.Y,
        z=p.kz * (1 + p.Imax * CY / (CY + p.C50z) - y.z),
        Ce=p.keC * (active - y.Ce),
        N=p.sN + (p.rN * jnp.log(p.KN / total) - kLD) * y.N,
        H=p.kH * (cytokine(total, p) - y.H),
        P=-(p.kact + p.dP + p.phiC * kLD) * y.P,
        E=p.kact * (1 - p.fM) * y.P
        + (p.rho * signal - p.dE - p.kEM - p.phiC * kLD) * y.E
        + p.aME * signal * y.M,
        M=p.kact * p.fM * y.P + p.kEM * y.E - (p.dM + p.aME * signal + p.phiC * kLD) * y.M,
        B=(p.g * (1 - y.B / p.Bmax) - p.gB * reached / (p.kB + reached)) * y.B,
        AUCF=H * c["flu"],
        AUCC=H * active,
    )


def vector_field(t, y, p, c):
    """The equations with antigen on the tumor only."""
    return slopes(y, p, c, p.S0 * y.B / (y.B + p.B50))


def vector_field_shared(t, y, p, c):
    """The equations with antigen on normal cells too."""
    return slopes(y, p, c, p.SA0 + (p.S0 - p.SA0) * y.B / (y.B + p.B50))


def build(
    disease: Literal["heme", "solid"] = "heme", antigen: Literal["tumor", "shared"] = "tumor"
) -> ck.ODEModel:
    """The model with the values of either disease, and antigen on the tumor only or "shared"."""
    solid, shared = disease == "solid", antigen == "shared"

    class Params(niche.Common):
        kz: ck.Scalar = ck.param(
            0.0223 * H, "1/day", "rate of autoinduction", NKI + ": 0.0223/h", prior_sd=0.2
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
            0.5 if solid else 0.75,
            "1",
            "stimulation by plenty of tumor",
            HOUSE + " (solid)" * solid,
            bounds=(0, 1),
            prior_sd=0.5,
        )
        B50: ck.Scalar = ck.param(
            20.0 if solid else 10.0,
            "mL",
            "tumor that stimulates by half",
            HOUSE + " (solid)" * solid,
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
            0.15 if solid else 0.5,
            "1/day",
            "largest killing rate",
            HOUSE + " (solid)" * solid + "; Kimmel 2021: 1.15, Singh 2021: 0.343",
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
            0.3 if solid else 1.0,
            "1",
            "effectors at the tumor over those in blood",
            HOUSE + " (solid)" * solid,
            prior_sd=0.5,
        )
        B0: ck.Scalar = ck.param(
            200.0 if solid else 100.0,
            "mL",
            "tumor at the start",
            HOUSE + (" (solid)" if solid else ", after Kimmel 2021: 94.9"),
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

    return ck.ODEModel(
        name="niche_full",
        params=SharedParams if shared else Params,
        states=States,
        vector_field=vector_field_shared if shared else vector_field,
        initial=lambda p: States(N=p.N0, H=cytokine(p.N0, p), B=p.B0),
        targets={
            "car_t": ck.Target("P", lambda p: 1 / (p.VC * p.WT / 70 * 1e6)),
            "fludarabine": ck.Target("flu", lambda p: niche.F_ARA_A, unit="mg"),
            "cyclophosphamide": ck.Target("Y", unit="mg"),
        },
        inputs={"flu": niche.fludarabine},
        outputs={**niche.OUTPUTS, "il15": lambda t, y, p, c: y.H},
        units={**niche.UNITS, "il15": "fold of normal"},
        one_cell={"tumor": niche.ML_PER_CELL},
        regimens=niche.REGIMENS,
        derived={
            # in an empty niche with plenty of tumor
            "t_double": (
                lambda p: (
                    jnp.log(2) / (p.rho * p.S0 / (1 + (p.H50 / (1 + p.kap)) ** p.nH) - p.dE - p.kEM)
                ),
                "day",
            ),
            "t_half_contraction": (lambda p: jnp.log(2) / (p.dE + p.kEM), "day"),
            "t_half_memory": (lambda p: jnp.log(2) / p.dM, "day"),
            "t_double_tumor": (lambda p: jnp.log(2) / p.g, "day"),
            # effectors in blood that only just hold a small tumor; there are none where g >= gB
            "e_hold": (lambda p: p.kB * p.g / (p.gB - p.g) / p.tau, "cells/µL"),
        },
    )


model = build()
