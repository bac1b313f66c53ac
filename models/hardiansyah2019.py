"""Anti-CD19 CAR-T cells, CLL and the cytokines of CRS in two patients (Hardiansyah 2019).

Effector and memory CAR-T cells (E, M) pass between blood (p) and tissue (t). Effectors divide in
blood in proportion to the leukemic B cells there (B), kill them and make three cytokines as they
meet them; IL-10 holds back interferon gamma. With fB = B / (B + h):

    B'   = (rB - dB) B - Kbc Ep B
    Ep'  = rE Ep B - dE Ep - kin Ep + kout Et - aE Ep (1 - fB) + aM Mp fB
    Et'  = kin Ep - kout Et
    Mp'  = (rM - dM) Mp - kin Mp + kout Mt + aE Ep (1 - fB) - aM Mp fB
    Mt'  = kin Mp - kout Mt
    IL6' = d6 (b6 - IL6) + P6 1e6 B Ep, and IL10' alike
    IFN' = dG (bG - IFN) + PG 1e6 B Ep (aG + (1 - aG) bI / (IL10 + bI))

All cells are counted in 1e9, in the whole of the blood or tissue. The parameters of a patient were
fitted by the authors to curves read off Kalos 2011: `load_model("hardiansyah2019")` is UPN1 (4.14e9
B cells in blood, 1.1e9 CAR-T cells), `load_model("hardiansyah2019", patient="upn3")` is UPN3
(0.93e9 and 1.4e7). UPN2 had steroids and was left out by the authors. No variability between
patients is known from two. 10, 30 and 60 % of the dose are given on days 0, 1 and 2, as boluses
into the effectors in blood.

Expansion follows the burden, not the dose: between half and twice the dose the peaks of cytokines
change by 3 % at most, between half and twice B0 at least 16-fold. The cytokines of UPN3 peak on
days 19 and 20, as the paper says of its data (days 15 to 23); those of UPN1 peak on day 3 or 4.
Lymphodepletion, steroids and tocilizumab are not in the model.

A dose spreads into tissue within the hour, so the first peaks are as narrow: ask for times 0.02
days apart there, and leave the first three days out of a peak of CAR-T cells. This makes the
equations stiff: the adaptive route is taken, where "tsit5" needs 13,000 steps for a year and
"kvaerno5" 6,000; no mesh is fine enough, not even for a month.

Outputs: "car_t_blood" [1e9 cells] is what the paper shows, "car_t" the same per µL, in a volume of
blood (Vb) that is assumed, for the paper gives none. "tumor" is B, in blood only: below one cell
there may be more elsewhere.

Errata of the supplement. Equation 7 prints the gain of memory cells as aE M (1 - fB): there would
never be any; equation 5 and Figure 1a have aE E (1 - fB), as here. h is printed as 1e5 cells/mL,
but cells are counted in 1e9 everywhere and only h = 1e5 in these units gives the memory cells of
Figure 1b; fB is thus practically 0, effectors become memory cells at the rate aE all along and aM
does next to nothing. aE is per day (printed per 1e9 cells and day), bI in pg/mL (printed in ng).

The baselines of cytokines are in no table: they were read off the plateaus of Figure 1b by the
transcription, to about 30 %; peaks hardly depend on them. The fitted parameters have standard
errors of up to 42 %.

BioModels has MODEL2009230001, never curated. It starts with 1.1e10 B cells, not with the 4.14e9 of
the paper, without cytokines, and infuses at a constant rate; rate and parameters could not be read,
so it is no variant. `params(B0=11.0)` is its burden in the equations above: 20 times the peak of
interleukin-6.

Reference: Hardiansyah & Ng (2019) Clin Transl Sci 12:343-349, doi:10.1111/cts.12636. Read in the
transcription of nlmixr2lib (Hardiansyah_2019_CART_upn1_qsp and _upn3_qsp: supplement, equations 1
to 9, Tables S1 and S2, Figures 1b, 2 and S1), not in the paper itself.
"""

from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

import carpk as ck
from carpk.models import _body as body
from carpk.models import _variants as variants

NLMIXR = ", as transcribed in nlmixr2lib"
FIXED = "Hardiansyah 2019, Table S1 (fixed)" + NLMIXR
FITTED = "Hardiansyah 2019, Table S2" + NLMIXR
READ_OFF = "read off Figure 1b by nlmixr2lib, to about 30 %"

CELLS = 1e9  # in the unit of the states
SECRETION = 1e6  # pg/mL for pg/µL per 1e15 cells², with cells in 1e9
SPLIT = (0.1, 0.3, 0.6)  # of the dose, on days 0, 1, 2

PATIENTS = {
    "upn1": {
        "B0": 4.14,
        "rE": 16.16,
        "dE": 23.04,
        "aE": 0.024,
        "Kbc": 0.19,
        "P6": 1.8e-3,
        "P10": 0.7e-3,
        "PG": 0.3e-3,
        "b6": 1.7,
        "b10": 4.5,
        "bG": 2.3,
    },
    "upn3": {
        "B0": 0.93,
        "rE": 14.40,
        "dE": 1.44,
        "aE": 0.12,
        "Kbc": 2.21,
        "P6": 6e-3,
        "P10": 1.7e-2,
        "PG": 6e-3,
        "b6": 1.0,
        "b10": 0.5,
        "bG": 1.7,
    },
}
UPN1, FITTED_UPN1 = PATIENTS["upn1"], FITTED + ": UPN1"
SECRETED = "pg/µL/day per 1e15 cells²"
DOSES = {"upn1": 1.1e9, "upn3": 1.4e7}

UNITS = {
    "car_t": "cells/µL",
    "car_t_blood": "1e9 cells",
    "tumor": "1e9 cells",
    "il6": "pg/mL",
    "il10": "pg/mL",
    "ifn_gamma": "pg/mL",
}

# peaks that nlmixr2lib read off Figure 1b, over six decades: to a factor of 1.5 or so
PEAKS = {
    "upn1": {"car_t_blood": 2.3, "il6": 2800.0, "il10": 550.0, "ifn_gamma": 700.0},
    "upn3": {"car_t_blood": 0.12, "il6": 50.0, "il10": 150.0, "ifn_gamma": 110.0},
}
MEMORY_PEAK = {"upn1": 7.0e-3, "upn3": 7.5e-3}
FIGURE_DAYS = np.append(np.arange(0, 80, 0.1), 350.0)


class States(ck.States):
    B: ck.Scalar = ck.state("1e9 cells", "leukemic B cells in blood", log=True)
    Ep: ck.Scalar = ck.state("1e9 cells", "effector CAR-T cells in blood")
    Et: ck.Scalar = ck.state("1e9 cells", "effector CAR-T cells in tissue")
    Mp: ck.Scalar = ck.state("1e9 cells", "memory CAR-T cells in blood")
    Mt: ck.Scalar = ck.state("1e9 cells", "memory CAR-T cells in tissue")
    IL6: ck.Scalar = ck.state("pg/mL", "interleukin-6")
    IL10: ck.Scalar = ck.state("pg/mL", "interleukin-10")
    IFN: ck.Scalar = ck.state("pg/mL", "interferon gamma")


class Params(ck.Params):
    B0: ck.Scalar = ck.param(
        UPN1["B0"],
        "1e9 cells",
        "leukemic B cells in blood at the first infusion",
        f"Hardiansyah 2019, legend of Figure 2{NLMIXR}: UPN1",
    )
    rB: ck.Scalar = ck.param(9.3e-3, "1/day", "growth rate of B cells", FIXED, prior_sd=0.5)
    dB: ck.Scalar = ck.param(7.6e-3, "1/day", "death rate of B cells", FIXED, prior_sd=0.5)
    Kbc: ck.Scalar = ck.param(
        UPN1["Kbc"], "1/day per 1e9 cells", "killing rate of an effector cell", FITTED_UPN1
    )
    rE: ck.Scalar = ck.param(
        UPN1["rE"], "1/day per 1e9 cells", "growth of effectors per B cell", FITTED_UPN1
    )
    dE: ck.Scalar = ck.param(UPN1["dE"], "1/day", "loss rate of effectors in blood", FITTED_UPN1)
    aE: ck.Scalar = ck.param(
        UPN1["aE"], "1/day", "rate at which effectors become memory cells", FITTED_UPN1
    )
    aM: ck.Scalar = ck.param(
        1.0, "1/day", "rate at which memory cells become effectors", FIXED, prior_sd=0.5
    )
    h: ck.Scalar = ck.param(
        1e5,
        "1e9 cells",
        "B cells at which half of the memory cells' switch is on",
        FIXED + "; unit corrected",
        prior_sd=0.5,
    )
    rM: ck.Scalar = ck.param(
        0.0509, "1/day", "growth rate of memory cells in blood", FIXED, prior_sd=0.5
    )
    dM: ck.Scalar = ck.param(
        0.408, "1/day", "death rate of memory cells in blood", FIXED, prior_sd=0.5
    )
    kin: ck.Scalar = ck.param(76.78, "1/day", "rate from blood to tissue", FIXED, prior_sd=0.5)
    kout: ck.Scalar = ck.param(1.84, "1/day", "rate from tissue to blood", FIXED, prior_sd=0.5)
    P6: ck.Scalar = ck.param(UPN1["P6"], SECRETED, "secretion of interleukin-6", FITTED_UPN1)
    P10: ck.Scalar = ck.param(UPN1["P10"], SECRETED, "secretion of interleukin-10", FITTED_UPN1)
    PG: ck.Scalar = ck.param(UPN1["PG"], SECRETED, "secretion of interferon gamma", FITTED_UPN1)
    d6: ck.Scalar = ck.param(
        3.96, "1/day", "elimination rate of interleukin-6", FIXED, prior_sd=0.5
    )
    d10: ck.Scalar = ck.param(
        4.68, "1/day", "elimination rate of interleukin-10", FIXED, prior_sd=0.5
    )
    dG: ck.Scalar = ck.param(
        1.51, "1/day", "elimination rate of interferon gamma", FIXED, prior_sd=0.5
    )
    aG: ck.Scalar = ck.param(
        0.59, "1", "share of interferon secretion that IL-10 leaves", FIXED, bounds=(0, 1)
    )
    bI: ck.Scalar = ck.param(
        650.0, "pg/mL", "IL-10 at half its effect", FIXED + "; unit corrected", prior_sd=0.5
    )
    b6: ck.Scalar = ck.param(
        UPN1["b6"], "pg/mL", "interleukin-6 before the infusion", READ_OFF, prior_sd=0.5
    )
    b10: ck.Scalar = ck.param(
        UPN1["b10"], "pg/mL", "interleukin-10 before the infusion", READ_OFF, prior_sd=0.5
    )
    bG: ck.Scalar = ck.param(
        UPN1["bG"], "pg/mL", "interferon gamma before the infusion", READ_OFF, prior_sd=0.5
    )
    Vb: ck.Scalar = ck.covariate(
        5.0, "L", "volume of blood", "assumed: the paper counts cells and gives no volume"
    )


def vector_field(t: ck.Scalar, y: States, p: Params) -> States:
    """Equations 1 to 9 of the supplement, with the errata above."""
    fB = y.B / (y.B + p.h)
    to_memory = p.aE * y.Ep * (1 - fB) - p.aM * y.Mp * fB
    effectors_out = p.kin * y.Ep - p.kout * y.Et
    memory_out = p.kin * y.Mp - p.kout * y.Mt
    contact = SECRETION * y.B * y.Ep
    held_back = p.aG + (1 - p.aG) * p.bI / (y.IL10 + p.bI)
    return States(
        B=(p.rB - p.dB - p.Kbc * y.Ep) * y.B,
        Ep=(p.rE * y.B - p.dE) * y.Ep - effectors_out - to_memory,
        Et=effectors_out,
        Mp=(p.rM - p.dM) * y.Mp - memory_out + to_memory,
        Mt=memory_out,
        IL6=p.d6 * (p.b6 - y.IL6) + p.P6 * contact,
        IL10=p.d10 * (p.b10 - y.IL10) + p.P10 * contact,
        IFN=p.dG * (p.bG - y.IFN) + p.PG * contact * held_back,
    )


def build(patient: Literal["upn1", "upn3"] = "upn1") -> ck.ODEModel:
    """The model with the parameters fitted to one of the two patients."""
    params = Params
    if patient == "upn3":
        of = {n: i.source.replace("UPN1", "UPN3") for n, i in Params.info().items()}
        own = PATIENTS["upn3"]
        params = variants.with_fields(
            Params, {n: variants.like(Params, n, value=x, source=of[n]) for n, x in own.items()}
        )

    dose = ck.Regimen.cells([0, 1, 2], [share * DOSES[patient] for share in SPLIT])

    def curves(p: Params) -> "ck.Solution":
        return ck.solve(model, dose, FIGURE_DAYS, p)

    def peak_of_memory(p: Params) -> float:
        states = curves(p).states
        assert isinstance(states, States)
        return float(np.asarray(states.Mp).max())

    published: dict[str, tuple[Any, ...]] = {
        f"peak of {name} [{UNITS[name]}]": (
            lambda p, name=name: np.asarray(curves(p)[name]).max(),
            level,
            0.25,
        )
        for name, level in PEAKS[patient].items()
    }
    published["peak of memory cells in blood [1e9 cells]"] = (
        peak_of_memory,
        MEMORY_PEAK[patient],
        0.25,
    )
    if patient == "upn1":
        il10 = "peak of il10 [pg/mL]"
        published[il10] = (*published[il10][:2], 0.7)  # 915, where 550 was read
        # Figure S1, on a linear axis, read by nlmixr2lib to 0.1
        published["B cells on day 50 [1e9 cells]"] = (lambda p: curves(p)["tumor"][500], 0.30, 0.10)
        published["B cells on day 350 [1e9 cells]"] = (lambda p: curves(p)["tumor"][-1], 0.45, 0.10)

    model: ck.ODEModel = ck.ODEModel(
        name="hardiansyah2019",
        reference="doi:10.1111/cts.12636",
        params=params,
        states=States,
        vector_field=vector_field,
        initial=lambda p: States(B=p.B0, IL6=p.b6, IL10=p.b10, IFN=p.bG),
        targets={"car_t": ck.Target("Ep", scale=lambda p: 1 / CELLS)},
        outputs={
            "car_t": lambda t, y, p: CELLS * (y.Ep + y.Mp) / (body.UL_PER_L * p.Vb),
            "car_t_blood": lambda t, y, p: y.Ep + y.Mp,
            "tumor": lambda t, y, p: y.B,
            "il6": lambda t, y, p: y.IL6,
            "il10": lambda t, y, p: y.IL10,
            "ifn_gamma": lambda t, y, p: y.IFN,
        },
        units=UNITS,
        one_cell={"tumor": 1 / CELLS},
        regimens={"paper": dose},
        derived={
            # B cells on which effectors in blood just hold their number
            "b_hold": (lambda p: p.dE / p.rE, "1e9 cells"),
            # of memory cells, most of which are in tissue where they do not die
            "t_half_memory": (
                lambda p: jnp.log(2) * (1 + p.kin / p.kout) / (p.dM - p.rM),
                "day",
            ),
        },
        published=published,
    )
    return model


model = build()
