"""carpk: CAR-T cellular kinetics in a notebook - fit, simulate, compare.

carpk computes in double precision and therefore switches JAX to float64 when it is imported.
"""

import warnings

import jax

jax.config.update("jax_enable_x64", True)
with warnings.catch_warnings():  # in a notebook, about bars that carpk does not draw
    warnings.filterwarnings("ignore", "IProgress not found")
    import numpyro  # noqa: F401

from carpk import assay, body, checks, dosing, evidence, nca, plot  # noqa: E402
from carpk.assay import Combined, LogNormal, Proportional, StudentT  # noqa: E402
from carpk.comparison import Comparison, compare  # noqa: E402
from carpk.dataset import Dataset, load_dataset  # noqa: E402
from carpk.disposition import Disposition  # noqa: E402
from carpk.dosing import Bolus, Infusion, Multiply, Regimen, Replace, Reset  # noqa: E402
from carpk.errors import (  # noqa: E402
    CarpkError,
    CarpkWarning,
    DatasetError,
    FitError,
    ModelError,
    RegimenError,
    SaveError,
)
from carpk.exposure import exposure  # noqa: E402
from carpk.inference import Fit, fit  # noqa: E402
from carpk.library import list_models, list_studies, load_model, load_study  # noqa: E402
from carpk.params import Params, Scalar, covariate, param  # noqa: E402
from carpk.population import Population  # noqa: E402
from carpk.repetition import rerun  # noqa: E402
from carpk.saved import load_fit  # noqa: E402
from carpk.simulation import Simulation, simulate  # noqa: E402
from carpk.solver import Solution, solve  # noqa: E402
from carpk.structural import ClosedForm, ODEModel, States, Target, state  # noqa: E402
from carpk.studies import Study  # noqa: E402

__all__ = [
    "Bolus",
    "CarpkError",
    "CarpkWarning",
    "ClosedForm",
    "Combined",
    "Comparison",
    "Dataset",
    "DatasetError",
    "Disposition",
    "Fit",
    "FitError",
    "Infusion",
    "LogNormal",
    "ModelError",
    "Multiply",
    "ODEModel",
    "Params",
    "Population",
    "Proportional",
    "Regimen",
    "RegimenError",
    "Replace",
    "Reset",
    "SaveError",
    "Scalar",
    "Simulation",
    "Solution",
    "States",
    "StudentT",
    "Study",
    "Target",
    "assay",
    "body",
    "checks",
    "compare",
    "covariate",
    "dosing",
    "evidence",
    "exposure",
    "fit",
    "list_models",
    "list_studies",
    "load_dataset",
    "load_fit",
    "load_model",
    "load_study",
    "nca",
    "param",
    "plot",
    "rerun",
    "simulate",
    "solve",
    "state",
]


def __dir__() -> list[str]:
    return __all__
