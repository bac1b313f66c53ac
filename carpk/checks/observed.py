"""Observations of one output, and replicates of them, for checks of individual data."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from carpk.dataset.arrays import NEVER
from carpk.dataset.overview import since_last
from carpk.errors import FitError
from carpk.inference.nuts import prior_draws
from carpk.inference.result import Fit
from carpk.population.bound import BoundPopulation
from carpk.population.replicates import new_people

if TYPE_CHECKING:
    from carpk._types import Draws


@dataclasses.dataclass(frozen=True)
class Observed:
    """The patients' observations of one output, patient by patient, n of them.

    Attributes:
        bound: the population model and its data.
        output, unit: of the model.
        place: where they stand in arrays of shape (P, T).
        patient: index into `bound.patients`.
        time: days.
        value: concentration; the LLOQ where `censored` is 1.
        censored: 0 observed, 1 below the LLOQ, -1 above `value`.
        lloq: lower limit of quantification; 1e-30 where unknown, -inf of counts.
    """

    bound: BoundPopulation
    output: str
    unit: str
    place: np.ndarray
    patient: np.ndarray
    time: np.ndarray
    value: np.ndarray
    censored: np.ndarray
    lloq: np.ndarray

    @classmethod
    def of(cls, bound: BoundPopulation, output: str | None, who: str) -> Observed:
        """Observations of `output`, or of the first; `who` asks, for error messages."""
        a = bound.individual
        if a is None:
            raise FitError(
                f"{who}: {bound.data.name} has published cohort summaries only, and no patient to "
                "check; compare the statistics with their replicates, "
                "ck.checks.posterior_predictive(fit)."
            )
        known = [bound.endpoints[analyte] for analyte in a.analytes]
        output = known[0] if output is None else output
        if output not in known:
            raise FitError(
                f"{who}: there are no observations of {output!r} in this fit; it has "
                f"{', '.join(known)}."
            )
        place = a.mask & (a.analyte == known.index(output))
        return cls(
            bound=bound,
            output=output,
            unit=bound.population.model.units[output],
            place=place,
            patient=np.nonzero(place)[0],
            time=a.time[place],
            value=a.value[place],
            censored=a.censored[place],
            lloq=np.where(bound.counted, -np.inf, a.lloq)[place],
        )

    @property
    def labels(self) -> np.ndarray:
        """The patient of each observation."""
        each: np.ndarray = np.asarray(self.bound.patients, str)[self.patient]
        return each

    @property
    def limited(self) -> np.ndarray:
        """Observations with a known LLOQ."""
        return self.lloq > NEVER

    @property
    def upper(self) -> np.ndarray:
        """Upper limit of each observation: its own where it lies above; inf where none is known.

        The lowest of the data's upper limits is taken to hold for all that were measured below it.
        """
        above = self.censored == -1
        common = self.value[above].min() if above.any() else np.inf
        own = np.where(self.value <= common, common, np.inf)
        return np.where(above, self.value, own)

    def since_last(self) -> tuple[np.ndarray, np.ndarray]:
        """Days since the last infusion, and its number, (n,); see `overview.since_last`."""
        bound, rows = self.bound, self.bound.data.observations
        analyte = next(a for a, output in bound.endpoints.items() if output == self.output)
        rows = rows[rows["analyte"] == analyte]
        place = rows["patient"].map({p: i for i, p in enumerate(bound.patients)})
        order = np.lexsort((rows["time"], place))  # that of `individual`: both keep ties
        return since_last(bound.data, rows.iloc[order])

    def population_prediction(self, theta: Draws) -> np.ndarray:
        """PRED: concentrations at these parameters with every random effect 0, (n,)."""
        every = np.asarray(self.bound.population_predictions(dict(theta)))
        own: np.ndarray = every[self.place]
        return own

    def replicates(self, theta: Draws, seed: int, who: str) -> tuple[np.ndarray, int]:
        """Observations of new patients, (draw, n); number of draws without finite ones."""
        (rng,) = np.random.default_rng(seed).spawn(1)  # not what another use of the seed draws
        y = new_people(self.bound, theta, rng)[0][:, self.place]
        finite = np.isfinite(y).all(axis=1)
        if not finite.any():
            raise FitError(
                f"{who}: no draw gives finite values of {self.output!r}: look for impossible "
                "parameters with ck.simulate."
            )
        return y[finite], int((~finite).sum())


def bound_of(source: Fit | BoundPopulation) -> BoundPopulation:
    """The population model behind a fit, or itself."""
    return source.bound if isinstance(source, Fit) else source


def population_draws(
    source: Fit | BoundPopulation, size: int, seed: int, who: str
) -> dict[str, np.ndarray]:
    """Population parameters, name -> (draws, ...): of the posterior; of the prior without a fit.

    A posterior with fewer draws is used more than once: the new patients differ every time.
    """
    if not (isinstance(size, int) and size >= 20):
        raise FitError(f"{who}: replicates must be a whole number of at least 20, but is {size!r}.")
    if isinstance(source, BoundPopulation):
        return prior_draws(source.priors, size, seed)
    chosen = source.chosen(size, seed)
    again = np.resize(chosen, size)
    return {name: x[again] for name, x in source.draws().items()}


def middle(theta: Draws) -> dict[str, np.ndarray]:
    """The median of every parameter: where PRED is taken."""
    return {name: np.median(x, axis=0) for name, x in theta.items()}
