"""Checks of a population model against data, before and after the fit.

`prior_predictive` and `posterior_predictive` replicate the data: cohorts of as many patients as
were published, sampled on the study's days, summarised as the publication did, with the hard
rules of `nca`. What is compared is like with like: a replicated median against the printed median.

`vpc`, `npde` and `gof` are for patients' own data: percentiles by day against those of new
patients, residuals against time and prediction. `shrinkage` says how
far the data leave the patients' random effects (`Fit.effects`) to the population.

`loo` says how well a fit predicts an observation, a patient or a cohort that it has not seen, and
`compare_loo` which of several fits does so best; `sensitivity`, what a posterior owes its prior and
its data.

`recovery` and `sbc` simulate data and fit them: coverage of the truth, calibrated posteriors.
`solver_error` solves posterior draws again, adaptively.

`identifiability` says which parameters a design can tell, before a fit or before a study, and
`sampling_times` on which days to sample; see `carpk.information`.
"""

from carpk.checks.calibration import SBC, sbc
from carpk.checks.leave_out import LOO, LOOComparison, compare_loo, loo
from carpk.checks.powers import Sensitivity, sensitivity
from carpk.checks.predictive import Predictive, posterior_predictive, prior_predictive
from carpk.checks.residuals import GOF, NPDE, gof, npde, shrinkage
from carpk.checks.solution import solver_error
from carpk.checks.truth import Recovery, recovery
from carpk.checks.visual import VPC, vpc
from carpk.information import PlannedArm, identifiability, sampling_times
from carpk.verdict.solver_error import SolverCheck

__all__ = [
    "GOF",
    "LOO",
    "NPDE",
    "SBC",
    "VPC",
    "LOOComparison",
    "PlannedArm",
    "Predictive",
    "Recovery",
    "Sensitivity",
    "SolverCheck",
    "compare_loo",
    "gof",
    "identifiability",
    "loo",
    "npde",
    "posterior_predictive",
    "prior_predictive",
    "recovery",
    "sampling_times",
    "sbc",
    "sensitivity",
    "shrinkage",
    "solver_error",
    "vpc",
]


def __dir__() -> list[str]:
    return sorted(__all__)
