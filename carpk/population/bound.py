"""A `Population` bound to data: arrays, priors and the joint log-likelihood.

Individual observations and published cohort summaries stand in one likelihood, which is written
once and serves every method of inference (`inference.density`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from jax.stages import Wrapped
from jaxtyping import Float

from carpk._types import ArrayOf, Arrays, Numbers, Values
from carpk.assay.residual import log_likelihood
from carpk.dataset import Dataset
from carpk.dataset.arrays import NEVER, IndividualArrays
from carpk.dataset.cohort_summaries import SAMPLED, proportion_bounds
from carpk.dataset.units import between
from carpk.dosing.regimen import UNTOLD
from carpk.errors import FitError
from carpk.params import ParamInfo, Params, transform_for
from carpk.population.covariates import Covariate, _in_equations, cohorts_of_effects, forms_of
from carpk.population.parameters import WHOLE_LINE, Kind, PopulationParameter, named
from carpk.population.population import COHORT_INDEX, Population
from carpk.population.predict import ClosedFormPredictor, Predictor, chosen, solved
from carpk.population.random_effects import (
    COHORT,
    INFUSION,
    PATIENT,
    RandomEffects,
    eta_name,
)
from carpk.structural import ClosedForm
from carpk.summaries import CohortLikelihood, CohortSummary, needed_for_ranges

FLOOR = 1e-30  # predictions below this, in any unit, are taken as this: their logs stay finite
PEAK_BY = 60.0  # day; peaks of published cohorts are looked for until then
REFERENCE_DRAWS = 16  # per patient, for the mesh of an ODE model


@dataclasses.dataclass(frozen=True)
class BoundPopulation:
    """A `Population` bound to data: arrays, priors and the joint log-likelihood.

    `parameters` are those of the population, in the order of the results, then the effects that
    patients of a cohort share; `predictors` what gives the predictions behind the likelihood, of
    the individual patients (under None) and of each cohort. `endpoints` are analytes of the data ->
    outputs of the model; the names of the first, of which there are cohort summaries if of any, are
    `analyte` and `output`.
    """

    population: Population
    data: Dataset
    covariates: Mapping[str, Covariate]
    parameters: Mapping[str, PopulationParameter]
    endpoints: Mapping[str, str]
    individual: Any  # IndividualArrays or None
    patient_design: Mapping[str, np.ndarray]  # covariate -> (P, columns)
    cohorts: Mapping[str, CohortLikelihood]
    cohort_design: Mapping[str, Mapping[str, np.ndarray]]  # cohort -> covariate -> (columns,)
    predictors: Mapping[str | None, Predictor]
    clusters: tuple[str, ...] = ()  # cohorts with effects of their own

    @classmethod
    def from_data(cls, population: Population, data: Dataset) -> BoundPopulation:
        endpoints = match_analytes(population, data)
        data = data.in_units({a: population.model.units[o] for a, o in endpoints.items()})
        observed = [a for a in endpoints if a in set(data.observations["analyte"])]
        individual = data.arrays(observed) if observed else None
        if isinstance(population.model, ClosedForm) and len(data.doses) and data.infusions.empty:
            drugs = ", ".join(dict.fromkeys(data.doses["product"]))
            raise FitError(
                f"{data.name} has doses of {drugs}, and no cells: {population.model.name!r} is the "
                "response to infusions of cells, and would not see them. For the level of a drug "
                "take ck.disposition.one_compartment(...), or a model of its own as an ODEModel."
            )
        effect = getattr(population.model, "dose_effect", None)
        if effect is not None and data.infusions["amount"].isna().any():
            lacks = data.infusions[data.infusions["amount"].isna()].iloc[0]
            raise FitError(
                f"{data.name}: {effect.parameter!r} follows the dose, but the amount of "
                f"{lacks['product']} that patient {lacks['patient']!r} was given on day "
                f"{lacks['time']:g} is not known. Give it, or leave the patient out."
            )
        if individual is not None:
            _check_kinds(population, data, individual, endpoints)
        summaries = cohort_summaries(data, endpoints)
        published = {summary.output for rows in summaries.values() for summary in rows}
        for output in published:
            if population.residual_of(output).discrete:
                raise FitError(
                    f"{data.name}: {output!r} is counted, and summaries of counts are not fitted. "
                    'Give the patients\' counts, or set use to "check" for these summaries.'
                )
            if population.residual_of(output).known_sd:
                raise FitError(
                    f"{data.name}: KnownSD() takes the SD of each observation of {output!r}, and a "
                    "published summary of a cohort has none of its patients. Give the mean of a "
                    "group as an observation with sd = SD / sqrt(n), or another residual model."
                )
        for analyte in endpoints:
            if analyte not in observed and endpoints[analyte] not in published:
                raise FitError(
                    f"{data.name}: there is nothing to fit for {analyte!r}: no observation and no "
                    'published summary with use "fit" or "value".'
                )
        first = next((a for a in endpoints if endpoints[a] in published), next(iter(endpoints)))
        endpoints = {first: endpoints[first], **endpoints}
        forms = forms_of(population)
        info = population.model.params.info()
        own = [n for n in population.model.params.covariates() if n not in population.fixed]
        given = [n for n in own if not data.has_covariate(n) and _is_given(data, info[n])]
        names = [*forms, *(n for n in own if data.has_covariate(n)), *given]
        covariates, patient_design = {}, {}
        cohort_design: dict[str, dict[str, np.ndarray]] = {c: {} for c in summaries}
        clusters = cohorts_of_effects(population, data, individual is not None, list(summaries))
        if clusters and individual is not None:
            at = [clusters.index(c) for c in data.covariate("cohort")]
            patient_design[COHORT_INDEX] = np.array(at)
        for cohort in summaries if clusters else ():
            cohort_design[cohort][COHORT_INDEX] = np.array(clusters.index(cohort))
        for name in names:
            of_cohorts: Mapping[str, float | str] = {}
            if name in given:
                of_patients = list(data.first_doses(info[name].products, info[name].value))
                of_cohorts = dict.fromkeys(summaries, info[name].value)
            else:
                of_patients = [] if individual is None else list(data.covariate(name))
                of_cohorts = data.cohort_covariate(name) if summaries else {}
            values = of_patients + [of_cohorts[c] for c in summaries]
            if name in own:
                covariate = _in_equations(name, info[name].value, values, data)
            else:
                covariate = Covariate.of(name, values, forms[name])
            covariates[name] = covariate
            if individual is not None:
                patient_design[name] = np.stack([covariate.encode(v) for v in of_patients])
            for cohort in summaries:
                cohort_design[cohort][name] = covariate.encode(of_cohorts[cohort])
        infusions = {c: population.infusions_of(population.regimens.get(c)) for c in summaries}
        likelihoods = {
            cohort: CohortLikelihood(
                summaries=tuple(rows),
                sampling=sampling_days(data, rows),
                residuals={f.output: population.residual_of(f.output) for f in rows},
                virtual_patients=max(population.virtual_patients, needed_for_ranges(rows)),
                random_effect_count=population.random_effects.size(infusions[cohort]),
                dependence=population.summary_dependence,
            )
            for cohort, rows in summaries.items()
        }
        parameters = population.parameters({c: x.columns for c, x in covariates.items()})
        for name in population.random_effects.at(COHORT):
            shared = PopulationParameter(
                eta_name(name, COHORT),
                Kind.ETA,
                None,
                transform_for(WHOLE_LINE),
                (COHORT,),
                {COHORT: clusters},
                of=name,
                level=COHORT,
            )
            parameters[shared.name] = shared
        bound = cls(
            population,
            data,
            covariates,
            parameters,
            endpoints,
            individual,
            patient_design,
            likelihoods,
            cohort_design,
            predictors={},
            clusters=clusters,
        )
        predictors: dict[str | None, Predictor] = {
            cohort: bound.cohort_predictor(
                cohort,
                likelihood.days,
                outputs=likelihood.outputs,
                which=likelihood.which,
                smooth=True,
            )
            for cohort, likelihood in likelihoods.items()
        }
        if individual is not None:
            predictors[None] = bound.patient_predictor()
        return dataclasses.replace(bound, predictors=predictors)

    # -- predictors ---------------------------------------------------------------------------

    def patient_predictor(
        self, days: Arrays | None = None, *, output: str | None = None, smooth: bool = True
    ) -> Predictor:
        """Predictions of individual patients, at their observations or of `output` at `days`."""
        a, model = self.individual, self.population.model
        outputs: tuple[str, ...] = (output or self.output,)
        which, follows, after = None, UNTOLD, None
        if days is None:
            outputs, which = tuple(self.endpoints[name] for name in a.analytes), a.analyte
            follows, after = a.follows, a.follows_cells > 0
        if isinstance(model, ClosedForm):
            start = jnp.where(a.infusion_mask, a.infusion_time, jnp.inf)
            days = a.time if days is None else days
            return ClosedFormPredictor(
                model, outputs, days, start, a.infusion_amount, smooth, which, after
            )
        days = np.where(a.mask, a.time, np.nan) if days is None else days
        regimens = self.data.regimens()
        designs = {k: jnp.asarray(v) for k, v in self.patient_design.items()}

        def reference(width: float) -> Params:
            return self._reference(width, designs, len(regimens), self.infusions)

        return solved(
            model,
            outputs,
            regimens,
            days,
            reference,
            rtol=self.population.rtol,
            labels=self.patients,
            which=which,
            follows=follows,
        )

    def cohort_predictor(
        self,
        cohort: str,
        days: Arrays,
        *,
        outputs: Sequence[str] | None = None,
        which: np.ndarray | None = None,
        smooth: bool = False,
    ) -> Predictor:
        """Predictions of any number of patients of a cohort at `days`.

        `which` of several outputs is wanted on each day; `output` unless given.
        """
        model, outputs = self.population.model, tuple(outputs or (self.output,))
        if isinstance(model, ClosedForm):
            return ClosedFormPredictor(model, outputs, days, smooth=smooth, which=which)
        if cohort not in self.population.regimens:
            raise FitError(
                f"{self.data.name}: an ODE model needs to know what cohort {cohort!r} was given; "
                f"say it as Population(..., regimens={{{cohort!r}: ck.Regimen...}}), with absolute "
                "amounts."
            )
        design = {k: jnp.asarray(v)[None] for k, v in self.cohort_design[cohort].items()}
        infusions = self.cohort_infusions(cohort)

        def reference(width: float) -> Params:
            return self._reference(width, design, 1, infusions)

        return solved(
            model,
            outputs,
            [self.population.regimens[cohort]],
            days,
            reference,
            rtol=self.population.rtol,
            labels=[cohort],
            which=which,
        )

    def _reference(
        self, width: float, designs: Mapping[str, Array], size: int, infusions: int
    ) -> Params:
        """Patients drawn from the priors, leaves (D, P) or (D, P, infusion).

        A `width` of 1 is the prior itself.
        """
        key = jax.random.key(0)
        theta = {}
        for i, (name, prior) in enumerate(self.priors.items()):
            x = prior.sample(jax.random.fold_in(key, i), (REFERENCE_DRAWS,))
            parameter = self.parameters[name]
            transform = parameter.transform
            centre = jnp.median(transform.forward(x), axis=0)
            near = transform.inverse(centre + width * (transform.forward(x) - centre))
            theta[name] = x if parameter.kind == Kind.CORRELATION else near
        shape = (REFERENCE_DRAWS, size, infusions, len(self.random_effects.columns))
        z = np.random.default_rng(0).standard_normal(shape)
        every = jax.vmap(lambda theta, z: self.each_from_scores(theta, designs, z))(theta, z)
        return every if infusions > 1 else jax.tree.map(lambda x: x[..., 0], every)

    @cached_property
    def priors(self) -> dict[str, dist.Distribution]:
        """The prior of every population parameter."""
        joint = {name: p.joint for name, p in self.parameters.items()}
        return {name: prior for name, prior in joint.items() if prior is not None}

    def named(self, *kinds: Kind) -> tuple[str, ...]:
        """Names of the parameters of these kinds."""
        return named(self.parameters, *kinds)

    @property
    def random_effects(self) -> RandomEffects:
        """The random effects."""
        return self.population.random_effects

    @property
    def cohort_effects(self) -> tuple[str, ...]:
        """Names of the effects that the patients of a cohort share, each (cohort,)."""
        return self.named(Kind.ETA)

    @property
    def analyte(self) -> str:
        """The first analyte with cohort summaries; the first of all where there are none."""
        return next(iter(self.endpoints))

    @property
    def output(self) -> str:
        """The output that is fitted to `analyte`."""
        return self.endpoints[self.analyte]

    @property
    def patients(self) -> tuple[str, ...]:
        return () if self.individual is None else tuple(self.individual.patients)

    @property
    def at_reference(self) -> dict[str, float]:
        """Covariates of the equations that the data do not have -> value taken for everybody."""
        info = self.population.model.params.info()
        known = {*self.covariates, *self.population.fixed}
        own = self.population.model.params.covariates()
        return {name: info[name].value for name in own if name not in known}

    # -- parameters ---------------------------------------------------------------------------

    def virtual_patients(self, theta: Values, cohort: str) -> Params:
        """The virtual patients of a cohort; leaves of shape (S,) or (S, infusion)."""
        z, infusions = self.cohorts[cohort].normals()[0], self.cohort_infusions(cohort)
        b = z @ self.random_effects.factor(theta, infusions).T
        return self.patient_params(
            self.population.typical(theta, self.cohort_design[cohort]), b, infusions
        )

    def params_from_scores(self, theta: Values, design: Mapping[str, Arrays], z: Arrays) -> Params:
        """Patients with these standard scores, (S, K, R), at one set of covariates; leaves (S, K).

        A patient's own effects are those of the first of its K infusions.
        """
        random_effects = self.population.random_effects
        same = np.array([level == PATIENT for _, level in random_effects.columns], bool)
        z = jnp.where(same, z[:, :1], z)
        phi = self.population.typical(theta, design)
        for name, x in random_effects.deviations(z @ random_effects.factor(theta).T).items():
            phi[name] = phi[name] + (x[..., 0] if x.ndim == 3 else x)
        every: Params = jax.tree.map(
            lambda x: jnp.broadcast_to(x, z.shape[:2]), self.population.structural(phi)
        )
        return every

    def each_from_scores(self, theta: Values, designs: Mapping[str, Arrays], z: Arrays) -> Params:
        """`params_from_scores` with covariates of each patient, designs (P, ...), z (P, K, R)."""

        def one(design: Mapping[str, Arrays], z: Arrays) -> Params:
            return self.params_from_scores(theta, design, z[None])

        every: Params = jax.tree.map(lambda x: x[:, 0], jax.vmap(one)(designs, z))
        return every

    def typical_patients(self, theta: Values) -> Params:
        """The individual patients with every random effect 0, leaves (P,): what PRED is made of."""
        design = {c: jnp.asarray(d) for c, d in self.patient_design.items()}
        params = self.population.structural(self.population.typical(theta, design))
        size = len(self.patients)
        every: Params = jax.tree.map(
            lambda x: jnp.broadcast_to(jnp.asarray(x, float), (size,)), params
        )
        return every

    def design_at(self, **covariates: float | str) -> dict[str, np.ndarray]:
        """Design of a patient with these covariates; the reference where one is left out."""
        for name, value in covariates.items():
            if name not in self.covariates:
                raise FitError(
                    f"{name!r} is not a covariate of this fit; it has "
                    f"{', '.join(self.covariates) or 'none'}."
                )
            known = (self.covariates[name].reference, *self.covariates[name].categories)
            if self.covariates[name].categories and str(value) not in known:
                raise FitError(
                    f"The covariate {name!r} was never {value!r} in the data; its categories are "
                    f"{', '.join(map(repr, known))}."
                )
        return {
            name: covariate.encode(covariates.get(name, covariate.reference))
            for name, covariate in self.covariates.items()
        }

    # -- likelihood ---------------------------------------------------------------------------

    def summary_log_likelihoods(self, theta: Values) -> dict[str, Float[Array, " _term"]]:
        """Cohort -> ln likelihood of each summary, and last of their dependence."""
        return {
            cohort: likelihood.log_likelihoods(
                jnp.maximum(self.predictors[cohort](self.virtual_patients(theta, cohort)), FLOOR),
                self.residual_thetas(theta, likelihood.outputs),
            )
            for cohort, likelihood in self.cohorts.items()
        }

    def residual_thetas(
        self, theta: Values, outputs: Sequence[str]
    ) -> dict[str, dict[str, Numbers]]:
        """Output -> parameters of its residual model."""
        return {output: self.population.residual_theta(theta, output) for output in outputs}

    def residual_theta(
        self, theta: Values, output: str, *, sd: Arrays | None = None
    ) -> dict[str, Numbers]:
        """Parameters of an output's residual model at the observations, (P, T).

        With known SDs they are among them, as `sd`: those of the observations unless given. Where
        the data have none, as for another endpoint, it is 1.
        """
        own = dict(self.population.residual_theta(theta, output))
        if self.population.residual_of(output).known_sd:
            known = self.individual.sd
            own["sd"] = np.where(np.isfinite(known), known, 1.0) if sd is None else sd
        return own

    def individual_predictions(self, params: Params) -> Float[Array, "patient time"]:
        """Predictions at the observations, shape (P, T); leaves (P,) or (P, K)."""
        return jnp.maximum(self.predictors[None](params), FLOOR)

    def observation_log_likelihoods(
        self, params: Params, theta: Values
    ) -> Float[Array, "patient time"]:
        """ln likelihood of each observation, shape (P, T); 0 where padded."""
        return self.prediction_log_likelihoods(self.individual_predictions(params), theta)

    def prediction_log_likelihoods(
        self, predictions: Float[Array, "patient time"], theta: Values
    ) -> Float[Array, "patient time"]:
        """`observation_log_likelihoods` from predictions, (P, T)."""
        a = self.individual
        f = jnp.where(a.mask, predictions, 1.0)
        limit = a.limit if a.limit is not None and np.isfinite(a.limit).any() else None

        def each(output: str) -> Array:
            residual = self.population.residual_of(output)
            own = self.residual_theta(theta, output)
            return log_likelihood(residual, a.value, f, own, a.censored, a.lloq, limit)

        return jnp.where(a.mask, self.by_endpoint(each), 0.0)

    def measured(
        self, f: Float[Array, "patient time"], scores: Float[Arrays, "patient time"], theta: Values
    ) -> Float[Array, "patient time"]:
        """Simulated observations at the observations with these standard-normal scores, (P, T)."""

        def each(output: str) -> Array:
            own = self.residual_theta(theta, output)
            return jnp.asarray(self.population.residual_of(output).sample(scores, f, own))

        return self.by_endpoint(each)

    # Compiled once, however many checks of a fit ask for them and however many draws they want.

    @cached_property
    def of_draws(self) -> Wrapped:
        """Function of draws (draw, ...) and standard scores of the residual error (draw, P, T).

        Returns:
            ln likelihoods of the individual observations, and the same measured again.
        """

        def of_draw(sample: Values, scores: Arrays) -> tuple[Array, Array]:
            params, theta = self.of_sample(sample)
            f = self.individual_predictions(params)
            return self.prediction_log_likelihoods(f, theta), self.measured(f, scores, theta)

        return jax.jit(jax.vmap(of_draw))

    @cached_property
    def population_predictions(self) -> Callable[[Values], Array]:
        """theta -> predictions at the observations with every random effect 0, (P, T): PRED."""
        return jax.jit(lambda theta: self.individual_predictions(self.typical_patients(theta)))

    @cached_property
    def new_observations(self) -> Callable[[Values, Arrays, Arrays], tuple[Array, Params]]:
        """(theta, z, scores) -> simulated observations (P, T) and parameters, leaves (P, K).

        Of new patients, who have the covariates, doses and sampling days of the real patients, with
        standard scores of their effects, z (P, K, R), and of the residual error, (P, T).
        """
        design = {c: jnp.asarray(d) for c, d in self.patient_design.items()}

        def one(theta: Values, z: Array, scores: Array) -> tuple[Array, Params]:
            params = self.each_from_scores(theta, design, z)
            return self.measured(self.individual_predictions(params), scores, theta), params

        return jax.jit(one)

    @cached_property
    def counted(self) -> np.ndarray:
        """Observations of what is counted, and of yes and no, (P, T)."""
        a = self.individual
        kinds = [self.population.residual_of(self.endpoints[x]).discrete for x in a.analytes]
        counted: np.ndarray = a.mask & np.array(kinds)[a.analyte]
        return counted

    def by_endpoint(self, each: Callable[[str], Array]) -> Float[Array, "patient time"]:
        """(P, T), every observation from its own endpoint's `each(output)`."""
        a = self.individual
        return chosen([each(self.endpoints[analyte]) for analyte in a.analytes], a.analyte)

    # -- individual patients --------------------------------------------------------------------

    @property
    def infusions(self) -> int:
        """Infusions that a patient's vector of random effects has a part for."""
        by_infusion = self.population.random_effects.at(INFUSION)
        return self.individual.infusion_time.shape[1] if by_infusion else 1

    @property
    def drawn_infusions(self) -> int:
        """Infusions that a patient's parameters are drawn for: all, in a closed form."""
        closed = isinstance(self.population.model, ClosedForm)
        return self.individual.infusion_time.shape[1] if closed else self.infusions

    def cohort_infusions(self, cohort: str) -> int:
        """`infusions`, of a published cohort's patients."""
        return self.population.infusions_of(self.population.regimens.get(cohort))

    def of_sample(self, sample: Values) -> tuple[Any, dict[str, Numbers]]:
        """(parameters of the individual patients, those of the population) of one draw."""
        theta = {k: x for k, x in sample.items() if k in self.parameters}
        if self.individual is None:
            return None, theta
        shape = (len(self.patients),)
        b = self.population.random_effects.stacked(sample, self.infusions, shape)
        typical = self.population.typical(theta, self.patient_design)
        return self.patient_params(typical, b, self.infusions), theta

    def patient_params(self, typical: Values, b: ArrayOf, infusions: int) -> Params:
        """Parameters of patients, leaves (P,) or (P, infusion).

        Args:
            typical: what `typical` gives for them.
            b: their random effects, (P, m); see `random_effects`.
            infusions: that b has a part for.
        """
        size = len(b)
        moved = self.population.random_effects.deviations(b, infusions)
        wide = any(x.ndim == 2 for x in moved.values())
        shape = (size, infusions) if wide else (size,)

        def widened(x: Numbers) -> Array:
            x = jnp.broadcast_to(x, (size,)) if jnp.ndim(x) < 2 else jnp.asarray(x)
            return jnp.broadcast_to(x[:, None] if wide and x.ndim == 1 else x, shape)

        phi = {name: widened(x) for name, x in typical.items()}
        phi |= {name: phi[name] + widened(x) for name, x in moved.items()}
        every: Params = jax.tree.map(
            lambda x: jnp.broadcast_to(x, shape), self.population.structural(phi)
        )
        return every


def match_analytes(population: Population, data: Dataset) -> dict[str, str]:
    """Analyte of the data -> output of the model, refusing what does not fit together."""
    model = population.model
    present = list(dict.fromkeys([*data.analytes]))
    asked = population.outputs_of
    if len(asked) > 1 and not set(asked) <= set(present):
        missing = next(a for a in asked if a not in present)
        raise FitError(
            f"{data.name} has no {missing!r}, which `analytes` names as an endpoint; it has "
            f"{', '.join(present)}."
        )
    wanted = asked or {a: a for a in present if a in model.outputs}
    wanted = {a: o for a, o in wanted.items() if a in present}
    if not wanted:
        units = ", ".join(f"{a} [{data.units.get(a, '?')}]" for a in present)
        outputs = ", ".join(f"{o} [{u}]" for o, u in model.units.items())
        raise FitError(
            f"{data.name} has {units}, but {model.name!r} gives {outputs}. Use a model with that "
            f'output, such as ck.load_model("piecewise", output={present[0]!r}, unit=...), or say '
            f"which is which: Population(..., analytes={{{present[0]!r}: "
            f"{next(iter(model.outputs))!r}}})."
        )
    if len(wanted) > 1 and not asked:
        raise FitError(
            f"{data.name} has several analytes that {model.name!r} could be fitted to: choose one, "
            f"Population(..., analytes=[{next(iter(wanted))!r}]), or fit them together, "
            f"analytes={list(wanted)}."
        )
    for analyte, output in wanted.items():
        unit = data.units.get(analyte, "")
        if unit and between(unit, model.units[output]) is None:
            raise FitError(
                f"{data.name}: {analyte} is in {unit}, but {output!r} of {model.name!r} is in "
                f"{model.units[output]}. Convert the data (copies/µg and cells/µL convert only "
                "through the leukocyte count of each day: carpk.assay.to_cells(data, vcn=...) does "
                "it with the patients' own counts, the analyte 'wbc'; or fit the copies to the "
                "output 'transgene' of 'niche'), or load the model in the data's unit: "
                f'ck.load_model("piecewise", output={analyte!r}, unit={unit!r}, cmax=...).'
            )
    return wanted


def _is_given(data: Dataset, covariate: ParamInfo) -> bool:
    """The data have doses of what a covariate is the first dose of."""
    return bool(data.doses["product"].isin(covariate.products).any())


def _check_kinds(
    population: Population, data: Dataset, seen: IndividualArrays, endpoints: Mapping[str, str]
) -> None:
    """Refuse observations that their residual model cannot have."""
    for i, analyte in enumerate(seen.analytes):
        residual = population.residual_of(endpoints[analyte])
        here = seen.mask & (seen.analyte == i)
        name = type(residual).__name__
        if residual.known_sd:
            _refuse_unknown_sd(data, seen, here & ~np.isfinite(seen.sd), analyte)
        if not residual.discrete:
            advice = (
                "Counts are fitted with residual=ck.assay.Poisson() or NegativeBinomial(), yes and "
                "no with Bernoulli()."
            )
            _refuse_values(data, seen, here & (seen.value <= 0), analyte, name, advice)
            continue
        advice = "Give the counts themselves, in the unit 'count'; yes is 1 and no is 0, 'yes/no'."
        odd = (seen.value != np.round(seen.value)) | (seen.value < 0)
        odd |= residual.binary & (seen.value > 1)
        _refuse_values(data, seen, here & odd, analyte, name, advice)
        advice = "Leave the flag and the limit out: a count of 0 is one."
        limited = (seen.censored != 0) | (seen.lloq > NEVER)
        _refuse_values(data, seen, here & limited, analyte, name, advice, ", censored or limited,")


def _refuse_unknown_sd(
    data: Dataset, seen: IndividualArrays, bad: np.ndarray, analyte: str
) -> None:
    for i, j in np.argwhere(bad)[:1]:
        raise FitError(
            f"{data.name}, patient {seen.patients[i]!r}, day {seen.time[i, j]:g}: the SD of "
            f"{analyte} is not known, which KnownSD() needs of every observation ({bad.sum()} have "
            "none). Give it in the column `sd` of the observations, in the unit of the value, or "
            "take another residual model."
        )


def _refuse_values(
    data: Dataset,
    seen: IndividualArrays,
    bad: np.ndarray,
    analyte: str,
    residual: str,
    advice: str,
    how: str = "",
) -> None:
    for i, j in np.argwhere(bad)[:1]:
        raise FitError(
            f"{data.name}, patient {seen.patients[i]!r}, day {seen.time[i, j]:g}: {analyte} is "
            f"{seen.value[i, j]:g}{how}, which {residual}() cannot have. {advice}"
        )


def cohort_summaries(
    data: Dataset, outputs: Mapping[str, str], uses: Sequence[str] = ("fit", "value")
) -> dict[str, list[CohortSummary]]:
    """The summaries of each cohort with one of these uses, those of the likelihood by default.

    `outputs` are the analytes wanted and the output of the model that each is fitted to.
    """
    summaries: dict[str, list[CohortSummary]] = {}
    if data.summaries is None or data.summaries.empty:
        return summaries
    rows = data.summaries
    rows = rows[rows["analyte"].isin(list(outputs)) & rows["use"].isin(list(uses))]
    several = rows["analyte"].nunique() > 1
    for row in rows.to_dict("records"):
        day = "" if np.isnan(row["time"]) else f" day {row['time']:g}"
        what = f"{row['analyte']} {row['metric']}" if several else row["metric"]
        summary = CohortSummary(
            metric=row["metric"],
            time=float(row["time"]),
            statistic=row["statistic"],
            value=float(row["value"]),
            low=float(row["low"]),
            high=float(row["high"]),
            interval=row["interval"],
            spread=float(row["spread"]),
            n=int(row["n"]),
            lloq=float(row["lloq"]),
            use=row["use"],
            label=f"{data.name}, cohort {row['cohort']!r}, {what}{day}",
            output=outputs[row["analyte"]],
        )
        if row["use"] == "value":
            summary = summary._replace(low=np.nan, high=np.nan, interval="", spread=np.nan)
        if row["metric"] == "detectable" and np.isfinite(row["threshold"]):
            summary = summary._replace(lloq=float(row["threshold"]))
        if row["statistic"] in ("proportion", "percentage"):
            low, high = proportion_bounds(summary.value, row["statistic"])
            value = summary.value / (100 if row["statistic"] == "percentage" else 1)
            summary = summary._replace(statistic="proportion", value=value, low=low, high=high)
        summaries.setdefault(str(row["cohort"]), []).append(summary)
    return summaries


def sampling_days(data: Dataset, summaries: Sequence[CohortSummary]) -> tuple[float, ...]:
    """The study's sampling days, as far as the summaries depend on them.

    Peaks are looked for in the first two months, half-lives over the whole schedule. Days before
    the infusion are left out: no metric of expansion begins there.
    """
    days = tuple(t for t in data.sampling or () if t >= 0)
    metrics = {f.metric for f in summaries}
    if not metrics & set(SAMPLED):
        return ()
    if "t_half" in metrics:
        return days
    last = max([PEAK_BY, *(f.time for f in summaries if f.metric == "auc")])
    return tuple(t for t in days if t <= last)
