"""Population models: what varies between patients, how, and what is believed beforehand.

A population model is a structural model, the parameters that vary (see `effects`), covariates, a
residual model and priors. `PopulationModel` joins individual observations and published cohort
summaries in one likelihood, which is written once and serves every method of inference (see
`posterior`).
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
from numpyro.distributions import constraints

from carpk.assay import LogNormal, Residual, log_likelihood
from carpk.dataset import Dataset
from carpk.dataset.facts import SAMPLED, proportion_bounds
from carpk.dataset.units import between
from carpk.dosing import Regimen
from carpk.effects import (
    COHORT,
    CORRELATION,
    INFUSION,
    LEVELS,
    PATIENT,
    RandomEffects,
    eta_name,
    omega_name,
)
from carpk.errors import FitError, ModelError
from carpk.levels import ClosedLevels, Predictor, chosen, solved
from carpk.params import ParamInfo, Params, Transform, transform_for
from carpk.structural import ClosedForm, ODEModel
from carpk.summaries import CohortLikelihood, Fact, needed_for_ranges

FLOOR = 1e-30  # levels below this, in any unit, are taken as this: their logs stay finite
PEAK_BY = 60.0  # day; peaks of published cohorts are looked for until then
OMEGA_MEDIAN = 0.5  # default prior of omega: log-normal with this median (assumed), or with the
OMEGA_SD = 0.5  # spread in the model file as median; SD of ln omega
REFERENCE_DRAWS = 16  # per patient, for the mesh of an ODE model
PUBLISHED = "published"  # in place of priors
WIDENED = 1.5  # of the SD of a model's own posterior
PUBLISHED_OMEGA_SD = 0.3  # SD of ln omega where the model file has its value
EFFECT_SD = 1.0  # default prior SD of a covariate effect, on the estimation scale
LKJ = 2.0  # default concentration of the prior of correlations: mild, towards none
FORMS = ("linear", "power")  # of the effect of a number
OF_COHORT = "index of the cohort"  # in a design, beside the covariates: whose effects it has


@dataclasses.dataclass(frozen=True)
class Population:
    """A structural model and everything that varies around it.

    Args:
        model: structural model.
        varies: parameters that differ between patients; or parameter -> levels, out of "cohort"
            (what a cohort's patients share: a study, a product), "patient" and "infusion" (each
            infusion has its own value, its own peak above all). In an ODE model the states carry
            over, and a parameter has the value of an infusion from that infusion on until the next
            one, before the first infusion that of the first: lymphodepletion before a later
            infusion belongs to the earlier one. Initial states have the first value, doses the
            bioavailability of the infusion since which they arrive and the lag of that since which
            they are given. The disposition of drugs (`inputs`) is the same for all infusions.
        correlated: parameters whose effects in one patient are correlated; their correlation
            matrix, "correlation", has an LKJ prior with concentration 2. All others are
            independent.
        covariates: parameter -> names of covariates that shift it, on the estimation scale; or
            parameter -> {name: "linear" or "power"}. A text covariate gives one effect per level
            beyond the most frequent one; a number one effect per unit around its mean, or, with
            "power", the exponent of its ratio to the geometric mean. Covariates of the equations
            themselves need not be named: they are taken from the column of their name, where the
            data have it.
        residual: what the assay sees, `LogNormal()` unless said otherwise; `StudentT()` where some
            samples lie far off, `Proportional()` and `Combined()`; with several endpoints
            one for all of them, or output -> residual model.
        priors: NumPyro distributions by name, or "published" (see `published_priors`). Names: a
            parameter's own for its typical value (natural scale), "omega_<parameter>",
            "omega_<parameter>_infusion", "omega_<parameter>_cohort",
            "correlation", "beta_<parameter>_<covariate>" and the residual's parameters. Defaults
            are weak: typical values normal around the model file's value on the estimation scale,
            with its `prior_sd` (1 unless the file says otherwise: a 90 % interval of a factor of 5
            each way); omegas log-normal around the file's spread, or 0.5, with a 90 % interval of a
            factor of 2.3 each way: cohorts of a handful of patients or of published medians hardly
            tell a spread by themselves; effects normal with SD 1.
        fixed: parameter -> value that is not estimated.
        analytes: name of an analyte in the data -> output of the model, where they differ. Names of
            several make several endpoints, fitted together: `["car_t", "alc"]`. Each has its own
            residual parameters then, "sigma_car_t" and "sigma_alc".
        virtual_patients: number of virtual patients behind cohort summaries, at least; a power of
            two. A fitted range of more than 32 patients takes eight for each, 1,024 at most: its
            ends rest on the outermost.
        summary_dependence: False treats the statistics of one cohort as independent. Intervals
            then have the wrong width, that of Tmax above all; see `summaries`.
        regimens: cohort -> what its patients were given, absolute amounts: needed where published
            cohorts are fitted with an ODE model. Individual patients have their own doses.
        rtol: of an ODE model, the largest relative error of its outputs, held for patients drawn
            from the priors and checked after the fit by `checks.solver`.
    """

    model: ClosedForm | ODEModel
    varies: Sequence[str] | Mapping[str, Sequence[str]] = ()
    correlated: Sequence[str] = ()
    covariates: Mapping[str, Sequence[str] | Mapping[str, str]] = dataclasses.field(
        default_factory=dict
    )
    residual: Residual | Mapping[str, Residual] = dataclasses.field(default_factory=LogNormal)
    priors: Any = dataclasses.field(default_factory=dict)
    fixed: Mapping[str, float] = dataclasses.field(default_factory=dict)
    analytes: Mapping[str, str] | Sequence[str] = ()
    virtual_patients: int = 256
    summary_dependence: bool = True
    regimens: Mapping[str, Regimen] = dataclasses.field(default_factory=dict)
    rtol: float = 1e-4

    def __post_init__(self) -> None:
        known = self.model.params.info()
        levels = self.levels
        if isinstance(self.priors, str):
            if self.priors != PUBLISHED:
                raise ModelError(
                    f"Population: priors={self.priors!r} is not known; give distributions by name, "
                    f"or {PUBLISHED!r}."
                )
            object.__setattr__(self, "priors", self.published_priors())
        names: Sequence[str]
        for where, names in {
            "varies": list(levels),
            "covariates": list(self.covariates),
            "fixed": list(self.fixed),
            "correlated": list(self.correlated),
        }.items():
            for name in names:
                if name not in known:
                    raise ModelError(
                        f"Population: {name!r} in `{where}` is not a parameter of "
                        f"{self.model.name!r}; known are {', '.join(known)}."
                    )
        for name, kinds in levels.items():
            bad = [k for k in kinds if k not in LEVELS]
            if bad or not kinds:
                raise ModelError(
                    f"Population: {name!r} varies by {bad[0] if bad else 'nothing'!r}, but the "
                    'levels are "cohort", "patient" and "infusion".'
                )
            if (
                INFUSION in kinds
                and isinstance(self.model, ODEModel)
                and name in self.model.behind_inputs
            ):
                raise ModelError(
                    f"Population: {name!r} cannot vary by infusion in {self.model.name!r}: the "
                    "disposition of its inputs depends on it. Let it vary by patient."
                )
        for where, names in {
            "varies": list(levels),
            "covariates": [*self.covariates, *(c for cs in self.covariates.values() for c in cs)],
        }.items():
            for name in names:
                if name in self.model.params.covariates():
                    raise ModelError(
                        f"Population: {name!r} in `{where}` is a covariate in the equations of "
                        f"{self.model.name!r}; leave it out: the data's column {name!r} is used. "
                        "One value for everybody goes into `fixed`."
                    )
        alone = [name for name in self.correlated if PATIENT not in levels.get(name, ())]
        if (
            alone
            or len(set(self.correlated)) == 1
            or len(set(self.correlated)) < len(list(self.correlated))
        ):
            what = f"{alone[0]!r} does not vary by patient" if alone else "they are not"
            raise ModelError(
                "Population: `correlated` must name two or more different parameters that vary by "
                f"patient, but {what}."
            )
        for name in self.fixed:
            if name in levels or name in self.covariates:
                raise ModelError(
                    f"Population: {name!r} is fixed, so it can neither vary nor have covariates."
                )
        for name, columns in self.covariates.items():
            if isinstance(columns, str):
                raise ModelError(
                    f"Population: covariates[{name!r}] must be a list of names, but is "
                    f"{columns!r}; write [{columns!r}]."
                )
            for covariate, form in self.forms(name).items():
                if form not in FORMS:
                    raise ModelError(
                        f"Population: the effect of {covariate!r} on {name!r} must be one of "
                        f"{', '.join(map(repr, FORMS))}, but is {form!r}."
                    )
        for output in self.outputs_of.values():
            self.model.require(output)
        several = set(self.outputs_of.values()) if len(self.outputs_of) > 1 else set()
        if isinstance(self.residual, Mapping) and set(self.residual) != several:
            raise ModelError(
                "Population: residual models are given for "
                f"{', '.join(self.residual) or 'nothing'}, but must be given for each of several "
                f"endpoints named in `analytes`: {', '.join(sorted(several)) or 'there are none'}."
            )
        if self.virtual_patients & (self.virtual_patients - 1) or self.virtual_patients < 16:
            raise ModelError(
                f"Population: virtual_patients is {self.virtual_patients}, but must be a power of "
                "two, at least 16."
            )
        allowed = set(self.default_priors())
        for name, prior in self.priors.items():
            if name not in allowed and not name.startswith("beta_"):
                raise ModelError(
                    f"Population: there is no parameter for the prior {name!r}; known are "
                    f"{', '.join(sorted(allowed))} and beta_<parameter>_<covariate>."
                )
            if not isinstance(prior, dist.Distribution):
                raise ModelError(
                    f"Population: the prior of {name!r} must be a NumPyro distribution, such as "
                    f"numpyro.distributions.LogNormal(0, 1), but is {prior!r}."
                )

    @property
    def levels(self) -> dict[str, tuple[str, ...]]:
        """Parameter -> the levels at which it varies."""
        if isinstance(self.varies, Mapping):
            return {k: tuple([v] if isinstance(v, str) else v) for k, v in self.varies.items()}
        return {k: (PATIENT,) for k in self.varies}

    @property
    def random(self) -> RandomEffects:
        """The random effects."""
        return RandomEffects(self.levels, tuple(self.correlated))

    def infusions_of(self, regimen: Regimen | None) -> int:
        """Infusions with random effects of their own in patients who are given this.

        A published cohort of a closed form has one.
        """
        apart = isinstance(self.model, ODEModel) and self.random.at(INFUSION)
        return max(1, len(regimen.infusions)) if apart and regimen is not None else 1

    def forms(self, parameter: str) -> dict[str, str]:
        """Covariate -> form of its effect on a parameter."""
        named = self.covariates.get(parameter, ())
        return dict(named) if isinstance(named, Mapping) else dict.fromkeys(named, FORMS[0])

    @property
    def outputs_of(self) -> dict[str, str]:
        """Analyte -> output, as `analytes` says."""
        if isinstance(self.analytes, Mapping):
            return dict(self.analytes)
        return {
            a: a for a in ([self.analytes] if isinstance(self.analytes, str) else self.analytes)
        }

    def residual_of(self, output: str) -> Residual:
        """The residual model of an output."""
        return self.residual[output] if isinstance(self.residual, Mapping) else self.residual

    def residual_names(self, output: str) -> dict[str, str]:
        """Parameter of an output's residual model -> its name in this population."""
        suffix = f"_{output}" if len(self.outputs_of) > 1 else ""
        return {name: name + suffix for name in self.residual_of(output).names}

    def residual_theta(self, theta: Mapping[str, Any], output: str) -> dict[str, Any]:
        """The parameters of an output's residual model, by the names that it knows."""
        return {name: theta[named] for name, named in self.residual_names(output).items()}

    @property
    def estimated(self) -> tuple[str, ...]:
        """The structural parameters that are not fixed."""
        info = self.model.params.info()
        return tuple(p for p in info if p not in self.fixed and not info[p].is_covariate)

    def default_priors(self) -> dict[str, dist.Distribution]:
        """Priors of everything but covariate effects, before `priors` replaces any."""
        priors: dict[str, dist.Distribution] = {}
        for name in self.estimated:
            info = self.model.params.info()[name]
            priors[name] = typical_prior(info, info.prior_sd)
        for name, kinds in self.levels.items():
            median = self.model.params.info()[name].iiv or OMEGA_MEDIAN
            for kind in kinds:
                priors[omega_name(name, kind)] = dist.LogNormal(float(np.log(median)), OMEGA_SD)
        if self.correlated:
            priors[CORRELATION] = dist.LKJ(len(list(self.correlated)), LKJ)
        outputs = list(dict.fromkeys(self.outputs_of.values())) or list(self.model.outputs)[:1]
        for output in outputs:
            own = self.residual_of(output).priors()
            names = self.residual_names(output)
            priors |= {names[name]: prior for name, prior in own.items()}
        return priors

    def published_priors(self) -> dict[str, dist.Distribution]:
        """Priors from what the model file's sources found, widened; the others are the defaults.

        A typical value is as uncertain as 1.5 times the SD of the model's own posterior, where it
        has one; else as widely as its patients differ (so that the typical patient of another
        cohort may be any patient of the published one), where that is known and less than
        `prior_sd`. An omega with a published value has a 90 % interval of a factor of 1.6 around
        it, in place of 2.3. Values that the file says were assumed keep their default priors.
        """
        priors = self.default_priors()
        draws = self.model.posterior() if self.model.posterior is not None else {}
        for name in self.estimated:
            info = self.model.params.info()[name]
            if not info.source or info.source.lower().startswith("assumed"):
                continue
            sd = min(info.prior_sd, info.iiv or info.prior_sd)
            if name in draws:
                sd = WIDENED * float(np.std(info.transform.forward(np.asarray(draws[name]))))
            priors[name] = typical_prior(info, sd)
            for level in self.levels.get(name, ()):
                if info.iiv:
                    middle = float(np.log(info.iiv))
                    priors[omega_name(name, level)] = dist.LogNormal(middle, PUBLISHED_OMEGA_SD)
        return priors

    def all_priors(self, effects: Sequence[str] = ()) -> dict[str, dist.Distribution]:
        """The prior of every population parameter, in the order of the results."""
        priors = self.default_priors()
        priors |= {name: dist.Normal(0.0, EFFECT_SD) for name in effects}
        return {name: self.priors.get(name, prior) for name, prior in priors.items()}

    def bind(self, data: Dataset) -> PopulationModel:
        """The population model of one data set; every mismatch is refused here."""
        return PopulationModel.from_data(self, data)


def typical_prior(info: ParamInfo, sd: float) -> dist.Distribution:
    """Normal around the model file's value, with this SD, on the estimation scale."""
    centre = float(info.transform.forward(info.value))
    if info.transform.name == "log":
        return dist.LogNormal(centre, sd)
    if info.transform.name == "identity":
        return dist.Normal(centre, sd)
    low, high = info.bounds
    spread = dist.transforms.AffineTransform(low, high - low, domain=constraints.unit_interval)
    return dist.TransformedDistribution(
        dist.Normal(centre, sd), [dist.transforms.SigmoidTransform(), spread]
    )


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
    reference: Any
    levels: tuple[str, ...]
    in_equations: bool = False
    power: bool = False

    @classmethod
    def of(cls, name: str, values: Sequence[Any], form: str = FORMS[0]) -> Covariate:
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
        return self.levels or (f"{each} {self.reference:.4g}",)

    def encode(self, value: Any) -> np.ndarray:
        if self.in_equations:
            return np.array([float(value)])
        if self.power:
            return np.array([np.log(float(value) / self.reference)])
        if not self.levels:
            return np.array([float(value) - self.reference])
        return np.array([float(str(value) == level) for level in self.levels])


@dataclasses.dataclass(frozen=True)
class PopulationModel:
    """A `Population` bound to data: arrays, priors and the joint log-likelihood.

    `priors` holds the prior of every population parameter, in the order of the results;
    `predictors` what gives the levels behind the likelihood, of the individual patients (under
    None) and of each cohort. `endpoints` are analytes of the data -> outputs of the model; the
    names of the first, of which there are cohort facts if of any, are `analyte` and `output`.
    """

    population: Population
    data: Dataset
    covariates: Mapping[str, Covariate]
    priors: Mapping[str, dist.Distribution]
    endpoints: Mapping[str, str]
    individual: Any  # IndividualArrays or None
    patient_design: Mapping[str, np.ndarray]  # covariate -> (P, columns)
    cohorts: Mapping[str, CohortLikelihood]
    cohort_design: Mapping[str, Mapping[str, np.ndarray]]  # cohort -> covariate -> (columns,)
    predictors: Mapping[str | None, Predictor]
    clusters: tuple[str, ...] = ()  # cohorts with effects of their own

    @classmethod
    def from_data(cls, population: Population, data: Dataset) -> PopulationModel:
        endpoints = match_analytes(population, data)
        data = data.in_units({a: population.model.units[o] for a, o in endpoints.items()})
        observed = [a for a in endpoints if a in set(data.observations["analyte"])]
        individual = data.arrays(observed) if observed else None
        facts = cohort_facts(data, endpoints)
        published = {fact.output for rows in facts.values() for fact in rows}
        for analyte in endpoints:
            if analyte not in observed and endpoints[analyte] not in published:
                raise FitError(
                    f"{data.name}: there is nothing to fit for {analyte!r}: no observation and no "
                    'published fact with use "fit" or "value".'
                )
        first = next((a for a in endpoints if endpoints[a] in published), next(iter(endpoints)))
        endpoints = {first: endpoints[first], **endpoints}
        forms = forms_of(population)
        info = population.model.params.info()
        own = [n for n in population.model.params.covariates() if n not in population.fixed]
        names = [*forms, *(n for n in own if data.has_covariate(n))]
        covariates, patient_design = {}, {}
        cohort_design: dict[str, dict[str, np.ndarray]] = {c: {} for c in facts}
        clusters = cohorts_of_effects(population, data, individual is not None, list(facts))
        if clusters and individual is not None:
            at = [clusters.index(c) for c in data.covariate("cohort")]
            patient_design[OF_COHORT] = np.array(at)
        for cohort in facts if clusters else ():
            cohort_design[cohort][OF_COHORT] = np.array(clusters.index(cohort))
        for name in names:
            of_patients = [] if individual is None else list(data.covariate(name))
            of_cohorts = data.cohort_covariate(name) if facts else {}
            values = of_patients + [of_cohorts[c] for c in facts]
            if name in own:
                covariate = _in_equations(name, info[name].value, values, data)
            else:
                covariate = Covariate.of(name, values, forms[name])
            covariates[name] = covariate
            if individual is not None:
                patient_design[name] = np.stack([covariate.encode(v) for v in of_patients])
            for cohort in facts:
                cohort_design[cohort][name] = covariate.encode(of_cohorts[cohort])
        infusions = {c: population.infusions_of(population.regimens.get(c)) for c in facts}
        likelihoods = {
            cohort: CohortLikelihood(
                facts=tuple(rows),
                sampling=sampling_days(data, rows),
                residuals={f.output: population.residual_of(f.output) for f in rows},
                virtual_patients=max(population.virtual_patients, needed_for_ranges(rows)),
                random_effects=population.random.size(infusions[cohort]),
                dependence=population.summary_dependence,
            )
            for cohort, rows in facts.items()
        }
        effects_of = covariate_effects(population)
        priors = population.all_priors(list(effects_of))
        for name, (_, covariate_name) in effects_of.items():
            size = len(covariates[covariate_name].columns)
            priors[name] = priors[name].expand((size,)).to_event(1)
        bound = cls(
            population,
            data,
            covariates,
            priors,
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
        self, days: Any = None, *, output: str | None = None, smooth: bool = True
    ) -> Predictor:
        """Levels of the individual patients, at their own observations or of `output` at `days`."""
        a, model = self.individual, self.population.model
        outputs: tuple[str, ...] = (output or self.output,)
        which = None
        if days is None:
            outputs, which = tuple(self.endpoints[name] for name in a.analytes), a.analyte
        if isinstance(model, ClosedForm):
            start = jnp.where(a.infusion_mask, a.infusion_time, jnp.inf)
            days = a.time if days is None else days
            return ClosedLevels(model, outputs, days, start, a.infusion_amount, smooth, which)
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
        )

    def cohort_predictor(
        self,
        cohort: str,
        days: Any,
        *,
        outputs: Sequence[str] | None = None,
        which: Any = None,
        smooth: bool = False,
    ) -> Predictor:
        """Levels of any number of patients of a cohort at `days`.

        `which` of several outputs is wanted on each day; `output` unless given.
        """
        model, outputs = self.population.model, tuple(outputs or (self.output,))
        if isinstance(model, ClosedForm):
            return ClosedLevels(model, outputs, days, smooth=smooth, which=which)
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
        self, width: float, designs: Mapping[str, Any], size: int, infusions: int
    ) -> Params:
        """Patients drawn from the priors, leaves (D, P) or (D, P, infusion).

        A `width` of 1 is the prior itself.
        """
        key = jax.random.key(0)
        theta = {}
        for i, (name, prior) in enumerate(self.priors.items()):
            x = prior.sample(jax.random.fold_in(key, i), (REFERENCE_DRAWS,))
            scale = self.scale(name)
            centre = jnp.median(scale.forward(x), axis=0)
            near = scale.inverse(centre + width * (scale.forward(x) - centre))
            theta[name] = x if name == CORRELATION else near
        shape = (REFERENCE_DRAWS, size, infusions, len(self.random.columns))
        z = np.random.default_rng(0).standard_normal(shape)
        every = jax.vmap(lambda theta, z: self.each_from_scores(theta, designs, z))(theta, z)
        return every if infusions > 1 else jax.tree.map(lambda x: x[..., 0], every)

    def scale(self, name: str) -> Transform:
        """The estimation scale of a population parameter: its own, the log for SDs, none for
        effects and correlations."""
        info = self.population.model.params.info()
        if name in info:
            return info[name].transform
        free = name == CORRELATION or name.startswith(("beta_", "eta_"))
        return transform_for((-np.inf, np.inf) if free else (0.0, np.inf))

    def bounds(self, name: str) -> tuple[float, float]:
        """The range of a structural parameter; the whole line for the others."""
        info = self.population.model.params.info()
        return info[name].bounds if name in info else (-np.inf, np.inf)

    def unit(self, name: str) -> str:
        """The unit of a structural parameter; "" of the others."""
        info = self.population.model.params.info()
        return info[name].unit if name in info else ""

    @property
    def random(self) -> RandomEffects:
        """The random effects."""
        return self.population.random

    @property
    def shared(self) -> tuple[str, ...]:
        """Names of the effects that the patients of a cohort share, each (cohort,)."""
        return tuple(eta_name(name, COHORT) for name in self.random.at(COHORT))

    @property
    def analyte(self) -> str:
        """The first analyte with cohort facts; the first of all where there are none."""
        return next(iter(self.endpoints))

    @property
    def output(self) -> str:
        """The output that is fitted to `analyte`."""
        return self.endpoints[self.analyte]

    @property
    def residual_parameters(self) -> tuple[str, ...]:
        """Names of the parameters of the residual models."""
        each = [self.population.residual_names(output) for output in self.endpoints.values()]
        return tuple(dict.fromkeys(name for names in each for name in names.values()))

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

    @property
    def effects(self) -> dict[str, tuple[str, str]]:
        """Name of a covariate effect -> (parameter, covariate)."""
        return covariate_effects(self.population)

    # -- parameters ---------------------------------------------------------------------------

    def typical(self, theta: Mapping[str, Any], design: Mapping[str, Any]) -> dict[str, Any]:
        """phi of each estimated parameter at these covariates, on the estimation scale."""
        info = self.population.model.params.info()
        phi = {}
        for name in self.population.estimated:
            value = info[name].transform.forward(theta[name])
            for covariate in self.population.covariates.get(name, ()):
                value = value + design[covariate] @ theta[f"beta_{name}_{covariate}"]
            shared = theta.get(eta_name(name, COHORT))
            if shared is not None and OF_COHORT in design:
                value = value + shared[design[OF_COHORT]]
            phi[name] = value
        for name in self.population.model.params.covariates():
            if name in design:
                phi[name] = design[name][..., 0]
        return phi

    def params(self, phi: Mapping[str, Any]) -> Params:
        """Structural parameters [natural scale] from the estimation scale."""
        info = self.population.model.params.info()
        values = {name: info[name].transform.inverse(x) for name, x in phi.items()}
        return self.population.model.params(**{**values, **self.population.fixed})

    def virtual_patients(self, theta: Mapping[str, Any], cohort: str) -> Params:
        """The virtual patients of a cohort; leaves of shape (S,) or (S, infusion)."""
        z, infusions = self.cohorts[cohort].normals()[0], self.cohort_infusions(cohort)
        b = z @ self.random.factor(theta, infusions).T
        return self.patient_params(self.typical(theta, self.cohort_design[cohort]), b, infusions)

    def params_from_scores(
        self, theta: Mapping[str, Any], design: Mapping[str, Any], z: Any
    ) -> Params:
        """Patients with these standard scores, (S, K, R), at one set of covariates; leaves (S, K).

        A patient's own effects are those of the first of its K infusions.
        """
        random = self.population.random
        same = np.array([level == PATIENT for _, level in random.columns], bool)
        z = jnp.where(same, z[:, :1], z)
        phi = self.typical(theta, design)
        for name, x in random.deviations(z @ random.factor(theta).T).items():
            phi[name] = phi[name] + (x[..., 0] if x.ndim == 3 else x)
        return jax.tree.map(lambda x: jnp.broadcast_to(x, z.shape[:2]), self.params(phi))

    def each_from_scores(
        self, theta: Mapping[str, Any], designs: Mapping[str, Any], z: Any
    ) -> Params:
        """The same for patients with covariates of their own, designs (P, ...) and z (P, K, R)."""
        each = jax.vmap(lambda design, z: self.params_from_scores(theta, design, z[None]))
        return jax.tree.map(lambda x: x[:, 0], each(designs, z))

    def typical_patients(self, theta: Mapping[str, Any]) -> Params:
        """The individual patients with every random effect 0, leaves (P,): what PRED is made of."""
        design = {c: jnp.asarray(d) for c, d in self.patient_design.items()}
        params = self.params(self.typical(theta, design))
        size = len(self.patients)
        return jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(x, float), (size,)), params)

    def design_at(self, **covariates: Any) -> dict[str, np.ndarray]:
        """Design of a patient with these covariates; the reference where one is left out."""
        for name, value in covariates.items():
            if name not in self.covariates:
                raise FitError(
                    f"{name!r} is not a covariate of this fit; it has "
                    f"{', '.join(self.covariates) or 'none'}."
                )
            known = (self.covariates[name].reference, *self.covariates[name].levels)
            if self.covariates[name].levels and str(value) not in known:
                raise FitError(
                    f"The covariate {name!r} was never {value!r} in the data; its levels are "
                    f"{', '.join(map(repr, known))}."
                )
        return {
            name: covariate.encode(covariates.get(name, covariate.reference))
            for name, covariate in self.covariates.items()
        }

    # -- likelihood ---------------------------------------------------------------------------

    def summary_log_likelihoods(self, theta: Mapping[str, Any]) -> dict[str, Any]:
        """Cohort -> ln likelihood of each fact, and last of their dependence."""
        return {
            cohort: likelihood.log_likelihoods(
                jnp.maximum(self.predictors[cohort](self.virtual_patients(theta, cohort)), FLOOR),
                self.residual_thetas(theta, likelihood.outputs),
            )
            for cohort, likelihood in self.cohorts.items()
        }

    def residual_thetas(
        self, theta: Mapping[str, Any], outputs: Sequence[str]
    ) -> dict[str, dict[str, Any]]:
        """Output -> parameters of its residual model."""
        return {output: self.population.residual_theta(theta, output) for output in outputs}

    def individual_levels(self, params: Params) -> Any:
        """True levels at the observations, shape (P, T); leaves (P,) or (P, K)."""
        return jnp.maximum(self.predictors[None](params), FLOOR)

    def observation_log_likelihoods(self, params: Params, theta: Mapping[str, Any]) -> Any:
        """ln likelihood of each observation, shape (P, T); 0 where padded."""
        return self.level_log_likelihoods(self.individual_levels(params), theta)

    def level_log_likelihoods(self, levels: Any, theta: Mapping[str, Any]) -> Any:
        """The same from true levels at the observations, (P, T)."""
        a = self.individual
        f = jnp.where(a.mask, levels, 1.0)
        limit = a.limit if a.limit is not None and np.isfinite(a.limit).any() else None

        def each(output: str) -> Any:
            residual = self.population.residual_of(output)
            own = self.population.residual_theta(theta, output)
            return log_likelihood(residual, a.value, f, own, a.censored, a.lloq, limit)

        return jnp.where(a.mask, self.by_endpoint(each), 0.0)

    def measured(self, f: Any, scores: Any, theta: Mapping[str, Any]) -> Any:
        """Measured levels at the observations with these standard-normal scores, (P, T)."""

        def each(output: str) -> Any:
            own = self.population.residual_theta(theta, output)
            return self.population.residual_of(output).sample(scores, f, own)

        return self.by_endpoint(each)

    # Compiled once, however many checks of a fit ask for them and however many draws they want.

    @cached_property
    def of_draws(self) -> Callable[[Mapping[str, Any], Any], tuple[Any, Any]]:
        """Draws of everything (draw, ...) and standard scores of what the assay adds (draw, P, T).

        Returns:
            ln likelihoods of the individual observations, and the same measured again.
        """

        def of_draw(sample: Mapping[str, Any], scores: Any) -> tuple[Any, Any]:
            params, theta = self.of_sample(sample)
            f = self.individual_levels(params)
            return self.level_log_likelihoods(f, theta), self.measured(f, scores, theta)

        return jax.jit(jax.vmap(of_draw))

    @cached_property
    def population_levels(self) -> Callable[[Mapping[str, Any]], Any]:
        """theta -> levels at the observations with every random effect 0, (P, T): PRED."""
        return jax.jit(lambda theta: self.individual_levels(self.typical_patients(theta)))

    @cached_property
    def new_levels(self) -> Callable[[Mapping[str, Any], Any, Any], Any]:
        """(theta, z, scores) -> measured levels (P, T) and parameters, leaves (P, K).

        Of new patients, who have the covariates, doses and sampling days of the real patients, with
        standard scores of their effects, z (P, K, R), and of what the assay adds, (P, T).
        """
        design = {c: jnp.asarray(d) for c, d in self.patient_design.items()}

        def one(theta: Mapping[str, Any], z: Any, scores: Any) -> Any:
            params = self.each_from_scores(theta, design, z)
            return self.measured(self.individual_levels(params), scores, theta), params

        return jax.jit(one)

    def by_endpoint(self, each: Callable[[str], Any]) -> Any:
        """(P, T), every observation from its own endpoint's `each(output)`."""
        a = self.individual
        return chosen([each(self.endpoints[analyte]) for analyte in a.analytes], a.analyte)

    # -- individual patients --------------------------------------------------------------------

    @property
    def infusions(self) -> int:
        """Infusions that a patient's vector of random effects has a part for."""
        by_infusion = self.population.random.at(INFUSION)
        return self.individual.infusion_time.shape[1] if by_infusion else 1

    @property
    def drawn_infusions(self) -> int:
        """Infusions that a patient's parameters are drawn for: all, in a closed form."""
        closed = isinstance(self.population.model, ClosedForm)
        return self.individual.infusion_time.shape[1] if closed else self.infusions

    def cohort_infusions(self, cohort: str) -> int:
        """`infusions`, of a published cohort's patients."""
        return self.population.infusions_of(self.population.regimens.get(cohort))

    def of_sample(self, sample: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """(parameters of the individual patients, those of the population) of one draw."""
        theta = {k: x for k, x in sample.items() if k in self.priors or k in self.shared}
        if self.individual is None:
            return None, theta
        shape = (len(self.patients),)
        b = self.population.random.stacked(sample, self.infusions, shape)
        typical = self.typical(theta, self.patient_design)
        return self.patient_params(typical, b, self.infusions), theta

    def patient_params(self, typical: Mapping[str, Any], b: Any, infusions: int) -> Params:
        """Parameters of patients, leaves (P,) or (P, infusion).

        Args:
            typical: what `typical` gives for them.
            b: their random effects, (P, m); see `effects`.
            infusions: that b has a part for.
        """
        size = len(b)
        moved = self.population.random.deviations(b, infusions)
        wide = any(x.ndim == 2 for x in moved.values())
        shape = (size, infusions) if wide else (size,)

        def widened(x: Any) -> Any:
            x = jnp.broadcast_to(x, (size,)) if jnp.ndim(x) < 2 else x
            return jnp.broadcast_to(x[:, None] if wide and x.ndim == 1 else x, shape)

        phi = {name: widened(x) for name, x in typical.items()}
        phi |= {name: phi[name] + widened(x) for name, x in moved.items()}
        return jax.tree.map(lambda x: jnp.broadcast_to(x, shape), self.params(phi))


def _in_equations(name: str, reference: float, values: Sequence[Any], data: Dataset) -> Covariate:
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
    names = population.random.at(COHORT)
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


def covariate_effects(population: Population) -> dict[str, tuple[str, str]]:
    """Name of a covariate effect -> (parameter, covariate)."""
    return {f"beta_{p}_{c}": (p, c) for p, names in population.covariates.items() for c in names}


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


def cohort_facts(
    data: Dataset, outputs: Mapping[str, str], uses: Sequence[str] = ("fit", "value")
) -> dict[str, list[Fact]]:
    """The facts of each cohort with one of these uses, those of the likelihood by default.

    `outputs` are the analytes wanted and the output of the model that each is fitted to.
    """
    facts: dict[str, list[Fact]] = {}
    if data.summaries is None or data.summaries.empty:
        return facts
    rows = data.summaries
    rows = rows[rows["analyte"].isin(list(outputs)) & rows["use"].isin(list(uses))]
    several = rows["analyte"].nunique() > 1
    for row in rows.to_dict("records"):
        day = "" if np.isnan(row["time"]) else f" day {row['time']:g}"
        what = f"{row['analyte']} {row['metric']}" if several else row["metric"]
        fact = Fact(
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
            fact = fact._replace(low=np.nan, high=np.nan, interval="", spread=np.nan)
        if row["metric"] == "detectable" and np.isfinite(row["threshold"]):
            fact = fact._replace(lloq=float(row["threshold"]))
        if row["statistic"] in ("proportion", "percentage"):
            low, high = proportion_bounds(fact.value, row["statistic"])
            value = fact.value / (100 if row["statistic"] == "percentage" else 1)
            fact = fact._replace(statistic="proportion", value=value, low=low, high=high)
        facts.setdefault(str(row["cohort"]), []).append(fact)
    return facts


def sampling_days(data: Dataset, facts: Sequence[Fact]) -> tuple[float, ...]:
    """The study's sampling days, as far as the facts depend on them.

    Peaks are looked for in the first two months, half-lives over the whole schedule. Days before
    the infusion are left out: no metric of expansion begins there.
    """
    days = tuple(t for t in data.sampling or () if t >= 0)
    metrics = {f.metric for f in facts}
    if not metrics & set(SAMPLED):
        return ()
    if "t_half" in metrics:
        return days
    last = max([PEAK_BY, *(f.time for f in facts if f.metric == "auc")])
    return tuple(t for t in days if t <= last)
