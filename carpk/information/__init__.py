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

from __future__ import annotations

import numpy as np

from carpk._types import Values
from carpk.dataset import Dataset
from carpk.information.cohorts import cohort_information
from carpk.information.columns import columns_of
from carpk.information.design import Arms, PlannedArm, Sampled, named, planned, size_of
from carpk.information.patients import patient_information
from carpk.information.result import Identifiability, result_of
from carpk.information.times import SamplingTimes, sampling_times
from carpk.library.study import Study
from carpk.population.population import Population

__all__ = ["Identifiability", "PlannedArm", "SamplingTimes", "identifiability", "sampling_times"]

SIMULATIONS = 500  # of cohort statistics


def identifiability(
    population: Population,
    design: Dataset | Study | Arms,
    *,
    at: Values | None = None,
    simulations: int = SIMULATIONS,
    seed: int = 0,
) -> Identifiability:
    """Identifiability of parameters under a design: expected posterior against prior.

    Args:
        population: structural model, what varies, covariates, residual, priors and what is fixed.
        design: data, whose values are not used: patients' days, doses and limits, and which
            statistics of which cohorts were published; or a planned arm, or several by name.
        at: parameter of the population -> value [natural scale] in place of its prior median: the
            medians of a fit, say. The answer is local, so look at several.
        simulations: simulated cohorts behind the information of published summaries.
        seed: of those.
    """
    if isinstance(design, Dataset | Study):
        bound = population.bind(design if isinstance(design, Dataset) else design.dataset())
        columns = columns_of(population, bound.covariates, at)
        information, notes = np.zeros((len(columns), len(columns))), []
        if bound.individual is not None:
            who = Sampled.of_data(bound)
            information += patient_information(population, who, columns).matrix(who.mask)
            notes.append(f"{len(who.patients)} patients, {who.mask.sum()} observations.")
        if bound.cohorts:
            of_cohorts, lost = cohort_information(bound, columns, simulations, seed)
            information += of_cohorts
            summaries = sum(len(x.summaries) for x in bound.cohorts.values())
            note = f"{summaries} published summaries, from {simulations} simulations of each cohort"
            notes.append(note + (f", {lost} of them without a likelihood." if lost else "."))
        return result_of(population, columns, information, notes)
    who, columns = planned(population, named(design), at)
    information = patient_information(population, who, columns).matrix(who.mask)
    return result_of(population, columns, information, [size_of(who, who.mask)])
