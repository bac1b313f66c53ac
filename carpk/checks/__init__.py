"""Checks of a population model against data: what it predicts, before and after the fit.

`prior_predictive` and `posterior_predictive` replicate the data: cohorts of as many patients as
were published, sampled on the study's days, summarised as the publication did, with the hard
rules of `nca`. What is compared is like with like: a replicated median against the printed median.

`vpc`, `npde` and `gof` are for patients' own data: percentiles by day against those of new
patients, residuals against time and prediction. `shrinkage` says how
far the data leave the patients' random effects (`Fit.effects`) to the population.

`identifiability` says which parameters a design can tell, before a fit or before a study, and
`sampling_times` on which days to sample; see `carpk.information`.
"""

from carpk.accuracy import SolverCheck
from carpk.checks.predictive import Predictive, posterior_predictive, prior_predictive
from carpk.checks.residuals import GOF, NPDE, gof, npde, shrinkage
from carpk.checks.solution import solver
from carpk.checks.truth import Recovery, recovery
from carpk.checks.visual import VPC, vpc
from carpk.information import PlannedArm, identifiability, sampling_times

__all__ = [
    "GOF",
    "NPDE",
    "VPC",
    "PlannedArm",
    "Predictive",
    "Recovery",
    "SolverCheck",
    "gof",
    "identifiability",
    "npde",
    "posterior_predictive",
    "prior_predictive",
    "recovery",
    "sampling_times",
    "shrinkage",
    "solver",
    "vpc",
]
