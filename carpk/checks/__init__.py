"""Checks of a population model against data: what it predicts, before and after the fit.

`prior_predictive` and `posterior_predictive` replicate the data: cohorts of as many patients as
were published, sampled on the study's days, summarised as the publication did, with the hard
rules of `nca`. What is compared is like with like: a replicated median against the printed median.

`loo` says how well a fit predicts an observation, a patient or a cohort that it has not seen, and
`compare_loo` which of several fits does so best; `sensitivity`, what a posterior owes its prior and
its data.

`recovery` and `sbc` simulate data and fit them: is the truth found, and are the posteriors what
they claim to be? `solver` solves posterior draws again, adaptively.

`identifiability` says which parameters a design can tell, before a fit or before a study, and
`sampling_times` on which days to sample; see `carpk.information`.
"""

from carpk.checks.accuracy import SolverCheck, solver
from carpk.checks.calibration import SBC, sbc
from carpk.checks.leave_out import LOO, LOOComparison, compare_loo, loo
from carpk.checks.powers import Sensitivity, sensitivity
from carpk.checks.predictive import Predictive, posterior_predictive, prior_predictive
from carpk.checks.truth import Recovery, recovery
from carpk.information import PlannedArm, identifiability, sampling_times

__all__ = [
    "LOO",
    "SBC",
    "LOOComparison",
    "PlannedArm",
    "Predictive",
    "Recovery",
    "Sensitivity",
    "SolverCheck",
    "compare_loo",
    "identifiability",
    "loo",
    "posterior_predictive",
    "prior_predictive",
    "recovery",
    "sampling_times",
    "sbc",
    "sensitivity",
    "solver",
]
