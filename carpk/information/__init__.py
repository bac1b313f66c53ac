"""Identifiability: expected Fisher information, before or after a study.

    ck.checks.identifiability(pop, data)        the design that was carried out
    ck.checks.identifiability(pop, arms)        a planned one, name -> PlannedArm
    ck.checks.sampling_times(pop, arms, candidates={"car_t": range(1, 91)}, add=3)

Everything is on the estimation scale of each parameter (log, logit or identity; log for standard
deviations) and at one point, the prior medians: a local answer.

**Patients.** The population model is linearized in the random effects of the typical patient, and
the information of typical values and effects is taken as independent of that of the spreads:
J' V^-1 J beside 1/2 tr(V^-1 dV V^-1 dV), the reduced matrix of PFIM and PopED, whose standard
errors were closer to empirical ones than those of the full matrix (Nyberg et al. 2015, Br J Clin
Pharmacol 79:6-17, doi:10.1111/bcp.12352). Derivatives of the predictions are central differences.

**Below the limit of quantification.** A sample that may fall below its limit has the expected
information of a censored normal variable in its mean and SD (closed form, averaged over the
random effects of its level). It enters V as a normal sample of that information. This is exact
without random effects, and with them where nothing is censored; else standard errors come out up
to 10 % too small, where most samples are censored and patients differ several-fold.

**Cohorts.** The information of published summaries is the covariance of the score of their
likelihood over simulated cohorts of as many patients.
"""

from carpk.information.design import PlannedArm
from carpk.information.identifiability import identifiability
from carpk.information.result import Identifiability
from carpk.information.times import SamplingTimes, sampling_times

__all__ = ["Identifiability", "PlannedArm", "SamplingTimes", "identifiability", "sampling_times"]
