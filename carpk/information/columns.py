"""The scalar parameters of a population, and their scales, values and prior SDs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from carpk.errors import FitError
from carpk.params import Transform, transform_for
from carpk.population.covariates import Covariate, covariate_effects
from carpk.population.population import Population

QUANTILES = 4001  # of a prior, for its median and SD


@dataclasses.dataclass(frozen=True)
class Column:
    """One scalar population parameter.

    Attributes:
        name: as shown, "beta_cmax_arm[Flu]" for an effect of a covariate with levels.
        site: name in the priors.
        index: place in the site's array; None for a scalar.
        scale: the estimation scale.
        value: at which everything is evaluated, natural scale.
        prior_sd: on the estimation scale.
    """

    name: str
    site: str
    index: int | None
    scale: Transform
    value: float
    prior_sd: float


def columns_of(
    population: Population, covariates: Mapping[str, Covariate], at: Mapping[str, Any] | None
) -> list[Column]:
    info = population.model.params.info()
    effects = covariate_effects(population)
    priors = population.all_priors(list(effects))
    at = at or {}
    for name in at:
        if name not in priors:
            raise FitError(
                f"identifiability: {name!r} in `at` is not a parameter of this population; known "
                f"are {', '.join(priors)}."
            )
    columns = []
    for site, prior in priors.items():
        if site in effects:
            scale, labels = transform_for((-np.inf, np.inf)), covariates[effects[site][1]].columns
        else:
            scale = info[site].transform if site in info else transform_for((0.0, np.inf))
            labels = ("",)
        median, sd = _centre(prior, scale)
        values = np.broadcast_to(np.asarray(at.get(site, median), float), len(labels))
        for i, label in enumerate(labels):
            name = site if not label else f"{site}[{label}]"
            index = i if site in effects else None
            columns.append(Column(name, site, index, scale, float(values[i]), sd))
    return columns


def _centre(prior: Any, scale: Transform) -> tuple[float, float]:
    """Median [natural scale] and SD [estimation scale] of a prior."""
    u = (np.arange(QUANTILES) + 0.5) / QUANTILES
    try:
        x = prior.icdf(jnp.asarray(u))
    except (ImportError, NotImplementedError):  # NumPyro has no quantiles of some distributions
        x = prior.sample(jax.random.key(0), (25 * QUANTILES,))
    return float(jnp.median(x)), float(jnp.std(scale.forward(x)))


def theta_of(columns: Sequence[Column], u: Any) -> dict[str, Any]:
    """Population parameters [natural scale] by site, from estimation-scale values (p,)."""
    theta: dict[str, Any] = {}
    for column, x in zip(columns, u, strict=True):
        value = column.scale.inverse(x)
        if column.index is None:
            theta[column.site] = value
        else:
            theta.setdefault(column.site, []).append(value)
    return {k: jnp.stack(v) if isinstance(v, list) else v for k, v in theta.items()}


def point_of(columns: Sequence[Column]) -> np.ndarray:
    """The point of evaluation, on the estimation scale."""
    return np.array([float(c.scale.forward(c.value)) for c in columns])
