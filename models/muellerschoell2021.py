"""Four phenotypes of axicabtagene ciloleucel and large B-cell lymphoma (Müller-Schöll 2021).

Naive CAR-T cells (TN) turn into central memory (TCM), these into effector memory (TEM), these into
effector cells (TEff). The first three divide on contact with CD19+ tumor (B, metabolic tumor volume
in mL), all four kill it, each at a rate of its own:

    TN'   = Vmax1 B TN  / (KM1 + TN)  + (kp1 - k12 - ke1) TN
    TCM'  = Vmax1 B TCM / (KM1 + TCM) + (kp2 - k23 - ke2) TCM + k12 TN
    TEM'  = Vmax1 B TEM / (KM1 + TEM) + (kp3 - k34 - ke3) TEM + k23 TCM
    TEff' = k34 TEM - ke4 TEff
    B'    = k5 (1 - B/K0) B - (Vmax5_1 TN + Vmax5_2 TCM + Vmax5_3 TEM + Vmax5_4 TEff) B / (KM5 + B)

    Vmax1 = Vmax1_ref (1 + ASCT_Vmax1 ASCT) CD4CD8^CD4CD8_exp    in the reference class, LOW = 0
    Vmax1 = Vmax1_low (1 + ASCT_Vmax1 ASCT)                      in the low-expansion class, LOW = 1

Fitted by the authors to flow cytometry and PET-CT of 19 adults. Covariates: MTV, tumor before the
infusion; ASCT, 1 after an earlier autologous stem cell transplant (7 of 19); CD4CD8, ratio of CD4+
to CD8+ CAR-T cells on day 7 (0.0512 to 8.94), so this one is not known at the infusion; LOW, a
class that nobody observes and that virtual patients are drawn from. `model.params()` is a patient
of the reference class with the median MTV, no transplant and a ratio of 1.

Random effects are exponential, on Vmax1_ref, which the low class does not use, and on Vmax5_2. The
paper prints 150 and 307 % CV; here they are SDs of ln, sqrt(ln(1 + CV²)). Killing by the other
phenotypes stays as it is. The residual CVs of the paper are in `RESIDUAL_CV`.

Dose. The paper has none: it leaves out the first distribution of the cells and puts 0.1 cells/µL of
each phenotype at day 0; ten times more or less hardly matters but to the day of the peak (its
Figure S5). Here an infusion brings a quarter of its cells into each phenotype, and 1 cell/µL is
5e8 cells in the body. Both are assumed, the second after Kimmel 2021. 0.1 cells/µL of each are
then 2e8 cells, which is 2e6/kg, the dose of these patients, at 100 kg. Only the expansion, not the
dose, is backed by data. `infused` keeps what has been given, so that nothing grows before it.

Left out: the survival models of the paper. A metabolic tumor volume is not a number of cells, so no
level of it is called one cell. Fixed by the authors, not estimated: kp1 to kp3, ke1 to ke3 (0.02
ke4), Vmax5_1, Vmax5_3, Vmax5_4, k5, K0. What a tumor does without CAR-T cells is thus not known
from these data, nor is anything after the first weeks.

Check. With the covariates of the 19 patients and no random effects, the medians of the classes are
a peak of 12.8 and 6.4 cells/µL (Table S2, "model-predicted": 13.8 and 5.2) on day 12 and 24.7 (12
and 23.5). The AUC over 28 days, 232 and 121, is 29 % above Table S2 in both classes (179 and 94).
From samples on days 7, 14 and 28 and without what precedes them it would be 188 and 105, and of all
but naive cells 180 and 94: which of these the paper took could not be read, nor whether its
predictions have individual random effects.

Reference: Müller-Schöll et al. (2021) Cancers 13:2782, doi:10.3390/cancers13112782. Read in the
transcription of nlmixr2lib (MuellerSchoell_2021_axicabtageneCiloleucel_qsp: Table 1, equations 5 to
11, Tables S1 and S2), not in the paper itself.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

import carpk as ck
from carpk.models import _body as body

NLMIXR = ", as transcribed in nlmixr2lib"
TABLE = "Müller-Schöll 2021, Table 1" + NLMIXR
FIXED = "Müller-Schöll 2021, Table 1 (fixed)" + NLMIXR
COHORT_TABLE = "Müller-Schöll 2021, Table S1" + NLMIXR

QUARTER = 0.25  # of the cells given are of each phenotype; assumed from equal levels at day 0

# residual CV of each output, log-normal; Table 1
RESIDUAL_CV = {"tn": 0.591, "tcm": 0.859, "tem": 1.20, "teff": 0.706, "tumor": 1.15}

# patients 1 to 19, Table S1
COHORT = {
    "MTV": (
        *(894, 102, 13.0, 264, 14.2, 70.5, 13.1, 142, 1118, 305),
        *(479, 2.54, 34.2, 85.7, 64.1, 663, 3555, 20.0, 32.5),
    ),
    "ASCT": (0, 0, 1, 0, 1, 1, 1, 0, 0, 0, 0, 1, 0, 1, 0, 0, 1, 0, 0),
    "CD4CD8": (
        *(8.94, 0.357, 0.126, 4.01, 1.34, 0.364, 3.56, 0.405, 0.413, 0.549),
        *(0.223, 0.0512, 4.53, 0.130, 0.0845, 0.764, 0.0866, 0.182, 0.126),
    ),
    "LOW": (0, 0, 0, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0),
}


class Params(ck.Params):
    Vmax1_ref: ck.Scalar = ck.param(
        0.00846,
        "cells/µL/day/mL",
        "largest expansion rate per mL of tumor",
        TABLE + "; IIV 150 % CV",
        cv=1.50,
    )
    Vmax1_low: ck.Scalar = ck.param(
        0.000700,
        "cells/µL/day/mL",
        "largest expansion rate per mL of tumor, low-expansion class",
        TABLE + "; no IIV",
    )
    ASCT_Vmax1: ck.Scalar = ck.param(
        2.53, "1", "relative increase of expansion after a transplant", TABLE, prior_sd=0.5
    )
    CD4CD8_exp: ck.Scalar = ck.param(
        -0.385,
        "1",
        "exponent of the CD4/CD8 ratio on expansion",
        TABLE,
        bounds=(-math.inf, math.inf),
        prior_sd=0.2,
    )
    KM1: ck.Scalar = ck.param(
        1.13, "cells/µL", "level of a phenotype at half its largest expansion", TABLE
    )
    k12: ck.Scalar = ck.param(
        0.140, "1/day", "rate from naive to central memory", TABLE, prior_sd=0.5
    )
    k23: ck.Scalar = ck.param(
        0.191, "1/day", "rate from central to effector memory", TABLE, prior_sd=0.5
    )
    k34: ck.Scalar = ck.param(
        0.355, "1/day", "rate from effector memory to effector", TABLE, prior_sd=0.5
    )
    ke1: ck.Scalar = ck.param(
        0.0104, "1/day", "death rate of naive cells", FIXED + ": 0.02 ke4", prior_sd=0.5
    )
    ke2: ck.Scalar = ck.param(
        0.0104, "1/day", "death rate of central memory", FIXED + ": 0.02 ke4", prior_sd=0.5
    )
    ke3: ck.Scalar = ck.param(
        0.0104, "1/day", "death rate of effector memory", FIXED + ": 0.02 ke4", prior_sd=0.5
    )
    ke4: ck.Scalar = ck.param(0.518, "1/day", "death rate of effector cells", TABLE, prior_sd=0.5)
    kp1: ck.Scalar = ck.param(
        0.0005, "1/day", "homeostatic growth of naive cells", FIXED, prior_sd=0.5
    )
    kp2: ck.Scalar = ck.param(
        0.007, "1/day", "homeostatic growth of central memory", FIXED, prior_sd=0.5
    )
    kp3: ck.Scalar = ck.param(
        0.007, "1/day", "homeostatic growth of effector memory", FIXED, prior_sd=0.5
    )
    Vmax5_1: ck.Scalar = ck.param(
        2.57, "mL/day per cell/µL", "largest killing rate of naive cells", FIXED + ": in vitro"
    )
    Vmax5_2: ck.Scalar = ck.param(
        4.04,
        "mL/day per cell/µL",
        "largest killing rate of central memory",
        TABLE + "; IIV 307 % CV",
        cv=3.07,
    )
    Vmax5_3: ck.Scalar = ck.param(
        3.78, "mL/day per cell/µL", "largest killing rate of effector memory", FIXED + ": in vitro"
    )
    Vmax5_4: ck.Scalar = ck.param(
        4.24, "mL/day per cell/µL", "largest killing rate of effector cells", FIXED + ": in vitro"
    )
    KM5: ck.Scalar = ck.param(276.0, "mL", "tumor at half the largest killing rate", TABLE)
    k5: ck.Scalar = ck.param(0.0023, "1/day", "growth rate of the tumor", FIXED)
    K0: ck.Scalar = ck.param(5000.0, "mL", "largest tumor", FIXED, prior_sd=0.3)
    MTV: ck.Scalar = ck.covariate(
        85.7, "mL", "metabolic tumor volume before the infusion", COHORT_TABLE + ": median"
    )
    ASCT: ck.Scalar = ck.covariate(
        0.0, "1", "1 after an earlier autologous stem cell transplant", COHORT_TABLE
    )
    CD4CD8: ck.Scalar = ck.covariate(
        1.0, "1", "ratio of CD4+ to CD8+ CAR-T cells on day 7", TABLE + ": reference"
    )
    LOW: ck.Scalar = ck.covariate(
        0.0, "1", "1 in the low-expansion class, which nobody observes", TABLE, share=0.197
    )


class States(ck.States):
    TN: ck.Scalar = ck.state("cells/µL", "naive CAR-T cells", log=True)
    TCM: ck.Scalar = ck.state("cells/µL", "central memory CAR-T cells", log=True)
    TEM: ck.Scalar = ck.state("cells/µL", "effector memory CAR-T cells", log=True)
    TEff: ck.Scalar = ck.state("cells/µL", "effector CAR-T cells", log=True)
    B: ck.Scalar = ck.state("mL", "CD19+ metabolic tumor volume", log=True)
    infused: ck.Scalar = ck.state("cells/µL", "CAR-T cells given so far")


def expansion_rate(p: Params) -> ck.Scalar:
    """Vmax1 of this patient: equations 10 and 11."""
    reference = p.Vmax1_ref * p.CD4CD8**p.CD4CD8_exp
    return (1 + p.ASCT_Vmax1 * p.ASCT) * (p.LOW * p.Vmax1_low + (1 - p.LOW) * reference)


def vector_field(t: ck.Scalar, y: States, p: Params) -> States:
    """Equations 5 to 9."""
    contact = jnp.where(y.infused > 0, expansion_rate(p) * y.B, 0.0)

    def expansion(cells: ck.Scalar) -> ck.Scalar:
        return contact * cells / (p.KM1 + cells)

    killing = p.Vmax5_1 * y.TN + p.Vmax5_2 * y.TCM + p.Vmax5_3 * y.TEM + p.Vmax5_4 * y.TEff
    return States(
        TN=expansion(y.TN) + (p.kp1 - p.k12 - p.ke1) * y.TN,
        TCM=expansion(y.TCM) + (p.kp2 - p.k23 - p.ke2) * y.TCM + p.k12 * y.TN,
        TEM=expansion(y.TEM) + (p.kp3 - p.k34 - p.ke3) * y.TEM + p.k23 * y.TCM,
        TEff=p.k34 * y.TEM - p.ke4 * y.TEff,
        B=p.k5 * (1 - y.B / p.K0) * y.B - killing * y.B / (p.KM5 + y.B),
        infused=0.0,
    )


PAPER = ck.Regimen.cells(0, 2e8)  # 0.1 cells/µL of each phenotype
MONTH = np.linspace(0, 28, 281)


def median_in_class(
    low: int, figure: Callable[["ck.Solution"], float]
) -> Callable[[Params], float]:
    """f(params): the median over the patients of a class of `figure(solution)`, on `MONTH`."""

    def f(params: Params) -> float:
        found = []
        for row in zip(*COHORT.values(), strict=True):
            patient = params.replace(**dict(zip(COHORT, map(float, row), strict=True)))
            if low == patient.LOW:
                found.append(figure(ck.solve(model, PAPER, MONTH, patient)))
        return float(np.median(found))

    return f


def cmax(solution: "ck.Solution") -> float:
    return float(solution["car_t"].max())


def tmax(solution: "ck.Solution") -> float:
    return float(MONTH[solution["car_t"].argmax()])


model = ck.ODEModel(
    name="muellerschoell2021",
    product="axicabtagene ciloleucel",
    reference="doi:10.3390/cancers13112782",
    params=Params,
    states=States,
    vector_field=vector_field,
    initial=lambda p: States(B=p.MTV),
    targets={
        "car_t": (
            *(
                ck.Target(s, scale=lambda p: QUARTER / body.CELLS_PER_UL)
                for s in ("TN", "TCM", "TEM", "TEff")
            ),
            ck.Target("infused", scale=lambda p: 1 / body.CELLS_PER_UL),
        )
    },
    outputs={
        "car_t": lambda t, y, p: y.TN + y.TCM + y.TEM + y.TEff,
        "tn": lambda t, y, p: y.TN,
        "tcm": lambda t, y, p: y.TCM,
        "tem": lambda t, y, p: y.TEM,
        "teff": lambda t, y, p: y.TEff,
        "tumor": lambda t, y, p: y.B,
    },
    units={
        **dict.fromkeys(("car_t", "tn", "tcm", "tem", "teff"), "cells/µL"),
        "tumor": "mL",
    },
    derived={
        # tumor on which few naive CAR-T cells just hold their number
        "mtv_hold": (lambda p: p.KM1 * (p.k12 + p.ke1 - p.kp1) / expansion_rate(p), "mL"),
        "t_half_effector": (lambda p: jnp.log(2) / p.ke4, "day"),
        "t_double_tumor": (lambda p: jnp.log(2) / p.k5, "day"),
    },
    regimens={"paper": PAPER},
    published={
        # Table S2, medians of the model's predictions, quoted by nlmixr2lib, whose own simulation
        # is as far off; whether they contain individual random effects could not be read
        "median peak, reference class [cells/µL]": (median_in_class(0, cmax), 13.8, 0.10),
        "median peak, low class [cells/µL]": (median_in_class(1, cmax), 5.231, 0.25),
        "median day of the peak, reference class": (median_in_class(0, tmax), 12.0, 0.05),
        "median day of the peak, low class": (median_in_class(1, tmax), 23.5, 0.06),
    },
)
