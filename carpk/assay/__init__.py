"""Assays: residual models, limits of quantification, qPCR units.

A residual model gives the distribution of a measured level y around the true level f. Its
parameters are standard deviations, never variances; with `KnownSD` those of the errors are data. Of
counts, and of yes and no, `Poisson`, `NegativeBinomial` and `Bernoulli` are the distribution around
their expectation, which the model gives.

qPCR counts transgene copies per µg of DNA: a share of the leukocytes, and not a number of cells.
Lymphodepletion empties this denominator as well. Three ways to deal with it:

- modelled: fit the copies as they are to the output "transgene" of `niche` or `niche_full`, which
  divide by their own lymphocytes and a pool of myeloid cells; the default after lymphodepletion;
- measured: `to_cells` (and `to_copies`, the way back) with the patient's own leukocyte counts;
- constant: the same with one number, and a warning.
"""

from carpk.assay.denominator import cells_per_ul, copies_per_ug, to_cells, to_copies
from carpk.assay.discrete import Bernoulli, NegativeBinomial, Poisson
from carpk.assay.residual import (
    Additive,
    Combined,
    KnownSD,
    LogNormal,
    Power,
    Proportional,
    Residual,
    StudentT,
)
from carpk.models._body import GENOMES_PER_UG

__all__ = [
    "GENOMES_PER_UG",
    "Additive",
    "Bernoulli",
    "Combined",
    "KnownSD",
    "LogNormal",
    "NegativeBinomial",
    "Poisson",
    "Power",
    "Proportional",
    "Residual",
    "StudentT",
    "cells_per_ul",
    "copies_per_ug",
    "to_cells",
    "to_copies",
]


def __dir__() -> list[str]:
    return sorted(__all__)
