"""Noncompartmental analysis (NCA) of CAR-T curves: pure functions of times and concentrations.

Every function takes `t` [day], strictly increasing, and `c`, the concentration at each time, as
arrays of one length, and returns a scalar (`lambda_z`: a tuple of scalars). All work under
`jax.jit`, `jax.vmap` and `jax.grad`. **`nan` in `t` or `c` means "no observation" and is ignored**,
so curves of different length can be padded with `nan` to one array. A quantity that the curve does
not support is `nan`, never a guess, and its gradient is zero there. Unsorted times, unequal lengths
and negative concentrations raise `CarpkError`, except inside `jit`, where values cannot be
inspected. A negative concentration is accepted where it is below a known `lloq`: there the BLQ rule
holds for it.

Between observations the curve rises (or stays) linearly and falls exponentially; where it falls to
zero it falls linearly. All areas, interpolated concentrations and crossing times follow that one
curve ("linear-up/log-down", `METHOD`).

Below the limit of quantification (BLQ) is any observation under `lloq`; pass a left-censored one as
0, not as the LLOQ. By default (`BLQ`: zero as in ICH M13A, but dropped in between as in PKNCA):

- before the first quantifiable concentration, BLQ is 0;
- between two quantifiable concentrations, BLQ is dropped, as if not observed;
- after the last quantifiable concentration, BLQ is 0 in partial areas (`auc_to`), so that a patient
  whose cells vanish has an AUC0-28d, and is dropped for the area to the last quantifiable
  concentration (`auc_last`), by definition of that area.

Half-life, doubling time, fold expansion, Clast and Tlast only ever use quantifiable concentrations:
those at or above `lloq` and above 0. With `lloq=0`, the default, areas take zeros as they are, as
suits simulated curves; an unknown limit (`lloq=nan`) is no limit either. Functions without an
`lloq` (`cmax`, `tmax`, `auc`) always take the curve as it is; `apply_blq` prepares one.

Of a data set, `table` has a row per patient and infusion, `nadir` and `change` those of counts and
cytokines, `persistence` and `first_detection` times between two samples; `summary`, `pp_domain` and
`export` report them.

References: the trapezoids are compared in Purves (1992) J Pharmacokinet Biopharm 20:211-226,
doi:10.1007/BF01062525; BLQ: ICH M13A (2024); codes: CDISC PKPARMCD (codelist C85839).
"""

from carpk.nca.areas import METHOD, auc, auc_last, auc_to, clast, cmax, time_above, tlast, tmax
from carpk.nca.choices import Acceptance
from carpk.nca.curve import BLQ, apply_blq
from carpk.nca.persistence import TimeToEvent, first_detection, persistence
from carpk.nca.report import export, pp_domain, summary
from carpk.nca.responses import change, nadir
from carpk.nca.slopes import LambdaZ, doubling_time, fold_expansion, half_life, lambda_z
from carpk.nca.tables import table

__all__ = [
    "BLQ",
    "METHOD",
    "Acceptance",
    "LambdaZ",
    "TimeToEvent",
    "apply_blq",
    "auc",
    "auc_last",
    "auc_to",
    "change",
    "clast",
    "cmax",
    "doubling_time",
    "export",
    "first_detection",
    "fold_expansion",
    "half_life",
    "lambda_z",
    "nadir",
    "persistence",
    "pp_domain",
    "summary",
    "table",
    "time_above",
    "tlast",
    "tmax",
]


def __dir__() -> list[str]:
    return sorted(__all__)
