"""Sampling designs: patients of a data set, or of planned arms."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from carpk._types import Values
from carpk.dosing.regimen import Regimen
from carpk.errors import FitError, RegimenError
from carpk.information.columns import Column, columns_of, point_of, theta_of
from carpk.params import Params
from carpk.population.bound import BoundPopulation
from carpk.population.covariates import Covariate, forms_of
from carpk.population.population import COHORT_INDEX, Population
from carpk.population.predict import ClosedFormPredictor, ODEPredictor, Predictor
from carpk.solver.events import Schedule
from carpk.solver.solve import Solver
from carpk.structural import ClosedForm, ODEModel


@dataclasses.dataclass(frozen=True)
class PlannedArm:
    """Patients who are to be given and sampled alike.

    Attributes:
        patients: how many.
        days: output of the structural model -> days on which it is measured.
        regimen: what they are given, absolute amounts. A closed form sees the cell infusions only,
            and has one on day 0 where this is left out.
        lloq: lower limit of quantification, one for all outputs or output -> limit; 0 is none.
        covariates: name -> value of every patient of the arm.
    """

    patients: int
    days: Mapping[str, Sequence[float]]
    regimen: Regimen | None = None
    lloq: float | Mapping[str, float] = 0.0
    covariates: Mapping[str, float | str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (isinstance(self.patients, int) and self.patients > 0):
            raise FitError(
                f"PlannedArm: `patients` must be a whole number above 0, but is {self.patients!r}."
            )
        if not isinstance(self.days, Mapping):
            raise FitError(
                "PlannedArm: `days` must be output -> days, such as {'car_t': [7, 14, 28]}, but is "
                f"{self.days!r}."
            )
        for output, days in self.days.items():
            if not np.isfinite(np.asarray(list(days), float)).all():
                raise FitError(
                    f"PlannedArm: the days of {output!r} must be finite numbers, but are "
                    f"{list(days)}."
                )

    def limit(self, output: str) -> float:
        """Lower limit of quantification of an output; 0 where there is none."""
        lloq = self.lloq
        return float(lloq.get(output, 0.0) if isinstance(lloq, Mapping) else lloq)

    def also(self, days: Mapping[str, Sequence[float]]) -> PlannedArm:
        """This arm, sampled on these days too, unless it is already."""
        both = {}
        for output in (*self.days, *days):
            own = self.days.get(output, ())
            both[output] = sorted([*own, *({*days.get(output, ())} - {*own})])
        return dataclasses.replace(self, days=both)


Arms = PlannedArm | Mapping[str, PlannedArm]


@dataclasses.dataclass(frozen=True)
class Sampled:
    """Sampling design: P rows of patients with up to T samples and K infusions each.

    Attributes:
        predictor: parameters, leaves (P, K) -> predictions (P, T).
        outputs: what `which` counts from 0.
        which: output of each sample, (P, T).
        mask: True where there is a sample, (P, T).
        lloq: (P, T); 0 where there is none.
        sd: known SDs, (P, T); NaN where there is none.
        time: days, (P, T).
        infusions: K.
        patients: how many each row stands for, (P,).
        design: covariate -> (P, columns).
        covariates: name -> `Covariate`.
        cohort: index of the cohort of each row, whose effects its patients share, (P,).
        labels: of the rows, for messages.
    """

    predictor: Predictor
    outputs: tuple[str, ...]
    which: np.ndarray
    mask: np.ndarray
    lloq: np.ndarray
    sd: np.ndarray
    time: np.ndarray
    infusions: int
    patients: np.ndarray
    design: Mapping[str, np.ndarray]
    covariates: Mapping[str, Covariate]
    cohort: np.ndarray
    labels: tuple[str, ...]

    @classmethod
    def of_data(cls, bound: BoundPopulation) -> Sampled:
        """The patients of a data set."""
        a = bound.individual
        assert a is not None
        return cls(
            predictor=bound.predictors[None],
            outputs=tuple(bound.endpoints[name] for name in a.analytes),
            which=a.analyte,
            mask=a.mask,
            lloq=a.lloq,
            sd=a.sd,
            time=a.time,
            infusions=bound.drawn_infusions,
            patients=np.ones(len(a.patients)),
            design=bound.patient_design,
            covariates=bound.covariates,
            cohort=bound.patient_design.get(COHORT_INDEX, np.zeros(len(a.patients), int)),
            labels=tuple(f"patient {name!r}" for name in a.patients),
        )

    @classmethod
    def of_arms(
        cls,
        population: Population,
        arms: Mapping[str, PlannedArm],
        covariates: Mapping[str, Covariate],
        design: Mapping[str, np.ndarray],
        columns: Sequence[Column],
    ) -> Sampled:
        """The patients of planned arms, a row per arm."""
        outputs = _outputs(population, arms)
        samples = [
            sorted((float(day), outputs.index(o)) for o, days in arm.days.items() for day in days)
            for arm in arms.values()
        ]
        shape = (len(arms), max(len(row) for row in samples))
        time, lloq = np.full(shape, np.nan), np.zeros(shape)
        which, mask = np.zeros(shape, int), np.zeros(shape, bool)
        for i, (arm, row) in enumerate(zip(arms.values(), samples, strict=True)):
            for j, (day, o) in enumerate(row):
                time[i, j], which[i, j], mask[i, j] = day, o, True
                lloq[i, j] = arm.limit(outputs[o])
        model = population.model
        if isinstance(model, ClosedForm):
            start, amount = _infusions(model, arms)
            days, infusions = np.where(mask, time, 0.0), start.shape[1]
            predictor: Predictor = ClosedFormPredictor(
                model, outputs, days, start, amount, smooth=True, which=which
            )
        else:
            regimens = _regimens(model, arms)
            infusions = max(map(population.infusions_of, regimens))
            schedule = Schedule.of(model, regimens, time, labels=list(arms))
            typical = params_of(population, typical_of(population, columns, design, len(arms)))
            reference = jax.tree.map(lambda x: x[None], typical)
            solver = Solver.prepare(schedule, reference, rtol=population.rtol, share=1.0)
            predictor = ODEPredictor(solver, outputs, None, which)
        return cls(
            predictor=predictor,
            outputs=outputs,
            which=which,
            mask=mask,
            lloq=lloq,
            sd=np.full(shape, np.nan),
            time=np.where(mask, time, 0.0),
            infusions=infusions,
            patients=np.array([arm.patients for arm in arms.values()], float),
            design=design,
            covariates=covariates,
            cohort=np.arange(len(arms)),
            labels=tuple(f"arm {name!r}" for name in arms),
        )


def typical_of(
    population: Population, columns: Sequence[Column], design: Mapping[str, np.ndarray], size: int
) -> dict[str, np.ndarray]:
    """The typical patient of each row on the estimation scale, (P,)."""
    phi = population.typical(theta_of(columns, point_of(columns)), design)
    return {name: np.broadcast_to(np.asarray(x, float), (size,)) for name, x in phi.items()}


def params_of(population: Population, phi: Values) -> Params:
    """Structural parameters [natural scale]; every leaf has the shape of phi's."""
    params = population.structural({name: jnp.asarray(x) for name, x in phi.items()})
    shape = np.broadcast_shapes(*(np.shape(x) for x in phi.values()))
    every: Params = jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(x, float), shape), params)
    return every


def _outputs(population: Population, arms: Mapping[str, PlannedArm]) -> tuple[str, ...]:
    """The outputs that are measured, once they are seen to be endpoints of the population."""
    outputs = tuple(dict.fromkeys(o for arm in arms.values() for o in arm.days))
    for name, arm in arms.items():
        if not any(len(list(days)) for days in arm.days.values()):
            raise FitError(f"The planned arm {name!r} has no days; give days={{output: [...]}}.")
    for output in outputs:
        population.model.require(output)
    endpoints = set(population.outputs_of.values())
    strange = bool(endpoints) and not set(outputs) <= endpoints
    if strange or (len(outputs) > 1 and len(endpoints) < 2):
        raise FitError(
            f"The planned arms measure {', '.join(outputs)}, but the endpoints of the population "
            f"are {', '.join(sorted(endpoints)) or 'not named'}: say "
            f"Population(..., analytes={list(outputs)})."
        )
    return outputs


def planned_covariates(
    population: Population, arms: Mapping[str, PlannedArm]
) -> tuple[dict[str, Covariate], dict[str, np.ndarray]]:
    """Covariates of the population and of the equations, and their design, (arm, columns)."""
    info = population.model.params.info()
    own = [c for c in population.model.params.covariates() if c not in population.fixed]
    wanted = list(dict.fromkeys(c for cs in population.covariates.values() for c in cs))
    wanted += [c for c in own if any(c in arm.covariates for arm in arms.values())]
    for name, arm in arms.items():
        unknown = [c for c in arm.covariates if c not in wanted]
        if unknown:
            raise FitError(
                f"The planned arm {name!r} has the covariate {unknown[0]!r}, which is neither in "
                f"`covariates` of the population nor in the equations: {', '.join(wanted) or '-'}."
            )
        missing = [c for c in wanted if c not in arm.covariates]
        if missing:
            raise FitError(
                f"The planned arm {name!r} has no value of the covariate {missing[0]!r}; give "
                f"covariates={{{missing[0]!r}: ...}}."
            )
    covariates, design, forms = {}, {}, forms_of(population)
    for c in wanted:
        values = [arm.covariates[c] for arm in arms.values()]
        if c in own:
            covariates[c] = Covariate(c, info[c].value, (), in_equations=True)
        else:
            sizes = [arm.patients for arm in arms.values()]
            everyone = [v for v, n in zip(values, sizes, strict=True) for _ in range(n)]
            covariates[c] = Covariate.of(c, everyone, forms[c])
        design[c] = np.stack([covariates[c].encode(v) for v in values])
    return covariates, design


def _infusions(model: ClosedForm, arms: Mapping[str, PlannedArm]) -> tuple[np.ndarray, np.ndarray]:
    """Days and amounts of the cell infusions of each arm, (P, K), padded with infinity and 1."""
    given = []
    for name, arm in arms.items():
        doses = None if arm.regimen is None else arm.regimen.infusions
        unknown = doses is None or any(e.per for e in doses)
        if doses == () or (model.dose_effect is not None and unknown):
            raise RegimenError(
                f"The planned arm {name!r} needs a regimen with cell infusions of absolute "
                "amounts; give regimen=ck.Regimen.cells(day=..., amount=...)."
            )
        given.append([(0.0, 1.0)] if doses is None else [(e.time, e.amount) for e in doses])
    width = max(len(doses) for doses in given)
    padded = np.array([doses + [(np.inf, 1.0)] * (width - len(doses)) for doses in given], float)
    return padded[..., 0], padded[..., 1]


def _regimens(model: ODEModel, arms: Mapping[str, PlannedArm]) -> list[Regimen]:
    regimens = []
    for name, arm in arms.items():
        if arm.regimen is None:
            raise RegimenError(
                f"The planned arm {name!r} has no regimen, which the equations of {model.name!r} "
                "need; give regimen=ck.Regimen..., with absolute amounts."
            )
        regimens.append(arm.regimen)
    return regimens


def named(arms: Arms) -> Mapping[str, PlannedArm]:
    return {"planned": arms} if isinstance(arms, PlannedArm) else arms


def planned(
    population: Population, arms: Mapping[str, PlannedArm], at: Values | None
) -> tuple[Sampled, list[Column]]:
    covariates, design = planned_covariates(population, arms)
    columns = columns_of(population, covariates, at)
    return Sampled.of_arms(population, arms, covariates, design, columns), columns


def size_of(who: Sampled, keep: np.ndarray) -> str:
    samples = int(who.patients @ keep.sum(axis=1))
    return f"{int(who.patients.sum())} planned patients, {samples} observations."
