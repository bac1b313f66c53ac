"""The parameters of a population: one list, which `Population` makes and everybody asks.

What a parameter is, where it stands in a result, on which scale it is estimated and how it is
split into numbers is told here, so that whatever a population may hold works everywhere.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from types import EllipsisType

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from carpk._types import ArrayOf, Numbers
from carpk.errors import ModelError
from carpk.params import Transform

WHOLE_LINE = (-np.inf, np.inf)


class Kind(StrEnum):
    """Kind of a population parameter."""

    TYPICAL = "typical value"
    BETA = "covariate effect"
    OMEGA = "SD of random effects"
    CORRELATION = "correlation of random effects"
    RESIDUAL = "residual parameter"
    ETA = "random effect"  # that the patients of a cohort share


@dataclasses.dataclass(frozen=True)
class PopulationParameter:
    """A number or an array, with all that is asked of it.

    Attributes:
        name: in priors and results.
        kind: what it is.
        prior: of each of its numbers; of the whole matrix of a correlation; None of an `ETA`, whose
            distribution is that of random effects.
        transform: to the scale on which it is estimated and compared.
        dims: names of its axes; () of a number.
        labels: axis -> labels.
        unit: of a typical value, and of a residual parameter that has one; "" of the others.
        bounds: the range of a typical value; the whole line of the others.
        of: the structural parameter, or output of a residual model, that it belongs to.
        covariate: of an effect.
        level: of variability, of an SD or a random effect.
    """

    name: str
    kind: Kind
    prior: dist.Distribution | None
    transform: Transform
    dims: tuple[str, ...] = ()
    labels: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    unit: str = ""
    bounds: tuple[float, float] = WHOLE_LINE
    of: str = ""
    covariate: str = ""
    level: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of its value."""
        return tuple(len(self.labels[dim]) for dim in self.dims)

    @property
    def joint(self) -> dist.Distribution | None:
        """The prior of the whole array."""
        if self.kind != Kind.BETA or not self.dims or self.prior is None:
            return self.prior
        return self.prior.expand(self.shape).to_event(len(self.shape))

    @property
    def scalars(self) -> dict[str, tuple[int, ...]]:
        """Name -> place of each number that is free: `name`, `name[label]` or `name[a, b]`."""
        places = list(np.ndindex(self.shape))
        if self.kind == Kind.CORRELATION:  # symmetric, with ones on its diagonal
            places = [place for place in places if place[0] < place[1]]

        def label(place: tuple[int, ...]) -> str:
            each = [str(self.labels[d][i]) for d, i in zip(self.dims, place, strict=True)]
            return f"{self.name}[{', '.join(each)}]" if each else self.name

        return {label(place): place for place in places}

    def split(self, values: ArrayOf) -> dict[str, ArrayOf]:
        """Values (..., *shape) as free numbers, name -> (...)."""
        return {name: _number(values, place) for name, place in self.scalars.items()}

    def joined(self, values: Sequence[Numbers]) -> Numbers:
        """The inverse of `split`, of one value: numbers in the order of `scalars`."""
        if not self.dims:
            return values[0]
        if self.kind != Kind.CORRELATION:
            return jnp.stack(list(values)).reshape(self.shape)
        rows, columns = zip(*self.scalars.values(), strict=True)
        upper = jnp.zeros(self.shape).at[np.array(rows), np.array(columns)].set(jnp.stack(values))
        return jnp.eye(len(upper)) + upper + upper.T


def _number(values: ArrayOf, place: tuple[int, ...]) -> ArrayOf:
    """The number at a place of each value, (..., *shape) -> (...)."""
    index: tuple[EllipsisType | int, ...] = (..., *place)
    return values[index]


def refuse_reserved(model: str, structural: Iterable[str], made: Iterable[str]) -> None:
    """Refuse structural parameters with the name of a population parameter.

    Args:
        model: its name.
        structural: names of its parameters.
        made: names that the population gives its own.
    """
    structural, made = list(structural), set(made)
    effects = "|".join(map(re.escape, structural))
    reserved = re.compile(rf"sigma|correlation|(omega|eta)_.+|beta_({effects})_.+")
    for name in structural:
        if name in made or reserved.fullmatch(name):
            raise ModelError(
                f"Population: {model!r} has a parameter {name!r}, but this is the name of a "
                "parameter of populations (sigma, omega_..., eta_..., beta_<parameter>_<covariate> "
                "and correlation are): rename it in the model's file."
            )


def named(parameters: Mapping[str, PopulationParameter], *kinds: Kind) -> tuple[str, ...]:
    """Names of the parameters of these kinds."""
    return tuple(name for name, p in parameters.items() if p.kind in kinds)


def split_draws(
    parameters: Mapping[str, PopulationParameter], draws: Mapping[str, ArrayOf]
) -> dict[str, ArrayOf]:
    """Draws of these parameters, name -> (..., *shape), as those of free numbers, name -> (...)."""
    return {
        name: x
        for key, values in draws.items()
        if key in parameters
        for name, x in parameters[key].split(values).items()
    }
