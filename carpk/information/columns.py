"""The scalar parameters of a population, and their scales, values and prior SDs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from carpk._types import Arrays, Numbers, Values
from carpk.errors import FitError
from carpk.params import Transform
from carpk.population.covariates import Covariate
from carpk.population.parameters import Kind, PopulationParameter
from carpk.population.population import Population

QUANTILES = 4001  # of a prior, for its median and SD


@dataclasses.dataclass(frozen=True)
class Column:
    """One number among the population parameters.

    Attributes:
        name: as shown, "beta_cmax_arm[Flu]" for an effect of a covariate with categories.
        parameter: whose number it is.
        place: in the parameter's array; () of a number.
        value: at which everything is evaluated, natural scale.
        prior_sd: on the estimation scale.
    """

    name: str
    parameter: PopulationParameter
    place: tuple[int, ...]
    value: float
    prior_sd: float

    @property
    def transform(self) -> Transform:
        """The estimation scale."""
        return self.parameter.transform


def columns_of(
    population: Population, covariates: Mapping[str, Covariate], at: Values | None
) -> list[Column]:
    parameters = population.parameters({c: x.columns for c, x in covariates.items()})
    at = at or {}
    for name in at:
        if name not in parameters:
            raise FitError(
                f"identifiability: {name!r} in `at` is not a parameter of this population; known "
                f"are {', '.join(parameters)}."
            )
    columns = []
    for name, parameter in parameters.items():
        median, sd = _centre(parameter)
        values = np.broadcast_to(np.asarray(at.get(name, median), float), parameter.shape)
        for label, place in parameter.scalars.items():
            columns.append(Column(label, parameter, place, float(values[place]), sd))
    return columns


def _centre(parameter: PopulationParameter) -> tuple[float, float]:
    """Median [natural scale] and SD [estimation scale] of the prior of each number."""
    prior = parameter.prior
    assert prior is not None
    u = (np.arange(QUANTILES) + 0.5) / QUANTILES
    try:
        x = prior.icdf(jnp.asarray(u))
    except (ImportError, NotImplementedError):  # NumPyro has no quantiles of some distributions
        x = prior.sample(jax.random.key(0), (25 * QUANTILES,))
    if parameter.kind == Kind.CORRELATION:  # alike in all pairs
        x = x[..., 0, 1]
        return 0.0, float(jnp.std(x))
    return float(jnp.median(x)), float(jnp.std(parameter.transform.forward(x)))


def theta_of(columns: Sequence[Column], u: Arrays) -> dict[str, Numbers]:
    """Population parameters [natural scale] by name, from estimation-scale values (p,)."""
    values: dict[str, list[Numbers]] = {}
    parameters = {}
    for column, x in zip(columns, u, strict=True):
        values.setdefault(column.parameter.name, []).append(column.transform.inverse(x))
        parameters[column.parameter.name] = column.parameter
    return {name: parameters[name].joined(x) for name, x in values.items()}


def point_of(columns: Sequence[Column]) -> np.ndarray:
    """The point of evaluation, on the estimation scale."""
    return np.array([float(c.transform.forward(c.value)) for c in columns])
