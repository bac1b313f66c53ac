"""Figures. Concentrations are on a log10 axis; the legend names the bands."""

from carpk.plot.calibration import sbc
from carpk.plot.data import dataset
from carpk.plot.diagnostics import eta_covariates, eta_pairs, gof, npde, vpc
from carpk.plot.fits import fit, individual_fits, predictive, prior_posterior, summaries, waterfall
from carpk.plot.persistence import time_to_event
from carpk.plot.results import comparison, evidence, identifiability, simulation

__all__ = [
    "comparison",
    "dataset",
    "eta_covariates",
    "eta_pairs",
    "evidence",
    "fit",
    "gof",
    "identifiability",
    "individual_fits",
    "npde",
    "predictive",
    "prior_posterior",
    "sbc",
    "simulation",
    "summaries",
    "time_to_event",
    "vpc",
    "waterfall",
]


def __dir__() -> list[str]:
    return sorted(__all__)
