"""`identifiability`: of data with their design, or of a planned study."""

from __future__ import annotations

import numpy as np

from carpk._types import Values
from carpk.dataset import Dataset
from carpk.information.cohorts import cohort_information
from carpk.information.columns import columns_of
from carpk.information.design import Arms, Sampled, named, planned, size_of
from carpk.information.patients import patient_information
from carpk.information.result import Identifiability, result_of
from carpk.library.study import Study
from carpk.population.population import Population

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
