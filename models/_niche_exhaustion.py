"""Scenario of the niche models, exhaustion="on", "pembrolizumab" or "nivolumab".

Stimulated effectors (E) become exhausted (X), which neither kill nor divide, but count as CAR-T
cells. With an antibody to PD-1 fewer do, and some come back; RO is the share of PD-1 that is bound
at the concentration "conc". All values are assumed; the antibodies are those of `ahamadi2017` and
`hu2024_nivolumab`. With SA the stimulation and phiC kLD the killing of CAR-T cells by drugs:

    RO = conc / (conc + Kd)                                     0 without an antibody
    E' gets - kEX SA (1 - eps RO) E + kres RO X
    X' = kEX SA (1 - eps RO) E - kres RO X - (dX + phiC kLD) X
"""

import carpk as ck
from carpk.models import _niche_parts as parts
from carpk.models import ahamadi2017, hu2024_nivolumab, langenhorst2019


class Params(ck.Params):
    kEX: ck.Scalar = ck.param(0.1, "1/day", "largest rate of exhaustion", parts.SCENARIO)
    dX: ck.Scalar = ck.param(0.1, "1/day", "loss rate of exhausted CAR-T cells", parts.SCENARIO)


class CheckpointParams(Params):
    eps: ck.Scalar = ck.param(
        0.8, "1", "share of exhaustion that PD-1 brings about", parts.SCENARIO, bounds=(0, 1)
    )
    kres: ck.Scalar = ck.param(
        0.05, "1/day", "rate at which exhausted cells come back, all PD-1 bound", parts.SCENARIO
    )
    Kd: ck.Scalar = ck.param(
        0.1, "µg/mL", "antibody that binds half of PD-1", "assumed: unverified, not read"
    )


class States(ck.States):
    X: ck.Scalar = ck.state("cells/µL", "exhausted CAR-T cells")


def slopes(
    E: ck.Scalar, X: ck.Scalar, SA: ck.Scalar, killed: ck.Scalar, p: Params
) -> tuple[ck.Scalar, ck.Scalar]:
    """What is added to E', and X' [cells/µL/day], without an antibody; `killed` is phiC kLD."""
    lost = p.kEX * SA * E
    return -lost, lost - (p.dX + killed) * X


def occupancy(concentration: ck.Scalar, p: CheckpointParams) -> ck.Scalar:
    """RO, the share of PD-1 that is bound."""
    return concentration / (concentration + p.Kd)


def slopes_with_antibody(
    E: ck.Scalar,
    X: ck.Scalar,
    SA: ck.Scalar,
    killed: ck.Scalar,
    bound: ck.Scalar,
    p: CheckpointParams,
) -> tuple[ck.Scalar, ck.Scalar]:
    """The same where an antibody binds this share of PD-1."""
    lost, back = p.kEX * SA * (1 - p.eps * bound) * E, p.kres * bound * X
    return back - lost, lost - back - (p.dX + killed) * X


# --- antibodies to PD-1 ---------------------------------------------------------------------------


def pembrolizumab(p: langenhorst2019.Params) -> ck.Disposition:
    """Of the typical patient of Ahamadi 2017 with this weight and renal function."""
    return ahamadi2017.pembrolizumab(ahamadi2017.Params(WT=p.WT, eGFR=p.eGFR))


def nivolumab(p: langenhorst2019.Params) -> ck.Disposition:
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
REGIMENS = {  # days assumed
    "pembrolizumab": ahamadi2017.doses(200.0, 21.0, 4).shift(14),
    "nivolumab": hu2024_nivolumab.doses(3 * parts.WEIGHT, 14.0, 6).shift(14),
}
