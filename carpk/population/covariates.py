"""Covariates as columns of a design matrix, and the cohorts that have effects of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from carpk.dataset import Dataset
from carpk.errors import FitError
from carpk.population.population import FORMS, Population
from carpk.population.random_effects import COHORT


@dataclasses.dataclass(frozen=True)
class Covariate:
    """One covariate as columns of a design matrix.

    Attributes:
        name: as in the data.
        reference: the level, or the number, at which the typical value stands.
        columns: names of the effects.
        encode: value -> row of the design matrix.
        in_equations: it enters the equations as it is, and has no effect to estimate.
        power: a number enters as the log of its ratio to the reference.
    """

    name: str
    reference: float | str
    categories: tuple[str, ...]
    in_equations: bool = False
    power: bool = False

    @classmethod
    def of(cls, name: str, values: Sequence[float | str], form: str = FORMS[0]) -> Covariate:
        array = np.asarray(values)
        power = form == "power"
        if array.dtype.kind in "ifu":
            if np.ptp(array) == 0:
                raise FitError(
                    f"The covariate {name!r} is {array[0]:g} in everybody, so its effect cannot be "
                    "estimated; leave it out of `covariates`."
                )
            if power and not (array > 0).all():
                raise FitError(
                    f"The covariate {name!r} is {array.min():g} in somebody, but a power needs "
                    'values above 0; use "linear".'
                )
            centre = np.exp(np.log(array).mean()) if power else array.mean()
            return cls(name, float(centre), (), power=power)
        if power:
            raise FitError(
                f"The covariate {name!r} holds text, such as {values[0]!r}, so its effect has no "
                'form; leave out "power".'
            )
        names, counts = np.unique(array.astype(str), return_counts=True)
        if len(names) < 2:
            raise FitError(
                f"The covariate {name!r} has the single value {names[0]!r} in these data, so its "
                "effect cannot be estimated; leave it out of `covariates`."
            )
        reference = str(names[np.argmax(counts)])
        return cls(name, reference, tuple(str(x) for x in names if x != reference))

    @property
    def columns(self) -> tuple[str, ...]:
        each = "exponent of the ratio to" if self.power else "per unit around"
        return self.categories or (f"{each} {float(self.reference):.4g}",)

    def encode(self, value: float | str) -> np.ndarray:
        if self.in_equations:
            return np.array([float(value)])
        if self.power:
            return np.array([np.log(float(value) / float(self.reference))])
        if not self.categories:
            return np.array([float(value) - float(self.reference)])
        return np.array([float(str(value) == category) for category in self.categories])


def _in_equations(
    name: str, reference: float, values: Sequence[float | str], data: Dataset
) -> Covariate:
    """A covariate of the equations, once its values are seen to be numbers."""
    if np.asarray(values).dtype.kind not in "biuf":
        raise FitError(
            f"{data.name}: {name!r} enters the equations, so its column must hold numbers, but has "
            f"{str(values[0])!r}; write yes-or-no covariates as 1 and 0."
        )
    return Covariate(name, reference, (), in_equations=True)


def forms_of(population: Population) -> dict[str, str]:
    """Covariate -> form of its effects, which must be the same on every parameter."""
    forms: dict[str, str] = {}
    for parameter in population.covariates:
        for name, form in population.forms(parameter).items():
            if forms.setdefault(name, form) != form:
                raise FitError(
                    f"Population: the effect of {name!r} is {forms[name]!r} on one parameter and "
                    f"{form!r} on {parameter!r}; give it one form, or add a column with its log."
                )
    return forms


def cohorts_of_effects(
    population: Population, data: Dataset, individual: bool, published: Sequence[str]
) -> tuple[str, ...]:
    """The cohorts that have random effects of their own; none where nothing varies by cohort."""
    names = population.random_effects.at(COHORT)
    if not names:
        return ()
    if individual and "cohort" not in data.patients:
        raise FitError(
            f"{data.name}: {names[0]!r} varies by cohort, but the patients table has no column "
            "'cohort'; add it, or let the parameter vary by patient only."
        )
    own = data.covariate("cohort") if individual else ()
    cohorts = tuple(dict.fromkeys([*map(str, own), *published]))
    if len(cohorts) < 2:
        raise FitError(
            f"{data.name}: {names[0]!r} varies by cohort, but there is one cohort only, "
            f"{cohorts[0]!r}; let the parameter vary by patient."
        )
    return cohorts
