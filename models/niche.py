"""CAR-T cells in the niche that lymphodepletion opens, with tumor and repeated infusions (carpk).

A design of this project, not a published model. Fludarabine (Flu) and cyclophosphamide (Cy) kill T
cells through exposure at an effect site. The fewer T cells are left in all (L), the faster CAR-T
cells divide, as long as antigen stimulates them (SA). Infused cells (P) become effectors (E), and
these memory cells (M); normal T cells (N) come back meanwhile and close the niche. All in cells per
µL of blood, tumor B in mL, rates per day, CF, CY and effect sites in mg/L:

    Fe' = keF (CF - Fe),    Ce' = keC (MR CY - Ce),    kLD = 24 (kF Fe + kC Ce)
    N'  = sN + rN N [1 - (L/KN)^th] / th - kLD N,      L = N + P + E + M
    P'  = -(kact + kLD) P
    E'  = kact P + (rho SA / (1 + (L/LH)^2) - dE - kEM - kLD) E
    M'  = kEM E - (dM + kLD) M
    B'  = g B (1 - B/Bmax) - gB E / (kB + E) B,        SA = SA0 + (1 - SA0) B / (B + B50)

LH is the T-cell level at which the niche is half closed. th shapes the recovery of normal T cells:
-1 is a constant inflow, 0 Gompertz, ln(KN/L) in place of the bracket over th, and 1 logistic. SA0
is the stimulation that is left without tumor, by normal cells that carry the antigen (CD19, say) or
by the CAR itself; `values="as_full"` has none. CF is F-ara-A (three compartments, Langenhorst
2019), CY cyclophosphamide (one); both are linear and solved in closed form.

"transgene" is 151515 VCN C / W per µg of DNA, with C all CAR-T cells and W = "wbc" all nucleated
cells that the assay sees: T cells and 1000 times the neutrophils "anc", which follow Friberg's
chain (`friberg2002`). Flu/Cy empties it, so that copies/µg overstate expansion, and do so more
after Flu/Cy than after Flu. No slope is published for either drug: sF and sC are assumed, a
scenario. `load_model("niche", denominator="constant")` has Wmy in place of the neutrophils: faster,
and right for fits to cells, not for comparing lymphodepletion in copies/µg. "alc" counts T cells
only; B and NK cells add some 20 to 30 % (unverified).

Options beside these, all off: `immunity`, `exhaustion` (with or without an antibody to PD-1),
`products="two"`, `graft` and `cure`; their equations stand at the heads of `_niche_immunity.py`,
`_niche_exhaustion.py`, `_niche_antigens.py`, `_niche_graft.py` and `_niche_cure.py`.

Doses. Cells in number of CAR+ cells, `Regimen.cells`; VC converts them to cells/µL. Fludarabine in
mg of the prescribed phosphate, of which 0.781 is F-ara-A; cyclophosphamide in mg. Doses per m² and
kg take the patient's own BSA and WT. `regimens` are for the reference patient of 50 kg, 1.45 m² and
an eGFR of 120, with 1e8 cells/m² on day 0 and every drug dose at once; as infusions
(`Regimen.lymphodepletion`) they change the peak by less than 1 %. N0 and B0 hold at the start,
which is the first dose unless `solve` is told an earlier day; the reference runs have `start=-10`.
An N0 other than KN is no steady state: set KN to N0 where only N0 is known.

CALIBRATED VALUES (the default). rho, kF, kC, rN, th, LH, SA0 and dE were fitted together to
published figures of several trials; targets, script and a report are in `data/niche_calibration`,
draws in `model.calibration_draws`, which `simulate(draws=...)` and `compare` take. Medians of the
posterior (90 % intervals): 47 lymphocytes/µL (16 to 130) at the infusion after the Flu of HEROS 2.0
and 10 after its Flu/Cy, where it had fewer than 100; without lymphodepletion 2 of 17 patients
expand 3-fold, with it 19 of 21 infusions do, and cells are found at six weeks in 5 of 6; after
Flu/Cy in lymphoma a median peak of 92 cells/µL (published: 98 with remission, 15 without) and an
initial half-life of 4.5 days; a rest of 8 instead of 2 days before the infusion leaves half of the
peak.
Not met, for the targets contradict each other within this model:
- Cells double in 1.02 days (0.87 to 1.17); published are 0.76 to 0.78. In solid tumors they expand
  42-fold (24 to 88) and peak by PCR in the weekly sample of day 21; HEROS 2.0 has 89-fold and 7.
- A rest of 14 days leaves a tenth of the peak, where practice tolerates as much.
- A third cycle finds no tumor left and hardly expands; HEROS 2.0 reports more with repeated cycles.
How much more Flu/Cy expands than Flu, in solid tumors 4.5-fold (1.6 to 34) in cells and 6.0-fold
(2.1 to 41) by PCR, is an output: no published figure says it.

VALUES "AS_FULL". The smaller form of `niche_full`, without its cytokine and with linear
cyclophosphamide. Values of the cells were fitted to that model's for blood cancers, themselves
design values, over 15 scenarios (regimens, doses, rests, burdens, re-infusions): ln(car_t) differs
by 0.13 (root mean square, every day to day 120), host T cells by up to 7 %. Values for solid tumors
are not fitted but changed in the proportions of that model's; ln(car_t) differs by 0.148. Known
not to be met:
- Flu 25 mg/m² x 5 leaves some 100 T cells/µL; HEROS 2.0 (Hegde 2024) had lymphocytes below that at
  the infusion, after Flu and after Flu/Cy. How much more Flu/Cy expands than Flu (12-fold in cells,
  60-fold by PCR) is an output that rests on no data.
- A rest of 8 instead of 2 days before the infusion costs most of the expansion, for Gompertz
  recovery is fastest when T cells are fewest. Practice tolerates up to 14 days.
- In cells the peak comes on day 10 to 11. By PCR it comes on day 5 to 7 after Flu/Cy: HEROS 2.0 has
  a median of 7.
- Little tumor gives little expansion, so re-infusions expand less every time, or not at all where
  the first has cleared the tumor; HEROS 2.0 reports more with repeated cycles.

With any values: neutrophils stay below 0.5e9/L for 6 to 8 days after Flu/Cy (5.7 after 30/500) and
not after Flu, as HEROS 2.0 has it; Rejeski 2021 has a median of 9 days.
Chemotherapy does not act on the tumor, which never reaches 0. VC is linear in weight. Drugs, KN and
neutrophils are published where `describe()` says so. Random effects are assumed but for those of
the drugs and neutrophils; do not widen that of rho: 1 % of rho is 4 to 6 % of the peak.

Drugs: Langenhorst et al. (2019) Clin Pharmacokinet 58:627, doi:10.1007/s40262-018-0715-9, without
its variability between doses; Ahmed et al. (2020) Front Pharmacol 11:406,
doi:10.3389/fphar.2020.00406 (both read as transcribed in nlmixr2lib); Joy et al. (2012), abstract
PMC3477346. Cells: Kimmel et al. (2021), doi:10.1098/rspb.2021.0229 (Table 1).
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
import numpy as np

import carpk as ck
from carpk.models import _body as body
from carpk.models import _niche_parts as parts
from carpk.models import _niche_switches as switches
from carpk.models import _variants as variants

F_ARA_A, fludarabine = parts.F_ARA_A, parts.fludarabine
HOUSE, REGIMENS = parts.HOUSE, parts.REGIMENS

FITTED = "this project: fitted to niche_full"

SOURCE = "this project: calibrated to published figures, data/niche_calibration"
POSTERIOR = Path(__file__).with_name("niche_posterior.csv")


@functools.cache
def calibrated(disease: str) -> dict[str, np.ndarray]:
    """Draws of the calibrated typical values, parameter -> (draw,)."""
    table = np.genfromtxt(POSTERIOR, delimiter=",", names=True)
    draws = {name: table[name] for name in table.dtype.names or ()}
    solid = draws.pop("rho_solid")
    return draws | ({"rho": solid} if disease == "solid" else {})


POSTERIORS = {disease: functools.partial(calibrated, disease) for disease in ("heme", "solid")}
# In niche_full a solid tumor has an S0 of 0.5 instead of 0.75, a B50 of 20 instead of 10, a gB of
# 0.15 instead of 0.5, a B0 of 200 instead of 100 and a tau of 0.3 instead of 1.
AS_SOLID = "assumed: as niche_full's solid over its heme"
SOLID = {
    "rho": 1.35 * 0.5 / 0.75,
    "B50": 11.2 * 20 / 10,
    "gB": 0.48 * 0.15 / 0.5,
    "kB": 4.0 / 0.3,
    "B0": 200.0,
}


# --- parameters and states ------------------------------------------------------------------------


class Params(parts.Common):
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


def typical(values: str, disease: str) -> type[Params]:
    """The class of the parameters with these typical values."""
    params = Params if disease == "heme" else variants.revised(Params, SOLID, AS_SOLID)
    if values == "as_full":
        return params
    own = {name: float(f"{np.median(x):.3g}") for name, x in calibrated(disease).items()}
    floor = ck.param(own.pop("SA0"), "1", "stimulation by normal cells", SOURCE, bounds=(0, 1))
    return variants.with_fields(variants.revised(params, own, SOURCE), {"SA0": floor})


# --- equations ------------------------------------------------------------------------------------


def recovery(L: ck.Scalar, p: Params) -> ck.Scalar:
    """[1 - (L/KN)^th] / th, and what it becomes at th = 0."""
    x = jnp.log(L / p.KN)
    u = p.th * x
    small = jnp.abs(u) < 1e-3
    safe = jnp.where(small, 1.0, u)
    series = 1 + u / 2 * (1 + u / 3 * (1 + u / 4 * (1 + u / 5)))
    return -x * jnp.where(small, series, jnp.expm1(safe) / safe)


def equations(
    y: parts.States, p: Params, c: Mapping[str, ck.Scalar], L: ck.Scalar, B: ck.Scalar
) -> dict[str, ck.Scalar]:
    """Slopes [per day]: the equations at the head, with L T cells in all and the tumor B."""
    kLD, SA = parts.killing_by_drugs(y, p), parts.stimulation(B, p)
    expansion = p.rho * SA / (1 + (L / p.LH) ** 2)
    active = p.MR * c["cy"]
    return dict(
        Fe=p.keF * (c["flu"] - y.Fe),
        Ce=p.keC * (active - y.Ce),
        N=p.sN + (p.rN * recovery(L, p) - kLD) * y.N,
        P=-(p.kact + kLD) * y.P,
        E=p.kact * y.P + (expansion - p.dE - p.kEM - kLD) * y.E,
        M=p.kEM * y.E - (p.dM + kLD) * y.M,
        B=(parts.tumor_growth(B, p) - parts.tumor_killing(y.E, p)) * B,
        AUCF=body.HOURS * c["flu"],
        AUCC=body.HOURS * active,
    )


def cyclophosphamide(p: Params) -> ck.Disposition:
    """Cyclophosphamide [mg/L] without autoinduction."""
    return ck.Disposition(body.HOURS * p.CLY * (p.WT / 70) ** 0.75, p.VY * p.WT / 70)


FORM = switches.Form(
    name="niche",
    states=parts.States,
    own=("kact", "rho", "SA0", "B50", "dE", "kEM", "dM", "gB", "kB", "rJ", "kJ", "kEX"),
    equations=equations,
    recovery=recovery,
    start=lambda p: {},
    growth=lambda p: p.rho,
    volume=lambda p: p.VC * p.WT / parts.WEIGHT,
    cyclophosphamide="cy",
    inputs={"cy": cyclophosphamide},
    derived={
        # ln of the T cells killed by 100 mg of the phosphate, or of cyclophosphamide
        "flu_ln_kill": (
            lambda p: 100 * F_ARA_A * p.kF * body.HOURS / fludarabine(p).clearance,
            "1",
        ),
        "cy_ln_kill": (
            lambda p: 100 * p.MR * p.kC * body.HOURS / cyclophosphamide(p).clearance,
            "1",
        ),
    },
    published={
        # Langenhorst 2019, section 3.3: median of adults after 160 mg/m² of the phosphate. Table 1:
        # 78 kg, eGFR 110; 1.93 m² is assumed for them, hence 5 %.
        "AUC of F-ara-A in adults [mg h/L]": (
            lambda p: (
                body.HOURS
                * (160 * 1.93 * F_ARA_A)
                / fludarabine(p.replace(WT=78.0, eGFR=110.0)).clearance
            ),
            26.0,
            0.05,
        ),
    },
)


def build(
    values: Literal["calibrated", "as_full"] = "calibrated",
    disease: Literal["heme", "solid"] = "heme",
    denominator: Literal["modelled", "constant"] = "modelled",
    immunity: Literal["off", "on"] = "off",
    exhaustion: Literal["off", "on", "pembrolizumab", "nivolumab"] = "off",
    products: Literal["one", "two"] = "one",
    graft: Literal["off", "on"] = "off",
    cure: Literal["off", "on"] = "off",
) -> ck.ODEModel:
    """The model with these typical values and switches; see `_niche_switches`."""
    made = switches.assemble(
        FORM,
        typical(values, disease),
        switches.Switches(
            denominator=denominator,
            immunity=immunity,
            exhaustion=exhaustion,
            products=products,
            graft=graft,
            cure=cure,
        ),
    )
    if values == "as_full":
        return made
    return dataclasses.replace(made, calibration_draws=POSTERIORS[disease])


model = build()
